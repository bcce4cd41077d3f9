"""
One check in three modes: mock, end to end, production: `python testing_modes.py`. Needs `pgdatabase[testing]`.

In a database for tests on the embedded server, whatever is configured.
"""

import asyncio
from urllib.parse import urlsplit

import database as db
from database import Settings, configure, embedded, repository
from database.testing import get_active_e2e_tests, in_test_mode


async def open_project(name: str) -> int:
    """The code under test; how many projects there are then."""
    await repository.upsert("projects", {"name": name}, "name")
    return await repository.count("projects")


async def use_a_database_for_tests() -> None:
    """End-to-end tests clean up, so they want a database whose name says that it is for tests."""
    url = await embedded.start()
    if not await db.execute_with_retry("SELECT 1 AS found FROM pg_database WHERE datname = 'garden_test'"):
        await db.execute_with_retry("CREATE DATABASE garden_test")
    await db.close_connection_pool()
    configure(Settings(database_url=urlsplit(url)._replace(path="/garden_test").geturl()))
    await db.ensure_public_schema()


async def main() -> None:
    await use_a_database_for_tests()

    async with in_test_mode("mock", mock_rows={"projects": 5}):
        print("mock:", await open_project("Roses"), "projects, five of them made up")
    print("after mock:", await repository.count("projects"))

    async with in_test_mode("e2e", "opening a project"):
        print("e2e:", await open_project("Roses"), "project; tests that run:", len(await get_active_e2e_tests()))
    print("after e2e:", await repository.count("projects"))

    async with in_test_mode("production"):
        print("production:", await open_project("Roses"), "project")
    print("after production:", await repository.count("projects"))

    await repository.delete("projects", {"name": "Roses"})
    await db.close_connection_pool()


asyncio.run(main())
