"""Copies of rows, for tests that change what others need as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ..columns import Column, Table, read_table
from ..connect_db import Connection, get_db_transaction
from ..exceptions import InvalidDataError, confidential
from ..ids import uuid7
from ..repository import get_by_id, insert

_MADE_ANEW = ("created_at", "updated_at")
_PROTECTED = "is_protected"


@confidential
async def clone_record(
    schema: str, table: str, id: Any, overrides: Mapping[str, Any] | None = None, *, conn: Connection | None = None
) -> dict[str, Any]:
    """
    Store a copy of the row of *table* whose primary key is *id*, with the values of *overrides*, and return it.

    The copy has a new key, `created_at` and `updated_at` of now, and is not protected. Texts that must be unique, and
    that are not in *overrides*, get the beginning of the new key behind them. Raises `RecordNotFoundError` where there
    is no such row, `InvalidDataError` where a new value of another type would be needed: give it in *overrides*.
    """
    async with get_db_transaction(conn=conn) as c:
        known = await read_table(table, schema, c)
        given = dict(
            zip([column.name for column in known.match_all(overrides or ())], (overrides or {}).values(), strict=True)
        )
        row = await get_by_id(table, id, schema=schema, conn=c)
        key = known.id_column
        values = {
            name: value
            for name, value in row.items()
            if known.columns[name].is_written and name not in _MADE_ANEW and name != key.name
        }
        if _PROTECTED in values:
            values[_PROTECTED] = False
        if key.name not in given and ((key.default is None and not key.is_identity) or key.type.label == "uuid"):
            given[key.name] = _new_key(key)
        mark = str(given.get(key.name) or uuid7()).replace("-", "")[-8:]
        values |= given
        for name in _needed(known, given):
            values[name] = _other_text(known.columns[name], values[name], mark)
        return await insert(table, values, schema=schema, conn=c)


def _new_key(key: Column) -> Any:
    if key.type.label == "uuid":
        return uuid7()
    if key.type.kind == "text":
        return str(uuid7())
    raise key.refusal("has no default to make a new key with: give one in overrides")


def _needed(known: Table, given: Mapping[str, Any]) -> list[str]:
    """A column of each unique key that would be the same in the copy."""
    names: list[str] = []
    for key in known.keys:
        if key.is_primary or set(key.columns) & set(given) or set(key.columns) & set(names):
            continue
        texts = [name for name in key.columns if known.columns[name].type.kind == "text"]
        if not texts:
            raise InvalidDataError(
                f"a copy of a row of table {known.name!r} needs another {', '.join(key.columns)}: give it in overrides"
            )
        names.append(texts[-1])
    return names


def _other_text(column: Column, text: str | None, mark: str) -> str | None:
    if text is None:
        return None
    mark = f"-{mark}"
    limit = re.search(r"\((\d+)\)", column.declared)
    return (text[: int(limit[1]) - len(mark)] if limit else text) + mark


async def clone_project(
    project_id: str | UUID,
    new_id: str | UUID | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    conn: Connection | None = None,
) -> dict[str, Any]:
    """
    As `clone_record`, for a row of `projects` (see `ensure_public_schema`), under *new_id* if given.

    Its prompts and its schema are not copied; of the schema's name, the copy has none.
    """
    given = {"schema_name": None, **(overrides or {})}
    if new_id is not None:
        given["id"] = new_id
    return await clone_record("public", "projects", project_id, given, conn=conn)


async def clone_prompt_template(
    prompt_id: str | UUID,
    new_id: str | UUID | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    conn: Connection | None = None,
) -> dict[str, Any]:
    """As `clone_record`, for a row of `prompts`, under *new_id* if given."""
    given = dict(overrides or {})
    if new_id is not None:
        given["id"] = new_id
    return await clone_record("public", "prompts", prompt_id, given, conn=conn)
