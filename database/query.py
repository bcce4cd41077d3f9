"""
SQL for any table: a statement, its parameters and what it returns. Pure: nothing here speaks to a server.

Values are parameters, always. Names are those that the catalog has confirmed, quoted. What depends on names alone is
built once for each shape and used again, so that PostgreSQL finds its prepared statement again, too. The statements
themselves are in select_rows.py and change_rows.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .exceptions import InvalidDataError

if TYPE_CHECKING:
    from asyncpg import Record

    from .columns import Column, Table
    from .exceptions import DatabaseError

Encode: TypeAlias = Callable[[Any], Any]


def quote_identifier(name: str) -> str:
    """*name* as an identifier in SQL, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def check_page(limit: object, offset: object, kind: type[DatabaseError]) -> None:
    """Raise *kind* where *limit* or *offset* cannot be those of a page."""
    for number in (limit, offset):
        if not isinstance(number, int) or isinstance(number, bool):
            raise kind("limit and offset are of type int")
        if number < 0:
            raise kind("limit and offset must not be negative")
        if number >= 2**63:
            raise kind("limit and offset must be less than 2 to the power of 63")


def split_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names given as "a, b" or as a sequence; raises `InvalidDataError` for anything else."""
    if names is None:
        return ()
    parts = names.split(",") if isinstance(names, str) else names
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise InvalidDataError('the names of columns are given as "a, b" or as a list of str')
    return tuple([part.strip() for part in parts if part.strip()])


# --- what is built


class Built:
    """
    A statement and how its parameters are made: for each, a function of the next value, or a constant.

    *columns* are those that it returns, before anything else; *read* makes a fresh dict of a row.
    """

    __slots__ = ("columns", "read", "sources", "sql")

    def __init__(self, sql: str, sources: Iterable[tuple[Encode | None, Any]], columns: Sequence[Column]) -> None:
        self.sql = sql
        self.sources = tuple(sources)
        self.columns = tuple(columns)
        self.read = _reader(self.columns)

    def arguments(self, values: Iterable[Any]) -> list[Any]:
        """The parameters for *values*; raises `InvalidDataError` where one does not fit."""
        following = iter(values)
        return [constant if encode is None else encode(next(following)) for encode, constant in self.sources]


def _reader(columns: Sequence[Column]) -> Callable[[Record], dict[str, Any]]:
    """
    What makes a dict of a row: `lambda row: {"id": row[0], …}`.

    Written out, as `namedtuple` does it, it takes a third of the time of a loop, which readers feel.
    """
    decoders = {f"decode{number}": column.type.decode for number, column in enumerate(columns) if column.type.decode}
    entries = [
        f"{column.name!r}: {f'row[{number}]' if column.type.decode is None else _DECODED.format(number)}"
        for number, column in enumerate(columns)
    ]
    # nothing but numbers and the names of columns, as literals of Python
    reader: Callable[[Record], dict[str, Any]] = eval(f"lambda row: {{{', '.join(entries)}}}", decoders)  # noqa: S307
    return reader


_DECODED = "None if row[{0}] is None else decode{0}(row[{0}])"


class Parameters:
    """
    The parameters of a statement that is being written.

    *for_any_value*: write what has one good plan for all values. What is equal at a path is also asked for by `@>`, for
    a GIN index to answer; how a text begins is hidden from the planner, which would plan anew for each beginning.
    """

    def __init__(self) -> None:
        self.sources: list[tuple[Encode | None, Any]] = []
        self.for_any_value = False

    def add(self, encode: Encode) -> int:
        """The number of a parameter that *encode* makes of the next value."""
        self.sources.append((encode, None))
        return len(self.sources)

    def constant(self, value: Any) -> int:
        """The number of a parameter that is always *value*."""
        self.sources.append((None, value))
        return len(self.sources)

    def value(self, column: Column) -> str:
        """The SQL for the next value, of *column*."""
        return column.type.parameter(self.add(column.encode))

    def build(self, sql: str, columns: Sequence[Column] = ()) -> Built:
        """The statement *sql*, which returns *columns*."""
        return Built(sql, self.sources, columns)


# --- what a statement returns


def all_columns(table: Table) -> tuple[Column, ...]:
    """Every column of *table*."""
    return tuple(table.columns.values())


def write_returned(table: Table, columns: Sequence[Column], *, guarded: bool) -> str:
    """
    The expressions that return *columns*.

    *guarded*: the statement fails once the table has another number of columns, or other types. What is behind OR is
    looked at when the server parses it, again after each change of the table, and never executed.
    """
    expressions = [column.type.reading(f"this.{column.sql}") for column in columns]
    if guarded and expressions:
        # only the server's own types: for others, a right to their schema might be needed
        names = [column.type.name for column in table.columns.values()]
        nulls = ", ".join(f"NULL::{name}" if name.startswith('"pg_catalog".') else "NULL" for name in names)
        guard = f"true OR EXISTS (SELECT this.* UNION ALL SELECT {nulls})"
        expressions[0] = f"CASE WHEN {guard} THEN {expressions[0]} END"
    return ", ".join(f"{expression} AS {column.sql}" for expression, column in zip(expressions, columns, strict=True))


def write_given(columns: Sequence[Column], first: int) -> tuple[str, str]:
    """`unnest(…) AS given (c1, …, number)` of one list a column, and what makes values of its elements."""
    lists = ", ".join(column.type.list_parameter(number) for number, column in enumerate(columns, first))
    names = ", ".join(f"c{number}" for number in range(1, len(columns) + 1))
    values = ", ".join(column.type.from_list(f"given.c{number}") for number, column in enumerate(columns, 1))
    return f"unnest({lists}) WITH ORDINALITY AS given ({names}, number)", values
