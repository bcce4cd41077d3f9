"""
Databases for tests: a server, a template that is made once for a run, and copies of it.

All processes of a run (pytest-xdist's workers) share the template. Each holds a lock on the server that says that the
run is alive; whoever finds databases of a run without one, because it was killed, drops them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from .. import embedded
from ..chat_history import init_chat_history_table
from ..connect_db import close_connection_pool
from ..document import init_document_table
from ..embedded.directory import find_directory
from ..exceptions import DatabaseError, DatabaseNotAvailableError, reason
from ..query import quote_identifier
from ..schema import migrate
from ..settings import Settings, configure, configured
from .background import run_blocking
from .isolation import close_idle_lines

Setup = Callable[[], Awaitable[object]]

_ALIVE, _MAKING = 0x70677465, 0x70677466  # advisory locks: a run is alive; somebody makes its template
_NAME = re.compile(r"test_([0-9a-f]{8})_\w+")
_IN_A_HURRY = ("fsync = off", "synchronous_commit = off", "full_page_writes = off")
_DATABASES = """
    SELECT datname::text FROM pg_catalog.pg_database WHERE datname ~ '^test_[0-9a-f]{8}_' ORDER BY datname
"""


class TestRun:
    """
    A run of tests on the server at *url*: its databases, whose names begin with *prefix*, until `end`.

    *identity* is the same in all processes of a run; by default, that of pytest-xdist.
    """

    __test__ = False  # for pytest, which takes what begins with Test for tests

    def __init__(self, url: str, identity: str | None = None) -> None:
        identity = identity or os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
        self.url = url
        self._key = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")
        self.prefix = f"test_{self._key:08x}_"
        self._connection: Any = None
        self._turns = asyncio.Lock()
        run_blocking(self._begin())

    async def _begin(self) -> None:
        try:
            self._connection = await asyncpg.connect(Settings(database_url=self.url).dsn, timeout=30)
        except (OSError, asyncpg.PostgresError, TimeoutError) as exc:
            raise DatabaseNotAvailableError(
                f"the tests cannot connect to their server: {reason(exc)}; see TEST_DATABASE_URL"
            ) from exc
        await self._connection.execute("SELECT pg_advisory_lock_shared($1, $2)", _ALIVE, self._lock_key(self._key))
        await self._drop_dead()

    # -- databases

    def settings(self, name: str) -> Settings:
        """How the package reaches the database *name*."""
        url = urlunsplit(urlsplit(self.url)._replace(path="/" + quote(name, safe="")))
        return Settings(database_url=url, min_connections=0, max_connections=10, pooler="none")

    def template(self, setup: Setup) -> str:
        """The name of the database that *setup* has filled; the first of the run's processes that asks makes it."""
        return run_blocking(self._make_template(setup))

    async def _make_template(self, setup: Setup) -> str:
        name = self.prefix + "template"
        async with self._turns:
            connection = self._connection
            await connection.execute("SELECT pg_advisory_lock($1, $2)", _MAKING, self._lock_key(self._key))
            try:
                if name not in [row[0] for row in await connection.fetch(_DATABASES)]:
                    unfinished = name + "_unfinished"
                    await self._drop(unfinished)
                    await self._create(unfinished, "template1")
                    await self._fill(unfinished, setup)
                    await connection.execute(f'ALTER DATABASE "{unfinished}" RENAME TO "{name}"')
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1, $2)", _MAKING, self._lock_key(self._key))
        return name

    async def _fill(self, name: str, setup: Setup) -> None:
        before = configured()
        configure(self.settings(name))
        try:
            await setup()
        finally:
            await close_connection_pool(timeout=2)
            configure(before)

    def create(self, template: str, name: str | None = None) -> Settings:
        """A copy of the database *template*, by default under a name that nobody has."""
        name = self.prefix + (name or uuid.uuid4().hex)

        async def make() -> None:
            async with self._turns:
                await self._drop(name)
                await self._create(name, template)

        run_blocking(make())
        return self.settings(name)

    def drop(self, settings: Settings) -> None:
        """The end of a database, and of every connection to it."""
        name = urlsplit(settings.dsn).path[1:]

        async def drop() -> None:
            async with self._turns:
                await self._drop(name)

        run_blocking(drop())

    async def _create(self, name: str, template: str) -> None:
        try:
            await self._connection.execute(
                f"CREATE DATABASE {quote_identifier(name)} TEMPLATE {quote_identifier(template)}"
            )
        except asyncpg.InsufficientPrivilegeError as exc:
            raise DatabaseError(
                "the tests may not make databases on their server: ALTER ROLE … CREATEDB, or name another one in "
                "TEST_DATABASE_URL",
                sqlstate=exc.sqlstate,
            ) from exc

    async def _drop(self, name: str) -> None:
        await self._connection.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")

    # -- the end

    def end(self) -> None:
        """Drop what this process has made, and, in the last process of the run, its template."""
        close_idle_lines()
        run_blocking(self._end())

    async def _end(self) -> None:
        try:
            await self._connection.execute(
                "SELECT pg_advisory_unlock_shared($1, $2)", _ALIVE, self._lock_key(self._key)
            )
            await self._drop_dead()
        finally:
            await self._connection.close(timeout=5)

    async def _drop_dead(self) -> None:
        """Drop the databases of runs that are not alive."""
        names: dict[int, list[str]] = {}
        for row in await self._connection.fetch(_DATABASES):
            if match := _NAME.fullmatch(row[0]):
                names.setdefault(int(match[1], 16), []).append(row[0])
        for key, dead in names.items():
            lock = (_ALIVE, self._lock_key(key))
            if not await self._connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *lock):
                continue
            try:
                for name in dead:
                    await self._drop(name)
            finally:
                await self._connection.execute("SELECT pg_advisory_unlock($1, $2)", *lock)

    @staticmethod
    def _lock_key(key: int) -> int:
        return key - 2**31  # an integer of PostgreSQL has a sign


@contextmanager
def serve(project: Path | None = None) -> Iterator[str]:
    """
    The URL of a server for tests: TEST_DATABASE_URL, else an embedded server of the *project* (a directory in it).

    The embedded one lies beside that of the project (DB_EMBEDDED_DIR), with `-testing` behind its name, and does not
    wait for the disk: what a crash would take is made anew.
    """
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        yield url
        return
    own = find_directory(place=project)
    directory = own.with_name(own.name + "-testing")
    url = run_blocking(embedded.start(directory))
    run_blocking(make_it_hurry(url))
    try:
        yield url
    finally:
        run_blocking(embedded.stop(directory))


async def make_it_hurry(url: str) -> None:
    """Have the server not wait for the disk: only for one whose databases nobody would miss."""
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval("SELECT current_setting('fsync')") == "on":
            for setting in _IN_A_HURRY:
                await connection.execute(f"ALTER SYSTEM SET {setting}")
            await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close(timeout=5)


@contextmanager
def used_by_default(settings: Settings) -> Iterator[Settings]:
    """For the time of the block, the package uses the database of *settings* where none is named."""
    before = configured()
    configure(settings)
    try:
        yield settings
    finally:
        configure(before)


async def create_tables(migrations: Path | None) -> None:
    """The tables of the package, and those that the files of the directory *migrations* make."""
    await init_document_table()
    await init_chat_history_table()
    if migrations is not None:
        await migrate(migrations)
