"""
One connection for a whole test, and whose turn it is.

What would be transactions on connections of their own are savepoints of the one transaction here. Savepoints end in the
reverse of the order in which they began, so one transaction at a time has its turn; who is inside of it may speak, and
others wait until it has ended. A statement in no transaction of its own gets a savepoint for itself, so that one that
fails spoils nothing: what SQLAlchemy calls join_transaction_mode="create_savepoint".
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncpg

from ..exceptions import DatabaseNotAvailableError, PoolTimeoutError
from ..pool import Pool, PooledConnection
from ..registry import server_address
from ..settings import Settings

T = TypeVar("T")
Operation = Callable[[Any], Awaitable[T]]

_PATIENCE = 10.0  # seconds; DB_CONNECTION_TIMEOUT where that is less
_PACKAGE = str(Path(__file__).parent.parent) + os.sep
_DRIVER = str(Path(asyncpg.__file__).parent) + os.sep
_GUARD = "the_statement"
# What holds for the transaction alone, which here goes on after the code has committed.
_SETS = re.compile(
    r"(?:^|;)\s*SET\s+(?!TRANSACTION\b|CONSTRAINTS\b)(?:LOCAL\s+|SESSION\s+)?\"?([\w.]+)|\bset_config\s*\(\s*(?:'([\w.]+)')?",
    re.IGNORECASE,
)
_OTHER_NAMES = {"time": "timezone", "authorization": "session_authorization"}
_CHANGES_SCHEMA = re.compile(r"\b(?:CREATE|ALTER|DROP)\b", re.IGNORECASE)
_RESET = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"
# the role last, which may not be allowed to set the others
_READ_SETTINGS = """
    SELECT name, current_setting(name, true)
      FROM unnest($1::text[]) AS name
     WHERE current_setting(name, true) IS NOT NULL
     ORDER BY name = 'role', name = 'session_authorization'
"""
_SET_AGAIN = "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS own (name, value)"
_DEFERRED = """
    SELECT coalesce(string_agg(format('%I.%I', n.nspname, c.conname), ', ') FILTER (WHERE c.condeferred), '') AS names
      FROM pg_catalog.pg_constraint AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.connamespace
     WHERE c.condeferrable
    HAVING count(*) > 0
"""


class Speaker(Protocol):
    """A session, as a line knows it; *is_bottom*: that of the test itself."""

    is_bottom: bool


class Frame:
    """
    A transaction of the code under test, which is a savepoint here.

    *owner* is the session that began it, *below* the one that it began inside of, *place* where that was.
    """

    def __init__(self, owner: Speaker, below: Frame | None, number: int, place: str, *, readonly: bool) -> None:
        self.owner = owner
        self.below = below
        self.name = f"transaction_{number}"
        self.place = place
        self.readonly = readonly
        self.is_open = True
        self.sets = False


# The transaction that this task, or the one that started it, has begun and not yet ended.
inside: ContextVar[Frame | None] = ContextVar("inside", default=None)


class Line:
    """
    The connection to one database for one test, in the background loop: all methods but `check` run there.

    What outlives the test still holds its line, which says that it has ended; the next test has another one, and may
    have the same *connection*.
    """

    def __init__(self, settings: Settings, connection: PooledConnection) -> None:
        self.settings = settings
        self.connection = connection
        self.changed_schema = False
        self.is_active = False
        self._turns = asyncio.Condition()
        self._frames: list[Frame] = []
        self._begun = 0
        self._guarded = False  # there is a savepoint for statements at the bottom
        self._used = False  # something was done since it was set
        self._sets = False
        self._own_names: set[str] = set()  # what the test itself has set
        self._own_settings: list[asyncpg.Record] = []  # their values before the code set any
        self._deferred: str | None = None
        self._at_work: asyncio.Task[Any] | None = None

    # -- the test's transaction

    @classmethod
    async def open(cls, settings: Settings) -> Line:
        """Connect."""
        pool = Pool.unopened(settings, lambda: server_address(settings))
        connection = await pool.connect(settings.connection_timeout)
        connection._stmt_cache.set_max_lifetime(0)  # type: ignore[attr-defined]  # other threads set no timers
        return cls(settings, connection)

    async def begin(self) -> None:
        """Begin the transaction that is never committed."""
        await self._query("BEGIN")
        self._deferred = await self.connection.fetchval(_DEFERRED)
        self.is_active = True

    async def end(self) -> None:
        """Undo everything; what still runs is cancelled, and who still waits is refused."""
        self.is_active = False
        if self._at_work is not None:
            self._at_work.cancel()
        async with self._turns:
            for frame in self._frames:
                frame.is_open = False
            self._turns.notify_all()
            if self.connection.is_closed():
                return
            await self._query("ROLLBACK")
            if self.changed_schema:  # what the driver remembers may be of tables and types that are gone
                await self._query("DEALLOCATE ALL")
                self.connection._drop_local_statement_cache()  # type: ignore[attr-defined]  # left out of the stubs
                self.connection._drop_local_type_cache()  # type: ignore[attr-defined]
            await self._query("SELECT pg_advisory_unlock_all()")

    async def close(self) -> None:
        """Disconnect."""
        with suppress(Exception):
            await self.connection.close(timeout=2)
        self.connection.terminate()

    # -- statements

    async def perform(self, session: Speaker, where: Frame | None, sql: str, operation: Operation[T]) -> T:
        """
        The result of *operation*, which is given the driver's protocol; *sql* is what it sends.

        In the session's own transaction as it is, else in a savepoint of its own.
        """
        async with self._turn(session, where) as top:
            if _CHANGES_SCHEMA.search(sql):
                self.changed_schema = True
            if _SETS.search(sql):
                await self._note_settings(top, sql, is_of_test=session.is_bottom)
            if top is None:
                return await self._guard(operation)
            if top.owner is not session:
                return await self._guard_inside(operation, "")
            if top.readonly:
                return await self._guard_inside(operation, "; SET TRANSACTION READ ONLY", is_own=True)
            return await self._do(operation)

    async def perform_plainly(self, session: Speaker, where: Frame | None, operation: Operation[T]) -> T:
        """The result of *operation*, which makes or ends savepoints of the session's transaction, or of the test's."""
        async with self._turn(session, where) as top:
            if top is None:
                await self._drop_guard()
            elif top.owner is not session:
                raise asyncpg.InterfaceError(
                    f"the test's savepoints cannot be reached inside of the transaction that was begun in {top.place}: "
                    "give its connection as conn="
                )
            return await self._do(operation)

    async def _guard(self, operation: Operation[T]) -> T:
        """At the bottom, one savepoint is made anew for each statement that follows one that did something."""
        if not self._guarded:
            await self._query(f"SAVEPOINT {_GUARD}")
        elif self._used:
            await self._query(f"RELEASE SAVEPOINT {_GUARD}; SAVEPOINT {_GUARD}")
        self._guarded, self._used = True, False
        try:
            result = await self._do(operation)
            await self._check_deferred()
        except BaseException:
            await self._undo(_GUARD)
            raise
        self._used = True
        return result

    async def _guard_inside(self, operation: Operation[T], settle: str, *, is_own: bool = False) -> T:
        await self._query(f"SAVEPOINT {_GUARD}{settle}")
        try:
            result = await self._do(operation)
        except BaseException:
            if not is_own:  # a transaction's own statement that fails is to spoil it
                await self._undo(_GUARD)
                await self._query(f"RELEASE SAVEPOINT {_GUARD}")
            raise
        await self._query(f"RELEASE SAVEPOINT {_GUARD}")
        return result

    async def _drop_guard(self) -> None:
        if self._guarded:
            self._guarded = False
            await self._query(f"RELEASE SAVEPOINT {_GUARD}")

    # -- transactions of the code

    async def begin_frame(self, session: Speaker, where: Frame | None, place: str, *, readonly: bool) -> Frame:
        """What BEGIN is here."""
        async with self._turn(session, where) as top:
            self._begun += 1
            frame = Frame(session, top, self._begun, place, readonly=readonly)
            await self._query(f"SAVEPOINT {frame.name}")
            self._frames.append(frame)
            return frame

    async def end_frame(self, frame: Frame, *, commit: bool) -> str:
        """What COMMIT and ROLLBACK are here; the answer is PostgreSQL's, which to a COMMIT may be "ROLLBACK"."""
        async with self._turn(frame.owner, frame):
            if commit:
                try:
                    if frame.below is None:
                        await self._check_deferred()
                    await self._query(f"RELEASE SAVEPOINT {frame.name}")
                except asyncpg.InFailedSQLTransactionError:
                    commit = False
                except asyncpg.PostgresError:
                    await self._drop(frame)
                    raise
            if not commit:
                await self._drop(frame)
                return "ROLLBACK"
            self._pop(frame)
            if frame.sets and not self._frames:
                await self._reset_settings()
            return "COMMIT"

    async def abandon(self, session: Speaker) -> None:
        """Undo the transaction that *session* has left open, and those inside of it."""
        async with self._turns:
            own = [frame for frame in self._frames if frame.owner is session]
            if own and self.is_active and not self.connection.is_closed():
                await self._drop(own[0])

    async def reset_settings(self) -> None:
        """Have no SET outlive the use of a connection; inside of a transaction, it is that one's to do."""
        async with self._turns:
            if self._sets and not self._frames and self.is_active and not self.connection.is_closed():
                self._sets = False
                await self._reset_settings()

    async def _drop(self, frame: Frame) -> None:
        await self._undo(frame.name)
        await self._query(f"RELEASE SAVEPOINT {frame.name}")
        self._pop(frame)

    def _pop(self, frame: Frame) -> None:
        position = self._frames.index(frame)
        for each in self._frames[position:]:
            each.is_open = False
        del self._frames[position:]
        if frame.sets and self._frames:
            self._frames[-1].sets = True
        self._used = True
        self._turns.notify_all()

    async def _note_settings(self, top: Frame | None, sql: str, *, is_of_test: bool) -> None:
        if is_of_test:
            names = [(name or setting).lower() for name, setting in _SETS.findall(sql)]
            self._own_names.update(_OTHER_NAMES.get(name, name) for name in names if name)
            return
        if self._own_names and not (self._sets or any(frame.sets for frame in self._frames)):
            self._own_settings = await self.connection.fetch(_READ_SETTINGS, list(self._own_names))
        if top is None:
            self._sets = True
        else:
            top.sets = True

    async def _reset_settings(self) -> None:
        await self._query(_RESET)
        if self._own_settings:
            await self.connection.fetch(_SET_AGAIN, *zip(*self._own_settings, strict=True))

    async def _check_deferred(self) -> None:
        """Check now what PostgreSQL checks at a COMMIT, which never comes."""
        if self._deferred is not None:
            back = f"; SET CONSTRAINTS {self._deferred} DEFERRED" if self._deferred else ""
            await self._query(f"SET CONSTRAINTS ALL IMMEDIATE{back}")

    # -- turns

    @asynccontextmanager
    async def _turn(self, session: Speaker, where: Frame | None) -> AsyncIterator[Frame | None]:
        """The turn of *session*, in a task that is inside of *where*; the transaction that is open then."""
        async with self._turns:
            if not self._may_speak(session, where):
                await self._wait(session, where)
            self.check()
            yield self._frames[-1] if self._frames else None

    def _may_speak(self, session: Speaker, where: Frame | None) -> bool:
        if not self._frames or not self.is_active:
            return True
        while where is not None and not where.is_open:
            where = where.below
        return self._frames[-1].owner is session or self._frames[-1] is where

    async def _wait(self, session: Speaker, where: Frame | None) -> None:
        seconds = min(_PATIENCE, self.settings.connection_timeout)
        try:
            async with asyncio.timeout(seconds):
                await self._turns.wait_for(lambda: self._may_speak(session, where))
        except TimeoutError:
            raise PoolTimeoutError(
                f"waited {seconds:.3g} s for the transaction that was begun in {self._frames[-1].place}: in "
                "db_transaction one transaction runs at a time, and this call is not inside of that one. Does one wait "
                "for the other? Then give this test a database of its own: the fixture fresh_database",
            ) from None

    def check(self) -> None:
        """Raise where nothing can be said any more."""
        if not self.is_active:
            raise DatabaseNotAvailableError("the test's transaction has ended, and its connections with it")
        if self.connection.is_closed():
            raise DatabaseNotAvailableError("the connection of the test's transaction was lost, and all of it undone")

    async def _do(self, operation: Operation[T]) -> T:
        self._at_work = asyncio.current_task()
        try:
            return await operation(self.connection._protocol)  # type: ignore[attr-defined]  # left out of the stubs
        finally:
            self._at_work = None

    async def _query(self, sql: str) -> None:
        await self.connection._protocol.query(sql, None)  # type: ignore[attr-defined]

    async def _undo(self, savepoint: str) -> None:
        """Also after a cancellation, which must not keep it from being done."""
        task = asyncio.ensure_future(self._query(f"ROLLBACK TO SAVEPOINT {savepoint}"))
        while not task.done():
            with suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.connection.is_closed():
            raise error


def place_of_caller() -> str:
    """Where the code under test is: the file and line that are not ours and not the driver's."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_PACKAGE, _DRIVER)) and Path(name).name not in ("contextlib.py", "runners.py"):
            return f"{name}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "a place that is not known"
