"""
A dump becomes a database: beside the one that it is to replace, and then, by renaming, in its place.

So whatever happens, there is the old one or the new one, whole, under its name.
"""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from ..exceptions import BackupError, DatabaseError, confidential, reason, translated
from ..pool import PooledConnection
from ..query import quote_identifier
from ..registry import close_connection_pool, open_pool, server_address
from ..settings import Settings, get_settings
from .archives import Head, major_of, read_head, verify
from .dumping import Progress
from .places import Place, connect, dsn_of, refuse_pooler
from .programs import Clients, Surroundings, find_clients, run_program

log = logging.getLogger("database")

_TABLE = re.compile(r"processing data for table \"(.*)\"$")
_NEW, _OLD = "pgdatabase_restoring_", "pgdatabase_replaced_"
_SWAP_SECONDS = 20.0
_CLEAN_UP_SECONDS = 30.0
_NO_SUCH_DATABASE = "3D000"
_HINT = "; owners=False (--no-owners) restores without owners and grants"
# whose values are lists of names, which are stored quoted; as pg_dump tells them
_LISTS = frozenset({
    "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
    "temp_tablespaces", "unix_socket_directories",
})  # fmt: skip

_IS_EMPTY = """
    WITH own AS (SELECT oid FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'),
         of_extensions AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
    SELECT NOT EXISTS (SELECT oid, tableoid FROM pg_class WHERE relnamespace IN (SELECT oid FROM own)
                       UNION ALL
                       SELECT oid, tableoid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM own)
                       UNION ALL
                       SELECT oid, tableoid FROM pg_type
                        WHERE typnamespace IN (SELECT oid FROM own)
                          AND oid NOT IN (SELECT objid FROM pg_depend
                                           WHERE classid = 'pg_type'::regclass AND deptype = 'i')  -- with its element
                       UNION ALL
                       SELECT oid, tableoid FROM pg_namespace
                        WHERE oid IN (SELECT oid FROM own) AND nspname <> 'public'
                       EXCEPT ALL
                       SELECT objid, classid FROM of_extensions)
       AND NOT EXISTS (SELECT FROM pg_largeobject_metadata)
"""

_READ_DATABASE = """
    SELECT to_jsonb(d) - 'datacl' || jsonb_build_object(
               'owner', pg_get_userbyid(datdba),
               'encoding', pg_encoding_to_char(encoding),
               'tablespace', spcname,
               'comment', shobj_description(d.oid, 'pg_database'),
               'grants', (SELECT jsonb_agg(jsonb_build_array(
                                     privilege_type, CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END,
                                     is_grantable))
                            FROM aclexplode(datacl)),
               'settings', (SELECT jsonb_agg(jsonb_build_array(
                                       CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole) END, setting))
                              FROM pg_db_role_setting, unnest(setconfig) AS setting
                             WHERE setdatabase = d.oid))
      FROM pg_database AS d JOIN pg_tablespace AS t ON t.oid = d.dattablespace
     WHERE datname = $1
"""

_LEFTOVERS = """
    SELECT datname
      FROM pg_database
     WHERE datname ~ ('^pgdatabase_(restoring|replaced)_' || $1 || '[0-9a-f]{16}$')
       AND pg_has_role(datdba, 'USAGE')
"""

_CUT_OFF = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = $1 AND pid <> pg_backend_pid() AND usesysid IS NOT NULL"  # autovacuum yields to the renaming
)


@confidential
async def restore_database(
    path: str | Path,
    *,
    confirm: str,
    name: str = "default",
    clean: bool = False,
    owners: bool = True,
    server: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """
    Make the database *name* what the dump *path* holds; the result: database, path, tables, seconds, replaced.

    The dump is restored beside the database, which then changes places with it; whatever fails before that, or is
    cancelled, leaves everything as it was. *confirm* is the name of the database in the server, as a safeguard.
    A database that holds anything is replaced only with *clean*, and then with everything in it; its connections are
    cut off, and this loop's pool for *name* is closed. What was set for the database itself stays: owner, locale,
    settings, grants. *server*, "host" or "host:port", has to be named where it is not on this machine.
    *owners* False: everything belongs to who restores, and no grant is restored, for a server without those roles.
    *progress* gets dicts with done, total (tables) and table. The role needs CREATEDB, and to own the database.

    Archives are code: restore only what you trust. Raises `BackupError` where it refuses, where the checksum is wrong
    or missing, and where pg_restore fails or is missing; `DatabaseNotAvailableError` where there is no server.
    """
    path = Path(path)
    settings = get_settings(name)
    doing = f"restore {path.name}"
    refuse_pooler(settings, doing)
    began = time.monotonic()
    await asyncio.to_thread(verify, path)
    head = read_head(path)
    dsn = await server_address(settings)
    database = database_of(dsn)
    async with _administrator(settings, dsn, database) as admin:
        with translated(admin.is_closed, BackupError, doing):
            place, replaced = await _find_target(admin, settings, dsn, doing, confirm, server, clean=clean)
            _check_version(head, place)
            clients = await asyncio.to_thread(
                find_clients, place.server_version, at_least=major_of(head.pg_dump_version), tls=place.needs_tls,
                restoring=True, doing="pg_restore",
            )  # fmt: skip
            await _tidy_up(admin, database)
            async with _database_beside(admin, place, replaced, doing) as new:
                arguments: list[str | Path] = [
                    clients.directory / "pg_restore",
                    "--no-password",
                    "--exit-on-error",
                    "--verbose",
                ]
                arguments += [] if owners else ["--no-owner", "--no-privileges"]
                archive = path.absolute()  # whose name is no option
                with place.surroundings(settings) as surroundings:
                    tables = await _count_tables(clients, archive, surroundings)
                    await run_program(
                        [*arguments, f"--dbname={new}", archive],
                        surroundings,
                        doing=doing,
                        on_line=_tell(progress, tables),
                        hint=_HINT if owners else "",
                    )
                async with connect(settings, dsn_of(dsn, new)) as connection:
                    with translated(connection.is_closed, BackupError, doing):
                        await connection.execute("ANALYZE")
                if open_pool(name) is not None:
                    await close_connection_pool(name)
                await _swap(admin, settings, dsn, database, new, replaced)
    return {
        "database": database,
        "path": str(path),
        "tables": tables,
        "seconds": round(time.monotonic() - began, 3),
        "replaced": replaced is not None,
    }


async def check_target(*, confirm: str, name: str, clean: bool, server: str | None, doing: str) -> None:
    """Raise what `restore_database` would before it looks at a dump: for whoever has one to make first."""
    settings = get_settings(name)
    refuse_pooler(settings, doing)
    dsn = await server_address(settings)
    async with _administrator(settings, dsn, database_of(dsn)) as admin:
        with translated(admin.is_closed, BackupError, doing):
            await _find_target(admin, settings, dsn, doing, confirm, server, clean=clean)


async def _find_target(
    admin: PooledConnection, settings: Settings, dsn: str, doing: str, confirm: str, server: str | None, *, clean: bool
) -> tuple[Place, dict[str, Any] | None]:
    """The database that is meant, and what is set for it if it is there; raises `BackupError` where another is."""
    place = Place(dsn, admin, database_of(dsn), await admin.fetchval("SELECT current_user"))
    _check_names(place, confirm, server)
    replaced = await admin.fetchval(_READ_DATABASE, place.database)
    if replaced is not None and not clean:
        await _check_empty(settings, dsn, doing)
    return place, replaced


def database_of(dsn: str) -> str:
    """The name of the database that *dsn* leads to."""
    url = urlsplit(dsn)
    user = unquote(url.netloc.rpartition("@")[0].partition(":")[0])
    return unquote(url.path[1:]) or user or getpass.getuser()


@asynccontextmanager
async def _administrator(settings: Settings, dsn: str, database: str) -> AsyncIterator[PooledConnection]:
    """A connection to the server that is in the way of no restoring: to another database."""
    for other in ("postgres", "template1"):
        if other == database:
            continue
        async with AsyncExitStack() as stack:
            try:
                admin = await stack.enter_async_context(connect(settings, dsn_of(dsn, other)))
            except DatabaseError as exc:
                if exc.sqlstate == _NO_SUCH_DATABASE and other == "postgres":
                    continue
                raise
            yield admin
            return
    raise BackupError(f"there is no database beside {database!r} to work from: create one called postgres")


def _check_names(place: Place, confirm: str, server: str | None) -> None:
    where = f"{place.host}:{place.port}"
    if confirm != place.database:
        raise BackupError(
            f"the settings lead to the database {place.database!r} on {where}, and confirm says {confirm!r}: "
            "nothing was done"
        )
    if server is None and not place.is_local:
        raise BackupError(f"the settings lead to another machine: name it, server={where!r}, if that is what you want")
    if server is not None and not place.named(server):
        raise BackupError(f"the settings lead to {where}, and not to {server}: nothing was done")


def _check_version(head: Head, place: Place) -> None:
    if major_of(head.server_version) > place.server_version:
        raise BackupError(
            f"the dump was made from PostgreSQL {head.server_version}, and the server is PostgreSQL "
            f"{place.server_version}: restore into {major_of(head.server_version)} or newer"
        )


async def _check_empty(settings: Settings, dsn: str, doing: str) -> None:
    async with connect(settings, dsn) as connection:
        with translated(connection.is_closed, BackupError, doing):
            if not await connection.fetchval(_IS_EMPTY):
                raise BackupError(
                    f"the database {database_of(dsn)!r} is not empty: clean=True (--clean) replaces it, with "
                    "everything that it holds"
                )


async def _count_tables(clients: Clients, path: Path, surroundings: Surroundings) -> int:
    arguments: list[str | Path] = [clients.directory / "pg_restore", "--list", str(path)]
    listed = await run_program(arguments, surroundings, doing=f"read {path.name}")
    return len(re.findall(r"^\d+; \d+ \d+ TABLE DATA ", listed, re.MULTILINE))


def _tell(progress: Progress | None, total: int) -> Callable[[str], None]:
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if progress is not None and (found := _TABLE.search(line)):
            done += 1
            progress({"done": done, "total": max(total, done), "table": found[1]})

    return on_line


def mark_of(database: str) -> str:
    """What the names of databases have in common that stand in for *database* for a time: 8 digits."""
    return hashlib.sha256(database.encode()).hexdigest()[:8]


async def _tidy_up(admin: PooledConnection, database: str) -> None:
    """Drop what restorings have left behind whose process was killed; nothing while another one is on its way."""
    mark = mark_of(database)
    lock = int(mark, 16)
    if await admin.fetchval("SELECT pg_try_advisory_lock($1)", lock):
        for row in await admin.fetch(_LEFTOVERS, mark):
            log.warning("dropping %s, which a restoring that was killed has left behind", row["datname"])
            await admin.execute(f"DROP DATABASE IF EXISTS {quote_identifier(row['datname'])} WITH (FORCE)")
        await admin.execute("SELECT pg_advisory_lock_shared($1)", lock)
        await admin.execute("SELECT pg_advisory_unlock($1)", lock)
    else:
        await admin.execute("SELECT pg_advisory_lock_shared($1)", lock)


@asynccontextmanager
async def _database_beside(
    admin: PooledConnection, place: Place, like: dict[str, Any] | None, doing: str
) -> AsyncIterator[str]:
    """A new database with what was set for *like*; at the end of the block, whatever has an unnatural name is gone."""
    token = mark_of(place.database) + secrets.token_hex(8)
    new = _NEW + token
    leftover = new
    try:
        for statement in await _creation(admin, new, like):
            await admin.execute(statement)
        yield new
    finally:
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                for leftover in (new, _OLD + token):
                    await admin.execute(f"DROP DATABASE IF EXISTS {quote_identifier(leftover)} WITH (FORCE)")
        except Exception as exc:
            log.warning("%s is left on %s, and the next restoring drops it: %s", leftover, place.host, reason(exc))


async def _creation(admin: PooledConnection, new: str, like: dict[str, Any] | None) -> list[str]:
    """The statements that make the database *new*."""

    async def literal(value: object) -> str:
        return str(await admin.fetchval("SELECT quote_literal($1)", str(value)))

    name = quote_identifier(new)
    if like is None:
        return [f"CREATE DATABASE {name} TEMPLATE template0"]
    locale = like.get("datlocale", like.get("daticulocale"))
    provider = {"c": "libc", "i": "icu", "b": "builtin"}[like["datlocprovider"]]
    options = [
        f"OWNER {quote_identifier(like['owner'])}",
        f"ENCODING {await literal(like['encoding'])}",
        f"LOCALE_PROVIDER {provider}",
        f"LC_COLLATE {await literal(like['datcollate'])}",
        f"LC_CTYPE {await literal(like['datctype'])}",
        f"CONNECTION LIMIT {like['datconnlimit']}",
    ]
    if like["tablespace"] != "pg_default":  # to name that one takes a right, to use it none
        options.append(f"TABLESPACE {quote_identifier(like['tablespace'])}")
    if provider != "libc":
        options.append(f"{provider.upper()}_LOCALE {await literal(locale)}")
    statements = [f"CREATE DATABASE {name} TEMPLATE template0 {' '.join(options)}"]
    if like["grants"] is not None:
        statements.append(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC, {quote_identifier(like['owner'])}")
    for privilege, role, grantable in like["grants"] or ():
        grantee = "PUBLIC" if role is None else quote_identifier(role)
        statements.append(f"GRANT {privilege} ON DATABASE {name} TO {grantee}{' WITH GRANT OPTION' * grantable}")
    for role, setting in like["settings"] or ():
        variable, _, value = setting.partition("=")
        whose = f"DATABASE {name}" if role is None else f"ROLE {quote_identifier(role)} IN DATABASE {name}"
        value = value if variable in _LISTS else await literal(value)
        statements.append(f"ALTER {whose} SET {'.'.join(map(quote_identifier, variable.split('.')))} TO {value}")
    if like["comment"]:
        statements.append(f"COMMENT ON DATABASE {name} IS {await literal(like['comment'])}")
    return statements


async def _swap(
    admin: PooledConnection, settings: Settings, dsn: str, database: str, new: str, replaced: dict[str, Any] | None
) -> None:
    """
    Let *new* and *database* change names, both or none.

    ALTER DATABASE locks the database against new connections and waits 5 s for the others to end, which we end.
    """
    old = _OLD + new.removeprefix(_NEW)
    renaming = [f"ALTER DATABASE {quote_identifier(new)} RENAME TO {quote_identifier(database)}"]
    if replaced is not None:
        renaming.insert(0, f"ALTER DATABASE {quote_identifier(database)} RENAME TO {quote_identifier(old)}")
    async with connect(settings, dsn_of(dsn, "template1" if database == "postgres" else "postgres")) as second:
        task = asyncio.ensure_future(admin.execute("BEGIN; " + "; ".join(renaming) + "; COMMIT"))
        try:
            while not task.done():
                await _cut_off_clients(second, database)
                await asyncio.wait([task], timeout=0.05)
            await task
        except BaseException:
            task.cancel()
            await asyncio.wait([task], timeout=_SWAP_SECONDS)
            with suppress(Exception):
                await admin.execute("ROLLBACK")  # or nothing could be tidied up
            raise


async def _cut_off_clients(connection: PooledConnection, database: str) -> None:
    try:
        await connection.execute(_CUT_OFF, database)
    except asyncpg.InsufficientPrivilegeError as exc:
        raise BackupError(
            f"clients of another role are connected to {database!r}, and this one may not cut them off: let them "
            "disconnect, or restore as a superuser, or (where they are none) as a member of pg_signal_backend",
            original_error=exc,
            sqlstate=exc.sqlstate,
        ) from exc
