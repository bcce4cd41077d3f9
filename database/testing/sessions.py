"""
Connections that share one: what the code under test takes for connections of its own.

Each is an asyncpg connection in every respect, except that what it sends goes through a `Line`, where its BEGIN, COMMIT
and ROLLBACK become savepoints.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import asyncpg

from ..lexer import Statement, split_statements
from ..pool import PooledConnection
from .background import background_loop, run_in_background
from .line import Frame, Line, Operation, inside, place_of_caller

T = TypeVar("T")

_MAY_CONTROL = re.compile(r"\b(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|PREPARE|SAVEPOINT|RELEASE)\b", re.IGNORECASE)
_READ_ONLY = re.compile(r"\bREAD\s+ONLY\b", re.IGNORECASE)


class Session(PooledConnection):
    """
    A connection that shares that of *line*.

    *is_bottom*: it is in the test's transaction itself, and in none of its own; usable in every event loop.
    """

    __slots__ = ("is_bottom", "line")
    _aborted: bool
    _protocol: SharedProtocol | None

    def __init__(self, line: Line, *, is_bottom: bool = False) -> None:
        real: Any = line.connection
        self.line = line
        self.is_bottom = is_bottom
        super().__init__(
            cast("Any", SharedProtocol(self, real._protocol)),
            real._transport,
            background_loop() if is_bottom else asyncio.get_running_loop(),
            real._addr,
            real._config._replace(max_cached_statement_lifetime=0),  # no timers: the cache is that of another thread
            real._params,
        )
        self._stmt_cache = real._stmt_cache
        if is_bottom:
            transaction: Any = asyncpg.transaction.Transaction(self, None, False, False)
            transaction._state = asyncpg.transaction.TransactionState.STARTED
            self._top_xact = transaction

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @_loop.setter
    def _loop(self, loop: asyncio.AbstractEventLoop) -> None:
        pass

    def __del__(self) -> None:
        """Nothing: there is no socket that could have been left open."""

    def is_closed(self) -> bool:
        """True after `close()`, and after the end of the test's transaction."""
        return self._aborted or self._protocol is None or not self.line.is_active or self.line.connection.is_closed()

    async def close(self, *, timeout: float | None = None) -> None:
        """Give up; a transaction that is still open is undone."""
        self.terminate()

    def terminate(self) -> None:
        """Give up, now."""
        if self.is_closed() or self._protocol is None:
            return
        self._protocol.give_up()
        self._aborted = True
        self._call_termination_listeners()  # type: ignore[attr-defined]

    async def reset(self, *, timeout: float | None = None) -> None:
        """Be as good as new for whoever comes next."""
        if self._protocol is not None:
            await self._protocol.reset()
        self._top_xact = None
        self._listeners.clear()  # type: ignore[attr-defined]
        self._log_listeners.clear()  # type: ignore[attr-defined]


def _is_control(statement: Statement) -> bool:
    """True for what begins or ends a transaction or a savepoint."""
    return statement.controls_transaction or statement.words[:1] in (("savepoint",), ("release",), ("rollback",))


class SharedProtocol:
    """asyncpg's protocol, as a session sees it: the session's own state, the line's answers."""

    def __init__(self, session: Session, real: Any) -> None:
        self._session = session
        self._line = session.line
        self._real = real
        self._frame: Frame | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def is_in_transaction(self) -> bool:
        """True where the session itself has begun one."""
        return self._session.is_bottom or self._frame is not None

    async def query(self, query: str, timeout: float | None) -> str:
        """Statements without parameters; those that begin and end transactions are seen here."""
        statements = split_statements(query) if _MAY_CONTROL.search(query) else []
        if not any(map(_is_control, statements)):
            return await self._send(query, lambda protocol: protocol.query(query, timeout))
        status = ""
        for statement in statements:
            status = await self._query_one(statement, timeout)
        return status

    async def _query_one(self, statement: Statement, timeout: float | None) -> str:
        text, words = statement.text, statement.words

        def operation(protocol: Any) -> Awaitable[str]:
            return cast("Awaitable[str]", protocol.query(text, timeout))

        if not _is_control(statement):
            return await self._send(text, operation)
        if statement.controls_transaction:
            return await self._control(statement)
        if self._frame is None and not self._session.is_bottom:
            raise asyncpg.NoActiveSQLTransactionError(f"{words[0].upper()} can only be used in transaction blocks")
        return await run_in_background(self._line.perform_plainly(self._session, inside.get(), operation))

    async def _control(self, statement: Statement) -> str:
        first = statement.words[0]
        if first in ("begin", "start"):
            return await self._begin(statement.text)
        if first == "prepare" or "prepared" in statement.words or "chain" in statement.words:
            raise asyncpg.FeatureNotSupportedError(
                "this cannot be undone together with the test: give the test the fixture fresh_database"
            )
        if self._session.is_bottom:
            raise asyncpg.FeatureNotSupportedError(
                "this connection is in the test's own transaction, which ends with the test: use create_savepoint() "
                "and rollback_to_savepoint(), or get_db_transaction()"
            )
        return await self._end(commit=first in ("commit", "end"))

    async def _begin(self, text: str) -> str:
        if self._session.is_bottom or self._frame is not None:  # as PostgreSQL, which warns
            return "BEGIN"
        frame = await run_in_background(
            self._line.begin_frame(
                self._session,
                inside.get(),
                place_of_caller(),
                readonly=bool(re.search(r"READ\s+ONLY", text, re.IGNORECASE)),
            )
        )
        self._frame = frame
        inside.set(frame)
        return "BEGIN"

    async def _end(self, *, commit: bool) -> str:
        frame, self._frame = self._frame, None
        if frame is None:
            return "COMMIT" if commit else "ROLLBACK"
        try:
            return await run_in_background(self._line.end_frame(frame, commit=commit))
        except asyncio.CancelledError:
            if frame.is_open:
                self._frame = frame
            raise
        finally:
            if self._frame is None and inside.get() is frame:
                inside.set(frame.below)

    async def _send(self, sql: str, operation: Operation[T]) -> T:
        return await run_in_background(self._line.perform(self._session, inside.get(), sql, operation))

    def give_up(self) -> None:
        """Undo what is open, without waiting for it."""
        asyncio.run_coroutine_threadsafe(self._line.abandon(self._session), background_loop())
        self._frame = None

    async def reset(self) -> None:
        """Undo what is open, and what was set."""
        if self._frame is not None:
            self._frame = None
            await run_in_background(self._line.abandon(self._session))
        await run_in_background(self._line.reset_settings())

    # -- what asyncpg calls

    async def prepare(self, name: Any, query: str, *args: Any, **more: Any) -> Any:
        """Parse *query*."""
        if _MAY_CONTROL.search(query) and any(map(_is_control, split_statements(query))):
            raise asyncpg.FeatureNotSupportedError(
                "in a test's transaction, send BEGIN, COMMIT and the like by execute()"
            )
        return await self._send("", lambda protocol: protocol.prepare(name, query, *args, **more))

    async def bind_execute(self, state: Any, *args: Any, **more: Any) -> Any:
        """Run a prepared statement."""
        return await self._send(state.query, lambda protocol: protocol.bind_execute(state, *args, **more))

    async def bind_execute_many(self, state: Any, *args: Any, **more: Any) -> Any:
        """Run a prepared statement for many lists of arguments."""
        return await self._send(state.query, lambda protocol: protocol.bind_execute_many(state, *args, **more))

    async def bind(self, state: Any, *args: Any) -> Any:
        """Open a cursor."""
        return await self._send(state.query, lambda protocol: protocol.bind(state, *args))

    async def execute(self, state: Any, *args: Any) -> Any:
        """Read on from a cursor."""
        return await self._send("", lambda protocol: protocol.execute(state, *args))

    async def close_portal(self, *args: Any) -> Any:
        """Close a cursor."""
        return await self._send("", lambda protocol: protocol.close_portal(*args))

    async def close_statement(self, *args: Any) -> Any:
        """Forget a prepared statement."""
        return await self._send("", lambda protocol: protocol.close_statement(*args))

    async def copy_in(self, statement: str, reader: Any, data: Any, records: Any, state: Any, timeout: Any) -> Any:
        """COPY … FROM; what a reader of this event loop gives is read before."""
        if reader is not None:
            data, reader = b"".join([bytes(chunk) async for chunk in reader]), None
        if hasattr(records, "__aiter__"):
            records = [record async for record in records]
        return await self._send(
            statement, lambda protocol: protocol.copy_in(statement, reader, data, records, state, timeout)
        )

    async def copy_out(self, statement: str, sink: Callable[[bytes], Any], timeout: Any) -> Any:
        """COPY … TO; the sink of this event loop gets it afterwards."""
        chunks: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            chunks.append(bytes(chunk))

        status = await self._send(statement, lambda protocol: protocol.copy_out(statement, keep, timeout))
        for chunk in chunks:
            await sink(chunk)
        return status

    async def close(self, timeout: float | None) -> None:
        """As `Session.close`."""
        self.give_up()

    def abort(self) -> None:
        """As `Session.terminate`."""
        self.give_up()
