"""
The pool: the connections of one process and one event loop to one database.

Callers wait in the order they came. Connecting is the pool's own work, not the caller's: a cancelled caller cancels no
connection, and while the server is away one task alone keeps trying, whoever waits. Connections that only the package's
own statements used go back as they are; those that were in the user's hands are reset in full, behind the user's back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from .codecs import register_codecs
from .exceptions import (
    ConnectionPoolError,
    DatabaseError,
    DatabaseNotAvailableError,
    Failure,
    PoolTimeoutError,
    classify,
    forget_data,
    reason,
    sqlstate_of,
    translated,
)
from .metrics.measuring import Measuring
from .metrics.query_log import QueryLog
from .plans import Plans
from .pooler import LeavesNothingBehind
from .settings import Settings, redact

log = logging.getLogger("database")

Record: TypeAlias = asyncpg.Record
# What functions take as `conn=`: a connection of the pool, or any asyncpg connection.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_CONNECT_ATTEMPTS = 3  # one attempt gets this part of DB_CONNECTION_TIMEOUT
_RESET_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_FAREWELL_SECONDS = 0.1  # to say goodbye in, where the time of close() is over
_MAINTENANCE_SECONDS = 5.0
_COUNTERS = ("requests", "waits", "wait_seconds", "timeouts", "connects")
_FIRST_DELAY, _LONGEST_DELAY = 0.02, 0.2
_LONGEST_KNOCK = 0.09  # one task alone knocks; who waits is to be served within 250 ms of the server's return
_HEAD_START = 0.25  # what a host gets before the next one is asked as well
_SERVER_CHANGED = frozenset({
    "25006",  # read_only_sql_transaction: a standby, or the primary that was
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
})  # fmt: skip

_COMMIT = re.compile(r"(?:\s+|--[^\n]*\n|/\*.*?\*/)*(?:COMMIT|END)\b", re.IGNORECASE | re.DOTALL)

_PREPARE = re.compile(r"\bPREPARE\b", re.IGNORECASE)

# RESET ALL alone leaves roles, temporary tables and sequence caches to the next user. DISCARD ALL would also throw away
# the prepared statements that asyncpg believes in.
_RESET_QUERY = """
    RESET SESSION AUTHORIZATION;
    RESET ALL;
    CLOSE ALL;
    UNLISTEN *;
    SELECT pg_advisory_unlock_all();
    DISCARD TEMP;
    DISCARD SEQUENCES;
"""


# What the user has prepared in SQL; what asyncpg has prepared stays. Only where there may be some, for it is not free.
_DEALLOCATE_QUERY = """
    DO $$
    DECLARE
        prepared text;
    BEGIN
        FOR prepared IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP
            EXECUTE format('DEALLOCATE %I', prepared);
        END LOOP;
    END $$;
"""


def backoff(attempt: int, first: float = _FIRST_DELAY, longest: float = _LONGEST_DELAY) -> float:
    """
    Seconds to wait before attempt number *attempt* (the first repetition is 0): exponential with full jitter.

    After "Exponential Backoff And Jitter" (Marc Brooker, AWS Architecture Blog, 2015).
    """
    ceiling = min(longest, first * 2 ** min(attempt, 30))
    return random.uniform(first / 2, ceiling)  # noqa: S311 (spreads load, guards nothing)


class Attempts:
    """
    The attempts of one call: for *seconds*, and *most* repetitions of the first.

    *at_once*: the first repetition does not wait, for an idle connection whose server was restarted is replaced by a
    good one. Then, and else, the pauses are those of `backoff`.
    """

    def __init__(
        self,
        seconds: float = float("inf"),
        *,
        most: float = float("inf"),
        at_once: bool = True,
        first: float = _FIRST_DELAY,
        longest: float = _LONGEST_DELAY,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + seconds
        self.repetitions = 0
        self._most = most
        self._at_once = at_once
        self._first, self._longest = first, longest

    @property
    def seconds_left(self) -> float:
        """Until the deadline; 0 after it."""
        return max(0.0, self.deadline - self._loop.time())

    async def again(self) -> bool:
        """True, after a pause, where there is another attempt; False, at once, where there is no time for one."""
        pause = 0.0
        if self.repetitions or not self._at_once:
            pause = backoff(self.repetitions, self._first, self._longest)
        if self.repetitions >= self._most or pause >= self.seconds_left:
            return False
        self.repetitions += 1
        await asyncio.sleep(pause)
        return True


if TYPE_CHECKING:
    _AsyncpgConnection = asyncpg.Connection[asyncpg.Record]
else:
    _AsyncpgConnection = asyncpg.Connection  # only its stubs know that it is generic


class PooledConnection(_AsyncpgConnection):
    """A connection that never takes ROLLBACK for an answer to COMMIT, and that knows how old it may get."""

    __slots__ = (
        "calls", "expires_at", "generation", "has_prepared", "idle_since", "pool", "query_log", "was_writable",
    )  # fmt: skip
    calls: int
    expires_at: float
    idle_since: float
    generation: int
    has_prepared: bool
    pool: Pool
    query_log: QueryLog | None
    was_writable: bool

    @property
    def is_writable(self) -> bool:
        """False where the server says that it is a standby, or by default read-only; as of its last answer."""
        settings = self.get_settings()
        return not any(
            getattr(settings, name, "off") == "on" for name in ("in_hot_standby", "default_transaction_read_only")
        )

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """
        As asyncpg's, but a COMMIT that PostgreSQL answered with ROLLBACK raises.

        That is its answer where a statement of the transaction failed and the error was swallowed.
        """
        if _PREPARE.search(query):
            self.has_prepared = True
        status = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and _COMMIT.match(query):
            raise asyncpg.InFailedSQLTransactionError("current transaction is aborted, COMMIT became ROLLBACK")
        if status in ("DISCARD ALL", "DEALLOCATE ALL"):
            self._drop_local_statement_cache()  # type: ignore[attr-defined]  # left out of the stubs
        return status

    def get_reset_query(self) -> str:
        """What makes the session as good as new."""
        return _RESET_QUERY + _DEALLOCATE_QUERY if self.has_prepared else _RESET_QUERY

    async def copy_to_table(self, table_name: str, *, timeout: float | None = None, **options: Any) -> str:
        """As asyncpg's, but it ends where the connection is lost, or stands still, in the middle."""
        return await self._send(super().copy_to_table(table_name, timeout=timeout, **options), timeout)

    async def copy_records_to_table(self, table_name: str, *, timeout: float | None = None, **options: Any) -> str:
        """As asyncpg's, but it ends where the connection is lost, or stands still, in the middle."""
        return await self._send(super().copy_records_to_table(table_name, timeout=timeout, **options), timeout)

    async def _send(self, copying: Coroutine[Any, Any, str], timeout: float | None) -> str:
        """
        What *copying* returns; an error where the connection is lost or *timeout* (DB_COMMAND_TIMEOUT) is over.

        asyncpg alone would wait for ever for room to write into.
        """
        task: asyncio.Task[str] = asyncio.get_running_loop().create_task(copying)
        ended: list[Exception] = []

        def end(exc: Exception) -> None:
            ended.append(exc)
            task.cancel()

        def end_lost(_: object) -> None:
            end(asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of COPY"))

        seconds = self._config.command_timeout if timeout is None else timeout  # type: ignore[attr-defined]  # as below
        timer = None if seconds is None else task.get_loop().call_later(seconds, end, TimeoutError())
        self.add_termination_listener(end_lost)
        try:
            return await task
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if not ended or (this is not None and this.cancelling()):
                raise
            raise ended[0] from None
        finally:
            self.remove_termination_listener(end_lost)
            if timer is not None:
                timer.cancel()


class ConnectionBehindPooler(LeavesNothingBehind, PooledConnection):
    """A connection to a pooler in transaction mode; *transaction_settings* are SQL that each BEGIN is sent with."""

    __slots__ = ("transaction_settings",)
    transaction_settings: str


class MeasuredConnection(Measuring, PooledConnection):
    """A connection that tells the pool's query log what it sends."""

    __slots__ = ()


class MeasuredConnectionBehindPooler(Measuring, ConnectionBehindPooler):
    """The same to a pooler in transaction mode."""

    __slots__ = ()


_CLASSES: dict[tuple[bool, bool], type[PooledConnection]] = {
    (False, False): PooledConnection,
    (False, True): ConnectionBehindPooler,
    (True, False): MeasuredConnection,
    (True, True): MeasuredConnectionBehindPooler,
}  # by whether it is measured, and whether it leads to a pooler


def of_the_server(exc: Exception, conn: Connection) -> Exception:
    """
    *exc*, which came through *conn*; in its place a retryable error where the server became read-only meanwhile.

    Where it did (25006), or is going away (57P01, 57P02), the pool replaces its connections: there was a failover, and
    those that are left lead to the old primary.
    """
    state = exc.sqlstate if isinstance(exc, asyncpg.PostgresError) else None
    if state not in _SERVER_CHANGED:
        return exc
    connection = getattr(conn, "_con", conn)  # behind asyncpg's proxy
    if not isinstance(connection, PooledConnection):
        return exc
    turned = state == "25006" and connection.was_writable and not connection.is_closed() and not connection.is_writable
    if state != "25006" or turned:
        connection.pool.expire_generation(connection.generation)
    if not turned:
        return exc
    error = DatabaseNotAvailableError(
        "nothing was stored: the server became read-only (a failover?); its connections are replaced",
        original_error=exc,
        sqlstate=state,
        retryable=True,
    )
    error.__cause__ = exc
    return error


def speaking_through(
    conn: Connection,
    kind: type[DatabaseError],
    doing: str,
    *,
    changes: bool = True,
    inside: Callable[[], bool] = lambda: False,
) -> AbstractContextManager[None]:
    """As `translated`, for what is sent through *conn*: it hears of a failover, see `of_the_server`."""
    return translated(
        conn.is_closed, kind, doing, changes=changes, inside=inside, reconsider=lambda exc: of_the_server(exc, conn)
    )


class Companion(Protocol):
    """What lives with a pool, for the calls that share its connections."""

    @property
    def queued(self) -> int:
        """How many calls wait behind the one that waits for a connection for all of them."""

    @property
    def is_idle(self) -> bool:
        """True where no call is on its way or waits."""

    async def finish(self, timeout: float) -> None:
        """Begin nothing new and be done within *timeout* seconds."""


class Pool:
    """
    Connections to one database. `get_connection_pool()` makes it; asyncpg's pool methods work on it.

    `async with pool.acquire() as conn`, `fetch`, `fetchrow`, `fetchval`, `execute`, `executemany`, `get_size()` and the
    like behave as asyncpg's do, except that errors of the pool itself are `ConnectionPoolError`s.
    """

    @classmethod
    def unopened(cls, settings: Settings, address: Callable[[], Awaitable[str]], *, name: str = "default") -> Pool:
        """A pool that is never opened: only its way of connecting is wanted."""
        pool = cls(settings, address, name=name)
        pool.terminate()
        return pool

    def __init__(self, settings: Settings, address: Callable[[], Awaitable[str]], *, name: str = "default") -> None:
        self.name = name
        self.settings = settings
        self.redacted_url = settings.redacted_url
        self.companions: dict[object, Companion] = {}
        self.catalog: Any = None  # what columns.py knows of this database
        # what makes its connections in place of the server, as testing/ has them share a transaction
        self.source: Callable[[Pool], Awaitable[PooledConnection]] | None = None
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._idle: deque[PooledConnection] = deque()  # the right end was used last
        self._busy: set[PooledConnection] = set()
        self._resetting: set[PooledConnection] = set()
        self._waiters: deque[asyncio.Future[PooledConnection]] = deque()
        self._connectors: set[asyncio.Task[None]] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._generation = 0
        self._finishing = self._closing = False
        self._connect_error: BaseException | None = None
        self._drained: asyncio.Future[None] | None = None
        self._timer = self._loop.call_later(_MAINTENANCE_SECONDS, self._maintain)
        self._counters = dict.fromkeys(_COUNTERS, 0) | {"wait_seconds": 0.0}
        self._query_log: QueryLog | None = None
        if settings.measures_queries:
            plans = Plans(self)
            self._query_log = QueryLog(settings, name, plans.note_slow)
            self.companions[Plans] = plans

    # -- taking and giving back

    async def borrow(self, deadline: float) -> PooledConnection:
        """
        A connection for the package's own statements, until *deadline* (event loop time); `give_back` it.

        Raises `PoolTimeoutError` where all are in use until then, `DatabaseNotAvailableError` where none can be had.
        """
        connection = self.borrow_nowait()
        if connection is not None:
            return connection
        if self.room_in_line() < 1:
            raise self.line_error()
        return await self.wait_in_line(deadline)

    def borrow_nowait(self) -> PooledConnection | None:
        """As `borrow`, if an idle connection is there and nobody waits for one; None if not."""
        self._check_usable()
        connection = None if self._waiters else self._pop_idle()
        self._counters["requests"] += connection is not None
        return connection

    def give_back(self, connection: PooledConnection, *, clean: bool = True) -> None:
        """Give back what `borrow` gave; *clean* False has its session reset first, in the background."""
        self._busy.discard(connection)
        if not self._is_fit(connection):
            self._discard(connection)
        elif clean:
            self._hand_on(connection)
        else:
            self._resetting.add(connection)
            self._spawn(self._reset(connection))
        self._check_drained()

    def acquire(self, *, timeout: float | None = None) -> _Acquisition:
        """
        A connection for user code: `async with pool.acquire() as conn`, or `await` it and `release` it.

        Waits up to *timeout* seconds, by default DB_CONNECTION_TIMEOUT.
        """
        return _Acquisition(self, self.settings.connection_timeout if timeout is None else timeout)

    async def release(self, connection: PoolConnectionProxy[asyncpg.Record], *, timeout: float | None = None) -> None:
        """Give back what `acquire` gave. A connection that was released already stays released."""
        self._release(connection)

    def _release(self, proxy: PoolConnectionProxy[asyncpg.Record]) -> None:
        connection = proxy._con  # type: ignore[attr-defined]  # left out of the stubs, as are the others below
        if connection is None:
            return
        if self._closing and connection not in self._busy:  # cut off by terminate()
            proxy._detach()  # type: ignore[attr-defined]
            return
        if not isinstance(connection, PooledConnection) or connection not in self._busy:
            raise ConnectionPoolError("this connection is not one of this pool")
        try:
            connection._on_release()  # type: ignore[attr-defined]  # invalidates cursors and statements; warns of listeners left behind
        finally:
            proxy._detach()  # type: ignore[attr-defined]
            self.give_back(connection, clean=False)

    async def _proxied(self, timeout: float) -> PoolConnectionProxy[asyncpg.Record]:
        connection = await self.borrow(self._loop.time() + timeout)
        # asyncpg asks holder._pool to drop caches when the schema has changed: that is this object
        return PoolConnectionProxy(self, connection)  # type: ignore[arg-type]

    def _pop_idle(self) -> PooledConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if self._is_fit(connection):
                self._busy.add(connection)
                return connection
            self._discard(connection)
        return None

    async def wait_in_line(self, deadline: float) -> PooledConnection:
        """As `borrow`, whoever waits already."""
        self._counters["requests"] += 1
        waiter: asyncio.Future[PooledConnection] = self._loop.create_future()
        self._waiters.append(waiter)
        self._grow()
        began = self._loop.time()
        self._counters["waits"] += 1
        timer = self._loop.call_at(deadline, self._expire, waiter, deadline - began)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with suppress(ValueError):  # `_hand_on` may have passed over it already
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:
                self.give_back(waiter.result())  # it was ours for a moment
            raise
        finally:
            timer.cancel()
            waited = self._loop.time() - began
            self._counters["wait_seconds"] += waited
            if self._query_log is not None:
                self._query_log.statistics.add_wait(waited)

    def _waiting(self) -> int:
        return len(self._waiters) + sum(companion.queued for companion in self.companions.values())

    def room_in_line(self) -> float:
        """How many more callers may wait for a connection: DB_MAX_WAITING, less those who do."""
        limit = self.settings.max_waiting
        return limit - self._waiting() if limit else float("inf")

    def line_error(self) -> PoolTimeoutError:
        """What a caller gets for whom there is no room."""
        return PoolTimeoutError(
            f"{self.settings.max_waiting} callers wait for a connection already (DB_MAX_WAITING)", retryable=True
        )

    def _expire(self, waiter: asyncio.Future[PooledConnection], waited: float) -> None:
        if waiter.done():
            return
        self._waiters.remove(waiter)
        self._counters["timeouts"] += 1
        if len(self._busy) + len(self._resetting) < self.settings.max_connections:
            error = self._connect_error or OSError("no answer yet")
            waiter.set_exception(self._not_available(error, f"tried for {waited:.3g} s"))
            return
        waiter.set_exception(
            PoolTimeoutError(
                f"no connection became free in {waited:.3g} s: {len(self._busy)} of {self.settings.max_connections} "
                f"are in use and {self._waiting()} more callers wait; hold connections for a shorter time, or "
                "raise DB_MAX_CONNECTIONS",
                retryable=True,
            )
        )

    def _hand_on(self, connection: PooledConnection) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._busy.add(connection)
                waiter.set_result(connection)
                return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def _is_fit(self, connection: PooledConnection) -> bool:
        return not (
            self._closing
            or connection.is_closed()
            or connection.generation != self._generation
            or self._loop.time() >= connection.expires_at
        )

    async def _reset(self, connection: PooledConnection) -> None:
        try:
            await connection.reset(timeout=_RESET_SECONDS)
        except BaseException as exc:
            log.debug("a connection could not be reset and is replaced: %s", reason(exc))
            connection.terminate()
            if not isinstance(exc, Exception):
                raise
        finally:
            self._resetting.discard(connection)
            if self._is_fit(connection):
                self._hand_on(connection)
            else:
                self._discard(connection)

    # -- connecting

    def _size(self) -> int:
        return len(self._idle) + len(self._busy) + len(self._resetting) + len(self._connectors)

    def _grow(self) -> None:
        """Start as many connectors as callers wait for and the limit allows; one alone while the server is away."""
        if self._closing:
            return
        wanted = max(
            len(self._waiters) - len(self._resetting) - len(self._connectors),
            self.settings.min_connections - self._size(),
        )
        room = self.settings.max_connections - self._size()
        if self._connect_error is not None:
            room = min(room, 1 - len(self._connectors))
        for _ in range(min(wanted, room)):
            task = self._loop.create_task(self._connect_for_somebody())
            self._connectors.add(task)
            task.add_done_callback(self._connectors.discard)

    async def _connect_for_somebody(self) -> None:
        """Make a connection for whoever waits first, trying as long as somebody waits."""
        attempts = Attempts(at_once=False, longest=_LONGEST_KNOCK)
        while not self._closing:
            try:
                connection = await self.connect(self.settings.connection_timeout / _CONNECT_ATTEMPTS)
            except Exception as exc:
                if not self._keep_trying(exc):
                    return
            else:
                self._connectors.discard(_current_task())
                self._connect_error = None
                if self._is_fit(connection):
                    self._hand_on(connection)
                else:
                    self._discard(connection)
                self._grow()
                return
            await attempts.again()

    def _keep_trying(self, exc: Exception) -> bool:
        permanent = classify(exc, connecting=True) is Failure.PERMANENT
        hopeless = permanent and not (self._busy or self._resetting)  # else those that come back serve who waits
        if self._connect_error is None and not hopeless:
            log.warning("cannot connect to %s: %s", self.redacted_url, reason(exc))
        self._connect_error = exc
        if hopeless:
            self._refuse_waiters(lambda: self._not_available(exc))
        task = _current_task()
        if self._waiters and not permanent and self._connectors == {task}:
            return True
        self._connectors.discard(task)  # now, so that the last of several that fail at once sees itself alone
        return False

    def _refuse_waiters(self, error: Callable[[], ConnectionPoolError]) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error())

    async def connect(self, timeout: float) -> PooledConnection:
        """A connection that the pool does not count: the caller closes it. Raises what the driver raises."""
        generation = self._generation  # one that is made while all are expired leads where they led
        connection = await (self._connect_to_server(timeout) if self.source is None else self.source(self))
        now = self._loop.time()
        connection.pool = self
        connection.query_log = self._query_log
        connection.calls = 1
        connection.has_prepared = False
        connection.was_writable = connection.is_writable
        connection.generation = generation
        connection.expires_at = now + self.settings.max_lifetime * random.uniform(0.9, 1.0)  # noqa: S311 (not all at once)
        connection.idle_since = now
        self._counters["connects"] += 1
        return connection

    async def _connect_to_server(self, timeout: float) -> PooledConnection:
        settings = self.settings
        server_settings = {"application_name": settings.application_name}
        limit = None if settings.statement_timeout is None else max(1, round(settings.statement_timeout * 1000))
        pooled = settings.pooler == "transaction"
        if limit is not None and not pooled:  # a pooler refuses connections that bring settings
            server_settings["statement_timeout"] = str(limit)
        async with asyncio.timeout(timeout):
            dsn = await self._address()
            self.redacted_url = redact(dsn)
            tls = _tls_context(dsn)

            async def connect_to(host: str | None, port: int | None) -> PooledConnection:
                connection: PooledConnection = await asyncpg.connect(
                    dsn,
                    host=host,
                    port=port,
                    timeout=timeout,
                    command_timeout=settings.command_timeout,
                    server_settings=server_settings,
                    connection_class=_CLASSES[self._query_log is not None, pooled],
                    statement_cache_size=0 if pooled else 100,
                    max_cacheable_statement_size=2**16,  # searches with filters are longer than the usual 15 kB
                    ssl=tls,
                )
                return connection

            connection = await _connect_to_any(_hosts(dsn), connect_to)
            connection.query_log = None  # what comes first is no statement of anybody's
            connection.calls = 1
            try:
                if pooled:  # asyncpg takes any connection for an instance of any class
                    settle = "" if limit is None else f" SET LOCAL statement_timeout = {limit};"
                    cast("ConnectionBehindPooler", connection).transaction_settings = settle
                _keep_alive(connection)
                await register_codecs(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    def _not_available(self, exc: BaseException, detail: str = "") -> ConnectionPoolError:
        if isinstance(exc, ConnectionPoolError):
            return exc
        hint = "is PostgreSQL running there, and is that the right address?"
        if sqlstate_of(exc) is not None:
            hint = "see POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DATABASE or DATABASE_URL"
        elif classify(exc, connecting=True) is Failure.PERMANENT:
            hint = "TLS? See POSTGRES_SSLMODE and POSTGRES_SSLROOTCERT"
        because = "; ".join(part for part in (reason(exc), detail, hint) if part)
        error = DatabaseNotAvailableError(
            f"cannot connect to {self.redacted_url}: {because}",
            original_error=exc,
            sqlstate=sqlstate_of(exc),
            retryable=classify(exc, connecting=True) is not Failure.PERMANENT,
        )
        error.__cause__ = exc
        forget_data(exc)
        return error

    # -- keeping house

    def _maintain(self) -> None:
        """Replace what is too old, close what was idle for too long, keep the least number open."""
        if self._closing:
            return
        limit = self._loop.time() - self.settings.max_idle
        for connection in list(self._idle):
            spare = self._size() > self.settings.min_connections
            if not self._is_fit(connection) or (spare and connection.idle_since < limit):
                self._idle.remove(connection)
                self._discard(connection)
        self._grow()
        self._timer = self._loop.call_later(_MAINTENANCE_SECONDS, self._maintain)

    def _discard(self, connection: PooledConnection) -> None:
        """Close a connection that is in no set any more, in the background, and make room for a new one."""
        if not connection.is_closed():
            # also where the chore is cancelled before it has begun
            self._spawn(_close(connection)).add_done_callback(lambda _: connection.terminate())
        if self._waiters:
            self._grow()

    def _spawn(self, chore: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        return task

    def expire_connections(self) -> None:
        """Replace every connection: idle ones now, the others when they come back."""
        self._generation += 1
        while self._idle:
            self._discard(self._idle.pop())

    def expire_generation(self, generation: int) -> None:
        """As `expire_connections`, for those of *generation*: nothing where that has been done already."""
        if generation == self._generation:
            self.expire_connections()
            self._grow()

    async def close(self, timeout: float = 10.0) -> None:
        """
        Finish accepted calls, refuse new callers, wait for connections that are out, and close all of them.

        For up to *timeout* seconds altogether; what is still out then is cut off. Ends within that time and a little,
        whatever the server does.
        """
        deadline = self._loop.time() + timeout
        self._finishing = True
        try:
            await asyncio.gather(*(companion.finish(timeout) for companion in self.companions.values()))
            self._closing = True
            self._timer.cancel()
            self._refuse_waiters(self.closed_error)
            for task in self._connectors:
                task.cancel()
            if self._busy:
                self._drained = self._drained or self._loop.create_future()
                await asyncio.wait([self._drained], timeout=max(0.0, deadline - self._loop.time()))
            self.expire_connections()
            last = max(deadline, self._loop.time() + _FAREWELL_SECONDS)
            while (left := [*self._chores, *self._connectors]) and self._loop.time() < last:
                await asyncio.wait(left, timeout=last - self._loop.time())
        finally:
            self.terminate()

    def terminate(self) -> None:
        """Cut every connection off, now."""
        self._closing = True
        self._timer.cancel()
        for connection in [*self._idle, *self._busy, *self._resetting]:
            connection.terminate()
        for task in [*self._connectors, *self._chores]:
            task.cancel()
        self._idle.clear()
        self._busy.clear()
        self._resetting.clear()
        self._check_drained()
        self._refuse_waiters(self.closed_error)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._busy and not self._drained.done():
            self._drained.set_result(None)

    def closed_error(self) -> ConnectionPoolError:
        """What callers of a closed pool get."""
        return ConnectionPoolError("the connection pool is closed; get_connection_pool() opens a new one")

    def _check_usable(self) -> None:
        if self._closing:
            raise self.closed_error()
        if self._loop is not asyncio.get_running_loop():
            raise ConnectionPoolError(
                "this pool belongs to another event loop; ask get_connection_pool() for the one of this loop (under "
                "pytest-asyncio, set asyncio_default_fixture_loop_scope and asyncio_default_test_loop_scope alike)"
            )
        if self._pid != os.getpid():
            raise ConnectionPoolError(
                "this pool belongs to the parent process; ask get_connection_pool() for one of this process"
            )

    @property
    def _pool(self) -> Pool:
        return self

    def _drop_statement_cache(self) -> None:
        for connection in [*self._idle, *self._busy, *self._resetting]:
            connection._drop_local_statement_cache()  # type: ignore[attr-defined]

    def _drop_type_cache(self) -> None:
        for connection in [*self._idle, *self._busy, *self._resetting]:
            connection._drop_local_type_cache()  # type: ignore[attr-defined]

    # -- what asyncpg's users know

    def is_closing(self) -> bool:
        """True from the first `close()` or `terminate()` on."""
        return self._finishing or self._closing

    def get_size(self) -> int:
        """Open connections."""
        return len(self._idle) + len(self._busy) + len(self._resetting)

    def get_idle_size(self) -> int:
        """Open connections that nobody uses."""
        return len(self._idle)

    def get_min_size(self) -> int:
        """DB_MIN_CONNECTIONS."""
        return self.settings.min_connections

    def get_max_size(self) -> int:
        """DB_MAX_CONNECTIONS."""
        return self.settings.max_connections

    @staticmethod
    def empty_stats() -> dict[str, Any]:
        """What `get_stats` says of a pool that has not done anything."""
        return dict.fromkeys(("size", "idle", "in_use", "waiting", "min_size", "max_size", *_COUNTERS), 0)

    def get_stats(self) -> dict[str, Any]:
        """
        How the pool is and what it has done since it was opened.

        size, idle, in_use, waiting, min_size, max_size (connections, callers); requests, waits, timeouts, connects
        (counts); wait_seconds (the sum over all callers).
        """
        return {
            "size": self.get_size(),
            "idle": len(self._idle),
            "in_use": len(self._busy),
            "waiting": self._waiting(),
            "min_size": self.get_min_size(),
            "max_size": self.get_max_size(),
            **self._counters,
        }

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As `Connection.execute`, on a connection taken for it."""
        async with self.acquire() as conn:
            return await conn.execute(query, *args, timeout=timeout)

    async def executemany(
        self, command: str, args: Iterable[Sequence[object]], *, timeout: float | None = None
    ) -> None:
        """As `Connection.executemany`, on a connection taken for it."""
        async with self.acquire() as conn:
            await conn.executemany(command, args, timeout=timeout)

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> list[Record]:
        """As `Connection.fetch`, on a connection taken for it."""
        async with self.acquire() as conn:
            return await conn.fetch(query, *args, timeout=timeout)

    async def fetchrow(self, query: str, *args: object, timeout: float | None = None) -> Record | None:
        """As `Connection.fetchrow`, on a connection taken for it."""
        async with self.acquire() as conn:
            return await conn.fetchrow(query, *args, timeout=timeout)

    async def fetchval(self, query: str, *args: object, column: int = 0, timeout: float | None = None) -> Any:
        """As `Connection.fetchval`, on a connection taken for it."""
        async with self.acquire() as conn:
            return await conn.fetchval(query, *args, column=column, timeout=timeout)


class _Acquisition:
    """What `Pool.acquire()` returns: to be awaited, or entered."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._proxy: PoolConnectionProxy[asyncpg.Record] | None = None

    def __await__(self) -> Generator[Any, None, PoolConnectionProxy[asyncpg.Record]]:
        return self._pool._proxied(self._timeout).__await__()

    async def __aenter__(self) -> PoolConnectionProxy[asyncpg.Record]:
        self._proxy = await self._pool._proxied(self._timeout)
        return self._proxy

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._proxy is not None:
            self._pool._release(self._proxy)


def _current_task() -> asyncio.Task[None]:
    return cast("asyncio.Task[None]", asyncio.current_task())


def _hosts(dsn: str) -> list[tuple[str, int]]:
    """The hosts that *dsn* names, to be tried one by one; none where the driver should see to it."""
    url = urlsplit(dsn)
    query = dict(parse_qsl(url.query))
    # a standby is preferred only after all have been asked
    if query.get("target_session_attrs") == "prefer-standby":
        return []
    named = query.get("host") or unquote(url.netloc.rpartition("@")[2])
    hosts = named.split(",")
    if len(hosts) == 1:
        return []
    ports = (query.get("port") or os.environ.get("PGPORT") or "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    found = []
    for host, port in zip(hosts, ports, strict=True):
        if host.startswith("/"):
            name, own_port = host, ""
        elif host.startswith("["):
            name, _, rest = host[1:].partition("]")
            own_port = rest.removeprefix(":")
        else:
            name, _, own_port = host.partition(":")
        found.append((name, int(own_port or port)))
    return found


async def _connect_to_any(
    hosts: list[tuple[str, int]], connect: Callable[[str | None, int | None], Awaitable[PooledConnection]]
) -> PooledConnection:
    """
    A connection to the first of *hosts* that gives one; each gets a head start before the next one is asked as well.

    So that a host that says nothing costs a moment and not the whole time. After RFC 8305 (Happy Eyeballs).
    """
    if not hosts:
        return await connect(None, None)
    tasks: list[asyncio.Task[PooledConnection]] = []
    waiting = list(hosts)
    errors: list[BaseException] = []
    try:
        while waiting or len(errors) < len(tasks):
            if waiting:
                tasks.append(asyncio.ensure_future(connect(*waiting.pop(0))))
            under_way = [task for task in tasks if not task.done()]
            await asyncio.wait(under_way, timeout=_HEAD_START if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and task.exception() is None:
                    tasks.remove(task)
                    return task.result()
            errors = [exc for task in tasks if task.done() and (exc := task.exception()) is not None]
    finally:
        for task in tasks:
            task.cancel()
            task.add_done_callback(_drop)
    # what a server said tells more than that another could not be reached
    raise max(errors, key=lambda exc: sqlstate_of(exc) is not None)


def _drop(task: asyncio.Task[PooledConnection]) -> None:
    """Close the connection that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


async def _close(connection: PooledConnection) -> None:
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except Exception as exc:
        log.debug("a connection did not close in time and was cut off: %s", reason(exc))
        connection.terminate()


def _tls_context(dsn: str) -> ssl.SSLContext | None:
    """For verify-full without a root certificate: what the system trusts. None: asyncpg knows what to do."""
    query = dict(parse_qsl(urlsplit(dsn).query))
    own_root = query.get("sslrootcert") or (Path.home() / ".postgresql" / "root.crt").is_file()
    if query.get("sslmode") != "verify-full" or own_root:
        return None
    context = ssl.create_default_context()
    certificate = query.get("sslcert") or os.environ.get("PGSSLCERT")
    if certificate:
        context.load_cert_chain(certificate, query.get("sslkey") or os.environ.get("PGSSLKEY"))
    return context


def _keep_alive(connection: PooledConnection) -> None:
    """Have the kernel notice a server that vanished: asyncpg sets no keepalive."""
    sock = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
