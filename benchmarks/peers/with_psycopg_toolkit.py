"""psycopg-toolkit: a repository on psycopg 3 (https://pypi.org/project/psycopg-toolkit/)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg_toolkit import BaseRepository, Database, DatabaseSettings
from pydantic import BaseModel

from database.ids import uuid7

from ..address import Address
from ..operations import METADATA, POOL_SIZE, Operations, Row, Turn


class Document(BaseModel):
    """A row of the view `document_columns`: the repository reads every column of its table."""

    id: UUID
    name: str
    code: str
    content: str
    metadata: dict[str, Any]
    language: str
    source: str | None
    created_at: datetime
    updated_at: datetime


class Message(BaseModel):
    """A row of `chat_history`, without what the server adds."""

    id: UUID
    thread_id: str
    user_id: int
    question: str
    answer: str
    metadata: dict[str, Any]


# The pool of a fixed size. Reads go through `Database.connection`, writes too: it commits at the end of the block, and
# is the shorter one of the two ways that its documentation shows. The library has no switch for autocommit, so each of
# its statements is framed by BEGIN and COMMIT. psycopg decodes jsonb by itself: both other layers that would do it are
# switched off, one (enable_json_adapters) because it makes new classes at every use of a connection, the other
# (auto_detect_json) because it logs an error for what is decoded already. The models are what it returns.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """A repository for each statement, made on a connection of the pool."""
    database = Database(
        DatabaseSettings(
            host=address.host,
            port=address.port,
            dbname=address.database,
            user=address.user,
            password="unused",
            min_pool_size=POOL_SIZE,
            max_pool_size=POOL_SIZE,
            enable_json_adapters=False,
        )
    )
    await database.init_db()
    await (await database.get_pool()).wait()

    async def read_document(code: str) -> Row:
        async with database.connection() as connection:
            documents = BaseRepository(
                connection, "document_columns", Document, primary_key="code", auto_detect_json=False
            )
            document: Document = await documents.get_by_id(code)
            return vars(document)

    async def save_turn(turn: Turn) -> object:
        async with database.connection() as connection:
            messages = BaseRepository(connection, "chat_history", Message, auto_detect_json=False)
            message = await messages.create(Message(id=uuid7(), **turn._asdict(), metadata=METADATA))
            return message.id

    try:
        yield Operations(read_document=read_document, save_turn=save_turn)
    finally:
        await database.cleanup()
