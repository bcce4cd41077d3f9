-- migrate:up
CREATE FUNCTION document_hash(content text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(convert_to(content, 'UTF8'));
COMMENT ON FUNCTION document_hash IS
    'SHA-256 of the UTF-8 text. IMMUTABLE although convert_to is not: the target encoding is a constant';

CREATE FUNCTION document_tsvector(language text, name text, content text) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE -- before PostgreSQL 17, no subtransactions in parallel workers
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
COMMENT ON FUNCTION document_tsvector IS
    'The words of name and content, of as much of it as fits: PostgreSQL refuses a tsvector over 1 MB';

CREATE TABLE document (
    id           uuid        NOT NULL DEFAULT gen_random_uuid(),
    code         text        COLLATE "C" NOT NULL, -- what its beginning finds, and no update of a C library disorders
    name         text        NOT NULL,
    content      text        NOT NULL,
    metadata     jsonb       NOT NULL DEFAULT '{}',
    language     text        NOT NULL DEFAULT 'english',
    source       text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    content_hash bytea       GENERATED ALWAYS AS (document_hash(content)) STORED,
    search       tsvector    GENERATED ALWAYS AS (document_tsvector(language, name, content)) STORED,
    PRIMARY KEY (id, code),
    UNIQUE (code)
);
-- Compressing it takes longer than writing it, and makes it hardly smaller.
ALTER TABLE document ALTER COLUMN search SET STORAGE EXTERNAL;
CREATE INDEX document_search_index ON document USING gin (search);
CREATE INDEX document_language_index ON document (language);
CREATE INDEX document_source_index ON document (source, code) WHERE source IS NOT NULL;

-- migrate:down
DROP TABLE document;
DROP FUNCTION document_tsvector;
DROP FUNCTION document_hash;
