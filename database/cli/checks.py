"""
Whether everything is in place: Python, the settings, the server, the tables; and how to mend what is not.

A check never raises: what goes wrong is its result. Those that need the server are left out where it cannot be reached.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dotenv import dotenv_values
from pydantic import AliasChoices

from .. import embedded
from ..connect_db import Connection, get_db_connection
from ..exceptions import DatabaseError
from ..migration_history import PACKAGE, read_applied
from ..schema import read_migrations
from ..settings import Settings, configure, get_settings

_DISTRIBUTION = "pgdatabase"
_OLDEST, _NEWEST = 15, 18  # PostgreSQL versions
_PATIENCE = 10.0  # seconds for a connection
_LITTLE_DISK = 500 * 10**6  # bytes
_COMPOSED = (
    "all",
    "bench",
    "bench-search",
    "dev",
)  # extras made of others, and what only the work on the package needs
_EXTENSIONS = ("pg_trgm", "unaccent", "vector")


class Check(NamedTuple):
    """What one check found; *state* "fail" is what has to be mended, "note" what is worth knowing."""

    name: str
    state: Literal["ok", "note", "fail"]
    text: str
    hint: str | None = None


async def run_checks() -> AsyncIterator[Check]:
    """Every check, as soon as it is done."""
    yield check_python()
    yield check_extras()
    yield check_module()
    try:
        settings = get_settings()
    except DatabaseError as exc:
        yield Check("settings", "fail", str(exc), "`.env.example` lists every name; the environment beats .env")
        return
    yield check_settings(settings)
    patience = min(_PATIENCE, settings.connection_timeout)
    configure(settings.model_copy(update={"connection_timeout": patience, "min_connections": 0}))
    try:
        facts = await _ask_server()
    except DatabaseError as exc:
        yield Check("server", "fail", str(exc), _server_hint(settings))
        return
    for check in (check_server, check_encryption, check_version, check_writable, check_tables, check_extensions):
        yield check(facts)
    if not settings.names_a_server:
        yield await check_disk()


def check_python() -> Check:
    """The interpreter and this package."""
    version = ".".join(map(str, sys.version_info[:3]))
    try:
        package = f"{_DISTRIBUTION} {metadata.version(_DISTRIBUTION)}"
    except metadata.PackageNotFoundError:
        package = f"{_DISTRIBUTION} from source"
    state: Literal["ok", "fail"] = "ok" if sys.version_info >= (3, 11) else "fail"
    return Check("python", state, f"{version}, {package}", None if state == "ok" else "use Python 3.11 or newer")


def check_extras() -> Check:
    """Which extras can be used, by what they need."""
    missing: dict[str, list[str]] = {}
    for extra, requirement in _requirements_of_extras():
        lacking = missing.setdefault(extra, [])
        try:
            metadata.version(requirement)
        except metadata.PackageNotFoundError:
            lacking.append(requirement)
    there = ", ".join(extra for extra, lacking in missing.items() if not lacking) or "none"
    absent = [extra for extra, lacking in missing.items() if lacking]
    if not absent:
        return Check("extras", "ok", there)
    text = f"{there}; not installed: {', '.join(absent)}"
    return Check("extras", "note", text, f"where you need them: pip install '{_DISTRIBUTION}[{','.join(absent)}]'")


def _requirements_of_extras() -> Iterator[tuple[str, str]]:
    """(extra, distribution) for everything that an extra needs."""
    try:
        requirements = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        if name and extra and extra[1] not in _COMPOSED:
            yield extra[1], name[0]


def check_module() -> Check:
    """
    Whether `import database` means this package: not a database.py or database/ of the working directory.

    Python looks there first for `python program.py`, `python -m …` and uvicorn, and not for `pgdatabase`.
    """
    ours = Path(__file__).resolve().parent.parent
    here: list[str] = []
    with suppress(OSError):  # the working directory may have been deleted
        here = [] if sys.flags.safe_path else [str(Path.cwd())]
    spec = PathFinder.find_spec("database", [*here, *sys.path])
    found = Path(spec.origin).resolve() if spec and spec.origin else None
    if found is not None and found != ours / "__init__.py":
        who = "a package" if found.name == "__init__.py" else "a module"
        place = found.parent if found.name == "__init__.py" else found
        hint = f"rename {place}, or take the directory it lies in off PYTHONPATH"
        return Check("module", "fail", f"`import database` finds {who} of that name in {place}, not {ours}", hint)
    others = sorted({*metadata.packages_distributions().get("database", [])} - {_DISTRIBUTION})
    if others:
        text = f"the distribution {', '.join(others)} also installs a package `database`, into the same place"
        return Check("module", "fail", text, f"pip uninstall {' '.join(others)}, then install {_DISTRIBUTION} again")
    return Check("module", "ok", f"`import database` finds {ours}")


_NAMES_OF_SERVER = ("database_url", "host", "port", "user", "password", "database", "sslmode", "sslrootcert")


def check_settings(settings: Settings) -> Check:
    """Which variables name the server, and where they stand."""
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    in_file = {name.upper() for name, value in dotenv_values(".env").items() if value}
    found = []
    for field in _NAMES_OF_SERVER:
        alias = Settings.model_fields[field].validation_alias
        names = [str(name) for name in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]
        found += [f"{name} (environment)" for name in names if name in in_environment]
        found += [f"{name} (.env)" for name in names if name in in_file - in_environment]
    if settings.names_a_server:
        return Check("settings", "ok", f"{settings.redacted_url} from {', '.join(found)}")
    if settings.embedded == "never":
        hint = "set DATABASE_URL, or POSTGRES_HOST and the like; DB_EMBEDDED=auto would use a private server"
        return Check("settings", "fail", "no server is named, and DB_EMBEDDED=never forbids the embedded one", hint)
    return Check("settings", "ok", "no server is named: the embedded one is used")


def _server_hint(settings: Settings) -> str:
    if settings.names_a_server:
        return "start that server or mend the settings; with none of them a private server is used"
    return "python -m database server status says where its log is"


# Facts, not guesses from error texts. `search_path` can be empty, then there is no current schema.
_FACTS = """
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::int / 10000 AS major,
           current_user::text AS role,
           current_database()::text AS database,
           pg_is_in_recovery() AS standby,
           current_setting('default_transaction_read_only') = 'on' AS read_only,
           coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls,
           (SELECT version || ', ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS cipher,
           host(inet_client_addr()) AS client,
           current_schema()::text AS schema,
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create
"""
_AVAILABLE = """
    SELECT name, coalesce(installed_version, default_version) AS version, installed_version IS NOT NULL AS installed
      FROM pg_available_extensions
     WHERE name = ANY($1)
     ORDER BY name
"""


async def _ask_server() -> dict[str, Any]:
    async with get_db_connection() as conn:
        facts = dict(await conn.fetchrow(_FACTS) or {})
        facts["applied"] = await applied_migrations(conn)
        facts["extensions"] = [dict(row) for row in await conn.fetch(_AVAILABLE, list(_EXTENSIONS))]
    return facts


async def applied_migrations(conn: Connection) -> dict[str, str]:
    """Which of the package's SQL files were applied to the database, and their checksums then."""
    return {version: each.checksum for version, each in (await read_applied(PACKAGE, conn)).items()}


def check_server(facts: dict[str, Any]) -> Check:
    """That it answers."""
    return Check("server", "ok", f"answers; database {facts['database']}, user {facts['role']}")


def check_encryption(facts: dict[str, Any]) -> Check:
    """Whether anybody could listen."""
    if facts["tls"]:
        return Check("transport", "ok", f"encrypted ({facts['cipher']})")
    if facts["client"] is None:
        return Check("transport", "ok", "a unix socket of this machine")
    if facts["client"] == "::1" or facts["client"].startswith("127."):
        return Check("transport", "ok", "not encrypted, but inside this machine")
    hint = "POSTGRES_SSLMODE=verify-full encrypts and makes the server prove who it is"
    return Check("transport", "note", f"not encrypted, and the server sees us as {facts['client']}", hint)


def check_version(facts: dict[str, Any]) -> Check:
    """PostgreSQL 15 to 18."""
    if facts["major"] < _OLDEST:
        hint = f"this package needs PostgreSQL {_OLDEST} or newer"
        return Check("version", "fail", f"PostgreSQL {facts['version']} is too old", hint)
    if facts["major"] > _NEWEST:
        return Check("version", "note", f"PostgreSQL {facts['version']}; this package was tested with up to {_NEWEST}")
    return Check("version", "ok", f"PostgreSQL {facts['version']}")


def check_writable(facts: dict[str, Any]) -> Check:
    """Not a standby, not read-only."""
    if facts["standby"]:
        hint = "name the primary, or several hosts with ?target_session_attrs=read-write"
        return Check("writable", "fail", "no, it is a standby", hint)
    if facts["read_only"]:
        hint = "default_transaction_read_only is on for this server, database or user: turn it off"
        return Check("writable", "fail", "no, transactions are read-only", hint)
    return Check("writable", "ok", "yes")


def check_tables(facts: dict[str, Any]) -> Check:
    """That the tables are those of this version, or can be made."""
    changed = [m.name for m in read_migrations() if facts["applied"].get(m.version, m.checksum) != m.checksum]
    if changed:
        text = f"{', '.join(changed)}: made by another version of this package, or changed since"
        return Check("tables", "fail", text, "install the version that made them, or MIGRATION_GUIDE.md")
    missing = [m.name for m in read_migrations() if m.version not in facts["applied"]]
    if not missing:
        return Check("tables", "ok", ", ".join(m.name for m in read_migrations()))
    if not facts["may_create"]:
        schema = facts["schema"] or "public"
        text = f"{', '.join(missing)} missing, and {facts['role']} may not create tables in schema {schema}"
        return Check("tables", "fail", text, f"let its owner: GRANT CREATE ON SCHEMA {schema} TO {facts['role']}")
    text = f"{', '.join(missing)} not there yet; {facts['role']} may create them"
    return Check("tables", "note", text, "python -m database init")


def check_extensions(facts: dict[str, Any]) -> Check:
    """Which of the extensions there are that would be used."""
    there = {row["name"]: row for row in facts["extensions"]}
    texts = [
        f"{name} {there[name]['version']} {'installed' if there[name]['installed'] else 'available'}"
        if name in there
        else f"{name} not available"
        for name in _EXTENSIONS
    ]
    return Check("extensions", "ok", ", ".join(texts) + " (none is needed)")


async def check_disk() -> Check:
    """Room for the embedded server's data."""
    directory = Path((await embedded.status())["directory"])
    free = shutil.disk_usage(directory).free
    text = f"{free / 10**9:,.1f} GB free in {directory}"
    if free < _LITTLE_DISK:
        return Check("disk", "fail", text, "make room, or set DB_EMBEDDED_DIR to another disk")
    return Check("disk", "ok", text)
