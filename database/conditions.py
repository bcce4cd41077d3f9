"""
Conditions: `{"age": {"$gte": 18}}` becomes a shape and its values, and the shape becomes SQL.

A shape holds names and operators, no value: what is built of it serves all conditions of that shape.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .exceptions import ColumnMatchError, InvalidDataError
from .query import Encode, Parameters

if TYPE_CHECKING:
    from .columns import Column, Table

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
_LAST = chr(sys.maxunicode)
_SURROGATES, _AFTER_SURROGATES = 0xD800, 0xE000
_JSONB = 'text::"pg_catalog"."jsonb"'


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
    return (operator, name, operator == "$startswith" and not (isinstance(value, str) and value.rstrip(_LAST)))


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


# --- from a shape to SQL


class _Operand(NamedTuple):
    """The left side of a comparison: a column, or a path into one that holds JSON."""

    column: Column
    sql: str
    text: str
    is_json: bool
    is_path: bool
    path: tuple[str, ...] = ()  # in SQL, the keys that lead into a jsonb, where none could be the number of an element


def write_where(shape: Shape | None, table: Table, parameters: Parameters) -> str:
    """The WHERE clause of *shape*, and an empty text without one."""
    return "" if shape is None else f"\n WHERE {write_condition(shape, table, parameters)}"


def write_condition(shape: Shape, table: Table, parameters: Parameters) -> str:
    """The SQL of *shape*, which adds the parameters for its values."""
    kind, first = shape[0], shape[1]
    if kind in ("and", "or"):
        parts = [write_condition(each, table, parameters) for each in first]
        return f"({f' {kind.upper()} '.join(parts)})" if parts else "true"
    if kind == "not":
        return f"({write_condition(first, table, parameters)}) IS NOT TRUE"
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
        return _write_search(operand, kind, detail, parameters)
    return _write_comparison(operand, kind, parameters)


def _operand(name: str, table: Table, parameters: Parameters) -> _Operand:
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


def _value(operand: _Operand, parameters: Parameters) -> str:
    if operand.is_json:
        return f"${parameters.add(operand.column.encode)}::{_JSONB}"
    return parameters.value(operand.column)


def _write_list(operand: _Operand, kind: str, has_null: bool, parameters: Parameters) -> str:
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


def _write_comparison(operand: _Operand, kind: str, parameters: Parameters) -> str:
    if kind == "$eq":
        value = _value(operand, parameters)
        written = f"{operand.sql} = {value}"
        if operand.path and parameters.for_any_value:
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


def _write_search(operand: _Operand, kind: str, is_endless: bool, parameters: Parameters) -> str:
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
    if kind == "$startswith" and column.sorts_by_bytes and not operand.is_json and not is_endless:
        number = parameters.add(lambda value: _range_of(column.encode_text(value)))
        given = f"(SELECT ${number}::text[])" if parameters.for_any_value else f"${number}::text[]"
        return f'({operand.text} >= ({given})[1] COLLATE "C" AND {operand.text} < ({given})[2] COLLATE "C")'
    patterns: dict[str, Encode] = {
        "$contains": lambda value: f"%{escape_like(column.encode_text(value))}%",
        "$startswith": lambda value: f"{escape_like(column.encode_text(value))}%",
    }
    number = parameters.add(patterns.get(kind, _pattern_of(column)))
    return f"{operand.text} {'ILIKE' if kind == '$ilike' else 'LIKE'} ${number}::text"


def _range_of(beginning: str) -> list[str]:
    """
    The first text that begins so, and the first one behind them all; *beginning* is not just the last of all letters.

    An index finds what is between two parameters, and not what is LIKE one.
    """
    rest = beginning.rstrip(_LAST)
    following = ord(rest[-1]) + 1
    return [beginning, rest[:-1] + chr(_AFTER_SURROGATES if following == _SURROGATES else following)]


def _pattern_of(column: Column) -> Encode:
    def encode(value: Any) -> str:
        pattern = column.encode_text(value)
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise InvalidDataError(f"the pattern for column {column.name!r} ends with a backslash that escapes nothing")
        return pattern

    return encode


def _write_json_contains(operand: _Operand, parameters: Parameters) -> str:
    """A text is looked for in texts, and as an element of arrays; anything else as a part of the JSON."""
    json = f"${parameters.add(operand.column.encode)}::{_JSONB}"
    searched = f"strpos({operand.text}, {json} #>> '{{}}') > 0"
    return (f"(CASE WHEN jsonb_typeof({operand.sql}) = 'string' AND jsonb_typeof({json}) = 'string' THEN {searched} "
            f"ELSE {operand.sql} @> {json} END)")  # fmt: skip


def escape_like(text: str) -> str:
    r"""*text* as a pattern of LIKE that means just that: `%`, `_` and `\` are themselves."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
