"""
How the code under test meets its database: in earnest, end to end on a database for tests, or on mock rows.

The register of end-to-end tests is a table of the database itself; a test counts as active as long as its connection
holds its lock, so one that was killed is none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from ..connect_db import get_connection_pool, perform
from ..exceptions import RepositoryError
from .isolation import rolled_back
from .mock_rows import insert_mock_rows
from .seed_data import check_for_tests, cleanup_non_protected, load_seed_data

Mode = Literal["production", "e2e", "mock"]

_LOCK = 0x65326574  # of advisory locks, with the number of the test
_ALONE = f"SELECT pg_advisory_xact_lock({_LOCK}, 0)"  # nobody begins or ends meanwhile
_MAKE = """
    CREATE SCHEMA IF NOT EXISTS database_testing;
    CREATE TABLE IF NOT EXISTS database_testing.e2e_test (
        id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name       text        NOT NULL,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at   timestamptz
    )
"""
_START = "INSERT INTO database_testing.e2e_test (name) VALUES ($1) RETURNING id"
_END = "UPDATE database_testing.e2e_test SET ended_at = clock_timestamp() WHERE id = $1"
_IS_THERE = "SELECT to_regclass('database_testing.e2e_test') IS NOT NULL"
_ACTIVE = """
    SELECT id, name, started_at
      FROM database_testing.e2e_test AS test
     WHERE ended_at IS NULL
       AND EXISTS (SELECT
                     FROM pg_catalog.pg_locks AS held
                     JOIN pg_catalog.pg_database AS d ON d.oid = held.database AND d.datname = current_database()
                    WHERE held.locktype = 'advisory' AND held.classid = $1 AND held.objid = test.id AND held.granted)
     ORDER BY id
"""


@asynccontextmanager
async def in_test_mode(
    mode: Mode,
    name: str = "",
    *,
    seed_data: str | Path | None = None,
    mock_rows: Mapping[str, int] | None = None,
    seed: int | None = None,
) -> AsyncIterator[None]:
    """
    For the time of the block, the package works in *mode*.

    - "production": as always; nothing is prepared, and nothing cleaned up.
    - "e2e": against the configured database, which must be one for tests (see `cleanup_non_protected`), and with real
      commits. *seed_data* is loaded first, the test is known as *name* to `get_active_e2e_tests`, and when the last of
      them ends, all that is not protected is deleted.
    - "mock": nothing is stored: *seed_data* is loaded, and as many *mock_rows* are made as each table (or
      `schema.table`) is to have, *seed* as for `generate_row`; all of it, and what the block does, is undone.

    Raises `ValueError` for another mode, `RepositoryError` where "e2e" would clean up a database that is not for tests.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"the mode is one of {', '.join(get_args(Mode))}, not {mode!r}")
    if mode == "production":
        yield
    elif mode == "mock":
        with rolled_back():
            if seed_data is not None:
                await load_seed_data(seed_data)
            for table, count in (mock_rows or {}).items():
                schema, dot, bare = table.rpartition(".")
                await insert_mock_rows(bare, count, schema=schema if dot else "public", seed=seed)
            yield
    else:
        async with _registered(name or "a test without a name"):
            if seed_data is not None:
                await load_seed_data(seed_data)
            yield


@asynccontextmanager
async def _registered(name: str) -> AsyncIterator[None]:
    await check_for_tests()
    pool = await get_connection_pool()
    holder = await pool.connect(pool.settings.connection_timeout)  # not of the pool: it is out as long as the test
    try:
        async with holder.transaction():
            await holder.execute(_ALONE)
            await holder.execute(_MAKE)
            number = await holder.fetchval(_START, name)
            await holder.execute(f"SELECT pg_advisory_lock({_LOCK}, {number})")
        try:
            yield
        finally:
            await holder.execute(f"SELECT pg_advisory_unlock({_LOCK}, {number})")
            async with holder.transaction():
                await holder.execute(_ALONE)
                await holder.execute(_END, number)
                if not await holder.fetch(_ACTIVE, _LOCK):
                    await cleanup_non_protected(conn=holder)
    finally:
        await holder.close(timeout=2)


async def get_active_e2e_tests() -> list[dict[str, Any]]:
    """
    The end-to-end tests that run now on the default database, in any process, the first one first.

    Dicts with `id` (int), `name` and `started_at` (aware datetime); an empty list where there are none.
    """

    async def read(c: Any) -> list[dict[str, Any]]:
        if not await c.fetchval(_IS_THERE):
            return []
        return [dict(row) for row in await c.fetch(_ACTIVE, _LOCK)]

    return await perform(
        read, conn=None, kind=RepositoryError, doing="list active tests", changes=False, repeatable=True
    )
