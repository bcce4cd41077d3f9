"""What a new connection learns about types: jsonb and json come and go as Python objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import asyncpg

from .exceptions import DatabaseError

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_json(value: Any) -> str:
    """*value* as JSON text; raises `ValueError` for NaN and infinity and `TypeError` for what JSON does not know."""
    return _encode(value)


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
            f"the metadata of {owner} is not JSON: use dict, list, str, int, float (not NaN), bool and None",
            original_error=exc,
        ) from exc


async def register_codecs(connection: asyncpg.Connection[Any]) -> None:
    """Make jsonb and json on *connection* Python objects instead of text."""
    for name in ("jsonb", "json"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=encode_json, decoder=json.loads)
