"""
Which pool is whose: one for each (process, event loop, name), opened on first use, once.

A forked child and a new event loop find none and open their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

from . import embedded
from .exceptions import ConnectionPoolError, DatabaseError, translate
from .pool import Pool
from .settings import Settings, get_settings

InitCallback = Callable[[Pool], Awaitable[object]]

# a loop that ended without close_connection_pool() is thrown out when the next one asks for a pool
_pools: dict[asyncio.AbstractEventLoop, dict[str, _Entry]] = {}
_callbacks: dict[str, list[InitCallback]] = {}
# the pool whose init callbacks run in this task: they use it before anybody else may
_initializing: ContextVar[Pool | None] = ContextVar("_initializing", default=None)
# the pool that a task works for in the background: it ends with that pool, and must not open another one
_worked_for: ContextVar[Pool | None] = ContextVar("_worked_for", default=None)
_of_the_parent: list[object] = []
# what is done with each pool before anybody uses it; see `divert_pools`
_divert: Callable[[Pool], None] | None = None


class _Entry:
    """A pool and the one opening of it that all callers wait for."""

    def __init__(self, name: str) -> None:
        settings = get_settings(name)
        self.pool = Pool(settings, lambda: server_address(settings), name=name)
        if _divert is not None:
            _divert(self.pool)
        self.is_open = False
        self.opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        pool = self.pool
        _initializing.set(pool)
        try:
            # an embedded server may have to be made first, which has its own limit
            await server_address(pool.settings)
            connection = await pool.borrow(asyncio.get_running_loop().time() + pool.settings.connection_timeout)
            pool.give_back(connection)
            callbacks = _callbacks.setdefault(pool.name, [])
            done = 0
            while done < len(callbacks):  # one that is registered meanwhile runs, too
                await _run_callback(callbacks[done], pool)
                done += 1
            self.is_open = True
        except BaseException:
            _forget(self)
            pool.terminate()
            raise


async def server_address(settings: Settings) -> str:
    """The URI of the server that *settings* mean; starts the embedded one where they name none."""
    if settings.names_a_server:
        return settings.dsn
    if settings.embedded == "never":
        raise ConnectionPoolError(
            "nothing says which server to use and DB_EMBEDDED=never: set DATABASE_URL, or POSTGRES_HOST and the like"
        )
    return await embedded.start(settings.embedded_dir)


async def get_connection_pool(name: str = "default") -> Pool:
    """
    The pool of the database *name* in this process and event loop; opened if there is none, once for all who ask.

    Opening makes the first connection and runs the init callbacks. Raises `DatabaseNotAvailableError` where no server
    can be reached within DB_CONNECTION_TIMEOUT, `ConnectionPoolError` where the settings are wrong.
    """
    own = _worked_for.get()
    if own is not None and own.name == name:
        return own
    entries = _pools.setdefault(asyncio.get_running_loop(), {})
    entry = entries.get(name)
    if entry is None or entry.pool.is_closing():
        _forget_ended_loops()
        entry = entries[name] = _Entry(name)
    if not entry.opening.done():
        if _initializing.get() is entry.pool:
            return entry.pool
        try:
            await asyncio.shield(entry.opening)
        except asyncio.CancelledError:
            if entry.opening.cancelled() and not _is_cancelled():
                raise ConnectionPoolError("the connection pool was closed while it was being opened") from None
            raise
    return entry.pool


def work_in_background(pool: Pool, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task whose calls without `conn` go to *pool*, also while it closes, and to no other one."""
    context = copy_context()
    context.run(_worked_for.set, pool)
    return asyncio.get_running_loop().create_task(work, context=context)


async def close_connection_pool(name: str | None = None, *, timeout: float = 10.0) -> None:
    """
    Close the pool of the database *name*, or every pool of this event loop; nothing where none is open.

    Connections that are out get *timeout* seconds to come back and are cut off then, so it always ends.
    """
    entries = _pools.get(asyncio.get_running_loop(), {})
    names = list(entries) if name is None else [name] * (name in entries)
    closing = [entries.pop(each) for each in names]
    for entry in closing:
        entry.opening.cancel()
    await asyncio.gather(*(entry.pool.close(timeout) for entry in closing))


async def register_init_callback(callback: InitCallback, name: str = "default") -> None:
    """
    Run `await callback(pool)` each time the pool of the database *name* was opened, before anybody else uses it.

    In the order of registration; at once, too, where the pool is open already. What it raises fails the opening.
    """
    _callbacks.setdefault(name, []).append(callback)
    pool = open_pool(name)
    if pool is not None:
        await _run_callback(callback, pool)


def unregister_init_callback(callback: InitCallback, name: str = "default") -> None:
    """Forget *callback*; nothing where it was not registered."""
    if callback in _callbacks.get(name, []):
        _callbacks[name].remove(callback)


def open_pool(name: str = "default") -> Pool | None:
    """The pool of the database *name* if it is open in this event loop; opens nothing."""
    entries = _pools.get(asyncio.get_running_loop())
    entry = entries.get(name) if entries else None
    return entry.pool if entry is not None and entry.is_open and not entry.pool.is_closing() else None


def divert_pools(divert: Callable[[Pool], None] | None) -> list[tuple[asyncio.AbstractEventLoop, Pool]]:
    """
    Have `divert(pool)` called with each pool that is made from now on, in any event loop; None: no longer.

    Returns the pools that there are, and their loops. The door of testing/.
    """
    global _divert
    _divert = divert
    _forget_ended_loops()
    return [(loop, entry.pool) for loop, entries in _pools.items() for entry in entries.values()]


def all_pools() -> list[Pool]:
    """The pools that are open in this process, in whatever event loop; to be looked at from any thread."""
    return [
        entry.pool
        for entries in list(_pools.values())
        for entry in list(entries.values())
        if entry.is_open and not entry.pool.is_closing()
    ]


def is_pool_active(name: str = "default") -> bool:
    """True where the pool of the database *name* is open in this event loop."""
    return open_pool(name) is not None


async def get_pool_stats(name: str = "default") -> dict[str, Any]:
    """
    How the pool of the database *name* is used; see `Pool.get_stats`.

    Opens nothing: a pool that is not open has size 0.
    """
    pool = open_pool(name)
    if pool is not None:
        return pool.get_stats()
    settings = get_settings(name)
    return Pool.empty_stats() | {"min_size": settings.min_connections, "max_size": settings.max_connections}


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _run_callback(callback: InitCallback, pool: Pool) -> None:
    try:
        await callback(pool)
    except DatabaseError:
        raise
    except Exception as exc:
        name = getattr(callback, "__qualname__", repr(callback))
        raise translate(exc, ConnectionPoolError, f"run the init callback {name}") from exc


def _forget_ended_loops() -> None:
    """Their connections are closed with the last reference to them."""
    for loop in [loop for loop in _pools if loop.is_closed()]:
        del _pools[loop]


def _forget(entry: _Entry) -> None:
    entries = _pools.get(asyncio.get_running_loop(), {})
    if entries.get(entry.pool.name) is entry:
        del entries[entry.pool.name]


def _leave_to_the_parent() -> None:
    """In a forked child: forget the parent's pools without touching the sockets that both share."""
    _of_the_parent.extend(entries for entries in _pools.values())
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
