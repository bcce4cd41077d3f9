"""
Many rows of any table at once: grouped by the columns that they have values for, sorted by their key, sent by COPY
where it can take them, else as one list a column.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar, cast

from .change_rows import build_insert_many, write_upsert
from .columns import Column, Table
from .connect_db import Connection, Record, get_db_transaction, perform, run_transaction
from .exceptions import InvalidDataError, RepositoryError
from .ids import new_ids, uuid7
from .keyed import (
    RowStatement,
    conflict_key,
    dropped,
    given_key,
    has_null,
    in_order,
    new_row,
    upserted_row,
    written_columns,
)
from .pool import PooledConnection
from .query import Built
from .rows import read_row, read_upserted, to_model
from .select_rows import build_any

T = TypeVar("T")

_COPY_ROWS = 50  # from so many rows on, COPY is faster than one INSERT
_STAGED_ROWS = 2_000  # from so many rows on, an upsert goes through a temporary table
_ROWS_PER_STATEMENT = 5_000
_ROWS_PER_PIECE = 1_000


class RowGroup:
    """
    Rows with values for the same columns, one list a column; *numbers* are theirs in the call.

    *key* are the columns of the unique key that they have values for, *keys* those values; none: ().
    """

    def __init__(
        self,
        known: Table,
        names: tuple[str, ...],
        rows: Sequence[Mapping[str, Any]],
        numbers: Sequence[int],
        conflict: tuple[str, ...] | None,
    ) -> None:
        self.columns, self.own_key = written_columns(known, names)
        self.numbers = numbers
        self.records: list[tuple[Any, ...]] = []
        self.lists: list[list[Any]] = [[] for _ in names]
        self.is_as_given = True
        pick = itemgetter(*names) if len(names) > 1 else lambda row: tuple([row[name] for name in names])
        # in pieces that the processor's cache holds from the first look at a value to the last
        for start in range(0, len(rows), _ROWS_PER_PIECE):
            records = list(map(pick, rows[start : start + _ROWS_PER_PIECE]))
            self.records += records
            for place, column in enumerate(self.columns):
                given = list(map(itemgetter(place), records))
                values = column.encode_all(given)
                self.lists[place] += values
                self.is_as_given = self.is_as_given and values is given
        if conflict is None:
            places = given_key(known, self.columns)
        else:
            places = tuple([self.columns.index(column) for column in conflict_key(known, conflict, self.columns)])
        self.key = [self.columns[place] for place in places]
        keys = [self.lists[place] for place in places]
        self.keys: Sequence[Any] = keys[0] if len(keys) == 1 else list(zip(*keys, strict=True))

    def __len__(self) -> int:
        return len(self.numbers)

    def is_sorted(self) -> bool:
        """True where each key is greater than the one before, so that no two are equal."""
        try:
            return all(map(operator.lt, self.keys, islice(self.keys, 1, None)))
        except TypeError:
            return False

    def sort(self) -> None:
        """Sort by the keys: concurrent calls that lock the same rows in different orders would deadlock."""
        order = in_order(self.keys)
        self.is_as_given = False
        self.lists = [[values[number] for number in order] for values in self.lists]
        self.numbers = [self.numbers[number] for number in order]


def make_groups(known: Table, rows: Sequence[Any], conflict: tuple[str, ...] | None) -> list[RowGroup]:
    """
    The *rows* in groups, each in the order of its keys; *conflict* is None for rows that must be new.

    Raises `InvalidDataError` where two of them have the same key.
    """
    groups = None
    if rows and set(map(type, rows)) == {dict} and len(set(map(len, rows))) == 1:
        # all have values for the same names, as nearly always: as many as the first one has, and none is missing
        with suppress(KeyError):
            groups = [RowGroup(known, tuple(rows[0]), rows, range(len(rows)), conflict)]
    if groups is None:
        groups = [RowGroup(known, *group, conflict) for group in _group_rows(rows)]
    by_key: dict[tuple[str, ...], list[RowGroup]] = {}
    for group in groups:
        by_key.setdefault(tuple([column.name for column in group.key]), []).append(group)
    by_key.pop((), None)
    for members in by_key.values():
        unsorted = [group for group in members if not group.is_sorted()]
        if unsorted or len(members) > 1:
            _check_twice(known, members)
        for group in unsorted:
            group.sort()
    return groups


def _check_twice(known: Table, groups: Sequence[RowGroup]) -> None:
    """Raise `InvalidDataError` where two rows of *groups*, which have the same key columns, have the same key."""
    keys = [key for group in groups for key in group.keys]
    try:
        if len(set(keys)) == len(keys):
            return
    except TypeError:  # lists
        keys = list(map(str, keys))
    seen: dict[Any, int] = {}
    numbers = [number for group in groups for number in group.numbers]
    for number, key in sorted(zip(numbers, keys, strict=True), key=itemgetter(0)):
        first = number if has_null(key) else seen.setdefault(key, number)
        if first != number:
            names = ", ".join(column.name for column in groups[0].key)
            raise InvalidDataError(
                f"rows {first} and {number} (counted from 0) have the same key {names} of table {known.name!r}"
            )


def _group_rows(rows: Sequence[Any]) -> list[tuple[tuple[str, ...], Sequence[Mapping[str, Any]], Sequence[int]]]:
    """The rows by the names that they have values for, and their numbers in the call."""
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
    rows: Sequence[Any],
    conflict: tuple[str, ...] | None,
    returning: bool,
    model: type[Any] | None,
    conn: Connection | None,
) -> list[Any] | int:
    """
    Store *rows* in one transaction, *conflict* None if they must be new; how many the server has stored, or the rows.

    Raises `InvalidDataError` where two of them have the same key.
    """
    groups = make_groups(known, rows, conflict)
    if not rows:
        return [] if returning else 0
    doing = f"store {len(rows)} rows in table {known.name!r}"

    async def return_all(c: Connection) -> list[Any]:
        stored: list[Any] = [None] * len(rows)
        for group in groups:
            found = await _return_group(known, group, conflict, model, doing, c)
            if len(found) != len(group):
                raise RepositoryError(
                    f"cannot {doing}: the server did not return all of them (a trigger, a rule or a row policy?)"
                )
            for number, row in zip(group.numbers, found, strict=True):
                stored[number] = to_model(model, row, known.name)
        return stored

    async def store_all(c: Connection) -> int:
        return sum([await _store_group(known, group, conflict, doing, c) for group in groups])

    work: Callable[[Connection], Awaitable[list[Any] | int]] = return_all if returning else store_all
    if conn is None:
        return await run_transaction(work)
    async with get_db_transaction(conn=conn) as c:
        return await work(c)


async def _store_group(
    known: Table, group: RowGroup, conflict: tuple[str, ...] | None, doing: str, c: Connection
) -> int:
    columns, lists = _stored(group)
    if not columns:
        return len(await _store_singly(known, new_row(known, ()), [()] * len(group), doing, c))
    clause = "" if conflict is None else write_upsert(known, group.columns, group.key)
    if _copies(known, columns, len(group), c):
        if conflict is None:
            return await _copy(known, columns, _records(group, lists), doing, c)
        if len(group) >= _STAGED_ROWS:
            return await _upsert_by_copy(known, group, columns, lists, clause, doing, c)
    built = _built(known, columns, clause, returning=False)
    parts = _parts(columns, lists)
    return sum([_number(await _write(c, doing, lambda c: c.execute(built.sql, *part))) for part in parts])  # noqa: B023 (awaited at once)


async def _return_group(
    known: Table,
    group: RowGroup,
    conflict: tuple[str, ...] | None,
    model: type[Any] | None,
    doing: str,
    c: Connection,
) -> list[dict[str, Any]]:
    columns, lists = _stored(group)
    if not columns or (conflict is not None and known.kind != "r"):
        # nothing but defaults; or the rows do not tell whether they are new
        names = tuple([column.name for column in group.columns])
        statement = new_row(known, ()) if conflict is None else upserted_row(known, names, conflict)
        items = list(zip(*lists, strict=True)) if columns else [()] * len(group)
        rows = await _store_singly(known, statement, items, doing, c)
        built = statement.built
    else:
        clause = "" if conflict is None else write_upsert(known, group.columns, group.key)
        built, rows = _built(known, columns, clause, returning=True), []
        for part in _parts(columns, lists):
            rows += await _write(c, doing, lambda c: c.fetch(built.sql, *part))  # noqa: B023 (awaited at once)
    if conflict is None:
        return [built.read(row) for row in rows]
    return [read_upserted(built, known, model, None, row) for row in rows]


def _stored(group: RowGroup) -> tuple[list[Column], list[list[Any]]]:
    """The columns and values of *group*, with new keys where they are made here."""
    if group.own_key is None:
        return list(group.columns), list(group.lists)
    return [*group.columns, group.own_key], [*group.lists, new_ids(len(group))]


def _records(group: RowGroup, lists: Sequence[list[Any]]) -> Iterable[tuple[Any, ...]]:
    return group.records if group.is_as_given and group.own_key is None else zip(*lists, strict=True)


def _built(known: Table, columns: Sequence[Column], clause: str, *, returning: bool) -> Built:
    shape = ("many", tuple([column.name for column in columns]), clause, returning)
    return known.query(shape, lambda: build_insert_many(known, columns, None, "", returning=returning, conflict=clause))


def _parts(columns: Sequence[Column], lists: Sequence[list[Any]]) -> Iterator[list[list[Any]]]:
    """The parameters of one statement after the other."""
    sent = [column.type.to_list(values) for column, values in zip(columns, lists, strict=True)]
    for start in range(0, len(sent[0]), _ROWS_PER_STATEMENT):
        yield [values[start : start + _ROWS_PER_STATEMENT] for values in sent]


def _number(status: str) -> int:
    """How many rows a statement has stored, by its answer: "COPY 3", "INSERT 0 3"."""
    return int(status.rpartition(" ")[2])


async def _copy(
    known: Table, columns: Sequence[Column], records: Iterable[tuple[Any, ...]], doing: str, c: Connection
) -> int:
    names = [column.name for column in columns]
    return _number(
        await _write(
            c,
            doing,
            lambda c: c.copy_records_to_table(known.name, schema_name=known.schema, columns=names, records=records),
        )
    )


async def _upsert_by_copy(
    known: Table,
    group: RowGroup,
    columns: Sequence[Column],
    lists: Sequence[list[Any]],
    clause: str,
    doing: str,
    c: Connection,
) -> int:
    """Rows none of which is there go straight into the table, others through a temporary one."""
    built = known.query(("any", tuple([column.name for column in group.key])), lambda: build_any(known, group.key))
    keys = [column.type.to_list(lists[columns.index(column)]) for column in group.key]
    if not await _write(c, doing, lambda c: c.fetchval(built.sql, *keys)):
        try:
            async with get_db_transaction(conn=c):
                return await _copy(known, columns, _records(group, lists), doing, c)
        except RepositoryError as exc:
            if exc.sqlstate != "23505":  # unique_violation: somebody was quicker
                raise
    return await _store_staged(known, columns, _records(group, lists), clause, doing, c)


async def _store_staged(
    known: Table, columns: Sequence[Column], records: Iterable[tuple[Any, ...]], clause: str, doing: str, c: Connection
) -> int:
    """By COPY into a temporary table, and from there, in its order; COPY itself knows no ON CONFLICT."""
    names = ", ".join(column.sql for column in columns)
    stage = f"staged_{uuid7().hex}"
    create = f"CREATE TEMPORARY TABLE {stage} ON COMMIT DROP AS SELECT {names} FROM {known.sql} WITH NO DATA"
    merge = f"INSERT INTO {known.sql} AS this ({names}) SELECT {names} FROM pg_temp.{stage}{clause}"

    async def send(c: Connection) -> int:
        await c.execute(create)
        await c.copy_records_to_table(stage, columns=[column.name for column in columns], records=records)
        status = await c.execute(merge)
        await c.execute(f"DROP TABLE pg_temp.{stage}")
        return _number(status)

    return await _write(c, doing, send)


async def _store_singly(
    known: Table, statement: RowStatement[tuple[Any, ...]], items: Iterable[tuple[Any, ...]], doing: str, c: Connection
) -> list[Record]:
    rows = [await _write(c, doing, lambda c: statement.shared.alone(c, item)) for item in items]  # noqa: B023 (awaited at once)
    if None in rows:
        raise dropped(known)
    return cast("list[Record]", rows)


def _copies(known: Table, columns: Sequence[Column], length: int, c: Connection) -> bool:
    """Whether COPY can take the rows, and is worth its preparation; only our own connections know JSON in its form."""
    return (
        length >= _COPY_ROWS
        and known.kind in ("r", "p")
        and not known.row_security
        and not known.has_rules
        and all(column.type.copies for column in columns)
        and isinstance(getattr(c, "_con", c), PooledConnection)
    )


async def _write(c: Connection, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    try:
        return await perform(work, conn=c, kind=RepositoryError, doing=doing, changes=True, repeatable=False)
    except RepositoryError as exc:
        if exc.sqlstate != "21000":  # cardinality_violation
            raise
        raise InvalidDataError(
            f"cannot {doing}: two of them have the same key, as the server compares keys", sqlstate="21000"
        ) from exc
