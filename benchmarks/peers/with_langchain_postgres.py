"""langchain-postgres: the chat history of LangChain (https://pypi.org/project/langchain-postgres/)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from langchain_core.messages import AIMessage, HumanMessage
from langchain_postgres import PostgresChatMessageHistory
from psycopg_pool import AsyncConnectionPool

from ..address import Address
from ..operations import METADATA, POOL_SIZE, Operations, Turn

_TABLE = "langchain_chat_history"


# The history takes a psycopg connection and commits by itself; a pool of a fixed size lends them. With autocommit there
# is no BEGIN and no COMMIT, and both messages are still one transaction: psycopg sends them in one pipeline. Its table
# is its own, with an index on the session, and starts out empty: its inserts do not pay for the indexes on a million
# rows that the others' pay for.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """`aadd_messages` with the question and the answer; a thread is a session."""
    pool: Any = AsyncConnectionPool(
        address.uri, min_size=POOL_SIZE, max_size=POOL_SIZE, open=False, kwargs={"autocommit": True}
    )
    async with pool:
        await pool.wait()
        async with pool.connection() as connection:
            await PostgresChatMessageHistory.acreate_tables(connection, _TABLE)

        async def save_turn(turn: Turn) -> None:
            question = HumanMessage(content=turn.question)
            answer = AIMessage(content=turn.answer, response_metadata=METADATA)
            async with pool.connection() as connection:
                history = PostgresChatMessageHistory(_TABLE, _session_of(turn.thread_id), async_connection=connection)
                await history.aadd_messages([question, answer])

        yield Operations(save_turn=save_turn, turns_per_save=2, chat_table=_TABLE)


@cache
def _session_of(thread_id: str) -> str:
    """LangChain's sessions are UUIDs."""
    return str(uuid5(NAMESPACE_URL, thread_id))
