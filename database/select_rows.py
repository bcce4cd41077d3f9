"""Statements that read rows of any table: in an order, in pages, by a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .conditions import Shape, write_condition, write_where
from .query import Built, Parameters, all_columns, split_names, write_given, write_returned

if TYPE_CHECKING:
    from .columns import Column, Table


class Order(NamedTuple):
    """A column that rows are sorted by."""

    column: Column
    descending: bool


def read_order(order_by: str | Sequence[str] | None, table: Table, *, total: bool) -> list[Order]:
    """
    The columns of *order_by*, such as "-age,name"; with *total*, so many that no two rows are equal.

    Raises `ColumnMatchError` where a name is no column's.
    """
    names = split_names(order_by)
    order: list[Order] = []
    for name in names:
        column = table.match(name[1:] if name.startswith(("-", "+")) else name)
        if column not in [each.column for each in order]:
            order.append(Order(column, name.startswith("-")))
    if total:
        descending = bool(order) and all(each.descending for each in order)
        for name in table.primary_key:
            if table.columns[name] not in [each.column for each in order]:
                order.append(Order(table.columns[name], descending))
    return order


def _write_order(order: Sequence[Order]) -> str:
    if not order:
        return ""
    parts = [f"this.{each.column.sql}{' DESC' if each.descending else ''}" for each in order]
    return f"\n ORDER BY {', '.join(parts)}"


def _write_after(order: Sequence[Order], nulls: Sequence[bool], parameters: Parameters) -> str:
    """
    The condition on rows that come behind the one whose values of *order* are given; *nulls* tells which are NULL.

    Where it can be, a comparison of rows, which an index answers. NULL sorts as the greatest value.
    """
    values = [None if null else parameters.value(each.column) for each, null in zip(order, nulls, strict=True)]
    if len({each.descending for each in order}) == 1 and all(each.column.not_null for each in order):
        columns = ", ".join(f"this.{each.column.sql}" for each in order)
        sign = "<" if order[0].descending else ">"
        return f"({columns}) {sign} ({', '.join(str(value) for value in values)})"
    alternatives = []
    for position, each in enumerate(order):
        equal = [
            f"this.{before.column.sql} " + ("IS NULL" if value is None else f"= {value}")
            for before, value in zip(order[:position], values[:position], strict=True)
        ]
        alternatives.append(" AND ".join([*equal, _behind(each, values[position])]))
    return f"({' OR '.join(f'({each})' for each in alternatives)})"


def _behind(order: Order, value: str | None) -> str:
    column = f"this.{order.column.sql}"
    if order.descending:
        return f"{column} IS NOT NULL" if value is None else f"{column} < {value}"
    if value is None:
        return "false"
    return f"{column} > {value}" if order.column.not_null else f"({column} > {value} OR {column} IS NULL)"


# --- the statements


class Selection(NamedTuple):
    """What rows are wanted, but for the values: the shape of a SELECT."""

    columns: tuple[str, ...] = ()
    where: Shape | None = None
    order_by: str | tuple[str, ...] | None = None
    limit: bool = False
    offset: bool = False
    after: tuple[bool, ...] | None = None
    total: bool = False
    guarded: bool = True


def build_select(table: Table, wanted: Selection) -> Built:
    """
    The rows of *wanted*.

    Values: those of the condition, those of `after` that are not NULL, limit, offset.
    """
    parameters = Parameters()
    columns = tuple(table.match_all(wanted.columns)) or all_columns(table)
    conditions = [] if wanted.where is None else [write_condition(wanted.where, table, parameters)]
    order = read_order(wanted.order_by, table, total=wanted.total)
    if wanted.after is not None:
        conditions.append(_write_after(order, wanted.after, parameters))
    where = f"\n WHERE {' AND '.join(conditions)}" if conditions else ""
    guarded = wanted.guarded and not wanted.columns
    returned = write_returned(table, columns, guarded=guarded)
    sql = f"SELECT {returned}\n  FROM {table.sql} AS this{where}{_write_order(order)}"
    if wanted.limit:
        sql += f"\n LIMIT ${parameters.add(_same)}::bigint"
    if wanted.offset:
        sql += f"\nOFFSET ${parameters.add(_same)}::bigint"
    return parameters.build(sql, columns)


def build_page(table: Table, wanted: Selection) -> Built:
    """As `build_select` with limit and offset, and the number of all rows as the last column: also without a row."""
    parameters = Parameters()
    columns = tuple(table.match_all(wanted.columns)) or all_columns(table)
    where = write_where(wanted.where, table, parameters)
    order = read_order(wanted.order_by, table, total=True)
    numbered = ", ".join(f"this.{each.column.sql}{' DESC' if each.descending else ''}" for each in order)
    returned = write_returned(table, columns, guarded=wanted.guarded and not wanted.columns)
    sql = (
        f"WITH page AS (\n"
        f"  SELECT {returned}, row_number() OVER ({f'ORDER BY {numbered}' if numbered else ''}) AS __place\n"
        f"  FROM {table.sql} AS this{where}{_write_order(order)}\n"
        f" LIMIT ${parameters.add(_same)}::bigint OFFSET ${parameters.add(_same)}::bigint\n)\n"
        f"SELECT page.*, __total\n"
        f"  FROM (SELECT count(*) AS __total FROM {table.sql} AS this{where}) AS counted\n"
        f"  LEFT JOIN page ON true\n ORDER BY __place"
    )
    return parameters.build(sql, columns)


def build_condition(table: Table, where: Shape, first: int) -> Built:
    """The condition alone, on `this`, for a statement whose own parameters end before $*first*."""
    parameters = Parameters()
    parameters.for_any_value = True
    parameters.sources += [(None, None)] * (first - 1)
    written = write_condition(where, table, parameters)
    return Built(written, parameters.sources[first - 1 :], ())


def build_count(table: Table, where: Shape | None) -> Built:
    """How many rows fit."""
    parameters = Parameters()
    written = write_where(where, table, parameters)
    return parameters.build(f"SELECT count(*)\n  FROM {table.sql} AS this{written}")


def build_exists(table: Table, where: Shape | None) -> Built:
    """Whether a row fits."""
    parameters = Parameters()
    written = write_where(where, table, parameters)
    return parameters.build(f"SELECT EXISTS (SELECT FROM {table.sql} AS this{written})")


def build_any(table: Table, key: Sequence[Column]) -> Built:
    """Whether there is a row whose *key* is among those given, one list a column."""
    if len(key) == 1:
        listed = key[0].type.list_parameter(1)
        element = key[0].type.from_list("given.c1")
        found = (
            f"ANY({listed})" if element == "given.c1" else f"ANY(SELECT {element} FROM unnest({listed}) AS given (c1))"
        )
        return Built(f"SELECT EXISTS (SELECT FROM {table.sql} AS this WHERE this.{key[0].sql} = {found})", (), ())
    source, _ = write_given(key, 1)
    same = " AND ".join(
        f"this.{column.sql} = {column.type.from_list(f'given.c{number}')}" for number, column in enumerate(key, 1)
    )
    return Built(f"SELECT EXISTS (SELECT FROM {source} JOIN {table.sql} AS this ON {same})", (), ())


def build_get(table: Table, key: Column, *, guarded: bool) -> Built:
    """The row whose *key* is the one value."""
    parameters = Parameters()
    condition = f"this.{key.sql} = {parameters.value(key)}"
    returned = write_returned(table, all_columns(table), guarded=guarded)
    sql = f"SELECT {returned}\n  FROM {table.sql} AS this\n WHERE {condition}"
    return parameters.build(sql, all_columns(table))


def build_get_shared(table: Table, key: Column) -> Built:
    """
    The rows whose *key* is in $1, where each stands once; `__fits` is the last column.

    Of what is longer than $2 bytes, those that were asked for first, at least one. The bytes are those of the columns
    that may be large, whose lengths the server knows without reading them.
    """
    columns = all_columns(table)
    wide = [column for column in columns if column.type.wide is not None and column is not key]
    if not wide:
        returned = write_returned(table, columns, guarded=True)
        sql = (
            f"SELECT {returned}, true AS __fits\n  FROM {table.sql} AS this\n"
            f" WHERE this.{key.sql} = ANY({key.type.list_parameter(1)}) AND $2::bigint IS NOT NULL"
        )
        return Built(sql, (), columns)
    size = " + ".join(f"coalesce({(column.type.wide or '').format(f'this.{column.sql}')}, 0)" for column in wide)
    returned = ", ".join(
        f"CASE WHEN __fits THEN {reading} END AS {column.sql}" if column in wide else f"{reading} AS {column.sql}"
        for column in columns
        for reading in (column.type.reading(f"found.{column.sql}"),)
    )
    guard = write_returned(table, columns[:1], guarded=True).rpartition(" AS ")[0]
    sql = (
        f"SELECT {returned}, __fits\n"
        f"  FROM (SELECT this.*, ({guard}) IS NOT NULL OR true AS __guarded,\n"
        f"               sum(__size) OVER (ORDER BY asked.__number ROWS UNBOUNDED PRECEDING) - __size < $2 AS __fits\n"
        f"          FROM unnest({key.type.list_parameter(1)}) WITH ORDINALITY AS asked (__key, __number)\n"
        f"          JOIN {table.sql} AS this ON this.{key.sql} = {key.type.from_list('asked.__key')}\n"
        f"         CROSS JOIN LATERAL (SELECT {size} AS __size) AS measured) AS found"
    )
    return Built(sql, (), columns)


def _same(value: Any) -> Any:
    return value
