"""Tables and rows for the time of a block, against a real server."""

from __future__ import annotations

import asyncio
import logging

import pytest

import database as db
from database import Connection, repository
from database.settings import Settings


async def create(conn: Connection) -> str:
    await conn.execute("CREATE TABLE users (id serial PRIMARY KEY, name text)")
    return "users"


async def drop(conn: Connection) -> None:
    await conn.execute("DROP TABLE users")


async def setup(conn: Connection) -> list[int]:
    return [await conn.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name) for name in ("a", "b")]


async def cleanup(conn: Connection) -> None:
    await conn.execute("DELETE FROM users")


async def test_it_is_there_in_the_block_and_gone_after_it(empty_database: Settings) -> None:
    """For every connection; the block gets what was made."""
    async with db.temporary_schema(create, drop) as table:
        assert await repository.table_exists(table)
        async with db.temporary_data(setup, cleanup) as ids:
            assert await repository.count("users", {"id": ids}) == 2
        assert await repository.count("users") == 0
    assert not await repository.table_exists("users")


async def test_it_is_gone_however_the_block_ends(empty_database: Settings) -> None:
    """By an error, by a failed statement, by a cancellation."""
    with pytest.raises(RuntimeError, match="mine"):
        async with db.temporary_schema(create, drop):
            raise RuntimeError("mine")
    with pytest.raises(db.DatabaseError):
        async with db.temporary_schema(create, drop):
            await repository.execute_raw("SELECT 1/0")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), db.temporary_schema(create, drop):
            await asyncio.sleep(60)
    assert not await repository.table_exists("users")


async def test_what_fails_to_be_made_leaves_nothing(empty_database: Settings) -> None:
    """It is one transaction, and drop is not called."""

    async def create_half(conn: Connection) -> None:
        await create(conn)
        await conn.execute("SELECT 1/0")

    async def never(conn: Connection) -> None:
        raise AssertionError

    with pytest.raises(db.DatabaseError):
        async with db.temporary_schema(create_half, never):
            raise AssertionError
    assert not await repository.table_exists("users")


async def test_what_fails_to_be_dropped_is_told(empty_database: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """As an error, or, where the block has failed already, in the log, so that the first error is seen."""
    with pytest.raises(db.DatabaseError, match="cannot complete the transaction"):
        async with db.temporary_schema(create, drop) as table:
            await repository.execute_raw(f"DROP TABLE {table}")
    with caplog.at_level(logging.WARNING, "database"), pytest.raises(RuntimeError, match="first"):
        async with db.temporary_schema(create, drop) as table:
            await repository.execute_raw(f"DROP TABLE {table}")
            raise RuntimeError("first")
    assert "was not cleaned up" in caplog.text


async def test_in_the_callers_transaction(empty_database: Settings) -> None:
    """Nobody else sees it, and a spoilt transaction takes it along."""
    async with db.get_db_transaction() as conn:
        async with db.temporary_schema(create, drop, conn=conn), db.temporary_data(setup, cleanup, conn=conn) as ids:
            assert ids == [1, 2] and not await repository.table_exists("users")
        assert not await repository.table_exists("users", conn=conn)
    with pytest.raises(db.DatabaseError, match="PostgreSQL refused it"):
        async with db.get_db_transaction() as conn, db.temporary_schema(create, drop, conn=conn):
            await conn.execute("SELECT 1/0")
    assert not await repository.table_exists("users")
