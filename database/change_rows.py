"""Statements that change rows of any table: one, many, or those that concurrent calls share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .conditions import Shape, write_where
from .query import Built, Parameters, all_columns, write_given, write_returned

if TYPE_CHECKING:
    from .columns import Column, Table

_OWN_KEY = "\n    ON CONFLICT ({key}) DO NOTHING"


def build_insert(table: Table, columns: Sequence[Column], own_key: Column | None, *, guarded: bool) -> Built:
    """One row. With *own_key*, a row that is there already under this key is left alone and not returned."""
    parameters = Parameters()
    names = ", ".join(column.sql for column in columns)
    values = ", ".join(parameters.value(column) for column in columns)
    given = f"({names})\nVALUES ({values})" if columns else "DEFAULT VALUES"
    conflict = "" if own_key is None else _OWN_KEY.format(key=own_key.sql)
    returned = write_returned(table, all_columns(table), guarded=guarded)
    sql = f"INSERT INTO {table.sql} AS this {given}{conflict}\nRETURNING {returned}"
    return parameters.build(sql, all_columns(table))


def build_insert_many(
    table: Table, columns: Sequence[Column], own_key: Column | None, guard: str, *, returning: bool, conflict: str = ""
) -> Built:
    """
    Many rows, one list a column, in the order of the lists; returned in that order, too.

    *guard* is the common table expression `lock_guard`, whose parameter is $1, or empty. *conflict* is an ON CONFLICT
    clause, with which each row tells whether it was `__inserted`.
    """
    names = ", ".join(column.sql for column in columns)
    source, values = write_given(columns, 2 if guard else 1)
    if own_key is not None and not conflict:
        conflict = _OWN_KEY.format(key=own_key.sql)
    sql = (
        f"{f'WITH {guard}' if guard else ''}INSERT INTO {table.sql} AS this ({names})\n"
        f"SELECT {values}\n  FROM {'lock_guard, ' if guard else ''}{source}\n ORDER BY number{conflict}"
    )
    if returning:
        told = ", this.xmax = 0 AS __inserted" if "DO UPDATE" in conflict else ""
        sql += f"\nRETURNING {write_returned(table, all_columns(table), guarded=bool(guard))}{told}"
    return Built(sql, (), all_columns(table) if returning else ())


def changed_columns(table: Table, columns: Sequence[Column], key: Sequence[Column]) -> list[Column]:
    """Those of *columns* that an upsert changes in a row that is there: not its key, nor its primary key."""
    return [column for column in columns if column not in key and column.name not in table.primary_key]


def write_upsert(table: Table, columns: Sequence[Column], key: Sequence[Column]) -> str:
    """The ON CONFLICT clause that replaces the `changed_columns`, and keeps updated_at."""
    changed = changed_columns(table, columns, key) or key
    assignments = [f"{column.sql} = excluded.{column.sql}" for column in changed]
    assignments += _touch(table, columns)
    names = ", ".join(column.sql for column in key)
    return f"\n    ON CONFLICT ({names}) DO UPDATE SET {', '.join(assignments)}"


def build_upsert(table: Table, columns: Sequence[Column], key: Sequence[Column], *, guarded: bool) -> Built:
    """One row, inserted or put in the place of the one with the same *key*; the last column tells which."""
    parameters = Parameters()
    names = ", ".join(column.sql for column in columns)
    values = ", ".join(parameters.value(column) for column in columns)
    conflict = write_upsert(table, columns, key)
    returned = write_returned(table, all_columns(table), guarded=guarded)
    sql = (
        f"INSERT INTO {table.sql} AS this ({names})\nVALUES ({values}){conflict}\n"
        f"RETURNING {returned}, this.xmax = 0 AS __inserted"
    )
    return parameters.build(sql, all_columns(table))


def _touch(table: Table, given: Sequence[Column]) -> Iterator[str]:
    """The assignment that keeps `updated_at`, where there is such a column and nobody has given a value for it."""
    column = table.columns.get("updated_at")
    if column is None or column in given or not column.is_written:
        return
    if column.type.label == "timestamptz":
        yield f"{column.sql} = statement_timestamp()"
    elif column.type.label == "timestamp":
        yield f"{column.sql} = statement_timestamp() AT TIME ZONE 'UTC'"


def build_update(
    table: Table, columns: Sequence[Column], where: Shape | None, *, returning: bool, guarded: bool
) -> Built:
    """The rows that fit *where* get the values of *columns*. Values: those of the columns, then of the condition."""
    parameters = Parameters()
    assignments = [f"{column.sql} = {parameters.value(column)}" for column in columns]
    assignments += _touch(table, columns)
    sql = f"UPDATE {table.sql} AS this\n   SET {', '.join(assignments)}{write_where(where, table, parameters)}"
    if not returning:
        return parameters.build(sql)
    sql += f"\nRETURNING {write_returned(table, all_columns(table), guarded=guarded)}"
    return parameters.build(sql, all_columns(table))


def _locked(table: Table, key: Column, keys: str, strength: str) -> str:
    """
    In the order of the keys, as all statements that lock several rows: in different orders they would deadlock.

    That is the order of `keyed.in_order`: of texts, that of their bytes.
    """
    return f"""
    locked AS MATERIALIZED (
        SELECT this.{key.sql} AS key
          FROM lock_guard, {table.sql} AS this
         WHERE this.{key.sql} = ANY({keys})
         ORDER BY this.{key.sql}{' COLLATE "C"' if key.type.kind == "text" else ""}
           FOR {strength} OF this
    )
    """


def build_update_shared(table: Table, columns: Sequence[Column], key: Column, guard: str) -> Built:
    """For each of many keys ($2) its own values ($3, …); the rows come with `__number`, from 1, in any order."""
    source, _ = write_given([key, *columns], 2)
    assignments = [
        f"{column.sql} = {column.type.from_list(f'given.c{number}')}" for number, column in enumerate(columns, 2)
    ]
    assignments += _touch(table, columns)
    # as strong as the lock that UPDATE takes by itself: rows that refer to this one are in nobody's way
    unique = {name for each in table.keys for name in each.columns}
    strength = "NO KEY UPDATE" if unique.isdisjoint(column.name for column in columns) else "UPDATE"
    sql = (
        f"WITH {guard},{_locked(table, key, key.type.list_parameter(2), strength)}"
        f"UPDATE {table.sql} AS this\n   SET {', '.join(assignments)}\n  FROM locked\n"
        f"  JOIN {source} ON given.c1 = locked.key\n WHERE this.{key.sql} = locked.key\n"
        f"RETURNING {write_returned(table, all_columns(table), guarded=True)}, given.number AS __number"
    )
    return Built(sql, (), all_columns(table))


def build_delete(table: Table, where: Shape | None, *, returning: bool, guarded: bool) -> Built:
    """The rows that fit *where* are deleted."""
    parameters = Parameters()
    sql = f"DELETE FROM {table.sql} AS this{write_where(where, table, parameters)}"
    if not returning:
        return parameters.build(sql)
    sql += f"\nRETURNING {write_returned(table, all_columns(table), guarded=guarded)}"
    return parameters.build(sql, all_columns(table))


def build_delete_shared(table: Table, key: Column, guard: str) -> Built:
    """The rows whose *key* is in $2 are deleted; the rows come with `__number`, the place of their key, from 1."""
    sql = (
        f"WITH {guard},{_locked(table, key, key.type.list_parameter(2), 'UPDATE')}"
        f"DELETE FROM {table.sql} AS this\n USING locked\n"
        f"  JOIN {write_given([key], 2)[0]} ON given.c1 = locked.key\n WHERE this.{key.sql} = locked.key\n"
        f"RETURNING {write_returned(table, all_columns(table), guarded=True)}, given.number AS __number"
    )
    return Built(sql, (), all_columns(table))
