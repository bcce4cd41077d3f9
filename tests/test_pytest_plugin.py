"""The plugin as its users meet it: pytest in a directory of its own, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from database.testing.databases import TestRun

from .conftest import run_blocking_query

pytestmark = pytest.mark.xdist_group("runs_of_pytest")  # one after the other: they look at each other's databases

_AUTO = """
    [tool.pytest.ini_options]
    asyncio_mode = "auto"
    asyncio_default_fixture_loop_scope = "function"
    filterwarnings = ["error", "ignore:The anyio.abc.BlockingPortal alias:DeprecationWarning"]
"""
_STORES = """
    import asyncio
    import database as db
    import pytest

    @pytest.mark.parametrize("time", [1, 2, 3, 4])
    async def test_stores(db_transaction, time):
        assert await db.get_document_count() == 0
        await asyncio.gather(*(db.insert_document("name", f"c{number}", "text") for number in range(9)))
        assert await db.get_document_count() == 9
"""


class Project:
    """A directory with tests, and a server that they are told of."""

    def __init__(self, directory: Path, this_run: TestRun) -> None:
        self.directory = directory
        self.url = this_run.url
        self._not_its_own = this_run.prefix
        self.write("pyproject.toml", _AUTO)

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """pytest's exit code, and what it has said."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "COV_", "TEST_", "DATABASE_", "POSTGRES_", "PG", "DB_"))
        }
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments],
            cwd=self.directory,
            env={**clean, "TEST_DATABASE_URL": self.url, **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return run.returncode, run.stdout + run.stderr

    def databases(self) -> set[str]:
        """Those of test runs on the server, but for the run that this test is part of."""
        rows = run_blocking_query(self.url, "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'")
        return {row[0] for row in rows if not row[0].startswith(self._not_its_own)}


@pytest.fixture
def project(tmp_path: Path, database_run: TestRun) -> Project:
    return Project(tmp_path, database_run)


def test_two_workers_share_a_template_and_leave_nothing(project: Project) -> None:
    """Each has a database of its own on the server that TEST_DATABASE_URL names, and all are gone afterwards."""
    project.write("test_it.py", _STORES)
    project.write(
        "test_where.py",
        """
        import os
        from pathlib import Path
        import pytest

        @pytest.mark.parametrize("time", range(6))
        async def test_where(db_transaction, worker_database, time):
            name = await db_transaction.fetchval("SELECT current_database()")
            assert name.endswith("_" + os.environ["PYTEST_XDIST_WORKER"])
            Path("run").write_text(name.rpartition("_")[0])
            templates = "SELECT count(*) FROM pg_database WHERE datname = $1"
            assert await db_transaction.fetchval(templates, name.rpartition("_")[0] + "_template") == 1
        """,
    )
    code, said = project.run("-n", "2")
    assert code == 0, said
    assert "10 passed" in said
    run = (project.directory / "run").read_text()
    assert [name for name in project.databases() if name.startswith(run)] == []  # others run beside this one


def test_what_a_killed_run_has_left_is_dropped_by_the_next(project: Project) -> None:
    before = project.databases()
    project.write(
        "test_it.py",
        """
        import os

        async def test_dies(db_transaction):
            if "DIE" in os.environ:
                os._exit(9)
        """,
    )
    assert project.run(DIE="1")[0] == 9
    left = project.databases() - before
    assert len(left) == 2
    code, said = project.run()
    assert code == 0, said
    assert not project.databases() & left


def test_tables_of_ones_own(project: Project) -> None:
    """From migrations/, from the directory that is named, and from a function."""
    migration = """
        -- migrate:up
        CREATE TABLE {name} (id int);
        -- migrate:down
        DROP TABLE {name};
    """
    project.write("migrations/0001_first.sql", migration.format(name="first"))
    project.write("elsewhere/0001_second.sql", migration.format(name="second"))
    project.write(
        "test_it.py",
        """
        import os

        async def test_tables(db_transaction):
            for name in os.environ["TABLES"].split():
                assert await db_transaction.fetchval("SELECT to_regclass($1)::text", name) == name
        """,
    )
    code, said = project.run(TABLES="first document")
    assert code == 0, said
    code, said = project.run("-o", "database_migrations=elsewhere", TABLES="second")
    assert code == 0, said
    project.write(
        "conftest.py",
        """
        import pytest
        from database import repository

        @pytest.fixture(scope="session")
        def database_setup(database_setup):
            async def setup():
                await database_setup()
                await repository.execute_raw("CREATE TABLE third (id int)")

            return setup
        """,
    )
    code, said = project.run(TABLES="first third")
    assert code == 0, said
    code, said = project.run("-o", "database_migrations=nowhere", TABLES="")
    assert code == 1
    assert re.search(r"database_migrations: there is no directory .*nowhere", said)


def test_the_tests_of_the_documentation_pass(project: Project) -> None:
    """Those that the page shows run with what it says, each block a file."""
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    tests = [block for block in blocks if re.search(r"^ *(?:async )?def test_", block, re.MULTILINE)]
    assert len(tests) == 3
    for number, block in enumerate(tests):
        project.write(f"test_{number}.py", block)
    (setup,) = [block for block in blocks if "def database_setup" in block]
    project.write("conftest.py", setup)
    project.write(
        "tests/data/seed_users.json", '{"users": [{"id": "0197a000-0000-7000-8000-000000000001", "email": "a"}]}'
    )
    code, said = project.run()
    assert code == 0, said
    assert "6 passed" in said


def test_nothing_happens_until_a_fixture_is_asked_for(project: Project) -> None:
    """The package is not even imported, so pytest starts as quickly as before."""
    project.write(
        "test_it.py",
        """
        import sys

        def test_nothing():
            assert "pytest_pgdatabase" in sys.modules
            assert not {"database", "asyncpg"} & set(sys.modules)
        """,
    )
    code, said = project.run(TEST_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert code == 0, said


def test_a_server_that_cannot_be_reached_is_said(project: Project) -> None:
    project.write("test_it.py", _STORES)
    code, said = project.run(TEST_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert code == 1
    assert "the tests cannot connect to their server" in said
    assert "TEST_DATABASE_URL" in said


@pytest.mark.parametrize("fixtures", ["function", "session"])
@pytest.mark.parametrize("tests", ["function", "session"])
def test_any_loop_scope(project: Project, fixtures: str, tests: str) -> None:
    """Whichever loops pytest-asyncio is told to use, the same for fixtures and tests or not, all fixtures work."""
    project.write(
        "test_it.py",
        """
        import database as db
        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def opened_before(worker_database):
            return await db.get_connection_pool() if False else None

        @pytest_asyncio.fixture
        async def stored(db_transaction):
            await db.insert_document("name", "from the fixture", "text")
            async with db.get_db_transaction() as conn:
                yield await db.insert_document("name", "in its transaction", "text", conn=conn)

        @pytest.mark.parametrize("time", [1, 2])
        async def test_transaction(stored, opened_before, time):
            assert await db.get_document_count() == 2

        @pytest.mark.parametrize("time", [1, 2])
        async def test_pool(database_pool, db_transaction, time):
            await db.insert_document("name", "code", "text")
            assert await database_pool.fetchval("SELECT count(*) FROM document") == 1

        @pytest.mark.parametrize("time", [1, 2])
        async def test_fresh(fresh_database, time):
            await db.insert_document("name", "code", "text")
            assert await db.get_document_count() == 1
        """,
    )
    code, said = project.run(
        "-o", f"asyncio_default_fixture_loop_scope={fixtures}", "-o", f"asyncio_default_test_loop_scope={tests}"
    )
    assert code == 0, said


@pytest.mark.parametrize("fixture", ["db_transaction", "database_pool", "fresh_database"])
def test_an_async_test_that_nothing_runs_is_told_what_to_write(project: Project, fixture: str) -> None:
    project.write("test_it.py", f"async def test_it({fixture}): pass")
    code, said = project.run("-o", "asyncio_mode=strict")
    assert code == 1
    assert 'asyncio_mode = "auto" under [tool.pytest.ini_options]' in said
    assert "@pytest.mark.asyncio" in said


def test_a_pool_in_a_test_without_a_loop_is_an_error(project: Project) -> None:
    project.write("test_it.py", "def test_it(database_pool): pass")
    code, said = project.run()
    assert code == 1
    assert "async def" in said
    assert "db_transaction" in said


def test_a_pool_of_another_loop_says_which_settings_to_look_at(project: Project) -> None:
    """The set-up that most often goes wrong: a pool of a session's fixture, in tests that have loops of their own."""
    project.write(
        "test_it.py",
        """
        import database as db
        import pytest
        import pytest_asyncio
        from database.testing.databases import used_by_default

        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def pool(worker_database):
            with used_by_default(worker_database):
                yield await db.get_connection_pool()
                await db.close_connection_pool()

        async def test_it(pool):
            await pool.fetchval("SELECT 1")
        """,
    )
    code, said = project.run()
    assert code == 1
    assert "asyncio_default_fixture_loop_scope and asyncio_default_test_loop_scope" in said


def test_anyio_runs_tests_as_well(project: Project) -> None:
    """db_transaction needs no pytest-asyncio; what does says so."""
    project.write(
        "test_it.py",
        """
        import database as db
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_transaction(db_transaction):
            await db.insert_document("name", "code", "text")

        async def test_pool(database_pool):
            pass
        """,
    )
    code, said = project.run("-o", "asyncio_mode=strict")
    assert code == 1
    assert "1 passed, 1 error" in said
    assert "run by anyio" in said
