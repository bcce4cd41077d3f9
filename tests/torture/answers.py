"""The answer to COMMIT is swallowed."""

from __future__ import annotations

import asyncio
import random

import database as db
from database import Connection
from database.settings import configure
from tests.proxy import Proxy, proxy_to

from .ledger import Ledger
from .outcome import Outcome, Plan
from .servers import Server, running_server
from .writers import Writers, proxied

_ROUND = 21  # calls between two crashes, at the least


async def swallow_answers_to_commit(plan: Plan) -> Outcome:
    """
    The answer is thrown away, or COMMIT itself never arrives, or the server crashes between the two.

    In each kind of block, one after the other; a table without a key shows what was repeated.
    """
    outcome = Outcome({"swallowed": 0, "never arrived": 0, "crashes": 0})
    swallowed, crashes = plan.times(2000, 20), plan.times(40)
    blocks, closures, statements = (
        Ledger(kind) for kind in ("get_db_transaction", "run_in_transaction", "execute_with_retry")
    )
    with running_server() as server:
        async with proxy_to(server.dsn()) as proxy:
            configure(proxied(server, proxy, connection_timeout=20, command_timeout=20))
            try:
                await Writers.make_tables()
                number = 0
                while int(outcome.figures["swallowed"]) < swallowed:
                    crash = number // _ROUND % max(1, swallowed // crashes // _ROUND) == 0
                    for ledger in (blocks, closures, statements) * (_ROUND // 3):
                        number += 1
                        await _lose(proxy, server, ledger, f"t{number}", outcome, crash)
                        crash = False
            finally:
                await db.close_connection_pool(timeout=2)
                configure(None)
        await asyncio.to_thread(server.wait_until_ready)
        rows = await server.fetch("SELECT token FROM pair")
        for ledger in (blocks, closures, statements):
            known = ledger.stored | ledger.refused | ledger.unknown
            ledger.check((row["token"] for row in rows if row["token"] in known), outcome)
    return outcome


async def _lose(proxy: Proxy, server: Server, ledger: Ledger, token: str, outcome: Outcome, crash: bool) -> None:
    async def crash_server() -> None:
        outcome.count("crashes")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    if random.random() < 0.8 or crash:
        proxy.swallow, proxy.before_the_cut = b"COMMIT", crash_server if crash else None
        outcome.count("swallowed")
    else:
        proxy.lose = b"COMMIT"
        outcome.count("never arrived")
    try:
        if ledger.kind == "execute_with_retry":
            await db.execute_with_retry("INSERT INTO pair VALUES ($1, 1)", token, retry_delay=0.01)
        elif ledger.kind == "run_in_transaction":
            await db.run_in_transaction(_insert, token)
        else:
            async with db.get_db_transaction() as conn:
                await _insert(conn, token)
    except db.OutcomeUnknownError:
        ledger.unknown.add(token)
    except db.DatabaseError as exc:
        ledger.refused.add(token)
        # a block says that nothing was stored, and may be repeated by its owner; the others do that themselves
        if ledger.kind != "get_db_transaction" or not exc.retryable:
            outcome.breaks(f"{ledger.kind} raised {type(exc).__name__}: {exc}")
        outcome.count("said to be undone")
    else:
        ledger.stored.add(token)
    if proxy.swallow or proxy.lose:
        outcome.breaks(f"{ledger.kind} has sent no COMMIT")


async def _insert(conn: Connection, token: str) -> None:
    await conn.execute("INSERT INTO pair VALUES ($1, 1)", token)
