"""
Versioned SQL files of a directory: apply them, undo them, and say what became of each.

What they look like: migration_files.py; how one is applied: migration_changes.py; where that is recorded:
migration_history.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from .columns import is_name
from .connect_db import Connection
from .exceptions import SchemaError
from .migration_changes import PATIENCE, Change, change_database
from .migration_files import Migration, check_statements, order_of, read_directory, up_to
from .migration_history import PACKAGE, Applied, History, check_unchanged, read_applied

_APPLICATION = "application"


async def migrate(
    directory: str | Path | None = None,
    target: str | None = None,
    *,
    source: str | None = None,
    schema: str | None = None,
    timeout: float = PATIENCE,
    conn: Connection | None = None,
) -> list[str]:
    """
    Apply the SQL files of *directory* that were not applied yet, in order, up to the version *target*; their names.

    Without *directory*, the package's own files. Any number of processes may call it at once: each file is applied
    once, and all return after it was. A file runs in a transaction, so one that fails leaves nothing behind; below
    `-- migrate:up transaction:false` its statements run one by one, and those before the one that fails stay. *source*
    keeps the versions of several directories apart ("application" by default). With a *schema*, the tables are made
    there, and so is the record. *timeout* is in seconds, for all of it.

    Raises `SchemaError`, which names the file, where one fails, where one has changed since it was applied (before
    anything is applied), and where somebody else holds the lock all the time.
    """
    history = _history(directory, source, schema)
    files = await _read_files(directory)
    wanted = up_to(target, files)
    return await apply_files(wanted, history, known=files, timeout=timeout, conn=conn)


async def rollback(
    steps: int = 1,
    directory: str | Path | None = None,
    *,
    source: str | None = None,
    schema: str | None = None,
    timeout: float = PATIENCE,
    conn: Connection | None = None,
) -> list[str]:
    """
    Undo the last *steps* files that were applied, by what stands below their `-- migrate:down`; their names.

    Fewer, where fewer were applied. Each in a transaction of its own, as in `migrate`, where the arguments are
    explained. Raises `SchemaError`, which names the file, where one has no such part, is gone, has changed or fails.
    """
    if type(steps) is not int or steps < 1:
        raise SchemaError("steps is how many files to undo, at least 1")
    history = _history(directory, source, schema)
    files = {each.version: each for each in await _read_files(directory)}
    deadline = asyncio.get_running_loop().time() + timeout
    undone: list[str] = []
    while len(undone) < steps and (applied := await read_applied(history, conn)):
        last = applied[max(applied, key=order_of)]
        migration = files.get(last.version)
        if migration is None:
            raise SchemaError(f"cannot undo {last.file}: there is no file with that version any more")
        check_unchanged(migration, applied, history)
        if migration.down is None:
            raise SchemaError(f"cannot undo {migration.file}: it has no `-- migrate:down`")
        await asyncio.to_thread(check_statements, [migration])
        if await change_database(Change(migration, migration.down, history, undoes=True), deadline, conn):
            undone.append(migration.file)
    return undone


async def migration_status(
    directory: str | Path | None = None,
    *,
    source: str | None = None,
    schema: str | None = None,
    conn: Connection | None = None,
) -> list[dict[str, Any]]:
    """
    What became of the SQL files of *directory* (the package's own without it), in order: dicts.

    `source`, `version`, `name`, `file`, `applied_at` (None where it was not), and `state`: "applied", "pending",
    "changed" since it was applied, or "missing": applied, and the file is gone. Changes nothing.
    """
    history = _history(directory, source, schema)
    files = {each.version: each for each in await _read_files(directory)}
    applied = await read_applied(history, conn)
    return [
        {
            "source": history.source,
            "version": version,
            "name": (files.get(version) or applied[version]).name,
            "file": (files.get(version) or applied[version]).file,
            "state": _state(files.get(version), applied.get(version)),
            "applied_at": applied[version].applied_at if version in applied else None,
        }
        for version in sorted({*files, *applied}, key=order_of)
    ]


def _state(migration: Migration | None, applied: Applied | None) -> str:
    if applied is None:
        return "pending"
    if migration is None:
        return "missing"
    return "applied" if migration.checksum == applied.checksum else "changed"


async def apply_files(
    wanted: Sequence[Migration],
    history: History,
    *,
    known: Sequence[Migration] = (),
    timeout: float = PATIENCE,
    conn: Connection | None = None,
) -> list[str]:
    """As `migrate`, for the files *wanted*; those *known* must not have changed either."""
    deadline = asyncio.get_running_loop().time() + timeout
    applied = await read_applied(history, conn)
    for migration in (*wanted, *known):
        check_unchanged(migration, applied, history)
    pending = [each for each in wanted if each.version not in applied]
    if pending:
        await asyncio.to_thread(check_statements, pending)
    done: list[str] = []
    for each in pending:
        if each.version in applied:
            continue
        if await change_database(Change(each, each.up, history), deadline, conn):
            done.append(each.file)
        else:  # somebody else is at it, and may have got further
            applied = await read_applied(history, conn)
    return done


def _history(directory: str | Path | None, source: str | None, schema: str | None) -> History:
    if directory is None:
        if source not in (None, PACKAGE.source):
            raise SchemaError(f"the source {source!r} needs a directory with SQL files")
        source = PACKAGE.source
    elif source is None:
        source = _APPLICATION
    elif not is_name(source) or source == PACKAGE.source:
        raise SchemaError(f"the source of SQL files is a name of your own, up to 63 bytes, and not {PACKAGE.source!r}")
    if schema is not None and not is_name(schema):
        raise SchemaError("no schema can have that name: it has 1 to 63 bytes of text, without a NUL character")
    return History(source, schema)


async def _read_files(directory: str | Path | None) -> list[Migration]:
    where = resources.files("database").joinpath("sql") if directory is None else Path(directory)
    return await asyncio.to_thread(read_directory, where)
