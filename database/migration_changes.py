"""
One SQL file on its way into the database or out of it, under the lock.

Those who wait for the lock ask for it again and again, and hold no connection meanwhile. Standing in line for it would
be a statement with a snapshot, and CREATE INDEX CONCURRENTLY waits for snapshots: both would wait for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .concurrent_indexes import drop_remains
from .connect_db import Connection, Isolation, Pool, get_connection_pool, get_db_transaction, run_transaction
from .exceptions import (
    ConnectionPoolError,
    DatabaseError,
    DatabaseNotAvailableError,
    OutcomeUnknownError,
    SchemaError,
    raised_by_driver,
    translate,
    translated,
)
from .lexer import Statement
from .migration_files import Migration, Part, order_of
from .migration_history import (
    LOCK,
    Applied,
    History,
    check_unchanged,
    make_history,
    read_applied,
    read_history,
    record_applied,
    record_undone,
    take_lock,
)
from .pool import backoff
from .query import quote_identifier

log = logging.getLogger("database")

PATIENCE = 600.0  # seconds for all that one call applies or undoes, and for its turn
_STOP_SECONDS = 5.0
_CLEAN_SECONDS = 30.0
# Each statement sees what was committed before it, so also what somebody has recorded who had the lock before us.
_ISOLATION: Isolation = "read_committed"
_DEFINES = [("create",), ("alter",), ("drop",), ("comment",), ("grant",), ("revoke",)]

_SET_PATH = "SELECT set_config('search_path', $1, true)"
_SET_PATH_OF_SESSION = "SELECT set_config('search_path', $1, false)"
# Only while it runs that statement, of which the server shows the beginning: behind a pooler, the session may be
# somebody else's by now.
_STOP = """
    SELECT pg_cancel_backend(pid)
      FROM pg_catalog.pg_stat_activity
     WHERE pid = $1 AND state = 'active' AND query <> '' AND starts_with($2, query)
"""


@dataclass(frozen=True)
class Change:
    """A file that is to be applied, or undone."""

    migration: Migration
    part: Part
    history: History
    undoes: bool = False
    runs_inside: bool = True

    @property
    def doing(self) -> str:
        """In the words of a message."""
        return f"{'undo' if self.undoes else 'apply'} {self.migration.file}"

    def is_due(self, applied: Mapping[str, Applied]) -> bool:
        """False where somebody has done it meanwhile."""
        check_unchanged(self.migration, applied, self.history)
        if self.undoes:
            return bool(applied) and self.migration.version == max(applied, key=order_of)
        return self.migration.version not in applied

    async def record(self, c: Connection, table: str) -> None:
        """Note that it was done."""
        note = record_undone if self.undoes else record_applied
        await note(c, table, self.history.source, self.migration)


async def change_database(change: Change, deadline: float, conn: Connection | None) -> bool:
    """Apply or undo one file; False where somebody else has done so meanwhile."""
    done = await _change_in_transaction(change, deadline, conn) if change.part.in_transaction else None
    if done is None:
        if conn is not None:
            raise _needs_no_transaction(change, conn)
        alone = replace(change, runs_inside=False)
        done = await _in_turn(
            _unless_done(alone, None, lambda: _change_outside(alone, deadline)), deadline, change.doing
        )
    if done:
        log.info("%s %s", "undid" if change.undoes else "applied", change.migration.file)
    return done


async def _change_in_transaction(change: Change, deadline: float, conn: Connection | None) -> bool | None:
    """None where its only statement refuses to run in a transaction: all or nothing that is by itself."""
    try:
        attempt = _unless_done(change, conn, lambda: _change_inside(change, deadline, conn))
        return await _in_turn(attempt, deadline, change.doing)
    except DatabaseError as exc:
        if exc.sqlstate != "25001":  # active_sql_transaction
            raise _named(exc, change) from exc
        if conn is not None or len(change.part.statements) > 1:
            raise _needs_no_transaction(change, conn) from exc
        return None


def _unless_done(
    change: Change, conn: Connection | None, attempt: Callable[[], Awaitable[bool | None]]
) -> Callable[[], Awaitable[bool | None]]:
    """As *attempt*, but who does not get the lock need not wait for it where somebody else has made the change."""

    async def attempt_or_look() -> bool | None:
        done = await attempt()
        if done is None and not change.is_due(await read_applied(change.history, conn)):
            return False
        return done

    return attempt_or_look


def _needs_no_transaction(change: Change, conn: Connection | None) -> SchemaError:
    way_out = (
        "call it without conn="
        if conn is not None
        else f"write `-- migrate:{'down' if change.undoes else 'up'} transaction:false`, in a file of its own"
    )
    return SchemaError(f"cannot {change.doing}: it must run outside of a transaction; {way_out}", sqlstate="25001")


def _named(exc: DatabaseError, change: Change) -> DatabaseError:
    """*exc*, such as one of COMMIT, with the name of the file in its text."""
    if change.migration.file in str(exc) or isinstance(exc, ConnectionPoolError):
        return exc
    kind = OutcomeUnknownError if isinstance(exc, OutcomeUnknownError) else SchemaError
    return kind(
        f"cannot {change.doing}: {exc}",
        original_error=exc.original_error or exc,
        sqlstate=exc.sqlstate,
        retryable=exc.retryable,
    )


async def in_turn(work: Callable[[Connection], Awaitable[bool]], *, doing: str, conn: Connection | None) -> bool:
    """The result of *work*, in a transaction and while nobody applies SQL files or does other work in turn."""

    async def take_turn(c: Connection) -> bool | None:
        return await work(c) if await take_lock(c) else None

    async def attempt() -> bool | None:
        if conn is None:
            return await run_transaction(take_turn, isolation=_ISOLATION)
        async with get_db_transaction(conn=conn) as c:
            return await take_turn(c)

    return await _in_turn(attempt, asyncio.get_running_loop().time() + PATIENCE, doing)


async def _in_turn(attempt: Callable[[], Awaitable[bool | None]], deadline: float, doing: str) -> bool:
    """What *attempt* returns when it no longer returns None, which says that somebody else has the lock."""
    loop = asyncio.get_running_loop()
    tries = 0
    while True:
        done = await attempt()
        if done is not None:
            return done
        if loop.time() >= deadline:
            raise SchemaError(
                f"cannot {doing}: somebody else applies SQL files all the time; who it is stands in pg_locks, "
                f"locktype 'advisory', objid {LOCK}"
            )
        await asyncio.sleep(backoff(tries, 0.02, 0.5))
        tries += 1


async def _change_inside(change: Change, deadline: float, conn: Connection | None) -> bool | None:
    async def work(c: Connection) -> bool | None:
        if not await take_lock(c):
            return None
        table = await make_history(c, change.history)
        if not change.is_due(await read_history(c, table, change.history)):
            return False
        if conn is None:  # *timeout* is the limit
            await c.execute("SET LOCAL statement_timeout = 0")
        path = None
        if change.history.schema is not None:
            path = await c.fetchval("SELECT current_setting('search_path')")
            await c.execute(_SET_PATH, _path(change.history.schema, path))
        for statement in change.part.statements:
            await _execute(c, statement, change, deadline, 0)
        if path is not None:
            await c.execute(_SET_PATH, path)
        await change.record(c, table)
        return True

    if conn is not None:
        async with get_db_transaction(conn=conn) as c:
            return await work(c)
    try:
        return await run_transaction(work, isolation=_ISOLATION)
    except OutcomeUnknownError as exc:
        log.info("looking whether %s was done: %s", change.migration.file, exc)
        return None  # the record tells, at the next attempt


def _path(schema: str, rest: str) -> str:
    return f"{quote_identifier(schema)}, {rest}" if rest else quote_identifier(schema)


async def _execute(c: Connection, statement: Statement, change: Change, deadline: float, done: int) -> None:
    """Run one *statement* of a file; *done* of them have been committed before it."""
    inside = change.runs_inside
    seconds = max(1.0, deadline - asyncio.get_running_loop().time())
    try:
        await c.execute(statement.text, timeout=seconds)
    except Exception as exc:
        if isinstance(exc, DatabaseError) or not raised_by_driver(exc):
            raise
        place = statement.start + max(0, int(getattr(exc, "position", None) or 1) - 1)
        doing = f"{change.doing}, line {change.part.line_at(place)}"
        error = translate(exc, SchemaError, doing, closed=c.is_closed(), inside=inside)
        text = str(error) if change.migration.file in str(error) else f"cannot {doing}: {error}"
        if statement.words[:1] in _DEFINES and (error.sqlstate or "").startswith("42"):
            said = str(error.server_message()).partition("\n")[0]  # names and types, no data
            text = f"cannot {doing}: {said} [{error.sqlstate}]"
        if done:
            text += f"; {done} of its statements were done before and stay"
        raise type(error)(
            text, original_error=exc, sqlstate=error.sqlstate, retryable=error.retryable and inside
        ) from exc


async def _change_outside(change: Change, deadline: float) -> bool | None:
    """
    The statements of a file one by one, through a connection of their own.

    The lock is that of another one's transaction, which does nothing else: so it ends with us, whatever happens, also
    behind PgBouncer, where a lock of the session would outlive it.
    """
    async with get_db_transaction(isolation=_ISOLATION, readonly=True) as holder:
        if not await take_lock(holder):
            return None
        # last, as one simple query: that closes the portal of the SELECT, whose snapshot an index would wait for
        await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        pool = await get_connection_pool()
        connection = await _connect(pool)
        try:
            return await _run_statements(connection, holder, change, deadline)
        finally:
            connection.terminate()


async def _connect(pool: Pool) -> Any:
    """One that the pool does not count: all that it counts may be held by those who wait for this one to be done."""
    try:
        return await pool.connect(pool.settings.connection_timeout)
    except Exception as exc:
        raise translate(exc, DatabaseNotAvailableError, "connect", changes=False) from exc


async def _run_statements(c: Any, holder: Connection, change: Change, deadline: float) -> bool:
    with translated(c.is_closed, SchemaError, change.doing):
        table = await make_history(c, change.history)
        if not change.is_due(await read_history(c, table, change.history)):
            return False
        if change.history.schema is not None:
            path = _path(change.history.schema, await c.fetchval("SELECT current_setting('search_path')"))
            await c.execute(_SET_PATH_OF_SESSION, path)
        if await c.fetchval("SELECT current_setting('statement_timeout')") != "0":
            await c.execute("SET statement_timeout = 0")
        backend = await c.fetchval("SELECT pg_backend_pid()")
        for number, statement in enumerate(change.part.statements):
            await drop_remains(c, statement.text, deadline)
            try:
                await _execute(c, statement, change, deadline, number)
            except Exception:
                await _clean_up(c, statement.text)
                raise
            except BaseException:
                await _stop(holder, backend, statement.text)
                raise
        await change.record(c, table)
        return True


async def _clean_up(c: Any, statement: str) -> None:
    """What the failed *statement* has left, if that can be; the next attempt would find it, too."""
    try:
        await drop_remains(c, statement, asyncio.get_running_loop().time() + _CLEAN_SECONDS)
    except Exception as exc:
        log.warning("an invalid index may be left, until the next attempt: %s", exc)


async def _stop(holder: Connection, backend: int, statement: str) -> None:
    """Have the server give up a *statement* whose caller was cancelled: it would go on, and nobody would wait."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await holder.fetch(_STOP, backend, statement)
    except Exception as exc:
        log.warning("a statement may still run in the server: %s", exc)
