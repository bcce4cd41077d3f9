"""
Versioned SQL files on their way into the database: each applied once, in order, under a lock, and recorded.

Those who wait for the lock ask for it again and again, and hold no connection meanwhile. Standing in line for it would
be a statement with a snapshot, and CREATE INDEX CONCURRENTLY waits for snapshots: both would wait for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from .columns import is_name
from .concurrent_indexes import drop_remains
from .connect_db import Connection, Pool, get_connection_pool, get_db_transaction, perform, run_transaction
from .exceptions import (
    ConnectionPoolError,
    DatabaseError,
    DatabaseNotAvailableError,
    OutcomeUnknownError,
    SchemaError,
    raised_by_driver,
    translate,
)
from .lexer import Statement
from .migration_files import Migration, Part, order_of, read_directory, up_to
from .pool import backoff
from .query import quote_identifier

log = logging.getLogger("database")

# "pgdb" as a number; any key will do as long as nobody else uses it
_LOCK = 0x70676462
_PATIENCE = 600.0  # seconds for all that one call applies or undoes, and for its turn
_STOP_SECONDS = 5.0
_PACKAGE, _APPLICATION = "database", "application"
_DEFINES = [("create",), ("alter",), ("drop",), ("comment",), ("grant",), ("revoke",)]

_TAKE_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_FIND_HISTORY = """
    SELECT coalesce(n.nspname, $2, current_schema())::text AS schema,
           c.oid IS NOT NULL AS is_there,
           $2::text IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $2::text) AS has_schema,
           EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = c.oid AND attname = 'source') AS has_source
      FROM (VALUES (to_regclass($1::text))) AS named (oid)
      LEFT JOIN pg_catalog.pg_class AS c USING (oid)
      LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
"""
_CREATE_HISTORY = """
    CREATE TABLE {table} (
        source     text        NOT NULL DEFAULT 'database',
        version    text        NOT NULL,
        name       text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (source, version)
    )
"""
# of a time when there were only the package's own files
_EXTEND_HISTORY = """
    ALTER TABLE {table}
      ADD COLUMN source text NOT NULL DEFAULT 'database',
     DROP CONSTRAINT database_migration_pkey,
      ADD PRIMARY KEY (source, version)
"""
# to_jsonb, because the column need not be there yet
_READ_HISTORY = """
    SELECT version, name, checksum, applied_at
      FROM {table} AS this
     WHERE coalesce(to_jsonb(this) ->> 'source', 'database') = $1
"""
_RECORD = """
    INSERT INTO {table} (source, version, name, checksum)
    VALUES ($1, $2, $3, $4)
"""
_FORGET = """
    DELETE FROM {table}
     WHERE source = $1 AND version = $2
"""
_SET_PATH = "SELECT set_config('search_path', $1, $2)"
# only while it runs that statement: behind a pooler, the session may be somebody else's by now
_STOP = """
    SELECT pg_cancel_backend(pid)
      FROM pg_catalog.pg_stat_activity
     WHERE pid = $1 AND state = 'active' AND query = $2
"""


class History(NamedTuple):
    """The record of the files of one *source*, in the table `database_migration` of *schema* (None: search_path)."""

    source: str
    schema: str | None = None


PACKAGE = History(_PACKAGE)


class _Applied(NamedTuple):
    version: str
    name: str
    checksum: str
    applied_at: datetime

    @property
    def file(self) -> str:
        return f"{self.version}_{self.name}.sql"


@dataclass(frozen=True)
class _Change:
    """A file that is to be applied, or undone."""

    migration: Migration
    part: Part
    history: History
    undoes: bool = False
    runs_inside: bool = True

    @property
    def doing(self) -> str:
        return f"{'undo' if self.undoes else 'apply'} {self.migration.file}"

    def is_due(self, applied: Mapping[str, _Applied]) -> bool:
        """False where somebody has done it meanwhile."""
        _check(self.migration, applied, self.history)
        if self.undoes:
            return bool(applied) and self.migration.version == max(applied, key=order_of)
        return self.migration.version not in applied


async def migrate(
    directory: str | Path | None = None,
    target: str | None = None,
    *,
    source: str | None = None,
    schema: str | None = None,
    timeout: float = _PATIENCE,
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
    timeout: float = _PATIENCE,
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
        _check(migration, applied, history)
        if migration.down is None:
            raise SchemaError(f"cannot undo {migration.file}: it has no `-- migrate:down`")
        if await _change(_Change(migration, migration.down, history, undoes=True), deadline, conn):
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


def _state(migration: Migration | None, applied: _Applied | None) -> str:
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
    timeout: float = _PATIENCE,
    conn: Connection | None = None,
) -> list[str]:
    """As `migrate`, for the files *wanted*; those *known* must not have changed either."""
    deadline = asyncio.get_running_loop().time() + timeout
    applied = await read_applied(history, conn)
    for migration in (*wanted, *known):
        _check(migration, applied, history)
    return [
        migration.file
        for migration in wanted
        if migration.version not in applied and await _change(_Change(migration, migration.up, history), deadline, conn)
    ]


# --- which files, and what is recorded of them


def _history(directory: str | Path | None, source: str | None, schema: str | None) -> History:
    if directory is None:
        if source not in (None, _PACKAGE):
            raise SchemaError(f"the source {source!r} needs a directory with SQL files")
        source = _PACKAGE
    elif source is None:
        source = _APPLICATION
    elif not is_name(source) or source == _PACKAGE:
        raise SchemaError(f"the source of SQL files is a name of your own, up to 63 bytes, and not {_PACKAGE!r}")
    if schema is not None and not is_name(schema):
        raise SchemaError("no schema can have that name: it has 1 to 63 bytes of text, without a NUL character")
    return History(source, schema)


async def _read_files(directory: str | Path | None) -> list[Migration]:
    where = resources.files("database").joinpath("sql") if directory is None else Path(directory)
    return await asyncio.to_thread(read_directory, where)


def _check(migration: Migration, applied: Mapping[str, _Applied], history: History) -> None:
    recorded = applied.get(migration.version)
    if recorded is None or recorded.checksum == migration.checksum:
        return
    if recorded.name != migration.name and history.source != _PACKAGE:
        raise SchemaError(
            f"version {migration.version} of {history.source!r} was applied as {recorded.file}, not {migration.file}; "
            "give each directory a source= of its own, or the file its old name"
        )
    raise SchemaError(
        f"{migration.file} is not the file that was applied to this database (its checksum differs); "
        "a change to the tables needs a file of its own"
    )


async def _find_history(c: Connection, history: History) -> tuple[str, dict[str, bool]]:
    """The table's name in SQL, and what there is of it."""
    prefix = "" if history.schema is None else f"{quote_identifier(history.schema)}."
    found = dict(await c.fetchrow(_FIND_HISTORY, f"{prefix}database_migration", history.schema) or {})
    schema = found.pop("schema")
    if schema is None:
        raise SchemaError("there is no schema to make tables in: search_path names none that exists", sqlstate="3F000")
    if not found["has_schema"]:
        raise SchemaError(f"Schema {history.schema!r} not found.", sqlstate="3F000")
    return f"{quote_identifier(schema)}.database_migration", found


async def read_applied(history: History, conn: Connection | None) -> dict[str, _Applied]:
    """What was applied of *history*, by version; {} where nothing was, also where its table is not there."""

    async def ask(c: Connection) -> dict[str, _Applied]:
        table, found = await _find_history(c, history)
        return await _read_table(c, table, history) if found["is_there"] else {}

    doing = "read the applied migrations"
    return await perform(ask, conn=conn, kind=SchemaError, doing=doing, changes=False, repeatable=True)


async def _read_table(c: Connection, table: str, history: History) -> dict[str, _Applied]:
    rows = await c.fetch(_READ_HISTORY.format(table=table), history.source)
    return {row["version"]: _Applied(**row) for row in rows}


async def _make_history(c: Connection, history: History) -> str:
    table, found = await _find_history(c, history)
    if not found["is_there"]:
        await c.execute(_CREATE_HISTORY.format(table=table))
    elif not found["has_source"]:
        await c.execute(_EXTEND_HISTORY.format(table=table))
    return table


async def _record(c: Connection, table: str, change: _Change) -> None:
    migration, source = change.migration, change.history.source
    if change.undoes:
        await c.execute(_FORGET.format(table=table), source, migration.version)
    else:
        await c.execute(_RECORD.format(table=table), source, migration.version, migration.name, migration.checksum)


# --- one file


async def _change(change: _Change, deadline: float, conn: Connection | None) -> bool:
    """Apply or undo one file; False where somebody else has done so meanwhile."""
    done = await _change_in_transaction(change, deadline, conn) if change.part.in_transaction else None
    if done is None:
        if conn is not None:
            raise _needs_no_transaction(change, conn)
        alone = replace(change, runs_inside=False)
        done = await _in_turn(lambda: _change_outside(alone, deadline), deadline, change.doing)
    if done:
        log.info("%s %s", "undid" if change.undoes else "applied", change.migration.file)
    return done


async def _change_in_transaction(change: _Change, deadline: float, conn: Connection | None) -> bool | None:
    """None where its only statement refuses to run in a transaction: all or nothing that is by itself."""
    try:
        return await _in_turn(lambda: _change_inside(change, deadline, conn), deadline, change.doing)
    except DatabaseError as exc:
        if exc.sqlstate != "25001":  # active_sql_transaction
            raise _named(exc, change) from exc
        if conn is not None or len(change.part.statements) > 1:
            raise _needs_no_transaction(change, conn) from exc
        return None


def _needs_no_transaction(change: _Change, conn: Connection | None) -> SchemaError:
    way_out = (
        "call it without conn="
        if conn is not None
        else f"write `-- migrate:{'down' if change.undoes else 'up'} transaction:false`, in a file of its own"
    )
    return SchemaError(f"cannot {change.doing}: it must run outside of a transaction; {way_out}", sqlstate="25001")


def _named(exc: DatabaseError, change: _Change) -> DatabaseError:
    """*exc*, such as one of COMMIT, with the name of the file in its text."""
    if change.migration.file in str(exc) or isinstance(exc, ConnectionPoolError):
        return exc
    kind = OutcomeUnknownError if isinstance(exc, OutcomeUnknownError) else SchemaError
    return kind(
        f"cannot {change.doing}: {exc}",
        original_error=exc.original_error or exc,
        sqlstate=exc.sqlstate,
        retryable=exc.retryable,
    )


async def in_turn(work: Callable[[Connection], Awaitable[bool]], *, doing: str, conn: Connection | None) -> bool:
    """The result of *work*, in a transaction and while nobody applies SQL files or does other work in turn."""

    async def take_turn(c: Connection) -> bool | None:
        return await work(c) if await c.fetchval(_TAKE_LOCK, _LOCK) else None

    async def attempt() -> bool | None:
        if conn is None:
            return await run_transaction(take_turn)
        async with get_db_transaction(conn=conn) as c:
            return await take_turn(c)

    return await _in_turn(attempt, asyncio.get_running_loop().time() + _PATIENCE, doing)


async def _in_turn(attempt: Callable[[], Awaitable[bool | None]], deadline: float, doing: str) -> bool:
    """What *attempt* returns when it no longer returns None, which says that somebody else has the lock."""
    loop = asyncio.get_running_loop()
    tries = 0
    while True:
        done = await attempt()
        if done is not None:
            return done
        if loop.time() >= deadline:
            raise SchemaError(
                f"cannot {doing}: somebody else applies SQL files all the time; who it is stands in pg_locks, "
                f"locktype 'advisory', objid {_LOCK}"
            )
        await asyncio.sleep(backoff(tries, 0.02, 0.5))
        tries += 1


async def _change_inside(change: _Change, deadline: float, conn: Connection | None) -> bool | None:
    async def work(c: Connection) -> bool | None:
        if not await c.fetchval(_TAKE_LOCK, _LOCK):
            return None
        table = await _make_history(c, change.history)
        if not change.is_due(await _read_table(c, table, change.history)):
            return False
        if conn is None:  # *timeout* is the limit
            await c.execute("SET LOCAL statement_timeout = 0")
        path = None
        if change.history.schema is not None:
            path = await c.fetchval("SELECT current_setting('search_path')")
            await c.execute(_SET_PATH, _path(change.history.schema, path), True)
        for statement in change.part.statements:
            await _execute(c, statement, change, deadline, 0)
        if path is not None:
            await c.execute(_SET_PATH, path, True)
        await _record(c, table, change)
        return True

    if conn is not None:
        async with get_db_transaction(conn=conn) as c:
            return await work(c)
    try:
        return await run_transaction(work)
    except OutcomeUnknownError as exc:
        log.info("looking whether %s was done: %s", change.migration.file, exc)
        return None  # the record tells, at the next attempt


def _path(schema: str, rest: str) -> str:
    return f"{quote_identifier(schema)}, {rest}" if rest else quote_identifier(schema)


async def _execute(c: Connection, statement: Statement, change: _Change, deadline: float, done: int) -> None:
    """Run one *statement* of a file; *done* of them have been committed before it."""
    inside = change.runs_inside
    seconds = max(1.0, deadline - asyncio.get_running_loop().time())
    try:
        await c.execute(statement.text, timeout=seconds)
    except Exception as exc:
        if isinstance(exc, DatabaseError) or not raised_by_driver(exc):
            raise
        place = statement.start + max(0, int(getattr(exc, "position", None) or 1) - 1)
        doing = f"{change.doing}, line {change.part.line_at(place)}"
        error = translate(exc, SchemaError, doing, closed=c.is_closed(), inside=inside)
        text = str(error) if change.migration.file in str(error) else f"cannot {doing}: {error}"
        if statement.words[:1] in _DEFINES and (error.sqlstate or "").startswith("42"):
            text = f"cannot {doing}: {str(exc).partition(chr(10))[0]} [{error.sqlstate}]"  # names and types, no data
        if done:
            text += f"; {done} of its statements were done before and stay"
        raise type(error)(
            text, original_error=exc, sqlstate=error.sqlstate, retryable=error.retryable and inside
        ) from exc


async def _change_outside(change: _Change, deadline: float) -> bool | None:
    """
    The statements of a file one by one, through a connection of their own.

    The lock is that of another one's transaction, which does nothing else: so it ends with us, whatever happens, also
    behind PgBouncer, where a lock of the session would outlive it.
    """
    async with get_db_transaction(readonly=True) as holder:
        if not await holder.fetchval(_TAKE_LOCK, _LOCK):
            return None
        # last, as one simple query: that closes the portal of the SELECT, whose snapshot an index would wait for
        await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        pool = await get_connection_pool()
        connection = await _connect(pool)
        try:
            return await _run_statements(connection, holder, change, deadline)
        finally:
            connection.terminate()


async def _connect(pool: Pool) -> Any:
    """One that the pool does not count: all that it counts may be held by those who wait for this one to be done."""
    try:
        return await pool.connect(pool.settings.connection_timeout)
    except Exception as exc:
        raise translate(exc, DatabaseNotAvailableError, "connect", changes=False) from exc


async def _run_statements(c: Any, holder: Connection, change: _Change, deadline: float) -> bool:
    async def begin(c: Connection) -> tuple[str, bool]:
        table = await _make_history(c, change.history)
        return table, change.is_due(await _read_table(c, table, change.history))

    about: dict[str, Any] = {"conn": c, "kind": SchemaError, "doing": change.doing, "repeatable": False}
    table, is_due = await perform(begin, changes=True, **about)
    if not is_due:
        return False
    if change.history.schema is not None:
        path = _path(change.history.schema, await c.fetchval("SELECT current_setting('search_path')"))
        await c.execute(_SET_PATH, path, False)
    if await c.fetchval("SELECT current_setting('statement_timeout')") != "0":
        await c.execute("SET statement_timeout = 0")
    backend = await c.fetchval("SELECT pg_backend_pid()")
    for number, statement in enumerate(change.part.statements):
        await drop_remains(c, statement.text, deadline)
        try:
            await _execute(c, statement, change, deadline, number)
        except Exception:
            if not c.is_closed():
                await drop_remains(c, statement.text, deadline)
            raise
        except BaseException:
            await _stop(holder, backend, statement.text)
            raise
    await perform(lambda c: _record(c, table, change), changes=True, **about)
    return True


async def _stop(holder: Connection, backend: int, statement: str) -> None:
    """Have the server give up a *statement* whose caller was cancelled: it would go on, and nobody would wait."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await holder.fetch(_STOP, backend, statement)
    except Exception as exc:
        log.warning("a statement may still run in the server: %s", exc)
