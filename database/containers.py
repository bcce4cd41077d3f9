"""Values that are made of others: ranges, arrays, composite values; and the literals that they travel as."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from asyncpg import Range, Record
from pydantic import BaseModel

from .scalars import Coerce, UnfitError, kind_of

if TYPE_CHECKING:
    from .values import Type

# --- ranges


def ranges(subtype: Type) -> Coerce:
    """What takes ranges of *subtype*."""

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


def multiranges(element: Coerce) -> Coerce:
    """What takes lists of what *element* takes."""

    def coerce(value: Any) -> _Ranges:
        if not isinstance(value, list | tuple):
            raise UnfitError(f"needs a list of ranges, not {kind_of(value)}")
        return _Ranges(element(each) for each in value)

    return coerce


# --- arrays

_DEPTH = 6  # PostgreSQL's MAXDIM


def arrays(element: Type, dimensions: int) -> Coerce:
    """What takes lists of *element*, nested or not."""
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


def decode_each(decode: Coerce) -> Coerce:
    """What decodes lists, nested or not, of what *decode* decodes."""

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


def composites(attributes: list[tuple[str, Type]]) -> Coerce:
    """What takes the parts of a composite value, as a dict or in their order."""
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


def decode_record(attributes: list[tuple[str, Type]]) -> Coerce:
    """What makes a dict of a composite value."""
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
