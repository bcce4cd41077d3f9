"""
The door to the database: connections, transactions, retries, health.

`perform` is what every data function speaks through: the caller's connection if given, else one of the pool, with
repetition where that is harmless. What lives behind the door: pool.py, registry.py, transaction.py, health.py.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from .exceptions import (
    ConnectionPoolError,
    DatabaseError,
    Failure,
    PoolTimeoutError,
    classify,
    confidential,
    raised_by_driver,
    translate,
)
from .health import health_check, health_report, ping_postgres
from .pool import Attempts, Connection, Pool, Record, of_the_server, speaking_through
from .registry import (
    close_connection_pool,
    get_connection_pool,
    get_pool_stats,
    is_pool_active,
    register_init_callback,
    unregister_init_callback,
)
from .transaction import Isolation, check_open, get_db_transaction, run_in_transaction, run_transaction

__all__ = [
    "Connection",
    "Isolation",
    "Pool",
    "Record",
    "close_connection_pool",
    "database_lifespan",
    "execute_with_retry",
    "get_connection_pool",
    "get_db_connection",
    "get_db_transaction",
    "get_pool_stats",
    "health_check",
    "health_report",
    "is_pool_active",
    "perform",
    "ping_postgres",
    "register_init_callback",
    "run_in_transaction",
    "run_transaction",
    "unregister_init_callback",
]

log = logging.getLogger("database")

T = TypeVar("T")


@asynccontextmanager
async def get_db_connection(name: str = "default") -> AsyncIterator[Connection]:
    """
    An asyncpg connection of the pool of the database *name*, for the time of the block.

    Each statement commits by itself. Settings, locks, temporary tables and listeners made in the block do not outlive
    it. Raises `PoolTimeoutError` or `DatabaseNotAvailableError` where none is to be had; what the driver raises in the
    block leaves it as `DatabaseError`.
    """
    pool = await get_connection_pool(name)
    async with pool.acquire() as conn:
        with speaking_through(conn, DatabaseError, "complete the statement"):
            yield conn


async def perform(
    work: Callable[[Connection], Awaitable[T]],
    *,
    conn: Connection | None,
    kind: type[DatabaseError],
    doing: str,
    changes: bool,
    repeatable: bool,
) -> T:
    """
    The result of `await work(connection)`, with *conn* if given, else with a connection of the default pool.

    *work* must be one statement, or reads. Without *conn* it is repeated until DB_CONNECTION_TIMEOUT where it certainly
    had no effect, and where the answer was lost and it is *repeatable*: a read, or a write with a key of our own. What
    the driver raises becomes *kind*, with *doing* ("store document 'x'") in its text; where it *changes* something and
    an answer was lost, `OutcomeUnknownError`, whatever became of the repetitions.
    """
    if conn is not None:
        check_open(conn, doing)
        inside = conn.is_in_transaction()
        try:  # as `translated`, which would make a generator for each call
            return await work(conn)
        except Exception as exc:
            if isinstance(exc, DatabaseError) or not raised_by_driver(exc):
                raise
            error = of_the_server(exc, conn)
            raise translate(error, kind, doing, changes=changes, closed=conn.is_closed(), inside=inside) from exc
    pool = await get_connection_pool()
    attempts = Attempts(pool.settings.connection_timeout)
    unknown: Exception | None = None
    while True:
        try:
            connection = await pool.borrow(attempts.deadline)
        except ConnectionPoolError:
            if unknown is None:
                raise
            raise translate(unknown, kind, doing, changes=changes) from unknown
        try:
            result = await work(connection)
        except Exception as raised:
            closed = connection.is_closed()
            failed = of_the_server(raised, connection)
            pool.give_back(connection, clean=isinstance(raised, asyncpg.PostgresError))
            if isinstance(raised, DatabaseError) or not raised_by_driver(raised):
                raise
            failure = classify(failed, closed=closed)
            if failure is Failure.UNKNOWN and changes and unknown is None:
                unknown = failed
            # what took longer than DB_COMMAND_TIMEOUT once would do so again, on top of what still runs
            harmless = failure is not Failure.UNKNOWN or (repeatable and not isinstance(failed, TimeoutError))
            if failure is Failure.PERMANENT or not harmless or not await attempts.again():
                closed = closed or unknown is not None
                raise translate(unknown or failed, kind, doing, changes=changes, closed=closed) from raised
            log.debug("again, attempt %d: %s", attempts.repetitions + 1, doing)
        except BaseException:
            pool.give_back(connection, clean=False)
            raise
        else:
            pool.give_back(connection)
            return result


@confidential
async def execute_with_retry(
    query: str, *args: Any, max_retries: int = 3, retry_delay: float = 1.0, name: str = "default"
) -> list[dict[str, Any]] | str:
    """
    Run one statement and repeat it after transient failures; the rows as dicts if it returns rows, else its status.

    Up to *max_retries* repetitions, the first after about *retry_delay* seconds, then exponentially longer with jitter.
    The statement runs in a transaction, so that a lost answer is looked up instead of guessed: a write is never done
    twice. Statements that refuse a transaction (VACUUM, CREATE DATABASE) run without and are not repeated once sent.
    """

    async def run(conn: Connection) -> list[dict[str, Any]] | str:
        statement = await conn.prepare(query)
        rows = await statement.fetch(*args)
        return [dict(row) for row in rows] if statement.get_attributes() else str(statement.get_statusmsg())

    attempts = Attempts(most=max_retries, at_once=False, first=retry_delay, longest=60.0)
    while True:
        try:
            async with get_db_transaction(name) as conn:
                return await run(conn)
        except DatabaseError as exc:
            if exc.sqlstate == "25001":  # active_sql_transaction: it refuses to run inside one
                break
            if not exc.retryable or isinstance(exc, PoolTimeoutError) or not await attempts.again():
                raise
            log.info("a statement is run again, %d of %d: %s", attempts.repetitions, max_retries, exc)
    async with get_db_connection(name) as conn:
        return await run(conn)


@asynccontextmanager
async def database_lifespan(*_: object) -> AsyncIterator[None]:
    """
    Open the default pool, run the block, close every pool: `FastAPI(lifespan=database_lifespan)`.

    The application that FastAPI passes is not used, so it also works as `async with database_lifespan():`.
    """
    await get_connection_pool()
    try:
        yield
    finally:
        await close_connection_pool()
