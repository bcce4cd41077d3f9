"""
Celery: a task that gets a connection in a transaction of its own, and async code in tasks.

    @app.task
    @with_db_connection
    async def rename(code: str, name: str, *, conn: Connection) -> None: ...

A worker is synchronous and a pool belongs to an event loop, so each process has a loop in a thread of its own, made
when it is first needed. Pools and the bodies of async tasks live there, and the worker's threads wait for them: what a
signal raises in the main thread (a soft time limit, a shutdown) never strikes in the middle of the loop. A forked child
has nothing of its parent's. For the worker pools prefork, solo and threads.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ..connect_db import close_connection_pool, get_db_transaction
from ..exceptions import reason

try:
    from celery import Task, signals
    from celery._state import _task_stack  # type: ignore[attr-defined]  # left out of the stubs
    from kombu.utils.compat import detect_environment
except ModuleNotFoundError as exc:
    raise ImportError("database.contrib.celery needs Celery: pip install 'pgdatabase[celery]'") from exc

if TYPE_CHECKING:
    from ..connect_db import Connection

__all__ = ["close_worker_pools", "run_async", "with_db_connection"]

log = logging.getLogger("database")

T = TypeVar("T")

_CLOSE_SECONDS = 5.0
_STOP_SECONDS = 1.0

_lock = threading.Lock()
_loops: list[_LoopThread] = []
_of_the_parent: list[_LoopThread] = []  # collecting a loop would touch what both processes share
# the request whose body runs in this asyncio task
_own_request: ContextVar[object] = ContextVar("_own_request", default=None)


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        if detect_environment() != "default":
            raise RuntimeError(
                "an event loop needs threads, which gevent and eventlet replace: start the worker with --pool=prefork, "
                "--pool=threads or --pool=solo"
            )
        self.loop = asyncio.new_event_loop()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="database.contrib.celery", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_stopping:
            with suppress(KeyboardInterrupt, SystemExit):  # of a task that a body has started; the body is told as well
                self.loop.run_forever()

    def close(self) -> None:
        """Close the pools, cancel what is left, stop; all in bounded time."""
        try:
            ending = asyncio.run_coroutine_threadsafe(self._finish(), self.loop)
            ending.result(_CLOSE_SECONDS + _STOP_SECONDS)
        except Exception as exc:
            log.warning("the event loop of Celery's tasks does not end well: %s", reason(exc))
        self._is_stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_STOP_SECONDS)
        if not self._thread.is_alive():
            self.loop.close()

    async def _finish(self) -> None:
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

    In eager mode the body of a task may run another task: it stands still meanwhile, and its loop with it.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    with _lock:
        depth = next((depth + 1 for depth, each in enumerate(_loops) if each.loop is running), 0)
        if depth == len(_loops):
            _loops.append(_LoopThread())
        return _loops[depth].loop


class _Moment:
    """
    Something that happens once, for one thread to wait for.

    Of a bare lock: those of `threading` with a condition inside stay locked where a signal raises in the wrong place.
    """

    def __init__(self) -> None:
        self._has_come = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def come(self) -> None:
        self._has_come = True
        self._lock.release()

    def wait(self) -> None:
        if not self._has_come:
            self._lock.acquire()


class _Call(Generic[T]):
    """*work* in the background, for which this thread waits; *may_cancel* False: to its end, whatever happens here."""

    def __init__(self, work: Callable[[], Awaitable[T]], *, may_cancel: bool = True) -> None:
        self.may_cancel = may_cancel
        self.has_begun = False
        self._work = _InTask(work)
        self._task: asyncio.Task[tuple[T | None, BaseException | None]] | None = None
        self._end = _Moment()
        self._is_over = False

    def result(self) -> T:
        """
        What *work* returns or raises.

        Where a signal raises meanwhile, it is cancelled, and that is raised when it has ended; unless it has ended
        in another way than by the cancellation, which counts then.
        """
        try:
            self.wait()
        except Exception:
            if not self.is_complete and self._error() is None:
                raise
        return self.outcome()

    def wait(self) -> None:
        """Until *work* has ended, also where a signal raises: then it is cancelled, and that is raised at the end."""
        loop = _loop_for_caller()
        try:
            loop.call_soon_threadsafe(self._begin)
            self._end.wait()
        except BaseException:
            loop.call_soon_threadsafe(self._cancel)
            self._end.wait()
            raise

    @property
    def is_complete(self) -> bool:
        """True where *work* has ended and has raised nothing."""
        task = self._task
        return task is not None and task.done() and not task.cancelled() and task.result()[1] is None

    def outcome(self) -> T:
        """What *work* has returned; raises what it has raised."""
        error = self._error()
        if error is not None:
            raise error
        if self._task is None or self._task.cancelled():
            raise CancelledError("the task was cancelled: its worker is shut down, or its code has cancelled it")
        return self._task.result()[0]  # type: ignore[return-value]  # None is a T where T says so

    def _error(self) -> BaseException | None:
        task = self._task
        return None if task is None or not task.done() or task.cancelled() else task.result()[1]

    def _begin(self) -> None:
        if not self._is_over:
            self.has_begun = True
            self._task = asyncio.get_running_loop().create_task(self._perform())
            self._task.add_done_callback(lambda _: self._end.come())

    async def _perform(self) -> tuple[T | None, BaseException | None]:
        """Its result and its exception; in a pair, since an event loop ends with a SystemExit."""
        try:
            return await self._work, None
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            return None, exc

    def _cancel(self) -> None:
        if self._task is None:
            self._is_over = True
            self._end.come()
        elif self.may_cancel:
            self._task.cancel()


class _InTask(Generic[T]):
    """
    To be awaited: `await work()`, with Celery's current task and its request as they are in the thread that makes this.

    Celery keeps both by thread. Here they are put in place before each step of *work* and taken away after it, so that
    `self.request`, `self.retry` and task ids in logs are right whatever else runs in the loop.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._task, self._request = _current_task_and_request()

    async def _perform(self) -> T:
        return await self._work()

    def __await__(self) -> Generator[Any, Any, T]:
        _own_request.set(self._request)
        work = self._perform()
        proceed: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            try:
                awaited = self._step(proceed, value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                proceed, value = work.send, (yield awaited)
            except BaseException as exc:
                proceed, value = work.throw, exc

    def _step(self, proceed: Callable[[Any], Any], value: Any) -> Any:
        if self._task is None:
            return proceed(value)
        _task_stack.push(self._task)
        self._task.request_stack.push(self._request)
        try:
            return proceed(value)
        finally:
            self._task.request_stack.pop()
            _task_stack.pop()


def _current_task_and_request() -> tuple[Task[Any, Any] | None, Any]:
    task: Task[Any, Any] | None = _task_stack.top
    return task, None if task is None else task.request_stack.top


def _is_called_by_celery() -> bool:
    """True where Celery calls the body of a task, and in plain bodies; False in async ones, and outside of tasks."""
    _, request = _current_task_and_request()
    return request is not None and not request.called_directly and request is not _own_request.get()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_async(work: Awaitable[T]) -> T:
    """
    The result of `await work`, for plain functions: in the event loop where the pools of this process's tasks are.

    Where a soft time limit strikes, *work* is cancelled first. Connections of another event loop cannot be used in it.
    """
    return _Call(lambda: work).result()


@overload
def with_db_connection(fn: Callable[..., Any], /) -> Callable[..., Any]: ...
@overload
def with_db_connection(*, name: str = "default") -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def with_db_connection(fn: Callable[..., Any] | None = None, /, *, name: str = "default") -> Callable[..., Any]:
    """
    Decorate a function or method, async or plain: its parameter `conn` gets a connection in a transaction.

    Committed when it returns, rolled back when it raises, also by `self.retry()` and `Ignore`; a task has ended with
    its commit, and fails where that fails. With *name*, in that database. A caller who gives `conn=` has it run inside
    of the caller's transaction.

    Called by Celery, and wherever no event loop runs, an async function's result is returned; in an event loop, it is
    to be awaited, as ever. A plain function runs in the thread of its caller and uses `conn` through `run_async`, or
    returns what is to be awaited. A soft time limit cancels an async body, and rolls back; it is too late for one that
    has returned. Raises `TypeError` where there is no parameter `conn`, for generators, and for what is a task already.
    """
    if fn is None:
        return functools.partial(_decorate, name=name)
    return _decorate(fn, name=name)


def _decorate(fn: Callable[..., Any], *, name: str) -> Callable[..., Any]:
    if isinstance(fn, Task):
        raise TypeError("with_db_connection decorates the function of a task: write @app.task above it, not below")
    signature = inspect.signature(fn)
    if "conn" not in signature.parameters:
        raise TypeError(f"with_db_connection gives {fn.__qualname__} a connection: it needs a parameter named conn")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"{fn.__qualname__} is a generator, which would go on after its transaction: return a list")
    bind = _binder(fn, signature)
    is_async = inspect.iscoroutinefunction(fn)

    @functools.wraps(fn)
    def run(*args: Any, conn: Connection | None = None, **kwargs: Any) -> Any:
        body = bind(args, kwargs)
        if conn is not None:
            return body(conn)
        if not is_async:
            return _run_plain(body, name)
        if _has_loop() and not _is_called_by_celery():
            return _run_awaited(body, name)
        return _run_in_background(body, name)

    # what Celery checks arguments against
    parameters = [each for each in signature.parameters.values() if each.name != "conn"]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def _binder(
    fn: Callable[..., Any], signature: inspect.Signature
) -> Callable[[tuple[Any, ...], dict[str, Any]], Callable[[Connection], Any]]:
    """What makes, of the other arguments, a function of `conn`, wherever *fn* has it: first, last, by keyword only."""
    position = list(signature.parameters).index("conn")
    by_keyword = signature.parameters["conn"].kind is inspect.Parameter.KEYWORD_ONLY

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Connection], Any]:
        def body(conn: Connection) -> Any:
            if by_keyword or len(args) < position:
                return fn(*args, conn=conn, **kwargs)
            return fn(*args[:position], conn, *args[position:], **kwargs)

        return body

    return bind


async def _run_awaited(body: Callable[[Connection], Awaitable[T]], name: str) -> T:
    async with get_db_transaction(name) as conn:
        return await body(conn)


def _run_in_background(body: Callable[[Connection], Awaitable[T]], name: str) -> T:
    async def transact() -> T:
        async with get_db_transaction(name) as conn:
            result = await body(conn)
            call.may_cancel = False  # a COMMIT that is cancelled may have been done
        return result

    call = _Call(transact)
    return call.result()


def _run_plain(body: Callable[[Connection], Any], name: str) -> Any:
    """In this thread; the transaction is begun and ended in the background, whatever raises in between."""
    transaction = get_db_transaction(name)
    beginning = _Call(transaction.__aenter__)
    committing = _Call(lambda: transaction.__aexit__(None, None, None), may_cancel=False)
    try:
        beginning.wait()
        result = body(beginning.outcome())
        if inspect.isawaitable(result):
            result = run_async(result)
        committing.result()
    except BaseException as exc:
        if beginning.is_complete and not committing.has_begun:
            undo = functools.partial(transaction.__aexit__, type(exc), exc, exc.__traceback__)
            _Call(undo, may_cancel=False).result()
        raise
    return result


def close_worker_pools() -> None:
    """
    Close the pools that tasks of this process have used, and end their event loop; the next call makes new ones.

    Done where a worker, one of its child processes, or the interpreter shuts down. For tests that run tasks eagerly,
    each with a database of its own.
    """
    with _lock:
        loops = [*_loops]
        _loops.clear()
    for each in reversed(loops):
        each.close()


def _shut_down(**_: object) -> None:
    close_worker_pools()


def _leave_to_the_parent() -> None:
    """In a forked child, where the threads are not."""
    global _lock
    _lock = threading.Lock()
    _of_the_parent.extend(_loops)
    _loops.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
signals.worker_process_shutdown.connect(_shut_down)
signals.worker_shutdown.connect(_shut_down)
atexit.register(close_worker_pools)
