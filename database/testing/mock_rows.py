"""
Rows that are made up, and that the tables of the live database take.

Types, keys and checks are read from the catalog (mock_tables.py). How a row is made: mock_maker.py, mock_values.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..columns import read_table
from ..connect_db import Connection, get_db_transaction
from ..exceptions import InvalidDataError
from ..query import quote_identifier
from ..repository import insert_many
from .foreign_keys import ForeignKey
from .mock_maker import COUNTED, KNOWN_ROWS, Row, RowMaker, ask
from .mock_tables import MockTable, read_mock_table
from .mock_values import MockValues

_PARENTS = 10  # rows that are made where a foreign key needs some and there are none


async def generate_row(
    table: str,
    *,
    schema: str = "public",
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    conn: Connection | None = None,
) -> Row:
    """
    A made-up row that *table* would take, as a dict for `insert`; nothing is stored.

    It respects types, lengths, enums, vectors' dimensions, NOT NULL, unique keys, checks and foreign keys, which lead
    to rows that are there. Columns with a default, and those that the server makes, are left to it; a uuid key is made
    here. *overrides* are values that are given. The same *seed* gives the same row as long as the table is the same.

    Raises `SchemaError` for an unknown table, `ColumnMatchError` for an unknown column, `InvalidDataError` where no
    value can be found: a foreign key to an empty table (see `generate_related_rows` and `insert_mock_rows`), a check
    that nothing holds, a type that is not known.
    """
    (row,) = await generate_rows(table, 1, schema=schema, overrides=overrides, seed=seed, conn=conn)
    return row


async def generate_rows(
    table: str,
    count: int,
    *,
    schema: str = "public",
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    conn: Connection | None = None,
) -> list[Row]:
    """As `generate_row`, for *count* rows that can be stored together."""
    made = await _prepare(table, schema, overrides, seed, conn)
    await made.read_parents({})
    return await made.rows(count)


async def generate_related_rows(
    table: str,
    related: Mapping[str, Mapping[str, Any]],
    *,
    schema: str = "public",
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    conn: Connection | None = None,
) -> dict[str, list[Row]]:
    """
    A made-up row and rows that refer to it, by table; nothing is stored. As a list in the order to store them in.

    *related*: for each table (or `schema.table`) a dict: `count` (default 1), `fk_column` where more than one foreign
    key leads to *table*, `overrides`, and `related` for rows that refer to these. `generate_related_rows("users",
    {"posts": {"count": 3, "fk_column": "user_id"}})` returns `{"users": [row], "posts": [row, row, row]}`. Raises as
    `generate_row` does, and `InvalidDataError` where a table does not refer to *table*, or the key that is referred to
    is made by the server alone.
    """
    made = await _prepare(table, schema, overrides, seed, conn)
    await made.read_parents({})
    rows = await made.rows(1)
    found: dict[str, list[Row]] = {table: rows}
    await _add_related(found, made.table, rows, related, schema, seed, conn)
    return found


async def insert_mock_rows(
    table: str,
    count: int,
    *,
    schema: str = "public",
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    conn: Connection | None = None,
) -> int:
    """
    Store *count* made-up rows, all or none; how many were stored.

    As `generate_rows`; where a foreign key needs a row of an empty table, up to ten rows are made there first, or as
    many as need one of their own. Raises as `generate_row` and `insert_many` do.
    """
    async with get_db_transaction(conn=conn) as c:
        return await _insert(table, count, schema, overrides, seed, c, ())


async def _insert(
    table: str,
    count: int,
    schema: str,
    overrides: Mapping[str, Any] | None,
    seed: int | None,
    conn: Connection,
    path: tuple[tuple[str, str], ...],
) -> int:
    made = await _prepare(table, schema, overrides, seed, conn)
    await made.read_parents({})
    for key in made.missing_parents():
        if key.to in (*path, (schema, table)):
            raise InvalidDataError(
                f"table {table!r} needs a row of {key.to[1]!r}, and that one, by and by, a row of {table!r}: "
                f"give {', '.join(key.columns)} in overrides"
            )
        each_its_own = any(set(unique) <= set(key.columns) for unique in made.table.keys)
        parents = count if each_its_own else min(count, _PARENTS)
        await _insert(key.to[1], parents, key.to[0], None, seed, conn, (*path, (schema, table)))
    await made.read_parents({})
    rows = await made.rows(count)
    return await insert_many(table, rows, schema=schema, returning=False, conn=conn) if rows else 0


async def _add_related(
    found: dict[str, list[Row]],
    parent: MockTable,
    parent_rows: list[Row],
    related: Mapping[str, Mapping[str, Any]],
    schema: str,
    seed: int | None,
    conn: Connection | None,
) -> None:
    for named, wanted in related.items():
        child_schema, dot, name = named.rpartition(".")
        made = await _prepare(name, child_schema if dot else schema, wanted.get("overrides"), seed, conn)
        key = _key_to(parent, made.table, wanted.get("fk_column"))
        for row in parent_rows:
            await _complete_key(parent, row, key.to_columns, conn)
        pool = [tuple([row[column] for column in key.to_columns]) for row in parent_rows]
        await made.read_parents({key: pool})
        rows = await made.rows(int(wanted.get("count", 1)))
        found.setdefault(named, []).extend(rows)
        if wanted.get("related"):
            await _add_related(found, made.table, rows, wanted["related"], made.table.schema, seed, conn)


def _key_to(parent: MockTable, child: MockTable, column: str | None) -> ForeignKey:
    keys = [key for key in child.foreign_keys if key.to == (parent.schema, parent.name)]
    if column is not None:
        keys = [key for key in keys if column in key.columns]
    if len(keys) == 1:
        return keys[0]
    what = "has no foreign key" if not keys else "has several foreign keys, so name one as fk_column,"
    raise InvalidDataError(
        f"table {child.name!r} {what} to {parent.name!r}" + (f" in column {column!r}" if column else "")
    )


async def _complete_key(parent: MockTable, row: Row, columns: Sequence[str], conn: Connection | None) -> None:
    """Give *row* the key that others are to refer to, where the server would make it."""
    for name in columns:
        column = parent.columns[name]
        if name in row:
            continue
        if column.is_fixed or column.type not in COUNTED:
            raise InvalidDataError(
                f"the server alone makes column {name!r} of table {parent.name!r}: store that row first, then "
                "generate_rows() for those that refer to it"
            )
        highest = await ask(
            f"SELECT coalesce(max({quote_identifier(name)}), 0) FROM {parent.sql}", conn, "look for a free number"
        )
        row[name] = int(highest[0][0]) + 1


async def _prepare(
    table: str, schema: str, overrides: Mapping[str, Any] | None, seed: int | None, conn: Connection | None
) -> RowMaker:
    known = await read_table(table, schema, conn)
    if known.kind not in ("r", "p"):
        raise InvalidDataError(f"made-up rows are for tables, and {table!r} is none")
    columns = known.match_all(overrides or ())
    given = {column.name: value for column, value in zip(columns, (overrides or {}).values(), strict=True)}
    mock_table = await read_mock_table(known.name, known.schema, conn)
    rows = (await ask(f"SELECT count(*) FROM (SELECT FROM {known.sql} LIMIT {KNOWN_ROWS}) AS t", conn, "count"))[0][0]
    values = MockValues(None if seed is None else f"{seed} {schema} {table} {rows}")
    return RowMaker(mock_table, rows, given, values, conn)
