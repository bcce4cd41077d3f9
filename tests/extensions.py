"""What a server may be without."""

from __future__ import annotations

import pytest

import database as db


async def skip_without_pgvector() -> None:
    """Skip the test where the server cannot compare vectors, or cannot go on comparing behind a filter."""
    async with db.get_db_connection() as conn:
        version = await conn.fetchval("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    if version is None or tuple(map(int, version.split(".")[:2])) < (0, 8):
        pytest.skip("this server has no pgvector 0.8")
