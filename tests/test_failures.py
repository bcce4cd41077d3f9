"""
What the server may answer, and what becomes of it: each failure is sorted as it should be, and repeated where that is
right. Faults of the line, of the process and of whole servers: tests/torture.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

import database as db
from database import Connection, Settings
from database.connect_db import run_transaction
from database.settings import configure
from tests.torture.servers import Server, directory_for_servers, in_thread


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory for servers."""
    with directory_for_servers() as directory:
        yield directory


@pytest.fixture(scope="module")
def own_server(place: Path) -> Server:
    """A server whose settings a test may change."""
    server = Server.make(place / "own", "max_connections = 12\nsuperuser_reserved_connections = 3")
    server.start()
    return server


@pytest.fixture
async def pool(own_server: Server) -> AsyncIterator[db.Pool]:
    """A pool of it; what was set for the server is reset after the test."""
    configure(own_server.settings(max_connections=5, connection_timeout=20))
    yield await db.get_connection_pool()
    await db.close_connection_pool(timeout=1)
    configure(None)
    await own_server.fetch("ALTER SYSTEM RESET ALL")
    await own_server.fetch("SELECT pg_reload_conf()")


async def another(settings: Settings) -> asyncpg.Connection[asyncpg.Record]:
    """A connection past the package."""
    return await asyncpg.connect(settings.dsn)


async def until_waiting_for_a_lock(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not await connection.fetchval(waiting):
            await asyncio.sleep(0.01)


async def test_a_serialization_failure_at_commit_runs_the_closure_again(database: Settings) -> None:
    """What only COMMIT finds out (40001) is repeated as a whole, like what a statement finds out."""
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE TABLE asked (n int);
            CREATE SEQUENCE commits;
            CREATE FUNCTION refuse_twice() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('commits') <= 2 THEN
                    RAISE EXCEPTION 'collision' USING ERRCODE = 'serialization_failure';
                END IF;
                RETURN NULL;
            END $$;
            CREATE CONSTRAINT TRIGGER refuse_twice AFTER INSERT ON asked
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_twice();
        """)
    runs = 0

    async def ask(conn: Connection) -> None:
        nonlocal runs
        runs += 1
        await conn.execute("INSERT INTO asked VALUES (1)")

    await db.run_in_transaction(ask)
    assert runs == 3
    async with db.get_db_connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM asked") == 1


async def test_a_skewed_write_is_found_at_commit(database: Settings) -> None:
    """Two serializable closures that each read what the other writes: one of them runs again, and both are right."""
    async with db.get_db_connection() as conn:
        await conn.execute("CREATE TABLE doctor (name text, on_call bool)")
        await conn.execute("INSERT INTO doctor VALUES ('a', true), ('b', true)")
    both = asyncio.Barrier(2)
    runs: list[str] = []

    async def leave(conn: Connection, name: str) -> bool:
        runs.append(name)
        others = await conn.fetchval("SELECT count(*) FROM doctor WHERE on_call AND name <> $1", name)
        if len(runs) <= 2:
            await both.wait()
        if others:
            await conn.execute("UPDATE doctor SET on_call = false WHERE name = $1", name)
        return bool(others)

    left = await asyncio.gather(
        *(run_transaction(lambda conn, name=name: leave(conn, name), isolation="serializable") for name in "ab")  # type: ignore[misc]
    )
    assert sorted(left) == [False, True]
    assert len(runs) == 3


async def test_a_lock_timeout_is_repeated_until_the_lock_is_free(database: Settings) -> None:
    """55P03: certainly undone, so a data function waits on; a closure raises it as retryable."""
    await db.insert_document("n", "c", "t")
    async with db.get_db_connection() as conn:
        await conn.execute(f'ALTER DATABASE "{await conn.fetchval("SELECT current_database()")}" SET lock_timeout = 50')
    await db.close_connection_pool()
    holder = await another(database)
    await holder.execute("BEGIN; UPDATE document SET name = 'held' WHERE code = 'c'")

    async def update(conn: Connection) -> None:
        await conn.execute("UPDATE document SET name = 'closure'")

    with pytest.raises(db.DatabaseError, match="a lock was not to be had in time") as caught:
        await db.run_in_transaction(update)
    assert caught.value.sqlstate == "55P03"
    assert caught.value.retryable
    call = asyncio.create_task(db.update_document_content("c", "new"))
    await until_waiting_for_a_lock(holder)
    await holder.execute("SELECT pg_sleep(0.2)")  # several lock timeouts
    assert not call.done()
    await holder.execute("COMMIT")
    await call
    await holder.close()
    document = await db.get_document_by_code("c")
    assert document
    assert (document["name"], document["content"]) == ("held", "new")


async def test_a_statement_timeout_is_not_repeated(database: Settings) -> None:
    """57014: it would only strike again. Nothing is stored, and the error says which setting it was."""
    configure(database.model_copy(update={"statement_timeout": 0.2}))
    await db.insert_document("n", "c", "t")
    holder = await another(database)
    await holder.execute("BEGIN; LOCK TABLE document")
    before = (await db.get_pool_stats())["requests"]
    with pytest.raises(db.DocumentError, match="DB_STATEMENT_TIMEOUT") as caught:
        await db.update_document_content("c", "new")
    assert caught.value.sqlstate == "57014"
    assert not caught.value.retryable
    assert (await db.get_pool_stats())["requests"] == before + 1
    await holder.close()


async def test_a_server_without_room_is_waited_for(pool: db.Pool, own_server: Server) -> None:
    """53300: never sent, so callers wait until somebody else's connection ends, and no longer than their deadline."""
    await db.init_document_table()
    pool.expire_connections()
    others: list[asyncpg.Connection[asyncpg.Record]] = []
    with pytest.raises(asyncpg.TooManyConnectionsError):
        while True:
            others.append(await asyncpg.connect(own_server.dsn()))
    call = asyncio.create_task(db.get_document_count())
    async with asyncio.timeout(20):
        while pool._connect_error is None:
            await asyncio.sleep(0.01)
    assert isinstance(pool._connect_error, asyncpg.TooManyConnectionsError)
    assert not call.done()
    await asyncio.gather(*(connection.close() for connection in others))
    assert await call == 0


async def test_a_server_that_starts_is_waited_for(pool: db.Pool, own_server: Server) -> None:
    """57P03, and nobody who listens: never sent, so a call that came too early gets its answer."""
    await db.init_document_table()
    await in_thread(own_server.kill)
    call = asyncio.create_task(db.upsert_document("n", "early", "t"))
    await asyncio.sleep(0)
    await in_thread(own_server.start)
    assert (await call)["code"] == "early"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
async def test_a_full_disk_is_said_and_passes(place: Path) -> None:
    """53100: the error says so, nothing is stored, and once there is room again the same call succeeds."""
    small = place / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m,mode=0755", "tmpfs", small], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    server = Server(place / "full")
    try:
        owner = place.stat()
        os.chown(small, owner.st_uid, owner.st_gid)
        server = Server.make(small / "server", "max_wal_size = 32MB\nmin_wal_size = 32MB\nwal_recycle = off")
        server.start()
        configure(server.settings(connection_timeout=5))
        await db.init_document_table()
        filler = small / "filler"
        space = os.statvfs(small)
        with filler.open("wb") as file:
            file.write(bytes(space.f_bavail * space.f_frsize - 4 * 2**20))
        noise = "".join(map(chr, range(33, 127))) * 20
        with pytest.raises(db.DatabaseError) as caught:
            for number in range(200):
                await db.insert_document("n", f"c{number}", os.urandom(50_000).hex() + noise)
        stored = number
        assert isinstance(caught.value, db.DocumentError | db.DatabaseNotAvailableError | db.OutcomeUnknownError)
        filler.unlink()
        await in_thread(server.restart)
        async with asyncio.timeout(30):
            assert await db.get_document_count() in (stored, stored + isinstance(caught.value, db.OutcomeUnknownError))
        assert (await db.upsert_document("n", f"c{stored}", "t"))["code"] == f"c{stored}"
    finally:
        await db.close_connection_pool(timeout=1)
        configure(None)
        server.kill()
        subprocess.run(["umount", "-l", small], check=False)


async def test_a_standby_is_refused_at_once(pool: db.Pool, own_server: Server, place: Path) -> None:
    """25006 from a server that has been a standby all along is permanent: it is read from, and never waited for."""
    await db.init_document_table()
    await db.upsert_document("n", "replicated", "t")
    standby: Server = await in_thread(own_server.copy_to, place / "standby")
    await in_thread(standby.start)
    await db.close_connection_pool()
    configure(standby.settings(connection_timeout=60))
    assert await db.get_document_by_code("replicated")
    began = (await db.get_pool_stats())["connects"]
    for write in (
        db.upsert_document("n", "c", "t"),
        db.run_in_transaction(lambda conn: conn.execute("CREATE TABLE t ()")),
    ):
        async with asyncio.timeout(10):
            with pytest.raises(db.DatabaseError, match="read-only") as caught:
                await write
        assert caught.value.sqlstate == "25006"
        assert not caught.value.retryable
    assert (await db.get_pool_stats())["connects"] <= began + 1  # nobody replaced good connections
    report = await db.health_report()
    assert (report["status"], report["standby"], report["writable"]) == ("degraded", True, False)
    standby.kill()


async def test_a_primary_that_becomes_read_only_is_left(pool: db.Pool, own_server: Server) -> None:
    """25006 through a connection that could write before: all are replaced, and a new one is believed."""
    await db.init_document_table()
    await db.upsert_document("n", "c", "before")
    await own_server.fetch("ALTER SYSTEM SET default_transaction_read_only = on")
    await own_server.fetch("SELECT pg_reload_conf()")
    generation = pool._generation
    async with asyncio.timeout(20):
        with pytest.raises(db.DatabaseError, match="read-only") as caught:
            while True:  # until the sessions have heard of it
                await db.upsert_document("n", "c", "between")
    assert caught.value.sqlstate == "25006"
    assert pool._generation == generation + 1
    await own_server.fetch("ALTER SYSTEM RESET default_transaction_read_only")
    await own_server.fetch("SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while not (await db.health_report())["writable"]:
            await asyncio.sleep(0.01)
    pool.expire_connections()
    await db.upsert_document("n", "c", "after")


async def test_a_read_only_transaction_is_the_callers_own(database: Settings) -> None:
    """25006 that the caller asked for replaces no connection and is not retryable."""
    generation = (await db.get_connection_pool())._generation
    with pytest.raises(db.DatabaseError, match="read-only") as caught:
        async with db.get_db_transaction(readonly=True) as conn:
            await conn.execute("INSERT INTO document (name, code, content) VALUES ('n', 'c', 't')")
    assert not caught.value.retryable
    assert (await db.get_connection_pool())._generation == generation


async def test_a_transaction_that_idles_too_long_is_ended_by_the_server(pool: db.Pool, own_server: Server) -> None:
    """25P03: leaving the block raises, nothing was stored, and the next call has a good connection."""
    await db.init_document_table()
    with pytest.raises(db.DatabaseError, match=r"nothing was stored|idle for too long") as caught:
        async with db.get_db_transaction() as conn:
            await conn.execute("SET LOCAL idle_in_transaction_session_timeout = 50")
            await db.insert_document("n", "idle", "t", conn=conn)
            async with asyncio.timeout(20):
                while not conn.is_closed():
                    await asyncio.sleep(0.01)
    assert not isinstance(caught.value, db.OutcomeUnknownError)
    assert await db.get_document_by_code("idle") is None


async def test_tables_may_change_under_running_statements(database: Settings) -> None:
    """Columns come and go, types and indexes change: calls of every kind go on without an error."""
    await db.insert_document("n", "c", "t")
    stop = asyncio.Event()

    async def in_a_transaction(conn: Connection) -> None:
        assert await conn.fetchrow("SELECT * FROM document WHERE code = 'c'")
        await db.upsert_document("n", "d", str(time.monotonic()), conn=conn)
        assert await db.get_document_by_code("c", conn=conn)

    async def call(number: int) -> int:
        calls = 0
        while not stop.is_set():
            calls += 1
            await db.get_document_by_code("c")
            await db.upsert_document("n", f"c{number}", str(calls))
            await db.get_list_of_documents(limit=3)
            await db.save_chat_history(number, "t", "q", "a")
            await db.run_in_transaction(in_a_transaction)
        return calls

    tasks = [asyncio.create_task(call(number)) for number in range(6)]
    changer = await another(database)
    for number in range(15):
        for change in (
            "ALTER TABLE document ADD COLUMN IF NOT EXISTS extra int DEFAULT 1",
            "ALTER TABLE document ALTER COLUMN extra TYPE text",
            "ALTER TABLE document DROP COLUMN extra",
            f"CREATE INDEX name_{number} ON document (name)",
            f"DROP INDEX name_{number}",
            "ALTER TABLE chat_history ADD COLUMN IF NOT EXISTS mood text",
            "ALTER TABLE chat_history DROP COLUMN mood",
        ):
            await changer.execute(change)
        await asyncio.sleep(0.01)
    stop.set()
    assert all(await asyncio.gather(*tasks))
    await changer.close()
