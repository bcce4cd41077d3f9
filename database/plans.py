"""
The plans of slow statements, asked for in the background: one at a time, and each statement once in a while.

Nothing is run for it. EXPLAIN (GENERIC_PLAN) needs PostgreSQL 16 where the statement has parameters.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from typing import TYPE_CHECKING, Any

from .exceptions import reason
from .lexer import split_statements
from .metrics.masking import mask, mask_plan

if TYPE_CHECKING:
    from .pool import Pool, PooledConnection

log = logging.getLogger("database")

_EXPLAINABLE = re.compile(r"(?:\s+|--[^\n]*\n|/\*.*?\*/|\()*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE)\b",
                          re.IGNORECASE | re.DOTALL)  # fmt: skip
_GENERIC_PLAN = 16  # the version that has it
_SECONDS = 5.0  # for a connection and a plan
_LIFETIME = 600.0  # seconds, after which a statement that is slow again gets a new plan
_MOST_KNOWN = 100
_MOST_QUEUED = 10

# Not by the extended protocol, where values would have to be given and planned with. A cursor, which this loop
# opens, takes one statement and no more.
_EXPLAIN = """
    DO $$
    DECLARE
        line text;
        lines text[] := '{}';
    BEGIN
        FOR line IN EXECUTE current_setting('pgdatabase.explain') LOOP
            lines := lines || line;
        END LOOP;
        PERFORM set_config('pgdatabase.plan', array_to_string(lines, E'\\n'), true);
    END $$;
"""


class Plans:
    """The plans of the slow statements of *pool*: its companion, which ends with it."""

    queued = 0
    is_idle = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, tuple[float, str | None]] = {}  # when it was asked for, by the masked statement
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def note_slow(self, query: str, about: dict[str, Any]) -> None:
        """Put the plan of *query* under "plan" into *about*: now if it is known, else as soon as it is."""
        asked, plan = self._known.get(mask(query), (float("-inf"), None))
        if self._loop.time() - asked < _LIFETIME:
            about["plan"] = plan
            return
        if not _EXPLAINABLE.match(query) or len(self._waiting) >= _MOST_QUEUED or self._pool.is_closing():
            return
        self._waiting.append((query, about))
        if self._worker is None or self._worker.done():
            self._worker = self._loop.create_task(self._work())

    async def finish(self, timeout: float) -> None:
        """Ask no more."""
        self._waiting.clear()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker], timeout=min(timeout, 1.0))

    async def _work(self) -> None:
        while self._waiting:
            query, about = self._waiting.popleft()
            key = mask(query)
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = (self._loop.time(), None)
            try:
                async with asyncio.timeout(_SECONDS):
                    plan = await self._ask(query)
            except Exception as exc:
                log.debug("no plan of a slow query: %s", reason(exc))
                continue
            if plan is not None:
                about["plan"] = plan
                self._known[key] = (self._loop.time(), plan)
                log.info("the plan of a slow query, %s\n%s", key, plan)

    async def _ask(self, query: str) -> str | None:
        connection = await self._pool.borrow(self._loop.time() + _SECONDS)
        query_log, connection.query_log = connection.query_log, None
        try:
            plan = await _explain(connection, query)
        except BaseException:
            self._pool.give_back(connection, clean=False)
            raise
        else:
            self._pool.give_back(connection)
        finally:
            connection.query_log = query_log
        return plan if plan is None or self._pool.settings.query_parameters == "on" else mask_plan(plan)


async def _explain(connection: PooledConnection, query: str) -> str | None:
    """None where the server is too old, or there are several statements. Raises what the driver raises."""
    generic = connection.get_server_version().major >= _GENERIC_PLAN
    if len(split_statements(query)) != 1 or not (generic or "$1" not in query):
        return None
    async with connection.transaction(readonly=True):
        await connection.execute("SET LOCAL lock_timeout = 250")  # planning locks tables, as reading does
        explain = f"EXPLAIN (GENERIC_PLAN) {query}" if generic else f"EXPLAIN {query}"
        await connection.execute("SELECT set_config('pgdatabase.explain', $1, true)", explain)
        await connection.execute(_EXPLAIN)
        plan: str = await connection.fetchval("SELECT current_setting('pgdatabase.plan')")
    return plan
