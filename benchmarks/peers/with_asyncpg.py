"""asyncpg's own pool (https://magicstack.github.io/asyncpg/current/usage.html#connection-pools)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from ..address import Address
from ..operations import COLUMNS, METADATA, POOL_SIZE, File, Operations, Row, Turn

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
      FROM document, plainto_tsquery('english', $1) AS query
     WHERE search @@ query
     ORDER BY rank DESC
     LIMIT 10
"""
_UPSERT = """
    INSERT INTO copied (code, name, content)
    VALUES ($1, $2, $3)
    ON CONFLICT (code) DO UPDATE SET name = excluded.name, content = excluded.content
"""


# create_pool() with its defaults but for the size. min_size = max_size: every connection is open before the clock
# starts. Statements are prepared and cached by default. jsonb stays text, asyncpg's default, which spares it the work.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """Reads and writes through the pool's own methods, as its documentation shows."""
    async with asyncpg.create_pool(address.uri, min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        yield operations_of(pool)


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

    return Operations(
        read_document=read_document,
        save_turn=save_turn,
        recent_turns=recent_turns,
        first_page=page,
        far_page=page,
        search=search,
        store_new=copy,
        store_again=upsert,
    )
