"""What a new connection learns about types: jsonb and json come and go as Python objects."""

from __future__ import annotations

import json
from typing import Any

import asyncpg


def encode_json(value: Any) -> str:
    """*value* as JSON text; raises `ValueError` for NaN and infinity and `TypeError` for what JSON does not know."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def register_codecs(connection: asyncpg.Connection[Any]) -> None:
    """Make jsonb and json on *connection* Python objects instead of text."""
    for name in ("jsonb", "json"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=encode_json, decoder=json.loads)
