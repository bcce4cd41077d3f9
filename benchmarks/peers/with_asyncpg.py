"""asyncpg's own pool (https://magicstack.github.io/asyncpg/current/usage.html#connection-pools)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from ..address import Address
from ..items import COLUMNS as ITEM_COLUMNS
from ..items import TABLES, hold
from ..operations import COLUMNS, METADATA, POOL_SIZE, File, Items, Operations, Row, Turn

_READ = f"""
    SELECT {", ".join(COLUMNS)}
      FROM document
     WHERE code = $1
"""
_SAVE = """
    INSERT INTO chat_history (thread_id, user_id, question, answer, metadata)
    VALUES ($1, $2, $3, $4, $5)
    RETURNING id
"""
_RECENT = """
    SELECT id, thread_id, user_id, question, answer, metadata, created_at
      FROM chat_history
     WHERE thread_id = $1
     ORDER BY position DESC
     LIMIT 10
"""
_PAGE = f"""
    SELECT {", ".join(COLUMNS)}
      FROM document
     ORDER BY id DESC
     LIMIT $1 OFFSET $2
"""
_SEARCH = f"""
    SELECT {", ".join(COLUMNS)}, ts_rank(search, query) AS rank
      FROM searched, plainto_tsquery('english', $1) AS query
     WHERE search @@ query
     ORDER BY rank DESC
     LIMIT 10
"""
_UPSERT = """
    INSERT INTO copied (code, name, content)
    VALUES ($1, $2, $3)
    ON CONFLICT (code) DO UPDATE SET name = excluded.name, content = excluded.content
"""
_ITEMS = TABLES["asyncpg"]
_RETURNED = ", ".join(ITEM_COLUMNS)
_GET_ITEM = f"SELECT {_RETURNED} FROM {_ITEMS} WHERE id = $1"
_INSERT_ITEM = f"INSERT INTO {_ITEMS} ({_RETURNED}) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_RETURNED}"
_UPDATE_ITEM = f"UPDATE {_ITEMS} SET amount = $2, price = $3 WHERE id = $1 RETURNING {_RETURNED}"
_UPSERT_ITEM = f"""
    INSERT INTO {_ITEMS} ({_RETURNED})
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in ITEM_COLUMNS[1:])}
"""


# create_pool() with its defaults but for the size. min_size = max_size: every connection is open before the clock
# starts. Statements are prepared and cached by default. jsonb stays text, asyncpg's default, which spares it the work.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """Reads and writes through the pool's own methods, as its documentation shows."""
    async with (
        asyncpg.create_pool(address.uri, min_size=POOL_SIZE, max_size=POOL_SIZE) as pool,
        hold(address) as held,
    ):
        yield replace(operations_of(pool), held_items=items_through(held))


def operations_of(pool: asyncpg.Pool[Any]) -> Operations:
    """What is measured, through *pool*."""
    metadata = json.dumps(METADATA)

    async def read_document(code: str) -> Row:
        row = await pool.fetchrow(_READ, code)
        if row is None:
            raise LookupError(code)
        return dict(row)

    async def save_turn(turn: Turn) -> object:
        return await pool.fetchval(_SAVE, turn.thread_id, turn.user_id, turn.question, turn.answer, metadata)

    async def recent_turns(thread_id: str) -> list[Row]:
        return [dict(row) for row in await pool.fetch(_RECENT, thread_id)]

    async def page(size: int, offset: int = 0, last_id: str = "") -> list[Row]:
        return [dict(row) for row in await pool.fetch(_PAGE, size, offset)]

    async def search(word: str) -> list[Row]:
        return [dict(row) for row in await pool.fetch(_SEARCH, word)]

    async def copy(folder: Path, files: Sequence[File]) -> int:
        columns = ["code", "name", "content"]
        async with pool.acquire() as connection:
            return int((await connection.copy_records_to_table("copied", records=files, columns=columns))[5:])

    async def upsert(folder: Path, files: Sequence[File]) -> int:
        async with pool.acquire() as connection:
            return sum([await connection.execute(_UPSERT, *file) == "INSERT 0 1" for file in files])

    async def from_pool() -> asyncpg.Pool[asyncpg.Record]:
        return pool

    async def copy_items(items: Sequence[Row]) -> int:
        records = [tuple(item.values()) for item in items]
        async with pool.acquire() as connection:
            status = await connection.copy_records_to_table(_ITEMS, records=records, columns=ITEM_COLUMNS)
        return int(status[5:])

    async def upsert_items(items: Sequence[Row]) -> int:
        await pool.executemany(_UPSERT_ITEM, [tuple(item.values()) for item in items])
        return len(items)

    return Operations(
        read_document=read_document,
        save_turn=save_turn,
        recent_turns=recent_turns,
        first_page=page,
        far_page=page,
        search=search,
        store_new=copy,
        store_again=upsert,
        items=items_through(from_pool),
        insert_items=copy_items,
        upsert_items=upsert_items,
    )


def items_through(
    connect: Callable[[], Awaitable[asyncpg.Connection[asyncpg.Record] | asyncpg.Pool[asyncpg.Record]]],
) -> Items:
    """The statements that one writes by hand."""

    async def get(number: int) -> Row:
        return _one(await (await connect()).fetchrow(_GET_ITEM, number))

    async def insert(item: Row) -> Row:
        return _one(await (await connect()).fetchrow(_INSERT_ITEM, *item.values()))

    async def update(number: int, values: Row) -> Row:
        return _one(await (await connect()).fetchrow(_UPDATE_ITEM, number, *values.values()))

    return Items(get, insert, update)


def _one(row: asyncpg.Record | None) -> Row:
    if row is None:
        raise LookupError("there is no such item")
    return dict(row)
