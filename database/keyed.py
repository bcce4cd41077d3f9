"""
Concurrent calls about single rows of any table share statements: what they are made of, by table and shape.

The contract is that of batching.py. A table whose rows come back in no known order (a trigger may drop some), or whose
keys PostgreSQL compares otherwise than Python, is spoken to one call at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, TypeVar, cast

from .batching import LOCK_GUARD, NOT_YET, Limits, NotYet, SharedStatement, bytes_of
from .change_rows import (
    build_delete,
    build_delete_shared,
    build_insert,
    build_insert_many,
    build_update,
    build_update_shared,
    build_upsert,
    changed_columns,
    write_upsert,
)
from .columns import Column, Table, forget_table
from .connect_db import Connection, Record
from .exceptions import InvalidDataError, OutcomeUnknownError, RepositoryError
from .ids import uuid7
from .query import Built
from .select_rows import build_get, build_get_shared

Item = TypeVar("Item")
Row = Record | None
_UPSERT_ATTEMPTS = 10
# https://www.postgresql.org/docs/current/catalog-pg-trigger.html
_ON_INSERT, _ON_UPDATE = 4, 16


@dataclass(frozen=True, eq=False)
class RowStatement(Generic[Item]):
    """
    What calls of one kind and shape have in common; *built* says how to read their rows.

    *columns* are those whose values a call gives, in order; *shares* False: each call speaks for itself. *own_key* is
    the column of a key that is made here, the last value of an item.
    """

    shared: SharedStatement[Item, Row]
    built: Built
    columns: tuple[Column, ...]
    shares: bool
    own_key: Column | None = None

    def call(self, item: Item, conn: Connection | None) -> Awaitable[Row]:
        """The row for *item*, None where there is none; raises as `perform` does."""
        if conn is None and self.shares:
            return self.shared.call(item, None)
        return self.shared.perform_alone(item, conn)

    def encode(self, values: Iterable[Any], first: int = 0) -> tuple[Any, ...]:
        """The values of a call's columns from the *first* on, as they are sent, with a new key if it is made here."""
        encoded = [column.encode(value) for column, value in zip(self.columns[first:], values, strict=True)]
        return (*encoded, uuid7()) if self.own_key is not None else tuple(encoded)


def _pair(build: Callable[[bool], Built]) -> Callable[[Connection], Built]:
    """Outside of a transaction the statement that notices new columns, inside the one that does not fail for them."""
    guarded, plain = build(True), build(False)
    return lambda c: plain if c.is_in_transaction() else guarded


def _as_read(key: Column) -> Callable[[Any], Any]:
    return str if key.type.label == "uuid" else lambda value: value


def in_order(keys: Sequence[Any]) -> list[int]:
    """
    The numbers of *keys* in the order in which all statements here lock rows, whoever sends them.

    Where Python knows an order, it is that, which is the server's for numbers and uuids, and for texts that of their
    bytes. Keys with None in them, which are equal to no other, are last.
    """
    try:
        return sorted(range(len(keys)), key=keys.__getitem__)
    except TypeError:
        whole = [number for number, key in enumerate(keys) if not has_null(key)]
        with suppress(TypeError):
            whole.sort(key=keys.__getitem__)
            return whole + [number for number, key in enumerate(keys) if has_null(key)]
        return sorted(range(len(keys)), key=lambda number: str(keys[number]))


def has_null(key: Any) -> bool:
    """Whether the *key* of a row is equal to no other."""
    return key is None or (isinstance(key, tuple) and None in key)


def _lists(columns: Sequence[Column], items: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [column.type.to_list(list(values)) for column, values in zip(columns, zip(*items, strict=True), strict=True)]


def _bytes(values: Iterable[Any]) -> int:
    """About how long *values* are on the line, at the most."""
    length = 0
    for value in values:
        if isinstance(value, str):
            length += bytes_of(value)
        elif isinstance(value, bytes):
            length += len(value)
        else:
            length += 8 + _bytes(value) if isinstance(value, list) else 16
    return length


# --- read


def row_by_id(table: Table) -> RowStatement[Any]:
    """Read the row under a key."""
    known = table.statements.get("get")
    return known if known is not None else table.statement("get", lambda: _row_by_id(table))


def _row_by_id(table: Table) -> RowStatement[Any]:
    key = table.id_column
    one = _pair(lambda guarded: build_get(table, key, guarded=guarded))
    many = build_get_shared(table, key)
    as_read = _as_read(key)

    async def alone(c: Connection, value: Any) -> Row:
        return await c.fetchrow(one(c).sql, value)

    async def run(c: Connection, keys: Sequence[Any], limits: Limits) -> list[Row | NotYet]:
        asked = list(dict.fromkeys(keys))
        found = {row[key.name]: row for row in await c.fetch(many.sql, asked, limits.answer_bytes)}
        rows = [found.get(as_read(value)) for value in keys]
        return [row if row is None or row["__fits"] else NOT_YET for row in rows]

    shared: SharedStatement[Any, Row] = SharedStatement(
        run, alone=alone, kind=RepositoryError, doing=lambda _: f"read a row of table {table.name!r}", changes=False
    )
    return RowStatement(shared, many, (key,), table.shares)


# --- insert


def _written(table: Table, names: Iterable[str]) -> list[Column]:
    columns = table.match_all(names)
    for column in columns:
        if not column.is_written:
            raise column.refusal("is made by the server alone (GENERATED ALWAYS): leave it out")
    return columns


def written_columns(table: Table, names: tuple[str, ...]) -> tuple[list[Column], Column | None]:
    """The columns that a row with *names* is stored in, and the one whose values the client makes, if it does."""
    columns = _written(table, names)
    own_key = table.own_key
    return columns, None if own_key is None or own_key in columns else own_key


def given_key(table: Table, columns: Sequence[Column]) -> tuple[int, ...]:
    """Where in *columns* the first unique key lies whose columns are all there; () if none is."""
    names = [column.name for column in columns]
    for key in table.keys:
        if key.columns and set(key.columns) <= set(names):
            return tuple([names.index(name) for name in key.columns])
    return ()


def _key_of(columns: Sequence[Column], places: tuple[int, ...]) -> Callable[[tuple[Any, ...]], Hashable]:
    """What tells the items of different rows apart; None for those that are equal to no other."""
    if any(columns[place].type.takes_lists for place in places):
        return lambda item: tuple([str(item[place]) for place in places])
    if not places:
        return lambda _: None
    if len(places) == 1:
        return itemgetter(places[0])
    whole = itemgetter(*places)

    def key(item: tuple[Any, ...]) -> Hashable:
        values = whole(item)
        return None if None in values else values

    return key


def new_row(table: Table, names: tuple[str, ...]) -> RowStatement[tuple[Any, ...]]:
    """Store a row with values for *names*."""
    return table.statement(("insert", names), lambda: _new_row(table, names))


def _new_row(table: Table, names: tuple[str, ...]) -> RowStatement[tuple[Any, ...]]:
    columns, own_key = written_columns(table, names)
    stored = [*columns, own_key] if own_key is not None else columns
    one = _pair(lambda guarded: build_insert(table, stored, own_key, guarded=guarded))
    many = build_insert_many(table, stored, own_key, LOCK_GUARD, returning=True) if stored else one
    key_of = _key_of(columns, given_key(table, columns))

    async def alone(c: Connection, item: tuple[Any, ...]) -> Row:
        row = await c.fetchrow(one(c).sql, *item)
        if row is None and own_key is None:
            raise dropped(table)
        return row

    async def run(c: Connection, items: Sequence[tuple[Any, ...]], limits: Limits) -> list[Row]:
        order = in_order([key_of(item) for item in items])
        lists = _lists(stored, [items[number] for number in order])
        rows = await c.fetch(cast("Built", many).sql, limits.lock_timeout, *lists)
        if own_key is None:
            return _in_place(table, rows, order)
        found = {row[own_key.name]: row for row in rows}
        return [found.get(str(item[-1])) for item in items]

    shared: SharedStatement[tuple[Any, ...], Row] = SharedStatement(
        run,
        alone=alone,
        kind=RepositoryError,
        doing=lambda _: f"store a row in table {table.name!r}",
        changes=True,
        repeatable=own_key is not None and table.is_plain(_ON_INSERT),  # else it may be stored under another key
        key=key_of,
        size=_bytes,
    )
    return RowStatement(shared, one_of(one, many), tuple(columns), bool(stored) and table.is_plain(_ON_INSERT), own_key)


async def stored_row(
    table: Table, statement: RowStatement[tuple[Any, ...]], item: tuple[Any, ...], conn: Connection | None
) -> Record:
    """
    The row that `new_row` has stored.

    A repetition, whose first attempt was done although its answer was lost, finds its own row: by a statement of its
    own, whose failure says nothing of the first one.
    """
    row = await statement.call(item, conn)
    if row is None and statement.own_key is not None:
        row = await row_by_id(table).call(item[-1], conn)
    if row is None:
        raise dropped(table)
    return row


def _in_place(table: Table, rows: Sequence[Record], order: Sequence[int]) -> list[Row]:
    """
    The *rows* of calls that were sent in *order*, in the order of the calls.

    Where some are missing, nobody knows whose they are, and those that are stored must not be stored again.
    """
    if len(rows) != len(order):
        forget_table(table, None)
        raise OutcomeUnknownError(
            f"cannot tell which rows were stored in table {table.name!r}: the server returned {len(rows)} of "
            f"{len(order)} (a new trigger or rule?); look before you repeat it"
        )
    found: list[Row] = [None] * len(order)
    for number, row in zip(order, rows, strict=True):
        found[number] = row
    return found


def one_of(one: Callable[[Connection], Built], many: Built | Callable[[Connection], Built]) -> Built:
    """What reads the rows of both: they return the same columns."""
    return many if isinstance(many, Built) else one(cast("Connection", _Outside()))


class _Outside:
    """Stands for a connection that is in no transaction."""

    def is_in_transaction(self) -> bool:
        return False


def dropped(table: Table) -> RepositoryError:
    """The error for a row that the server has neither stored nor refused."""
    return RepositoryError(
        f"cannot store a row in table {table.name!r}: the server did not return it (a trigger, a rule or a row policy?)"
    )


# --- update and delete by key


def changed_row(table: Table, names: tuple[str, ...]) -> RowStatement[tuple[Any, ...]]:
    """Give the row under a key the values of *names*; an item is the key, then the values."""
    return table.statement(("update", names), lambda: _changed_row(table, names))


def _changed_row(table: Table, names: tuple[str, ...]) -> RowStatement[tuple[Any, ...]]:
    key = table.id_column
    columns = _written(table, names)
    if not columns:
        raise InvalidDataError(f"there is nothing to update in table {table.name!r}: no values are given")
    shape = ("$eq", key.name, None)
    one = _pair(lambda guarded: build_update(table, columns, shape, returning=True, guarded=guarded))
    many = build_update_shared(table, columns, key, LOCK_GUARD)

    async def alone(c: Connection, item: tuple[Any, ...]) -> Row:
        return await c.fetchrow(one(c).sql, *item[1:], item[0])

    async def run(c: Connection, items: Sequence[tuple[Any, ...]], limits: Limits) -> list[Row]:
        rows = await c.fetch(many.sql, limits.lock_timeout, *_lists([key, *columns], items))
        found = {row["__number"]: row for row in rows}
        return [found.get(number) for number in range(1, len(items) + 1)]

    shared: SharedStatement[tuple[Any, ...], Row] = SharedStatement(
        run,
        alone=alone,
        kind=RepositoryError,
        doing=lambda _: f"update a row of table {table.name!r}",
        changes=True,
        # where the key is changed, too, the row is not found under the old one again
        repeatable=not table.has_triggers(_ON_UPDATE) and key not in columns,
        key=itemgetter(0),
        size=_bytes,
    )
    return RowStatement(shared, many, (key, *columns), table.shares and key not in columns)


def deleted_row(table: Table) -> RowStatement[Any]:
    """Delete the row under a key."""
    return table.statement("delete", lambda: _deleted_row(table))


def _deleted_row(table: Table) -> RowStatement[Any]:
    key = table.id_column
    shape = ("$eq", key.name, None)
    one = _pair(lambda guarded: build_delete(table, shape, returning=True, guarded=guarded))
    many = build_delete_shared(table, key, LOCK_GUARD)

    async def alone(c: Connection, value: Any) -> Row:
        return await c.fetchrow(one(c).sql, value)

    async def run(c: Connection, keys: Sequence[Any], limits: Limits) -> list[Row]:
        found = {row["__number"]: row for row in await c.fetch(many.sql, limits.lock_timeout, keys)}
        return [found.get(number) for number in range(1, len(keys) + 1)]

    # not repeatable: a repetition could delete a row that somebody stored under the same key meanwhile
    shared: SharedStatement[Any, Row] = SharedStatement(
        run,
        alone=alone,
        kind=RepositoryError,
        doing=lambda _: f"delete a row of table {table.name!r}",
        changes=True,
        repeatable=False,
        key=lambda value: value,
    )
    return RowStatement(shared, many, (key,), table.shares)


# --- upsert


def conflict_key(table: Table, names: tuple[str, ...], columns: Sequence[Column]) -> list[Column]:
    """
    The columns that *names* mean, which have values and a unique key of their own; by default the primary key.

    Raises `InvalidDataError` where they have not.
    """
    key = table.match_all(names or table.primary_key)
    missing = [column.name for column in key if column not in columns]
    if missing:
        raise InvalidDataError(f"the key of an upsert needs values: {', '.join(missing)} of table {table.name!r}")
    if {column.name for column in key} not in [set(each.columns) for each in table.keys] or not key:
        known = "; ".join(", ".join(each.columns) for each in table.keys) or "none"
        wanted = ", ".join(column.name for column in key) or "nothing"
        raise InvalidDataError(f"table {table.name!r} has no unique key on {wanted}; its unique keys: {known}")
    return key


def upserted_row(table: Table, names: tuple[str, ...], conflict: tuple[str, ...]) -> RowStatement[tuple[Any, ...]]:
    """Store a row with values for *names*, or put them into the one with the same values of *conflict*."""
    return table.statement(("upsert", names, conflict), lambda: _upserted_row(table, names, conflict))


def _upserted_row(table: Table, names: tuple[str, ...], conflict: tuple[str, ...]) -> RowStatement[tuple[Any, ...]]:
    columns, own_key = written_columns(table, names)
    key = conflict_key(table, conflict, columns)
    stored = [*columns, own_key] if own_key is not None else columns
    clause = write_upsert(table, columns, key)
    one = _pair(lambda guarded: build_upsert(table, stored, key, guarded=guarded))
    many = build_insert_many(table, stored, None, LOCK_GUARD, returning=True, conflict=clause)
    key_of = _key_of(columns, tuple([columns.index(column) for column in key]))
    in_steps = _upsert_in_steps(table, columns, stored, key) if table.kind != "r" else None

    async def alone(c: Connection, item: tuple[Any, ...]) -> Row:
        row = await (c.fetchrow(one(c).sql, *item) if in_steps is None else in_steps(c, item))
        if row is None:
            raise dropped(table)
        return row

    async def run(c: Connection, items: Sequence[tuple[Any, ...]], limits: Limits) -> list[Row]:
        order = in_order([key_of(item) for item in items])
        rows = await c.fetch(many.sql, limits.lock_timeout, *_lists(stored, [items[number] for number in order]))
        return _in_place(table, rows, order)

    shared: SharedStatement[tuple[Any, ...], Row] = SharedStatement(
        run,
        alone=alone,
        kind=RepositoryError,
        doing=lambda _: f"store a row in table {table.name!r}",
        changes=True,
        repeatable=not table.has_triggers(_ON_INSERT | _ON_UPDATE),
        key=key_of,
        size=_bytes,
    )
    shares = in_steps is None and table.is_plain(_ON_INSERT | _ON_UPDATE)
    return RowStatement(shared, many, tuple(columns), shares and all(each.is_deterministic for each in key), own_key)


def _upsert_in_steps(
    table: Table, columns: Sequence[Column], stored: Sequence[Column], key: Sequence[Column]
) -> Callable[[Connection, tuple[Any, ...]], Awaitable[Row]]:
    """An upsert for tables whose rows do not tell whether they are new (partitioned ones): insert, else update."""
    names = ", ".join(column.sql for column in key)
    insert = build_insert_many(
        table, stored, None, "", returning=True, conflict=f"\n    ON CONFLICT ({names}) DO NOTHING"
    )
    shape = ("and", tuple([("$eq", column.name, None) for column in key]))
    changed = changed_columns(table, columns, key) or list(key)
    update = build_update(table, changed, shape, returning=True, guarded=False)
    places = [stored.index(column) for column in (*changed, *key)]

    async def upsert(c: Connection, item: tuple[Any, ...]) -> Row:
        for _ in range(_UPSERT_ATTEMPTS):
            row = await c.fetchrow(f"{insert.sql}, true AS __inserted", *_lists(stored, [item]))
            row = row or await c.fetchrow(f"{update.sql}, false AS __inserted", *[item[place] for place in places])
            if row is not None:
                return row
        return None

    return upsert
