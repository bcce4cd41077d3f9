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

    The copy has a new key, `created_at` and `updated_at` of now, and is not protected. What must be unique, and is not
    in *overrides*, is made by its default where that counts or is a uuid, and texts get the end of the new key behind
    them. Raises `RecordNotFoundError` where there is no such row, `InvalidDataError` where a new value of another type
    would be needed: give it in *overrides*.
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
        for column in _needed(known, given, values):
            if _makes_others(column):
                del values[column.name]
            else:
                values[column.name] = _other_text(column, values[column.name], mark)
        return await insert(table, values, schema=schema, conn=c)


def _new_key(key: Column) -> Any:
    if key.type.label == "uuid":
        return uuid7()
    if key.type.kind == "text":
        return str(uuid7())
    raise key.refusal("has no default to make a new key with: give one in overrides")


def _needed(known: Table, given: Mapping[str, Any], values: Mapping[str, Any]) -> list[Column]:
    """A column of each unique key that would be the same in the copy."""
    needed: list[Column] = []
    for key in known.keys:
        columns = [known.columns[name] for name in key.columns]
        if key.is_primary or set(key.columns) & set(given) or any(column in needed for column in columns):
            continue
        if any(values.get(column.name) is None for column in columns):  # made anew, or nothing, which is never the same
            continue
        other = [column for column in columns if _makes_others(column)]
        other += [column for column in columns if column.type.kind == "text"][-1:]
        if not other:
            raise InvalidDataError(
                f"a copy of a row of table {known.name!r} needs another {', '.join(key.columns)}: give it in overrides"
            )
        needed.append(other[0])
    return needed


def _makes_others(column: Column) -> bool:
    """True where the server makes another value each time."""
    return column.is_identity or re.search(r"\bnextval\(|uuid", column.default or "") is not None


def _other_text(column: Column, text: str, mark: str) -> str:
    limit = re.search(r"\((\d+)\)", column.declared)
    if limit and int(limit[1]) <= len(mark):  # nothing else has room
        return mark[-int(limit[1]) :]
    return (text[: int(limit[1]) - len(mark) - 1] if limit else text) + f"-{mark}"


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
