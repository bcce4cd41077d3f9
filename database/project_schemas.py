"""
Projects: tables that all of them share, in the schema public, and a schema of its own for the content of each.

The tables are SQL files, sql/projects/ and sql/project/. Who wants others copies them, changes the copy, and gives its
directory to the functions here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from .columns import is_name
from .connect_db import Connection, perform
from .exceptions import SchemaError
from .migration_changes import in_turn
from .migration_files import read_directory
from .migration_history import History, read_applied
from .migrations import apply_files
from .query import quote_identifier
from .repository import create_schema, list_tables, schema_exists

_PUBLIC = "public"
_SHARED, _OWN = "projects", "project"  # both the directories and the sources
_SHARED_TABLES = ("projects", "prompts", "object_models", "llm_usage")
_OWN_TABLES = ("content", "metadata", "vocabulary")
_RESERVED = (_PUBLIC, "information_schema")


async def ensure_public_schema(*, directory: str | Path | None = None, conn: Connection | None = None) -> bool:
    """
    Make the tables that all projects share, unless they are there; True if something was made now.

    These are projects, prompts, object_models and llm_usage, in the schema public, or those of the SQL files of
    *directory*. Any number of processes may call it at once. Raises `SchemaError` as `migrate` does, also where there
    is a table of such a name that was not made here.
    """
    return await _apply(_SHARED, _PUBLIC, directory, conn)


async def ensure_project_schema(
    name: str, *, directory: str | Path | None = None, conn: Connection | None = None
) -> bool:
    """
    Make the schema *name* and its tables content, metadata and vocabulary, unless they are there; True if made now.

    With a *directory*, its SQL files are applied there instead. Any number of processes may call it at once. Raises
    `SchemaError` where the name is no schema's, or is public or PostgreSQL's own, and as `migrate` does.
    """
    _check_name(name)
    made = await create_schema(name, conn=conn)
    return await _apply(_OWN, name, directory, conn) or made


async def verify_schema(
    name: str, *, tables: Iterable[str] | None = None, conn: Connection | None = None
) -> dict[str, bool]:
    """
    Which of the *tables* of the schema *name* are there, by name.

    By default those of a project, or in public those that all projects share. Where there is no such schema, none is.
    """
    wanted = list(tables) if tables is not None else _SHARED_TABLES if name == _PUBLIC else _OWN_TABLES
    there = await list_tables(schema=name, conn=conn)
    return {table: table in there for table in wanted}


async def drop_project_schema(name: str, *, confirm: str, conn: Connection | None = None) -> bool:
    """
    Drop the schema *name* with all that is in it; True if there was one. *confirm* is the name once more.

    Only one that `ensure_project_schema` has made. Raises `SchemaError` for any other, and where *confirm* differs.
    """
    _check_name(name)
    if confirm != name:
        raise SchemaError(f"schema {name!r} was not dropped: say confirm={name!r}, all that is in it will be gone")

    doing = f"drop schema {name!r}"

    async def drop(c: Connection) -> bool:
        if not await schema_exists(name, conn=c):
            return False
        if not await read_applied(History(_OWN, name), c):
            raise SchemaError(
                f"schema {name!r} was not dropped: ensure_project_schema() has not made it; DROP SCHEMA would drop it"
            )
        sql = f"DROP SCHEMA {quote_identifier(name)} CASCADE"
        await perform(lambda c: c.execute(sql), conn=c, kind=SchemaError, doing=doing, changes=True, repeatable=False)
        return True

    return await in_turn(drop, doing=doing, conn=conn)


def _check_name(name: str) -> None:
    if not is_name(name) or name.startswith("pg_"):
        raise SchemaError("the name of a schema has 1 to 63 bytes of text and does not begin with pg_")
    if name in _RESERVED:
        raise SchemaError(f"{name!r} is not the schema of a project")


async def _apply(source: str, schema: str, directory: str | Path | None, conn: Connection | None) -> bool:
    where = resources.files("database").joinpath("sql", source) if directory is None else Path(directory)
    files = await asyncio.to_thread(read_directory, where)
    return bool(await apply_files(files, History(source, schema), conn=conn))
