"""A standby takes over under load, and the old primary comes back read-only."""

from __future__ import annotations

import asyncio
from pathlib import Path

import database as db
from database.settings import configure

from .outcome import Outcome, Plan, percentile
from .servers import Server, directory_for_servers, in_thread
from .writers import Writers

_DEADLINE = 20.0
_BACK = 1.0  # seconds from the promotion to the first write that is acknowledged
_SYNCHRONOUS = """
    SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'
"""


async def promote_again_and_again(plan: Plan) -> Outcome:
    """
    Two servers, synchronous replication, a URL with both hosts and target_session_attrs=read-write.

    By turns the primary is killed with -9, is stopped in an orderly way, or lives on and becomes read-only, so that its
    connections stay and answer 25006. Then the old one is made the standby of the new one.
    """
    outcome = Outcome({"promotions": 0})
    promotions = plan.times(20, 3)
    backs: list[float] = []
    with directory_for_servers() as place:
        primary = Server.make(place / "a", "synchronous_commit = on")
        await in_thread(primary.start)
        standby = await _join(primary, place / "b")
        hosts = f"{place / 'a'},{place / 'b'}"
        url = f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"
        configure(primary.settings(database_url=url, connection_timeout=_DEADLINE, command_timeout=_DEADLINE))
        writers = Writers(plan.place, outcome)
        try:
            await Writers.make_tables()
            stop = asyncio.Event()
            running = asyncio.create_task(writers.run(stop, callers=20))
            for number in range(promotions):
                await _until_written(writers, running, 200)
                backs.append(await _promote(primary, standby, number, writers, outcome))
                primary, standby = standby, primary
                outcome.count("promotions")
                await in_thread(standby.kill)
                standby = await _join(primary, standby.place)
            await _until_written(writers, running, 200)
            stop.set()
            async with asyncio.timeout(4 * _DEADLINE):
                await running
        except TimeoutError:
            outcome.breaks("callers were still waiting after four deadlines")
        finally:
            await db.close_connection_pool(timeout=2)
            configure(None)
        await writers.check(primary)
    outcome.figures["first write after the promotion, median, s"] = percentile(backs, 0.5)
    outcome.figures["first write after the promotion, longest, s"] = max(backs)
    for back in backs:
        if back > _BACK:
            outcome.is_late(f"the first write came {back:.2f} s after the promotion")
    return outcome


async def _until_written(writers: Writers, running: asyncio.Task[None], more: int) -> None:
    goal = writers.acknowledged + more
    async with asyncio.timeout(4 * _DEADLINE):
        while writers.acknowledged < goal and not running.done():
            await asyncio.sleep(0.01)


async def _join(primary: Server, place: Path) -> Server:
    """A standby of *primary* in *place*; from then on, *primary* acknowledges nothing that the standby has not."""
    standby: Server = await in_thread(primary.copy_to, place)
    await in_thread(standby.start)
    await primary.fetch("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await primary.fetch("SELECT pg_reload_conf()")
    async with asyncio.timeout(30):
        while not (await primary.fetch(_SYNCHRONOUS))[0]["count"]:
            await asyncio.sleep(0.01)
    return standby


async def _promote(primary: Server, standby: Server, number: int, writers: Writers, outcome: Outcome) -> float:
    """Seconds from the end of the promotion to the first write that is acknowledged after it."""
    way = ("killed", "stopped", "made read-only")[number % 3]
    outcome.count(f"old primary {way}")
    if way == "killed":
        await in_thread(primary.kill)
    elif way == "stopped":
        await in_thread(primary.stop)
    else:
        await primary.fetch("ALTER SYSTEM SET default_transaction_read_only = on")
        await primary.fetch("SELECT pg_reload_conf()")
    await in_thread(standby.promote)
    began = asyncio.get_running_loop().time()
    # what it had copied of the old primary: it has no standby yet
    await standby.fetch("ALTER SYSTEM SET synchronous_standby_names = ''")
    await standby.fetch("ALTER SYSTEM RESET default_transaction_read_only")
    await standby.fetch("SELECT pg_reload_conf()")
    async with asyncio.timeout(4 * _DEADLINE):
        while writers.last_success < began:
            await asyncio.sleep(0.002)
    return writers.last_success - began
