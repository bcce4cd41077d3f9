"""
Many rows of any table at once: grouped by the columns that they have values for, sorted by their key, sent by COPY
where it can take them, else as one list a column.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice, repeat
from operator import contains, itemgetter
from typing import Any, TypeVar, cast

from .columns import Column, Table
from .connect_db import Connection, Record, get_db_transaction, perform, run_transaction
from .exceptions import InvalidDataError, RepositoryError
from .ids import uuid7
from .keyed import conflict_key, new_row, written_columns
from .pool import PooledConnection
from .query import Built, build_insert_many, write_upsert
from .rows import finish_upserted, read_row, to_dict, to_model

T = TypeVar("T")

_COPY_ROWS = 50  # from so many rows on, COPY is faster than one INSERT
_STAGED_ROWS = 2_000  # from so many rows on, an upsert goes through a temporary table
_ROWS_PER_STATEMENT = 5_000


class RowGroup:
    """Rows with values for the same columns, one list a column, sorted by a unique key where they have one."""

    def __init__(self, known: Table, names: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> None:
        self.columns, self.own_key = written_columns(known, names)
        self.length = len(rows)
        given = (list(map(itemgetter(name), rows)) for name in names)
        self.lists = [column.encode_all(values) for column, values in zip(self.columns, given, strict=True)]
        self.order: list[int] | None = None

    def sort(self, known: Table, places: tuple[int, ...], numbers: Sequence[int]) -> None:
        """
        Sort by the columns at *places*: concurrent calls that lock the same keys in different orders would deadlock.

        Raises `InvalidDataError` where two rows have the same key; *numbers* are theirs in the call.
        """
        keys = [self.lists[place] for place in places]
        whole: list[Any] = keys[0] if len(keys) == 1 else list(zip(*keys, strict=True))
        with suppress(TypeError):
            if all(map(operator.lt, whole, islice(whole, 1, None))):
                return  # sorted, and so no two are equal
        _check_twice(known, [self.columns[place] for place in places], whole, numbers)
        try:
            order = sorted(range(self.length), key=whole.__getitem__)
        except TypeError:  # None, or what has no order in Python
            order = sorted(range(self.length), key=lambda number: str(whole[number]))
        if order != list(range(self.length)):
            self.lists = [[values[number] for number in order] for values in self.lists]
            self.order = order


def _check_twice(known: Table, columns: Sequence[Column], keys: list[Any], numbers: Sequence[int]) -> None:
    try:
        if len(set(keys)) == len(keys):
            return
    except TypeError:  # lists
        keys = list(map(str, keys))
    seen: dict[Any, int] = {}
    for number, key in zip(numbers, keys, strict=True):
        if key is None or (isinstance(key, tuple) and None in key):
            continue  # NULL is not equal to NULL
        first = seen.setdefault(key, number)
        if first != number:
            names = ", ".join(column.name for column in columns)
            raise InvalidDataError(
                f"rows {first} and {number} (counted from 0) have the same key {names} of table {known.name!r}"
            )


def _are_alike(rows: Sequence[Any]) -> bool:
    """Whether all rows are dicts with values for the same names, as nearly always."""
    if set(map(type, rows)) != {dict} or len(set(map(len, rows))) != 1:
        return False
    names = tuple(rows[0])
    # of as many names as the first row has, none other than its own
    return all(type(name) is str and all(map(contains, rows, repeat(name))) for name in names)


def group_rows(rows: Sequence[Any]) -> list[tuple[tuple[str, ...], Sequence[Mapping[str, Any]], Sequence[int]]]:
    """The rows by the names that they have values for, and their numbers in the call."""
    if rows and _are_alike(rows):
        return [(tuple(rows[0]), rows, range(len(rows)))]
    groups: dict[tuple[str, ...], tuple[list[Mapping[str, Any]], list[int]]] = {}
    sorted_names: dict[tuple[str, ...], tuple[str, ...]] = {}
    for number, each in enumerate(rows):
        row = each if type(each) is dict else read_row(each)
        given = tuple(row)
        names = sorted_names.get(given)
        if names is None:
            if not all(isinstance(name, str) for name in given):
                raise InvalidDataError("the names of a row's columns are str")
            names = sorted_names[given] = tuple(sorted(given))
        members, numbers = groups.setdefault(names, ([], []))
        members.append(row)
        numbers.append(number)
    return [(names, *groups[names]) for names in sorted(groups)]


async def store_rows(
    known: Table,
    groups: Sequence[tuple[RowGroup, Sequence[int]]],
    conflict: tuple[str, ...] | None,
    returning: bool,
    model: type[Any] | None,
    conn: Connection | None,
) -> list[Any] | int:
    """Store *groups* in one transaction; *conflict* is None for rows that must be new."""
    total = sum(group.length for group, _ in groups)
    if not total:
        return [] if returning else 0
    doing = f"store {total} rows in table {known.name!r}"

    async def store_all(c: Connection) -> list[Any]:
        stored: list[Any] = [None] * total if returning else []
        for group, numbers in groups:
            rows = await _store_group(known, group, conflict, returning, doing, c)
            for place, (row, built) in enumerate(rows):
                number = numbers[place if group.order is None else group.order[place]]
                stored[number] = (
                    to_model(model, to_dict(row, built), known.name)
                    if conflict is None
                    else finish_upserted(row, built, model, known)
                )
        return stored

    if conn is None:
        stored = await run_transaction(store_all)
    else:
        async with get_db_transaction(conn=conn) as c:
            stored = await store_all(c)
    return stored if returning else total


async def _store_group(
    known: Table, group: RowGroup, conflict: tuple[str, ...] | None, returning: bool, doing: str, c: Connection
) -> list[tuple[Record, Built]]:
    columns, lists = list(group.columns), list(group.lists)
    if group.own_key is not None:
        columns.append(group.own_key)
        lists.append([uuid7() for _ in range(group.length)])
    if not columns:  # nothing but defaults
        return await _store_defaults(known, group, returning, doing, c)
    if conflict is None and not returning and _copies(known, columns, group.length, c):
        names = [column.name for column in columns]
        records = zip(*lists, strict=True)
        await _write(c, doing, lambda c: c.copy_records_to_table(
            known.name, schema_name=known.schema, columns=names, records=records
        ))  # fmt: skip
        return []
    clause = ""
    if conflict is not None:
        clause = write_upsert(known, group.columns, conflict_key(known, conflict, group.columns), group.own_key)
        if not returning and group.length >= _STAGED_ROWS and _copies(known, columns, group.length, c):
            await _store_staged(known, columns, lists, clause, doing, c)
            return []
    shape = ("many", tuple(column.name for column in columns), clause, returning)
    built = known.query(
        shape, lambda: build_insert_many(known, columns, None, "", returning=returning, conflict=clause)
    )
    rows: list[tuple[Record, Built]] = []
    sent = [column.type.to_list(values) for column, values in zip(columns, lists, strict=True)]
    for start in range(0, group.length, _ROWS_PER_STATEMENT):
        part = [values[start : start + _ROWS_PER_STATEMENT] for values in sent]
        found = await _write(c, doing, lambda c: c.fetch(built.sql, *part))  # noqa: B023 (awaited at once)
        rows += [(row, built) for row in found]
    if returning and len(rows) < group.length:
        raise RepositoryError(f"cannot {doing}: the server did not return all of them (a trigger or a rule?)")
    return rows


async def _store_staged(
    known: Table, columns: Sequence[Column], lists: Sequence[list[Any]], clause: str, doing: str, c: Connection
) -> None:
    """Upsert by COPY into a temporary table, and from there, in its order; COPY itself knows no ON CONFLICT."""
    names = ", ".join(column.sql for column in columns)
    stage = f"staged_{uuid7().hex}"
    create = f"CREATE TEMPORARY TABLE {stage} ON COMMIT DROP AS SELECT {names} FROM {known.sql} WITH NO DATA"
    merge = f"INSERT INTO {known.sql} AS this ({names}) SELECT {names} FROM pg_temp.{stage}{clause}"

    async def send(c: Connection) -> None:
        await c.execute(create)
        await c.copy_records_to_table(
            stage, columns=[column.name for column in columns], records=zip(*lists, strict=True)
        )
        await c.execute(merge)
        await c.execute(f"DROP TABLE pg_temp.{stage}")

    await _write(c, doing, send)


async def _store_defaults(
    known: Table, group: RowGroup, returning: bool, doing: str, c: Connection
) -> list[tuple[Record, Built]]:
    statement = new_row(known, ())
    rows = [await _write(c, doing, lambda c: statement.shared.alone(c, ())) for _ in range(group.length)]
    return [(cast("Record", row), statement.built) for row in rows] if returning else []


def _copies(known: Table, columns: Sequence[Column], length: int, c: Connection) -> bool:
    """Whether COPY can take the rows, and is worth its preparation; only our own connections know JSON in its form."""
    return (
        length >= _COPY_ROWS
        and known.kind in ("r", "p")
        and not known.row_security
        and all(column.type.copies for column in columns)
        and isinstance(getattr(c, "_con", c), PooledConnection)
    )


async def _write(c: Connection, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    return await perform(work, conn=c, kind=RepositoryError, doing=doing, changes=True, repeatable=False)
