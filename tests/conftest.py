"""
A real server for every test, and a database of its own for each that asks for one: those of the plugin of the package.

With TEST_POOLER=transaction the package reaches it through a PgBouncer of each process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

import database as db
from database.settings import Settings, configure
from database.testing.databases import TestRun, used_by_default

from .pgbouncer import pgbouncer

_POOLER = os.environ.get("TEST_POOLER")
_pooler_urls: dict[str, str] = {}  # by that of the server
# What these tests look at or set is a session of the server, which behind a pooler is not theirs.
_ABOUT_SESSIONS = frozenset({
    "test_a_copy_ends_with_its_connection",
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
    "test_raw_sql_in_a_schema_that_refuses_a_transaction",
    "test_requests_that_are_cancelled",
    "test_the_catalog_is_read_once",
})  # fmt: skip
_VARIABLES = ("DATABASE_URL", "POSTGRES_", "PG", "DB_")


def pytest_configure(config: pytest.Config) -> None:
    """Where sync tests run event loops, a pytest-asyncio before 1.4 loses its own, and does not close them."""
    if tuple(map(int, version("pytest-asyncio").split(".")[:2])) < (1, 4):
        config.addinivalue_line("filterwarnings", "ignore:unclosed event loop:ResourceWarning")
        config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


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
def server_url(database_server: str) -> Iterator[str]:
    """The URL of the server of the plugin, on which the tests may make databases."""
    with _behind_pooler(database_server):
        yield database_server


@contextmanager
def _behind_pooler(url: str) -> Iterator[None]:
    if _POOLER != "transaction":
        yield
        return
    with pgbouncer(url) as _pooler_urls[url]:
        yield


@pytest.fixture
async def empty_database(server_url: str, database_run: TestRun) -> AsyncIterator[Settings]:
    """A database without any table, which the package uses by default; gone with all connections after the test."""
    with _new_database(database_run, "template1") as settings:
        yield settings
        await db.close_connection_pool(timeout=1)


@pytest.fixture
async def database(server_url: str, database_run: TestRun, database_template: str) -> AsyncIterator[Settings]:
    """As the plugin's `fresh_database`; behind a pooler, where there is one."""
    with _new_database(database_run, database_template) as settings:
        yield settings
        await db.close_connection_pool(timeout=1)


@pytest.fixture
def database_in_sync_test(server_url: str, database_run: TestRun, database_template: str) -> Iterator[Settings]:
    """As `database`, for tests that run event loops of their own."""
    with _new_database(database_run, database_template) as settings:
        yield settings


@contextmanager
def _new_database(run: TestRun, template: str) -> Iterator[Settings]:
    direct = run.create(template)
    try:
        with used_by_default(through_pooler(direct, run.url)) as settings:
            yield settings
    finally:
        configure(None)
        run.drop(direct)


def through_pooler(direct: Settings, server_url: str) -> Settings:
    """The *direct* settings of a database, or those that lead to it through the pooler of this process."""
    if _POOLER != "transaction":
        return direct
    name = urlsplit(direct.dsn).path[1:]
    return direct.model_copy(
        update={"database_url": database_url(_pooler_urls[server_url], name), "pooler": "transaction"}
    )


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


def run_blocking_query(url: str, query: str) -> list[asyncpg.Record]:
    """The rows of *query*, for tests that have no event loop."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    return asyncio.run(run())
