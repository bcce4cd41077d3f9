"""The pool and the door to it, against a real server."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

import database as db
from database import Settings, registry
from database.settings import configure
from tests.proxy import proxy_to

from .conftest import direct_dsn


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Wait until *condition* holds; fail after *seconds*."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_command_timeout_bounds_the_whole_call(database: Settings) -> None:
    """A statement that takes too long is not sent again and again until another deadline; the error says which."""
    configure(database.model_copy(update={"command_timeout": 0.2, "connection_timeout": 60}))
    async with db.get_db_transaction() as conn:
        await conn.execute("LOCK TABLE document")
        async with asyncio.timeout(30):
            with pytest.raises(db.DatabaseNotAvailableError, match="no answer in time"):
                await db.get_document_by_code("c")
            with pytest.raises(db.OutcomeUnknownError, match="DB_COMMAND_TIMEOUT"):
                await db.insert_document("n", "c", "t")
        stats = await db.get_pool_stats()
        assert stats["requests"] == 4  # opening, this transaction, and one for each call
    assert set(await db.get_pool_stats()) == set(stats)
    await db.close_connection_pool()
    assert set(await db.get_pool_stats()) == set(stats)


async def test_a_hundred_tasks_open_one_pool(database: Settings) -> None:
    """All who ask at once get the same pool, and only then is it opened."""
    assert db.is_pool_active() is False
    pools = await asyncio.gather(*(db.get_connection_pool() for _ in range(100)))
    assert len(set(pools)) == 1
    assert db.is_pool_active() is True
    await db.close_connection_pool()
    assert db.is_pool_active() is False
    assert await db.get_connection_pool() is not pools[0]


async def test_the_pool_does_what_asyncpgs_pool_does(database: Settings) -> None:
    """The methods that asyncpg's users know work: acquire as a context and awaited, fetch*, execute*, sizes."""
    pool = await db.get_connection_pool()
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT 1") == 1
        anything: object = conn
        assert isinstance(anything, asyncpg.Connection)
    taken = await pool.acquire()
    assert pool.get_size() >= 1
    await pool.release(taken)
    await pool.release(taken)
    assert await pool.execute("CREATE TABLE t (n int)") == "CREATE TABLE"
    await pool.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)])
    assert [row["n"] for row in await pool.fetch("SELECT n FROM t ORDER BY n")] == [1, 2]
    assert dict(await pool.fetchrow("SELECT max(n) AS n FROM t") or {}) == {"n": 2}
    assert await pool.fetchval("SELECT count(*) FROM t") == 2
    assert (pool.get_min_size(), pool.get_max_size()) == (0, 10)


async def test_a_released_connection_is_out_of_the_users_hands(database: Settings) -> None:
    """What is kept of it after the block is refused: the connection, a prepared statement."""
    async with db.get_db_connection() as conn:
        statement = await conn.prepare("SELECT 1")
    with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
        await conn.fetchval("SELECT 1")
    with pytest.raises(asyncpg.InterfaceError):
        await statement.fetchval()


async def test_nothing_of_a_session_outlives_the_block(database: Settings) -> None:
    """Settings, roles, locks, temporary tables, listeners, cursors, sequence caches: all gone for the next user."""
    configure(database.model_copy(update={"max_connections": 1}))
    async with db.get_db_connection() as conn:
        pid = await conn.fetchval("SELECT pg_backend_pid()")
        role = f"role_{os.urandom(4).hex()}"
        await conn.execute(f"""
            CREATE ROLE {role};
            GRANT {role} TO CURRENT_USER;
            SET ROLE {role};
            SET work_mem = '1234kB';
            SET search_path = pg_catalog;
            SELECT pg_advisory_lock(42);
            CREATE TEMPORARY TABLE left_behind (n int);
            LISTEN somebody;
            DECLARE c CURSOR WITH HOLD FOR SELECT 1;
            PREPARE "a statement" AS SELECT 1;
        """)
    async with db.get_db_connection() as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") == pid
        assert await conn.fetchval("SELECT current_user = session_user")
        assert await conn.fetchval("SELECT current_setting('work_mem')") != "1234kB"
        assert await conn.fetchval("SELECT current_setting('search_path')") != "pg_catalog"
        assert (
            await conn.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            == 0
        )
        assert await conn.fetchval("SELECT to_regclass('left_behind')::text") is None
        assert await conn.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0
        assert await conn.fetchval("SELECT count(*) FROM pg_cursors WHERE name = 'c'") == 0
        assert await conn.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE from_sql") == 0
        await conn.execute(f"DROP ROLE {role}")


async def test_waiting_callers_are_served_in_their_order(database: Settings) -> None:
    """First come, first served; nobody who comes later overtakes."""
    configure(database.model_copy(update={"max_connections": 1}))
    pool = await db.get_connection_pool()
    first = await pool.acquire()
    order: list[int] = []

    async def wait(n: int) -> None:
        async with pool.acquire():
            order.append(n)

    tasks = []
    for n in range(20):
        tasks.append(asyncio.create_task(wait(n)))
        await until(lambda n=n: pool.get_stats()["waiting"] == n + 1)  # type: ignore[misc]
    await pool.release(first)
    await asyncio.gather(*tasks)
    assert order == list(range(20))


async def test_an_exhausted_pool_answers_at_the_deadline(database: Settings) -> None:
    """`PoolTimeoutError` says how many connections are in use and what to do; afterwards all is well."""
    configure(database.model_copy(update={"max_connections": 2, "connection_timeout": 0.3}))
    async with db.get_db_connection(), db.get_db_connection():
        with pytest.raises(db.PoolTimeoutError, match=r"2 of 2 are in use .* raise DB_MAX_CONNECTIONS") as caught:
            await db.get_document_by_code("c")
        assert caught.value.retryable
        stats = await db.get_pool_stats()
        assert stats["in_use"] == 2
        assert stats["waiting"] == 0
        assert stats["timeouts"] == 1
    assert await db.get_document_by_code("c") is None


async def test_too_many_waiting_callers_are_refused_at_once(database: Settings) -> None:
    """With DB_MAX_WAITING callers in line, the next one is told so without waiting."""
    configure(database.model_copy(update={"max_connections": 1, "max_waiting": 3}))
    pool = await db.get_connection_pool()
    async with pool.acquire():
        waiting = [asyncio.create_task(db.get_document_by_code("c")) for _ in range(3)]
        await until(lambda: pool.get_stats()["waiting"] == 3)
        with pytest.raises(db.PoolTimeoutError, match=r"3 callers wait .*DB_MAX_WAITING"):
            await db.get_document_by_code("c")
    assert await asyncio.gather(*waiting) == [None, None, None]


async def test_cancelled_callers_leak_nothing(database: Settings) -> None:
    """Cancelled while waiting, connecting or querying, a caller takes no connection along; others go on."""
    configure(database.model_copy(update={"max_connections": 3}))
    await db.insert_document("n", "c", "t")

    async def call(n: int) -> None:
        if n % 3 == 0:
            async with db.get_db_transaction() as conn:
                await conn.execute("SELECT pg_sleep(0.01)")
        elif n % 3 == 1:
            await db.get_document_by_code("c")
        else:
            await db.upsert_document("n", "c", str(n))

    for round_ in range(30):
        tasks = [asyncio.create_task(call(n)) for n in range(20)]
        for _ in range(round_ % 7):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {asyncio.CancelledError, type(None)}, results
    pool = await db.get_connection_pool()
    await until(lambda: pool.get_idle_size() == pool.get_size())
    stats = await db.get_pool_stats()
    assert (stats["in_use"], stats["waiting"]) == (0, 0)
    async with db.get_db_connection() as conn:
        assert await conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in trans%'"
        ) == 0  # fmt: skip


async def test_a_wrong_password_fails_at_once_and_is_not_shown(tmp_path: Path) -> None:
    """The error says what is wrong and where, but neither password nor URL with it; it is not tried again."""
    url = await db.embedded.start(tmp_path)
    try:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE ROLE somebody LOGIN PASSWORD 'the-password'")
        (tmp_path / "data" / "pg_hba.conf").write_text("local all somebody scram-sha-256\nlocal all all trust\n")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        for password in ("not-the-password", None, "the-password"):
            secret = None if password is None else SecretStr(password)
            url_of_somebody = SecretStr(url.replace("postgres@", "somebody@"))
            configure(Settings(database_url=url_of_somebody, password=secret))
            if password == "the-password":
                assert await db.health_check()
                continue
            async with asyncio.timeout(20):
                with pytest.raises(db.DatabaseNotAvailableError, match="password") as caught:
                    await db.get_connection_pool()
            assert "not-the-password" not in str(caught.value)
            assert not caught.value.retryable
    finally:
        await db.close_connection_pool()
        configure(None)
        await db.embedded.stop(tmp_path)


async def test_an_unknown_database_fails_at_once(database: Settings) -> None:
    """What would fail again is not tried again: the error comes long before DB_CONNECTION_TIMEOUT."""
    url = database.dsn.replace(urlsplit(database.dsn).path, "/no_such_database")
    configure(Settings(database_url=SecretStr(url), connection_timeout=60))
    async with asyncio.timeout(20):
        with pytest.raises(db.DatabaseNotAvailableError, match="there is no such database") as caught:
            await db.get_connection_pool()
    assert caught.value.sqlstate == "3D000"
    assert db.is_pool_active() is False


async def test_no_server_is_said_at_the_deadline(unused_tcp_port: int) -> None:
    """Connecting is tried until DB_CONNECTION_TIMEOUT; then the error names the address and asks the right question."""
    configure(Settings(database_url=SecretStr(f"postgresql://u:secret@127.0.0.1:{unused_tcp_port}/x"),
                       connection_timeout=0.3))  # fmt: skip
    with pytest.raises(db.DatabaseNotAvailableError, match="is PostgreSQL running there") as caught:
        await db.get_document_by_code("c")
    assert f"127.0.0.1:{unused_tcp_port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.retryable
    assert await db.health_check(timeout=0.5) is False
    assert await db.ping_postgres(timeout=0.5) is False
    report = await db.health_report(timeout=0.5)
    assert report["status"] == "unhealthy"
    assert report["connected"] is False
    assert "secret" not in str(report)
    configure(None)


async def test_embedded_never_refuses_to_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server in the settings and with DB_EMBEDDED=never, the error names the variables to set."""
    monkeypatch.setenv("DB_EMBEDDED", "never")
    with pytest.raises(db.ConnectionPoolError, match=r"DB_EMBEDDED=never: set DATABASE_URL"):
        await db.get_connection_pool()


async def test_init_callbacks_run_before_anybody_else(database: Settings) -> None:
    """A callback may use the pool that is being opened; the callers wait for it; a failing one fails the opening."""
    ran: list[str] = []

    async def make_table(pool: db.Pool) -> None:
        async with db.get_db_connection() as conn:
            await conn.execute("CREATE TABLE IF NOT EXISTS made (n int)")
        ran.append("made")

    async def fail(pool: db.Pool) -> None:
        raise RuntimeError("no")

    from database.connect_db import unregister_init_callback

    await db.register_init_callback(make_table)
    try:
        rows = await asyncio.gather(*(db.execute_with_retry("SELECT count(*) AS n FROM made") for _ in range(10)))
        assert rows == [[{"n": 0}]] * 10
        assert ran == ["made"]
        await db.close_connection_pool()
        await db.register_init_callback(fail)
        with pytest.raises(db.ConnectionPoolError, match=r"cannot run the init callback .*fail"):
            await db.get_connection_pool()
    finally:
        unregister_init_callback(fail)
        unregister_init_callback(make_table)
    assert await db.health_check()


async def test_an_idle_pool_survives_the_loss_of_every_connection(database: Settings) -> None:
    """After a restart of the server, callers see no error: reads, writes with our own key and transactions go on."""
    await db.insert_document("n", "c", "t")
    for write in (
        lambda: db.get_document_by_code("c"),
        lambda: db.upsert_document("n", "c", "t2"),
        lambda: db.save_chat_history(1, "t", "q", "a"),
        lambda: db.run_in_transaction(lambda conn: conn.execute("UPDATE document SET name = 'x'")),
        lambda: db.execute_with_retry("UPDATE document SET name = 'y'", retry_delay=0.01),
    ):
        pool = await db.get_connection_pool()
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(pool.fetchval("SELECT pg_sleep(0.02)"))
        await until(lambda pool=pool: pool.get_idle_size() == pool.get_size())  # type: ignore[misc]
        killer = await asyncpg.connect(direct_dsn(database))
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await killer.close()
        await write()
    assert len(await db.get_recent_chat_history("t")) == 1


async def test_a_lost_answer_to_an_insert_is_looked_up(database: Settings) -> None:
    """The insert was done and its answer swallowed: the repetition finds it done; stored once, no error."""
    async with proxy_to(database.dsn) as proxy:
        configure(Settings(database_url=SecretStr(proxy.url(urlsplit(database.dsn).path[1:])), min_connections=0))
        await db.health_check()
        await db.insert_document("n", "warm", "the statement is prepared now")
        for swallow in range(5):
            proxy.swallow = b"needle"
            document = await db.insert_document("n", f"c{swallow}", "needle")
            assert (await db.get_document_by_code(f"c{swallow}") or {})["id"] == document["id"]
            proxy.swallow = b"needle"
            message = await db.save_chat_history(1, "t", "needle", "a")
            assert [m["id"] for m in await db.get_recent_chat_history("t", 1)] == [message]
            proxy.swallow = b"needle"
            assert (await db.upsert_document("n", f"u{swallow}", "needle"))["status"] == "inserted"
        assert len(await db.get_recent_chat_history("t", 100)) == 5
        assert await db.get_document_count() == 11
        proxy.swallow = b"c0"
        with pytest.raises(db.OutcomeUnknownError, match="cannot tell whether it was done: delete document 'c0'"):
            await db.delete_document("c0")
        await db.close_connection_pool()


async def test_a_server_that_says_nothing_does_not_hang_anybody(database: Settings) -> None:
    """Behind a line that went silent, every call ends: by its timeout, with an error of ours; so does closing."""
    async with proxy_to(database.dsn) as proxy:
        url = SecretStr(proxy.url(urlsplit(database.dsn).path[1:]))
        configure(Settings(database_url=url, min_connections=0, connection_timeout=0.5, command_timeout=0.5))
        await db.get_document_by_code("c")
        proxy.stall()
        async with asyncio.timeout(20):
            for call in (
                lambda: db.get_document_by_code("c"),
                lambda: db.insert_document("n", "c", "t"),
                lambda: db.run_in_transaction(lambda conn: conn.execute("SELECT 1")),
            ):
                with pytest.raises(db.DatabaseError):
                    await call()
            assert await db.health_check(timeout=0.3) is False
            await db.close_connection_pool(timeout=0.3)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u@a/x", []),
        ("postgresql://u@a:1,b/x", [("a", 1), ("b", 5432)]),
        ("postgresql://u:p@[::1]:1,[fe80::2],c:3/x", [("::1", 1), ("fe80::2", 5432), ("c", 3)]),
        ("postgresql:///x?host=/tmp/a,/tmp/b&port=6000", [("/tmp/a", 6000), ("/tmp/b", 6000)]),
        ("postgresql:///x?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///x?host=a,b&target_session_attrs=prefer-standby", []),
    ],
)
def test_several_hosts_are_read_from_the_url(url: str, hosts: list[tuple[str, int]]) -> None:
    """As libpq reads them; one host, and a choice that needs answers of all, are left to the driver."""
    from database.pool import _hosts

    assert _hosts(url) == hosts


async def test_a_host_that_says_nothing_does_not_keep_the_others_from_being_asked(database: Settings) -> None:
    """Of several hosts in the URL, each has a head start only: a silent one does not use up the whole attempt."""
    async with proxy_to(database.dsn) as silent, proxy_to(database.dsn) as good:
        silent.stall()
        name = urlsplit(database.dsn).path[1:]
        url = f"postgresql://postgres@127.0.0.1:{silent.port},127.0.0.1:{good.port}/{name}?sslmode=disable"
        configure(database.model_copy(update={"database_url": SecretStr(url), "connection_timeout": 3.0}))
        assert await db.get_document_by_code("c") is None
        assert silent.connections
        with pytest.raises(db.DatabaseNotAvailableError):
            configure(database.model_copy(update={"database_url": SecretStr(url), "connection_timeout": 1.0}), "none")
            good.stall()
            await db.get_connection_pool("none")
        configure(None, "none")
        await db.close_connection_pool(timeout=1)


async def test_calls_wait_for_a_server_that_comes_back(database: Settings) -> None:
    """Within DB_CONNECTION_TIMEOUT, an outage is a delay and no error; one task alone keeps knocking."""
    async with proxy_to(database.dsn) as proxy:
        url = SecretStr(proxy.url(urlsplit(database.dsn).path[1:]))
        configure(Settings(database_url=url, min_connections=0, connection_timeout=20))
        await db.get_document_by_code("c")
        server_url, proxy._url = proxy._url, urlsplit("postgresql://u@127.0.0.1:1/nowhere")
        proxy.cut()
        tries = proxy.connections
        calls = [asyncio.create_task(db.get_document_by_code("c")) for _ in range(50)]
        await until(lambda: proxy.connections > tries + 15)  # ten at first, for the ten that the pool may have
        assert not any(call.done() for call in calls)
        assert proxy.connections < tries + 25
        proxy._url = server_url
        assert await asyncio.gather(*calls) == [None] * 50
        await db.close_connection_pool()


async def test_closing_ends_while_a_connection_is_out(database: Settings) -> None:
    """Who still has a connection is cut off after the timeout; waiting callers are told; a new pool can be opened."""
    configure(database.model_copy(update={"max_connections": 1}))
    pool = await db.get_connection_pool()
    conn = await pool.acquire()
    waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
    await until(lambda: pool.get_stats()["waiting"] == 1)
    await db.close_connection_pool(timeout=0.05)
    with pytest.raises(db.ConnectionPoolError, match="the connection pool is closed"):
        await waiting
    with pytest.raises(db.ConnectionPoolError, match="the connection pool is closed"):
        await pool.fetchval("SELECT 1")
    assert conn.is_closed()
    assert await db.health_check()


async def test_closing_a_pool_that_is_being_opened_tells_the_callers(database: Settings) -> None:
    """They get an error, not a cancellation that nobody asked for."""

    async def wait(pool: db.Pool) -> None:
        await asyncio.Event().wait()

    from database.connect_db import unregister_init_callback

    await db.register_init_callback(wait)
    try:
        callers = [asyncio.create_task(db.get_document_by_code("c")) for _ in range(3)]
        await asyncio.sleep(0)
        await db.close_connection_pool()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert {str(result) for result in results} == {"the connection pool was closed while it was being opened"}
    finally:
        unregister_init_callback(wait)


async def test_closing_waits_for_what_is_under_way(database: Settings) -> None:
    """A statement that runs when the pool is closed gets its answer."""
    call = asyncio.create_task((await db.get_connection_pool()).fetchval("SELECT pg_sleep(0.2)::text || 'done'"))
    pool = await db.get_connection_pool()
    await until(lambda: pool.get_stats()["in_use"] == 1)
    await db.close_connection_pool()
    assert await call == "done"


async def test_expired_connections_are_replaced(database: Settings) -> None:
    """After expire_connections(), no connection of before is used again."""
    pool = await db.get_connection_pool()
    before = await pool.fetchval("SELECT pg_backend_pid()")
    async with pool.acquire() as conn:
        out = await conn.fetchval("SELECT pg_backend_pid()")
        pool.expire_connections()
        assert await conn.fetchval("SELECT 1") == 1
    pids = {await pool.fetchval("SELECT pg_backend_pid()") for _ in range(5)}
    assert not pids & {before, out}


async def test_the_least_number_of_connections_is_kept_open(database: Settings) -> None:
    """DB_MIN_CONNECTIONS connections are opened without anybody waiting for them."""
    configure(database.model_copy(update={"min_connections": 4}))
    pool = await db.get_connection_pool()
    await until(lambda: pool.get_size() == 4)


async def test_named_databases_have_their_own_pools(database: Settings) -> None:
    """A second database is used by name; an unknown name says how to make it known."""
    configure(database.model_copy(update={"application_name": "second"}), "reporting")
    try:
        async with db.get_db_connection("reporting") as conn:
            assert await conn.fetchval("SELECT current_setting('application_name')") == "second"
        assert await db.get_connection_pool("reporting") is not await db.get_connection_pool()
        assert await db.health_check("reporting")
    finally:
        await db.close_connection_pool()
        configure(None, "reporting")
    with pytest.raises(db.ConnectionPoolError, match=r"REPORTING_DATABASE_URL"):
        await db.get_connection_pool("reporting")


def test_every_event_loop_has_its_own_pool(database_in_sync_test: Settings) -> None:
    """One `asyncio.run` after the other works without closing in between; a foreign loop's pool is refused clearly."""
    kept: list[db.Pool] = []

    async def use() -> None:
        kept.append(await db.get_connection_pool())
        assert await db.health_check()

    async def misuse() -> None:
        with pytest.raises(db.ConnectionPoolError, match="belongs to another event loop"):
            await kept[0].fetchval("SELECT 1")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # nobody closed the pools of the first two loops
        asyncio.run(use())
        asyncio.run(use())
        asyncio.run(misuse())
        assert kept[0] is not kept[1]
        kept.clear()
        registry._pools.clear()
        gc.collect()


def run_program(settings: Settings, program: str) -> str:
    """What *program* prints to either stream, in an interpreter of its own; it must end well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        env={**os.environ, "DATABASE_URL": settings.dsn, "DB_MAX_CONNECTIONS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_forked_child_has_its_own_pool(database_in_sync_test: Settings) -> None:
    """The child uses connections of its own and leaves the parent's alone, which go on working."""
    printed = run_program(
        database_in_sync_test,
        """
        import asyncio, os
        import database as db

        async def pid(close):
            assert await db.health_check()
            pid = await (await db.get_connection_pool()).fetchval("SELECT pg_backend_pid()")
            if close:
                await db.close_connection_pool()
            return pid

        loop = asyncio.new_event_loop()
        mine = loop.run_until_complete(pid(close=False))
        child = os.fork()
        if child == 0:
            os._exit(asyncio.run(pid(close=True)) == mine)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert loop.run_until_complete(pid(close=True)) == mine
        print("both well")
        """,
    )
    assert printed == "both well\n"


def test_the_interpreter_exits_with_an_open_pool(database_in_sync_test: Settings) -> None:
    """A program that forgets to close the pool ends all the same, quietly."""
    printed = run_program(
        database_in_sync_test,
        """
        import asyncio
        import database as db

        async def main():
            print(await db.health_check())
            await db.get_connection_pool()

        asyncio.run(main())
        """,
    )
    assert printed == "True\n"


async def test_health_is_told_while_the_pool_is_exhausted(database: Settings) -> None:
    """The report goes through a connection of its own, says degraded and why: callers wait."""
    configure(database.model_copy(update={"max_connections": 1}))
    pool = await db.get_connection_pool()
    async with pool.acquire():
        waiting = asyncio.create_task(db.get_document_by_code("c"))
        await until(lambda: pool.get_stats()["waiting"] == 1)
        report = await db.health_report()
        assert report["connected"]
        assert report["status"] == "degraded"
        assert report["pool"]["waiting"] == 1
    await waiting
    report = await db.health_report()
    assert report["status"] == "healthy"
    assert report["writable"] is True
    assert report["standby"] is False
    assert report["latency_ms"] > 0
    assert int(report["server_version"].split(".")[0]) >= 15


async def test_health_says_degraded_where_nothing_can_be_written(database: Settings) -> None:
    """A database that only reads is connected and not healthy."""
    async with db.get_db_connection() as conn:
        name = await conn.fetchval("SELECT current_database()")
        await conn.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await db.close_connection_pool()
    report = await db.health_report()
    assert (report["status"], report["connected"], report["writable"]) == ("degraded", True, False)


async def test_json_comes_and_goes_as_python_objects(database: Settings) -> None:
    """On connections of the pool, jsonb and json are dicts and lists, in both directions."""
    async with db.get_db_connection() as conn:
        value = {"a": [1, None, "ü"], "b": {"c": 1.5}}
        assert await conn.fetchval("SELECT $1::jsonb", value) == value
        assert await conn.fetchval("SELECT $1::json", value) == value


async def test_what_the_driver_raises_leaves_the_block_as_ours(database: Settings) -> None:
    """In `get_db_connection`: with its SQLSTATE and the driver's error; what is not the driver's passes untouched."""
    with pytest.raises(db.DatabaseError, match='syntax error at or near "SELEC"') as caught:
        async with db.get_db_connection() as conn:
            await conn.execute("SELEC 1")
    assert caught.value.sqlstate == "42601"
    assert isinstance(caught.value.original_error, asyncpg.PostgresSyntaxError)
    assert caught.value.__cause__ is caught.value.original_error
    with pytest.raises(FileNotFoundError):
        async with db.get_db_connection():
            raise FileNotFoundError("the application's own")
    with pytest.raises(TimeoutError):
        async with db.get_db_connection() as conn, asyncio.timeout(0.05):
            await conn.execute("SELECT pg_sleep(10)")


async def test_a_statement_timeout_is_an_error_of_ours(database: Settings) -> None:
    """DB_STATEMENT_TIMEOUT ends a statement in the server, and the error names the setting."""
    configure(database.model_copy(update={"statement_timeout": 0.05}))
    with pytest.raises(db.DatabaseError, match="DB_STATEMENT_TIMEOUT") as caught:
        async with db.get_db_connection() as conn:
            await conn.execute("SELECT pg_sleep(10)")
    assert caught.value.sqlstate == "57014"


async def test_lifespan_opens_and_closes(database: Settings) -> None:
    """Inside the block the pool is open, after it none is; the application may be passed, as FastAPI does."""
    async with db.database_lifespan(object()):
        assert db.is_pool_active()
    assert not db.is_pool_active()


async def test_blocks_that_outlive_a_forced_close_raise_their_own_errors(database: Settings) -> None:
    """After the pool was cut off, leaving a block neither hides its error nor swallows its cancellation."""
    entered = asyncio.Event()

    async def hold(error: Exception | None) -> None:
        async with db.get_db_connection():
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if error is not None:
                    raise error from None
                raise

    for error, expected in ((KeyError("mine"), KeyError), (None, asyncio.CancelledError)):
        task = asyncio.create_task(hold(error))
        await entered.wait()
        entered.clear()
        await db.close_connection_pool(timeout=0.01)
        task.cancel()
        with pytest.raises(expected):
            await task


async def test_closing_twice_at_once_and_a_cancelled_closing_both_end(database: Settings) -> None:
    """Nobody sleeps out a timeout for nothing, and no connection stays open."""
    pool = await db.get_connection_pool()
    conn = await pool.acquire()
    closings = [asyncio.create_task(pool.close(30)) for _ in range(2)]
    cancelled = asyncio.create_task(pool.close(30))
    await asyncio.sleep(0)
    cancelled.cancel()
    async with asyncio.timeout(10):
        await pool.release(conn)
        await asyncio.gather(*closings)
    assert pool.get_size() == 0


async def test_waiting_callers_are_told_when_the_pool_is_cut_off(database: Settings) -> None:
    """terminate() does not leave them to their deadline."""
    configure(database.model_copy(update={"max_connections": 1}))
    pool = await db.get_connection_pool()
    await pool.acquire()
    waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
    await until(lambda: pool.get_stats()["waiting"] == 1)
    pool.terminate()
    with pytest.raises(db.ConnectionPoolError, match="the connection pool is closed"):
        await waiting


def test_the_pause_between_attempts_stays_finite() -> None:
    """Also after thousands of attempts it is a number of seconds, between its bounds."""
    from database.pool import backoff

    for attempt in (0, 1, 5, 2_000, 10**6):
        assert 0.01 <= backoff(attempt) <= 0.2


def test_pools_of_ended_loops_are_forgotten(database_in_sync_test: Settings) -> None:
    """However many event loops a process has had, it keeps the pool of one of them at most beside the living one."""

    async def use() -> None:
        assert await (await db.get_connection_pool()).fetchval("SELECT 1") == 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # nobody closed them: that is the point
        for _ in range(5):
            asyncio.run(use())
        assert len([loop for loop in registry._pools if loop.is_closed()]) == 1
        registry._pools.clear()
        gc.collect()


async def test_a_refused_connection_does_not_fail_those_who_can_be_served(database: Settings) -> None:
    """While the server takes no new connections, a caller waits for one that is in use, and gets it."""
    pool = await db.get_connection_pool()
    conn = await pool.acquire()
    admin = await asyncpg.connect(direct_dsn(database).replace(urlsplit(database.dsn).path, "/postgres"))
    name = urlsplit(database.dsn).path[1:]
    try:
        await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
        await until(lambda: pool._connect_error is not None)
        await pool.release(conn)
        assert await waiting == 1
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
        await admin.close()


async def test_discarding_all_does_not_break_the_next_statement(database: Settings) -> None:
    """DISCARD ALL throws the prepared statements away; the connection makes new ones."""
    configure(database.model_copy(update={"max_connections": 1}))
    await db.get_document_by_code("c")
    async with db.get_db_connection() as conn:
        await conn.execute("DISCARD ALL")
    assert await db.get_document_by_code("c") is None


async def _copy_many(conn: db.Connection, number: int = 1_000) -> str:
    """More than fits into the buffers on the way, so that COPY has to wait for room to write into."""
    rows = [(f"code {row}", "name", "text " * 2_000) for row in range(number)]
    return await conn.copy_records_to_table("document", columns=["code", "name", "content"], records=rows)


async def test_a_copy_ends_with_its_connection(database: Settings) -> None:
    """It does not wait for ever for room to write into where the connection is lost."""
    terminate = """
        SELECT pg_terminate_backend(pid)
          FROM pg_stat_activity
         WHERE query LIKE 'COPY%' AND wait_event_type = 'Lock' AND datname = current_database()
    """
    async with asyncio.timeout(30), db.get_db_transaction() as holder:
        await holder.execute("LOCK TABLE document IN SHARE MODE")
        with pytest.raises(db.OutcomeUnknownError):
            async with db.get_db_connection() as conn:
                copying = asyncio.create_task(_copy_many(conn))
                while not await db.execute_with_retry(terminate):
                    await asyncio.sleep(0.01)
                await copying
        with pytest.raises(asyncio.CancelledError):
            async with db.get_db_connection() as conn:
                copying = asyncio.create_task(_copy_many(conn))
                await asyncio.sleep(0.2)
                copying.cancel()
                await copying
    async with db.get_db_connection() as conn:
        assert await _copy_many(conn) == "COPY 1000"


async def test_a_copy_that_stands_still_ends_in_time(database: Settings, server_url: str) -> None:
    """DB_COMMAND_TIMEOUT bounds it as it does other statements."""
    name = database.dsn.rpartition("/")[2].partition("?")[0]
    async with asyncio.timeout(30), proxy_to(server_url) as proxy:
        through_proxy = {"database_url": SecretStr(proxy.url(name)), "command_timeout": 0.5}
        configure(database.model_copy(update=through_proxy))
        with pytest.raises(db.OutcomeUnknownError, match="DB_COMMAND_TIMEOUT"):
            async with db.get_db_connection() as conn:
                await _copy_many(conn, 0)  # asks for the columns, and remembers them
                proxy.stall()
                await _copy_many(conn)
        proxy.resume()
        assert await db.get_document_count() == 0
