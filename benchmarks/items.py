"""The table of the work `tables`, a copy for each system: one row or many, by the functions for any table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from .address import Address
from .operations import Row
from .server import execute

TABLES = {"ours": "item_ours", "asyncpg": "item_asyncpg", "SQLAlchemy": "item_sqlalchemy"}
COLUMNS = ("id", "name", "note", "amount", "price", "active", "at")
_TABLE = """
    CREATE TABLE {} (
        id     bigint PRIMARY KEY,
        name   text NOT NULL,
        note   text,
        amount integer,
        price  double precision,
        active boolean,
        at     timestamptz
    )
"""
_NOTE = "A few words that take some room, as notes do; nobody will ever read them."
_FIRST = datetime(2024, 1, 1, tzinfo=UTC)


async def make_items(server: Address) -> Address:
    """A new database with an empty table for each system."""
    await execute(server, "CREATE DATABASE items")
    address = server.of("items")
    await execute(address, *(_TABLE.format(table) for table in TABLES.values()))
    return address


def make_item(number: int, amount: int = 0) -> dict[str, Any]:
    """A row."""
    return {
        "id": number,
        "name": f"item {number}",
        "note": _NOTE,
        "amount": amount or number % 1000,
        "price": number / 4,
        "active": number % 3 == 0,
        "at": _FIRST + timedelta(seconds=number),
    }


@asynccontextmanager
async def hold(address: Address) -> AsyncIterator[Callable[[], Awaitable[asyncpg.Connection[asyncpg.Record]]]]:
    """What gives a connection of asyncpg's own, opened when it is first asked for, for as long as the block lasts."""
    opened: list[asyncpg.Connection[asyncpg.Record]] = []

    async def give() -> asyncpg.Connection[asyncpg.Record]:
        if not opened:
            opened.append(await asyncpg.connect(address.uri))
        return opened[0]

    try:
        yield give
    finally:
        for connection in opened:
            await connection.close()


def is_item(row: Row, number: int) -> bool:
    """Whether *row* is the item *number*."""
    return row["id"] == number and row["name"] == f"item {number}" and len(row) == len(COLUMNS)
