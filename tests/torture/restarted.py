"""The server goes away and comes back: under a pool that is idle, and under callers that wait for it."""

from __future__ import annotations

import asyncio

import database as db
from database import Connection
from database.settings import configure

from .outcome import Outcome, Plan, percentile
from .servers import Server, in_thread, running_server
from .writers import Writers

_BACK = 0.25
_WAITING = 200
_CONNECTIONS = 20


async def restart_under_an_idle_pool(plan: Plan) -> Outcome:
    """The next call of every kind after a restart sees nothing of it; by turns an orderly one and a kill -9."""
    outcome = Outcome({"restarts": 0, "calls": 0, "errors": 0})
    with running_server() as server:
        configure(server.settings(connection_timeout=20, min_connections=5, max_connections=10))
        try:
            await Writers.make_tables()
            document = await db.insert_document("n", "c", "t")
            for number in range(plan.times(200, 4)):
                # idle connections for all of them
                await asyncio.gather(*_calls(number))
                await in_thread(server.kill if number % 2 else server.stop)
                await in_thread(server.start)
                outcome.count("restarts")
                results = await asyncio.gather(*_calls(number, "after"), return_exceptions=True)
                for result in results:
                    outcome.count("calls")
                    if isinstance(result, BaseException):
                        outcome.count("errors")
                        outcome.breaks(f"after restart {number}: {type(result).__name__}: {result}")
            assert document["code"] == "c"
        finally:
            await db.close_connection_pool(timeout=2)
            configure(None)
    return outcome


def _calls(number: int, when: str = "before") -> list[asyncio.Future[object]]:
    async def insert_pair(conn: Connection) -> None:
        await conn.execute("INSERT INTO pair VALUES ('t', 1)")

    async def in_a_transaction() -> None:
        async with db.get_db_transaction() as conn:
            await insert_pair(conn)

    calls = (
        db.get_document_by_code("c"),
        db.get_list_of_documents(limit=3),
        db.search_documents("t"),
        db.insert_document("n", f"{when} {number}", "t"),
        db.upsert_document("n", "upserted", str(number)),
        db.save_chat_history(1, "t", "q", "a"),
        db.get_recent_chat_history("t", limit=3),
        db.run_in_transaction(insert_pair),
        db.execute_with_retry("SELECT count(*) FROM pair"),
        in_a_transaction(),
    )
    return [asyncio.ensure_future(call) for call in calls]


async def come_back_after_an_outage(plan: Plan) -> Outcome:
    """
    Many callers wait when the server takes connections again: how soon the first is served, and how many knocked.

    The server is killed with -9. "Back" is when a connection past the package succeeds for the first time.
    """
    outcome = Outcome({"outages": 0})
    firsts: list[float] = []
    lasts: list[float] = []
    knocks: list[float] = []
    with running_server("log_connections = on") as server:
        configure(server.settings(connection_timeout=20, max_connections=_CONNECTIONS))
        try:
            await Writers.make_tables()
            for _ in range(plan.times(50, 2)):
                await in_thread(server.kill)
                log = server.place / "log"
                known = log.stat().st_size
                calls = [asyncio.create_task(_wait_for_it(number)) for number in range(_WAITING)]
                await asyncio.sleep(1)  # long enough for the pauses between attempts to be at their longest
                server.start(wait=False)
                back = await _until_back(server)
                done = await asyncio.gather(*calls)
                outcome.count("outages")
                firsts.append(max(0.0, min(done) - back))
                lasts.append(max(done) - back)
                with log.open("rb") as file:
                    file.seek(known)
                    knocks.append(file.read().count(b"connection received"))
        except db.DatabaseError as exc:
            outcome.breaks(f"a caller was told {type(exc).__name__}: {exc}")
        finally:
            await db.close_connection_pool(timeout=2)
            configure(None)
    outcome.figures |= {
        "callers that wait, each time": _WAITING,
        "first success, median, s": percentile(firsts, 0.5),
        "first success, p99, s": percentile(firsts, 0.99),
        "all served, median, s": percentile(lasts, 0.5),
        "connections that the server saw, most": int(max(knocks, default=0)),
        "connections that the pool may have": _CONNECTIONS,
    }
    # the pool's own, ours that asks whether it is back, and those that came while it was starting
    if max(knocks, default=0) > 3 * _CONNECTIONS + 60:
        outcome.breaks(f"a herd: {max(knocks):.0f} connections for {_WAITING} callers")
    if (slowest := percentile(firsts, 0.99)) > _BACK:
        outcome.is_late(f"the p99 of the first success is {slowest:.3f} s after the server was back")
    return outcome


async def _wait_for_it(number: int) -> float:
    """When it was done; half of the calls want a connection for themselves."""
    if number % 2:
        await db.save_chat_history(1, f"t{number}", "q", "a")
    else:
        await db.run_in_transaction(lambda conn: conn.execute("INSERT INTO pair VALUES ('t', 1)"))
    return asyncio.get_running_loop().time()


async def _until_back(server: Server) -> float:
    while True:
        try:
            await server.fetch("SELECT 1")
        except Exception:
            await asyncio.sleep(0.002)
        else:
            return asyncio.get_running_loop().time()
