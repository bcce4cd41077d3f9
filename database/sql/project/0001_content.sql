-- migrate:up
CREATE TABLE content (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    title        text        NOT NULL,
    content      text        NOT NULL DEFAULT '',
    content_type text        NOT NULL DEFAULT 'article',
    status       text        NOT NULL DEFAULT 'draft',
    parent_id    uuid        REFERENCES content ON DELETE SET NULL,
    is_protected boolean     NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN content.is_protected IS 'Seed data, which a clean-up leaves alone';
CREATE INDEX content_type_index ON content (content_type, created_at);
CREATE INDEX content_parent_index ON content (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE metadata (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    content_id uuid        NOT NULL REFERENCES content ON DELETE CASCADE,
    key        text        NOT NULL,
    value      jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (content_id, key)
);
CREATE INDEX metadata_key_index ON metadata (key);

CREATE TABLE vocabulary (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    term       text        NOT NULL,
    definition text,
    synonyms   text[]      NOT NULL DEFAULT '{}',
    language   text        NOT NULL DEFAULT 'english',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (term, language)
);

-- migrate:down
DROP TABLE vocabulary;
DROP TABLE metadata;
DROP TABLE content;
