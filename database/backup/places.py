"""
Where a database is: what asyncpg, and what libpq's programs are told of it.

Where the server is goes by the environment, the password by a file that has no name, and ends with who has it open.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from ..exceptions import BackupError, DatabaseNotAvailableError, translate
from ..pool import Pool, PooledConnection
from ..registry import server_address
from ..settings import Settings, redact
from .programs import Surroundings, bare_environment

_TLS = ("require", "verify-ca", "verify-full")
_LONGEST = 86_400.0  # seconds that a statement may take: copying a database takes its time

_FACTS = """
    SELECT current_database() AS database,
           current_user AS user,
           pg_database_size(current_database()) AS bytes,
           (SELECT count(*)
              FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE relkind IN ('r', 'm') AND nspname <> 'information_schema' AND nspname !~ '^pg_') AS tables
"""


class Place:
    """A database on a server, as libpq's programs are told it. Holds the password, and shows it to nobody."""

    __slots__ = ("_password", "database", "host", "is_local", "port", "server_version", "user", "variables")

    def __init__(self, dsn: str, connection: PooledConnection, database: str, user: str) -> None:
        url = urlsplit(dsn)
        query = dict(parse_qsl(url.query))
        credentials, at, _ = url.netloc.rpartition("@")
        self._password = unquote(credentials.partition(":")[2]) if at else ""
        self.database, self.user = database, user
        address: Any = connection._addr  # type: ignore[attr-defined]  # of several hosts, the one that answered
        if isinstance(address, str):
            self.host, self.port = os.path.dirname(address), address.rpartition(".")[2]  # noqa: PTH120 (as libpq has it)
            self.is_local = True
        else:
            self.host, self.port = str(address[0]), str(address[1])
            self.is_local = self.host in ("localhost", "127.0.0.1", "::1")
        self.server_version = connection.get_server_version().major
        names = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}
        self.variables = {variable: query[name] for name, variable in names.items() if name in query}

    @property
    def needs_tls(self) -> bool:
        """True where plain text is out of the question."""
        return self.variables.get("PGSSLMODE") in _TLS

    @contextmanager
    def surroundings(self, settings: Settings) -> Iterator[Surroundings]:
        """What a program finds: no password in its environment, but for the time of the block a file with it."""
        variables = bare_environment() | self.variables | {
            "PGHOST": self.host,
            "PGPORT": self.port,
            "PGUSER": self.user,
            "PGDATABASE": self.database,
            "PGAPPNAME": settings.application_name,
            "PGCONNECT_TIMEOUT": str(max(2, round(settings.connection_timeout))),
        }  # fmt: skip
        if not self._password:
            yield Surroundings(variables)
            return
        with tempfile.TemporaryFile() as file:  # of mode 0600, and already deleted: also kill -9 leaves nothing
            escaped = re.sub(r"([\\:])", r"\\\1", self._password)
            file.write(f"*:*:*:*:{escaped}\n".encode())
            file.seek(0)
            yield Surroundings(variables | {"PGPASSFILE": f"/dev/fd/{file.fileno()}"}, (file.fileno(),))

    def named(self, server: str) -> bool:
        """True where *server*, "host" or "host:port", means this one."""
        return server in (
            self.host,
            f"{self.host}:{self.port}",
            f"[{self.host}]:{self.port}",
            f"{self.host}/{self.port}",
        )


def dsn_of(dsn: str, database: str) -> str:
    """*dsn* for another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path="/" + quote(database, safe="")))


@asynccontextmanager
async def connect(settings: Settings, dsn: str) -> AsyncIterator[PooledConnection]:
    """A connection to *dsn* outside of any pool, whose statements take what they take. Raises `DatabaseError`s."""

    async def address() -> str:
        return dsn

    limits = {"command_timeout": _LONGEST, "statement_timeout": None, "query_log": "off", "echo": "off"}
    pool = Pool.unopened(settings.model_copy(update=limits | {"slow_query_ms": None}), address)
    try:
        connection = await pool.connect(settings.connection_timeout)
    except Exception as exc:
        raise translate(exc, DatabaseNotAvailableError, f"connect to {redact(dsn)}", changes=False) from exc
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=2)
        except Exception:
            connection.terminate()


def refuse_pooler(settings: Settings, doing: str) -> None:
    """Raise `BackupError` where the settings lead to a pooler, which hands sessions about."""
    if settings.pooler == "transaction":
        raise BackupError(f"cannot {doing} through a pooler (DB_POOLER=transaction): name the server itself")


async def find_place(settings: Settings) -> tuple[Place, dict[str, Any]]:
    """Where *settings* lead to, and facts about the database: bytes, tables. Raises `DatabaseError`s."""
    dsn = await server_address(settings)
    async with connect(settings, dsn) as connection:
        facts = dict(await connection.fetchrow(_FACTS) or {})
        return Place(dsn, connection, facts["database"], facts["user"]), facts
