"""
Celery: a task that gets a connection in a transaction of its own, and async code in tasks.

    @app.task
    @with_db_connection
    async def rename(code: str, name: str, *, conn: Connection) -> None: ...

A worker is synchronous and a pool belongs to an event loop: pools and the bodies of async tasks live in a loop in the
background of each process (background.py). For the worker pools prefork, solo and threads.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ..connect_db import get_db_transaction
from .background import Call, close_loops

try:
    from celery import Task, signals
    from celery._state import _task_stack  # type: ignore[attr-defined]  # left out of the stubs
    from kombu.utils.compat import detect_environment
except ModuleNotFoundError as exc:
    raise ImportError("database.contrib.celery needs Celery: pip install 'pgdatabase[celery]'") from exc

if TYPE_CHECKING:
    from ..connect_db import Connection

__all__ = ["close_worker_pools", "run_async", "with_db_connection"]

T = TypeVar("T")

# the request whose body runs in this asyncio task
_own_request: ContextVar[object] = ContextVar("_own_request", default=None)


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


def _call(work: Callable[[], Awaitable[T]], *, may_cancel: bool = True) -> Call[T]:
    """As `Call`, with Celery's current task; raises `RuntimeError` where there are no threads for a loop."""
    if detect_environment() != "default":
        raise RuntimeError(
            "an event loop needs threads, which gevent and eventlet replace: start the worker with --pool=prefork, "
            "--pool=threads or --pool=solo"
        )
    in_task = _InTask(work)
    return Call(lambda: in_task, may_cancel=may_cancel)


def run_async(work: Awaitable[T]) -> T:
    """
    The result of `await work`, for plain functions: in the event loop where the pools of this process's tasks are.

    Where a soft time limit strikes, *work* is cancelled first. Connections of another event loop cannot be used in it.
    """
    try:
        return _call(lambda: work).result()
    finally:
        if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()  # interrupted before it has begun


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
            return _run_plain(body, name, _is_whole_task(fn))
        if _has_loop() and not _is_called_by_celery():
            return _run_awaited(body, name)
        return _run_in_background(body, name, _is_whole_task(fn))

    # what Celery checks arguments against
    parameters = [each for each in signature.parameters.values() if each.name != "conn"]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def _is_whole_task(fn: Callable[..., Any]) -> bool:
    """True where *fn* is what Celery's current task consists of: nothing comes after it in this task."""
    task, _ = _current_task_and_request()
    return task is not None and inspect.unwrap(task.run) is inspect.unwrap(fn)


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


def _run_in_background(body: Callable[[Connection], Awaitable[T]], name: str, is_whole_task: bool) -> T:
    async def transact() -> T:
        async with get_db_transaction(name) as conn:
            result = await body(conn)
            call.may_cancel = False  # a COMMIT that is cancelled may have been done
        return result

    call = _call(transact)
    return _end(call, is_whole_task)


def _run_plain(body: Callable[[Connection], Any], name: str, is_whole_task: bool) -> Any:
    """In this thread; the transaction is begun and ended in the background, whatever raises in between."""
    transaction = get_db_transaction(name)
    beginning = _call(transaction.__aenter__)
    committing = _call(lambda: transaction.__aexit__(None, None, None), may_cancel=False)
    try:
        result = body(beginning.result())
        if inspect.isawaitable(result):
            result = run_async(result)
        _end(committing, is_whole_task)
    except BaseException as exc:
        if beginning.has_returned and not committing.has_begun:
            undo = functools.partial(transaction.__aexit__, type(exc), exc, exc.__traceback__)
            _call(undo, may_cancel=False).result()
        raise
    return result


def _end(call: Call[T], is_whole_task: bool) -> T:
    """
    The outcome of a *call* that commits.

    A time limit that strikes too late to undo a whole task is ignored: the task has succeeded, or failed by itself. In
    the middle of a task it is raised, or the rest would run without a limit.
    """
    try:
        call.wait()
    except Exception:
        if not (is_whole_task and call.has_returned_or_raised):
            raise
    return call.outcome()


def close_worker_pools() -> None:
    """
    Close the pools that tasks of this process have used, and end their event loop; the next call makes new ones.

    Done where a worker, one of its child processes, or the interpreter shuts down. For tests that run tasks eagerly,
    each with a database of its own.
    """
    close_loops()


def _shut_down(**_: object) -> None:
    close_loops()


signals.worker_process_shutdown.connect(_shut_down)
signals.worker_shutdown.connect(_shut_down)
