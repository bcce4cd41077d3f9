"""The server is killed with -9, again and again, under concurrent writes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress

import database as db
from database.settings import configure

from .outcome import Outcome, Plan
from .servers import Server, in_thread, running_server
from .writers import Writers

_DEADLINE = 20.0


async def kill_again_and_again(plan: Plan) -> Outcome:
    """
    Every third time one of its backends, after which it recovers by itself; else the whole server, which is restarted.

    Nothing but `OutcomeUnknownError` may reach a caller, for every outage is shorter than DB_CONNECTION_TIMEOUT.
    """
    outcome = Outcome({"kills": 0})
    kills, writes = plan.times(100, 4), plan.times(100_000, 500)
    with running_server() as server:
        configure(server.settings(connection_timeout=_DEADLINE, command_timeout=_DEADLINE, max_connections=20))
        writers = Writers(plan.place, outcome)
        try:
            await Writers.make_tables()
            stop = asyncio.Event()
            running = asyncio.create_task(writers.run(stop))
            while outcome.figures["kills"] < kills or writers.acknowledged < writes:  # type: ignore[operator]
                acknowledged = writers.acknowledged
                goal = acknowledged + max(1, (writes - acknowledged) // max(1, kills - int(outcome.figures["kills"])))
                while writers.acknowledged < goal and not running.done():
                    await asyncio.sleep(random.uniform(0.002, 0.02))
                if running.done():
                    break
                await _kill(server, int(outcome.figures["kills"]))
                outcome.count("kills")
            stop.set()
            async with asyncio.timeout(4 * _DEADLINE):
                await running
        except TimeoutError:
            outcome.breaks("callers were still waiting after four deadlines")
        finally:
            await db.close_connection_pool(timeout=2)
            configure(None)
        await in_thread(server.wait_until_ready)
        await writers.check(server)
    return outcome


async def _kill(server: Server, number: int) -> None:
    if number % 3 != 2:
        await in_thread(server.kill)
        await in_thread(server.start)
        return
    backends = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    pids = [row["pid"] for row in await server.fetch(backends)]
    if pids:
        with suppress(ProcessLookupError):  # it has just gone by itself
            os.kill(random.choice(pids), signal.SIGKILL)
