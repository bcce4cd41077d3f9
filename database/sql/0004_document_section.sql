-- migrate:up
DROP INDEX document_search_index;
ALTER TABLE document DROP COLUMN search;
DROP FUNCTION document_tsvector;

CREATE FUNCTION document_state(language text, name text, content_hash bytea) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN encode(content_hash, 'hex') || ' ' || language || ' ' || left(name, 1000);
COMMENT ON FUNCTION document_state IS
    'All that the sections of a document are made of, as a text to compare; inlined, so that an index on it costs little';

CREATE FUNCTION document_bytes(content text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN convert_to(content, 'UTF8');
COMMENT ON FUNCTION document_bytes IS 'IMMUTABLE although convert_to is not: the target encoding is a constant';

CREATE FUNCTION section_text(bytes bytea, start integer, length integer) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN convert_from(substring(bytes FROM start + 1 FOR length), 'UTF8');

ALTER TABLE document
    ADD COLUMN section_keys   uuid[],
    ADD COLUMN section_starts integer[],
    ADD COLUMN indexed_state  text,
    ADD COLUMN content_bytes  bytea GENERATED ALWAYS AS (
        CASE WHEN octet_length(content) > 262144 THEN document_bytes(content) END
    ) STORED;
ALTER TABLE document ALTER COLUMN content_bytes SET STORAGE EXTERNAL;
COMMENT ON COLUMN document.section_keys IS 'The keys of its sections in document_section, in their order';
COMMENT ON COLUMN document.section_starts IS 'Where they begin, in bytes of UTF-8';
COMMENT ON COLUMN document.indexed_state IS 'document_state() of what the sections were made of, NULL before they were';
COMMENT ON COLUMN document.content_bytes IS
    'The content again where it is long, not compressed: a range is read without what is before it';
CREATE INDEX document_unindexed_index ON document (id)
    WHERE indexed_state IS DISTINCT FROM document_state(language, name, content_hash);

CREATE INDEX IF NOT EXISTS document_metadata_index ON document USING gin (metadata jsonb_path_ops);

-- BM25 with its usual constants, k1 1.2 and b 0.75. A lexeme in the title counts as three, one in a heading as two. For one
-- lexeme, ts_rank is (1/1² + 1/2² + … + 1/n²) / (pi²/6), from which n comes back.
CREATE FUNCTION section_impact(
    search tsvector, query tsquery, raised tsquery, weight double precision, length double precision
) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN ts_match_vq(search, query) THEN weight * 2.2 * (
        1 - 1.2 * (0.25 + 0.75 * length(search) / length) / (
            round(1 / (1.64493406685 * (1 - least(ts_rank('{1,1,1,1}', search, query), 0.9977))) - 0.5)
            + CASE WHEN ts_match_vq(search, raised) THEN
                  round(1 / (1.64493406685 * (1 - least(ts_rank('{0,0,1,1}', search, query), 0.9977))) - 0.5)
                  + round(1 / (1.64493406685 * (1 - least(ts_rank('{0,0,0,1}', search, query), 0.9977))) - 0.5)
              ELSE 0 END
            + 1.2 * (0.25 + 0.75 * length(search) / length)
        )
    ) ELSE 0 END;
COMMENT ON FUNCTION section_impact IS
    'What the lexeme query adds to the rank of a section: raised is the lexeme with the weights A and B, length the number '
    'of lexemes of a section on average';

CREATE TABLE document_section (
    id          bigint   NOT NULL GENERATED ALWAYS AS IDENTITY,
    document_id uuid     NOT NULL,
    key         uuid     NOT NULL,
    language    text     NOT NULL,
    headings    text     NOT NULL,
    search      tsvector NOT NULL,
    PRIMARY KEY (id)
);
COMMENT ON COLUMN document_section.key IS 'A hash of headings and text: what has not changed keeps its row';
-- Ranking reads the tsvector of every candidate: inline and not compressed, that takes a third of the time.
ALTER TABLE document_section ALTER COLUMN search SET STORAGE MAIN, ALTER COLUMN search SET STATISTICS 300;
ALTER TABLE document_section SET (toast_tuple_target = 8160);
CREATE INDEX document_section_document_index ON document_section (document_id, key);
CREATE INDEX document_section_search_index ON document_section USING gin (search);

-- Lists of the sections where words weigh most that very many sections hold. Made by refresh_search_index(), where they
-- pay. A segment is of a range of section ids; a new epoch begins where lists for other words are needed.
CREATE TABLE document_head_state (
    id         integer          NOT NULL DEFAULT 1 CHECK (id = 1),
    epoch      integer          NOT NULL DEFAULT 0,
    sections   bigint           NOT NULL DEFAULT 0,
    length     double precision NOT NULL DEFAULT 0,
    busy_until timestamptz,
    PRIMARY KEY (id)
);
COMMENT ON COLUMN document_head_state.length IS 'Lexemes of a section, on average, when the epoch began: of all its impacts';
COMMENT ON COLUMN document_head_state.busy_until IS 'Somebody works on the lists; where that time is past, nobody does';
CREATE TABLE document_head_lexeme (
    number   integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    epoch    integer NOT NULL,
    language text    NOT NULL,
    lexeme   text    NOT NULL,
    query    tsquery NOT NULL,
    raised   tsquery NOT NULL, -- in titles and headings
    PRIMARY KEY (number),
    UNIQUE (lexeme, language, epoch)
);
CREATE TABLE document_head_segment (
    id       integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    epoch    integer NOT NULL,
    after_id bigint  NOT NULL,
    up_to    bigint  NOT NULL,
    sections bigint  NOT NULL,
    is_ready boolean NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE document_head (
    lexeme    integer    NOT NULL,
    segment   integer    NOT NULL,
    frequency bigint     NOT NULL,
    cutoff    real       NOT NULL,
    ids       integer[]  NOT NULL,
    impacts   smallint[] NOT NULL,
    PRIMARY KEY (lexeme, segment)
);
ALTER TABLE document_head ALTER COLUMN ids SET STORAGE EXTERNAL, ALTER COLUMN impacts SET STORAGE EXTERNAL;
COMMENT ON COLUMN document_head.frequency IS 'How many sections of the segment hold the lexeme';
COMMENT ON COLUMN document_head.ids IS 'The weightiest first, counted from after_id of the segment';
COMMENT ON COLUMN document_head.impacts IS 'In ten-thousandths, rounded up';
COMMENT ON COLUMN document_head.cutoff IS 'No section that is not in the list has a greater impact; 0 where all are in it';

-- migrate:down
DROP TABLE document_head, document_head_segment, document_head_lexeme, document_head_state, document_section;
DROP INDEX document_unindexed_index, document_metadata_index;
ALTER TABLE document
    DROP COLUMN section_keys, DROP COLUMN section_starts, DROP COLUMN indexed_state, DROP COLUMN content_bytes;
DROP FUNCTION section_impact, section_text, document_bytes, document_state;
CREATE FUNCTION document_tsvector(language text, name text, content text) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE
    AS $$
DECLARE
    size integer := 1000000;
BEGIN
    LOOP
        BEGIN
            RETURN setweight(to_tsvector(language::regconfig, left(name, 1000)), 'A')
                || setweight(to_tsvector(language::regconfig, left(content, size)), 'D');
        EXCEPTION WHEN program_limit_exceeded THEN
            size := size / 2;
        END;
    END LOOP;
END
$$;
ALTER TABLE document
    ADD COLUMN search tsvector GENERATED ALWAYS AS (document_tsvector(language, name, content)) STORED;
ALTER TABLE document ALTER COLUMN search SET STORAGE EXTERNAL;
CREATE INDEX document_search_index ON document USING gin (search);
