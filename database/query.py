"""
SQL for any table: from names and conditions to (sql, args). Pure: nothing here speaks to a server.

Values are parameters, always. Names are those that the catalog has confirmed, quoted. What depends on names alone is
built once for each shape and used again, so that PostgreSQL finds its prepared statement again, too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .exceptions import ColumnMatchError, InvalidDataError

if TYPE_CHECKING:
    from .columns import Column, Table
    from .exceptions import DatabaseError

Encode: TypeAlias = Callable[[Any], Any]
# A condition without its values: ("and", shapes), ("or", shapes), ("not", shape) or (operator, name, detail).
Shape: TypeAlias = tuple[Any, ...]

_MAX_NESTING = 32
_LISTS = (list, tuple, set, frozenset)
_PLAIN = frozenset({str, int, float, bool})
OPERATORS = (
    "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$between", "$like", "$ilike", "$contains",
    "$startswith", "$is_null", "$exists",
)  # fmt: skip
_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_TEXT_OPERATORS = ("$like", "$ilike", "$startswith")
_JSONB = 'text::"pg_catalog"."jsonb"'


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


# --- what is built


class Built:
    """
    A statement and how its parameters are made: for each, a function of the next value, or a constant.

    *columns* are those that it returns, *decoders* what is done with some of them.
    """

    __slots__ = ("columns", "decoders", "sources", "sql")

    def __init__(self, sql: str, sources: Iterable[tuple[Encode | None, Any]], columns: Sequence[Column]) -> None:
        self.sql = sql
        self.sources = tuple(sources)
        self.columns = tuple(columns)
        self.decoders = [(column.name, column.type.decode) for column in columns if column.type.decode is not None]

    def arguments(self, values: Iterable[Any]) -> list[Any]:
        """The parameters for *values*; raises `InvalidDataError` where one does not fit."""
        following = iter(values)
        return [constant if encode is None else encode(next(following)) for encode, constant in self.sources]


class _Parameters:
    """
    The parameters of a statement that is being written.

    *use_containment*: also ask for what is equal at a path by `@>`, which a GIN index on the column answers.
    """

    def __init__(self) -> None:
        self.sources: list[tuple[Encode | None, Any]] = []
        self.use_containment = False

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
        return Built(sql, self.sources, columns)


# --- conditions: from a dict to a shape and its values


def read_where(where: Mapping[str, Any] | None) -> tuple[Shape | None, list[Any]]:
    """
    The shape of the condition *where* and its values, in order; None and [] where it is empty.

    Raises `InvalidDataError` where it is no condition.
    """
    values: list[Any] = []
    if where is None:
        return None, values
    shapes = _read_all(where, values, 0)
    return (shapes if shapes[1] else None), values


def _read_all(where: object, values: list[Any], depth: int) -> Shape:
    if type(where) is not dict and not isinstance(where, Mapping):
        raise InvalidDataError(f"a condition is a dict of column and value, not {type(where).__name__}")
    if depth > _MAX_NESTING:
        raise InvalidDataError(f"a condition is nested at most {_MAX_NESTING} times")
    return ("and", tuple([_read_one(name, value, values, depth) for name, value in where.items()]))


def _read_one(name: object, value: Any, values: list[Any], depth: int) -> Shape:
    if not isinstance(name, str):
        raise InvalidDataError(f"the name of a column in a condition is a str, not {type(name).__name__}")
    if name.startswith("$"):
        return _read_combination(name, value, values, depth)
    if type(value) in _PLAIN:
        values.append(value)
        return ("$eq", name, None)
    if value and (type(value) is dict or isinstance(value, Mapping)):
        operators = [type(key) is str and key.startswith("$") for key in value]
        if False not in operators:
            return ("and", tuple([_read_operator(name, key, each, values) for key, each in value.items()]))
        if True in operators:
            raise InvalidDataError(f"the condition on {_short(name)} mixes operators with other keys")
    if value is None:
        return ("is_null", name, True)
    values.append(value)
    if isinstance(value, _LISTS):
        return ("list", name, None in value)
    return ("$eq", name, None)


def _read_combination(name: str, value: Any, values: list[Any], depth: int) -> Shape:
    if name in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value:
            raise InvalidDataError(f"{name} takes a list of conditions, with at least one in it")
        return (name[1:], tuple([_read_all(each, values, depth + 1) for each in value]))
    if name == "$not":
        return ("not", _read_all(value, values, depth + 1))
    if name in OPERATORS:
        raise InvalidDataError(f'{name} stands with a column: {{"column": {{"{name}": value}}}}')
    raise _unknown_operator(name, ("$and", "$or", "$not"))


def _read_operator(name: str, operator: str, value: Any, values: list[Any]) -> Shape:
    if operator in _COMPARISONS and value is not None:
        values.append(value)
        return (operator, name, None)
    if operator not in OPERATORS:
        raise _unknown_operator(operator, OPERATORS)
    if operator in ("$eq", "$ne") and value is None:
        return ("is_null", name, operator == "$eq")
    if operator == "$is_null":
        return ("is_null", name, _flag(name, operator, value))
    if operator == "$exists" and isinstance(value, bool):
        return ("exists", name, value)
    if operator in ("$in", "$nin"):
        if not isinstance(value, _LISTS):
            raise InvalidDataError(f"{operator} on {_short(name)} takes a list, not {type(value).__name__}")
        values.append(_not_empty(name, operator, value))
        return (operator, name, None in value)
    if operator == "$between":
        if not isinstance(value, list | tuple) or len(value) != 2 or None in value:
            raise InvalidDataError(f"$between on {_short(name)} takes two values, the least and the greatest")
        values.extend(value)
        return (operator, name, None)
    if value is None:
        raise InvalidDataError(f"{operator} on {_short(name)} takes a value; for NULL there is $is_null")
    values.append(value)
    return (operator, name, None)


def _unknown_operator(operator: str, known: Sequence[str]) -> InvalidDataError:
    close = difflib.get_close_matches(operator[:50], known, n=1)
    hint = f" Did you mean: {close[0]}?" if close else ""
    return InvalidDataError(f"{_short(operator)} is not an operator here; there are {', '.join(known)}.{hint}")


def _flag(name: str, operator: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidDataError(f"{operator} on {_short(name)} takes True or False, not {type(value).__name__}")
    return value


def _not_empty(name: str, operator: str, value: Any) -> Any:
    if not value:
        fits = "no row fits" if operator == "$in" else "every row fits"
        raise InvalidDataError(f"the list for {_short(name)} is empty, so that {fits}: look at it before you ask")
    return value


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:100] + "…")


# --- conditions: from a shape to SQL


class _Operand(NamedTuple):
    """The left side of a comparison: a column, or a path into one that holds JSON."""

    column: Column
    sql: str
    text: str
    is_json: bool
    is_path: bool
    path: tuple[str, ...] = ()  # in SQL, the keys that lead into a jsonb, where none could be the number of an element


def write_where(shape: Shape | None, table: Table, parameters: _Parameters) -> str:
    """The WHERE clause of *shape*, and an empty text without one."""
    return "" if shape is None else f"\n WHERE {_write(shape, table, parameters)}"


def _write(shape: Shape, table: Table, parameters: _Parameters) -> str:
    kind, first = shape[0], shape[1]
    if kind in ("and", "or"):
        parts = [_write(each, table, parameters) for each in first]
        return f"({f' {kind.upper()} '.join(parts)})" if parts else "true"
    if kind == "not":
        return f"({_write(first, table, parameters)}) IS NOT TRUE"
    detail = shape[2]
    operand = _operand(first, table, parameters)
    if kind == "list":
        # a column of lists is compared with the list as a whole
        kind = "$eq" if operand.column.type.takes_lists else "$in"
    if kind in ("$in", "$nin"):
        return _write_list(operand, kind, detail, parameters)
    if kind == "is_null":
        return f"{operand.text if operand.is_path else operand.sql} IS {'' if detail else 'NOT '}NULL"
    if kind == "exists":
        if not operand.is_path:
            raise InvalidDataError(f"$exists with True or False asks for a path into JSON such as "
                                   f"'{operand.column.name}.key'; for a column there is $is_null")  # fmt: skip
        return f"{operand.sql} IS {'NOT ' if detail else ''}NULL"
    if kind in ("$exists", "$contains", *_TEXT_OPERATORS):
        return _write_search(operand, kind, parameters)
    return _write_comparison(operand, kind, parameters)


def _operand(name: str, table: Table, parameters: _Parameters) -> _Operand:
    try:
        column = table.match(name)
    except ColumnMatchError:
        head, dot, rest = name.partition(".")
        column = table.match(head) if dot else None  # type: ignore[assignment]
        if column is None:
            raise
        if column.type.kind != "json":
            raise column.refusal(f"is {column.declared}: a path leads into json and jsonb only") from None
        parts = [column.encode_text(part) for part in rest.split(".")]
        path = parameters.constant(parts)
        json = f"this.{column.sql}::jsonb"
        keys: tuple[str, ...] = ()
        if column.declared == "jsonb" and not any(re.search(r"\d", part) for part in parts):
            keys = tuple(f"(${path}::text[])[{number}]" for number in range(1, len(parts) + 1))
        return _Operand(column, f"({json} #> ${path}::text[])", f"({json} #>> ${path}::text[])", True, True, keys)
    sql = f"this.{column.sql}"
    if column.type.kind == "json":
        return _Operand(column, f"{sql}::jsonb", f"({sql}::jsonb #>> '{{}}')", True, False)
    return _Operand(column, sql, sql, False, False)


def _value(operand: _Operand, parameters: _Parameters) -> str:
    if operand.is_json:
        return f"${parameters.add(operand.column.encode)}::{_JSONB}"
    return parameters.value(operand.column)


def _write_list(operand: _Operand, kind: str, has_null: bool, parameters: _Parameters) -> str:
    column = operand.column
    type_ = column.type

    def encode(values: Iterable[Any]) -> list[Any]:
        given = _not_empty(column.name, kind, values)
        return column.encode_list(value for value in given if value is not None)

    number = parameters.add(encode)
    if operand.is_json:
        listed = f"ANY(${number}::text[]::jsonb[])"
    elif type_.as_literal:
        element = type_.from_list("given.element")
        listed = f"ANY(SELECT {element} FROM unnest({type_.list_parameter(number)}) AS given (element))"
    else:
        cast = "" if type_.sent_as == type_.name else f"::{type_.name}[]"
        listed = f"ANY({type_.list_parameter(number)}{cast})"
    found = f"{operand.sql} = {listed}"
    is_null = f"{operand.text if operand.is_path else operand.sql} IS NULL"
    if kind == "$in":
        return f"({found} OR {is_null})" if has_null else found
    return f"(({found}) IS NOT TRUE AND NOT {is_null})" if has_null else f"({found}) IS NOT TRUE"


def _write_comparison(operand: _Operand, kind: str, parameters: _Parameters) -> str:
    if kind == "$eq":
        value = _value(operand, parameters)
        written = f"{operand.sql} = {value}"
        if operand.path and parameters.use_containment:
            for part in reversed(operand.path):
                value = f"jsonb_build_object({part}, {value})"
            written = f"({written} AND this.{operand.column.sql} @> {value})"
        return written
    if kind == "$ne":
        return f"{operand.sql} IS DISTINCT FROM {_value(operand, parameters)}"
    if kind == "$between":
        low, high = _value(operand, parameters), _value(operand, parameters)
        written = f"{operand.sql} BETWEEN {low} AND {high}"
        return f"({written} AND {_same_kind(operand, low)})" if operand.is_json else written
    value = _value(operand, parameters)
    written = f"{operand.sql} {_COMPARISONS[kind]} {value}"
    # jsonb sorts any number below any boolean, and so on; nobody means that
    return f"({written} AND {_same_kind(operand, value)})" if operand.is_json else written


def _same_kind(operand: _Operand, value: str) -> str:
    return f"jsonb_typeof({operand.sql}) = jsonb_typeof({value})"


def _write_search(operand: _Operand, kind: str, parameters: _Parameters) -> str:
    column = operand.column
    if kind == "$exists":
        if not operand.is_json:
            raise InvalidDataError(f"$exists asks for a key of JSON; column {column.name!r} is {column.declared}")
        return f"{operand.sql} ? ${parameters.add(column.encode_text)}::text"
    if kind == "$contains" and operand.is_json:
        return _write_json_contains(operand, parameters)
    if kind == "$contains" and column.type.kind == "array":

        def encode(value: Any) -> Any:
            return column.encode(list(value) if isinstance(value, _LISTS) else [value])

        return f"{operand.sql} @> {column.type.parameter(parameters.add(encode))}"
    if column.type.kind != "text" and not operand.is_json:
        kinds = "text, an array or JSON" if kind == "$contains" else "text"
        raise InvalidDataError(f"{kind} looks into {kinds}; column {column.name!r} is {column.declared}")
    patterns: dict[str, Encode] = {
        "$contains": lambda value: f"%{escape_like(column.encode_text(value))}%",
        "$startswith": lambda value: f"{escape_like(column.encode_text(value))}%",
    }
    number = parameters.add(patterns.get(kind, _pattern_of(column)))
    return f"{operand.text} {'ILIKE' if kind == '$ilike' else 'LIKE'} ${number}::text"


def _pattern_of(column: Column) -> Encode:
    def encode(value: Any) -> str:
        pattern = column.encode_text(value)
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise InvalidDataError(f"the pattern for column {column.name!r} ends with a backslash that escapes nothing")
        return pattern

    return encode


def _write_json_contains(operand: _Operand, parameters: _Parameters) -> str:
    """A text is looked for in texts, and as an element of arrays; anything else as a part of the JSON."""
    json = f"${parameters.add(operand.column.encode)}::{_JSONB}"
    searched = f"strpos({operand.text}, {json} #>> '{{}}') > 0"
    return (f"(CASE WHEN jsonb_typeof({operand.sql}) = 'string' AND jsonb_typeof({json}) = 'string' THEN {searched} "
            f"ELSE {operand.sql} @> {json} END)")  # fmt: skip


def escape_like(text: str) -> str:
    r"""*text* as a pattern of LIKE that means just that: `%`, `_` and `\` are themselves."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


# --- order and pages


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


def split_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names given as "a, b" or as a sequence; raises `InvalidDataError` for anything else."""
    if names is None:
        return ()
    parts = names.split(",") if isinstance(names, str) else names
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise InvalidDataError('the names of columns are given as "a, b" or as a list of str')
    return tuple([part.strip() for part in parts if part.strip()])


def _write_order(order: Sequence[Order]) -> str:
    if not order:
        return ""
    parts = [f"this.{each.column.sql}{' DESC' if each.descending else ''}" for each in order]
    return f"\n ORDER BY {', '.join(parts)}"


def _write_after(order: Sequence[Order], nulls: Sequence[bool], parameters: _Parameters) -> str:
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


# --- what a statement returns


def all_columns(table: Table) -> tuple[Column, ...]:
    """Every column of *table*."""
    return tuple(table.columns.values())


def _returned(table: Table, columns: Sequence[Column], *, guarded: bool) -> str:
    """
    The expressions that return *columns*.

    *guarded*: the statement fails once the table has another number of columns. What is behind OR is looked at when
    the server parses it, again after each change of the table, and never executed.
    """
    expressions = [column.type.reading(f"this.{column.sql}") for column in columns]
    if guarded and expressions:
        nulls = ", ".join(["NULL"] * len(table.columns))
        guard = f"true OR EXISTS (SELECT this.* UNION ALL SELECT {nulls})"
        expressions[0] = f"CASE WHEN {guard} THEN {expressions[0]} END"
    return ", ".join(f"{expression} AS {column.sql}" for expression, column in zip(expressions, columns, strict=True))


# --- reading


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
    parameters = _Parameters()
    columns = tuple(table.match_all(wanted.columns)) or all_columns(table)
    conditions = [] if wanted.where is None else [_write(wanted.where, table, parameters)]
    order = read_order(wanted.order_by, table, total=wanted.total)
    if wanted.after is not None:
        conditions.append(_write_after(order, wanted.after, parameters))
    where = f"\n WHERE {' AND '.join(conditions)}" if conditions else ""
    guarded = wanted.guarded and not wanted.columns
    sql = f"SELECT {_returned(table, columns, guarded=guarded)}\n  FROM {table.sql} AS this{where}{_write_order(order)}"
    if wanted.limit:
        sql += f"\n LIMIT ${parameters.add(_same)}::bigint"
    if wanted.offset:
        sql += f"\nOFFSET ${parameters.add(_same)}::bigint"
    return parameters.build(sql, columns)


def build_page(table: Table, wanted: Selection) -> Built:
    """As `build_select` with limit and offset, and the number of all rows as the first column: also without a row."""
    parameters = _Parameters()
    columns = tuple(table.match_all(wanted.columns)) or all_columns(table)
    where = write_where(wanted.where, table, parameters)
    order = read_order(wanted.order_by, table, total=True)
    numbered = ", ".join(f"this.{each.column.sql}{' DESC' if each.descending else ''}" for each in order)
    returned = _returned(table, columns, guarded=wanted.guarded and not wanted.columns)
    sql = (
        f"WITH page AS (\n"
        f"  SELECT row_number() OVER ({f'ORDER BY {numbered}' if numbered else ''}) AS __place, {returned}\n"
        f"  FROM {table.sql} AS this{where}{_write_order(order)}\n"
        f" LIMIT ${parameters.add(_same)}::bigint OFFSET ${parameters.add(_same)}::bigint\n)\n"
        f"SELECT __total, page.*\n"
        f"  FROM (SELECT count(*) AS __total FROM {table.sql} AS this{where}) AS counted\n"
        f"  LEFT JOIN page ON true\n ORDER BY __place"
    )
    return parameters.build(sql, columns)


def build_condition(table: Table, where: Shape, first: int) -> Built:
    """The condition alone, on `this`, for a statement whose own parameters end before $*first*."""
    parameters = _Parameters()
    parameters.use_containment = True
    parameters.sources += [(None, None)] * (first - 1)
    written = _write(where, table, parameters)
    return Built(written, parameters.sources[first - 1 :], ())


def build_count(table: Table, where: Shape | None) -> Built:
    """How many rows fit."""
    parameters = _Parameters()
    written = write_where(where, table, parameters)
    return parameters.build(f"SELECT count(*)\n  FROM {table.sql} AS this{written}")


def build_exists(table: Table, where: Shape | None) -> Built:
    """Whether a row fits."""
    parameters = _Parameters()
    written = write_where(where, table, parameters)
    return parameters.build(f"SELECT EXISTS (SELECT FROM {table.sql} AS this{written})")


def build_get(table: Table, key: Column, *, guarded: bool) -> Built:
    """The row whose *key* is the one value."""
    parameters = _Parameters()
    condition = f"this.{key.sql} = {parameters.value(key)}"
    returned = _returned(table, all_columns(table), guarded=guarded)
    sql = f"SELECT {returned}\n  FROM {table.sql} AS this\n WHERE {condition}"
    return parameters.build(sql, all_columns(table))


def build_get_shared(table: Table, key: Column) -> Built:
    """
    The rows whose *key* is in $1, as many as fit into $2 bytes, at least one; `__fits` is the last column.

    The bytes are those of the columns that may be large, whose lengths the server knows without reading them.
    """
    columns = all_columns(table)
    wide = [column for column in columns if column.type.wide is not None]
    keys = f"this.{key.sql} = ANY({key.type.list_parameter(1)})"
    if not wide:
        returned = _returned(table, columns, guarded=True)
        sql = f"SELECT {returned}, true AS __fits\n  FROM {table.sql} AS this\n WHERE {keys} AND $2::bigint IS NOT NULL"
        return Built(sql, (), columns)
    size = " + ".join(f"coalesce({(column.type.wide or '').format(f'this.{column.sql}')}, 0)" for column in wide)
    returned = ", ".join(
        f"CASE WHEN __fits THEN {reading} END AS {column.sql}" if column in wide else f"{reading} AS {column.sql}"
        for column in columns
        for reading in (column.type.reading(f"found.{column.sql}"),)
    )
    guard = _returned(table, columns[:1], guarded=True).rpartition(" AS ")[0]
    sql = (
        f"SELECT {returned}, __fits\n"
        f"  FROM (SELECT this.*, ({guard}) IS NOT NULL OR true AS __guarded,\n"
        f"               sum({size}) OVER (ROWS UNBOUNDED PRECEDING) - ({size}) < $2 AS __fits\n"
        f"          FROM {table.sql} AS this\n"
        f"         WHERE {keys}) AS found"
    )
    return Built(sql, (), columns)


def _same(value: Any) -> Any:
    return value


# --- writing


_OWN_KEY = "\n    ON CONFLICT ({key}) DO NOTHING"


def build_insert(table: Table, columns: Sequence[Column], own_key: Column | None, *, guarded: bool) -> Built:
    """One row. With *own_key*, a row that is there already under this key is left alone and not returned."""
    parameters = _Parameters()
    names = ", ".join(column.sql for column in columns)
    values = ", ".join(parameters.value(column) for column in columns)
    given = f"({names})\nVALUES ({values})" if columns else "DEFAULT VALUES"
    conflict = "" if own_key is None else _OWN_KEY.format(key=own_key.sql)
    returned = _returned(table, all_columns(table), guarded=guarded)
    sql = f"INSERT INTO {table.sql} AS this {given}{conflict}\nRETURNING {returned}"
    return parameters.build(sql, all_columns(table))


def _given(columns: Sequence[Column], first: int) -> tuple[str, str]:
    """`unnest(…) AS given (c1, …, number)` of one list a column, and what makes values of its elements."""
    lists = ", ".join(column.type.list_parameter(number) for number, column in enumerate(columns, first))
    names = ", ".join(f"c{number}" for number in range(1, len(columns) + 1))
    values = ", ".join(column.type.from_list(f"given.c{number}") for number, column in enumerate(columns, 1))
    return f"unnest({lists}) WITH ORDINALITY AS given ({names}, number)", values


def build_insert_many(
    table: Table, columns: Sequence[Column], own_key: Column | None, guard: str, *, returning: bool, conflict: str = ""
) -> Built:
    """
    Many rows, one list a column, in the order of the lists; returned in that order, too.

    *guard* is the common table expression `lock_guard`, whose parameter is $1, or empty. *conflict* is an ON CONFLICT
    clause, with which each row tells whether it was `__inserted`.
    """
    names = ", ".join(column.sql for column in columns)
    source, values = _given(columns, 2 if guard else 1)
    if own_key is not None and not conflict:
        conflict = _OWN_KEY.format(key=own_key.sql)
    sql = (
        f"{f'WITH {guard}' if guard else ''}INSERT INTO {table.sql} AS this ({names})\n"
        f"SELECT {values}\n  FROM {'lock_guard, ' if guard else ''}{source}\n ORDER BY number{conflict}"
    )
    if returning:
        told = ", this.xmax = 0 AS __inserted" if "DO UPDATE" in conflict else ""
        sql += f"\nRETURNING {_returned(table, all_columns(table), guarded=bool(guard))}{told}"
    return Built(sql, (), all_columns(table) if returning else ())


def write_upsert(table: Table, columns: Sequence[Column], key: Sequence[Column], own_key: Column | None) -> str:
    """The ON CONFLICT clause that replaces all *columns* but those of the *key*, and keeps updated_at."""
    changed = [column for column in columns if column not in key and column is not own_key]
    assignments = [f"{column.sql} = excluded.{column.sql}" for column in changed or key]
    assignments += _touch(table, columns)
    names = ", ".join(column.sql for column in key)
    return f"\n    ON CONFLICT ({names}) DO UPDATE SET {', '.join(assignments)}"


def build_upsert(
    table: Table, columns: Sequence[Column], key: Sequence[Column], own_key: Column | None, *, guarded: bool
) -> Built:
    """One row, inserted or put in the place of the one with the same *key*; the last column tells which."""
    parameters = _Parameters()
    names = ", ".join(column.sql for column in columns)
    values = ", ".join(parameters.value(column) for column in columns)
    conflict = write_upsert(table, columns, key, own_key)
    returned = _returned(table, all_columns(table), guarded=guarded)
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
    parameters = _Parameters()
    assignments = [f"{column.sql} = {parameters.value(column)}" for column in columns]
    assignments += _touch(table, columns)
    sql = f"UPDATE {table.sql} AS this\n   SET {', '.join(assignments)}{write_where(where, table, parameters)}"
    if not returning:
        return parameters.build(sql)
    sql += f"\nRETURNING {_returned(table, all_columns(table), guarded=guarded)}"
    return parameters.build(sql, all_columns(table))


def _locked(table: Table, key: Column, keys: str) -> str:
    """In the order of the keys, as all statements that lock several rows: in different orders they would deadlock."""
    return f"""
    locked AS MATERIALIZED (
        SELECT this.{key.sql} AS key
          FROM lock_guard, {table.sql} AS this
         WHERE this.{key.sql} = ANY({keys})
         ORDER BY this.{key.sql}
           FOR UPDATE OF this
    )
    """


def build_update_shared(table: Table, columns: Sequence[Column], key: Column, guard: str) -> Built:
    """For each of many keys ($2) its own values ($3, …); the rows come with `__number`, from 1, in any order."""
    source, _ = _given([key, *columns], 2)
    assignments = [
        f"{column.sql} = {column.type.from_list(f'given.c{number}')}" for number, column in enumerate(columns, 2)
    ]
    assignments += _touch(table, columns)
    sql = (
        f"WITH {guard},{_locked(table, key, key.type.list_parameter(2))}"
        f"UPDATE {table.sql} AS this\n   SET {', '.join(assignments)}\n  FROM locked\n"
        f"  JOIN {source} ON given.c1 = locked.key\n WHERE this.{key.sql} = locked.key\n"
        f"RETURNING {_returned(table, all_columns(table), guarded=True)}, given.number AS __number"
    )
    return Built(sql, (), all_columns(table))


def build_delete(table: Table, where: Shape | None, *, returning: bool, guarded: bool) -> Built:
    """The rows that fit *where* are deleted."""
    parameters = _Parameters()
    sql = f"DELETE FROM {table.sql} AS this{write_where(where, table, parameters)}"
    if not returning:
        return parameters.build(sql)
    sql += f"\nRETURNING {_returned(table, all_columns(table), guarded=guarded)}"
    return parameters.build(sql, all_columns(table))


def build_delete_shared(table: Table, key: Column, guard: str) -> Built:
    """The rows whose *key* is in $2 are deleted; the rows come with `__number`, the place of their key, from 1."""
    sql = (
        f"WITH {guard},{_locked(table, key, key.type.list_parameter(2))}"
        f"DELETE FROM {table.sql} AS this\n USING locked\n"
        f"  JOIN {_given([key], 2)[0]} ON given.c1 = locked.key\n WHERE this.{key.sql} = locked.key\n"
        f"RETURNING {_returned(table, all_columns(table), guarded=True)}, given.number AS __number"
    )
    return Built(sql, (), all_columns(table))
