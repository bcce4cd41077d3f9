"""
A real server for every test, and a database of its own for each that asks for one.

The embedded server, in a directory of this test run, shared by all its processes; TEST_DATABASE_URL names another.
With TEST_POOLER=transaction the package reaches it through a PgBouncer of each process.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

import database as db
from database import embedded
from database.settings import Settings, configure

from .pgbouncer import pgbouncer

_POOLER = os.environ.get("TEST_POOLER")
_pooler_urls: dict[str, str] = {}  # by that of the server
# What these tests look at or set is a session of the server, which behind a pooler is not theirs.
_ABOUT_SESSIONS = frozenset({
    "test_a_forked_child_has_its_own_pool",
    "test_a_lost_connection_ends_it_and_says_how_far_it_came",
    "test_a_refused_connection_does_not_fail_those_who_can_be_served",
    "test_a_script_may_set_what_it_likes",
    "test_a_seen_shape_is_the_same_sql",
    "test_a_statement_timeout_is_an_error_of_ours",
    "test_an_unknown_database_fails_at_once",
    "test_clients_that_leave_mid_request",
    "test_connection_commits_each_statement",
    "test_discarding_all_does_not_break_the_next_statement",
    "test_expired_connections_are_replaced",
    "test_health_says_degraded_where_nothing_can_be_written",
    "test_lifespan_opens_and_closes_the_pool",
    "test_in_a_schema",
    "test_many_callers_with_much_text_do_not_eat_the_memory",
    "test_nothing_of_a_session_outlives_the_block",
    "test_pool_whose_connections_do_not_come_back",
    "test_requests_that_are_cancelled",
    "test_the_catalog_is_read_once",
})  # fmt: skip
_VARIABLES = ("DATABASE_URL", "POSTGRES_", "PG", "DB_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Behind a pooler, leave out what is about sessions."""
    for item in items if _POOLER == "transaction" else ():
        if getattr(item, "originalname", item.name) in _ABOUT_SESSIONS:
            item.add_marker(pytest.mark.skip(reason="is about a session of the server, which a pooler shares out"))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of the machine, or a `.env` in the directory that pytest was started in."""
    for variable in list(os.environ):
        if variable.startswith(_VARIABLES):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server on which the tests may make databases."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        with _behind_pooler(url):
            yield url
        return
    base = tmp_path_factory.getbasetemp()
    # under pytest-xdist, the workers' directories lie in one that they share
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "server"
    url = asyncio.run(embedded.start(directory))
    with _behind_pooler(url):
        yield url
    asyncio.run(embedded.stop(directory))


@contextmanager
def _behind_pooler(url: str) -> Iterator[None]:
    if _POOLER != "transaction":
        yield
        return
    with pgbouncer(url) as _pooler_urls[url]:
        yield


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """The name of a database with the package's tables, for the databases of this process to be copied from."""
    name = f"template_{uuid.uuid4().hex}"

    async def make() -> None:
        await _administer(server_url, f'CREATE DATABASE "{name}"')
        configure(Settings(database_url=database_url(server_url, name), min_connections=0))
        await db.init_document_table()
        await db.init_chat_history_table()
        await db.close_connection_pool()
        configure(None)

    asyncio.run(make())
    yield name
    asyncio.run(_administer(server_url, f'DROP DATABASE "{name}"'))


@pytest.fixture
async def empty_database(server_url: str) -> AsyncIterator[Settings]:
    """A database without any table, which the package uses by default; gone with all connections after the test."""
    settings = await make_database(server_url, "template1")
    yield settings
    await drop_database(server_url, settings)


@pytest.fixture
async def database(server_url: str, template: str) -> AsyncIterator[Settings]:
    """A database with empty tables, which the package uses by default; gone with all connections after the test."""
    settings = await make_database(server_url, template)
    yield settings
    await drop_database(server_url, settings)


async def make_database(server_url: str, template: str) -> Settings:
    """A new database, which the package uses by default from now on."""
    name = f"test_{uuid.uuid4().hex}"
    await _administer(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    settings = Settings(
        database_url=database_url(_pooler_urls.get(server_url, server_url), name),
        pooler="transaction" if _POOLER == "transaction" else "none",
        min_connections=0,
        max_connections=10,
    )
    configure(settings)
    return settings


async def drop_database(server_url: str, settings: Settings) -> None:
    """The end of what `make_database` made, and of every connection to it."""
    await db.close_connection_pool(timeout=1)
    configure(None)
    name = urlsplit(settings.dsn).path[1:]
    await _administer(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def database_url(server_url: str, name: str) -> SecretStr:
    """The URL of the database *name* on the same server."""
    return SecretStr(urlunsplit(urlsplit(server_url)._replace(path="/" + quote(name, safe=""))))


def direct_dsn(settings: Settings) -> str:
    """The URL of the database of *settings* in the server itself, also where the package goes through a pooler."""
    server_url = next((server for server, pooler in _pooler_urls.items() if _same(pooler, settings)), None)
    if server_url is None:
        return settings.dsn
    return database_url(server_url, urlsplit(settings.dsn).path[1:]).get_secret_value()


def _same(pooler_url: str, settings: Settings) -> bool:
    return parse_qs(urlsplit(pooler_url).query)["host"] == parse_qs(urlsplit(settings.dsn).query).get("host")


async def _administer(server_url: str, command: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(command)
    finally:
        await connection.close()


@pytest.fixture
def database_in_sync_test(server_url: str, template: str) -> Iterator[Settings]:
    """As `database`, for tests that run event loops of their own."""
    settings = asyncio.run(make_database(server_url, template))
    yield settings
    asyncio.run(drop_database(server_url, settings))


def run_blocking_query(url: str, query: str) -> list[asyncpg.Record]:
    """The rows of *query*, for tests that have no event loop."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    return asyncio.run(run())
