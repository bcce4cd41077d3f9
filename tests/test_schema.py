"""Making the tables, against a real server."""

from __future__ import annotations

import asyncio

import pytest

import database as db
from database import Settings


async def test_many_may_make_the_tables_at_once(empty_database: Settings) -> None:
    """A hundred calls at once and more later: made once, without an error."""
    calls = [db.init_document_table() for _ in range(50)] + [db.init_chat_history_table() for _ in range(50)]
    await asyncio.gather(*calls)
    await db.init_document_table()
    rows = await db.execute_with_retry("SELECT version, name FROM database_migration ORDER BY version")
    applied = [(row["version"], row["name"]) for row in rows if isinstance(row, dict)]
    assert applied == [("0001", "document"), ("0002", "chat_history"), ("0003", "search_words"),
                       ("0004", "document_section")]  # fmt: skip


async def test_the_keys_are_shaped_for_sharding(database: Settings) -> None:
    """PRIMARY KEY (id, code) and UNIQUE (code); PRIMARY KEY (id, thread_id)."""
    rows = await db.execute_with_retry("""
        SELECT conrelid::regclass::text AS table, contype::text AS type, pg_get_constraintdef(oid) AS definition
          FROM pg_constraint
         WHERE contype IN ('p', 'u') AND conrelid::regclass::text <> 'database_migration'
           AND connamespace = 'public'::regnamespace AND conrelid::regclass::text !~ '^document_'
    """)
    assert {(row["table"], row["definition"]) for row in rows if isinstance(row, dict)} == {
        ("document", "PRIMARY KEY (id, code)"),
        ("document", "UNIQUE (code)"),
        ("chat_history", "PRIMARY KEY (id, thread_id)"),
    }


async def test_a_table_that_is_not_ours_is_left_alone(empty_database: Settings) -> None:
    """A `document` table of somebody else's is not touched; the error says what to do."""
    async with db.get_db_connection() as conn:
        await conn.execute("CREATE TABLE document (id serial, body text)")
    with pytest.raises(db.SchemaError, match=r"a table of that name is there already .*MIGRATION_GUIDE.md") as caught:
        await db.init_document_table()
    assert caught.value.sqlstate == "42P07"
    async with db.get_db_connection() as conn:
        columns = await conn.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'document'::regclass AND attnum > 0"
        )
    assert [row["attname"] for row in columns] == ["id", "body"]


async def test_a_changed_file_is_noticed(database: Settings) -> None:
    """Where the applied file is not the one of this version, nothing is run and the error says so."""
    async with db.get_db_connection() as conn:
        await conn.execute("UPDATE database_migration SET checksum = 'another' WHERE version = '0001'")
    with pytest.raises(db.SchemaError, match=r"0001_document.sql is not the file that was applied"):
        await db.init_document_table()


async def test_tables_can_be_made_in_the_callers_transaction(empty_database: Settings) -> None:
    """With conn=, a rollback takes the tables along."""
    with pytest.raises(RuntimeError):
        async with db.get_db_transaction() as conn:
            await db.init_document_table(conn=conn)
            await db.insert_document("n", "c", "t", conn=conn)
            raise RuntimeError
    assert await db.execute_with_retry("SELECT to_regclass('document')::text AS name") == [{"name": None}]


async def test_a_user_without_the_right_is_told(empty_database: Settings) -> None:
    """The error names the privilege that is missing."""
    async with db.get_db_connection() as conn:
        role = f"role_{(await conn.fetchval('SELECT gen_random_uuid()')).hex}"
        await conn.execute(f"CREATE ROLE {role}")
    try:
        with pytest.raises(db.SchemaError, match="GRANT CREATE ON SCHEMA public"):
            async with db.get_db_transaction() as conn:
                await conn.execute(f"SET LOCAL ROLE {role}")
                await db.init_document_table(conn=conn)
    finally:
        async with db.get_db_connection() as conn:
            await conn.execute(f"DROP ROLE {role}")
