"""Writing any table: single rows, whatever a condition fits, many rows at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, cast, overload

from .change_rows import build_delete, build_update
from .columns import Table
from .conditions import Shape, read_where
from .connect_db import Connection
from .exceptions import (
    InvalidDataError,
    confidential,
)
from .keyed import changed_row, deleted_row, new_row, stored_row, upserted_row, written_columns
from .many_rows import store_rows
from .query import Built, split_names
from .rows import read_row, read_upserted, to_model
from .table_calls import (
    M,
    Names,
    Where,
    call_row,
    call_table,
    encode_key,
    is_guarded,
    not_found,
    perform_write,
)


@confidential
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

    return cast("M", await call_row(table, schema, conn, model, prepare))


@confidential
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
        key = encode_key(statement.columns[0], id)
        return statement.call((key, *statement.encode(given.values(), 1)), conn), statement.built.read

    changed = await call_row(table, schema, conn, model, prepare)
    if changed is None:
        raise not_found(table)
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
        return statement.call(encode_key(statement.columns[0], id), conn), statement.built.read

    deleted = await call_row(table, schema, conn, model, prepare)
    if deleted is None:
        raise not_found(table)
    return cast("M", deleted)


@confidential
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

    return cast("M", await call_row(table, schema, conn, model, prepare))


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
@confidential
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
        guarded = is_guarded(conn)

        def build() -> Built:
            columns, _ = written_columns(known, names)
            if not columns:
                raise InvalidDataError(f"there is nothing to update in table {known.name!r}: no values are given")
            return build_update(known, columns, shape, returning=returning, guarded=guarded)

        built = known.query(("update", names, shape, returning, guarded), build)
        arguments = built.arguments([*given.values(), *conditions])
        return await _change(built, arguments, f"update table {known.name!r}", returning, conn)

    return _to_models(model, await call_table(table, schema, conn, work), table)


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
@confidential
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
        guarded = is_guarded(conn)
        built = known.query(
            ("delete", shape, returning, guarded),
            lambda: build_delete(known, shape, returning=returning, guarded=guarded),
        )
        arguments = built.arguments(values)
        return await _change(built, arguments, f"delete from table {known.name!r}", returning, conn)

    return _to_models(model, await call_table(table, schema, conn, work), table)


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
        status = await perform_write(conn, doing, lambda c: c.execute(built.sql, *arguments))
        return int(status.rpartition(" ")[2])
    return [built.read(row) for row in await perform_write(conn, doing, lambda c: c.fetch(built.sql, *arguments))]


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
@confidential
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
    return await call_table(table, schema, conn, lambda known: store_rows(known, given, None, returning, model, conn))


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
@confidential
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
    return await call_table(
        table, schema, conn, lambda known: store_rows(known, given, conflict, returning, model, conn)
    )


def _listed(rows: Iterable[Any]) -> list[Any]:
    if isinstance(rows, str | bytes | Mapping):
        raise InvalidDataError("rows is a list of rows")
    return list(rows)
