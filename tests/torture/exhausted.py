"""More callers than connections."""

from __future__ import annotations

import asyncio
import random

import database as db
from database.settings import configure

from .outcome import Outcome, Plan, percentile
from .servers import Server, running_server

_GRACE = 0.25
_HEALTH = 2.0


async def wait_in_line(plan: Plan) -> Outcome:
    """
    All connections are held, and thousands wait: until one comes back, until their deadline, or not at all.

    A tenth of those who wait until a connection comes back are cancelled meanwhile.
    """
    waiters = plan.times(10_000, 200)
    outcome = Outcome({"waiters, each time": waiters})
    with running_server() as server:
        await _first_come_first_served(server, waiters, outcome)
        await _until_the_deadline(server, waiters, outcome)
        await _refused_at_once(server, waiters, outcome)
    return outcome


async def _healthy(outcome: Outcome) -> None:
    began = asyncio.get_running_loop().time()
    report = await db.health_report(timeout=_HEALTH)
    outcome.figures["health answered after, s"] = asyncio.get_running_loop().time() - began
    if not report["connected"] or report["status"] != "degraded":
        outcome.breaks(f"health says {report['status']}: {report['error']}")


async def _first_come_first_served(server: Server, waiters: int, outcome: Outcome) -> None:
    configure(server.settings(max_connections=2, connection_timeout=120))
    pool = await db.get_connection_pool()
    held = [await pool.acquire(), await pool.acquire()]
    served: list[int] = []

    async def wait(number: int) -> None:
        async with pool.acquire() as conn:
            served.append(number)
            if number % 100 == 0:
                await conn.fetchval("SELECT 1")

    tasks = [asyncio.create_task(wait(number)) for number in range(waiters)]
    await asyncio.sleep(0)
    await _healthy(outcome)
    cancelled = set(random.sample(range(waiters), waiters // 10))
    for number in cancelled:
        tasks[number].cancel()
    for connection in held:
        await pool.release(connection)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    expected = [number for number in range(waiters) if number not in cancelled]
    if served != expected:
        outcome.breaks(f"not first come, first served: {len(served)} of {len(expected)} served, or in another order")
    lost = [number for number in cancelled if not isinstance(results[number], asyncio.CancelledError)]
    if lost:
        outcome.breaks(f"{len(lost)} cancellations were lost")
    outcome.figures["served in their order"] = len(served)
    await db.close_connection_pool()


async def _until_the_deadline(server: Server, waiters: int, outcome: Outcome) -> None:
    limit = 1.0
    configure(server.settings(max_connections=1, connection_timeout=limit))
    pool = await db.get_connection_pool()
    loop = asyncio.get_running_loop()
    over: list[float] = []

    async def wait(number: int) -> None:
        began = loop.time()
        try:
            if number % 2:
                async with db.get_db_connection():
                    outcome.breaks("a connection that somebody else holds")
            else:
                await db.get_document_by_code(f"c{number}")
                outcome.breaks("an answer without a connection")
        except db.PoolTimeoutError:
            over.append(loop.time() - began - limit)

    async with pool.acquire():
        await asyncio.gather(*(wait(number) for number in range(waiters)))
        await _nobody_waits(pool, outcome)
    outcome.figures["PoolTimeoutError at the deadline"] = len(over)
    outcome.figures["over the deadline, p99, s"] = percentile(over, 0.99)
    outcome.figures["over the deadline, at most, s"] = max(over, default=0.0)
    if max(over, default=0.0) > _GRACE:
        outcome.is_late(f"{sum(late > _GRACE for late in over)} were told more than {_GRACE} s after their deadline")
    await db.close_connection_pool()


async def _refused_at_once(server: Server, waiters: int, outcome: Outcome) -> None:
    room = waiters // 10
    configure(server.settings(max_connections=1, connection_timeout=120, max_waiting=room))
    pool = await db.get_connection_pool()
    loop = asyncio.get_running_loop()
    took: list[float] = []

    async def wait() -> None:
        began = loop.time()
        try:
            async with pool.acquire():
                pass
        except db.PoolTimeoutError:
            took.append(loop.time() - began)

    async with pool.acquire():
        tasks = [asyncio.create_task(wait()) for _ in range(waiters)]
        await asyncio.sleep(0)
        await _healthy(outcome)
        if len(took) != waiters - room:
            outcome.breaks(f"with room for {room}, {len(took)} of {waiters} were refused at once")
    await asyncio.gather(*tasks)
    await _nobody_waits(pool, outcome)
    outcome.figures["refused at once (DB_MAX_WAITING)"] = len(took)
    outcome.figures["the refusal took, at most, s"] = max(took, default=0.0)
    await db.close_connection_pool()
    configure(None)


async def _nobody_waits(pool: db.Pool, outcome: Outcome) -> None:
    if waiting := pool.get_stats()["waiting"]:
        outcome.breaks(f"{waiting} are still in line")
