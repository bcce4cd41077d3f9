"""Which table refers to which, and in what order they are filled and emptied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..connect_db import Connection, perform
from ..exceptions import RepositoryError

TableName = tuple[str, str]  # schema, name

_FOREIGN_KEYS = """
    SELECT n.nspname::text AS schema, t.relname::text AS name,
           rn.nspname::text AS to_schema, rt.relname::text AS to_name,
           (SELECT array_agg(a.attname::text ORDER BY k.place)
              FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
           (SELECT array_agg(a.attname::text ORDER BY k.place)
              FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.number) AS to_columns
      FROM pg_catalog.pg_constraint AS c
      JOIN pg_catalog.pg_class AS t ON t.oid = c.conrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
      JOIN pg_catalog.pg_class AS rt ON rt.oid = c.confrelid
      JOIN pg_catalog.pg_namespace AS rn ON rn.oid = rt.relnamespace
      LEFT JOIN pg_catalog.pg_constraint AS inherited ON inherited.oid = c.conparentid
     WHERE c.contype = 'f'
       -- a partition has those of its table; what leads to a partition stands beside what leads to the whole
       AND (c.conparentid = 0 OR (inherited.conrelid <> c.conrelid AND inherited.confrelid = c.confrelid))
     ORDER BY c.oid
"""


class ForeignKey(NamedTuple):
    """The *columns* of *table* hold values of *to_columns* of the table *to*."""

    table: TableName
    columns: tuple[str, ...]
    to: TableName
    to_columns: tuple[str, ...]


async def read_foreign_keys(conn: Connection | None) -> list[ForeignKey]:
    """All of the database."""
    rows = await perform(
        lambda c: c.fetch(_FOREIGN_KEYS),
        conn=conn,
        kind=RepositoryError,
        doing="read the foreign keys",
        changes=False,
        repeatable=True,
    )
    return [
        ForeignKey(
            (row["schema"], row["name"]),
            tuple(row["columns"]),
            (row["to_schema"], row["to_name"]),
            tuple(row["to_columns"]),
        )
        for row in rows
    ]


def in_order(tables: Iterable[TableName], keys: Iterable[ForeignKey]) -> list[list[TableName]]:
    """
    The *tables* in steps, each after those that it refers to; tables that refer to each other are one step.

    Otherwise as they are given.
    """
    waiting = list(dict.fromkeys(tables))
    needs: dict[TableName, set[TableName]] = {table: set() for table in waiting}
    for key in keys:
        if key.table in needs and key.to in needs and key.to != key.table:
            needs[key.table].add(key.to)
    reached = {table: _reach(table, needs) for table in waiting}
    steps: list[list[TableName]] = []
    done: set[TableName] = set()
    while waiting:
        # the first whose needs are met, but for those that need it themselves
        table = next(each for each in waiting if all(t in done or each in reached[t] for t in reached[each]))
        step = [each for each in waiting if each == table or (each in reached[table] and table in reached[each])]
        steps.append(step)
        done.update(step)
        waiting = [each for each in waiting if each not in done]
    return steps


def _reach(table: TableName, needs: Mapping[TableName, set[TableName]]) -> set[TableName]:
    found: set[TableName] = set()
    waiting = [table]
    while waiting:
        new = needs[waiting.pop()] - found
        found |= new
        waiting += new
    return found
