"""What a test does within db_transaction is undone, however it does it. Against a real server."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import database as db
from database import Connection, Settings, repository
from database.contrib.fastapi import ConnectionDep, TransactionDep, install_error_handlers
from database.settings import configure
from database.testing import create_savepoint, rollback_to_savepoint, rolled_back, with_transaction
from database.testing.databases import TestRun, used_by_default


@pytest.fixture
async def watcher(worker_database: Settings) -> AsyncIterator[Any]:
    """A connection outside of the transaction; what it is asked for before has ended when it looks a last time."""
    connection = await asyncpg.connect(worker_database.dsn)
    tables = "SELECT (SELECT count(*) FROM document) + (SELECT count(*) FROM chat_history)"
    assert await connection.fetchval(tables) == 0
    schema = "SELECT count(*) FROM pg_class"
    before = await connection.fetchval(schema)
    yield connection
    assert await connection.fetchval(tables) == 0
    assert await connection.fetchval(schema) == before
    await connection.close()


@pytest.fixture
def transaction(watcher: Any, db_transaction: Connection) -> Connection:
    return db_transaction


async def codes() -> set[str]:
    return {document["code"] for document in await db.get_list_of_documents(limit=1000)}


async def store(code: str, conn: Connection | None = None) -> None:
    await db.insert_document("name", code, "text", conn=conn)


async def test_calls_without_a_connection_see_each_other_and_are_undone(transaction: Connection, watcher: Any) -> None:
    """Of what is stored without conn=, everything within the test is seen, and nothing outside of it."""
    await store("a")
    await db.save_chat_history(1, "thread", "question", "answer")
    assert await codes() == {"a"}
    assert await db.get_recent_chat_history("thread")
    assert await transaction.fetchval("SELECT count(*) FROM document") == 1
    assert await watcher.fetchval("SELECT count(*) FROM document") == 0


async def test_concurrent_calls_are_undone(transaction: Connection) -> None:
    """Also those that would share statements; one that fails takes no other along."""
    await store("5")
    results = await asyncio.gather(*(store(str(n)) for n in range(200)), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [db.DocumentError]
    assert len(await codes()) == 200
    found = await asyncio.gather(*(db.get_document_by_code(str(n)) for n in range(200)))
    assert all(found)


async def test_a_statement_that_fails_spoils_nothing(transaction: Connection) -> None:
    """Neither in a call of the package nor in SQL of the test's own."""
    await store("a")
    with pytest.raises(db.DocumentError):
        await store("a")
    with pytest.raises(asyncpg.UndefinedTableError):
        await transaction.fetch("SELECT * FROM nowhere")
    async with db.get_db_connection() as conn:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.execute("SELECT 1 / 0")
        assert await conn.fetchval("SELECT count(*) FROM document") == 1
    assert await codes() == {"a"}


async def test_transactions_of_the_code_are_savepoints(transaction: Connection) -> None:
    """They commit and roll back by themselves, nest through conn=, and are all undone with the test."""
    async with db.get_db_transaction() as conn:
        await store("kept", conn)
        with pytest.raises(ZeroDivisionError):
            async with db.get_db_transaction(conn=conn) as inner:
                await store("inner", inner)
                raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with db.get_db_transaction() as conn:
            await store("gone", conn)
            raise ZeroDivisionError
    assert await codes() == {"kept"}


async def test_a_swallowed_error_still_fails_the_commit(transaction: Connection) -> None:
    """A transaction whose statement failed is rolled back as a whole, and says so, as it would in earnest."""
    with pytest.raises(db.DatabaseError, match="failed before"):
        async with db.get_db_transaction() as conn:
            await store("a", conn)
            with pytest.raises(asyncpg.DivisionByZeroError):
                await conn.execute("SELECT 1 / 0")
    assert await codes() == set()


async def test_concurrent_transactions_take_turns(transaction: Connection) -> None:
    """Each is whole, whichever the others' end is."""

    async def work(number: int) -> None:
        async with db.get_db_transaction() as conn:
            await store(f"{number}a", conn)
            await asyncio.sleep(0)
            await store(f"{number}b", conn)
            if number % 2:
                raise ZeroDivisionError

    results = await asyncio.gather(*(work(number) for number in range(10)), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [ZeroDivisionError] * 5
    assert await codes() == {f"{number}{part}" for number in range(0, 10, 2) for part in "ab"}


async def test_calls_without_a_connection_inside_of_a_transaction_do_not_wait_for_it(transaction: Connection) -> None:
    """Alone, concurrent, in transactions of their own, and in tasks that were started there."""
    async with db.get_db_transaction() as conn:
        await store("outer", conn)
        await store("alone")
        await asyncio.gather(*(store(f"task {number}") for number in range(3)))

        async def work(number: int) -> None:
            async with db.get_db_transaction() as inner:
                await store(f"transaction {number}", inner)

        await asyncio.gather(*(work(number) for number in range(3)))
        await store("outer again", conn)
    assert len(await codes()) == 9


async def test_rows_can_be_changed_while_they_are_read(transaction: Connection) -> None:
    """Reading in portions is a transaction that may only read, and calls beside it may write."""
    for code in "abc":
        await store(code)
    async for document in db.iter_documents():
        await db.update_document_content(document["code"], "new")
    documents = await db.get_documents_by_codes(list("abc"))
    assert {document["content"] for document in documents} == {"new"}


async def test_a_transaction_that_may_only_read_cannot_write(transaction: Connection) -> None:
    with pytest.raises(db.DatabaseError) as caught:
        async with db.get_db_transaction(readonly=True) as conn:
            await conn.execute("DELETE FROM document")
    assert caught.value.sqlstate == "25006"
    await store("a")


async def test_ingestion_is_undone(transaction: Connection, tmp_path: Path) -> None:
    """With its several connections, its own transactions and its work in the background."""
    for number in range(30):
        (tmp_path / f"{number}.md").write_text(f"# Title {number}\n\nText {number}.")
    result = await db.ingest_directory(tmp_path)
    assert result["inserted"] == 30
    assert await db.search_documents("text")
    assert await db.search_sections("title 7")


async def test_tables_that_the_test_makes_are_undone(transaction: Connection) -> None:
    """DDL as well, and what is prepared for it does not disturb the next test."""
    for _ in range(2):
        with rolled_back():
            await repository.execute_raw("CREATE TABLE made (id int PRIMARY KEY, word text)")
            await repository.insert("made", {"id": 1, "word": "x"})
            assert await repository.get_by_id("made", 1) == {"id": 1, "word": "x"}
        with rolled_back():
            await repository.execute_raw("CREATE TABLE made (id uuid PRIMARY KEY, number int)")
            assert (await repository.insert("made", {"number": 2}))["number"] == 2


async def test_settings_do_not_outlive_the_transaction_that_they_were_made_in(transaction: Connection) -> None:
    """SET LOCAL ends with the code's transaction, SET with the use of the connection."""
    async with db.get_db_transaction() as conn:
        await conn.execute("SET LOCAL work_mem = '1234kB'; SET LOCAL my.name = 'x'")
    async with db.get_db_connection() as conn:
        assert await conn.fetchval("SHOW work_mem") != "1234kB"
        assert not await conn.fetchval("SELECT current_setting('my.name', true)")
        await conn.execute("SET work_mem = '1234kB'")
    async with db.get_db_connection() as conn:
        assert await conn.fetchval("SHOW work_mem") != "1234kB"


async def test_deferred_constraints_are_checked_where_the_code_commits(watcher: Any, worker_database: Settings) -> None:
    """As they would be in earnest, although the COMMIT never comes."""
    await watcher.execute(
        "CREATE TABLE parent (id int PRIMARY KEY);"
        "CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
    try:
        with used_by_default(worker_database), rolled_back():
            async with db.get_db_transaction() as conn:
                await conn.execute("INSERT INTO child VALUES (1)")
                await conn.execute("INSERT INTO parent VALUES (1)")
            with pytest.raises(db.DatabaseError) as caught:
                async with db.get_db_transaction() as conn:
                    await conn.execute("INSERT INTO child VALUES (2)")
            assert caught.value.sqlstate == "23503"
            with pytest.raises(db.RepositoryError):
                await repository.insert("child", {"id": 3})
            assert await repository.count("child") == 1
    finally:
        await watcher.execute("DROP TABLE child, parent")


async def test_transactions_by_hand_are_savepoints_as_well(transaction: Connection) -> None:
    """Also BEGIN and COMMIT in SQL text, one by one or in a script."""
    async with db.get_db_connection() as conn:
        assert not conn.is_in_transaction()
        await conn.execute("BEGIN")
        assert conn.is_in_transaction()
        await store("a", conn)
        assert await conn.execute("ROLLBACK") == "ROLLBACK"
        await conn.execute("BEGIN; INSERT INTO document (code, name, content) VALUES ('b', 'n', 't'); COMMIT")
        async with conn.transaction():
            await store("c", conn)
        with pytest.raises(asyncpg.NoActiveSQLTransactionError):
            await conn.execute("SAVEPOINT here")
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="fresh_database"):
            await conn.execute("PREPARE TRANSACTION 'x'")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="create_savepoint"):
        await transaction.execute("COMMIT")
    assert await codes() == {"b", "c"}


async def test_a_transaction_that_is_left_open_is_undone_when_its_connection_comes_back(
    transaction: Connection,
) -> None:
    pool = await db.get_connection_pool()
    conn = await pool.acquire()
    await conn.execute("BEGIN")
    await store("a", conn)
    await pool.release(conn)
    assert await codes() == set()


async def test_a_cancelled_call_leaves_the_transaction_usable(transaction: Connection) -> None:
    """Whether it waits in the server or in a transaction of its own."""
    await store("a")

    async def sleep() -> None:
        async with db.get_db_transaction() as conn:
            await store("gone", conn)
            await conn.execute("SELECT pg_sleep(60)")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sleep()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await repository.execute_raw("SELECT pg_sleep(60)")
    assert await codes() == {"a"}


async def test_rows_come_and_go_by_copy(transaction: Connection, tmp_path: Path) -> None:
    """From rows, files and generators of the test's event loop, and back."""
    await repository.insert_many("document", [{"code": f"c{n}", "name": "n", "content": "t"} for n in range(500)])
    async with db.get_db_connection() as conn:
        file = tmp_path / "rows"
        await conn.copy_from_query("SELECT code, name, content FROM document", output=file)
        await conn.execute("DELETE FROM document")
        await conn.copy_to_table("document", source=file, columns=["code", "name", "content"])

        async def rows() -> AsyncIterator[tuple[str, str, str]]:
            yield "last", "n", "t"

        await conn.copy_records_to_table("document", records=rows(), columns=["code", "name", "content"])
    assert await db.get_document_count() == 501


async def test_who_waits_for_a_transaction_that_waits_for_it_is_told(
    transaction: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two transactions that need each other cannot be had on one connection; the error says where the other began."""
    monkeypatch.setattr("database.testing.line._PATIENCE", 0.2)
    began, done = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with db.get_db_transaction() as conn:
            await store("a", conn)
            began.set()
            await done.wait()

    async def second() -> None:
        await began.wait()
        try:
            await store("b")
        finally:
            done.set()

    results = await asyncio.gather(first(), second(), return_exceptions=True)
    assert isinstance(results[1], db.PoolTimeoutError)
    assert "fresh_database" in str(results[1])
    assert Path(__file__).name in str(results[1])


# --- savepoints and the decorator


async def test_settings_of_the_test_itself_stay(transaction: Connection) -> None:
    """What the test sets on its connection holds for it, whatever the code sets and resets."""
    await transaction.execute("SET LOCAL work_mem = '1234kB'; SET search_path TO pg_temp, public; SET ROLE pg_monitor")
    await transaction.fetchval("SELECT set_config('app.tenant', $1, true)", "seven")
    own = "SELECT current_setting('work_mem'), current_setting('search_path'), current_user, current_setting($1)"

    async def mine() -> tuple[Any, ...]:
        return tuple(await transaction.fetchrow(own, "app.tenant") or ())

    before = await mine()
    assert before == ("1234kB", "pg_temp, public", "pg_monitor", "seven")
    async with db.get_db_connection() as conn:
        await conn.execute("SELECT 1")
    assert await mine() == before
    async with db.get_db_transaction() as conn:
        await conn.execute("SET LOCAL ROLE NONE; SET LOCAL work_mem = '5MB'; SET LOCAL statement_timeout = '7s'")
        await conn.execute("SELECT set_config('app.tenant', 'eight', true)")
        assert await conn.fetchval("SHOW work_mem") == "5MB"
    assert await mine() == before
    assert await transaction.fetchval("SHOW statement_timeout") == "0"
    async with db.get_db_connection() as conn:
        await conn.execute("SET search_path TO public")
    async with asyncio.timeout(10):  # connections that come back are reset in the background
        while await mine() != before:
            pass


async def test_a_lost_connection_is_told_at_once(db_transaction: Connection) -> None:
    """Nobody tries for DB_CONNECTION_TIMEOUT to reach what cannot come back."""
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await db_transaction.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    async with asyncio.timeout(10):
        with pytest.raises(db.DatabaseNotAvailableError, match="the test's transaction was lost, and all of it undone"):
            await store("a")


async def test_savepoints(transaction: Connection) -> None:
    """What came after one is undone as often as wanted, also in the code's own transaction."""
    await store("a")
    await create_savepoint("before the changes")
    for _ in range(2):
        await store("b")
        await asyncio.gather(store("c"), store("d"))
        await rollback_to_savepoint("before the changes")
        assert await codes() == {"a"}
    async with db.get_db_transaction() as conn:
        await store("e", conn)
        await create_savepoint("inside", conn=conn)
        await store("f", conn)
        await rollback_to_savepoint("inside", conn=conn)
    assert await codes() == {"a", "e"}
    with pytest.raises(db.DatabaseError, match="nothing"):
        await rollback_to_savepoint("nothing")


async def test_a_savepoint_needs_a_transaction() -> None:
    with pytest.raises(db.DatabaseError, match="db_transaction"):
        await create_savepoint("x")


@with_transaction
async def test_a_decorated_function_gets_the_connection(watcher: Any, conn: Connection) -> None:
    """and pytest's fixtures beside it; the database is that of the tests."""
    await store("a")
    assert await conn.fetchval("SELECT count(*) FROM document") == 1
    assert await watcher.fetchval("SELECT count(*) FROM document") == 0


class TestDecorated:
    """Methods as well."""

    @with_transaction
    async def test_method(self, watcher: Any) -> None:
        await store("a")
        assert await watcher.fetchval("SELECT count(*) FROM document") == 0


async def test_the_decorator_undoes_where_it_ends(transaction: Connection) -> None:
    """Within a test, a decorated function is a part of it that is undone when it returns, or raises."""

    @with_transaction
    async def work(code: str, *, txn: Any) -> set[str]:
        await store(code)
        await txn.execute("UPDATE document SET name = 'x'")
        return await codes()

    await store("a")
    assert await work("b") == {"a", "b"}
    with pytest.raises(db.DocumentError):
        await work("a")
    assert await codes() == {"a"}
    with pytest.raises(TypeError, match="async def"):
        with_transaction(lambda: None)  # type: ignore[arg-type,return-value]  # what a checker sees, too


# --- event loops


@pytest.mark.asyncio(loop_scope="function")
async def test_in_the_loop_of_the_function(transaction: Connection, database_pool: db.Pool) -> None:
    await store("a")
    assert await database_pool.fetchval("SELECT count(*) FROM document") == 1


@pytest.mark.asyncio(loop_scope="class")
class TestInTheLoopOfTheClass:
    @pytest.mark.parametrize("time", [1, 2])
    async def test_twice(self, time: int, db_transaction: Connection, database_pool: db.Pool) -> None:
        await store("a")
        assert await database_pool.fetchval("SELECT count(*) FROM document") == 1


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("time", [1, 2])
async def test_in_the_loop_of_the_module(time: int, db_transaction: Connection, database_pool: db.Pool) -> None:
    await store("a")
    assert await database_pool.fetchval("SELECT count(*) FROM document") == 1


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("time", [1, 2])
async def test_in_the_loop_of_the_session(time: int, db_transaction: Connection, database_pool: db.Pool) -> None:
    await store("a")
    assert await database_pool.fetchval("SELECT count(*) FROM document") == 1


def test_loops_of_the_test_itself(db_transaction: Connection) -> None:
    """A test that is no coroutine may run as many loops as it likes: they share the transaction."""
    asyncio.run(store("a"))
    assert asyncio.run(codes()) == {"a"}
    thread = threading.Thread(target=lambda: asyncio.run(store("b")))
    thread.start()
    thread.join()
    assert asyncio.run(codes()) == {"a", "b"}


async def test_a_pool_that_was_open_before_is_diverted_and_comes_back(
    fresh_database: Settings,
) -> None:
    """Who has kept the pool itself, as an application may, is undone as well."""
    pool = await db.get_connection_pool()
    await store("before")
    with rolled_back():
        await pool.execute("INSERT INTO document (code, name, content) VALUES ('a', 'n', 't')")
        await store("b")
        assert await codes() == {"before", "a", "b"}
        assert pool is await db.get_connection_pool()
    assert await codes() == {"before"}
    assert pool is await db.get_connection_pool()


async def test_further_databases_are_undone_as_well(
    fresh_database: Settings, database_run: TestRun, database_template: str
) -> None:
    """Each in a transaction of its own."""
    other = database_run.create(database_template)
    configure(other, "other")
    try:
        with rolled_back():
            async with db.get_db_transaction("other") as conn:
                await store("there", conn)
            await store("here")
            async with db.get_db_connection("other") as conn:
                assert await conn.fetchval("SELECT code FROM document") == "there"
            assert await codes() == {"here"}
        async with db.get_db_connection("other") as conn:
            assert await conn.fetchval("SELECT count(*) FROM document") == 0
        await db.close_connection_pool("other")
    finally:
        configure(None, "other")
        database_run.drop(other)


def test_what_still_runs_at_the_end_is_cancelled(worker_database: Settings) -> None:
    """A task that was left behind does not hold up the end of the test, nor what comes after it."""
    failed: list[BaseException] = []

    def leave_behind() -> None:
        try:
            asyncio.run(db.execute_with_retry("SELECT pg_sleep(60)"))
        except BaseException as exc:
            failed.append(exc)

    with used_by_default(worker_database):
        with rolled_back():
            thread = threading.Thread(target=leave_behind)
            thread.start()
            while not asyncio.run(is_sleeping(worker_database)):
                pass
        thread.join(30)
        assert not thread.is_alive()
        assert len(failed) == 1
        with rolled_back():
            asyncio.run(store("a"))


async def test_what_outlives_a_test_does_not_reach_into_the_next(worker_database: Settings) -> None:
    """A transaction that is still open when its test ends: it is refused, and the next test notices nothing."""
    go_on = asyncio.Event()
    begun = asyncio.Event()

    async def outlive() -> None:
        async with db.get_db_transaction() as conn:
            await store("a", conn)
            begun.set()
            await go_on.wait()

    with used_by_default(worker_database):
        with rolled_back():
            outliving = asyncio.create_task(outlive())
            await begun.wait()
        with rolled_back():
            async with db.get_db_transaction() as conn:
                await store("b", conn)
                go_on.set()
                with pytest.raises(db.DatabaseError):
                    await outliving
                await store("c", conn)
            assert await codes() == {"b", "c"}
    await db.close_connection_pool()


async def is_sleeping(settings: Settings) -> bool:
    connection = await asyncpg.connect(settings.dsn)
    try:
        question = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
        return bool(await connection.fetchval(question))
    finally:
        await connection.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_refused(db_transaction: Connection) -> None:
    """It shares no transaction, and must not store anything in earnest either."""
    asyncio.run(store("a"))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            asyncio.run(store("b"))
        except db.DatabaseError as exc:
            os.write(writing, str(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert b"fresh_database" in os.read(reading, 1000)
    os.close(reading)
    os.waitpid(child, 0)
    assert asyncio.run(codes()) == {"a"}


# --- an application under test


def application() -> FastAPI:
    app = FastAPI(lifespan=db.database_lifespan)
    install_error_handlers(app)

    @app.put("/documents/{code}")
    async def put(code: str, conn: TransactionDep) -> dict[str, Any]:
        return await db.upsert_document("name", code, "text", conn=conn)

    @app.post("/documents/{code}")
    async def post(code: str) -> dict[str, Any]:
        return await db.insert_document("name", code, "text")

    @app.get("/documents")
    async def count(conn: ConnectionDep) -> int:
        found = await conn.fetchval("SELECT count(*) FROM document")
        return int(found)

    return app


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


async def test_an_application_in_the_same_loop(transaction: Connection) -> None:
    """Through httpx: what its requests store, the test sees, and the other way round; then it is undone."""
    await store("from the test")
    async with client_of(application()) as client:
        assert (await client.put("/documents/a")).status_code == 200
        answers = await asyncio.gather(*(client.post(f"/documents/{number}") for number in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        assert (await client.post("/documents/a")).status_code == 409
        assert (await client.get("/documents")).json() == 12
    assert len(await codes()) == 12


def test_an_application_in_a_loop_of_its_own(db_transaction: Connection) -> None:
    """Through Starlette's TestClient, which runs it in another thread."""
    asyncio.run(store("from the test"))
    with TestClient(application()) as client:
        assert client.put("/documents/a").status_code == 200
        assert client.post("/documents/a").status_code == 409
        assert client.get("/documents").json() == 2
    assert asyncio.run(codes()) == {"from the test", "a"}


async def test_a_test_client_within_an_async_test(transaction: Connection) -> None:
    await store("from the test")
    with TestClient(application()) as client:
        assert client.put("/documents/a").status_code == 200
    assert await codes() == {"from the test", "a"}
