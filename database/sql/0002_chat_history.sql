-- migrate:up
CREATE TABLE chat_history (
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    thread_id  text        NOT NULL,
    user_id    bigint      NOT NULL,
    position   bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    question   text        NOT NULL,
    answer     text        NOT NULL,
    metadata   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, thread_id)
);
COMMENT ON COLUMN chat_history.position IS
    'Grows in the order in which the saves of a thread were acknowledged, whatever the clocks of the clients say';
CREATE INDEX chat_history_thread_index ON chat_history (thread_id, position);
CREATE INDEX chat_history_user_index ON chat_history (user_id, thread_id, position);
CREATE INDEX chat_history_time_index ON chat_history USING brin (created_at);

-- migrate:down
DROP TABLE chat_history;
