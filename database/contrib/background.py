"""
Async work for synchronous callers: it runs in an event loop in a thread of its own, where its pools live, too.

Its callers wait. What a signal raises in one of them (a time limit, a shutdown) never strikes in the middle of the
loop: the work is cancelled, and the caller goes on when it has ended. The loop is made when it is first needed. A
forked child has nothing of its parent's.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Generic, TypeVar

from ..connect_db import close_connection_pool
from ..exceptions import reason

log = logging.getLogger("database")

T = TypeVar("T")

_CLOSE_SECONDS = 5.0
_STOP_SECONDS = 1.0
_LOOK_SECONDS = 1.0  # how soon a caller sees that the loop has gone before its work was done

_lock = threading.Lock()
_loops: list[_LoopThread] = []
_of_the_parent: list[_LoopThread] = []  # collecting a loop would touch what both processes share


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="database.contrib", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_stopping:
            with suppress(KeyboardInterrupt, SystemExit):  # of an asyncio task that the work has started; it is told
                self.loop.run_forever()
        self.loop.close()

    def _stop(self) -> None:
        self._is_stopping = True
        self.loop.stop()

    def close(self) -> None:
        """Close the pools, cancel what is left, stop; all in bounded time."""
        try:
            ending = asyncio.run_coroutine_threadsafe(self._end_all(), self.loop)
            ending.result(_CLOSE_SECONDS + _STOP_SECONDS)
        except Exception as exc:
            log.warning("the event loop in the background does not end well: %s", reason(exc))
        self.loop.call_soon_threadsafe(self._stop)
        self._thread.join(_STOP_SECONDS)

    async def _end_all(self) -> None:
        await close_connection_pool(timeout=_CLOSE_SECONDS)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_STOP_SECONDS)
        await self.loop.shutdown_asyncgens()


def _loop_for_caller() -> asyncio.AbstractEventLoop:
    """
    The loop in the background; for code that runs there itself, the next one.

    In Celery's eager mode the body of a task may run another task: it stands still meanwhile, and its loop with it.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    depth = next((depth + 1 for depth, each in enumerate(_loops) if each.loop is running), 0)
    if depth == len(_loops):
        _loops.append(_LoopThread())
    return _loops[depth].loop


class Call(Generic[T]):
    """
    *work* in the background, for which one thread waits; *may_cancel* False: to its end, whatever happens here.

    The end is told by a bare lock: what `threading` makes of one with a condition inside (events, futures) stays locked
    where a signal raises in the wrong place.
    """

    def __init__(self, work: Callable[[], Awaitable[T]], *, may_cancel: bool = True) -> None:
        self.may_cancel = may_cancel
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[tuple[T | None, BaseException | None]] | None = None
        self._is_over = False
        self._end = threading.Lock()
        self._end.acquire()

    def result(self) -> T:
        """What *work* returns or raises; what a signal raises meanwhile comes first, see `wait`."""
        self.wait()
        return self.outcome()

    def wait(self) -> None:
        """Until *work* has ended, also where a signal raises: then it is cancelled, and that is raised at the end."""
        try:
            with _lock:  # so that a loop that is closed has begun what it was given
                self._loop = _loop_for_caller()
                self._loop.call_soon_threadsafe(self._begin)
            self._wait_for_end(self._loop)
        except BaseException:
            if self._loop is not None:
                with suppress(RuntimeError):  # it is closed
                    self._loop.call_soon_threadsafe(self._cancel)
                self._wait_for_end(self._loop)
            raise

    def outcome(self) -> T:
        """What *work* has returned; raises what it has raised, `CancelledError` where it was cancelled."""
        if self._task is None or not self.has_returned_or_raised:
            raise CancelledError("the work was cancelled: its process shuts down, or its own code has done it")
        result, error = self._task.result()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None is a T where T says so

    @property
    def has_begun(self) -> bool:
        """True from the moment where *work* runs, or is about to."""
        return self._task is not None

    @property
    def has_returned_or_raised(self) -> bool:
        """True where *work* has come to an end of its own."""
        return self._task is not None and self._task.done() and not self._task.cancelled()

    @property
    def has_returned(self) -> bool:
        """True where *work* has ended and has raised nothing."""
        return self._task is not None and self.has_returned_or_raised and self._task.result()[1] is None

    def _wait_for_end(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._is_over and not self._end.acquire(timeout=_LOOK_SECONDS):
            if loop.is_closed():
                return

    # --- in the loop

    def _begin(self) -> None:
        if not self._is_over:
            self._task = asyncio.get_running_loop().create_task(self._perform())
            self._task.add_done_callback(self._tell_end)

    async def _perform(self) -> tuple[T | None, BaseException | None]:
        """Its result and its exception; in a pair, since an event loop ends with a SystemExit."""
        try:
            return await self._work(), None
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            return None, exc

    def _cancel(self) -> None:
        if self._task is None:
            self._tell_end()
        elif self.may_cancel:
            self._task.cancel()

    def _tell_end(self, _: object = None) -> None:
        self._is_over = True
        self._end.release()


def close_loops() -> None:
    """Close the pools of all loops in the background, and end the loops; the next call makes a new one."""
    with _lock:
        loops = [*_loops]
        _loops.clear()
    for each in reversed(loops):
        each.close()


def _leave_to_the_parent() -> None:
    """In a forked child, where the threads are not."""
    global _lock
    _lock = threading.Lock()
    _of_the_parent.extend(_loops)
    _loops.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
atexit.register(close_loops)
