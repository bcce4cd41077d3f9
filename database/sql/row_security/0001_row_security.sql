-- migrate:up
-- Roles belong to all databases of a server, so it may be there already.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgdatabase_user') THEN
        BEGIN
            CREATE ROLE pgdatabase_user NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- somebody did so in another database meanwhile
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'pgdatabase_user', 'MEMBER') THEN
        BEGIN
            EXECUTE format('GRANT pgdatabase_user TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege THEN
            NULL; -- only who acts as a user needs it
        END;
    END IF;
END
$$;

CREATE FUNCTION acting_user_id() RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('pgdatabase.user_id', true), '')::bigint;
COMMENT ON FUNCTION acting_user_id IS 'The user of this transaction, NULL where it has none; see acting_as()';

ALTER TABLE document ADD COLUMN user_id bigint DEFAULT acting_user_id();
COMMENT ON COLUMN document.user_id IS 'Whose it is; NULL: everybody''s to read, and nobody''s to change who acts as a user';
CREATE INDEX document_user_index ON document (user_id, id);

-- In a subquery, so that it is looked up once and not for each row.
ALTER TABLE document ENABLE ROW LEVEL SECURITY;
CREATE POLICY document_of_user ON document
    USING (user_id = (SELECT acting_user_id()))
    WITH CHECK (user_id = (SELECT acting_user_id()));
CREATE POLICY document_of_everybody ON document FOR SELECT
    USING (user_id IS NULL AND (SELECT acting_user_id()) IS NOT NULL);

ALTER TABLE chat_history ENABLE ROW LEVEL SECURITY;
CREATE POLICY chat_history_of_user ON chat_history
    USING (user_id = (SELECT acting_user_id()))
    WITH CHECK (user_id = (SELECT acting_user_id()));

GRANT SELECT, INSERT, UPDATE, DELETE ON document, chat_history TO pgdatabase_user;

-- A document and its sections are stored by one statement, in which the policy does not see the document yet: so it asks
-- whether the document is somebody else's, which takes the owner's rights.
CREATE FUNCTION is_document_of_others(document_id uuid) RETURNS boolean
    LANGUAGE sql STABLE STRICT SECURITY DEFINER
    BEGIN ATOMIC
        SELECT EXISTS (SELECT FROM document AS this
                        WHERE this.id = document_id AND this.user_id IS DISTINCT FROM acting_user_id());
    END;
REVOKE ALL ON FUNCTION is_document_of_others FROM PUBLIC;
GRANT EXECUTE ON FUNCTION is_document_of_others TO pgdatabase_user;

-- Whose a section is, its document decides; the column is there for its index, so that a search goes through the sections
-- of the user and not through all. The owner of the tables, who cuts documents anew, has none to put there.
ALTER TABLE document_section ADD COLUMN user_id bigint DEFAULT acting_user_id();
CREATE INDEX document_section_user_index ON document_section (user_id);
ALTER TABLE document_section ENABLE ROW LEVEL SECURITY;
CREATE POLICY document_section_of_reader ON document_section FOR SELECT
    USING ((user_id = (SELECT acting_user_id()) OR user_id IS NULL)
       AND EXISTS (SELECT FROM document WHERE document.id = document_id));
CREATE POLICY document_section_of_user ON document_section
    USING ((user_id = (SELECT acting_user_id()) OR user_id IS NULL)
       AND EXISTS (SELECT FROM document
                    WHERE document.id = document_id AND document.user_id = (SELECT acting_user_id())))
    WITH CHECK (user_id = (SELECT acting_user_id()) AND NOT is_document_of_others(document_id));
GRANT SELECT, INSERT, UPDATE, DELETE ON document_section TO pgdatabase_user;

-- Lists of common words are made of everybody's documents: there are none for a user, whose search does without.
ALTER TABLE document_head_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE document_head_lexeme ENABLE ROW LEVEL SECURITY;
ALTER TABLE document_head_segment ENABLE ROW LEVEL SECURITY;
ALTER TABLE document_head ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON document_head_state, document_head_lexeme, document_head_segment, document_head TO pgdatabase_user;

-- migrate:down
ALTER TABLE document_head_state DISABLE ROW LEVEL SECURITY;
ALTER TABLE document_head_lexeme DISABLE ROW LEVEL SECURITY;
ALTER TABLE document_head_segment DISABLE ROW LEVEL SECURITY;
ALTER TABLE document_head DISABLE ROW LEVEL SECURITY;
DROP POLICY document_section_of_user ON document_section;
DROP POLICY document_section_of_reader ON document_section;
ALTER TABLE document_section DISABLE ROW LEVEL SECURITY;
ALTER TABLE document_section DROP COLUMN user_id;
DROP FUNCTION is_document_of_others;
REVOKE ALL ON document_section, document_head_state, document_head_lexeme, document_head_segment, document_head
    FROM pgdatabase_user;
REVOKE ALL ON document, chat_history FROM pgdatabase_user;
DROP POLICY chat_history_of_user ON chat_history;
ALTER TABLE chat_history DISABLE ROW LEVEL SECURITY;
DROP POLICY document_of_user ON document;
DROP POLICY document_of_everybody ON document;
ALTER TABLE document DISABLE ROW LEVEL SECURITY;
ALTER TABLE document DROP COLUMN user_id;
DROP FUNCTION acting_user_id;
