"""Tasks are cancelled at any moment, in every public function that speaks to the server."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import database as db
from database import Connection, repository
from database.settings import configure

from .outcome import Outcome, Plan
from .servers import running_server
from .writers import Writers

_AT_ONCE = 40
_LONGEST = 0.02
_CONNECTIONS = 10
_HANGS = 20.0
_IDLE = """
    SELECT count(*) FROM pg_stat_activity
     WHERE state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()
"""
_LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND locktype <> 'virtualxid'
"""

_numbers = itertools.count()
Caller = Callable[[], Awaitable[object]]


def _new() -> str:
    return f"c{next(_numbers)}"


def _old() -> str:
    return f"old {random.randrange(50)}"


async def _iterate() -> None:
    async for _ in db.iter_documents():
        pass


async def _borrow() -> None:
    async with db.get_db_connection() as conn:
        await conn.fetch("SELECT pg_advisory_lock(1)")


async def _transact() -> None:
    async with db.get_db_transaction() as conn:
        await conn.execute("INSERT INTO pair VALUES ('t', 1)")
        async with db.get_db_transaction(conn=conn) as inner:
            await db.upsert_document("n", _old(), "t", conn=inner)


async def _embed(texts: list[str]) -> list[list[float]]:
    await asyncio.sleep(0)
    return [[1.0, len(text)] for text in texts]


async def _insert_pair(conn: Connection) -> None:
    await conn.execute("INSERT INTO pair VALUES ('t', 1)")
    await db.save_chat_history(1, _old(), "q", "a", conn=conn)


async def _cursor() -> None:
    async with db.get_db_transaction() as conn:
        async for _ in conn.cursor("SELECT generate_series(1, 500)", prefetch=50):
            pass


async def _copy() -> None:
    async with db.get_db_transaction() as conn:
        await conn.copy_records_to_table("pair", records=[("t", 1)] * 500)


def callers_in(directory: Path) -> dict[str, Caller]:
    """A call of each public function, with files from *directory*."""
    return {
        "insert_document": lambda: db.insert_document("n", _new(), "t"),
        "upsert_document": lambda: db.upsert_document("n", _old(), "t"),
        "update_document_content": lambda: db.update_document_content(_old(), "t"),
        "delete_document": lambda: db.delete_document(_new()),
        "get_document_by_code": lambda: db.get_document_by_code(_old()),
        "get_documents_by_codes": lambda: db.get_documents_by_codes([_old(), _old()]),
        "get_list_of_documents": lambda: db.get_list_of_documents(limit=20),
        "list_documents_page": lambda: db.list_documents_page(page=1, page_size=20),
        "iter_documents": _iterate,
        "get_document_count": db.get_document_count,
        "search_documents": lambda: db.search_documents("text"),
        "search_sections": lambda: db.search_sections("text", mode="hybrid", vector=[1.0, 1.0]),
        "suggest_terms": lambda: db.suggest_terms("texxt"),
        "refresh_search_index": db.refresh_search_index,
        "init_section_vectors": lambda: db.init_section_vectors(2),
        "embed_missing": lambda: db.embed_missing(_embed),
        "list_missing_embeddings": db.list_missing_embeddings,
        "save_chat_history": lambda: db.save_chat_history(1, _old(), "q", "a"),
        "get_recent_chat_history": lambda: db.get_recent_chat_history(_old()),
        "get_chat_message_by_id": lambda: db.get_chat_message_by_id(str(uuid4())),
        "delete_chat_message": lambda: db.delete_chat_message(str(uuid4())),
        "delete_chat_history_before": lambda: db.delete_chat_history_before(datetime(2000, 1, 1, tzinfo=UTC)),
        "get_user_threads": lambda: db.get_user_threads(1),
        "search_chat_history": lambda: db.search_chat_history("q"),
        "delete_thread_history": lambda: db.delete_thread_history(_old()),
        "ingest_directory": lambda: db.ingest_directory(directory, code_prefix="ingested/"),
        "ingest_files_batch": lambda: db.ingest_files_batch([{"path": directory / "1.md", "code": "one of a batch"}]),
        "read_and_insert_md_file": lambda: db.read_and_insert_md_file(directory / "2.md", "one"),
        "get_db_connection": _borrow,
        "get_db_transaction": _transact,
        "run_in_transaction": lambda: db.run_in_transaction(_insert_pair),
        "execute_with_retry": lambda: db.execute_with_retry("UPDATE pair SET half = 2 WHERE token = 'none'"),
        "cursor": _cursor,
        "copy_records_to_table": _copy,
        "health_report": db.health_report,
        "health_check": db.health_check,
        "ping_postgres": db.ping_postgres,
        "init_document_table": db.init_document_table,
        "init_chat_history_table": db.init_chat_history_table,
        "enable_row_security": db.enable_row_security,
        "migrate": db.migrate,
        "migration_status": db.migration_status,
        "create_table": lambda: db.create_table("made", {"name": "text"}),
        "ensure_public_schema": db.ensure_public_schema,
        "verify_schema": lambda: db.verify_schema("public"),
        "ensure_project_schema": lambda: db.ensure_project_schema("of_one_project"),
        "get_connection_pool": db.get_connection_pool,
        "repository.insert": lambda: repository.insert("pair", {"token": _new(), "half": 1}),
        "repository.insert_many": lambda: repository.insert_many("pair", [{"token": _new(), "half": 1}] * 3),
        "repository.upsert": lambda: repository.upsert("kept", {"key": _old(), "value": 1}, "key"),
        "repository.upsert_many": lambda: repository.upsert_many("kept", [{"key": _old(), "value": 1}], "key"),
        "repository.update": lambda: repository.update("pair", {"half": 2}, {"token": _old()}),
        "repository.delete": lambda: repository.delete("pair", {"token": _new()}),
        "repository.fetch": lambda: repository.fetch("pair", {"token": _old()}),
        "repository.fetch_one": lambda: repository.fetch_one("document", {"code": _old()}),
        "repository.count": lambda: repository.count("pair"),
        "repository.exists": lambda: repository.exists("pair", {"token": _old()}),
        "repository.execute_raw": lambda: repository.execute_raw("SELECT 1"),
        "repository.describe_table": lambda: repository.describe_table("pair"),
    }


async def cancel_at_any_moment(plan: Plan) -> Outcome:
    """
    Callers of every kind, of which each is cancelled after a random time; others beside them are never.

    A cancellation is lost where the task neither ends as cancelled nor had ended already.
    """
    outcome = Outcome({"cancellations": 0, "ended before": 0, "calls of others": 0})
    goal = plan.times(200_000, 600)
    directory = plan.place / "files"
    directory.mkdir()
    for number in range(20):
        (directory / f"{number}.md").write_text(f"# {number}\n\ntext\n")
    callers = callers_in(directory)
    with running_server() as server:
        configure(server.settings(max_connections=_CONNECTIONS, connection_timeout=_HANGS))
        try:
            await Writers.make_tables()
            for number in range(50):
                await db.insert_document("n", f"old {number}", "text " * 200)
            await db.init_section_vectors(2)
            pool = await db.get_connection_pool()
            await pool.execute("CREATE TABLE kept (key text PRIMARY KEY, value int)")
            async with _others(outcome), asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(_cancel_again_and_again(callers, goal, outcome))
            await _settled(pool, outcome)
            for what, query in (("backends idle in transaction", _IDLE), ("locks held", _LOCKS)):
                left = (await server.fetch(query))[0]["count"]
                if left:
                    outcome.breaks(f"{what}: {left}")
            stats = pool.get_stats()
            outcome.figures["connections made for it"] = stats["connects"]
            if stats["in_use"] or stats["size"] > _CONNECTIONS:
                outcome.breaks(f"leaked connections: {stats['in_use']} in use, {stats['size']} of {_CONNECTIONS}")
        finally:
            await db.close_connection_pool(timeout=2)
            configure(None)
        sessions = await server.fetch(
            "SELECT query FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        if sessions:
            outcome.breaks(f"{len(sessions)} sessions outlive the pool: {sessions[0]['query']}")
    return outcome


async def _cancel_again_and_again(callers: dict[str, Caller], goal: int, outcome: Outcome) -> None:
    names = list(callers)
    while int(outcome.figures["cancellations"]) < goal:
        random.shuffle(names)
        for name in names:
            task: asyncio.Task[Any] = asyncio.ensure_future(callers[name]())
            # half of them between two steps of the loop, where nothing but steps tells the moments apart
            if random.random() < 0.5:
                for _ in range(random.randrange(12)):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(random.uniform(0, _LONGEST))
            was_done = task.done()
            task.cancel()
            _, hanging = await asyncio.wait([task], timeout=_HANGS)
            outcome.count("ended before" if was_done else "cancellations")
            if hanging:
                outcome.breaks(f"{name} hangs after its cancellation")
            elif not task.cancelled():
                exc = task.exception()
                if exc is not None:
                    outcome.breaks(f"{name} raised {type(exc).__name__}: {exc}")
                elif not was_done:
                    outcome.count(f"lost cancellations: {name}")
                    outcome.breaks(f"{name} went on to its end")


@asynccontextmanager
async def _others(outcome: Outcome) -> AsyncIterator[None]:
    """Callers whom nobody cancels: each gets its own answer."""
    stop = asyncio.Event()

    async def call(number: int) -> None:
        code = f"other {number}"
        await db.insert_document("n", code, "t")
        turns = 0
        while not stop.is_set():
            turns += 1
            document = await db.get_document_by_code(code)
            await db.save_chat_history(number, code, str(turns), "a")
            last = (await db.get_recent_chat_history(code, limit=1))[0]
            if document is None or document["code"] != code or last["question"] != str(turns):
                outcome.breaks(f"an unharmed caller was told another's answer: {document} {last}")
            outcome.count("calls of others", 3)

    tasks = [asyncio.create_task(call(number)) for number in range(5)]
    try:
        yield
    finally:
        stop.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                outcome.breaks(f"an unharmed caller got {type(result).__name__}: {result}")


async def _settled(pool: db.Pool, outcome: Outcome) -> None:
    """Wait for what goes on behind the callers' backs: resets, closings, statements that were shared."""
    try:
        async with asyncio.timeout(_HANGS):
            while pool.get_stats()["in_use"] or pool._resetting or pool._chores:
                await asyncio.sleep(0.01)
    except TimeoutError:
        outcome.breaks("the pool does not come to rest")
