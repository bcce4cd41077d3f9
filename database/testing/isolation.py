"""
Everything that the package does for the time of a test, in one transaction that is never committed.

Every pool of this process, also one that is open already, also in another event loop, gives out connections that share
one (see line.py), until the block ends and all of it is undone.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import itertools
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from ..connect_db import Connection
from ..exceptions import DatabaseError, DatabaseNotAvailableError
from ..pool import Companion, Pool, PooledConnection, speaking_through
from ..query import quote_identifier
from ..registry import divert_pools
from ..settings import Settings, get_settings
from .background import run_blocking, run_in_background
from .line import Line, inside
from .sessions import Session

T = TypeVar("T")

_CONNECTION_NAMES = ("conn", "txn")
_idle: dict[str, Line] = {}  # connections that wait for the next test, by what they lead to
_active: _Isolation | None = None
_numbers = itertools.count(1)


class _Before(NamedTuple):
    """What a pool had that was open before."""

    settings: Settings
    companions: dict[object, Companion]
    catalog: Any


class _Isolation:
    """The time of one test: its lines, one for each database, and the pools that speak through them."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._pid = os.getpid()
        self._opening = asyncio.Lock()
        self._made: list[tuple[asyncio.AbstractEventLoop, Pool]] = []
        self._diverted: list[tuple[asyncio.AbstractEventLoop, Pool, _Before]] = []
        settings = get_settings()
        line = run_blocking(self._line("default", settings))
        self.connection = Session(line, is_bottom=True)
        for loop, pool in divert_pools(self._divert_new):
            before = _Before(pool.settings, pool.companions, pool.catalog)
            self._diverted.append((loop, pool, before))
            _call_in(loop, functools.partial(self._divert, pool))

    def end(self) -> None:
        """Undo everything, and let the pools have connections of their own again."""
        divert_pools(None)
        for loop, pool, before in self._diverted:
            _call_in(loop, functools.partial(_give_back, pool, before))
        for loop, pool in self._made:
            _call_in(loop, pool.terminate)
        run_blocking(self._end_lines())

    def _divert_new(self, pool: Pool) -> None:
        self._made.append((asyncio.get_running_loop(), pool))
        self._divert(pool)

    def _divert(self, pool: Pool) -> None:
        # a statement that calls share belongs to none of them, and could not tell inside of which transaction it is
        pool.settings = pool.settings.model_copy(update={"batching": "off"})
        pool.companions = {}
        pool.catalog = None
        pool.source = self._connect
        pool.expire_connections()

    async def _connect(self, pool: Pool) -> PooledConnection:
        if os.getpid() != self._pid:
            raise DatabaseNotAvailableError(
                "a forked process cannot take part in the transaction of a test: give the test the fixture "
                "fresh_database"
            )
        line = await run_in_background(self._line(pool.name, pool.settings))
        line.check()
        return Session(line)

    async def _line(self, name: str, settings: Settings) -> Line:
        """The line to the database *name*: one that is left of an earlier test, or a new one."""
        async with self._opening:
            line = self._lines.get(name)
            if line is None:
                known = _idle.pop(_target(settings), None)
                if known is not None and not known.connection.is_closed():
                    line = Line(settings, known.connection)
                else:
                    line = await Line.open(settings)
                try:
                    await line.begin()
                except BaseException:
                    await line.close()
                    raise
                self._lines[name] = line
            return line

    async def _end_lines(self) -> None:
        for line in self._lines.values():
            try:
                await line.end()
            except Exception:
                await line.close()
            if not line.connection.is_closed() and _target(line.settings) not in _idle:
                _idle[_target(line.settings)] = line
            else:
                await line.close()


def _target(settings: Settings) -> str:
    return f"{settings.dsn} {settings.application_name} {settings.statement_timeout} {settings.command_timeout}"


def _give_back(pool: Pool, before: _Before) -> None:
    pool.settings, pool.companions, pool.catalog = before
    pool.source = None
    pool.expire_connections()


def _call_in(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    """Do *work* in the thread of *loop*; at once where that is this one, or the loop stands still."""
    if loop.is_closed():
        return
    if not loop.is_running() or loop is _running_loop():
        with suppress(RuntimeError):  # it was closed meanwhile
            work()
        return
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            done.set()

    loop.call_soon_threadsafe(run)
    done.wait(5)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@contextmanager
def rolled_back() -> Iterator[Connection]:
    """
    For the time of the block, everything that the package does in this process is in one transaction, then undone.

    In every event loop and thread, also in calls without `conn`, which share the connection and take turns; what
    would be a transaction of its own is a savepoint. The block gets the connection itself, for `conn=`, SQL of its
    own, and savepoints. Inside of another such block it is a savepoint of that one. Not undone are sequences. Raises
    `DatabaseNotAvailableError` where no server can be reached.
    """
    global _active
    if _active is not None:
        with _part_rolled_back(_active.connection) as conn:
            yield conn
        return
    _active = isolation = _Isolation()
    try:
        yield isolation.connection
    finally:
        _active = None
        isolation.end()


@contextmanager
def _part_rolled_back(conn: Session) -> Iterator[Connection]:
    savepoint = f"part_{next(_numbers)}"

    def send(sql: str) -> None:
        run_blocking(conn.line.perform_plainly(conn, inside.get(), lambda protocol: protocol.query(sql, None)))

    send(f"SAVEPOINT {savepoint}")
    try:
        yield conn
    finally:
        send(f"ROLLBACK TO SAVEPOINT {savepoint}; RELEASE SAVEPOINT {savepoint}")


def close_idle_lines() -> None:
    """Disconnect what waits for the next test; databases with connections cannot be dropped."""
    lines = [*_idle.values()]
    _idle.clear()
    for line in lines:
        run_blocking(line.close())


atexit.register(close_idle_lines)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # the parent's sockets


def with_transaction(fn: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    """
    Decorate an async function or method: whatever it does with the package is undone when it returns or raises.

    A parameter named `conn` or `txn` gets the connection. Under pytest the function runs as with the fixture
    `db_transaction`, in the database of the tests; elsewhere, in the configured one, see `rolled_back`.
    """
    if not inspect.iscoroutinefunction(fn):
        raise TypeError(f"with_transaction decorates async functions: make it `async def {fn.__name__}`")
    signature = inspect.signature(fn)
    wanted = [name for name in signature.parameters if name in _CONNECTION_NAMES]

    @functools.wraps(fn)
    async def run(*args: Any, **kwargs: Any) -> T:
        with rolled_back() as conn:
            return await fn(*args, **kwargs, **dict.fromkeys(wanted, conn))

    # or pytest would look for a fixture of that name
    parameters = [each for name, each in signature.parameters.items() if name not in wanted]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    if "pytest" in sys.modules:
        run = sys.modules["pytest"].mark.usefixtures("db_transaction")(run)
    return run


async def create_savepoint(name: str, *, conn: Connection | None = None) -> None:
    """
    Make a savepoint in the test's transaction, or in that of *conn*; `rollback_to_savepoint` returns to it.

    Raises `DatabaseError` where there is no transaction.
    """
    c = _connection(conn)
    with speaking_through(c, DatabaseError, f"make the savepoint {name!r}"):
        await c.execute(f"SAVEPOINT {quote_identifier(name)}")


async def rollback_to_savepoint(name: str, *, conn: Connection | None = None) -> None:
    """
    Undo what was done since `create_savepoint(name)`; the savepoint stays, and can be returned to again.

    Raises `DatabaseError` where there is no such savepoint, or no transaction.
    """
    c = _connection(conn)
    with speaking_through(c, DatabaseError, f"return to the savepoint {name!r}"):
        await c.execute(f"ROLLBACK TO SAVEPOINT {quote_identifier(name)}")


def _connection(conn: Connection | None) -> Connection:
    if conn is not None:
        return conn
    if _active is None:
        raise DatabaseError("there is no transaction of a test: ask for the fixture db_transaction, or give conn=")
    return _active.connection
