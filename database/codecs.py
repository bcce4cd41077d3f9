"""What a new connection learns about types: jsonb and json come and go as Python objects."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel

from .exceptions import DatabaseError

_TEXTS = (UUID, Decimal, IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


class JsonText(str):
    """JSON that is text already: it is sent as it is, where any other str would become a JSON string."""

    __slots__ = ()


def _plain(value: Any) -> Any:
    """What stands in JSON for a *value* that JSON does not know; raises `TypeError` where nothing does."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, _TEXTS):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


# one encoder each: `json.dumps` with these arguments would make one for every value
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_objects = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def encode_json(value: Any) -> str:
    """*value* as JSON text; raises `ValueError` for NaN and infinity and `TypeError` for what JSON does not know."""
    return _encode(value)


def encode_objects(value: Any) -> str:
    """
    As `encode_json`, for more than JSON knows.

    Models and dataclasses become objects, sets arrays, dates and times ISO 8601, UUID, Decimal and IP addresses text.
    Raises `ValueError` for NaN and infinity and `TypeError` for what nothing in JSON stands for.
    """
    return _encode_objects(value)


_decode = json.JSONDecoder().raw_decode


def decode_json(text: str) -> Any:
    """JSON *text* as PostgreSQL writes it, with nothing around it, as a Python object; quicker than `json.loads`."""
    return _decode(text)[0]


def encode_metadata(metadata: Mapping[str, Any] | None, kind: type[DatabaseError], owner: str) -> str:
    """The *metadata* of *owner* ("document 'x'") as JSON text; raises *kind* where it is no JSON object."""
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise kind(f"the metadata of {owner} is a dict, not {type(metadata).__name__}")
    try:
        return encode_json(dict(metadata))
    except (TypeError, ValueError, RecursionError) as exc:
        raise kind(
            f"the metadata of {owner} is not JSON: use dict, list, str, int, float (not NaN), bool and None"
        ) from exc


# The binary forms, because COPY takes no other: that of json is the text, that of jsonb the text after a version.
_JSONB_VERSION = b"\x01"


def _to_json(value: Any) -> bytes:
    return (value if type(value) is JsonText else encode_objects(value)).encode()


def _to_jsonb(value: Any) -> bytes:
    return _JSONB_VERSION + _to_json(value)


def _from_json(data: bytes) -> Any:
    return json.loads(bytes(data))


def _from_jsonb(data: bytes) -> Any:
    return json.loads(bytes(data[1:]))


async def register_codecs(connection: asyncpg.Connection[Any]) -> None:
    """Make jsonb and json on *connection* Python objects instead of text."""
    for name, encoder, decoder in (("jsonb", _to_jsonb, _from_jsonb), ("json", _to_json, _from_json)):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=encoder, decoder=decoder, format="binary")
