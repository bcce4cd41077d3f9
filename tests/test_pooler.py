"""Behind PgBouncer in transaction mode: everything works, and nothing of one client reaches another."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

import database as db
from database import repository
from database.schema import apply_migration
from database.settings import Settings, configure

from .conftest import database_url, direct_dsn
from .pgbouncer import pgbouncer

SESSIONS = 2  # of the server, for all clients


@pytest.fixture(scope="module")
def bouncer(server_url: str) -> Iterator[str]:
    with pgbouncer(server_url, pool_size=SESSIONS) as url:
        yield url


@pytest.fixture
async def pooled(bouncer: str, database: Settings) -> Settings:
    """The package speaks to the database of the test through PgBouncer."""
    name = database.dsn.partition("?")[0].rpartition("/")[2]
    settings = database.model_copy(update={"database_url": database_url(bouncer, name), "pooler": "transaction"})
    configure(settings)
    return settings


@asynccontextmanager
async def raw_client(settings: Settings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A client of PgBouncer that has nothing to do with the package."""
    connection = await asyncpg.connect(settings.dsn, statement_cache_size=0)
    try:
        yield connection
    finally:
        await connection.close()


async def test_many_callers_share_two_sessions(pooled: Settings, tmp_path: Any) -> None:
    """Reads, writes, transactions, cursors, COPY, upserts, ingestion and any table, all at once, many times over."""
    async with db.get_db_transaction() as conn:
        await conn.execute("CREATE TABLE note (id int PRIMARY KEY, data jsonb, tags text[])")
    for number in range(20):
        (tmp_path / f"{number}.md").write_text(f"# Title {number}\n\ntext\n")

    async def chat(number: int) -> None:
        await db.save_chat_history(number, f"thread {number % 7}", "question", "answer")
        assert await db.get_recent_chat_history(f"thread {number % 7}")

    async def store(number: int) -> None:
        await db.insert_document("name", f"code {number}", "text", metadata={"number": number})
        document = await db.get_document_by_code(f"code {number}")
        assert document is not None
        assert document["metadata"] == {"number": number}
        assert (await db.upsert_document("name", f"code {number}", "new"))["status"] == "updated"

    async def use_any_table(number: int) -> None:
        await repository.insert("note", {"id": number, "data": {"a": [number]}, "tags": ["x"]})
        assert (await repository.get_by_id("note", number))["data"] == {"a": [number]}

    async def change(number: int) -> None:
        async with db.get_db_transaction() as conn:
            await conn.execute("UPDATE note SET tags = tags || $1::text WHERE id = $2", "y", number)
            rows = [row["n"] async for row in conn.cursor("SELECT generate_series(1, $1) AS n", 9, prefetch=4)]
            assert rows == list(range(1, 10))

    work: list[Callable[[int], Awaitable[None]]] = [chat, store, use_any_table, change]
    await asyncio.gather(*(each(number) for number in range(60) for each in work))
    report = await db.ingest_directory(tmp_path)
    assert report["inserted"] == 20
    assert await db.get_document_count() == 80
    assert len([document async for document in db.iter_documents()]) == 80
    async with db.get_db_connection() as conn:
        records: list[tuple[object, ...]] = [(number, {"n": number}, []) for number in range(1000, 3000)]
        await conn.copy_records_to_table("note", records=records, columns=["id", "data", "tags"])
        assert await conn.fetchval("SELECT count(*) FROM note") == 2060


async def test_a_prepared_statement_is_prepared_anew_wherever_it_runs(pooled: Settings) -> None:
    """`conn.prepare()` keeps its meaning, whatever runs in between, here and in other clients."""
    async with raw_client(pooled) as other, db.get_db_connection() as conn:
        statement = await conn.prepare("SELECT $1::int + 1")
        for number in range(20):
            await asyncio.gather(other.fetchval("SELECT 'other'"), asyncio.sleep(0))
            assert await conn.fetchval("SELECT 'text'") == "text"
            assert await statement.fetchval(number) == number + 1


_STATE = """
    SELECT current_setting('jit') AS jit, current_setting('lock_timeout') AS lock_timeout,
           current_setting('statement_timeout') AS statement_timeout, current_setting('search_path') AS search_path,
           current_user = session_user AS plain,
           (SELECT count(*) FROM pg_prepared_statements) AS prepared,
           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
           (SELECT count(*) FROM pg_listening_channels()) AS listening
"""


async def sessions_state(settings: Settings) -> list[asyncpg.Record]:
    """What is in each session of the server that PgBouncer hands out."""
    # in transactions at the same time, each has a session of its own
    async with raw_client(settings) as one, raw_client(settings) as two, one.transaction(), two.transaction():
        return [record for client in (one, two) for record in await client.fetch(_STATE)]


async def test_nothing_stays_in_the_sessions_of_the_server(pooled: Settings) -> None:
    """After all kinds of work, each session is as it was: settings, role, prepared statements, locks, listeners."""
    clean = await sessions_state(pooled)
    await asyncio.gather(*(db.save_chat_history(1, "t", f"q{number}", "a") for number in range(50)))
    await asyncio.gather(*(db.upsert_document("n", f"c{number % 9}", "t") for number in range(50)))
    await db.execute_with_retry("SELECT $1::int", 1)
    async with db.get_db_transaction() as conn:
        await conn.execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")
        await conn.execute("SET LOCAL search_path = public")
        assert await conn.fetchval("SELECT ARRAY['glad']::mood[]") == ["glad"]  # the driver has to look at the type
        assert len([row async for row in conn.cursor("SELECT generate_series(1, 100)", prefetch=3)]) == 100
        await conn.execute("CREATE TEMP TABLE scratch (a int) ON COMMIT DROP")
    with pytest.raises(db.DatabaseError):
        async with db.get_db_transaction() as conn:
            await conn.execute("SELECT 1 / 0")
    async with db.get_db_connection() as conn:
        await (await conn.prepare("SELECT 1")).fetch()
    await db.close_connection_pool()
    assert await sessions_state(pooled) == clean
    assert all(state["prepared"] == state["locks"] == state["listening"] == 0 for state in clean)


@pytest.mark.parametrize(
    "sql",
    [
        "LISTEN news",
        "SET search_path = nowhere",
        "SELECT pg_advisory_lock(1)",
        "SELECT set_config('search_path', 'nowhere', false)",
        "CREATE TEMP TABLE scratch (a int)",
        "PREPARE p AS SELECT 1",
    ],
)
async def test_what_would_stay_in_a_session_is_refused(pooled: Settings, sql: str) -> None:
    """By whatever method it is sent, before it is, with a way out; the connection and its transaction go on."""
    async with db.get_db_transaction() as conn:
        for send in (conn.execute, conn.fetch, conn.fetchval, conn.prepare):
            with pytest.raises(db.DatabaseError, match=r"behind a pooler \(DB_POOLER=transaction\)"):
                await send(sql)
        with pytest.raises(db.DatabaseError, match="does not work behind a pooler"):
            await conn.executemany(sql, [()])
        assert await conn.fetchval("SELECT 1") == 1
    with pytest.raises(db.DatabaseError, match="does not work behind a pooler"):
        await db.execute_with_retry(sql)


async def test_listeners_are_refused(pooled: Settings) -> None:
    """`add_listener` says that it needs a connection to the server itself."""
    async with db.get_db_connection() as conn:
        with pytest.raises(db.DatabaseError, match=r"LISTEN does not work behind a pooler.*to the server itself"):
            await conn.add_listener("news", print)


async def test_the_statement_timeout_holds_in_transactions(pooled: Settings) -> None:
    """DB_STATEMENT_TIMEOUT comes with each BEGIN, and is gone with the transaction."""
    configure(pooled.model_copy(update={"statement_timeout": 0.1}))
    with pytest.raises(db.DatabaseError) as caught:
        async with db.get_db_transaction() as conn:
            assert await conn.fetchval("SHOW statement_timeout") == "100ms"
            await conn.execute("SELECT pg_sleep(30)")
    assert caught.value.sqlstate == "57014"
    async with raw_client(pooled) as other:
        assert await other.fetchval("SHOW statement_timeout") == "0"


async def test_migrations_wait_for_each_other_through_a_pooler(bouncer: str, empty_database: Settings) -> None:
    """A hundred callers make the tables once: the lock is the transaction's, not the session's."""
    name = empty_database.dsn.partition("?")[0].rpartition("/")[2]
    pooled = empty_database.model_copy(update={"database_url": database_url(bouncer, name), "pooler": "transaction"})
    configure(pooled)
    applied = await asyncio.gather(*(apply_migration(version) for version in ("0001", "0002") for _ in range(50)))
    assert sum(applied) == 2


async def test_a_session_that_dies_behind_the_pooler_is_survived(database: Settings, pooled: Settings) -> None:
    """Sessions of the server are ended again and again: calls go on, each save is there once."""
    killer = await asyncpg.connect(direct_dsn(database))
    saved = asyncio.Event()
    counter = itertools.count()

    async def kill() -> None:
        while not saved.is_set():
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.05)

    async def save() -> list[str]:
        return [await db.save_chat_history(1, "thread", f"q{next(counter)}", "a") for _ in range(20)]

    killing = asyncio.create_task(kill())
    try:
        ids = await asyncio.gather(*(save() for _ in range(10)))
    finally:
        saved.set()
        await killing
    stored = await killer.fetch("SELECT id::text AS id, question FROM chat_history")
    await killer.close()
    assert sorted(row["id"] for row in stored) == sorted(each for some in ids for each in some)
    assert len({row["question"] for row in stored}) == 200
