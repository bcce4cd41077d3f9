"""
Transactions: all or nothing, and never a wrong answer about which of the two.

Leaving the block commits. Where the answer to COMMIT is lost, the server is asked what became of the transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar, get_args

import asyncpg

from .exceptions import (
    DatabaseError,
    DatabaseNotAvailableError,
    Failure,
    OutcomeUnknownError,
    classify,
    reason,
    sqlstate_of,
    translate,
)
from .pool import Attempts, Connection, Pool, of_the_server, speaking_through
from .registry import get_connection_pool

log = logging.getLogger("database")

P = ParamSpec("P")
T = TypeVar("T")
Isolation = Literal["read_committed", "read_uncommitted", "repeatable_read", "serializable"]

_ROLLBACK_SECONDS = 5.0
_ROLLBACK_SECONDS_AFTER_DEADLINE = 0.1
_RUN_AGAIN = frozenset({
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "0A000",  # a cached plan met a changed table; the next run has a new one
})  # fmt: skip

# An xid alone can lie: after a crash, the xid of a transaction whose WAL was lost is given out again. A crash also
# resets the server's statistics, so the time of their last reset tells whether there was one in between.
_NOTE = """
    SELECT pg_current_xact_id_if_assigned()::text AS xid, (SELECT stats_reset FROM pg_stat_bgwriter) AS epoch
"""
_RESOLVE = """
    SELECT pg_xact_status($1::text::xid8) AS status, (SELECT stats_reset FROM pg_stat_bgwriter) AS epoch
"""


class _Note(NamedTuple):
    """What identifies a transaction to its server after the connection is gone; no xid: it has written nothing."""

    xid: str | None
    epoch: datetime | None


def get_db_transaction(
    name: str = "default",
    *,
    conn: Connection | None = None,
    isolation: Isolation | None = None,
    readonly: bool = False,
    deferrable: bool = False,
) -> AbstractAsyncContextManager[Connection]:
    """
    A connection in a transaction: committed at the end of the block, rolled back where an exception leaves it.

    With *conn*, the block is a savepoint of the transaction that *conn* is in (a transaction, if it is in none). Do not
    end the transaction by hand in the block. What the driver raises in it leaves it as `DatabaseError`. Where a
    statement failed and the error was swallowed in the block, there is nothing to commit and leaving it raises.
    `OutcomeUnknownError` where the connection was lost during COMMIT and the server cannot tell any more what became of
    it. Raises `ValueError` where *isolation* is none of its four.
    """
    return _transaction(name, conn, isolation, readonly, deferrable, None)


@asynccontextmanager
async def _transaction(
    name: str,
    conn: Connection | None,
    isolation: Isolation | None,
    readonly: bool,
    deferrable: bool,
    attempts: Attempts | None,
) -> AsyncIterator[Connection]:
    """As `get_db_transaction`; the attempts to begin are some of *attempts*, if given."""
    if isolation is not None and isolation not in get_args(Isolation):
        raise ValueError(f"isolation is one of {', '.join(get_args(Isolation))}, not {isolation!r}")
    if conn is not None:
        check_open(conn, "begin a transaction")
    if conn is not None and conn.is_in_transaction():
        with _driver_errors(conn):
            async with conn.transaction(isolation=isolation, readonly=readonly, deferrable=deferrable):
                yield conn
        return
    pool: Pool | None
    if conn is None:
        pool = await get_connection_pool(name)
        attempts = attempts or Attempts(pool.settings.connection_timeout)
        connection, transaction = await _begin(pool, attempts, isolation, readonly, deferrable)
    else:
        # only the pool that made it knows the way to its server, to ask there what became of a COMMIT
        holder = getattr(conn, "_holder", None)
        pool = holder if isinstance(holder, Pool) else None
        connection, transaction = conn, conn.transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)
        with speaking_through(conn, DatabaseNotAvailableError, "begin a transaction", changes=False):
            await transaction.start()
    try:
        with _driver_errors(connection):
            try:
                yield connection
                note = None if readonly else await _take_note(connection)
            except BaseException as exc:
                await _roll_back(connection, transaction.rollback, exc)
                raise
            await _commit(pool, connection, transaction, note)
    finally:
        if conn is None and pool is not None:
            await pool.release(connection)


def check_open(conn: Connection, doing: str) -> None:
    """Raise `DatabaseNotAvailableError` where the caller's *conn* is closed: nothing can be sent through it."""
    if conn.is_closed():
        raise DatabaseNotAvailableError(f"cannot {doing}: the connection given as conn= is closed", retryable=True)


async def run_in_transaction(
    fn: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """
    The result of `await fn(conn, *args, **kwargs)`, run in a transaction on the default database.

    The whole of *fn* runs again, in a new transaction, after a serialization failure (40001), a deadlock (40P01), a
    table that was changed meanwhile (0A000) and a connection that was lost before the commit, for up to
    DB_CONNECTION_TIMEOUT seconds: it must have no effects outside of the database. Raises as `get_db_transaction` does.
    """
    return await run_transaction(lambda conn: fn(conn, *args, **kwargs))


async def run_transaction(
    fn: Callable[[Connection], Awaitable[T]],
    *,
    name: str = "default",
    isolation: Isolation | None = None,
    readonly: bool = False,
    deferrable: bool = False,
) -> T:
    """As `run_in_transaction`, with the options of `get_db_transaction`."""
    pool = await get_connection_pool(name)
    attempts = Attempts(pool.settings.connection_timeout, at_once=False)
    while True:
        try:
            async with _transaction(name, None, isolation, readonly, deferrable, attempts) as conn:
                return await fn(conn)
        except DatabaseError as exc:
            worth_it = exc.sqlstate in _RUN_AGAIN or isinstance(exc, DatabaseNotAvailableError)
            if not (exc.retryable and worth_it) or not await attempts.again():
                raise
            log.info("a transaction is run again: %s", exc)


def _driver_errors(conn: Connection) -> AbstractContextManager[None]:
    return speaking_through(conn, DatabaseError, "complete the transaction", inside=lambda: _is_inside(conn))


def _is_inside(conn: Connection) -> bool:
    """False where somebody has ended the transaction by hand: then a lost connection does not undo it."""
    try:
        return conn.is_in_transaction()
    except AttributeError:  # asyncpg has cut the line itself and has forgotten
        return True


async def _begin(
    pool: Pool, attempts: Attempts, isolation: Isolation | None, readonly: bool, deferrable: bool
) -> tuple[Any, Any]:
    """A connection of *pool* in a transaction. One that turns out dead, because the server went away, is replaced."""
    while True:
        connection = await pool.acquire(timeout=attempts.seconds_left)
        try:
            transaction = connection.transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)
            await transaction.start()
            return connection, transaction
        except BaseException as exc:
            failure = classify(exc, closed=connection.is_closed())
            if isinstance(exc, Exception):
                of_the_server(exc, connection)
            connection.terminate()  # cancelled, or dead: BEGIN may be on its way, and nobody would roll it back
            await pool.release(connection)
            if not isinstance(exc, Exception):
                raise
            if failure is Failure.PERMANENT or not await attempts.again():
                raise translate(exc, DatabaseNotAvailableError, "begin a transaction", changes=False) from exc


async def _take_note(connection: Connection) -> _Note:
    """Also what finds out, before COMMIT, that a statement failed and its error was swallowed: it fails then."""
    row = await connection.fetchrow(_NOTE)
    return _Note(row["xid"], row["epoch"]) if row is not None else _Note(None, None)


async def _roll_back(connection: Connection, rollback: Callable[[], Awaitable[object]], because: BaseException) -> None:
    """Roll back in bounded time; a connection that cannot even do that is cut off, which does the same."""
    if connection.is_closed():
        return
    is_late = isinstance(because, TimeoutError | asyncio.CancelledError)
    try:
        async with asyncio.timeout(_ROLLBACK_SECONDS_AFTER_DEADLINE if is_late else _ROLLBACK_SECONDS):
            await rollback()
    except BaseException as exc:
        log.debug("ROLLBACK failed, the connection is cut off: %s", reason(exc))
        connection.terminate()
        if not isinstance(exc, Exception):
            raise


async def _commit(pool: Pool | None, connection: Connection, transaction: Any, note: _Note | None) -> None:
    try:
        await transaction.commit()
    except asyncio.CancelledError as exc:
        # COMMIT may have been too late for the cancellation, or be cancelled itself: then the transaction is still open
        await _roll_back(connection, lambda: connection.execute("ROLLBACK"), exc)
        raise
    except Exception as exc:
        if classify(exc, closed=connection.is_closed()) is not Failure.UNKNOWN:
            raise
        connection.terminate()
        if note is None or note.xid is None:
            return  # it has written nothing, so there is nothing that could be lost (but for a NOTIFY)
        await _resolve(pool, note, exc)


async def _resolve(pool: Pool | None, note: _Note, lost: Exception) -> None:
    """
    Return if the transaction of *note* was committed, raise a retryable error if it was not.

    See https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT (pg_xact_status).
    """
    attempts = Attempts(pool.settings.connection_timeout if pool is not None else 0, at_once=False)
    while True:
        status = "unknown" if pool is None else await _ask_for_status(pool, note, attempts.seconds_left)
        if status == "committed":
            return
        if status == "aborted":
            raise translate(lost, DatabaseError, "commit", inside=True) from lost
        if status == "unknown" or not await attempts.again():
            raise OutcomeUnknownError(
                "cannot tell whether the transaction was committed: the connection was lost during COMMIT; "
                "look before you repeat it",
                original_error=lost,
                sqlstate=sqlstate_of(lost),
            ) from lost


async def _ask_for_status(pool: Pool, note: _Note, timeout: float) -> str:
    """
    Either committed, aborted, unknown (the server cannot tell), or anything else: ask again.

    Through a connection that the pool does not count: all that it counts may be held by those who ask this.
    """
    timeout = max(timeout, 0.1)
    try:
        connection = await pool.connect(timeout)
    except Exception as exc:
        return "unknown" if classify(exc, connecting=True) is Failure.PERMANENT else "later"
    try:
        if await connection.fetchval("SELECT pg_is_in_recovery()", timeout=timeout):
            return "unknown"  # a standby knows neither the newest transactions nor whether it will ever get them
        row = await connection.fetchrow(_RESOLVE, note.xid, timeout=timeout)
    except asyncpg.InvalidParameterValueError:
        return "aborted"  # an xid of the future: a crash took the transaction, and its xid was not given out again yet
    except Exception as exc:
        return "unknown" if classify(exc, closed=connection.is_closed()) is Failure.PERMANENT else "later"
    finally:
        connection.terminate()
    if row is None or row["status"] is None:
        return "unknown"
    if row["status"] == "committed" and row["epoch"] != note.epoch:
        return "unknown"  # there was a crash in between: this may be the xid of another transaction now
    return str(row["status"])
