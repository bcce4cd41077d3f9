"""
How Python values become a column's, and a column's values Python's: the column's type decides.

`Type` knows both ways, and how a value travels: uuid, json, enums and what the driver does not know go as text with a
cast, so that no connection has to be taught about them. Nothing here speaks to a server.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from datetime import date, timedelta
from ipaddress import ip_interface, ip_network
from typing import Any, Literal, NamedTuple

from .codecs import JsonText, decode_json, encode_objects
from .containers import arrays, as_literal, composites, decode_each, decode_record, fields_of, multiranges, ranges
from .query import quote_identifier
from .scalars import (
    DOUBLE,
    HALF,
    SINGLE,
    Coerce,
    Fit,
    UnfitError,
    all_integers,
    all_of,
    all_texts,
    all_utc,
    all_uuids,
    check_text,
    enums,
    floats,
    integers,
    kind_of,
    networks,
    numerics,
    texts,
    times,
    to_bool,
    to_bytes,
    to_date,
    to_interval,
    to_name,
    to_object_id,
    to_timestamp,
    to_timestamptz,
    to_uuid,
)
from .vectors import read_sparse_vector, read_vector, sparse_vectors, vectors

__all__ = [
    "JSON_NULL",
    "JsonNull",
    "Type",
    "TypeInfo",
    "UnfitError",
    "as_literal",
    "check_text",
    "fields_of",
    "kind_of",
    "make_type",
]


class JsonNull(enum.Enum):
    """The null of JSON, as a value of a json or jsonb column; None is the NULL of SQL."""

    JSON_NULL = "null"


JSON_NULL: Literal[JsonNull.JSON_NULL] = JsonNull.JSON_NULL


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
    "bool": all_of(bool),
    "int2": all_integers(16),
    "int4": all_integers(32),
    "int8": all_integers(64),
    "float8": all_of(float),
    "bytea": all_of(bytes),
    "date": all_of(date),
    "interval": all_of(timedelta),
    "timestamptz": all_utc,
}
_PLAIN: dict[str, Coerce] = {
    "bool": to_bool,
    "int2": integers(16),
    "int4": integers(32),
    "int8": integers(64),
    "oid": to_object_id,
    "float4": floats(SINGLE),
    "float8": floats(DOUBLE),
    "bytea": to_bytes,
    "date": to_date,
    "time": times(zone=False),
    "timetz": times(zone=True),
    "timestamp": to_timestamp,
    "timestamptz": to_timestamptz,
    "interval": to_interval,
    "inet": networks(ip_interface, "an IP address"),
    "cidr": networks(ip_network, "an IP network"),
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
            name=name, label=label, coerce=enums(tuple(info.labels)), sent_as="text", read_as="text", copies=False,
            labels=tuple(info.labels),
        )  # fmt: skip
    if info.kind == "r":
        coerce = ranges(make_type(infos, info.subtype))
        return Type(name=name, label=label, coerce=coerce, sent_as=name, takes_lists=True)
    if info.kind == "m":
        coerce = multiranges(make_type(infos, info.subtype).coerce)
        return Type(
            name=name, label=label, coerce=coerce, sent_as=name, takes_lists=True, as_literal=True, copies=False
        )
    if info.kind == "c":
        attributes = [(part, make_type(infos, type_, mod)) for part, type_, mod in info.attributes]
        decode = decode_record(attributes)
        return Type(
            name=name, label=label, coerce=composites(attributes), sent_as="text", decode=decode, from_record=decode,
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
            return Type(name=name, label=label, coerce=numerics(modifier), sent_as=name)
        if info.name == "name":
            return Type(name=name, label=label, coerce=to_name, sent_as=name, kind="text")
        if info.name in ("text", "varchar", "bpchar"):
            limit = modifier - 4 if modifier >= 4 else None
            wide = _OCTETS if limit is None or limit > 1_000 else None
            return Type(
                name=name, label=label, coerce=texts(limit), sent_as=name, wide=wide, fit=all_texts(limit), kind="text"
            )
        if info.name == "uuid":
            return Type(
                name=name, label=label, coerce=to_uuid, sent_as=name, read_as="text", from_record=str, fit=all_uuids
            )
        if info.name in ("json", "jsonb"):
            return Type(
                name=name, label=label, coerce=_json(info.name == "jsonb"), sent_as="text", read_as="text",
                decode=decode_json, wide=_STORED, kind="json", takes_lists=True,
            )  # fmt: skip
    coerce, decode = {
        "vector": (vectors(modifier, SINGLE), read_vector),
        "halfvec": (vectors(modifier, HALF), read_vector),
        "sparsevec": (sparse_vectors(modifier), read_sparse_vector),
    }.get(info.name, (texts(None), None))
    kind: Literal["text", "other"] = "text" if info.name == "citext" else "other"
    return Type(
        name=name, label=label, coerce=coerce, sent_as="text", read_as="text", decode=decode, copies=False,
        wide=_STORED, kind=kind, takes_lists=info.name in _LISTS,
    )  # fmt: skip


def _make_array(name: str, element: Type, dimensions: int) -> Type:
    as_text = element.sent_as == "text"
    decode = None if element.decode is None else decode_each(element.decode)
    from_record = None if element.from_record is None else decode_each(element.from_record)
    return Type(
        name=name,
        label=f"{element.label}[]",
        coerce=arrays(element, dimensions),
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
