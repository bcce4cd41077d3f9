"""
How rows of one table are made up: what each column's values are, and what they must be together.

Whether a row holds the checks is not guessed but asked of the server; what does not is drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import asyncpg

from ..codecs import encode_objects
from ..connect_db import Connection, perform
from ..exceptions import InvalidDataError, RepositoryError
from ..query import quote_identifier
from .foreign_keys import ForeignKey
from .mock_tables import Check, MockColumn, MockTable
from .mock_values import Make, MockValues, as_json, distinct, largest_number

Row = dict[str, Any]

KNOWN_ROWS = 50_000  # existing rows that are looked at
COUNTED = ("int2", "int4", "int8", "numeric")
_RANGES = ("int4range", "int8range", "daterange", "tstzrange")
_ROUNDS = 80  # in which rows that do not hold their checks are drawn again
_LEARNT = 1_000  # rows that hold their checks are an example for the others
_UNLIKELY = 2**41  # a number that is hardly taken
_NONE = 0.1  # of the values that may be missing, so many are


async def ask(query: str, conn: Connection | None, doing: str, *args: Any) -> Any:
    """The rows of a *query*."""
    return await perform(
        lambda c: c.fetch(query, *args), conn=conn, kind=RepositoryError, doing=doing, changes=False, repeatable=True
    )


class RowMaker:
    """
    The rows of one table: what makes each column's values, and what they must be together.

    *stored*: how many it has, or `KNOWN_ROWS` where they are more.
    """

    def __init__(
        self, table: MockTable, stored: int, given: Mapping[str, Any], values: MockValues, conn: Connection | None
    ) -> None:
        self.table = table
        self._stored = stored
        self._given = given
        self._values = values
        self._conn = conn
        self._parents: dict[ForeignKey, list[tuple[Any, ...]]] = {}
        self._columns = {name: column for name, column in table.columns.items() if self._is_made_here(column)}
        self._makers: dict[str, Make] = {}
        self._checks = [check for check in table.checks if set(check.columns) & set(self._columns)]

    def _is_made_here(self, column: MockColumn) -> bool:
        if column.is_fixed or column.name in self._given:
            return False
        is_key = self.table.primary_key == (column.name,)
        return not column.is_made or (is_key and column.type == "uuid")

    # -- foreign keys

    async def read_parents(self, given: Mapping[ForeignKey, list[tuple[Any, ...]]]) -> None:
        """Read which rows there are to refer to; *given* are those of other keys."""
        for key in self.table.foreign_keys:
            if set(key.columns) & set(self._given) or not set(key.columns) <= set(self._columns):
                continue
            if key in given:
                self._parents[key] = given[key]
                continue
            names = ", ".join(quote_identifier(column) for column in key.to_columns)
            to = f"{quote_identifier(key.to[0])}.{quote_identifier(key.to[1])}"
            query = f"SELECT {names} FROM {to} ORDER BY {names} LIMIT {KNOWN_ROWS}"
            self._parents[key] = [tuple(row) for row in await ask(query, self._conn, f"read keys of {key.to[1]!r}")]

    def missing_parents(self) -> Iterator[ForeignKey]:
        """The foreign keys that need a row where there is none."""
        for key, parents in self._parents.items():
            if not parents and any(self._columns[column].not_null for column in key.columns) and not self._is_own(key):
                yield key

    def _is_own(self, key: ForeignKey) -> bool:
        """True where a row may refer to itself, because its key is made here."""
        return key.to == key.table and set(key.to_columns) <= set(self._columns)

    # -- rows

    async def rows(self, count: int) -> list[Row]:
        """As many rows, all of which the table takes."""
        if count < 0:
            raise InvalidDataError("count is a number of rows, 0 or more")
        for key in self.missing_parents():
            raise InvalidDataError(
                f"column {', '.join(key.columns)} of table {self.table.name!r} needs a row of {key.to[1]!r}, which is "
                "empty: use insert_mock_rows(), which makes some, or generate_related_rows(), or give one in overrides"
            )
        self._set_makers()
        rows = [{} for _ in range(count)] if not self._makers else self._draw(count)
        for row in rows:
            row.update(self._given)
        self._refer(rows, range(count))
        keys = await self._number_keys(rows)
        own = {column for key in self._parents if self._is_own(key) for column in key.to_columns}
        self._refer(rows, range(count), own)  # whose numbers are known only now
        changed: list[tuple[str, ...]] = []
        for _ in range(_ROUNDS):
            await self._hold_checks(rows)
            changed = [key for key, seen in keys.items() if self._draw_distinct(key, seen, rows)]
            if not self._checks or not changed:
                return rows
        raise self._exhausted(changed[0])

    def _set_makers(self) -> None:
        referring = {column for key in self._parents for column in key.columns}
        for name, column in self._columns.items():
            if name in referring:
                continue
            checks = [check for check in self._checks if name in check.columns]
            try:
                make = self._values.hinted(column, checks, self._values.maker(column))
            except InvalidDataError:
                if column.not_null:
                    raise
                continue
            self._makers[name] = make if column.not_null else self._or_none(make)

    def _or_none(self, make: Make) -> Make:
        chance = self._values.random.random
        return lambda: None if chance() < _NONE else make()

    def _draw(self, count: int) -> list[Row]:
        lists = [[make() for _ in range(count)] for make in self._makers.values()]
        names = tuple(self._makers)
        return [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]

    def _refer(self, rows: list[Row], numbers: Sequence[int], only: set[str] | None = None) -> None:
        choice = self._values.random.choice
        for key, parents in self._parents.items():
            refers_to_itself = not parents and self._is_own(key)
            concerned = {*key.columns, *key.to_columns} if refers_to_itself else set(key.columns)
            if only is not None and not only & concerned:
                continue
            for number in numbers:
                row = rows[number]
                if parents:
                    values: tuple[Any, ...] = choice(parents)
                elif refers_to_itself and any(self._columns[column].not_null for column in key.columns):
                    values = tuple([row[column] for column in key.to_columns])
                else:
                    values = (None,) * len(key.columns)
                row.update(zip(key.columns, values, strict=True))

    def _redraw(self, rows: list[Row], numbers: Sequence[int], columns: set[str]) -> None:
        for name in columns & set(self._makers):
            make = self._makers[name]
            for number in numbers:
                rows[number][name] = make()
        self._refer(rows, numbers, columns)

    # -- unique keys

    async def _number_keys(self, rows: list[Row]) -> dict[tuple[str, ...], set[tuple[Any, ...]]]:
        """Make keys distinct by numbers in one of their columns; those that have none for it, and what is taken."""
        checked = {column for check in self._checks for column in check.columns}
        carried: set[str] = set()
        left: dict[tuple[str, ...], set[tuple[Any, ...]]] = {}
        for key in self.table.keys:
            if carried & set(key) or any(self._is_distinct(name) for name in key):
                continue
            own = [name for name in key if name in self._makers]
            carrier = next((name for name in own if name not in checked and self._can_carry(name, rows)), None)
            if carrier is not None:
                carried.add(carrier)
                await self._number(carrier, rows)
                continue
            drawn = tuple([name for name in key if name in self._columns or name in self._given])
            if drawn:
                left[drawn] = await self._taken(drawn)
        return left

    def _is_distinct(self, name: str) -> bool:
        """True where no two values of a column are the same, whoever makes them."""
        if name in self._columns:
            return self._columns[name].type == "uuid" and name in self._makers
        return name not in self._given and self.table.columns[name].counts

    async def _taken(self, names: Sequence[str]) -> set[tuple[Any, ...]]:
        quoted = ", ".join(quote_identifier(name) for name in names)
        query = f"SELECT {quoted} FROM {self.table.sql} LIMIT {KNOWN_ROWS}"
        return {_comparable(row) for row in await ask(query, self._conn, "read the keys that are there")}

    def _can_carry(self, name: str, rows: list[Row]) -> bool:
        column = self._columns[name]
        if column.element is not None or column.labels:
            return False
        if column.type in COUNTED or column.type in _RANGES:
            return True
        # one more than can be taken, unless not all that are taken are looked at
        number = self._stored + len(rows) if self._stored < KNOWN_ROWS else _UNLIKELY
        return distinct(column, "x", number) is not None

    async def _number(self, name: str, rows: list[Row]) -> None:
        """Make the values of a column distinct by a number that no row has."""
        column, quoted = self._columns[name], quote_identifier(name)
        if column.type in COUNTED:
            found = await ask(f"SELECT coalesce(max({quoted}), 0) FROM {self.table.sql}", self._conn, "count on")
            highest = int(found[0][0])
            if highest + len(rows) > largest_number(column):
                raise self._exhausted((name,))
            for number, row in enumerate(rows, 1):
                row[name] = highest + number
            return
        if column.type in _RANGES:  # one after the other, so that none overlaps another
            found = await ask(f"SELECT max(upper({quoted})) FROM {self.table.sql}", self._conn, "go on")
            end = found[0][0]
            for row in rows:
                if (range_ := row[name]) is not None:
                    begin = range_.lower if end is None else end
                    end = begin + (range_.upper - range_.lower)
                    row[name] = asyncpg.Range(begin, end)
            return
        taken = await self._taken([name])
        roomy = distinct(column, "x", _UNLIKELY) is not None
        number = self._values.random.getrandbits(40) if roomy else 0  # where there is no room, all are looked at
        for row in rows:
            value = row[name]
            while value is not None:
                number += 1
                row[name] = distinct(column, value, number)
                if _comparable([row[name]]) not in taken:
                    break

    def _draw_distinct(self, key: tuple[str, ...], taken: set[tuple[Any, ...]], rows: list[Row]) -> bool:
        """
        Draw the values of *key* until no two rows have the same; True where some had.

        For keys of which few values are possible, or that checks restrict.
        """
        seen = set(taken)
        left: list[Row] | None = None
        changed = False
        for number, row in enumerate(rows):
            value = _comparable([row[name] for name in key])
            for _ in range(_ROUNDS):
                if value not in seen:
                    break
                changed = True
                self._redraw(rows, [number], set(key))
                value = _comparable([row[name] for name in key])
            else:
                if left is None:
                    left = self._all_values(key)
                    self._values.random.shuffle(left)
                while left and _comparable([{**row, **left[-1]}[name] for name in key]) in seen:
                    left.pop()
                if not left:
                    raise self._exhausted(key, f": {number} of {len(rows)} rows found one")
                row.update(left.pop())
                value = _comparable([row[name] for name in key])
            if None not in value:
                seen.add(value)
        return changed

    def _exhausted(self, key: Sequence[str], found: str = "") -> InvalidDataError:
        return InvalidDataError(
            f"there are not so many different values to make up for {', '.join(key)} of table {self.table.name!r}, "
            f"which are unique{found}; ask for fewer rows, or give values in overrides"
        )

    def _all_values(self, key: tuple[str, ...]) -> list[dict[str, Any]]:
        """Every value that *key* may have, where those of each of its columns are known; else []."""
        sources: list[list[dict[str, Any]]] = []
        for foreign, parents in self._parents.items():
            if set(foreign.columns) & set(key):
                sources.append([dict(zip(foreign.columns, parent, strict=True)) for parent in parents])
        for name in key:
            if name not in self._makers:
                continue
            column = self._columns[name]
            if column.labels:
                sources.append([{name: label} for label in column.labels])
            elif column.type == "bool":
                sources.append([{name: value} for value in (False, True)])
            else:
                return []
        return [{k: v for part in parts for k, v in part.items()} for parts in product(*sources)] if sources else []

    # -- checks

    async def _hold_checks(self, rows: list[Row]) -> None:
        numbers: Sequence[int] = range(len(rows))
        for _ in range(_ROUNDS if self._checks else 0):
            failed = await self._failed(rows, numbers)
            if not failed:
                return
            self._learn([rows[number] for number in numbers if number not in failed][:_LEARNT])
            for number, columns in failed.items():
                self._redraw(rows, [number], columns)
            numbers = list(failed)
        if self._checks and (failed := await self._failed(rows, numbers)):
            columns = {column for each in failed.values() for column in each}
            names = ", ".join(check.name for check in self._checks if set(check.columns) & columns)
            raise InvalidDataError(
                f"no made-up values hold the checks of table {self.table.name!r} ({names}): give some in overrides"
            )

    def _learn(self, rows: list[Row]) -> None:
        """From *rows*, which hold their checks: what columns that are checked alone, and need not differ, may be."""
        together = {column for check in self._checks if len(check.columns) > 1 for column in check.columns}
        differing = {column for key in self.table.keys for column in key}
        alone = {column for check in self._checks for column in check.columns} - together - differing
        for name in alone & set(self._makers):
            if rows:
                self._makers[name] = self._values.one_of([row[name] for row in rows])

    async def _failed(self, rows: list[Row], numbers: Sequence[int]) -> dict[int, set[str]]:
        """The columns of the checks that rows do not hold, by the number of the row; keys that were doubled, too."""
        if not numbers:
            return {}
        used = list(dict.fromkeys(column for check in self._checks for column in check.columns))
        sent = [{"__number": n, **{c: as_json(rows[n][c]) for c in used if c in rows[n]}} for n in numbers]
        columns = [self._as_sent(self.table.columns[name], name in sent[0]) for name in used]
        types = ", ".join(
            [
                '"__number" integer',
                *[f"{quote_identifier(c)} {self.table.columns[c].declared}" for c in used if c in sent[0]],
            ]
        )
        held = ", ".join(f"(({check.expression}) IS NOT FALSE)" for check in self._checks)
        query = f"""
            SELECT __number, held
              FROM (SELECT __number, ARRAY[{held}] AS held
                      FROM (SELECT __number, {", ".join(columns)}
                              FROM jsonb_to_recordset($1::text::jsonb) AS sent ({types})) AS row) AS asked
             WHERE NOT (true = ALL (held))
        """
        answer = await ask(query, self._conn, f"ask for the checks of table {self.table.name!r}", encode_objects(sent))
        return {row[0]: self._of_failed(row[1]) for row in answer}

    def _of_failed(self, held: Sequence[bool]) -> set[str]:
        failed: list[Check] = [check for check, holds in zip(self._checks, held, strict=True) if not holds]
        return {column for check in failed for column in check.columns}

    @staticmethod
    def _as_sent(column: MockColumn, is_sent: bool) -> str:
        quoted = quote_identifier(column.name)
        if is_sent:
            return quoted
        default = column.default if column.default and not column.counts and not column.is_fixed else "NULL"
        return f"({default})::{column.declared} AS {quoted}"


def _comparable(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([None if value is None else str(value).lower() for value in values])
