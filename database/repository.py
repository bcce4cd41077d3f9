"""
Any table: read, write and raw SQL, as flat functions. `from database import repository as db`.

Rows are fresh dicts, or instances of `model=`. Every function speaks through *conn* if given, else for itself. Tables
and columns are looked up in the catalog before their names become SQL; values are parameters, always.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, overload

from . import columns as catalog
from .change_rows import build_delete, build_update
from .columns import Column, Table
from .conditions import Shape, read_where
from .connect_db import Connection, Record, get_db_connection, get_db_transaction, perform, run_transaction
from .exceptions import (
    ColumnMatchError,
    DatabaseError,
    InvalidDataError,
    RecordNotFoundError,
    RepositoryError,
    SchemaError,
)
from .keyed import (
    changed_row,
    deleted_row,
    new_row,
    row_by_id,
    stored_row,
    upserted_row,
    written_columns,
)
from .many_rows import store_rows
from .placeholders import number_names
from .query import Built, check_page, quote_identifier, split_names
from .rows import read_row, read_upserted, to_model
from .select_rows import Order, Selection, build_count, build_exists, build_page, build_select, read_order
from .values import JSON_NULL, fields_of

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    M = TypeVar("M", default=dict[str, Any])
else:
    from typing import TypeVar

    M = TypeVar("M")

T = TypeVar("T")
Where: TypeAlias = Mapping[str, Any]
Names: TypeAlias = str | Sequence[str]

__all__ = [
    "JSON_NULL",
    "count",
    "create_schema",
    "delete",
    "delete_by_id",
    "describe_table",
    "execute_raw",
    "exists",
    "fetch",
    "fetch_one",
    "fetch_page",
    "get_by_column",
    "get_by_id",
    "get_by_id_or_none",
    "get_by_name",
    "get_by_uuid",
    "get_many_by_id",
    "insert",
    "insert_many",
    "iterate",
    "list_tables",
    "schema_exists",
    "table_exists",
    "update",
    "update_by_id",
    "upsert",
    "upsert_many",
]

# Inside of a transaction a statement must not fail for a column that was added, so there it is looked for in time.
_CONFIRMED_SECONDS = 10.0
_FIRST_ROWS, _MOST_ROWS, _ITERATE_BYTES = 20, 1_000, 2**20
_CHANGED = ("42", "22", "0A", "XX")  # SQLSTATE classes of what a changed table causes


async def _on(table: str, schema: str, conn: Connection | None, work: Callable[[Table], Awaitable[T]]) -> T:
    """
    The result of *work* with what is known of a table; once more, where it fails and the table has changed since.

    Only what has had no effect is done again. A failed statement has spoilt the transaction that it was in: there, the
    error leaves and the next call knows better.
    """
    known = catalog.known_table(table, schema, conn)
    if known is None or (conn is not None and _is_old(known, conn)):
        return await work(await catalog.read_table(table, schema, conn, known))
    try:
        return await work(known)
    except RepositoryError as exc:
        fresh = await _after_change(exc, known, conn)
    return await work(fresh)


async def _row(
    table: str,
    schema: str,
    conn: Connection | None,
    model: type[Any] | None,
    prepare: Callable[[Table], tuple[Awaitable[Record | None], Callable[[Record], dict[str, Any]]]],
) -> Any:
    """
    As `_on`, for the one row of a call, None where there is none: *prepare* makes the call, and says how to read it.

    What is read is no part of what may be done again: the row is stored, whether it fits the model or not.
    """
    known = catalog.known_table(table, schema, conn)
    if known is None or (conn is not None and _is_old(known, conn)):
        fresh = await catalog.read_table(table, schema, conn, known)
    else:
        try:
            call, read = prepare(known)
            row = await call
        except RepositoryError as exc:
            fresh = await _after_change(exc, known, conn)
        else:
            return None if row is None else to_model(model, read(row), table)
    call, read = prepare(fresh)
    row = await call
    return None if row is None else to_model(model, read(row), table)


async def _after_change(exc: RepositoryError, known: Table, conn: Connection | None) -> Table:
    """What is there to know of the table now; raises *exc* where that is nothing new, or nothing can be done again."""
    was_sent = exc.original_error is not None or exc.sqlstate is not None
    if not was_sent and not isinstance(exc, InvalidDataError | ColumnMatchError):
        raise exc
    if was_sent and (exc.sqlstate or "22")[:2] not in _CHANGED:
        raise exc
    if was_sent and conn is not None and (conn.is_closed() or conn.is_in_transaction()):
        catalog.forget_table(known, conn)
        raise exc
    fresh = await catalog.read_table(known.name, known.schema, conn, known)
    if fresh is known:
        raise exc
    return fresh


def _is_old(known: Table, conn: Connection) -> bool:
    """Whether to look again first, because inside of a transaction a statement that fails could not be repeated."""
    if asyncio.get_running_loop().time() - known.confirmed_at <= _CONFIRMED_SECONDS:
        return False
    return not conn.is_closed() and conn.is_in_transaction()


def _guarded(conn: Connection | None) -> bool:
    """Whether a statement may fail for a new column: not inside of a transaction, which would fail with it."""
    return conn is None or not conn.is_in_transaction()


async def _read(conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    return await perform(work, conn=conn, kind=RepositoryError, doing=doing, changes=False, repeatable=True)


async def _write(conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    return await perform(work, conn=conn, kind=RepositoryError, doing=doing, changes=True, repeatable=False)


def _order(order_by: Names | None) -> str | tuple[str, ...] | None:
    return order_by if order_by is None or isinstance(order_by, str) else split_names(order_by)


# --- read


async def _select(
    known: Table, wanted: Selection, values: list[Any], model: type[Any] | None, conn: Connection | None
) -> list[Any]:
    built = known.query(("select", wanted), lambda: build_select(known, wanted))
    arguments = built.arguments(values)
    rows = await _read(conn, f"read table {known.name!r}", lambda c: c.fetch(built.sql, *arguments))
    return [to_model(model, built.read(row), known.name) for row in rows]


async def fetch(
    table: str,
    where: Where | None = None,
    *,
    columns: Names | None = None,
    order_by: Names | None = None,
    limit: int | None = None,
    offset: int | None = None,
    after: Mapping[str, Any] | Sequence[Any] | Any = None,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]:
    """
    The rows that fit *where*, all of them without it; an empty list where none does.

    *where* is a dict of column and value: None means IS NULL, a list any of its elements, a dict operators
    (`{"age": {"$gte": 18}}`); docs/repository.md has them all. *order_by* is "-age,name": age descending, then name.
    *after* is the last row of the page before (or its values of the order's columns): any page then costs what the
    first one costs. A page is sorted by the primary key behind *order_by*, so that no row is on two pages.
    """
    shape, values = read_where(where)
    _check_page(limit, offset)

    async def work(known: Table) -> list[M]:
        paged = limit is not None or offset is not None or after is not None
        nulls, behind = (None, []) if after is None else _after(known, order_by, after)
        wanted = Selection(
            columns=split_names(columns),
            where=shape,
            order_by=_order(order_by),
            limit=limit is not None,
            offset=offset is not None,
            after=nulls,
            total=paged,
            guarded=_guarded(conn),
        )
        page = [number for number in (limit, offset) if number is not None]
        return await _select(known, wanted, [*values, *behind, *page], model, conn)

    return await _on(table, schema, conn, work)


def _check_page(limit: int | None, offset: int | None) -> None:
    check_page(0 if limit is None else limit, 0 if offset is None else offset, InvalidDataError)


def _after(known: Table, order_by: Names | None, after: Any) -> tuple[tuple[bool, ...], list[Any]]:
    """Which values of the order's columns are NULL in the row *after*, and the others."""
    order = read_order(_order(order_by), known, total=True)
    if not order:
        raise InvalidDataError(f"after= needs an order: table {known.name!r} has no primary key, so give order_by=")
    fields = fields_of(after)
    if fields is not None:
        values = [_value_of(known, each, fields) for each in order]
    else:
        values = list(after) if isinstance(after, list | tuple) else [after]
        if len(values) != len(order):
            names = ", ".join(each.column.name for each in order)
            raise InvalidDataError(f"after= is the last row of the page before, or its values of {names}")
    return tuple([value is None for value in values]), [value for value in values if value is not None]


def _value_of(known: Table, order: Order, fields: Mapping[str, Any]) -> Any:
    for name in fields:
        if name == order.column.name or (known.columns.get(name) is None and known.match(name) is order.column):
            return fields[name]
    raise InvalidDataError(f"the row given as after= has no column {order.column.name!r}, which the rows are sorted by")


async def fetch_one(
    table: str,
    where: Where | None = None,
    *,
    columns: Names | None = None,
    order_by: Names | None = None,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> M | None:
    """The first row that fits *where*, None where none does; see `fetch`."""
    shape, values = read_where(where)

    async def work(known: Table) -> M | None:
        wanted = Selection(
            columns=split_names(columns),
            where=shape,
            order_by=_order(order_by),
            limit=True,
            total=order_by is not None,
            guarded=_guarded(conn),
        )
        rows = await _select(known, wanted, [*values, 1], model, conn)
        return rows[0] if rows else None

    return await _on(table, schema, conn, work)


async def get_by_id_or_none(
    table: str, id: Any, *, schema: str = "public", model: type[M] | None = None, conn: Connection | None = None
) -> M | None:
    """The row whose primary key is *id*, None if there is none."""

    def prepare(known: Table) -> Any:
        statement = row_by_id(known)
        return statement.call(_key(statement.columns[0], id), conn), statement.built.read

    return cast("M | None", await _row(table, schema, conn, model, prepare))


async def get_by_id(
    table: str, id: Any, *, schema: str = "public", model: type[M] | None = None, conn: Connection | None = None
) -> M:
    """The row whose primary key is *id*; raises `RecordNotFoundError` if there is none."""

    def prepare(known: Table) -> Any:
        statement = row_by_id(known)
        return statement.call(_key(statement.columns[0], id), conn), statement.built.read

    row = await _row(table, schema, conn, model, prepare)
    if row is None:
        raise _not_found(table)
    return cast("M", row)


def _key(column: Column, value: Any) -> Any:
    if value is None:
        raise column.refusal("is the key of a row: None is no key")
    return column.encode(value)


def _not_found(table: str) -> RecordNotFoundError:
    return RecordNotFoundError(f"there is no row under this key in table {table!r}")


async def get_many_by_id(
    table: str,
    ids: Iterable[Any],
    *,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]:
    """The rows whose primary keys are *ids*, in that order; keys that nothing is under are left out."""
    if isinstance(ids, str | bytes | Mapping):
        raise InvalidDataError("ids is a list of keys")
    keys = list(ids)

    async def work(known: Table) -> list[M]:
        if not keys:
            return []
        column = known.id_column
        encoded = [_key(column, key) for key in keys]
        if not known.compares_ids:
            rows = [await get_by_id_or_none(table, key, schema=schema, model=model, conn=conn) for key in keys]
            return [row for row in rows if row is not None]
        wanted = Selection(where=("$in", column.name, False), guarded=_guarded(conn))
        built = known.query(("select", wanted), lambda: build_select(known, wanted))
        arguments = built.arguments([encoded])
        records = await _read(conn, f"read table {known.name!r}", lambda c: c.fetch(built.sql, *arguments))
        found = {row[column.name]: row for row in records}
        as_read = (lambda key: key) if column.type.read_as is None else str
        wanted_rows = [found[as_read(key)] for key in encoded if as_read(key) in found]
        return [to_model(model, built.read(row), known.name) for row in wanted_rows]

    return await _on(table, schema, conn, work)


async def get_by_uuid(
    table: str, uuid: Any, *, schema: str = "public", model: type[M] | None = None, conn: Connection | None = None
) -> M | None:
    """
    The row with this UUID, None if there is none.

    It is looked for in the column `uuid`, else in the primary key, else in the only column of that type.
    """

    async def work(known: Table) -> M | None:
        uuids = [name for name, column in known.columns.items() if column.type.label == "uuid"]
        primary = [name for name in known.primary_key if name in uuids and len(known.primary_key) == 1]
        for candidates in (["uuid"] * ("uuid" in known.columns), primary, uuids):
            if len(candidates) == 1:
                return await get_by_column(table, candidates[0], uuid, schema=schema, model=model, conn=conn)
        which = "several columns" if uuids else "no column"
        raise ColumnMatchError(f"table {known.name!r} has {which} of type uuid: name one, with get_by_column()")

    return await _on(table, schema, conn, work)


async def get_by_name(
    table: str,
    name: str,
    *,
    name_column: str = "name",
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> M | None:
    """The row with this *name* in its *name_column*, None if there is none; the first by primary key of several."""
    return await get_by_column(table, name_column, name, schema=schema, model=model, conn=conn)


async def get_by_column(
    table: str,
    column: str,
    value: Any,
    *,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> M | None:
    """The row with this *value* in its *column*, None if there is none; the first by primary key of several."""
    condition = {column: None} if value is None else {column: {"$eq": value}}
    return await fetch_one(table, condition, order_by=(), schema=schema, model=model, conn=conn)


async def exists(
    table: str, where: Where | None = None, *, schema: str = "public", conn: Connection | None = None
) -> bool:
    """True where a row fits *where*; without it, where there is any row."""
    shape, values = read_where(where)

    async def work(known: Table) -> bool:
        built = known.query(("exists", shape), lambda: build_exists(known, shape))
        arguments = built.arguments(values)
        return bool(await _read(conn, f"read table {known.name!r}", lambda c: c.fetchval(built.sql, *arguments)))

    return await _on(table, schema, conn, work)


async def count(
    table: str, where: Where | None = None, *, schema: str = "public", conn: Connection | None = None
) -> int:
    """How many rows fit *where*; without it, how many there are."""
    shape, values = read_where(where)

    async def work(known: Table) -> int:
        built = known.query(("count", shape), lambda: build_count(known, shape))
        arguments = built.arguments(values)
        return int(await _read(conn, f"count table {known.name!r}", lambda c: c.fetchval(built.sql, *arguments)))

    return await _on(table, schema, conn, work)


async def fetch_page(
    table: str,
    where: Where | None = None,
    *,
    columns: Names | None = None,
    order_by: Names | None = None,
    page: int = 1,
    page_size: int = 20,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> dict[str, Any]:
    """
    Page number *page* (the first is 1) of the rows that fit *where*, with what a pager needs, all of one moment.

    `items` (empty behind the last page), `total` rows, `page`, `page_size`, `total_pages`. Raises `InvalidDataError`
    where *page* or *page_size* is less than 1.
    """
    check_page(page, page_size, InvalidDataError)
    if page < 1 or page_size < 1:
        raise InvalidDataError("page and page_size begin at 1")
    offset = (page - 1) * page_size
    check_page(page_size, offset, InvalidDataError)
    shape, values = read_where(where)

    async def work(known: Table) -> dict[str, Any]:
        wanted = Selection(
            columns=split_names(columns), where=shape, order_by=_order(order_by), total=True, guarded=_guarded(conn)
        )
        built = known.query(("page", wanted), lambda: build_page(known, wanted))
        arguments = built.arguments([*values, page_size, offset])
        rows = await _read(conn, f"read table {known.name!r}", lambda c: c.fetch(built.sql, *arguments))
        items = [built.read(row) for row in rows if row["__place"] is not None]
        total = rows[0]["__total"]
        return {
            "items": [to_model(model, item, known.name) for item in items],
            "total": total,
            "page": page,
            "page_size": page_size,
            "total_pages": -(-total // page_size),
        }

    return await _on(table, schema, conn, work)


async def iterate(
    table: str,
    where: Where | None = None,
    *,
    columns: Names | None = None,
    order_by: Names | None = None,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> AsyncGenerator[M, None]:
    """
    The rows that fit *where*, one after the other, all as they were at the first, in constant memory.

    A server-side cursor: in the transaction that *conn* is in, or, without *conn*, on a connection that is held until
    the last row, or until the iterator is closed (`contextlib.aclosing` does so where the loop is left early). Raises
    `RepositoryError` where *conn* is in no transaction.
    """
    shape, values = read_where(where)
    wanted = Selection(columns=split_names(columns), where=shape, order_by=_order(order_by), guarded=False)

    async def work(known: Table) -> tuple[str, Built, list[Any]]:
        built = known.query(("select", wanted), lambda: build_select(known, wanted))
        return known.name, built, built.arguments(values)

    if conn is not None and not conn.is_closed() and not conn.is_in_transaction():
        # of our own it would hold what the caller does meanwhile, and undo it where the loop is left early
        raise RepositoryError("iterate() with conn= needs a transaction: async with get_db_transaction(conn=conn)")
    async with nullcontext(conn) if conn is not None else get_db_transaction(readonly=True) as c:
        # what is known is confirmed first: a cursor that fails cannot be tried again in its transaction
        known = catalog.known_table(table, schema, c)
        if known is not None:
            await catalog.read_table(table, schema, c, known)
        named, built, arguments = await _on(table, schema, c, work)
        doing = f"read table {named!r}"
        cursor = await _read(c, doing, lambda c: cast("Awaitable[Any]", c.cursor(built.sql, *arguments)))
        size = _FIRST_ROWS
        while rows := await _read(c, doing, lambda _: cursor.fetch(size)):  # noqa: B023 (awaited at once)
            for row in rows:
                yield to_model(model, built.read(row), named)
            size = min(_MOST_ROWS, 2 * size, max(1, _ITERATE_BYTES * len(rows) // _bytes(rows)))


def _bytes(rows: Sequence[Record]) -> int:
    return 1 + sum(len(value) if isinstance(value, str | bytes) else 16 for row in rows for value in row.values())


# --- write


async def insert(
    table: str, values: Any, *, schema: str = "public", model: type[M] | None = None, conn: Connection | None = None
) -> M:
    """
    Store a row and return it, with what the database has added.

    *values* is a dict, a pydantic model or a dataclass. A uuid key that is not given is made here, so that the row is
    stored once, also when the connection is lost on the way; without such a key, that is an `OutcomeUnknownError`.
    Raises `InvalidDataError` where a value does not fit its column, `RepositoryError` (with `sqlstate`) where a
    constraint refuses the row.
    """
    given = read_row(values)
    names = tuple(given)

    def prepare(known: Table) -> Any:
        statement = new_row(known, names)
        return stored_row(known, statement, statement.encode(given.values()), conn), statement.built.read

    return cast("M", await _row(table, schema, conn, model, prepare))


async def update_by_id(
    table: str,
    id: Any,
    values: Any,
    *,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> M:
    """
    Give the row whose primary key is *id* new *values*, and return it whole; other columns stay as they are.

    A column `updated_at` gets the time, unless *values* has it. Raises `RecordNotFoundError` if there is no such row.
    """
    given = read_row(values, partial=True)
    names = tuple(given)

    def prepare(known: Table) -> Any:
        statement = changed_row(known, names)
        key = _key(statement.columns[0], id)
        return statement.call((key, *statement.encode(given.values(), 1)), conn), statement.built.read

    changed = await _row(table, schema, conn, model, prepare)
    if changed is None:
        raise _not_found(table)
    return cast("M", changed)


async def delete_by_id(
    table: str,
    id: Any,
    *,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> M:
    """
    Delete the row whose primary key is *id* and return what it was; raises `RecordNotFoundError` if there is none.

    Not repeated where its answer was lost (`OutcomeUnknownError`): a repetition could delete a row that somebody stored
    under the same key meanwhile.
    """

    def prepare(known: Table) -> Any:
        statement = deleted_row(known)
        return statement.call(_key(statement.columns[0], id), conn), statement.built.read

    deleted = await _row(table, schema, conn, model, prepare)
    if deleted is None:
        raise _not_found(table)
    return cast("M", deleted)


async def upsert(
    table: str,
    values: Any,
    conflict_columns: Names | None = None,
    *,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> M:
    """
    Store a row, or put its values into the one with the same *conflict_columns*; the row, and whether it is new.

    That is `inserted`, True or False, beside the columns (`inserted_` where there is such a column; of a *model*, if it
    has the field). *conflict_columns* are those of a unique key, by default the primary key. Columns that are not given
    stay as they are. Raises as `insert`.
    """
    given = read_row(values)
    names, conflict = tuple(given), split_names(conflict_columns)

    def prepare(known: Table) -> Any:
        statement = upserted_row(known, names, conflict)
        item = statement.encode(given.values())
        own_id = None if statement.own_key is None else item[-1]
        return statement.call(item, conn), partial(read_upserted, statement.built, known, model, own_id)

    return cast("M", await _row(table, schema, conn, model, prepare))


@overload
async def update(
    table: str,
    values: Any,
    where: Where | None = None,
    *,
    all_rows: bool = False,
    returning: Literal[True] = True,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]: ...
@overload
async def update(
    table: str,
    values: Any,
    where: Where | None = None,
    *,
    all_rows: bool = False,
    returning: Literal[False],
    schema: str = "public",
    model: None = None,
    conn: Connection | None = None,
) -> int: ...
async def update(
    table: str,
    values: Any,
    where: Where | None = None,
    *,
    all_rows: bool = False,
    returning: bool = True,
    schema: str = "public",
    model: type[Any] | None = None,
    conn: Connection | None = None,
) -> list[Any] | int:
    """
    Give the rows that fit *where* new *values*; the rows as they are now, or how many with *returning* False.

    A column `updated_at` gets the time, unless *values* has it. Raises `InvalidDataError` where *where* is empty and
    *all_rows* is not True.
    """
    given = read_row(values, partial=True)
    names = tuple(given)
    shape, conditions = read_where(where)
    _check_where(shape, all_rows, "update", table)

    async def work(known: Table) -> list[dict[str, Any]] | int:
        guarded = _guarded(conn)

        def build() -> Built:
            columns, _ = written_columns(known, names)
            if not columns:
                raise InvalidDataError(f"there is nothing to update in table {known.name!r}: no values are given")
            return build_update(known, columns, shape, returning=returning, guarded=guarded)

        built = known.query(("update", names, shape, returning, guarded), build)
        arguments = built.arguments([*given.values(), *conditions])
        return await _change(built, arguments, f"update table {known.name!r}", returning, conn)

    return _to_models(model, await _on(table, schema, conn, work), table)


@overload
async def delete(
    table: str,
    where: Where | None = None,
    *,
    all_rows: bool = False,
    returning: Literal[True] = True,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]: ...
@overload
async def delete(
    table: str,
    where: Where | None = None,
    *,
    all_rows: bool = False,
    returning: Literal[False],
    schema: str = "public",
    model: None = None,
    conn: Connection | None = None,
) -> int: ...
async def delete(
    table: str,
    where: Where | None = None,
    *,
    all_rows: bool = False,
    returning: bool = True,
    schema: str = "public",
    model: type[Any] | None = None,
    conn: Connection | None = None,
) -> list[Any] | int:
    """
    Delete the rows that fit *where*; what they were, or how many with *returning* False.

    Raises `InvalidDataError` where *where* is empty and *all_rows* is not True.
    """
    shape, values = read_where(where)
    _check_where(shape, all_rows, "delete", table)

    async def work(known: Table) -> list[dict[str, Any]] | int:
        guarded = _guarded(conn)
        built = known.query(
            ("delete", shape, returning, guarded),
            lambda: build_delete(known, shape, returning=returning, guarded=guarded),
        )
        arguments = built.arguments(values)
        return await _change(built, arguments, f"delete from table {known.name!r}", returning, conn)

    return _to_models(model, await _on(table, schema, conn, work), table)


def _check_where(shape: Shape | None, all_rows: bool, verb: str, table: str) -> None:
    # a condition whose parts are all empty ({"$and": [{}]}) fits every row as well
    if (shape is None or not _says_something(shape)) and all_rows is not True:
        raise InvalidDataError(f"{verb} of table {table!r} without a condition concerns every row: say all_rows=True")


def _says_something(shape: Shape) -> bool:
    kind, inner = shape[0], shape[1]
    if kind == "and":
        return any(map(_says_something, inner))
    if kind == "or":
        return all(map(_says_something, inner))
    return True


async def _change(
    built: Built, arguments: list[Any], doing: str, returning: bool, conn: Connection | None
) -> list[dict[str, Any]] | int:
    if not returning:
        status = await _write(conn, doing, lambda c: c.execute(built.sql, *arguments))
        return int(status.rpartition(" ")[2])
    return [built.read(row) for row in await _write(conn, doing, lambda c: c.fetch(built.sql, *arguments))]


def _to_models(model: type[Any] | None, rows: list[dict[str, Any]] | int, table: str) -> list[Any] | int:
    """Not where a call may be done again: the rows are changed, whether they fit the model or not."""
    if model is None or isinstance(rows, int):
        return rows
    return [to_model(model, row, table) for row in rows]


# --- many rows


@overload
async def insert_many(
    table: str,
    rows: Iterable[Any],
    *,
    returning: Literal[False] = False,
    schema: str = "public",
    model: None = None,
    conn: Connection | None = None,
) -> int: ...
@overload
async def insert_many(
    table: str,
    rows: Iterable[Any],
    *,
    returning: Literal[True],
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]: ...
async def insert_many(
    table: str,
    rows: Iterable[Any],
    *,
    returning: bool = False,
    schema: str = "public",
    model: type[Any] | None = None,
    conn: Connection | None = None,
) -> list[Any] | int:
    """
    Store many rows, all or none; how many, or with *returning* True the rows as they are stored, in the order given.

    Columns that a row does not have get their defaults. By COPY or by INSERT, whichever is faster. Raises
    `InvalidDataError` where two of them have the same key, else as `insert`.
    """
    given = _listed(rows)
    return await _on(table, schema, conn, lambda known: store_rows(known, given, None, returning, model, conn))


@overload
async def upsert_many(
    table: str,
    rows: Iterable[Any],
    conflict_columns: Names | None = None,
    *,
    returning: Literal[False] = False,
    schema: str = "public",
    model: None = None,
    conn: Connection | None = None,
) -> int: ...
@overload
async def upsert_many(
    table: str,
    rows: Iterable[Any],
    conflict_columns: Names | None = None,
    *,
    returning: Literal[True],
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]: ...
async def upsert_many(
    table: str,
    rows: Iterable[Any],
    conflict_columns: Names | None = None,
    *,
    returning: bool = False,
    schema: str = "public",
    model: type[Any] | None = None,
    conn: Connection | None = None,
) -> list[Any] | int:
    """
    Store many rows or put their values into those with the same *conflict_columns*, all or none; how many.

    With *returning* True, the rows as `upsert` returns them, in the order given. Raises `InvalidDataError` where two of
    them have the same key, else as `insert`.
    """
    given, conflict = _listed(rows), split_names(conflict_columns)
    return await _on(table, schema, conn, lambda known: store_rows(known, given, conflict, returning, model, conn))


def _listed(rows: Iterable[Any]) -> list[Any]:
    if isinstance(rows, str | bytes | Mapping):
        raise InvalidDataError("rows is a list of rows")
    return list(rows)


# --- raw SQL


async def execute_raw(
    sql: str,
    args: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]:
    """
    Run one statement of your own; the rows that it returns, an empty list where it returns none.

    *args* are a list for `$1`, `$2`, …, or a dict for `:name`. They go to the driver as they are. With a *schema*,
    names without one are looked for there first. Without *conn* it runs in a transaction, so that a lost answer is
    looked up and a write never done twice; what refuses a transaction (VACUUM) runs without.
    """
    if not isinstance(sql, str):
        raise InvalidDataError("sql is a str")
    if isinstance(args, Mapping):
        query, values = number_names(sql, args)
    elif args is None or isinstance(args, list | tuple):
        query, values = sql, list(args or ())
    else:
        raise InvalidDataError("args is a list for $1, $2, …, or a dict for :name")

    if schema != "public":
        # a prepared statement means the tables that it meant at first: each schema has its own
        query += f"\n-- {schema.encode(errors='replace').hex()}"

    async def run(c: Connection) -> list[Record]:
        return await c.fetch(query, *values)

    async def run_in(c: Connection, *, local: bool = True) -> list[Record]:
        if schema == "public":
            return await _write(c, "execute the statement", run)
        before = await c.fetchval("SELECT current_setting('search_path')")
        await c.execute("SELECT set_config('search_path', $1, $2)", f"{quote_identifier(schema)}, {before}", local)
        rows = await _write(c, "execute the statement", run)
        await c.execute("SELECT set_config('search_path', $1, $2)", before, local)
        return rows

    if schema != "public" and not await schema_exists(schema, conn=conn):
        raise SchemaError(f"Schema {schema!r} not found.", sqlstate="3F000")
    rows = await _run_raw(run_in, schema, conn)
    return [cast("M", to_model(model, dict(row), "of the statement")) for row in rows]


async def _run_raw(
    run_in: Callable[..., Awaitable[list[Record]]], schema: str, conn: Connection | None
) -> list[Record]:
    if conn is not None:
        if schema == "public":
            return await run_in(conn)
        async with get_db_transaction(conn=conn) as c:
            return await run_in(c)
    try:
        return await run_transaction(run_in)
    except DatabaseError as exc:
        if exc.sqlstate != "25001":  # active_sql_transaction: it refuses to run inside one
            raise
    async with get_db_connection() as c:  # whose session is reset afterwards
        return await run_in(c, local=False)


# --- tables and schemas

_SCHEMA_EXISTS = """
    SELECT nspname::text
      FROM pg_catalog.pg_namespace
     WHERE nspname = $1::text
"""


async def table_exists(table: str, *, schema: str = "public", conn: Connection | None = None) -> bool:
    """True where *schema* has a table, view or foreign table of that name."""
    return catalog.is_name(table) and table in await list_tables(schema=schema, conn=conn)


async def schema_exists(schema: str, *, conn: Connection | None = None) -> bool:
    """True where there is a schema of that name."""
    doing = "look for a schema"
    return catalog.is_name(schema) and bool(await catalog.list_names(_SCHEMA_EXISTS, schema, conn=conn, doing=doing))


async def create_schema(schema: str, *, conn: Connection | None = None) -> bool:
    """
    Make a schema unless there is one of that name; True if it was made now. Any number of callers may do so at once.

    Raises `SchemaError` where the name is empty, longer than 63 bytes, begins with pg_, or the user may not.
    """
    if not catalog.is_name(schema) or schema.startswith("pg_"):
        raise SchemaError("the name of a schema has 1 to 63 bytes of text and does not begin with pg_")
    if await schema_exists(schema, conn=conn):
        return False
    try:
        async with get_db_transaction(conn=conn) as c:
            await perform(
                lambda c: c.execute(f"CREATE SCHEMA {quote_identifier(schema)}"),
                conn=c,
                kind=SchemaError,
                doing=f"create schema {schema!r}",
                changes=True,
                repeatable=False,
            )
    except DatabaseError as exc:
        if exc.sqlstate not in ("42P06", "23505"):  # somebody else was quicker
            raise
        return False
    return True


async def list_tables(*, schema: str = "public", conn: Connection | None = None) -> list[str]:
    """The names of the tables, views and foreign tables of *schema*, in order; empty where there is no such schema."""
    return await catalog.list_tables(schema, conn) if catalog.is_name(schema) else []


async def describe_table(table: str, *, schema: str = "public", conn: Connection | None = None) -> list[dict[str, Any]]:
    """
    What the columns of a table are, in their order: dicts.

    `name`, `type` as PostgreSQL writes it, `nullable`, `default` (SQL, or None), `primary_key`, `unique` (alone in a
    unique key), `generated` (the server alone makes its values). Raises `SchemaError` where there is no such table.
    """
    known = await catalog.read_table(table, schema, conn, catalog.known_table(table, schema, conn))
    return [
        {
            "name": column.name,
            "type": column.declared,
            "nullable": not column.not_null,
            "default": column.default,
            "primary_key": column.name in known.primary_key,
            "unique": (column.name,) in [key.columns for key in known.keys],
            "generated": not column.is_written,
        }
        for column in known.columns.values()
    ]
