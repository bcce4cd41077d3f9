-- migrate:up
CREATE TABLE projects (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name         text        NOT NULL UNIQUE,
    schema_name  text        UNIQUE,
    description  text,
    settings     jsonb       NOT NULL DEFAULT '{}',
    is_protected boolean     NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN projects.schema_name IS 'The schema that holds its content, as ensure_project_schema() makes it';
COMMENT ON COLUMN projects.is_protected IS 'Seed data, which a clean-up leaves alone; so in the other tables';

CREATE TABLE prompts (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id   uuid        REFERENCES projects ON DELETE CASCADE,
    name         text        NOT NULL,
    version      integer     NOT NULL DEFAULT 1 CHECK (version > 0),
    template     text        NOT NULL,
    variables    jsonb       NOT NULL DEFAULT '{}',
    model        text,
    is_protected boolean     NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE NULLS NOT DISTINCT (project_id, name, version)
);
COMMENT ON COLUMN prompts.project_id IS 'NULL: for every project';
COMMENT ON COLUMN prompts.variables IS 'The names in the template, and what stands for those that are not given';

CREATE TABLE object_models (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id   uuid        REFERENCES projects ON DELETE CASCADE,
    name         text        NOT NULL,
    version      integer     NOT NULL DEFAULT 1 CHECK (version > 0),
    description  text,
    definition   jsonb       NOT NULL,
    is_protected boolean     NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE NULLS NOT DISTINCT (project_id, name, version)
);
COMMENT ON COLUMN object_models.definition IS 'What content of this type consists of, such as a JSON Schema';

CREATE TABLE llm_usage (
    id                uuid           PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id        uuid           REFERENCES projects ON DELETE SET NULL,
    prompt_id         uuid           REFERENCES prompts ON DELETE SET NULL,
    provider          text,
    model             text           NOT NULL,
    prompt_tokens     bigint         NOT NULL DEFAULT 0 CHECK (prompt_tokens >= 0),
    completion_tokens bigint         NOT NULL DEFAULT 0 CHECK (completion_tokens >= 0),
    total_tokens      bigint         GENERATED ALWAYS AS (prompt_tokens + completion_tokens) STORED,
    cost              numeric(16, 8) NOT NULL DEFAULT 0 CHECK (cost >= 0),
    currency          text           NOT NULL DEFAULT 'USD',
    duration_ms       double precision,
    status            text           NOT NULL DEFAULT 'ok',
    variables         jsonb,
    response          jsonb,
    created_at        timestamptz    NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX llm_usage_project_index ON llm_usage (project_id, created_at);
CREATE INDEX llm_usage_prompt_index ON llm_usage (prompt_id) WHERE prompt_id IS NOT NULL;
CREATE INDEX llm_usage_time_index ON llm_usage USING brin (created_at);

-- migrate:down
DROP TABLE llm_usage;
DROP TABLE object_models;
DROP TABLE prompts;
DROP TABLE projects;
