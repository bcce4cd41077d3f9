"""Seed data: rows that every test finds, from JSON files; and what a clean-up leaves of a database."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..codecs import encode_objects
from ..columns import Column, Table, list_names, read_table
from ..connect_db import Connection, get_db_transaction, perform
from ..exceptions import InvalidDataError, RepositoryError, confidential
from ..query import quote_identifier
from .foreign_keys import TableName, in_order, read_foreign_keys

_PROTECTED = "is_protected"
_FOR_TESTS = re.compile(r"(?:^|[^a-z])tests?(?:ing)?(?:$|[^a-z])", re.IGNORECASE)
_WITHOUT_EQUALITY = frozenset({"json", "xml", "point", "polygon"})
_SEQUENCES = """
    SELECT a.attname::text AS name, pg_get_serial_sequence($1::text, a.attname::text) AS sequence
      FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped
       AND pg_get_serial_sequence($1::text, a.attname::text) IS NOT NULL
"""
_PROTECTING = """
    SELECT format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'is_protected' AND NOT a.attisdropped
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.atttypid = 'boolean'::regtype
       AND (n.nspname = ANY ($1::text[]) OR $1::text[] IS NULL)
     ORDER BY name
"""


class _Group(NamedTuple):
    """Rows of a *table* that have values for the same *columns*, and are known by the same *key*, if by any."""

    table: Table
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    rows: list[dict[str, Any]]


@confidential
async def load_seed_data(path: str | Path, *, schema: str = "public", conn: Connection | None = None) -> dict[str, int]:
    """
    Store the rows of a JSON file, all or none; how many there are, by table.

    The file is an object: a table's name, or `schema.table`, and a list of its rows, each an object. Their order does
    not matter: tables that others refer to come first, also where they refer to each other. It may be loaded again:
    a row whose key is there is given the file's values, and one without a key is stored unless there is its like. Rows
    of tables with a column `is_protected` get true there, so that `cleanup_non_protected` leaves them alone. Sequences
    go on after the largest number.

    Raises `InvalidDataError` where the file is not of that form, `SchemaError` for an unknown table, `ColumnMatchError`
    for an unknown column, `RepositoryError` where PostgreSQL refuses a row.
    """
    named = await asyncio.to_thread(_read, Path(path), schema)
    async with get_db_transaction(conn=conn) as c:
        groups: dict[TableName, list[_Group]] = {}
        for (table_schema, name), rows in named.items():
            table = await read_table(name, table_schema, c)
            if table.kind not in ("r", "p"):
                raise InvalidDataError(f"seed data is for tables, and {name!r} is none")
            groups[table_schema, name] = list(_groups(table, rows))
        for step in in_order(groups, await read_foreign_keys(c)):
            await _store(c, [group for table in step for group in groups[table]])
        for members in groups.values():
            await _advance_sequences(c, members)
    return {
        name if table_schema == schema else f"{table_schema}.{name}": len(rows)
        for (table_schema, name), rows in named.items()
    }


def _read(path: Path, schema: str) -> dict[TableName, list[dict[str, Any]]]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidDataError(f"cannot read {path}: {exc.strerror}", original_error=exc) from exc
    except ValueError as exc:
        where = f"line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else "its bytes"
        raise InvalidDataError(f"{path} is no JSON in UTF-8: see {where}") from None
    if not isinstance(said, dict):
        raise InvalidDataError(f'{path} holds no object: write {{"table": [{{"column": value}}]}}')
    named: dict[TableName, list[dict[str, Any]]] = {}
    for name, rows in said.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InvalidDataError(f"{path}: the rows of {name!r} are no list of objects")
        if not all(rows):
            raise InvalidDataError(f"{path}: a row of {name!r} has no values, so it could not be told from another one")
        table_schema, dot, table = name.partition(".")
        named[(table_schema, table) if dot else (schema, name)] = rows
    return named


def _groups(table: Table, rows: Sequence[Mapping[str, Any]]) -> Iterator[_Group]:
    """The *rows* by the columns that they have values for, and by what they are known by."""
    alike: dict[tuple[tuple[Column, ...], tuple[str, ...]], list[dict[str, Any]]] = {}
    for row in rows:
        values = dict(zip([column.name for column in table.match_all(row)], row.values(), strict=True))
        if _PROTECTED in table.columns:
            values.setdefault(_PROTECTED, True)
        columns = tuple([column for name, column in table.columns.items() if name in values])
        for column in columns:
            if not column.is_written and not column.is_identity:
                raise column.refusal("is made by the server alone (GENERATED ALWAYS): leave it out")
        known = {name for name, value in values.items() if value is not None}
        own_key = next((key.columns for key in table.keys if key.columns and known.issuperset(key.columns)), ())
        alike.setdefault((columns, own_key), []).append(values)
    for (columns, own_key), members in alike.items():
        yield _Group(table, columns, own_key, members)


async def _store(c: Connection, groups: Sequence[_Group]) -> None:
    """
    All of *groups* in one statement: foreign keys are checked at its end, so they may refer to each other.

    https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING
    """
    groups = [group for group in groups if group.rows and group.columns]
    if not groups:
        return
    parts = [f"part_{number} AS (\n{_insert(group, number)}\n)" for number, group in enumerate(groups, 1)]
    query = "WITH " + ",\n".join(parts) + "\nSELECT 1"
    names = ", ".join(dict.fromkeys(group.table.name for group in groups))
    await perform(
        lambda c: c.execute(query, *[encode_objects(group.rows) for group in groups]),
        conn=c,
        kind=RepositoryError,
        doing=f"store the seed data of {names}",
        changes=True,
        repeatable=False,
    )


def _insert(group: _Group, number: int) -> str:
    table, names = group.table, ", ".join(column.sql for column in group.columns)
    overriding = " OVERRIDING SYSTEM VALUE" if any(column.is_identity for column in group.columns) else ""
    rows = f"jsonb_populate_recordset(NULL::{table.sql}, ${number}::text::jsonb)"
    if not group.key:
        same = " AND ".join(
            f"this.{column.sql}{cast_to} IS NOT DISTINCT FROM new.{column.sql}{cast_to}"
            for column in group.columns
            for cast_to in ["::text" if column.type.label in _WITHOUT_EQUALITY or column.type.kind == "json" else ""]
        )
        return (
            f"INSERT INTO {table.sql} ({names}){overriding}\nSELECT {names} FROM {rows} AS new\n"
            f" WHERE NOT EXISTS (SELECT FROM {table.sql} AS this WHERE {same})"
        )
    changed = [column.sql for column in group.columns if column.name not in group.key]
    action = "UPDATE SET " + ", ".join(f"{column} = excluded.{column}" for column in changed) if changed else "NOTHING"
    conflict = ", ".join(quote_identifier(name) for name in group.key)
    return (
        f"INSERT INTO {table.sql} ({names}){overriding}\nSELECT {names} FROM {rows}\n"
        f"ON CONFLICT ({conflict}) DO {action}"
    )


async def _advance_sequences(c: Connection, groups: Sequence[_Group]) -> None:
    """The numbers that rows have brought along are not given out again."""
    given = {column.name for group in groups for column in group.columns}
    table = groups[0].table if groups else None
    if table is None:
        return
    for row in await c.fetch(_SEQUENCES, table.sql):
        if row["name"] in given:
            largest = f"SELECT max({quote_identifier(row['name'])}) FROM {table.sql}"
            last = f"SELECT last_value FROM {row['sequence']}"
            advance = (
                f"SELECT setval($1::text::regclass, greatest(({largest}), ({last}))) WHERE ({largest}) IS NOT NULL"
            )
            await c.execute(advance, row["sequence"])


async def check_for_tests(database: str | None = None, *, conn: Connection | None = None) -> None:
    """Raise `RepositoryError` unless the name of the database is *database*, or says that it is for tests."""
    (name,) = await list_names("SELECT current_database()::text", conn=conn, doing="ask for the database's name")
    if not _FOR_TESTS.search(name) and name != database:
        raise RepositoryError(
            f"the database {name!r} does not look like one for tests, and what is not protected in it would be deleted:"
            f" make one with test in its name, or, if that is wanted, call cleanup_non_protected(database={name!r})"
        )


async def cleanup_non_protected(
    *, schemas: Sequence[str] | None = None, database: str | None = None, conn: Connection | None = None
) -> dict[str, int]:
    """
    Delete every row that is not protected, of every table with a column `is_protected`; how many, by `schema.table`.

    Rows that refer to them go, or lose the reference, as their foreign keys say (ON DELETE). Tables without such a
    column are not touched. All or none. Only in a database whose name says that it is for tests (`test` in it, as a
    word), or that is named here: raises `RepositoryError` elsewhere, and where a protected row refers to one that is
    not.
    """
    async with get_db_transaction(conn=conn) as c:
        await check_for_tests(database, conn=c)
        chosen = None if schemas is None else [schemas] if isinstance(schemas, str) else list(schemas)
        tables = await list_names(_PROTECTING, cast("Any", chosen), conn=c, doing="look for tables")
        if not tables:
            return {}
        # in one statement, so that they may refer to each other
        parts = [
            f"part_{number} AS (DELETE FROM {table} WHERE NOT coalesce({_PROTECTED}, false) RETURNING 1)"
            for number, table in enumerate(tables)
        ]
        counts = [f"(SELECT count(*) FROM part_{number})" for number in range(len(tables))]
        query = f"WITH {', '.join(parts)} SELECT {', '.join(counts)}"
        deleted = await perform(
            lambda c: c.fetchrow(query),
            conn=c,
            kind=RepositoryError,
            doing="delete what is not protected",
            changes=True,
            repeatable=False,
        )
        return dict(zip(tables, deleted or (), strict=True))
