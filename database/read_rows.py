"""Reading any table: rows by conditions, by keys, in pages, one after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

from . import columns as catalog
from .columns import Table
from .conditions import read_where
from .connect_db import Connection, Record, get_db_transaction
from .exceptions import (
    ColumnMatchError,
    InvalidDataError,
    RepositoryError,
    confidential,
)
from .keyed import row_by_id
from .query import Built, check_page, split_names
from .rows import to_model
from .select_rows import Order, Selection, build_count, build_exists, build_page, build_select, read_order
from .table_calls import (
    M,
    Names,
    Where,
    call_row,
    call_table,
    encode_key,
    is_guarded,
    not_found,
    perform_read,
)
from .values import fields_of

_FIRST_ROWS, _MOST_ROWS, _ITERATE_BYTES = 20, 1_000, 2**20


def _order(order_by: Names | None) -> str | tuple[str, ...] | None:
    return order_by if order_by is None or isinstance(order_by, str) else split_names(order_by)


async def _select(
    known: Table, wanted: Selection, values: list[Any], model: type[Any] | None, conn: Connection | None
) -> list[Any]:
    built = known.query(("select", wanted), lambda: build_select(known, wanted))
    arguments = built.arguments(values)
    rows = await perform_read(conn, f"read table {known.name!r}", lambda c: c.fetch(built.sql, *arguments))
    return [to_model(model, built.read(row), known.name) for row in rows]


@confidential
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
            guarded=is_guarded(conn),
        )
        page = [number for number in (limit, offset) if number is not None]
        return await _select(known, wanted, [*values, *behind, *page], model, conn)

    return await call_table(table, schema, conn, work)


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


@confidential
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
            guarded=is_guarded(conn),
        )
        rows = await _select(known, wanted, [*values, 1], model, conn)
        return rows[0] if rows else None

    return await call_table(table, schema, conn, work)


async def get_by_id_or_none(
    table: str, id: Any, *, schema: str = "public", model: type[M] | None = None, conn: Connection | None = None
) -> M | None:
    """The row whose primary key is *id*, None if there is none."""

    def prepare(known: Table) -> Any:
        statement = row_by_id(known)
        return statement.call(encode_key(statement.columns[0], id), conn), statement.built.read

    return cast("M | None", await call_row(table, schema, conn, model, prepare))


async def get_by_id(
    table: str, id: Any, *, schema: str = "public", model: type[M] | None = None, conn: Connection | None = None
) -> M:
    """The row whose primary key is *id*; raises `RecordNotFoundError` if there is none."""

    def prepare(known: Table) -> Any:
        statement = row_by_id(known)
        return statement.call(encode_key(statement.columns[0], id), conn), statement.built.read

    row = await call_row(table, schema, conn, model, prepare)
    if row is None:
        raise not_found(table)
    return cast("M", row)


@confidential
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
        encoded = [encode_key(column, key) for key in keys]
        if not known.compares_ids:
            rows = [await get_by_id_or_none(table, key, schema=schema, model=model, conn=conn) for key in keys]
            return [row for row in rows if row is not None]
        wanted = Selection(where=("$in", column.name, False), guarded=is_guarded(conn))
        built = known.query(("select", wanted), lambda: build_select(known, wanted))
        arguments = built.arguments([encoded])
        records = await perform_read(conn, f"read table {known.name!r}", lambda c: c.fetch(built.sql, *arguments))
        found = {row[column.name]: row for row in records}
        as_read = (lambda key: key) if column.type.read_as is None else str
        wanted_rows = [found[as_read(key)] for key in encoded if as_read(key) in found]
        return [to_model(model, built.read(row), known.name) for row in wanted_rows]

    return await call_table(table, schema, conn, work)


@confidential
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

    return await call_table(table, schema, conn, work)


@confidential
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


@confidential
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


@confidential
async def exists(
    table: str, where: Where | None = None, *, schema: str = "public", conn: Connection | None = None
) -> bool:
    """True where a row fits *where*; without it, where there is any row."""
    shape, values = read_where(where)

    async def work(known: Table) -> bool:
        built = known.query(("exists", shape), lambda: build_exists(known, shape))
        arguments = built.arguments(values)
        return bool(await perform_read(conn, f"read table {known.name!r}", lambda c: c.fetchval(built.sql, *arguments)))

    return await call_table(table, schema, conn, work)


@confidential
async def count(
    table: str, where: Where | None = None, *, schema: str = "public", conn: Connection | None = None
) -> int:
    """How many rows fit *where*; without it, how many there are."""
    shape, values = read_where(where)

    async def work(known: Table) -> int:
        built = known.query(("count", shape), lambda: build_count(known, shape))
        arguments = built.arguments(values)
        return int(await perform_read(conn, f"count table {known.name!r}", lambda c: c.fetchval(built.sql, *arguments)))

    return await call_table(table, schema, conn, work)


@confidential
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
            columns=split_names(columns), where=shape, order_by=_order(order_by), total=True, guarded=is_guarded(conn)
        )
        built = known.query(("page", wanted), lambda: build_page(known, wanted))
        arguments = built.arguments([*values, page_size, offset])
        rows = await perform_read(conn, f"read table {known.name!r}", lambda c: c.fetch(built.sql, *arguments))
        items = [built.read(row) for row in rows if row["__place"] is not None]
        total = rows[0]["__total"]
        return {
            "items": [to_model(model, item, known.name) for item in items],
            "total": total,
            "page": page,
            "page_size": page_size,
            "total_pages": -(-total // page_size),
        }

    return await call_table(table, schema, conn, work)


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
        named, built, arguments = await call_table(table, schema, c, work)
        doing = f"read table {named!r}"
        cursor = await perform_read(c, doing, lambda c: cast("Awaitable[Any]", c.cursor(built.sql, *arguments)))
        size = _FIRST_ROWS
        while rows := await perform_read(c, doing, lambda _: cursor.fetch(size)):  # noqa: B023 (awaited at once)
            for row in rows:
                yield to_model(model, built.read(row), named)
            size = min(_MOST_ROWS, 2 * size, max(1, _ITERATE_BYTES * len(rows) // _bytes(rows)))


def _bytes(rows: Sequence[Record]) -> int:
    return 1 + sum(len(value) if isinstance(value, str | bytes) else 16 for row in rows for value in row.values())
