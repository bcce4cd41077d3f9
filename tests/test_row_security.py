"""Row-level security: what one user may never see of another, whoever runs beside and whatever is in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import pytest

import database as db
from database.settings import Settings, configure

from .conftest import database_url
from .pgbouncer import find_pgbouncer, pgbouncer
from .roles import connected_as, login_role

ADA, BOB = 1, 2
CALLS = int(os.environ.get("ROW_SECURITY_CALLS", "600"))


@pytest.fixture
async def secured(database: Settings) -> AsyncIterator[Settings]:
    """A database with row-level security, and connections of a role that owns nothing."""
    await db.enable_row_security()
    await db.insert_document("Everybody's", "shared", "to be read by all")
    async with login_role(member_of="pgdatabase_user") as role, connected_as(role, database):
        yield database


def _owner(settings: Settings) -> str:
    return urlsplit(settings.dsn).username or "postgres"


async def save(user: int, thread: str, conn: db.Connection | None, number: int = 0) -> None:
    await db.save_chat_history(thread_id=thread, user_id=user, question=f"q{number}", answer=f"of {user}", conn=conn)


async def test_a_user_sees_changes_and_deletes_their_own_rows_alone(secured: Settings) -> None:
    """Chats and documents of others are not there: not read, not listed, not found, not counted, not deleted."""
    for user in (ADA, BOB):
        async with db.acting_as(user) as conn:
            await save(user, "thread", conn)
            await db.insert_document("Notes", f"notes-{user}", f"secret of {user}", conn=conn)
    async with db.acting_as(ADA) as conn:
        assert [each["answer"] for each in await db.get_recent_chat_history("thread", conn=conn)] == ["of 1"]
        assert await db.get_user_threads(BOB, conn=conn) == []
        assert {each["code"] for each in await db.get_list_of_documents(conn=conn)} == {"notes-1", "shared"}
        assert await db.get_document_by_code("notes-2", conn=conn) is None
        assert {each["code"] for each in await db.search_documents("secret", conn=conn)} == {"notes-1"}
        assert await db.get_document_count(conn=conn) == 2
        assert await db.update_document_content("notes-2", "mine now", conn=conn) is False
        assert await db.delete_document("notes-2", conn=conn) is False
        assert await db.delete_thread_history("thread", conn=conn) == 1
        assert (await db.upsert_document("Notes", "notes-1", "changed", conn=conn))["status"] == "updated"
    async with db.acting_as(BOB) as conn:
        assert len(await db.get_recent_chat_history("thread", conn=conn)) == 1
        assert (await db.get_document_by_code("notes-2", conn=conn) or {})["content"] == "secret of 2"


async def test_no_user_means_no_rows(secured: Settings) -> None:
    """Without a user, alone and through lanes, calls see nothing, not even what is everybody's, and store nothing."""
    async with db.acting_as(ADA) as conn:
        await save(ADA, "thread", conn)
    found = await asyncio.gather(
        *(db.get_recent_chat_history("thread") for _ in range(20)),
        *(db.get_document_by_code("shared") for _ in range(20)),
        db.get_list_of_documents(),
        db.get_user_threads(ADA),
    )
    assert not any(found)
    assert await db.get_document_count() == 0
    for work in (save(ADA, "thread", None), db.insert_document("n", "c", "t"), db.upsert_document("n", "shared", "t")):
        with pytest.raises(db.DatabaseError) as caught:
            await work
        assert caught.value.sqlstate == "42501"
    async with db.get_db_transaction() as conn:
        assert await conn.fetchval("SELECT count(*) FROM chat_history") == 0


async def test_a_user_stores_nothing_for_another_and_changes_nothing_of_everybodys(secured: Settings) -> None:
    """A row with another's user_id is refused; documents without a user can be read and not changed."""
    refused: list[Callable[[db.Connection], Awaitable[Any]]] = [
        lambda conn: save(BOB, "thread", conn),
        lambda conn: db.upsert_document("n", "shared", "mine now", conn=conn),
        lambda conn: conn.execute("INSERT INTO document (code, name, content, user_id) VALUES ('c', 'n', 't', 2)"),
        lambda conn: conn.execute("INSERT INTO document (code, name, content, user_id) VALUES ('c', 'n', 't', NULL)"),
    ]
    for work in refused:
        with pytest.raises(db.DatabaseError, match="row-level security policy"):
            async with db.acting_as(ADA) as conn:
                await work(conn)
    async with db.acting_as(ADA) as conn:
        await db.insert_document("n", "mine", "t", conn=conn)
        for code in ("shared", "mine"):
            status = await conn.execute("UPDATE document SET name = 'x' WHERE code = $1", code)
            assert status == f"UPDATE {int(code == 'mine')}"
        assert await db.delete_document("shared", conn=conn) is False
        assert await db.get_document_by_code("shared", conn=conn) is not None
    with pytest.raises(db.DatabaseError, match="row-level security policy"):
        async with db.acting_as(ADA) as conn:
            await conn.execute("UPDATE document SET user_id = 2 WHERE code = 'mine'")


async def test_the_code_of_anothers_document_is_taken(secured: Settings) -> None:
    """Codes are unique over all users: an insert says that the code is taken, and an upsert is refused."""
    async with db.acting_as(ADA) as conn:
        await db.insert_document("n", "code", "of Ada", conn=conn)
    with pytest.raises(db.DocumentError, match="under this code already"):
        async with db.acting_as(BOB) as conn:
            await db.insert_document("n", "code", "of Bob", conn=conn)
    with pytest.raises(db.DatabaseError):
        async with db.acting_as(BOB) as conn:
            await db.upsert_document("n", "code", "of Bob", conn=conn)
    async with db.acting_as(ADA) as conn:
        assert (await db.get_document_by_code("code", conn=conn) or {})["content"] == "of Ada"


async def test_ingestion_and_batches_work_for_a_user(secured: Settings, tmp_path: Any) -> None:
    """Files are ingested for the user, without COPY, which knows no policies."""
    (tmp_path / "a.md").write_text("# Title\n\ntext\n")
    async with db.acting_as(ADA) as conn:
        await db.read_and_insert_md_file(str(tmp_path / "a.md"), "a", conn=conn)
    async with db.acting_as(BOB) as conn:
        assert {each["code"] for each in await db.get_list_of_documents(conn=conn)} == {"shared"}
    async with db.acting_as(ADA) as conn:
        assert await db.get_document_count(conn=conn) == 2


async def test_search_knows_the_words_of_a_users_own_documents_alone(secured: Settings) -> None:
    """Sections, snippets and suggestions come from what the user may read, also after the owner has cut it anew."""
    for user, word in ((ADA, "pangolin"), (BOB, "quokka")):
        async with db.acting_as(user) as conn:
            await db.insert_document("Notes", f"notes-{user}", f"# About\n\nA {word} is an animal.", conn=conn)
    async with connected_as(_owner(secured), secured):
        async with db.get_db_connection() as conn:
            if not await conn.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"):
                pytest.skip("this server has no pg_trgm")
            await conn.execute("CREATE EXTENSION pg_trgm")
            await conn.execute("UPDATE document SET indexed_state = NULL; DELETE FROM document_section; ANALYZE")
        assert (await db.refresh_search_index())["documents"] == 3
        assert await db.suggest_terms("pangolim") != []
    async with db.acting_as(ADA) as conn:
        for user, word in ((ADA, "pangolin"), (BOB, "quokka")):
            found = await db.search_sections(word, conn=conn)
            assert [each["code"] for each in found] == (["notes-1"] if user == ADA else [])
        assert {each["code"] for each in await db.search_sections("animal", conn=conn)} == {"notes-1"}
        assert await db.suggest_terms("pangolim", conn=conn) != []
        assert await db.suggest_terms("quoka", conn=conn) == []
        assert (await db.upsert_document("Notes", "notes-1", "# Now\n\nnew", conn=conn))["status"] == "updated"
        assert len(await db.search_sections("new", conn=conn)) == 1
    async with db.acting_as(BOB) as conn:
        assert len(await db.search_sections("quokka", conn=conn)) == 1
        assert await db.search_sections("pangolin", conn=conn) == []
        sections = await conn.fetch("SELECT headings FROM document_section")
        assert len(sections) == 2  # Bob's and everybody's
    assert await db.search_sections("quokka") == []


async def test_nobody_gives_sections_to_the_document_of_another(secured: Settings) -> None:
    """Words that one user puts into the search of another would be found there."""
    async with db.acting_as(ADA) as conn:
        own = (await db.insert_document("n", "mine", "text", conn=conn))["id"]
    async with connected_as(_owner(secured), secured), db.get_db_connection() as conn:
        shared = await conn.fetchval("SELECT id::text FROM document WHERE code = 'shared'")
    for document in (own, shared):
        with pytest.raises(db.DatabaseError, match="row-level security policy"):
            async with db.acting_as(BOB) as conn:
                await conn.execute(
                    "INSERT INTO document_section (document_id, key, language, headings, search)"
                    " VALUES ($1, gen_random_uuid(), 'english', 'h', 'lure')",
                    document,
                )


async def test_nothing_of_a_user_stays_in_a_connection(secured: Settings) -> None:
    """However the block ends (commit, error, cancellation), the next one on that connection has no user."""
    await db.close_connection_pool()
    configure(db.get_settings().model_copy(update={"max_connections": 1}))
    entered = asyncio.Event()

    async def hang() -> None:
        async with db.acting_as(ADA) as conn:
            entered.set()
            await conn.execute("SELECT pg_sleep(100)")

    async def state() -> tuple[bool, str | None]:
        async with db.get_db_connection() as conn:
            row = await conn.fetchrow(
                "SELECT current_user = session_user AS plain, current_setting('pgdatabase.user_id', true) AS user_id"
            )
            assert row is not None
            return row["plain"], row["user_id"] or None

    async with db.acting_as(ADA):
        pass
    assert await state() == (True, None)
    with pytest.raises(ZeroDivisionError):
        async with db.acting_as(ADA):
            raise ZeroDivisionError
    assert await state() == (True, None)
    with pytest.raises(db.DatabaseError):
        async with db.acting_as(ADA) as conn:
            await conn.execute("SELECT 1 / 0")
    assert await state() == (True, None)
    task = asyncio.create_task(hang())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await state() == (True, None)


async def use_as_two(calls: int) -> int:
    """*calls* calls of two users and of nobody, interleaved; how many rows came to somebody whose they are not."""
    crossed = 0

    async def work(worker: int) -> None:
        nonlocal crossed
        for number in range(calls // 40):
            user = ADA if (worker + number) % 2 else BOB
            async with db.acting_as(user) as conn:
                await save(user, f"thread {number % 3}", conn, number)
                rows = await db.get_recent_chat_history(f"thread {number % 3}", conn=conn)
                crossed += sum(row["user_id"] != user for row in rows)
                crossed += len(await db.get_user_threads(BOB if user == ADA else ADA, conn=conn))
            nobodys = await asyncio.gather(
                db.get_recent_chat_history(f"thread {number % 3}"), db.get_document_by_code("shared")
            )
            crossed += sum(bool(found) for found in nobodys)

    await asyncio.gather(*(work(worker) for worker in range(8)))
    async with db.acting_as(ADA) as conn:
        assert await conn.fetchval("SELECT count(*) FROM chat_history") == 8 * (calls // 40) // 2
    return crossed


async def test_two_users_at_once_never_see_each_others_rows(secured: Settings) -> None:
    """Calls of two users and of nobody, interleaved on one pool, with lanes: no row crosses."""
    assert await use_as_two(CALLS) == 0


async def test_two_users_never_see_each_others_rows_through_pgbouncer(server_url: str, database: Settings) -> None:
    """The same through PgBouncer in transaction mode, where two users share the three sessions of the server."""
    find_pgbouncer()
    await db.enable_row_security()
    await db.insert_document("Everybody's", "shared", "to be read by all")
    with pgbouncer(server_url, pool_size=3) as url:
        name = database.dsn.partition("?")[0].rpartition("/")[2]
        pooled = database.model_copy(update={"database_url": database_url(url, name), "pooler": "transaction"})
        async with login_role(member_of="pgdatabase_user") as role:
            async with connected_as(role, pooled):
                assert await use_as_two(CALLS) == 0
            configure(database)


async def test_without_row_security_nobody_acts_as_a_user(database: Settings) -> None:
    """Where the policies or the membership are missing, the block is not entered, and the error says what to do."""
    async with db.get_db_connection() as conn:
        role_is_there = await conn.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'pgdatabase_user'")
    if role_is_there:  # of another database: it has no rights in this one
        with pytest.raises(db.DatabaseError, match="permission denied"):
            async with db.acting_as(ADA) as conn:
                await db.get_recent_chat_history("thread", conn=conn)
    await db.enable_row_security()
    async with login_role() as role, connected_as(role, database):
        with pytest.raises(db.SchemaError, match=r"enable_row_security\(\) once.*GRANT pgdatabase_user"):
            async with db.acting_as(ADA):
                pytest.fail("entered")


async def test_who_does_not_own_the_tables_cannot_enable_it(database: Settings) -> None:
    """Enabling takes the owner; another role gets a `SchemaError` that says so, and changes nothing."""
    async with login_role() as role:
        async with db.get_db_connection() as conn:
            await conn.execute(f"GRANT SELECT ON database_migration TO {role}")
        async with connected_as(role, database):
            with pytest.raises(db.SchemaError, match="takes the owner of the tables"):
                await db.enable_row_security()


async def test_enabling_it_twice_at_once_is_enabling_it_once(database: Settings) -> None:
    """Any number of processes may call it; undone by the file's second half, it can be done again."""
    await asyncio.gather(*(db.enable_row_security() for _ in range(10)))
    async with db.get_db_transaction() as conn:
        await conn.execute("DELETE FROM database_migration WHERE source = 'row_security'")
        await conn.execute(_down())
    await db.enable_row_security()


def _down() -> str:
    text = resources.files("database").joinpath("sql/row_security/0001_row_security.sql").read_text(encoding="utf-8")
    return text.partition("-- migrate:down")[2]


@pytest.mark.parametrize("user_id", [None, "1", 1.0, True, 2**63])
async def test_a_user_id_is_an_integer(user_id: Any) -> None:
    """What is no integer of 64 bits is refused before anything is sent."""
    with pytest.raises((TypeError, ValueError), match="user_id is an int"):
        async with db.acting_as(user_id):
            pytest.fail("entered")
