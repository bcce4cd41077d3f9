"""This package, with its default settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import database as db
from database import repository

from ..address import Address
from ..items import TABLES, hold
from ..operations import METADATA, POOL_SIZE, File, Items, Operations, Row, Turn

_ITEMS = TABLES["ours"]


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """The public functions as they are; the pool opens as many of its connections as it finds necessary."""
    db.configure(db.Settings(database_url=address.uri))
    if db.get_settings().max_connections != POOL_SIZE:
        raise RuntimeError(f"the default pool does not have {POOL_SIZE} connections any more")
    async with db.database_lifespan(), hold(address) as held:
        yield Operations(
            read_document=read_document,
            save_turn=save_turn,
            recent_turns=db.get_recent_chat_history,
            first_page=db.get_list_of_documents,
            far_page=far_page,
            search=search,
            store_new=ingest,
            merge_words=finish_background,
            store_again=ingest,
            items=Items(partial(repository.get_by_id, _ITEMS), insert_item, update_item),
            held_items=held_items(held),
            insert_items=partial(repository.insert_many, _ITEMS),
            upsert_items=partial(repository.upsert_many, _ITEMS),
        )


async def finish_background() -> None:
    """Wait for what an ingestion has left behind."""
    pool = await db.get_connection_pool()
    while not all(companion.is_idle for companion in pool.companions.values()):  # noqa: ASYNC110 (nobody is told)
        await asyncio.sleep(0.01)


async def insert_item(item: Row) -> Row:
    """The row as it is stored."""
    return await repository.insert(_ITEMS, item)


async def update_item(number: int, values: Row) -> Row:
    """The whole row, as asked for by every `update_by_id`."""
    return await repository.update_by_id(_ITEMS, number, values)


def held_items(held: Callable[[], Awaitable[db.Connection]]) -> Items:
    """The same functions with `conn=`."""

    async def get(number: int) -> Row:
        return await repository.get_by_id(_ITEMS, number, conn=await held())

    async def insert(item: Row) -> Row:
        return await repository.insert(_ITEMS, item, conn=await held())

    async def update(number: int, values: Row) -> Row:
        return await repository.update_by_id(_ITEMS, number, values, conn=await held())

    return Items(get, insert, update)


async def read_document(code: str) -> Row:
    """The document, which must be there."""
    document = await db.get_document_by_code(code)
    if document is None:
        raise LookupError(code)
    return document


async def save_turn(turn: Turn) -> str:
    """The id of the message."""
    return await db.save_chat_history(turn.user_id, turn.thread_id, turn.question, turn.answer, metadata=METADATA)


async def far_page(size: int, offset: int, last_id: str) -> list[dict[str, object]]:
    """The page behind the document *last_id*, which is where *offset* would lead, too."""
    return await db.get_list_of_documents(size, after=last_id)


async def search(word: str) -> list[dict[str, object]]:
    """The best ten, with the snippets that every search of this package makes."""
    return await db.search_documents(word, limit=10)


async def ingest(folder: Path, files: Sequence[File]) -> int:
    """From the files themselves, not from *files*: this package is not spared the reading."""
    result = await db.ingest_directory(folder, "corpus")
    if result["failed_count"]:
        raise RuntimeError(f"ingestion failed: {result['failures'][:3]}")
    return int(result["success_count"])
