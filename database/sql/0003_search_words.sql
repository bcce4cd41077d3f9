-- migrate:up
CREATE FUNCTION section_tsvector(language text, title text, headings text, body text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN setweight(to_tsvector(language::regconfig, left(title, 1000)), 'A')
        || setweight(to_tsvector(language::regconfig, headings), 'B')
        || to_tsvector(language::regconfig, body);

-- migrate:down
DROP FUNCTION section_tsvector;
