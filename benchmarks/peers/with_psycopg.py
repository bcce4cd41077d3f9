"""psycopg 3 with psycopg_pool (https://www.psycopg.org/psycopg3/docs/advanced/pool.html)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from ..address import Address
from ..operations import COLUMNS, METADATA, POOL_SIZE, Operations, Row, Turn

_READ = f"""
    SELECT {", ".join(COLUMNS)}
      FROM document
     WHERE code = %s
"""
_SAVE = """
    INSERT INTO chat_history (thread_id, user_id, question, answer, metadata)
    VALUES (%s, %s, %s, %s, %s)
    RETURNING id
"""


# A pool of a fixed size, connected before the clock starts. `autocommit` spares BEGIN and COMMIT for single statements,
# which halves the time. Statements are prepared after five executions by default; the warm-up makes them so. The
# package `psycopg[binary]` brings the C implementation.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """A connection of the pool for each statement, rows as dicts by `dict_row`."""
    pool: Any = AsyncConnectionPool(
        address.uri,
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        open=False,
        kwargs={"autocommit": True, "row_factory": dict_row},
    )
    async with pool:
        await pool.wait()

        async def read_document(code: str) -> Row:
            async with pool.connection() as connection:
                cursor = await connection.execute(_READ, (code,))
                row: Row = await cursor.fetchone()
                return row

        async def save_turn(turn: Turn) -> object:
            async with pool.connection() as connection:
                cursor = await connection.execute(_SAVE, (*turn, Jsonb(METADATA)))
                return (await cursor.fetchone())["id"]

        yield Operations(read_document=read_document, save_turn=save_turn)
