"""
Connections that tell a query log what they send.

Not by asyncpg's query loggers, which see neither rows nor prepared statements, cursors and COPY, and cost four times as
much: docs/design.md. What is measured is the time from sending to the last byte of the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence, Sized
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

import asyncpg
from asyncpg.cursor import Cursor, CursorFactory, CursorIterator
from asyncpg.prepared_stmt import PreparedStatement

from ..query import quote_identifier
from .query_log import QueryLog

if TYPE_CHECKING:
    _AsyncpgConnection = asyncpg.Connection[asyncpg.Record]
    _Statement = PreparedStatement[asyncpg.Record]
    _CursorFactory = CursorFactory[asyncpg.Record]
    _Cursor = Cursor[asyncpg.Record]
    _CursorIterator = CursorIterator[asyncpg.Record]
else:  # only the stubs know that they are generic
    _AsyncpgConnection, _Statement = asyncpg.Connection, PreparedStatement
    _CursorFactory, _Cursor, _CursorIterator = CursorFactory, Cursor, CursorIterator

T = TypeVar("T")


class Measuring(_AsyncpgConnection):
    """
    What a measured connection does otherwise.

    *query_log* None: nothing is measured for the time. *calls*: how many calls the next statements carry.
    """

    __slots__ = ()
    query_log: QueryLog | None
    calls: int

    # in place of asyncpg's, not around it: a coroutine more for each statement would cost more than the measuring
    async def _execute(
        self,
        query: str,
        args: Any,
        limit: int,
        timeout: float | None,
        *,
        return_status: bool = False,
        ignore_custom_codec: bool = False,
        record_class: Any = None,
    ) -> Any:
        this = cast("Any", self)  # these parts are not in the stubs
        began = perf_counter()
        try:
            with this._stmt_exclusive_section:
                result, _ = await this._Connection__execute(
                    query,
                    args,
                    limit,
                    timeout,
                    return_status=return_status,
                    record_class=record_class,
                    ignore_custom_codec=ignore_custom_codec,
                )
        except BaseException as exc:
            if (query_log := self.query_log) is not None:
                query_log.record(query, args, perf_counter() - began, 0, self.calls, exc)
            raise
        if (query_log := self.query_log) is not None:
            rows = _rows_of(result[1]) if return_status else len(result)
            query_log.record(query, args, perf_counter() - began, rows, self.calls)
        return result

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As that of the connection, measured."""
        doing = super().execute(query, *args, timeout=timeout)
        return await doing if args else await measured(self, query, (), doing)

    async def _executemany(self, query: str, args: Any, timeout: float | None, *more: Any, **options: Any) -> Any:
        doing = super()._executemany(query, args, timeout, *more, **options)  # type: ignore[misc]
        return await measured(self, query, (), doing, lambda _: _rows_of(args))

    async def _copy_in(self, copy_stmt: str, source: Any, timeout: float | None) -> str:
        return await measured(self, copy_stmt, (), super()._copy_in(copy_stmt, source, timeout))  # type: ignore[misc]

    async def copy_records_to_table(self, table_name: str, *, schema_name: str | None = None, **options: Any) -> str:
        """As that of the connection, measured."""
        table = ".".join(quote_identifier(name) for name in (schema_name, table_name) if name)
        doing = super().copy_records_to_table(table_name, schema_name=schema_name, **options)
        return await measured(self, f"COPY {table} FROM STDIN", (), doing)

    async def _copy_out(self, copy_stmt: str, output: Any, timeout: float | None) -> str:
        return await measured(self, copy_stmt, (), super()._copy_out(copy_stmt, output, timeout))  # type: ignore[misc]

    async def _prepare(self, query: str, **options: Any) -> Any:
        statement = await super()._prepare(query, **options)  # type: ignore[misc]
        statement.__class__ = _MeasuredStatement
        return statement

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        """As that of the connection, each fetch measured."""
        factory = super().cursor(query, *args, **options)
        factory.__class__ = _MeasuredCursorFactory
        return factory

    async def reset(self, *, timeout: float | None = None) -> None:
        """As that of the connection, not measured: it is the pool's own."""
        query_log, self.query_log = self.query_log, None  # type: ignore[misc]  # a slot of PooledConnection
        try:
            await super().reset(timeout=timeout)
        finally:
            self.query_log = query_log  # type: ignore[misc]


async def measured(
    connection: Any, query: str, args: Sequence[object], doing: Awaitable[T], rows: Callable[[T], int] | None = None
) -> T:
    """The result of *doing*; *rows* tells how many it means, if it is neither a status nor the rows themselves."""
    query_log: QueryLog | None = connection.query_log
    if query_log is None:
        return await doing
    began = perf_counter()
    try:
        result = await doing
    except BaseException as exc:
        query_log.record(query, args, perf_counter() - began, 0, connection.calls, exc)
        raise
    seconds = perf_counter() - began
    query_log.record(query, args, seconds, (rows or _rows_of)(result), connection.calls)
    return result


def _rows_of(answer: object) -> int:
    """How many rows were returned or changed: those of a list, or what a status such as INSERT 0 5 ends with."""
    if isinstance(answer, str | bytes):
        last = answer[-20:].split()[-1:]
        return int(last[0]) if last and last[0].isdigit() else 0
    return len(answer) if isinstance(answer, Sized) else 0


class _MeasuredStatement(_Statement):
    __slots__ = ()

    async def executemany(self, args: Iterable[Sequence[object]], *, timeout: float | None = None) -> None:
        this = cast("Any", self)
        doing = super().executemany(args, timeout=timeout)
        await measured(this._connection, this._query, (), doing, lambda _: _rows_of(args))

    # what asyncpg's own methods call `self.__bind_execute`
    async def _PreparedStatement__bind_execute(self, args: Any, limit: int, timeout: float | None) -> Any:  # noqa: N802
        this = cast("Any", self)
        doing = super()._PreparedStatement__bind_execute(args, limit, timeout)  # type: ignore[misc]
        return await measured(
            this._connection, this._query, args, doing, lambda rows: len(rows) or _rows_of(this._last_status)
        )


class _MeasuredFetches:
    __slots__ = ()

    async def _bind_exec(self, n: int, timeout: float | None) -> Any:
        this = cast("Any", self)
        return await measured(this._connection, this._query, this._args, super()._bind_exec(n, timeout))  # type: ignore[misc]

    async def _exec(self, n: int, timeout: float | None) -> Any:
        this = cast("Any", self)
        return await measured(this._connection, this._query, this._args, super()._exec(n, timeout))  # type: ignore[misc]


class _MeasuredCursor(_MeasuredFetches, _Cursor):
    __slots__ = ()


class _MeasuredCursorIterator(_MeasuredFetches, _CursorIterator):
    __slots__ = ()


class _MeasuredCursorFactory(_CursorFactory):
    __slots__ = ()

    def __aiter__(self) -> Any:
        iterator: Any = super().__aiter__()
        iterator.__class__ = _MeasuredCursorIterator
        return iterator

    def __await__(self) -> Any:
        cursor: Any = yield from super().__await__()
        cursor.__class__ = _MeasuredCursor
        return cursor
