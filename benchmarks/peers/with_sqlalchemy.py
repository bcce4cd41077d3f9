"""SQLAlchemy 2 Core on asyncpg (https://docs.sqlalchemy.org/en/20/orm/extensions/asyncio.html)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    FetchedValue,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    bindparam,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import create_async_engine

from ..address import Address
from ..items import COLUMNS as ITEM_COLUMNS
from ..items import TABLES
from ..operations import METADATA, POOL_SIZE, Operations, Row, Turn

_metadata = MetaData()
_document = Table(
    "document",
    _metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text),
    Column("code", Text, primary_key=True),
    Column("content", Text),
    Column("metadata", JSONB),
    Column("language", Text),
    Column("source", Text),
    Column("created_at", DateTime(timezone=True)),
    Column("updated_at", DateTime(timezone=True)),
)
_chat_history = Table(
    "chat_history",
    _metadata,
    Column("id", Uuid, primary_key=True, server_default=FetchedValue()),
    Column("thread_id", Text, primary_key=True),
    Column("user_id", BigInteger),
    Column("question", Text),
    Column("answer", Text),
    Column("metadata", JSONB),
)
_item = Table(
    TABLES["SQLAlchemy"],
    _metadata,
    Column("id", BigInteger, primary_key=True),
    Column("name", Text),
    Column("note", Text),
    Column("amount", Integer),
    Column("price", Double),
    Column("active", Boolean),
    Column("at", DateTime(timezone=True)),
)
_NEW_ITEM = postgresql.insert(_item)
_UPSERT_ITEM = _NEW_ITEM.on_conflict_do_update(
    index_elements=["id"], set_={name: _NEW_ITEM.excluded[name] for name in ITEM_COLUMNS[1:]}
)
_READ = select(_document).where(_document.c.code == bindparam("code"))
_SAVE = insert(_chat_history).returning(_chat_history.c.id)


# AUTOCOMMIT spares BEGIN, and with pool_reset_on_return=None also the ROLLBACK at every return, as its documentation
# recommends for such engines; with pool_use_lifo the connection that was used last, and is warm, comes first.
# Statements are built once: the compiled form is found in SQLAlchemy's own cache.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """A connection of the engine for each statement; asyncpg prepares and caches them below."""
    engine = create_async_engine(
        URL.create(
            "postgresql+asyncpg",
            username=address.user,
            database=address.database,
            query={"host": address.host, "port": str(address.port)},
        ),
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_use_lifo=True,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
    )

    async def read_document(code: str) -> Row:
        async with engine.connect() as connection:
            result = await connection.execute(_READ, {"code": code})
            return dict(result.mappings().one())

    async def save_turn(turn: Turn) -> object:
        async with engine.connect() as connection:
            return await connection.scalar(_SAVE, {**turn._asdict(), "metadata": METADATA})

    # all or nothing, as the others; a list of rows is sent by executemany, as its documentation recommends for many
    in_transaction = engine.execution_options(isolation_level="READ COMMITTED")

    async def insert_items(items: Sequence[Row]) -> int:
        async with in_transaction.begin() as connection:
            await connection.execute(insert(_item), items)
        return len(items)

    async def upsert_items(items: Sequence[Row]) -> int:
        async with in_transaction.begin() as connection:
            await connection.execute(_UPSERT_ITEM, items)
        return len(items)

    try:
        yield Operations(
            read_document=read_document, save_turn=save_turn, insert_items=insert_items, upsert_items=upsert_items
        )
    finally:
        await engine.dispose()
