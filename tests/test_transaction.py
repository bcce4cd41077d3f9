"""Transactions: all or nothing, and never a wrong answer about which of the two. Against a real server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

import database as db
from database import Connection, Settings
from database.connect_db import run_transaction
from database.settings import configure
from tests.proxy import Proxy, proxy_to

from .conftest import direct_dsn


@asynccontextmanager
async def through_a_proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """The same database, behind a proxy, as the default one."""
    async with proxy_to(settings.dsn) as proxy:
        url = SecretStr(proxy.url(urlsplit(settings.dsn).path[1:]))
        configure(settings.model_copy(update={"database_url": url}))
        yield proxy
        await db.close_connection_pool()


async def insert(conn: Connection, code: str = "c") -> dict[str, Any]:
    return await db.insert_document("n", code, "t", conn=conn)


async def test_leaving_the_block_commits_and_an_exception_rolls_back(database: Settings) -> None:
    """The application's own exception passes untouched, and nothing of the block is stored."""
    async with db.get_db_transaction() as conn:
        await insert(conn, "kept")
    with pytest.raises(ZeroDivisionError):
        async with db.get_db_transaction() as conn:
            await insert(conn, "gone")
            raise ZeroDivisionError
    assert [document["code"] for document in await db.get_list_of_documents()] == ["kept"]


async def test_a_nested_block_is_a_savepoint(database: Settings) -> None:
    """Through conn=, a block that fails undoes its own part alone; the outer one decides about all."""
    async with db.get_db_transaction() as conn:
        await insert(conn, "outer")
        with pytest.raises(db.DatabaseError, match="relation"):
            async with db.get_db_transaction(conn=conn) as inner:
                await insert(inner, "inner")
                await inner.execute("INSERT INTO nowhere VALUES (1)")
        async with db.get_db_transaction(conn=conn) as inner:
            await insert(inner, "second inner")
    assert {document["code"] for document in await db.get_list_of_documents()} == {"outer", "second inner"}


async def test_options_reach_the_server(database: Settings) -> None:
    """isolation, readonly and deferrable are those of the transaction."""
    async with db.get_db_transaction(isolation="serializable", readonly=True, deferrable=True) as conn:
        assert await conn.fetchval("SELECT current_setting('transaction_isolation')") == "serializable"
        assert await conn.fetchval("SELECT current_setting('transaction_read_only')") == "on"
        assert await conn.fetchval("SELECT current_setting('transaction_deferrable')") == "on"
    with pytest.raises(db.DatabaseError, match="read-only") as caught:
        async with db.get_db_transaction(readonly=True) as conn:
            await insert(conn)
    assert caught.value.sqlstate == "25006"


async def swallow_error(conn: Connection) -> None:
    await insert(conn)
    with pytest.raises(asyncpg.PostgresError):
        await conn.execute("SELECT 1 / 0")


async def in_a_block(conn: Connection | None = None) -> None:
    async with db.get_db_transaction(conn=conn) as inner:
        await swallow_error(inner)


async def in_a_savepoint_of_ours() -> None:
    async with db.get_db_transaction() as conn:
        await in_a_block(conn)


async def in_asyncpgs_transaction() -> None:
    async with db.get_db_connection() as conn, conn.transaction():
        await swallow_error(conn)


async def in_asyncpgs_savepoint() -> None:
    async with db.get_db_transaction() as conn, conn.transaction():
        await swallow_error(conn)


async def in_a_transaction_by_hand() -> None:
    async with db.get_db_connection() as conn:
        await conn.execute("BEGIN")
        await swallow_error(conn)
        await conn.execute("COMMIT")


async def in_a_closure() -> None:
    await db.run_in_transaction(swallow_error)


async def in_a_read_only_block() -> None:
    async with db.get_db_transaction(readonly=True) as conn:
        with pytest.raises(asyncpg.PostgresError):
            await conn.execute("SELECT 1 / 0")


@pytest.mark.parametrize(
    "block",
    [
        in_a_block,
        in_a_savepoint_of_ours,
        in_asyncpgs_transaction,
        in_asyncpgs_savepoint,
        in_a_transaction_by_hand,
        in_a_closure,
        in_a_read_only_block,
    ],
)
async def test_a_swallowed_error_does_not_pass_for_a_commit(
    database: Settings, block: Callable[[], Awaitable[None]]
) -> None:
    """Where a statement failed and its error was caught inside, leaving raises, and nothing is stored."""
    with pytest.raises(db.DatabaseError, match="a statement in this transaction failed before") as caught:
        await block()
    assert caught.value.sqlstate == "25P02"
    assert not caught.value.retryable
    assert await db.get_document_count() == 0
    assert await db.health_check()


async def test_a_deferred_constraint_that_fails_at_commit_raises(database: Settings) -> None:
    """What only COMMIT finds out is an error like any other."""
    async with db.get_db_connection() as conn:
        await conn.execute("CREATE TABLE a (n int PRIMARY KEY)")
        await conn.execute("CREATE TABLE b (n int REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(db.DatabaseError, match="constraint b_n_fkey of table b refuses it") as caught:
        async with db.get_db_transaction() as conn:
            await conn.execute("INSERT INTO b VALUES (1)")
    assert caught.value.sqlstate == "23503"


async def test_a_closure_runs_again_after_a_serialization_failure(database: Settings) -> None:
    """Two serializable transactions that read what the other writes: both end well, one of them by repetition."""
    async with db.get_db_connection() as conn:
        await conn.execute("CREATE TABLE counter (n int)")
        await conn.execute("INSERT INTO counter VALUES (0)")
    runs = 0

    async def increment(conn: Connection) -> None:
        nonlocal runs
        runs += 1
        n = await conn.fetchval("SELECT n FROM counter")
        await asyncio.sleep(0)
        await conn.execute("UPDATE counter SET n = $1", n + 1)

    await asyncio.gather(*(run_transaction(increment, isolation="serializable") for _ in range(8)))
    async with db.get_db_connection() as conn:
        assert await conn.fetchval("SELECT n FROM counter") == 8
    assert runs > 8


async def test_a_closure_runs_again_after_a_deadlock(database: Settings) -> None:
    """Two closures that lock two rows in opposite orders both end well, with their arguments."""
    async with db.get_db_connection() as conn:
        await conn.execute("CREATE TABLE pair (n int, total int)")
        await conn.execute("INSERT INTO pair VALUES (1, 0), (2, 0)")
    both = asyncio.Barrier(2)
    first_runs = {1: True, 2: True}

    async def lock(conn: Connection, first: int, second: int) -> str:
        await conn.execute("UPDATE pair SET total = total + 1 WHERE n = $1", first)
        if first_runs[first]:
            first_runs[first] = False
            await both.wait()
        await conn.execute("UPDATE pair SET total = total + 1 WHERE n = $1", second)
        return f"{first}{second}"

    results = await asyncio.gather(db.run_in_transaction(lock, 1, 2), db.run_in_transaction(lock, 2, second=1))
    assert list(results) == ["12", "21"]
    async with db.get_db_connection() as conn:
        assert await conn.fetchval("SELECT array_agg(total) FROM pair") == [2, 2]


async def test_our_errors_inside_a_closure_decide_like_the_drivers(database: Settings) -> None:
    """A permanent error of a data function ends `run_in_transaction` at once: the closure ran one time."""
    runs = 0

    async def store(conn: Connection) -> None:
        nonlocal runs
        runs += 1
        await db.insert_document("n", "c", "a\0b", conn=conn)

    with pytest.raises(db.DocumentError, match="NUL"):
        await db.run_in_transaction(store)
    assert runs == 1


async def test_a_connection_lost_before_the_commit_runs_the_closure_again(database: Settings) -> None:
    """The server undoes what was not committed, so that the repetition stores it once."""
    async with through_a_proxy(database) as proxy:
        runs = 0

        async def store(conn: Connection) -> None:
            nonlocal runs
            runs += 1
            await insert(conn)
            if runs == 1:
                proxy.cut()
                await conn.fetchval("SELECT 1")

        await db.run_in_transaction(store)
        assert runs == 2
        assert await db.get_document_count() == 1


async def test_a_swallowed_answer_to_commit_is_looked_up(database: Settings) -> None:
    """The server had committed: no error, and it is stored once, by a block as by a closure as by a statement."""
    async with through_a_proxy(database) as proxy:
        for n in range(10):
            proxy.swallow = b"COMMIT"
            async with db.get_db_transaction() as conn:
                await insert(conn, f"block {n}")
            proxy.swallow = b"COMMIT"
            await db.run_in_transaction(insert, f"closure {n}")
            proxy.swallow = b"COMMIT"
            assert await db.execute_with_retry(
                "INSERT INTO document (name, code, content) VALUES ('n', $1, 't')", f"statement {n}"
            ) == "INSERT 0 1"  # fmt: skip
            proxy.swallow = b"COMMIT"
            async with db.get_db_transaction() as conn:
                assert await db.get_document_count(conn=conn) == 3 * (n + 1)
            assert proxy.swallow is None
        assert await db.get_document_count() == 30


async def test_a_commit_that_never_arrived_is_repeated_or_said(database: Settings) -> None:
    """The server has nothing: a closure and a statement are repeated; a block raises a retryable error."""
    async with through_a_proxy(database) as proxy:
        proxy.lose = b"COMMIT"
        await db.run_in_transaction(insert, "closure")
        proxy.lose = b"COMMIT"
        await db.execute_with_retry(
            "INSERT INTO document (name, code, content) VALUES ('n', 'statement', 't')", retry_delay=0.01
        )
        proxy.lose = b"COMMIT"
        with pytest.raises(db.DatabaseNotAvailableError, match="nothing was stored") as caught:
            async with db.get_db_transaction() as conn:
                await insert(conn, "block")
        assert caught.value.retryable
        assert {document["code"] for document in await db.get_list_of_documents()} == {"closure", "statement"}


async def test_after_a_crash_the_outcome_is_unknown_rather_than_guessed(tmp_path: Path) -> None:
    """
    The server crashes after COMMIT, before its answer arrives: `OutcomeUnknownError`.

    After a crash the number of a lost transaction is given to another one, so its status proves nothing.
    """
    url = await db.embedded.start(tmp_path)
    settings = Settings(database_url=SecretStr(url), min_connections=0)
    configure(settings)
    try:
        await db.init_document_table()
        await db.close_connection_pool()
        async with through_a_proxy(settings) as proxy:

            async def crash() -> None:
                victim = await asyncpg.connect(url)
                os.kill(await victim.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
                # the server ends every other session, too, before it recovers
                while not victim.is_closed():
                    await asyncio.sleep(0.01)

            proxy.swallow, proxy.before_the_cut = b"COMMIT", crash
            with pytest.raises(db.OutcomeUnknownError, match="look before you repeat it") as caught:
                async with db.get_db_transaction() as conn:
                    await insert(conn)
            assert not caught.value.retryable
            assert await db.get_document_count() == 1
    finally:
        await db.close_connection_pool()
        configure(None)
        await db.embedded.stop(tmp_path)


async def test_execute_with_retry_returns_rows_or_a_status(database: Settings) -> None:
    """Rows as dicts for what returns rows, also none; the status for what does not; statements that refuse a block."""
    assert await db.execute_with_retry("SELECT $1::int AS a, 'x' AS b", 1) == [{"a": 1, "b": "x"}]
    assert await db.execute_with_retry("SELECT 1 WHERE false") == []
    assert await db.execute_with_retry("CREATE TABLE t (n int)") == "CREATE TABLE"
    assert await db.execute_with_retry("INSERT INTO t VALUES (1), (2)") == "INSERT 0 2"
    assert await db.execute_with_retry("DELETE FROM t WHERE n = $1 RETURNING n", 2) == [{"n": 2}]
    assert await db.execute_with_retry("VACUUM t") == "VACUUM"
    with pytest.raises(db.DatabaseError, match='relation "nowhere" does not exist') as caught:
        await db.execute_with_retry("SELECT * FROM nowhere")
    assert caught.value.sqlstate == "42P01"


async def test_execute_with_retry_gives_up_after_max_retries(database: Settings) -> None:
    """A statement that keeps colliding runs one time and max_retries times more, then its error is raised."""
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE SEQUENCE runs;
            CREATE FUNCTION collide() RETURNS int LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM nextval('runs');
                RAISE EXCEPTION 'collision' USING ERRCODE = 'serialization_failure';
            END $$;
        """)
    with pytest.raises(db.DatabaseError, match="collided with a concurrent transaction") as caught:
        await db.execute_with_retry("SELECT collide()", max_retries=2, retry_delay=0.01)
    assert caught.value.sqlstate == "40001"
    assert caught.value.retryable
    assert await db.execute_with_retry("SELECT last_value AS n FROM runs") == [{"n": 3}]


async def test_cancelling_a_transaction_rolls_it_back(database: Settings) -> None:
    """The cancellation arrives, nothing is stored, and the connection is good for the next caller."""
    configure(database.model_copy(update={"max_connections": 1}))
    started = asyncio.Event()

    async def work() -> None:
        async with db.get_db_transaction() as conn:
            await insert(conn)
            started.set()
            await conn.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.get_document_count() == 0


async def test_a_transaction_on_a_borrowed_connection_is_looked_up_too(database: Settings) -> None:
    """With conn= that is in no transaction, the block is one: its lost COMMIT is resolved like any other."""
    async with through_a_proxy(database) as proxy:
        async with db.get_db_connection() as conn:
            proxy.swallow = b"COMMIT"
            async with db.get_db_transaction(conn=conn) as inner:
                await insert(inner)
        assert await db.get_document_count() == 1


async def test_a_foreign_connection_gets_no_wrong_answer_either(database: Settings) -> None:
    """On a connection of asyncpg's own, a swallowed error raises, and a lost COMMIT is said to be unknown."""
    async with through_a_proxy(database) as proxy:
        foreign = await asyncpg.connect(proxy.url(urlsplit(database.dsn).path[1:]))
        with pytest.raises(db.DatabaseError, match="a statement in this transaction failed before"):
            await in_a_block(foreign)
        proxy.swallow = b"COMMIT"
        with pytest.raises(db.OutcomeUnknownError):
            async with db.get_db_transaction(conn=foreign) as conn:
                await insert(conn)
        for function in (insert, in_a_block):
            with pytest.raises(db.DatabaseNotAvailableError, match="the connection given as conn= is closed"):
                await function(foreign)
        assert await db.get_document_count() == 1


async def test_lost_commits_are_looked_up_while_every_connection_is_in_use(database: Settings) -> None:
    """Those who ask what became of their COMMIT do not wait for the connections that they hold themselves."""
    async with through_a_proxy(database) as proxy:
        await db.close_connection_pool()
        url = SecretStr(proxy.url(urlsplit(database.dsn).path[1:]))
        configure(database.model_copy(update={"database_url": url, "max_connections": 1, "connection_timeout": 10}))
        proxy.swallow = b"COMMIT"
        async with asyncio.timeout(9):
            async with db.get_db_transaction() as conn:
                await insert(conn)
        assert await db.get_document_count() == 1


async def test_a_commit_by_hand_is_not_taken_for_undone(database: Settings) -> None:
    """Where the user has ended the transaction in the block, a connection lost after that leaves it unknown."""
    async with through_a_proxy(database) as proxy:
        with pytest.raises(db.OutcomeUnknownError):
            async with db.get_db_transaction() as conn:
                await insert(conn)
                await conn.execute("COMMIT")
                proxy.cut()
                await conn.fetchval("SELECT 1")
        assert await db.get_document_count() == 1


@pytest.mark.parametrize("commit", ["END", "end transaction;", "-- the end\n COMMIT", "/* app */ commit and no chain"])
async def test_every_spelling_of_commit_is_watched(database: Settings, commit: str) -> None:
    """COMMIT that becomes ROLLBACK raises however it is written."""
    with pytest.raises(db.DatabaseError, match="a statement in this transaction failed before"):
        async with db.get_db_connection() as conn:
            await conn.execute("BEGIN")
            with pytest.raises(asyncpg.PostgresError):
                await conn.execute("SELECT 1 / 0")
            await conn.execute(commit)


async def test_a_wrong_isolation_level_is_refused_and_leaks_nothing(database: Settings) -> None:
    """`ValueError` names the four, and the pool is as before."""
    for _ in range(20):
        with pytest.raises(ValueError, match=r"isolation is one of read_committed, .*, not 'READ COMMITTED'"):
            async with db.get_db_transaction(isolation="READ COMMITTED"):  # type: ignore[arg-type]  # the point
                pass
    assert (await db.get_pool_stats())["in_use"] == 0


async def test_a_closure_that_finds_a_lock_taken_runs_once(database: Settings) -> None:
    """FOR UPDATE NOWAIT is a question, and its answer is not overruled by repetition."""
    runs = 0

    async def look(conn: Connection) -> None:
        nonlocal runs
        runs += 1
        await conn.execute("SELECT 1 FROM document WHERE code = 'c' FOR UPDATE NOWAIT")

    await db.insert_document("n", "c", "t")
    async with db.get_db_transaction() as conn:
        await conn.execute("SELECT 1 FROM document FOR UPDATE")
        with pytest.raises(db.DatabaseError) as caught:
            await db.run_in_transaction(look)
    assert caught.value.sqlstate == "55P03"
    assert runs == 1


async def test_a_closure_runs_again_after_somebody_changed_the_table(database: Settings) -> None:
    """A prepared statement that does not fit the table any more is made anew, inside a transaction, too."""
    configure(database.model_copy(update={"max_connections": 1}))

    async def read(conn: Connection) -> int:
        return len(dict(await conn.fetchrow("SELECT * FROM changing") or {}))

    async with db.get_db_connection() as conn:
        await conn.execute("CREATE TABLE changing AS SELECT 1 AS a")
    assert await db.run_in_transaction(read) == 1
    elsewhere = await asyncpg.connect(direct_dsn(database))
    await elsewhere.execute("ALTER TABLE changing ADD COLUMN b int")
    await elsewhere.close()
    assert await db.run_in_transaction(read) == 2


async def test_a_cancelled_commit_leaves_a_connection_in_order(database: Settings) -> None:
    """Wherever the cancellation strikes, nobody complains in the background, and the connection serves the next."""
    configure(database.model_copy(update={"max_connections": 1}))
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    async with db.get_db_connection() as conn:
        # COMMIT takes its time, so that the cancellation finds it under way
        await conn.execute("""
            CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON document
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
        """)
    ready = asyncio.Event()

    async def work() -> None:
        async with db.get_db_transaction() as conn:
            await insert(conn)
            ready.set()

    task = asyncio.create_task(work())
    await ready.wait()
    await asyncio.sleep(0.15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.get_document_count() in (0, 1)
    assert complaints == []
