"""
Concurrent calls of one kind share statements, and nobody can tell, except by the clock.

A call that finds its lane free runs at once, by itself, in the caller's task. Calls that arrive meanwhile wait; as soon
as the lane is free they become one statement. A connection is borrowed for each statement, so a lane stands in line
like anybody else. A statement that fails for several calls is repeated in halves, down to the call that is to blame; a
statement that waits, for a lock or for a slow server, does not keep the next one from being sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextvars import Context
from enum import Enum
from itertools import chain
from typing import Generic, Literal, NamedTuple, TypeVar, cast

import asyncpg

from .connect_db import Connection, Pool, get_connection_pool, perform
from .exceptions import (
    ConnectionPoolError,
    DatabaseError,
    DatabaseNotAvailableError,
    Failure,
    OutcomeUnknownError,
    PoolTimeoutError,
    classify,
    copy_error,
    raised_by_driver,
    translate,
)
from .pool import PooledConnection, backoff, of_the_server
from .registry import open_pool

Item = TypeVar("Item")
Result = TypeVar("Result")

# Two, so that the server works on one statement while this process makes the next and reads the answer to the last.
_WIDTH = 2
# A call waits for so long behind statements of others; then its own is sent beside them.
_PATIENCE = 0.05
# So many waiting calls are shared out over the free slots; fewer go together, for each statement has its own price.
_SPLIT = 32
_LOCK_TIMEOUT = "250ms"


class Limits(NamedTuple):
    """
    What a shared statement must keep to, and what it may rely on; a call that is alone has no limits.

    *answer_bytes*: results that would make the answer longer are left for the next statement, except for the first.
    *lock_timeout*: how long it may wait for a lock (as PostgreSQL writes it), which only one of the calls needs.
    *is_first*: no call may have been done by an earlier attempt whose answer was lost.
    """

    answer_bytes: int | None
    lock_timeout: str | None
    is_first: bool


ALONE = Limits(None, None, False)
# For statements that lock rows; $1 is `Limits.lock_timeout`. Local to the statement's transaction, so nothing of it
# stays in the session, and without a round trip of its own.
LOCK_GUARD = """
    lock_guard AS MATERIALIZED (
        SELECT CASE WHEN $1::text IS NOT NULL THEN set_config('lock_timeout', $1, true) END
    )
"""


def bytes_of(*texts: str) -> int:
    """How long *texts* are on the line, at the most: 4 bytes is the most that a character takes."""
    length = 0
    for text in texts:
        length += len(text) if text.isascii() else 4 * len(text)
    return length


class NotYet(Enum):
    """In place of a result that the answer had no room for."""

    NOT_YET = "not yet"


NOT_YET: Literal[NotYet.NOT_YET] = NotYet.NOT_YET


class SharedStatement(Generic[Item, Result]):
    """
    What the calls of one kind have in common.

    `await run(connection, items, limits)` performs the calls *items* by one statement and returns their results in the
    same order; `NOT_YET` for those that had no room, which are asked for again, with fewer others. *alone*, if there is
    something quicker for one call: `await alone(connection, item)` returns its result. Calls with the same *key* are
    performed in the order in which they were made: never by two statements at a time, and, unless *together*, not by
    the same. *size*: the bytes of a call's parameters. *doing* ("read document 'x'") and *kind* are for errors;
    *changes* and *repeatable* as for `perform`.
    """

    def __init__(
        self,
        run: Callable[[Connection, Sequence[Item], Limits], Awaitable[Sequence[Result | NotYet]]],
        *,
        kind: type[DatabaseError],
        doing: Callable[[Item], str],
        changes: bool,
        repeatable: bool = True,
        alone: Callable[[Connection, Item], Awaitable[Result]] | None = None,
        key: Callable[[Item], Hashable] | None = None,
        together: bool = False,
        size: Callable[[Item], int] | None = None,
    ) -> None:
        self.run = run
        self.alone = alone or self._run_alone
        self.kind = kind
        self.doing = doing
        self.changes = changes
        self.repeatable = repeatable
        self.key = key
        self.together = together
        self.size = size

    def call(self, item: Item, conn: Connection | None) -> Awaitable[Result]:
        """
        The result for *item*: through *conn* if given, else through the default pool, shared with concurrent calls.

        Raises as `perform` does.
        """
        # no coroutine of its own: at full load, each one between the caller and the answer costs more than a row
        pool = open_pool() if conn is None else None
        if pool is None:
            return self._perform(item, conn)
        lane = pool.companions.get(self)
        return cast("Lane[Item, Result]", lane).call(item) if lane is not None else self._perform(item, None)

    async def _perform(self, item: Item, conn: Connection | None) -> Result:
        if conn is None:
            pool = await get_connection_pool()
            if pool.settings.batching == "on":
                lane = pool.companions.setdefault(self, Lane(pool, self))
                return await cast("Lane[Item, Result]", lane).call(item)
        return await self.perform_alone(item, conn)

    def perform_alone(self, item: Item, conn: Connection | None) -> Awaitable[Result]:
        """As `call`, shared with nobody."""
        return perform(
            lambda connection: self.alone(connection, item),
            conn=conn,
            kind=self.kind,
            doing=self.doing(item),
            changes=self.changes,
            repeatable=self.repeatable,
        )

    async def _run_alone(self, connection: Connection, item: Item) -> Result:
        (result,) = await self.run(connection, (item,), ALONE)
        return cast("Result", result)

    def error(self, exc: Exception, item: Item, *, closed: bool = True) -> Exception:
        """*exc*, or what stands for it, as an exception of *item*'s own."""
        if isinstance(exc, DatabaseError):
            return copy_error(exc)
        if not raised_by_driver(exc):
            return exc
        error = translate(exc, self.kind, self.doing(item), changes=self.changes, closed=closed)
        error.__cause__ = exc
        return error


class _Call(Generic[Item, Result]):
    """
    A call that waits for its turn.

    *share*: the largest statement that it may be part of, in calls; less after each failure that may be another's
    fault. *unknown*: the error of the attempt that may have been done.
    """

    __slots__ = ("attempts", "deadline", "future", "item", "key", "share", "size", "unknown")

    def __init__(
        self, item: Item, key: Hashable, size: int, future: asyncio.Future[Result], deadline: float, share: int
    ) -> None:
        self.item = item
        self.key = key
        self.size = size
        self.future = future
        self.deadline = deadline
        self.share = share
        self.attempts = 0
        self.unknown: Exception | None = None


class _Turn:
    """A statement on its way, with *size* calls and their keys; one that is overdue has lost its slot to the next."""

    __slots__ = ("began", "has_slot", "keys", "size")

    def __init__(self, began: float, size: int, keys: set[Hashable]) -> None:
        self.began = began
        self.size = size
        self.keys = keys
        self.has_slot = True


class Lane(Generic[Item, Result]):
    """
    The calls of one kind on one pool: the statements on their way, and the calls that wait.

    A call that waits is in `_waiting`; in `_behind`, where one with the same key is before it; or in `_resting`, where
    it has failed and is to be repeated in a moment.
    """

    def __init__(self, pool: Pool, statement: SharedStatement[Item, Result]) -> None:
        settings = pool.settings
        self._pool = pool
        self._statement = statement
        self._loop = asyncio.get_running_loop()
        self._timeout = settings.connection_timeout
        self._max_rows = settings.batch_max_rows
        self._max_bytes = settings.batch_max_bytes
        self._limits = Limits(settings.batch_max_bytes, _LOCK_TIMEOUT, True)
        self._waiting: deque[_Call[Item, Result]] = deque()
        self._behind: dict[Hashable, list[_Call[Item, Result]]] = {}
        self._resting: set[_Call[Item, Result]] = set()
        self._under_way: set[Hashable] = set()  # the keys that nobody else may have
        self._turns: set[_Turn] = set()
        self._free = _WIDTH
        self._sent = 0  # calls in statements that have a slot
        self._ready: asyncio.Task[None] | None = None  # is about to take the waiting calls
        self._starved = False  # the ready one stands in line for a connection
        self._tasks: set[asyncio.Task[None]] = set()
        self._look_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None

    # -- a call

    def call(self, item: Item) -> Awaitable[Result]:
        """
        The result for *item*: at once if no call is before it, else with others in the next statement.

        To be awaited at once: it may hold a connection already.
        """
        if self._drained is not None:
            raise self._pool.closed_error()
        key = None if self._statement.key is None else self._statement.key(item)
        if key not in self._under_way and self._ready is None and not self._waiting and self._has_room(1):
            connection = self._pool.borrow_nowait()
            if connection is not None:
                return self._lead(connection, item, key)
        if self._starved and self._pool.room_in_line() < 1:
            raise self._pool.line_error()
        call = self._new_call(item, key, self._loop.time())
        self._waiting.append(call)
        if self._look_timer is None or (self._ready is None and self._free):
            self._go_on()
        return call.future

    def _new_call(self, item: Item, key: Hashable, now: float) -> _Call[Item, Result]:
        size = 0 if self._statement.size is None else self._statement.size(item)
        return _Call(item, key, size, self._loop.create_future(), now + self._timeout, self._max_rows)

    async def _lead(self, connection: PooledConnection, item: Item, key: Hashable) -> Result:
        turn = self._begin(1, () if key is None else (key,))
        try:
            result = await self._statement.alone(connection, item)
        except Exception as exc:
            call = self._new_call(item, key, turn.began)
            self._failed(turn, [call], *self._return(connection, exc))
        except BaseException:
            self._pool.give_back(connection, clean=False)
            raise
        else:
            self._pool.give_back(connection)
            return result
        finally:
            self._end(turn)
        return await call.future

    # -- the end of a pool

    @property
    def queued(self) -> int:
        """How many calls wait behind the one that waits for a connection for all of them."""
        return len(self._waiting) - 1 if self._starved else 0

    @property
    def is_idle(self) -> bool:
        """True where no call is on its way or waits."""
        return not (self._turns or self._waiting or self._behind or self._resting or self._tasks)

    async def finish(self, timeout: float) -> None:
        """Refuse new calls, perform the accepted ones for up to *timeout* seconds, and refuse those that still wait."""
        if self._drained is None:
            self._drained = self._loop.create_future()
        self._go_on()
        await asyncio.wait([self._drained], timeout=timeout)
        self._refuse([*self._waiting, *self._resting, *chain(*self._behind.values())], self._pool.closed_error())
        self._waiting.clear()

    # -- turns

    def _has_room(self, calls: int) -> bool:
        """True where *calls* are to be sent at once: few ones wait for many that are on their way, to go with them."""
        return self._free > 0 and 2 * calls >= self._sent

    def _begin(self, size: int, keys: Iterable[Hashable]) -> _Turn:
        self._free -= 1
        self._sent += size
        turn = _Turn(self._loop.time(), size, set(keys))
        self._turns.add(turn)
        self._under_way |= turn.keys
        return turn

    def _end(self, turn: _Turn) -> None:
        self._turns.discard(turn)
        self._give_up_slot(turn)
        self._let_go(turn.keys)
        self._go_on()

    def _give_up_slot(self, turn: _Turn) -> None:
        if turn.has_slot:
            turn.has_slot = False
            self._free += 1
            self._sent -= turn.size

    def _let_go(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._under_way.discard(key)
            self._waiting.extendleft(reversed(self._behind.pop(key, ())))

    def _go_on(self) -> None:
        """Have the waiting calls performed if a slot is free and nobody is about to take them."""
        if self._waiting and self._ready is None and self._has_room(len(self._waiting)):
            # not by the loop's factory: an eager task would begin before it is known as the ready one
            self._ready = asyncio.Task(self._serve(), loop=self._loop, context=Context())
            self._tasks.add(self._ready)
            self._ready.add_done_callback(self._served)
        if self._waiting or self._behind:
            if self._look_timer is None:
                self._look_timer = self._loop.call_later(_PATIENCE, self._look)
        elif self._drained is not None and not (self._turns or self._resting or self._drained.done()):
            self._drained.set_result(None)

    def _look(self) -> None:
        """Send the next statement although the last is still on its way, if it takes its time."""
        self._look_timer = None
        overdue = self._loop.time() - _PATIENCE
        for turn in self._turns if self._waiting else ():
            if turn.began <= overdue:
                self._give_up_slot(turn)
        # who waits for a connection is told by the pool, a little earlier
        calls = chain(self._waiting, *self._behind.values())
        self._refuse([call for call in calls if call.deadline <= overdue], self._late_error())
        self._drop_ended()
        self._go_on()

    def _late_error(self) -> PoolTimeoutError:
        return PoolTimeoutError(
            f"did not get its turn in {self._timeout:.3g} s: no connection became free, or a call before it that "
            "concerns the same row or thread is still on its way; does somebody hold a lock?",
            retryable=True,
        )

    async def _serve(self) -> None:
        """Perform waiting calls, statement after statement; this task is the `_ready` one until it has taken them."""
        try:
            while self._waiting and self._has_room(len(self._waiting)):
                connection = await self._borrow()
                if connection is None:
                    continue
                await self._perform(connection, self._take())
                if self._ready is not None:
                    return
                self._ready = asyncio.current_task()
                await asyncio.sleep(0)  # who has got an answer may call again
        except Exception as exc:  # a mistake in here must not leave anybody waiting
            self._refuse(self._waiting, exc)
            self._waiting.clear()

    def _served(self, task: asyncio.Task[None]) -> None:
        """Also where *task* was cancelled before it began, as everything is when an event loop ends."""
        self._tasks.discard(task)
        if self._ready is task:
            self._ready = None
        self._drop_ended()
        self._go_on()

    def _drop_ended(self) -> None:
        """Forget the calls that nobody waits for any longer: they may be large."""
        self._waiting = deque(call for call in self._waiting if not call.future.done())
        for calls in self._behind.values():
            calls[:] = [call for call in calls if not call.future.done()]

    async def _borrow(self) -> PooledConnection | None:
        """A connection for the next statement; None where none is to be had and the calls concerned have been told."""
        connection = self._pool.borrow_nowait()
        if connection is not None:
            return connection
        while len(self._waiting) > self._pool.room_in_line():
            self._refuse([self._waiting.pop()], self._pool.line_error())
        if not self._waiting:
            return None
        deadline = min(call.deadline for call in self._waiting)
        self._starved = True
        try:
            return await self._pool.wait_in_line(deadline)
        except ConnectionPoolError as exc:
            # at a deadline only those who have reached theirs; a refusal before it concerns all
            now = self._loop.time()
            until = now if now >= deadline else float("inf")
            calls = [*self._waiting]
            self._waiting = deque(call for call in calls if call.deadline > until)
            self._refuse([call for call in calls if call.deadline <= until], exc)
            return None
        finally:
            self._starved = False

    def _take(self) -> list[_Call[Item, Result]]:
        """The calls of the next statement: the first ones, as many as may share one."""
        self._ready = None
        batch: list[_Call[Item, Result]] = []
        keys: set[Hashable] = set()
        size = 0
        # of many, a part for each slot: one statement is in the server while another is made or its answer read
        most = -(-len(self._waiting) // self._free) if len(self._waiting) >= _SPLIT else _SPLIT
        while self._waiting and len(batch) < most:
            call = self._waiting.popleft()
            if call.future.done():
                continue
            if call.key is not None and (call.key in self._under_way or call.key in keys):
                self._behind.setdefault(call.key, []).append(call)
                continue
            size += call.size
            if batch and (call.share != batch[0].share or len(batch) == call.share or size > self._max_bytes):
                self._waiting.appendleft(call)
                break
            batch.append(call)
            if not self._statement.together:
                keys.add(call.key)
        return batch

    # -- a statement, and what becomes of it

    async def _perform(self, connection: PooledConnection, batch: list[_Call[Item, Result]]) -> None:
        turn = self._begin(len(batch), (call.key for call in batch if call.key is not None))
        self._go_on()  # there may be more than fit in
        results: Sequence[Result | NotYet] = ()
        try:
            if len(batch) == 1:
                results = [await self._statement.alone(connection, batch[0].item)]
            elif batch:
                limits = self._limits._replace(is_first=all(call.unknown is None for call in batch))
                connection.calls = len(batch)  # for the query log
                results = await self._statement.run(connection, [call.item for call in batch], limits)
        except Exception as exc:
            connection.calls = 1
            self._failed(turn, batch, *self._return(connection, exc))
        except BaseException:  # cancelled, as everything is when an event loop ends
            connection.calls = 1
            self._pool.give_back(connection, clean=False)
            self._refuse(
                batch, OutcomeUnknownError("cannot tell whether it was done: the task that did it was cancelled")
            )
            raise
        else:
            connection.calls = 1
            self._pool.give_back(connection)
            self._answer(batch, results)
        finally:
            self._end(turn)

    def _return(self, connection: PooledConnection, exc: Exception) -> tuple[Exception, bool]:
        """Give *connection* back after *exc*: what that means, and whether the connection is closed."""
        closed = connection.is_closed()
        error = of_the_server(exc, connection)
        self._pool.give_back(connection, clean=isinstance(exc, asyncpg.PostgresError))
        return error, closed

    def _answer(self, batch: list[_Call[Item, Result]], results: Sequence[Result | NotYet]) -> None:
        again = []
        for call, result in zip(batch, results, strict=True):
            if result is NOT_YET:
                call.share = max(1, call.share // 4)
                again.append(call)
            elif not call.future.done():
                call.future.set_result(result)
        if again:
            self._put_back(again)

    def _failed(self, turn: _Turn, batch: list[_Call[Item, Result]], exc: Exception, closed: bool) -> None:
        """Repeat the calls of a statement that failed, where that is harmless and may help, or tell them."""
        told = raised_by_driver(exc) or isinstance(exc, OutcomeUnknownError | DatabaseNotAvailableError)
        failure = classify(exc, closed=closed) if told else Failure.PERMANENT
        timed_out = isinstance(exc, TimeoutError)
        # what is refused, or took longer than DB_COMMAND_TIMEOUT, would be so again; of several calls one is to blame
        by_itself = failure is Failure.PERMANENT or timed_out
        in_halves = len(batch) > 1 and (by_itself or isinstance(exc, asyncpg.LockNotAvailableError))
        harmless = failure is not Failure.UNKNOWN or self._statement.repeatable
        if not harmless or (by_itself and not in_halves):
            self._refuse(batch, exc, closed)
            return
        delay = 0.0 if in_halves or not batch[0].attempts else backoff(batch[0].attempts)
        for call in batch:
            if failure is Failure.UNKNOWN and call.unknown is None:
                call.unknown = exc
            if in_halves or call.attempts:
                # each by itself after a timeout, so that there is only one more, for the call that is to blame
                call.share = 1 if timed_out else max(1, len(batch) // 2)
            if in_halves:  # who is to be told apart from others has not come to an end of its own
                call.deadline = max(call.deadline, self._loop.time() + self._timeout)
            call.attempts += not in_halves
        until = self._loop.time() + delay
        self._refuse([call for call in batch if call.deadline <= until], exc, closed)
        again = [call for call in batch if call.deadline > until]
        if delay:
            turn.keys.difference_update(call.key for call in again)
            self._resting.update(again)
            self._loop.call_later(delay, self._put_back, again)
        else:
            self._put_back(again)

    def _put_back(self, calls: list[_Call[Item, Result]]) -> None:
        """Have *calls* wait again, before all others."""
        self._resting.difference_update(calls)
        self._let_go([call.key for call in calls])  # who is behind them comes behind them
        self._waiting.extendleft(reversed(calls))
        self._go_on()

    def _refuse(self, calls: Iterable[_Call[Item, Result]], exc: Exception, closed: bool = True) -> None:
        """Tell each of *calls* about *exc*, or about the attempt before it that may have been done."""
        for call in calls:
            if call.future.done():
                continue
            if call.unknown is not None and self._statement.changes:
                error = self._statement.error(call.unknown, call.item, closed=True)
            else:
                error = self._statement.error(exc, call.item, closed=closed)
            call.future.set_exception(error)
