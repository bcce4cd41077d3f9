"""
The pytest plugin: databases for tests, and tests whose traces are undone. Nothing happens until a fixture is asked for.

It lies outside of the package because pytest imports it at every start, also where no test needs a database; what it
does is in database/testing/, which is imported by the first fixture. See docs/testing.md.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest_asyncio: Any
try:
    import pytest_asyncio
except ModuleNotFoundError:
    pytest_asyncio = None  # then there are sync tests only

if TYPE_CHECKING:
    from database import Connection, Pool, Settings
    from database.testing.databases import TestRun

_SCOPES = ("function", "class", "module", "package", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin."""
    parser.addini(
        "database_migrations",
        "A directory of SQL files for the template of the test databases (default: migrations, if it is there)",
    )


# --- a server, and databases on it


@pytest.fixture(scope="session")
def database_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a server on which the tests may make databases: TEST_DATABASE_URL, else an embedded one."""
    from database.testing.databases import serve

    with serve(pytestconfig.rootpath) as url:
        yield url


@pytest.fixture(scope="session")
def database_run(database_server: str) -> Iterator[TestRun]:
    """The databases of this run of tests: `database_run.create(template)` makes one more."""
    from database.testing.databases import TestRun

    run = TestRun(database_server)
    try:
        yield run
    finally:
        run.end()


@pytest.fixture(scope="session")
def database_setup(pytestconfig: pytest.Config) -> Callable[[], Awaitable[object]]:
    """
    What fills the template: an async function without arguments. By default the package's tables and your migrations.

    Override it for tables that are made otherwise, or for rows that every test finds.
    """
    from database.testing.databases import create_tables

    named = pytestconfig.getini("database_migrations")
    directory = pytestconfig.rootpath / (named or "migrations")
    if named and not directory.is_dir():
        raise pytest.UsageError(f"database_migrations: there is no directory {directory}")

    async def setup() -> None:
        await create_tables(directory if directory.is_dir() else None)

    return setup


@pytest.fixture(scope="session")
def database_template(database_run: TestRun, database_setup: Callable[[], Awaitable[object]]) -> str:
    """The name of the database that the others are copied from; it is filled once for all workers of pytest-xdist."""
    return database_run.template(database_setup)


@pytest.fixture(scope="session")
def worker_database(database_run: TestRun, database_template: str) -> Settings:
    """The settings of the database of this process."""
    return database_run.create(database_template, os.environ.get("PYTEST_XDIST_WORKER", "main"))


# --- for a test


@pytest.fixture
def db_transaction(request: pytest.FixtureRequest, worker_database: Settings) -> Iterator[Connection]:
    """
    Whatever the package does in the test is undone at its end; the connection that all of it goes through.

    See `database.testing.rolled_back`. For sync and async tests, in whichever event loop.
    """
    from database.testing import rolled_back
    from database.testing.databases import used_by_default

    _check_is_run(request)
    with used_by_default(worker_database), rolled_back() as conn:
        yield conn


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest, database_run: TestRun, database_template: str) -> Iterator[Settings]:
    """
    A database of its own for the test, which the package uses by default; dropped at the end.

    For what is to be committed: several connections that see each other's rows, locks, LISTEN, isolation levels.
    """
    from database.testing.databases import used_by_default

    scope = _loop_scope(request)
    settings = database_run.create(database_template)
    try:
        with used_by_default(settings):
            if scope is not None:
                request.getfixturevalue(f"_database_pools_in_{scope}")
            yield settings
    finally:
        database_run.drop(settings)


@pytest.fixture
def database_pool(request: pytest.FixtureRequest, worker_database: Settings) -> Iterator[Pool]:
    """
    The pool of the worker's database, in the event loop of the test, closed at its end.

    Together with `db_transaction` or `fresh_database`, the pool of that one; alone, what the test stores stays.
    """
    from database.testing.databases import used_by_default

    scope = _loop_scope(request)
    if scope is None:
        pytest.fail(
            f"{request.node.name} is no async test, and a pool belongs to an event loop: make it `async def`, or ask "
            "for db_transaction, which needs none",
            pytrace=False,
        )
    if {"db_transaction", "fresh_database"} & set(request.fixturenames):
        for name in ("fresh_database", "db_transaction"):
            if name in request.fixturenames:
                request.getfixturevalue(name)
        yield request.getfixturevalue(f"_database_pool_in_{scope}")
        return
    with used_by_default(worker_database):
        yield request.getfixturevalue(f"_database_pool_in_{scope}")


# --- event loops


def _is_async(request: pytest.FixtureRequest) -> bool:
    test = getattr(request.node, "obj", None)
    test = getattr(getattr(test, "hypothesis", None), "inner_test", test)  # what @given has wrapped
    return inspect.iscoroutinefunction(test)


def _check_is_run(request: pytest.FixtureRequest) -> None:
    """Say what to write where an async test is run by nobody."""
    if not _is_async(request):
        return
    if any(request.node.get_closest_marker(name) for name in ("asyncio", "anyio", "trio")):
        return
    pytest.fail(
        f"{request.node.name} is async, and nothing runs it: "
        + (
            'write asyncio_mode = "auto" under [tool.pytest.ini_options] in pyproject.toml, or @pytest.mark.asyncio '
            "above the test"
            if pytest_asyncio is not None
            else "pip install 'pgdatabase[testing]'"
        ),
        pytrace=False,
    )


def _loop_scope(request: pytest.FixtureRequest) -> str | None:
    """The scope of the event loop that the test runs in; None for a sync test."""
    _check_is_run(request)
    if not _is_async(request):
        return None
    marker = request.node.get_closest_marker("asyncio")
    if marker is None:
        pytest.fail(
            f"{request.node.name} is run by anyio, and this fixture opens its pool in a loop of pytest-asyncio: mark "
            "it with @pytest.mark.asyncio, or ask for db_transaction, which works with both",
            pytrace=False,
        )
    scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
    return str(scope or request.config.getini("asyncio_default_test_loop_scope") or "function")


async def _close_pools() -> AsyncIterator[None]:
    from database import close_connection_pool

    yield
    await close_connection_pool(timeout=1)


async def _open_pool() -> AsyncIterator[Pool]:
    from database import close_connection_pool, get_connection_pool

    yield await get_connection_pool()
    await close_connection_pool(timeout=1)


def _in_each_scope(name: str, fixture: Callable[[], AsyncIterator[Any]]) -> None:
    """A fixture runs in the loop that its definition names, so there is one for each loop that a test may run in."""
    for scope in _SCOPES:

        async def run() -> AsyncIterator[Any]:
            async for value in fixture():
                yield value

        globals()[f"{name}_{scope}"] = pytest_asyncio.fixture(loop_scope=scope, name=f"{name}_{scope}")(run)


if pytest_asyncio is not None:
    _in_each_scope("_database_pools_in", _close_pools)
    _in_each_scope("_database_pool_in", _open_pool)
