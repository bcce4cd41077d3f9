"""Mixed calls for a long time: nothing grows."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from datetime import UTC, datetime

import psutil

import database as db
from database import Connection, repository
from database.settings import configure

from .outcome import Outcome, Plan
from .servers import running_server
from .writers import Writers

_CALLERS = 100
_CODES = 500
_PARTS = 10  # measured at the end of each
# after the first parts, which fill caches: what a process may be larger at the end without it being growth
_SLACK_BYTES = 8 * 2**20


async def call_a_million_times(plan: Plan) -> Outcome:
    """
    Reads, writes, searches, pages, transactions and errors; measured in between: memory, connections, tasks, and what
    the server's sessions have prepared.
    """
    calls = plan.times(1_000_000, 3_000)
    outcome = Outcome({"calls": 0, "errors that were asked for": 0})
    numbers = itertools.count()
    with running_server("autovacuum_naptime = 5s") as server:
        configure(server.settings(max_connections=10, connection_timeout=60))
        try:
            await Writers.make_tables()
            # what the tables hold must not grow, or answers would
            for number in range(_CODES):
                await db.insert_document("n", f"c{number}", "some text " * 20)
            process = psutil.Process()
            memory: list[int] = []
            tasks: list[int] = []
            for part in range(1, _PARTS + 1):
                await _call(calls * part // _PARTS, numbers, outcome)
                gc.collect()
                memory.append(process.memory_info().rss)
                tasks.append(len(asyncio.all_tasks()))
                await db.delete_chat_history_before(_far_away())
            pool = await db.get_connection_pool()
            stats = pool.get_stats()
            prepared = max([await _prepared(pool) for _ in range(stats["size"])], default=0)
        finally:
            await db.close_connection_pool(timeout=5)
            configure(None)
    # the first parts warm the caches up
    growth = memory[-1] - memory[_PARTS // 3]
    outcome.figures |= {
        "memory of the process after a third, MB": memory[_PARTS // 3] // 2**20,
        "memory of the process at the end, MB": memory[-1] // 2**20,
        "connections at the end": stats["size"],
        "connections in use at the end": stats["in_use"],
        "connections made": stats["connects"],
        "tasks at the end": tasks[-1],
        "prepared statements of a session, most": prepared,
    }
    if growth > _SLACK_BYTES + memory[_PARTS // 3] // 20:
        outcome.breaks(f"the memory grows: {[size // 2**20 for size in memory]} MB")
    if tasks[-1] > tasks[0] + 2:
        outcome.breaks(f"the tasks grow: {tasks}")
    if stats["in_use"] or stats["size"] > stats["max_size"] or stats["connects"] > 3 * stats["max_size"]:
        outcome.breaks(f"the connections grow: {stats}")
    if prepared > 100:
        outcome.breaks(f"a session has {prepared} prepared statements")
    return outcome


def _far_away() -> datetime:
    return datetime(2100, 1, 1, tzinfo=UTC)


async def _prepared(pool: db.Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM pg_prepared_statements"))


async def _call(goal: int, numbers: itertools.count[int], outcome: Outcome) -> None:
    async def caller() -> None:
        while int(outcome.figures["calls"]) < goal:
            outcome.count("calls")
            try:
                await _one(next(numbers))
            except db.DocumentError:
                outcome.count("errors that were asked for")
            except Exception as exc:
                outcome.breaks(f"{type(exc).__name__}: {exc}")

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))


async def _one(number: int) -> None:
    code = f"c{random.randrange(_CODES)}"
    match number % 20:
        case 0 | 1 | 2 | 3 | 4 | 5:
            document = await db.get_document_by_code(code)
            assert document is not None
            assert document["code"] == code
        case 6 | 7 | 8 | 9:
            await db.get_recent_chat_history(f"t{number % 100}", limit=5)
        case 10 | 11 | 12:
            await db.save_chat_history(1, f"t{number % 100}", "q", "a" * random.randrange(200))
        case 13 | 14:
            await db.upsert_document("n", code, f"some text {number} " * 20)
        case 15:
            await repository.fetch("document", {"code": code})
        case 16:
            await db.get_list_of_documents(limit=5)
        case 17:
            await db.run_in_transaction(_transact, code)
        case 18:
            # a new text every time, as from an application that puts values into its SQL
            async with db.get_db_connection() as conn:
                await conn.fetchval(f"SELECT {number}")
        case _:
            if number % 3:
                await db.search_documents("text", limit=3)
            else:
                await db.insert_document("n", code, "it is there already")


async def _transact(conn: Connection, code: str) -> None:
    await conn.execute("SELECT FROM document WHERE code = $1 FOR UPDATE", code)
