"""psqlpy, a driver in Rust (https://psqlpy-python.github.io)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psqlpy import ConnectionPool

from ..address import Address
from ..operations import COLUMNS, METADATA, POOL_SIZE, Operations, Row, Turn

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


# Defaults but for the size: statements are prepared, connections are recycled by the "fast" method. The pool has no
# minimal size; the warm-up opens its connections.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """A connection of the pool for each statement, rows as the dicts that the driver makes."""
    pool = ConnectionPool(
        host=address.host,
        port=address.port,
        username=address.user,
        db_name=address.database,
        max_db_pool_size=POOL_SIZE,
    )

    async def read_document(code: str) -> Row:
        async with pool.acquire() as connection:
            row: Row = (await connection.fetch_row(_READ, [code])).result()
            return row

    async def save_turn(turn: Turn) -> object:
        async with pool.acquire() as connection:
            return await connection.fetch_val(_SAVE, [*turn, METADATA])

    try:
        yield Operations(read_document=read_document, save_turn=save_turn)
    finally:
        pool.close()
