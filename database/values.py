"""
How Python values become a column's, and a column's values Python's: the column's type decides.

`Type` knows both ways, and how a value travels: uuid, json, enums and what the driver does not know go as text with a
cast, so that no connection has to be taught about them. Nothing here speaks to a server.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from ipaddress import ip_interface, ip_network
from operator import attrgetter
from typing import Any, Literal, NamedTuple
from uuid import UUID

from asyncpg import Range, Record
from asyncpg.pgproto import pgproto
from pydantic import BaseModel, TypeAdapter, ValidationError

from .codecs import JsonText, decode_json, encode_objects
from .query import quote_identifier


class JsonNull(enum.Enum):
    """The null of JSON, as a value of a json or jsonb column; None is the NULL of SQL."""

    JSON_NULL = "null"


JSON_NULL: Literal[JsonNull.JSON_NULL] = JsonNull.JSON_NULL


class UnfitError(ValueError):
    """A value that its type cannot take; the text says why, and nothing of the value."""


Coerce = Callable[[Any], Any]
Fit = Callable[[list[Any]], bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """
    A type of PostgreSQL.

    *name* is what it is called in SQL and *label* in messages. *coerce* makes of a Python value what is sent, or raises
    `UnfitError`. *sent_as* is the type of the parameter, which the server casts to *name*. *read_as* is what a column
    is cast to when it is read (None: nothing), *decode* what is done with the result. *from_record* decodes it inside
    of a composite value, which comes uncast. *as_literal*: in a list of values, it travels as the text of a literal.
    *takes_lists*: a list is one value. *copies*: COPY takes it. *wide*: the SQL for its bytes, where they may be many;
    {} is the column. *fit* is True of a list of values only if *coerce* would leave each as it is; it is far quicker
    than asking one by one.
    """

    name: str
    label: str
    coerce: Coerce
    sent_as: str
    read_as: str | None = None
    decode: Coerce | None = None
    from_record: Coerce | None = None
    as_literal: bool = False
    copies: bool = True
    wide: str | None = None
    fit: Fit | None = None
    kind: Literal["text", "json", "array", "composite", "other"] = "other"
    labels: tuple[str, ...] = ()
    takes_lists: bool = False

    def parameter(self, number: int) -> str:
        """The SQL for one value that is parameter *number*."""
        cast = "" if self.sent_as == self.name else f"::{self.name}"
        return f"${number}::{self.sent_as}{cast}"

    def list_parameter(self, number: int) -> str:
        """The SQL for many values that are parameter *number*; `from_list` makes values of its elements."""
        return f"${number}::{'text' if self.as_literal else self.sent_as}[]"

    def from_list(self, element: str) -> str:
        """The SQL that makes a value of *element*, one of those that `list_parameter` holds."""
        sent_as = "text" if self.as_literal else self.sent_as
        return element if sent_as == self.name else f"{element}::{self.name}"

    def to_list(self, values: list[Any]) -> list[Any]:
        """Coerced *values* as the parameter that `list_parameter` speaks of."""
        if self.as_literal:
            return [None if value is None else as_literal(value) for value in values]
        return values

    def reading(self, expression: str) -> str:
        """The SQL that reads *expression*."""
        return expression if self.read_as is None else f"{expression}::{self.read_as}"


def kind_of(value: object) -> str:
    """What *value* is, for a message that must not show it."""
    return type(value).__name__


# --- numbers


def _integer(bits: int) -> Coerce:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def coerce(value: Any) -> Any:
        if type(value) is not int:
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise UnfitError(f"needs an int, not {kind_of(value)}")
            value = operator.index(value)
        if not low <= value <= high:
            raise UnfitError(f"holds integers from {low} to {high}; this one is out of range")
        return value

    return coerce


def _object_id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise UnfitError("needs an int from 0 to 4294967295")
    return value


def _float(limit: float) -> Coerce:
    def coerce(value: Any) -> float:
        if isinstance(value, bool | str | bytes | bytearray) or not hasattr(value, "__float__"):
            raise UnfitError(f"needs a float, not {kind_of(value)}")
        try:
            number = float(value)
        except (OverflowError, ValueError, TypeError) as exc:
            raise UnfitError("holds no number that is so large") from exc
        if math.isfinite(number) and abs(number) > limit:
            raise UnfitError("holds no number that is so large")
        return number

    return coerce


def _numeric(modifier: int) -> Coerce:
    precision, scale = ((modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF) if modifier >= 0 else (0, 0)
    scale = (scale ^ 1024) - 1024  # 11 bits with a sign
    digits = precision - scale if precision else 131_072
    # from here on it is rounded to a number with one digit more; comparisons of Decimal are exact
    limit = Decimal(f"{'9' * precision}5E{-scale - 1}") if precision else Decimal(f"1E{digits}")

    def coerce(value: Any) -> Decimal:
        if not isinstance(value, int | float | str | Decimal) and hasattr(value, "__index__"):
            value = operator.index(value)  # of numpy's integers
        if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
            raise UnfitError(f"needs a Decimal, not {kind_of(value)}")
        try:
            number = Decimal(float.__repr__(value) if isinstance(value, float) else value)
        except (InvalidOperation, ValueError) as exc:
            raise UnfitError("needs a Decimal, or its text") from exc
        if number.is_finite():
            if number.copy_abs() >= limit:
                raise UnfitError(f"holds numbers of up to {digits} digits before the point; this one has more")
            if int(number.as_tuple().exponent) < -16_383:
                raise UnfitError("holds numbers of up to 16383 digits behind the point; this one has more")
        elif number.is_snan() or (precision and number.is_infinite()):
            raise UnfitError("does not hold infinity or a signalling NaN")
        return number

    return coerce


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if kind_of(value) == "bool_" or (type(value).__module__ == "numpy" and kind_of(value) == "bool"):
        return bool(value)
    raise UnfitError(f"needs a bool, not {kind_of(value)}")


def _all_integers(bits: int) -> Fit:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return lambda values: set(map(type, values)) == {int} and low <= min(values) and max(values) <= high


def _all_uuids(values: list[Any]) -> bool:
    return set(map(type, values)) <= {UUID, pgproto.UUID}


def _all(kind: type) -> Fit:
    return lambda values: set(map(type, values)) == {kind}


# --- text and bytes


def _all_text(limit: int | None) -> Fit:
    def fit(values: list[Any]) -> bool:
        if set(map(type, values)) != {str} or (limit is not None and max(map(len, values)) > limit):
            return False
        joined = "".join(values)
        if "\0" in joined:
            return False
        try:
            return joined.isascii() or bool(joined.encode())
        except UnicodeEncodeError:
            return False

    return fit


def check_text(value: str) -> str:
    """*value*; raises `UnfitError` where PostgreSQL cannot store it."""
    if "\0" in value:
        raise UnfitError("cannot hold a text with a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise UnfitError("cannot hold a text with a lone surrogate") from exc
    return value


def _name(value: Any) -> str:
    text: str = _text(None)(value)
    if len(text.encode()) > 63:  # the server would cut it off and say nothing
        raise UnfitError("holds texts of up to 63 bytes; this one has more")
    return text


def _text(limit: int | None) -> Coerce:
    def coerce(value: Any) -> str:
        if not isinstance(value, str):
            if isinstance(value, enum.Enum):
                value = value.value
            if isinstance(value, UUID):
                value = str(value)
            if not isinstance(value, str):
                raise UnfitError(f"needs a str, not {kind_of(value)}")
        if limit is not None and len(value) > limit and value[limit:].strip(" "):
            raise UnfitError(f"holds texts of up to {limit} characters; this one has more")
        return check_text(value)

    return coerce


def _enum(labels: tuple[str, ...]) -> Coerce:
    known = frozenset(labels)

    def coerce(value: Any) -> str:
        if isinstance(value, enum.Enum):
            value = value.value if isinstance(value.value, str) else value.name
        if not isinstance(value, str) or value not in known:
            raise UnfitError(f"needs one of {', '.join(labels)}")
        return value

    return coerce


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise UnfitError(f"needs bytes, not {kind_of(value)}")


def _uuid(value: Any) -> UUID:
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        for parse in (pgproto.UUID, UUID):  # the driver's is quicker, Python's knows more ways to write one
            try:
                return parse(value)
            except ValueError:
                pass
    raise UnfitError("needs a UUID, or its text" + ("" if isinstance(value, str) else f", not {kind_of(value)}"))


# --- dates and times: without a zone, they are taken for UTC


def _all_utc(values: list[Any]) -> bool:
    return set(map(type, values)) == {datetime} and set(map(attrgetter("tzinfo"), values)) == {UTC}


def _parsed(parse: Callable[[str], Any], value: str, what: str) -> Any:
    try:
        return parse(value)
    except ValueError as exc:
        raise UnfitError(f"needs {what}, or its text in ISO 8601; this text is none") from exc


def _datetime(value: Any) -> datetime:
    if isinstance(value, str):
        value = _parsed(datetime.fromisoformat, value, "a datetime")
    elif type(value) is date:
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise UnfitError(f"needs a datetime, not {kind_of(value)}")
    return value


def _timestamptz(value: Any) -> datetime:
    moment = _datetime(value)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return _in_utc(moment)


def _timestamp(value: Any) -> datetime:
    moment = _datetime(value)
    return moment if moment.tzinfo is None else _in_utc(moment).replace(tzinfo=None)


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise UnfitError("holds times of the years 1 to 9999 in UTC") from exc


def _date(value: Any) -> date:
    if isinstance(value, str):
        value = _parsed(date.fromisoformat, value, "a date")
    if type(value) is not date:
        raise UnfitError(f"needs a date, not {kind_of(value)}")
    return value


def _time(zone: bool) -> Coerce:
    def coerce(value: Any) -> time:
        if isinstance(value, str):
            value = _parsed(time.fromisoformat, value, "a time")
        if not isinstance(value, time):
            raise UnfitError(f"needs a time, not {kind_of(value)}")
        if zone:
            return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        if value.tzinfo is not None:
            raise UnfitError("holds times without a zone")
        return value

    return coerce


_durations: TypeAdapter[timedelta] = TypeAdapter(timedelta)


def _interval(value: Any) -> timedelta:
    if isinstance(value, str):
        try:
            return _durations.validate_python(value)
        except ValidationError as exc:
            raise UnfitError("needs a timedelta, or its text in ISO 8601; this text is none") from exc
    if not isinstance(value, timedelta):
        raise UnfitError(f"needs a timedelta, not {kind_of(value)}")
    return value


# --- networks


def _network(parse: Callable[[Any], Any], what: str) -> Coerce:
    def coerce(value: Any) -> Any:
        if isinstance(value, bool | int | float | bytes):
            raise UnfitError(f"needs {what}, not {kind_of(value)}")
        try:
            network = parse(value if isinstance(value, str) else str(value))
        except ValueError as exc:
            raise UnfitError(f"needs {what}, or its text") from exc
        if getattr(network, "scope_id", None):
            raise UnfitError("holds no address with a zone")
        return network

    return coerce


# --- JSON

_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _json(binary: bool) -> Coerce:
    def coerce(value: Any) -> JsonText:
        if value is JSON_NULL:
            return JsonText("null")
        try:
            text = encode_objects(value)
        except (TypeError, ValueError, RecursionError) as exc:
            raise UnfitError(f"needs JSON: {_json_reason(exc)}") from exc
        if binary and "\\u0000" in text and _JSON_NUL.search(text):
            raise UnfitError("cannot hold a text with a NUL character")
        return JsonText(check_text(text))

    return coerce


def _json_reason(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if isinstance(exc, TypeError):
        words = str(exc)
        return words if words.endswith("is not JSON") else "the keys of an object are str"
    return "a number is not finite, or it contains itself"


# --- vectors (https://github.com/pgvector/pgvector): lists of float

_HALF, _SINGLE = 65_504.0, 3.4028234663852886e38
_DOUBLE = 1.7976931348623157e308


def _numbers(value: Any, dimensions: int, limit: float) -> list[float]:
    for way in ("tolist", "to_list"):  # numpy, pgvector
        if hasattr(value, way):
            value = getattr(value, way)()
            break
    if not isinstance(value, list | tuple):
        raise UnfitError(f"needs a list of float or an array of numpy, not {kind_of(value)}")
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError) as exc:
        raise UnfitError("needs a list of float") from exc
    if not numbers:
        raise UnfitError("needs at least one dimension")
    if dimensions > 0 and len(numbers) != dimensions:
        raise UnfitError(f"has {dimensions} dimensions, not {len(numbers)}")
    if not all(-limit <= number <= limit for number in numbers):
        raise UnfitError("holds finite numbers only, none of them too large")
    return numbers


def _vector(dimensions: int, limit: float) -> Coerce:
    def coerce(value: Any) -> str:
        return f"[{','.join(map(repr, _numbers(value, dimensions, limit)))}]"

    return coerce


def _sparse_vector(dimensions: int) -> Coerce:
    def coerce(value: Any) -> str:
        numbers = _numbers(value, dimensions, _SINGLE)
        entries = ",".join(f"{number}:{entry!r}" for number, entry in enumerate(numbers, 1) if entry)
        return f"{{{entries}}}/{len(numbers)}"

    return coerce


def _dense(text: str) -> list[float]:
    """A sparse vector as PostgreSQL writes it, `{1:1.5,3:2}/5`, as a list."""
    entries, _, length = text.partition("/")
    numbers = [0.0] * int(length)
    for entry in filter(None, entries[1:-1].split(",")):
        position, _, number = entry.partition(":")
        numbers[int(position) - 1] = float(number)
    return numbers


def _floats(text: str) -> list[float]:
    return [float(number) for number in decode_json(text)]


# --- ranges


def _range(subtype: Type) -> Coerce:
    def coerce(value: Any) -> Any:
        if isinstance(value, range) and value.step == 1:
            value = Range(value.start, value.stop) if value else Range(empty=True)
        elif isinstance(value, list | tuple) and len(value) == 2:
            value = Range(*value)
        if not isinstance(value, Range):
            raise UnfitError(f"needs a Range of asyncpg, or a pair (from, until), not {kind_of(value)}")
        if value.isempty:
            return value
        lower, upper = (None if each is None else subtype.coerce(each) for each in (value.lower, value.upper))
        if lower is not None and upper is not None and lower > upper:
            raise UnfitError("needs a range whose lower bound is not above the upper one")
        return Range(lower, upper, lower_inc=value.lower_inc, upper_inc=value.upper_inc)

    return coerce


class _Ranges(list[Any]):
    """A multirange, whose literal is not that of an array of ranges."""


def _multirange(element: Coerce) -> Coerce:
    def coerce(value: Any) -> _Ranges:
        if not isinstance(value, list | tuple):
            raise UnfitError(f"needs a list of ranges, not {kind_of(value)}")
        return _Ranges(element(each) for each in value)

    return coerce


# --- arrays

_DEPTH = 6  # PostgreSQL's MAXDIM


def _array(element: Type, dimensions: int) -> Coerce:
    # inside of these, a list is not another dimension
    takes_lists = element.takes_lists

    def shape(value: list[Any], depth: int) -> tuple[list[Any], tuple[int, ...]]:
        if depth > _DEPTH:
            raise UnfitError(f"holds arrays of up to {_DEPTH} dimensions")
        nested = [isinstance(each, list | tuple) for each in value]
        if not value or not any(nested) or (takes_lists and depth >= max(1, dimensions)):
            return [None if each is None else element.coerce(each) for each in value], (len(value),)
        if not all(nested):
            raise UnfitError("needs an array whose parts are all lists, or none of them")
        parts = [shape(list(each), depth + 1) for each in value]
        shapes = {inner for _, inner in parts}
        if len(shapes) > 1:
            raise UnfitError("needs an array whose parts are of the same length")
        return [part for part, _ in parts], (len(value), *shapes.pop())

    def coerce(value: Any) -> list[Any]:
        if hasattr(value, "tolist") and not isinstance(value, memoryview):
            value = value.tolist()
        if isinstance(value, set | frozenset):
            value = list(value)
        if not isinstance(value, list | tuple):
            raise UnfitError(f"needs a list, not {kind_of(value)}")
        coerced, lengths = shape(list(value), 1)
        return [] if 0 in lengths else coerced

    return coerce


def _each(decode: Coerce) -> Coerce:
    def decode_all(value: Any) -> Any:
        if isinstance(value, list):
            return [decode_all(each) for each in value]
        return None if value is None else decode(value)

    return decode_all


# --- composite types


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """The fields of a dict, a model or a dataclass by name; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _composite(attributes: list[tuple[str, Type]]) -> Coerce:
    names = [name for name, _ in attributes]

    def coerce(value: Any) -> str:
        fields = fields_of(value)
        if fields is not None:
            if not set(fields) <= set(names):
                raise UnfitError(f"has the parts {', '.join(names)}, and no other")
            parts = [fields.get(name) for name in names]
        elif isinstance(value, list | tuple) and len(value) == len(names):
            parts = list(value)
        else:
            raise UnfitError(f"needs a dict with {', '.join(names)}, not {kind_of(value)}")
        coerced = []
        for (name, type_), part in zip(attributes, parts, strict=True):
            try:
                coerced.append(None if part is None else type_.coerce(part))
            except UnfitError as exc:
                raise UnfitError(f"has a part {name!r} that {exc}") from exc
        return as_literal(tuple(coerced))

    return coerce


def _as_dict(attributes: list[tuple[str, Type]]) -> Coerce:
    decoders = {name: type_.from_record for name, type_ in attributes if type_.from_record is not None}

    def decode(record: Record) -> dict[str, Any]:
        row = dict(record)
        for name, decode_part in decoders.items():
            if row[name] is not None:
                row[name] = decode_part(row[name])
        return row

    return decode


# --- literals: what PostgreSQL reads where a list of values cannot hold the values themselves


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def as_literal(value: Any) -> str:
    """A coerced *value* as PostgreSQL's input function for its type reads it; a tuple is a composite value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Ranges):
        return f"{{{','.join(map(as_literal, value))}}}"
    if isinstance(value, list):
        parts = ["NULL" if each is None else _array_part(each) for each in value]
        return f"{{{','.join(parts)}}}"
    if isinstance(value, tuple):
        return f"({','.join('' if each is None else _quoted(as_literal(each)) for each in value)})"
    if isinstance(value, Range):
        if value.isempty:
            return "empty"
        lower, upper = ("" if each is None else _quoted(as_literal(each)) for each in (value.lower, value.upper))
        return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, timedelta):
        return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)


def _array_part(value: Any) -> str:
    return as_literal(value) if type(value) is list else _quoted(as_literal(value))


# --- the types


class TypeInfo(NamedTuple):
    """What the catalog says of a type; *element* is that of an array, *base* and *modifier* those of a domain."""

    schema: str
    name: str
    kind: str
    is_array: bool
    element: int
    base: int
    modifier: int
    subtype: int
    labels: list[str]
    attributes: list[tuple[str, int, int]]


_OCTETS, _STORED = "octet_length({})", "pg_column_size({})"
_LISTS = ("vector", "halfvec", "sparsevec")  # types whose values are lists
_LABELS = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "varchar": "character varying",
    "bpchar": "character",
}
_FIT: dict[str, Fit] = {
    "bool": _all(bool),
    "int2": _all_integers(16),
    "int4": _all_integers(32),
    "int8": _all_integers(64),
    "float8": _all(float),
    "bytea": _all(bytes),
    "date": _all(date),
    "interval": _all(timedelta),
    "timestamptz": _all_utc,
}
_PLAIN: dict[str, Coerce] = {
    "bool": _bool,
    "int2": _integer(16),
    "int4": _integer(32),
    "int8": _integer(64),
    "oid": _object_id,
    "float4": _float(_SINGLE),
    "float8": _float(_DOUBLE),
    "bytea": _bytes,
    "date": _date,
    "time": _time(zone=False),
    "timetz": _time(zone=True),
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "interval": _interval,
    "inet": _network(ip_interface, "an IP address"),
    "cidr": _network(ip_network, "an IP network"),
}


def make_type(infos: Mapping[int, TypeInfo], number: int, modifier: int = -1, dimensions: int = 0) -> Type:
    """
    The type with the object id *number*, for a column of *modifier* (its length or precision) and *dimensions*.

    A domain is its base type: the server checks what the domain adds.
    """
    info = infos[number]
    if info.kind == "d":
        return make_type(infos, info.base, modifier if modifier >= 0 else info.modifier, dimensions)
    name = f"{quote_identifier(info.schema)}.{quote_identifier(info.name)}"
    if info.is_array:
        return _make_array(name, make_type(infos, info.element, modifier), dimensions)
    label = _LABELS.get(info.name, info.name)
    if info.kind == "e":
        return Type(
            name=name, label=label, coerce=_enum(tuple(info.labels)), sent_as="text", read_as="text", copies=False,
            labels=tuple(info.labels),
        )  # fmt: skip
    if info.kind == "r":
        coerce = _range(make_type(infos, info.subtype))
        return Type(name=name, label=label, coerce=coerce, sent_as=name, takes_lists=True)
    if info.kind == "m":
        coerce = _multirange(make_type(infos, info.subtype).coerce)
        return Type(
            name=name, label=label, coerce=coerce, sent_as=name, takes_lists=True, as_literal=True, copies=False
        )
    if info.kind == "c":
        attributes = [(part, make_type(infos, type_, mod)) for part, type_, mod in info.attributes]
        decode = _as_dict(attributes)
        return Type(
            name=name, label=label, coerce=_composite(attributes), sent_as="text", decode=decode, from_record=decode,
            copies=False, wide=_STORED, kind="composite", takes_lists=True,
        )  # fmt: skip
    return _make_base(info, name, label, modifier)


def _make_base(info: TypeInfo, name: str, label: str, modifier: int) -> Type:
    if info.schema == "pg_catalog":
        if info.name in _PLAIN:
            wide = _OCTETS if info.name == "bytea" else None
            fit = _FIT.get(info.name)
            return Type(name=name, label=label, coerce=_PLAIN[info.name], sent_as=name, wide=wide, fit=fit)
        if info.name == "numeric":
            return Type(name=name, label=label, coerce=_numeric(modifier), sent_as=name)
        if info.name == "name":
            return Type(name=name, label=label, coerce=_name, sent_as=name, kind="text")
        if info.name in ("text", "varchar", "bpchar"):
            limit = modifier - 4 if modifier >= 4 else None
            wide = _OCTETS if limit is None or limit > 1_000 else None
            return Type(
                name=name, label=label, coerce=_text(limit), sent_as=name, wide=wide, fit=_all_text(limit), kind="text"
            )
        if info.name == "uuid":
            return Type(
                name=name, label=label, coerce=_uuid, sent_as=name, read_as="text", from_record=str, fit=_all_uuids
            )
        if info.name in ("json", "jsonb"):
            return Type(
                name=name, label=label, coerce=_json(info.name == "jsonb"), sent_as="text", read_as="text",
                decode=decode_json, wide=_STORED, kind="json", takes_lists=True,
            )  # fmt: skip
    coerce, decode = {
        "vector": (_vector(modifier, _SINGLE), _floats),
        "halfvec": (_vector(modifier, _HALF), _floats),
        "sparsevec": (_sparse_vector(modifier), _dense),
    }.get(info.name, (_text(None), None))
    kind: Literal["text", "other"] = "text" if info.name == "citext" else "other"
    return Type(
        name=name, label=label, coerce=coerce, sent_as="text", read_as="text", decode=decode, copies=False,
        wide=_STORED, kind=kind, takes_lists=info.name in _LISTS,
    )  # fmt: skip


def _make_array(name: str, element: Type, dimensions: int) -> Type:
    as_text = element.sent_as == "text"
    decode = None if element.decode is None else _each(element.decode)
    from_record = None if element.from_record is None else _each(element.from_record)
    return Type(
        name=name,
        label=f"{element.label}[]",
        coerce=_array(element, dimensions),
        sent_as="text[]" if as_text else name,
        read_as=None if element.read_as is None else "text[]",
        decode=decode,
        from_record=from_record,
        as_literal=True,
        copies=element.copies,
        wide=_STORED,
        kind="array",
        takes_lists=True,
    )
