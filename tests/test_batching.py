"""
Calls that share statements: nobody can tell, except by the clock.

A test for each thing that a caller could tell. Random interleavings of all of it: test_batching_model.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

import database as db
from database import Settings
from database.settings import configure
from tests.conftest import database_url
from tests.proxy import Proxy, proxy_to
from tests.running import run_program

from .conftest import direct_dsn

pytestmark = pytest.mark.usefixtures("database")

NUL = "no \x00 here"
SURROGATE = "no \ud800 here"


async def all_of(*calls: Awaitable[Any]) -> list[Any]:
    """What each of *calls*, made at the same time, returned or raised."""
    async with asyncio.timeout(60):
        return await asyncio.gather(*calls, return_exceptions=True)


async def statements() -> int:
    """How many statements, shared or not, were sent until now."""
    return int((await db.get_pool_stats())["requests"])


@asynccontextmanager
async def another_client(settings: Settings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that has nothing to do with the package."""
    connection = await asyncpg.connect(direct_dsn(settings))
    try:
        yield connection
    finally:
        await connection.close()


async def until_waiting_for_a_lock(settings: Settings) -> None:
    """Wait until a statement of this database waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with another_client(settings) as client, asyncio.timeout(20):
        while not await client.fetchval(waiting):
            await asyncio.sleep(0.01)


# --- sharing


async def test_concurrent_calls_share_statements() -> None:
    """Five hundred calls of each kind at once need a handful of statements, and do what they say."""
    codes = [f"c{n}" for n in range(500)]
    await db.get_connection_pool()
    ids: dict[str, str] = {}
    calls: tuple[tuple[Callable[[str], Awaitable[Any]], Callable[[str, Any], bool]], ...] = (
        (lambda code: db.insert_document(code, code, "t"), lambda code, result: result["code"] == code),
        (lambda code: db.get_document_by_code(code), lambda code, result: result["code"] == code),
        (lambda code: db.upsert_document(code, code, "u"), lambda _, result: result["status"] == "updated"),
        (lambda code: db.update_document_content(code, "v"), lambda _, result: result is True),
        (lambda code: db.delete_document(code), lambda _, result: result is True),
        (
            lambda code: db.save_chat_history(1, code, "q", "a"),
            lambda code, result: ids.setdefault(code, result) == result,
        ),
        (lambda code: db.get_recent_chat_history(code), lambda code, result: result[0]["thread_id"] == code),
        (lambda code: db.get_chat_message_by_id(ids[code]), lambda code, m: m["thread_id"] == code),
        (lambda code: db.delete_chat_message(ids[code]), lambda _, result: result is True),
        (lambda code: db.delete_thread_history(code), lambda _, result: result == 0),
    )
    for call, check in calls:
        before = await statements()
        results = await all_of(*(call(code) for code in codes))
        assert [code for code, result in zip(codes, results, strict=True) if not check(code, result)] == []
        assert await statements() - before <= 12
    assert await db.get_document_count() == 0


async def test_batching_can_be_turned_off(database: Settings) -> None:
    """With DB_BATCHING=off each call is a statement of its own; the results are the same."""
    configure(database.model_copy(update={"batching": "off"}))
    await db.get_connection_pool()
    before = await statements()
    results = await all_of(*(db.upsert_document("n", f"c{n}", NUL if n == 7 else "t") for n in range(50)))
    assert await statements() - before == 50
    assert [n for n, result in enumerate(results) if not isinstance(result, dict)] == [7]


async def test_calls_with_conn_stay_in_the_transaction_of_their_caller() -> None:
    """What is said through conn= is seen there, shared with nobody, and gone with the transaction."""
    with pytest.raises(ZeroDivisionError):
        async with db.get_db_transaction() as conn:
            await db.insert_document("n", "mine", "t", conn=conn)
            mine, others = await all_of(
                db.get_document_by_code("mine", conn=conn), *(db.get_document_by_code("mine") for _ in range(1))
            )
            assert mine["content"] == "t"
            assert others is None
            1 / 0  # noqa: B018
    assert await db.get_document_by_code("mine") is None


# --- own row


async def test_each_caller_gets_a_dict_of_its_own() -> None:
    """Callers who ask for the same key at once may each change what they got."""
    await db.insert_document("n", "c", "t", metadata={"tags": ["a"]})
    message_id = await db.save_chat_history(1, "thread", "q", "a", metadata={"tags": ["a"]})
    for call in (
        lambda: db.get_document_by_code("c"),
        lambda: db.get_chat_message_by_id(message_id),
        lambda: db.get_recent_chat_history("thread"),
    ):
        first, *others = await all_of(*(call() for _ in range(20)))
        first = first[0] if isinstance(first, list) else first
        first["metadata"]["tags"].append("b")
        first["name"] = "changed"
        for other in others:
            other = other[0] if isinstance(other, list) else other
            assert other["metadata"] == {"tags": ["a"]}
            assert other.get("name") in ("n", None)


async def test_pages_of_threads_come_to_whom_they_belong() -> None:
    """Calls for different threads, users, sizes and places each get what they would get alone."""
    last = {}
    for thread in ("a", "b", "empty"):
        for n in range(0 if thread == "empty" else 7):
            last[thread, n] = await db.save_chat_history(n % 2, thread, f"{thread}{n}", "x")
    asked: list[dict[str, Any]] = [
        {"thread_id": thread, "limit": limit, "offset": offset, "user_id": user_id, "after": after and last[after]}
        for thread in ("a", "b", "empty")
        for limit in (0, 1, 3, 10)
        for offset in (0, 2)
        for user_id in (None, 0, 1)
        for after in (None, ("a", 4), ("b", 3))
    ]
    together = await all_of(*(db.get_recent_chat_history(**kwargs) for kwargs in asked))
    alone = [await db.get_recent_chat_history(**kwargs) for kwargs in asked]
    assert together == alone
    assert max(map(len, alone)) == 7


# --- own error


@pytest.mark.parametrize("bad", [NUL, SURROGATE, "refused"])
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda n, text: db.insert_document("n", f"c{n}", text), db.DocumentError),
        (lambda n, text: db.upsert_document("n", f"c{n}", text), db.DocumentError),
        (lambda n, text: db.update_document_content(f"old{n}", text), db.DocumentError),
        (lambda n, text: db.save_chat_history(1, f"c{n}", text, "a"), db.ChatHistoryError),
    ],
    ids=["insert", "upsert", "update", "save"],
)
async def test_a_bad_row_among_two_hundred_fails_alone(
    bad: str, call: Callable[[int, str], Awaitable[Any]], kind: type[db.DatabaseError]
) -> None:
    """Whoever sent it is told, by name; the other 199 are stored."""
    async with db.get_db_connection() as conn:
        await conn.execute(
            "INSERT INTO document (code, name, content) SELECT 'old' || n, 'n', 't' FROM generate_series(0, 199) n"
        )
        await conn.execute("ALTER TABLE document ADD CHECK (content <> 'refused')")
        await conn.execute("ALTER TABLE chat_history ADD CHECK (question <> 'refused')")
    results = await all_of(*(call(n, bad if n == 123 else "good") for n in range(200)))
    assert [n for n, result in enumerate(results) if isinstance(result, Exception)] == [123]
    assert isinstance(results[123], kind)
    assert "123'" in str(results[123])
    async with db.get_db_connection() as conn:
        stored = await conn.fetchval(
            "SELECT (SELECT count(*) FROM document WHERE content = 'good') + (SELECT count(*) FROM chat_history)"
        )
    assert stored == 199


async def test_errors_are_not_shared() -> None:
    """Two callers who fail for the same reason get two exceptions, each with its own document in it."""
    results = await all_of(*(db.insert_document("n", f"c{n}", NUL) for n in range(20)))
    assert len({id(result) for result in results}) == 20
    assert all(f"'c{n}'" in str(result) for n, result in enumerate(results))
    async with db.get_db_transaction() as conn:
        await conn.execute("DROP TABLE document CASCADE")
    results = await all_of(*(db.get_document_by_code(f"c{n}") for n in range(20)))
    assert len({id(result) for result in results}) == 20
    assert all(f"'c{n}'" in str(result) and result.sqlstate == "42P01" for n, result in enumerate(results))


async def test_a_row_that_kills_its_connection_takes_no_other_along(database: Settings) -> None:
    """Where one row makes the server hang up, again and again, the others are stored once, and it alone is unknown."""
    configure(database.model_copy(update={"connection_timeout": 4.0}))
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.content = 'poison' THEN
                    PERFORM pg_terminate_backend(pg_backend_pid());
                    PERFORM pg_sleep(10);
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER hang_up BEFORE INSERT ON document FOR EACH ROW EXECUTE FUNCTION hang_up();
        """)
    results = await all_of(*(db.insert_document("n", f"c{n}", "poison" if n == 5 else "t") for n in range(30)))
    assert isinstance(results[5], db.OutcomeUnknownError)
    assert [n for n, result in enumerate(results) if not isinstance(result, dict)] == [5]
    assert await db.get_document_count() == 29


async def test_a_slow_row_takes_no_other_along(database: Settings) -> None:
    """Where a shared statement takes longer than DB_COMMAND_TIMEOUT, only the call that is to blame is not known."""
    configure(database.model_copy(update={"command_timeout": 0.5, "connection_timeout": 0.4}))
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.content = 'slow' THEN PERFORM pg_sleep(20); END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER dawdle BEFORE INSERT ON document FOR EACH ROW EXECUTE FUNCTION dawdle();
        """)
    results = await all_of(*(db.insert_document("n", f"c{n}", "slow" if n == 33 else "t") for n in range(60)))
    assert [n for n, result in enumerate(results) if not isinstance(result, dict)] == [33]
    assert isinstance(results[33], db.OutcomeUnknownError)


async def test_a_wrong_argument_is_an_error_of_its_own_caller() -> None:
    """What is no key, or no text, fails alone, as it does without sharing."""
    wrong: Any = ["x"]
    calls: list[Callable[[Any], Awaitable[Any]]] = [
        lambda key: db.get_document_by_code(key),
        lambda key: db.delete_document(key),
        lambda key: db.update_document_content(key, "t"),
        lambda key: db.upsert_document("n", key, "t"),
        lambda key: db.get_recent_chat_history(key),
        lambda key: db.delete_thread_history(key),
        lambda key: db.save_chat_history(1, key, "q", "a"),
    ]
    for call in calls:
        results = await all_of(*(call(wrong if n == 5 else f"c{n}") for n in range(20)))
        failed = [n for n, result in enumerate(results) if isinstance(result, Exception)]
        assert failed == [5]
        assert isinstance(results[5], db.DatabaseError)
    assert (await db.get_pool_stats())["in_use"] == 0


# --- own deadline, own cancellation


async def test_a_caller_who_gives_up_disturbs_no_other(database: Settings) -> None:
    """Deadlines and cancellations end single calls, waiting or under way; all others get their results."""
    await asyncio.gather(*(db.insert_document("n", f"c{n}", "t") for n in range(100)))
    rng = random.Random(1)
    for _ in range(30):
        tasks = [
            asyncio.create_task(
                db.get_document_by_code(f"c{n}") if n % 2 else db.upsert_document("n", f"c{n}", str(rng.random()))
            )
            for n in range(100)
        ]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        given_up = set(rng.sample(range(100), rng.randrange(1, 99)))
        for n in given_up:
            tasks[n].cancel()
        results = await all_of(*tasks)
        for n, result in enumerate(results):
            if n in given_up:
                assert isinstance(result, asyncio.CancelledError) or result["code"] == f"c{n}"
            else:
                assert result["code"] == f"c{n}"
    stats = await db.get_pool_stats()
    assert stats["in_use"] == 0
    assert stats["size"] <= database.max_connections


async def test_a_timeout_bounds_the_call_whatever_the_others_wait_for(database: Settings) -> None:
    """`asyncio.timeout` ends a call that shares a statement with one that waits for a lock."""
    await db.insert_document("n", "locked", "t")
    async with another_client(database) as client, client.transaction():
        await client.execute("SELECT FROM document WHERE code = 'locked' FOR UPDATE")
        waiting = [asyncio.create_task(db.upsert_document("n", "locked", "new")) for _ in range(3)]
        await until_waiting_for_a_lock(database)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await db.upsert_document("n", "locked", "never mind")
    assert [result["code"] for result in await all_of(*waiting)] == ["locked"] * 3


async def test_calls_behind_a_locked_key_are_told_at_their_own_deadlines(database: Settings) -> None:
    """Who waits for an earlier call about the same document is told after DB_CONNECTION_TIMEOUT, and not done later."""
    configure(database.model_copy(update={"connection_timeout": 0.5}))
    await db.insert_document("n", "locked", "t")
    async with another_client(database) as client:
        transaction = client.transaction()
        await transaction.start()
        await client.execute("SELECT FROM document WHERE code = 'locked' FOR UPDATE")
        first = asyncio.create_task(db.upsert_document("n", "locked", "first"))
        await until_waiting_for_a_lock(database)
        behind = await all_of(*(db.upsert_document("n", "locked", f"behind {n}") for n in range(3)))
        assert [type(result) for result in behind] == [db.PoolTimeoutError] * 3
        assert "does somebody hold a lock?" in str(behind[0])
        assert not first.done()
        await transaction.rollback()
        assert (await first)["status"] == "updated"
    assert (await db.get_document_by_code("locked") or {})["content"] == "first"


async def test_all_tasks_may_be_cancelled_and_the_program_go_on() -> None:
    """Whoever ends all tasks of an event loop, and then makes calls, gets answers."""
    await db.get_connection_pool()
    for steps in range(6):
        tasks = [asyncio.create_task(db.upsert_document("n", f"c{n}", "t")) for n in range(50)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await all_of(*tasks)
        assert {
            result["code"] for result in await all_of(*(db.upsert_document("n", f"d{n}", "t") for n in range(9)))
        } == {f"d{n}" for n in range(9)}


# --- locks


async def test_a_locked_row_holds_up_only_the_calls_that_need_it(database: Settings) -> None:
    """While somebody has locked a document or a thread, calls for all others are done, in whatever statement."""
    await db.insert_document("n", "locked", "t")
    calls: list[Callable[[int], Awaitable[Any]]] = [
        lambda n: db.upsert_document("n", f"u{n}" if n else "locked", "new"),
        lambda n: db.update_document_content(f"u{n}" if n else "locked", "newer"),
        lambda n: db.save_chat_history(1, f"t{n}" if n else "locked", "q", "a"),
        lambda n: db.delete_document(f"u{n}" if n else "locked"),
    ]
    for call in calls:
        async with another_client(database) as client:
            transaction = client.transaction()
            await transaction.start()
            await client.execute("SELECT FROM document WHERE code = 'locked' FOR UPDATE")
            await client.execute("SELECT pg_advisory_xact_lock(hashtextextended('locked', 0))")
            tasks = [asyncio.ensure_future(call(n)) for n in (1, 2, *range(40, 3, -1), 0, 3)]
            assert len([task for task in tasks if task is not tasks[-2]]) == 40
            others = await all_of(*(task for task in tasks if task is not tasks[-2]))
            assert not [result for result in others if isinstance(result, Exception)]
            assert not tasks[-2].done()
            await transaction.rollback()
            assert not isinstance((await all_of(tasks[-2]))[0], Exception)


async def test_whoever_holds_a_lock_can_go_on_through_the_package(database: Settings) -> None:
    """A transaction that has locked what others wait for, and makes calls apart from it, does not wait for itself."""
    for code in "abcd":
        await db.insert_document("n", code, "t")
    async with db.get_db_transaction() as conn:
        for code in "abcd":
            await db.update_document_content(code, "mine", conn=conn)
        blocked = [asyncio.create_task(db.update_document_content(code, "theirs")) for code in "abcd"]
        await until_waiting_for_a_lock(database)
        (done,) = await all_of(db.update_document_content("not there", "x"))
        assert done is False
    assert await all_of(*blocked) == [True] * 4
    assert (await db.get_document_by_code("a") or {})["content"] == "theirs"


async def test_an_update_does_not_wait_for_rows_that_refer_to_the_document(database: Settings) -> None:
    """A transaction that has inserted a row with a foreign key to a document holds up no change of its content."""
    await asyncio.gather(*(db.insert_document("n", f"c{n}", "t") for n in range(9)))
    async with another_client(database) as client:
        await client.execute("CREATE TABLE note (code text REFERENCES document (code))")
        async with client.transaction():
            await client.execute("INSERT INTO note SELECT code FROM document")
            assert await all_of(*(db.update_document_content(f"c{n}", "new") for n in range(9))) == [True] * 9


async def test_a_statement_leaves_no_setting_behind(database: Settings) -> None:
    """The short lock timeout of a shared statement is not that of whoever gets the connection next."""
    configure(database.model_copy(update={"max_connections": 1}))
    await all_of(*(db.upsert_document("n", f"c{n}", "t") for n in range(20)))
    await all_of(*(db.save_chat_history(1, f"c{n}", "q", "a") for n in range(20)))
    pool = await db.get_connection_pool()
    connection = await pool.borrow(asyncio.get_running_loop().time() + 5)  # as it is, without a reset
    assert await connection.fetchval("SHOW lock_timeout") == "0"
    pool.give_back(connection)


async def test_processes_that_write_the_same_rows_do_not_deadlock(database: Settings) -> None:
    """Statements that speak of the same documents and threads in any order wait for each other at most."""
    await asyncio.gather(*(db.insert_document("n", f"c{n}", "t") for n in range(30)))

    async def write(seed: int) -> None:
        rng = random.Random(seed)
        codes = [f"c{n}" for n in range(60)]
        async with asyncio.timeout(60):
            for _ in range(8):
                rng.shuffle(codes)
                await asyncio.gather(
                    *(db.upsert_document("n", code, str(rng.random())) for code in codes),
                    *(db.update_document_content(code, str(rng.random())) for code in codes[::2]),
                    *(db.delete_document(code) for code in codes[::3]),
                    *(db.insert_document("n", code, "t") for code in codes[::3]),
                    *(db.save_chat_history(1, code, "q", "a") for code in codes),
                    *(db.delete_thread_history(code) for code in codes[::3]),
                    return_exceptions=True,
                )
        await db.close_connection_pool()

    # event loops of their own have pools and lanes of their own, as processes do
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, write(seed)) for seed in range(3)))
    async with another_client(database) as client:
        deadlocks = await client.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0


# --- order and visibility


async def test_an_acknowledged_write_is_seen_by_the_next_call_of_any_task(database: Settings) -> None:
    """Also through another client: it is committed before its caller is told."""
    async with another_client(database) as client:
        lock = asyncio.Lock()

        async def write_and_read(n: int) -> None:
            for version in range(5):
                await db.upsert_document("n", f"c{n}", str(version))
                document, elsewhere = await asyncio.gather(db.get_document_by_code(f"c{n}"), _content(client, lock, n))
                assert document is not None
                assert document["content"] == elsewhere == str(version)

        await asyncio.gather(*(write_and_read(n) for n in range(50)))


async def _content(client: asyncpg.Connection[asyncpg.Record], lock: asyncio.Lock, n: int) -> Any:
    async with lock:
        return await client.fetchval("SELECT content FROM document WHERE code = $1", f"c{n}")


async def test_a_thread_keeps_the_order_of_its_saves() -> None:
    """Saves of one thread, one after the other or made at once, are read in the order in which they were made."""

    async def talk(thread: str) -> None:
        for n in range(5):
            await asyncio.gather(*(db.save_chat_history(1, thread, f"{n} {part}", "a") for part in range(3)))

    await asyncio.gather(*(talk(f"t{n}") for n in range(30)))
    expected = [f"{n} {part}" for n in range(5) for part in range(3)]
    for n in range(30):
        history = await db.get_recent_chat_history(f"t{n}", limit=100)
        assert [message["question"] for message in reversed(history)] == expected


async def test_upserts_of_one_code_end_as_if_one_came_after_the_other() -> None:
    """One inserts, the others update, and what is stored is what the last of them stored."""
    results = await all_of(*(db.upsert_document("n", "c", f"text {n}") for n in range(40)))
    assert sorted(result["status"] for result in results) == ["inserted"] + ["updated"] * 39
    last = max(results, key=lambda result: result["updated_at"])
    stored = await db.get_document_by_code("c")
    assert stored == {key: value for key, value in last.items() if key != "status"}


async def test_inserts_and_deletions_of_one_code_are_done_once() -> None:
    """Of many inserts of a code one succeeds and the others are told; of many deletions one has deleted something."""
    results = await all_of(*(db.insert_document("n", "c", f"text {n}") for n in range(40)))
    inserted = [result for result in results if isinstance(result, dict)]
    assert len(inserted) == 1
    assert {result.sqlstate for result in results if isinstance(result, db.DocumentError)} == {"23505"}
    assert await db.get_document_by_code("c") == inserted[0]
    assert sorted(await all_of(*(db.delete_document("c") for _ in range(40)))) == [False] * 39 + [True]

    message_id = await db.save_chat_history(1, "t", "q", "a")
    await db.save_chat_history(1, "t", "q", "a")
    assert sorted(await all_of(*(db.delete_chat_message(message_id) for _ in range(40)))) == [False] * 39 + [True]
    assert sorted(await all_of(*(db.delete_thread_history("t") for _ in range(40)))) == [0] * 39 + [1]


async def test_rare_keys_do_not_wait_for_large_ones_for_ever(database: Settings) -> None:
    """While many read what fills an answer, a small document that nobody else wants is read as well."""
    configure(database.model_copy(update={"batch_max_bytes": 100_000}))
    for n in range(4):
        await db.insert_document("n", f"hot{n}", "x" * 90_000)
    await db.insert_document("n", "cold", "t")
    stop = asyncio.Event()

    async def read(n: int) -> None:
        while not stop.is_set():
            assert await db.get_document_by_code(f"hot{n % 4}")

    readers = [asyncio.create_task(read(n)) for n in range(16)]
    async with asyncio.timeout(30):
        for _ in range(10):
            document = await db.get_document_by_code("cold")
            assert document is not None
    stop.set()
    await asyncio.gather(*readers)


# --- lost connections


@pytest.fixture
async def proxy(server_url: str, database: Settings) -> AsyncIterator[Proxy]:
    """A proxy between the package and the server."""
    name = database.dsn.rpartition("/")[2].partition("?")[0]
    async with proxy_to(server_url) as proxy:
        configure(database.model_copy(update={"database_url": SecretStr(proxy.url(name))}))
        await db.get_connection_pool()
        yield proxy
        await db.close_connection_pool(timeout=1)


async def test_reads_whose_answer_is_lost_are_repeated(proxy: Proxy) -> None:
    """Nobody who shared the statement notices."""
    await asyncio.gather(*(db.insert_document("n", f"c{n}", "t") for n in range(50)))
    proxy.swallow = b"c49"  # a parameter, so that the statement has been executed
    results = await all_of(*(db.get_document_by_code(f"c{n}") for n in range(50)))
    assert [result["code"] for result in results] == [f"c{n}" for n in range(50)]
    assert proxy.swallow is None


@pytest.mark.parametrize("event", ["swallow", "lose"])
async def test_writes_with_a_key_of_ours_are_repeated_and_stored_once(proxy: Proxy, event: str) -> None:
    """Whether the statement or its answer was lost on the way: each caller gets its result, each row is there once."""
    setattr(proxy, event, b"c49")
    inserted = await all_of(*(db.insert_document("n", f"c{n}", "t") for n in range(50)))
    assert [result["code"] for result in inserted] == [f"c{n}" for n in range(50)]
    assert getattr(proxy, event) is None
    setattr(proxy, event, b"q49")
    saved = await all_of(*(db.save_chat_history(1, "t", f"q{n}", "a") for n in range(50)))
    assert getattr(proxy, event) is None
    history = await db.get_recent_chat_history("t", limit=100)
    assert [message["id"] for message in reversed(history)] == saved
    assert await db.get_document_count() == 50


async def test_deletions_whose_answer_is_lost_are_unknown_to_each_caller(proxy: Proxy) -> None:
    """A repetition could delete what was stored meanwhile, so it is not made; those in other statements are done."""
    await asyncio.gather(*(db.insert_document("n", f"c{n}", "t") for n in range(20)))
    proxy.swallow = b"c19"
    results = await all_of(*(db.delete_document(f"c{n}") for n in range(20)))
    unknown = [result for result in results if isinstance(result, db.OutcomeUnknownError)]
    assert len(unknown) + results.count(True) == 20
    assert unknown
    assert len({id(result) for result in unknown}) == len(unknown)

    ids = [await db.save_chat_history(1, f"t{n}", "q", "a") for n in range(20)]
    proxy.swallow = UUID(ids[19]).bytes
    messages = await all_of(*(db.delete_chat_message(message_id) for message_id in ids))
    proxy.swallow = b"t19"
    threads = await all_of(*(db.delete_thread_history(f"t{n}") for n in range(20)))
    for results in (messages, threads):
        assert [result for result in results if isinstance(result, db.OutcomeUnknownError)]
        assert {type(result) for result in results} <= {db.OutcomeUnknownError, bool, int}


@pytest.mark.parametrize("batching", ["on", "off"])
async def test_a_write_that_may_have_been_done_is_unknown_also_if_the_server_stays_away(
    server_url: str, database: Settings, batching: str
) -> None:
    """After a lost answer nothing says that it was not stored, least of all that the server cannot be reached."""
    name = database.dsn.rpartition("/")[2].partition("?")[0]
    async with proxy_to(server_url) as proxy:
        url = SecretStr(proxy.url(name))
        configure(database.model_copy(update={"database_url": url, "connection_timeout": 1.0, "batching": batching}))
        await db.get_connection_pool()

        async def stay_away() -> None:
            proxy.stall()

        proxy.swallow, proxy.before_the_cut = b"answered never", stay_away
        with pytest.raises(db.OutcomeUnknownError):
            await db.save_chat_history(1, "t", "answered never", "a")
        proxy.resume()
        await db.close_connection_pool(timeout=1)


async def test_backends_killed_again_and_again_lose_and_double_nothing(database: Settings) -> None:
    """What was acknowledged is there, once, and no caller sees an error."""
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def save(n: int) -> None:
        while not stop.is_set():
            acknowledged.append(await db.save_chat_history(n, f"t{n % 7}", "q", "a"))
            document = await db.upsert_document("n", f"c{n}", str(len(acknowledged)))
            assert document["code"] == f"c{n}"

    await db.get_connection_pool()
    async with another_client(database) as client, asyncio.timeout(60), asyncio.TaskGroup() as group:
        for n in range(40):
            group.create_task(save(n))
        for _ in range(25):
            await asyncio.sleep(0.02)
            await client.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        stop.set()
    async with another_client(database) as client:
        stored = [row["id"] for row in await client.fetch("SELECT id::text FROM chat_history")]
    assert sorted(stored) == sorted(acknowledged)


# --- memory


async def test_a_statement_keeps_to_its_limits(database: Settings) -> None:
    """At most DB_BATCH_MAX_ROWS rows and DB_BATCH_MAX_BYTES bytes, as the server counts; more only for one alone."""
    configure(database.model_copy(update={"batch_max_rows": 10, "batch_max_bytes": 5_000}))
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE TABLE seen (rows bigint, bytes bigint);
            CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO seen SELECT count(*), sum(octet_length(content)) FROM stored;
                RETURN NULL;
            END $$;
            CREATE TRIGGER see AFTER INSERT ON document REFERENCING NEW TABLE AS stored
                FOR EACH STATEMENT EXECUTE FUNCTION see();
        """)
    lengths = [10] * 60 + [1_200] * 30 + [9_000] * 5
    random.Random(3).shuffle(lengths)
    await asyncio.gather(*(db.insert_document("n", f"c{n}", "x" * length) for n, length in enumerate(lengths)))
    async with db.get_db_connection() as conn:
        seen = await conn.fetch("SELECT rows, bytes FROM seen")
    assert sum(row["rows"] for row in seen) == 95
    assert max(row["rows"] for row in seen) == 10
    assert all(row["bytes"] <= 5_000 or row["rows"] == 1 for row in seen)
    documents = await asyncio.gather(*(db.get_document_by_code(f"c{n}") for n in range(95)))
    assert [len(document["content"]) for document in documents if document] == lengths


async def test_many_callers_with_much_text_do_not_eat_the_memory(database: Settings, tmp_path: Path) -> None:
    """A thousand callers who each write and read 1 MB at once need little more than what they hold themselves."""
    program = run_program(
        """
        import asyncio, resource
        import database as db

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        async def read(thread):
            return sum(len(message["answer"]) for message in await db.get_recent_chat_history(thread))

        async def get(code):
            return len((await db.get_document_by_code(code))["content"])

        async def main():
            text = "x " * 2**19
            await db.save_chat_history(1, "warm", "q", text)
            await read("warm")
            before = peak()
            await asyncio.gather(*(db.save_chat_history(1, f"t{n}", "q", text) for n in range(1000)))
            after_writing = peak()
            read_bytes = await asyncio.gather(*(read(f"t{n}") for n in range(1000)))
            assert read_bytes == [2**20] * 1000
            for n in range(40):
                await db.insert_document("n", f"c{n}", text, metadata={"long": text[:500_000]})
            assert await asyncio.gather(*(get(f"c{n}") for n in range(40))) == [2**20] * 40
            print(after_writing - before, peak() - before)
            await db.close_connection_pool()

        asyncio.run(main())
        """.replace("\n        ", "\n"),
        tmp_path,
        DATABASE_URL=database.dsn,
    )
    writing, reading = map(int, program.stdout.split())
    assert writing < 100
    assert reading < 100


# --- the pool


async def test_lanes_do_not_starve_who_borrows_connections(database: Settings) -> None:
    """With one connection and calls without end, everybody who asks for the connection gets it in turn."""
    configure(database.model_copy(update={"max_connections": 1}))
    await db.insert_document("n", "c", "t")
    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            assert await db.get_document_by_code("c")

    readers = [asyncio.create_task(read()) for _ in range(50)]
    async with asyncio.timeout(30):
        for _ in range(20):
            async with db.get_db_connection() as conn:
                assert await conn.fetchval("SELECT 1") == 1
    assert not any(reader.done() for reader in readers)
    stop.set()
    await asyncio.gather(*readers)


async def test_lanes_hold_no_connection_when_idle() -> None:
    """As soon as all calls have their results, every connection is free."""
    await all_of(*(db.upsert_document("n", f"c{n}", "t") for n in range(100)))
    await all_of(*(db.get_document_by_code(f"c{n}") for n in range(100)))
    stats = await db.get_pool_stats()
    assert stats["in_use"] == 0
    assert stats["idle"] == stats["size"]


async def test_calls_that_wait_for_a_connection_are_told_at_their_own_deadlines(database: Settings) -> None:
    """Each waits DB_CONNECTION_TIMEOUT from its own start, and is counted among those who wait."""
    configure(database.model_copy(update={"max_connections": 1, "connection_timeout": 0.5}))
    pool = await db.get_connection_pool()
    loop = asyncio.get_running_loop()

    async def call(n: int) -> tuple[float, Exception]:
        await asyncio.sleep(n * 0.1)
        began = loop.time()
        try:
            await db.get_document_by_code(f"c{n}")
        except db.PoolTimeoutError as exc:
            return loop.time() - began, exc
        raise AssertionError("there was no connection")

    async with pool.acquire():
        tasks = [asyncio.create_task(call(n)) for n in range(4)]
        await asyncio.sleep(0.35)
        assert pool.get_stats()["waiting"] == 4
        results = await all_of(*tasks)
    assert all(0.45 <= waited < 5 for waited, _ in results)
    assert len({id(exc) for _, exc in results}) == 4
    assert await db.get_document_by_code("c") is None


# --- closing


async def test_closing_the_pool_finishes_what_was_accepted() -> None:
    """Calls that were made before the pool is closed get their results."""
    await db.get_connection_pool()
    tasks = [asyncio.create_task(db.upsert_document("n", f"c{n}", "t")) for n in range(600)]
    await asyncio.sleep(0)
    await db.close_connection_pool()
    assert all(task.done() for task in tasks)
    assert {task.result()["status"] for task in tasks} == {"inserted"}
    assert await db.get_document_count() == 600


async def test_closing_the_pool_refuses_what_it_cannot_finish(database: Settings) -> None:
    """Those that still wait at the deadline are told that the pool is closed; those under way, that it is unknown."""
    configure(database.model_copy(update={"max_connections": 2}))
    pool = await db.get_connection_pool()
    async with another_client(database) as client, client.transaction():
        await client.execute("LOCK TABLE document")
        tasks = [asyncio.create_task(db.upsert_document("n", f"c{n}", "t")) for n in range(600)]
        await until_waiting_for_a_lock(database)
        async with asyncio.timeout(10):
            await db.close_connection_pool(timeout=0.3)
            results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {db.ConnectionPoolError, db.OutcomeUnknownError}
    refused = [result for result in results if isinstance(result, db.ConnectionPoolError)]
    assert refused
    assert all("the connection pool is closed" in str(result) for result in refused)
    assert pool.is_closing()
    assert pool.get_size() == 0
    known = await db.get_document_count()  # of a new pool
    assert known <= 600 - len(refused)


async def test_closing_the_pool_refuses_those_behind_a_locked_key(database: Settings) -> None:
    """Calls that wait for an earlier one about the same document are told, too."""
    await db.insert_document("n", "locked", "t")
    async with another_client(database) as client, client.transaction():
        await client.execute("SELECT FROM document WHERE code = 'locked' FOR UPDATE")
        tasks = [asyncio.create_task(db.upsert_document("n", "locked", str(n))) for n in range(5)]
        await until_waiting_for_a_lock(database)
        async with asyncio.timeout(10):
            await db.close_connection_pool(timeout=0.3)
            first, *behind = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, db.OutcomeUnknownError)
    assert {type(result) for result in behind} == {db.ConnectionPoolError}


async def test_closing_the_pool_may_be_cancelled(database: Settings) -> None:
    """Whoever does not want to wait for accepted calls any longer has a closed pool all the same."""
    pool = await db.get_connection_pool()
    await db.insert_document("n", "locked", "t")
    async with another_client(database) as client, client.transaction():
        await client.execute("SELECT FROM document WHERE code = 'locked' FOR UPDATE")
        call = asyncio.create_task(db.upsert_document("n", "locked", "new"))
        await until_waiting_for_a_lock(database)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await db.close_connection_pool(timeout=10)
        assert pool.get_size() == 0
        assert isinstance((await all_of(call))[0], db.OutcomeUnknownError)


async def test_nobody_hangs_when_the_program_ends_in_the_middle(database: Settings, tmp_path: Path) -> None:
    """An event loop that ends while calls wait for a lock ends, without a word."""
    run_program(
        """
        import asyncio
        import database as db

        async def main():
            conn = await (await db.get_connection_pool()).acquire()
            await conn.execute("BEGIN; LOCK TABLE document")
            tasks = [asyncio.create_task(db.upsert_document("n", f"c{n}", "t")) for n in range(50)]
            await asyncio.sleep(0.2)

        asyncio.run(main())
        """.replace("\n        ", "\n"),
        tmp_path,
        DATABASE_URL=database.dsn,
    )


async def test_a_url_of_another_database_is_another_lane(server_url: str, database: Settings) -> None:
    """After the pool was closed and the settings changed, calls go where the settings say."""
    await db.insert_document("n", "c", "t")
    await db.close_connection_pool()
    configure(database.model_copy(update={"database_url": database_url(server_url, "postgres")}))
    results = await all_of(*(db.get_document_by_code("c") for _ in range(5)))
    assert all(isinstance(result, db.DocumentError) or result is None for result in results)
    await db.close_connection_pool()
    configure(database)
    assert await db.get_document_by_code("c")
