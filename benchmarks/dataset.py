"""The tables of the benchmark, filled: documents, chat threads, and the empty tables that files are stored in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

import asyncpg

import database as db
from database.ids import uuid7

from .address import Address
from .operations import COLUMNS, METADATA
from .server import execute
from .words import COMMON, MIDDLING, RARE, make_sentences

RARE_DOCUMENTS = 10
OF_DOCUMENTS = (
    "document, document_section, document_head, document_head_lexeme, document_head_segment, document_head_state"
)
_LOADERS = 2  # the time goes into making tsvectors, in the server

# Two of the peers read every column of their table: this one spares them what belongs to the search.
_VIEW = f"CREATE VIEW document_columns AS SELECT {', '.join(COLUMNS)} FROM document"
# As one would write it: `search` is compressed when it is stored, for which docs/benchmarks.md says the price.
_COPIED = """
    CREATE TABLE copied (
        code    text PRIMARY KEY,
        name    text NOT NULL,
        content text NOT NULL,
        search  tsvector GENERATED ALWAYS AS (to_tsvector('english', name || ' ' || content)) STORED
    )
"""
_COPIED_INDEX = "CREATE INDEX copied_search_index ON copied USING gin (search)"
# The usual way, as the chapter on text search of PostgreSQL's documentation has it.
_SEARCHED = f"""
    CREATE TABLE searched AS SELECT {", ".join(COLUMNS)} FROM document;
    ALTER TABLE searched
        ADD COLUMN search tsvector GENERATED ALWAYS AS (to_tsvector('english', name || ' ' || content)) STORED;
    SET maintenance_work_mem = '512MB';
    CREATE INDEX searched_search_index ON searched USING gin (search);
"""


async def make_tables(server: Address, database: str) -> Address:
    """A new database with the package's tables, and `copied`, in which others store files."""
    await execute(server, f"CREATE DATABASE {database}")
    address = server.of(database)
    db.configure(db.Settings(database_url=address.uri))
    async with db.database_lifespan():
        await db.init_document_table()
        await db.init_chat_history_table()
    db.configure(None)
    await execute(address, _VIEW, _COPIED, _COPIED_INDEX)
    return address


# --- documents


def code_of(number: int) -> str:
    """The code of the document *number*."""
    return f"document/{number}"


async def fill_documents(address: Address, number: int) -> list[UUID]:
    """
    Store *number* documents of some hundred bytes to some kilobytes; their ids, in order.

    One in three holds the word `COMMON`, one in a hundred `MIDDLING`, ten in all hold `RARE`.
    """
    ids = [uuid7() for _ in range(number)]
    bounds = [number * part // _LOADERS for part in range(_LOADERS + 1)]
    sentences = make_sentences(Random(2), 20_000)
    async with _without_indexes(address, "document"):
        await asyncio.gather(
            *(
                _copy_documents(address, _make_documents(ids, range(first, last), number, sentences))
                for first, last in pairwise(bounds)
            )
        )
    await execute(address, "VACUUM ANALYZE document")
    return ids


async def index_documents(address: Address) -> None:
    """Make them searchable: for this package, and for others in a table of their own."""
    db.configure(db.Settings(database_url=address.uri))
    async with db.database_lifespan():
        await db.refresh_search_index()
    db.configure(None)
    await execute(address, _SEARCHED, "VACUUM ANALYZE searched", "VACUUM ANALYZE document, document_section")


_INDEXES = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
      FROM pg_index
     WHERE indrelid = $1::text::regclass AND NOT indisunique
"""


@asynccontextmanager
async def _without_indexes(address: Address, table: str) -> AsyncIterator[None]:
    """The table without its indexes in the block, all but those of keys; they are made again at its end."""
    connection = await asyncpg.connect(address.uri)
    try:
        indexes = await connection.fetch(_INDEXES, table)
        await connection.execute(";".join(f"DROP INDEX {index['name']}" for index in indexes))
        yield
        await connection.execute("SET maintenance_work_mem = '512MB'")
        await connection.execute(";".join(index["definition"] for index in indexes))
    finally:
        await connection.close()


async def _copy_documents(address: Address, rows: Iterator[tuple[Any, ...]]) -> None:
    """Raises `ConnectionError` where the connection is lost, for which asyncpg's COPY would wait for ever."""
    connection = await asyncpg.connect(address.uri)
    columns = ["id", "code", "name", "content", "metadata", "language"]
    try:
        async with asyncio.timeout(None) as bound:

            def give_up(lost: object) -> None:
                bound.reschedule(0)

            connection.add_termination_listener(give_up)
            await connection.copy_records_to_table("document", records=rows, columns=columns)
            connection.remove_termination_listener(give_up)
    except TimeoutError as exc:
        raise ConnectionError("the server has ended the connection") from exc
    finally:
        await connection.close()


def _make_documents(
    ids: list[UUID], numbers: range, total: int, sentences: list[str]
) -> Iterator[tuple[UUID, str, str, str, str, str]]:
    random = Random(numbers.start)
    every = max(1, total // RARE_DOCUMENTS)
    for number in numbers:
        text = random.choices(sentences, k=3 + int(random.expovariate(1 / 6)))
        text += [COMMON] * (number % 3 == 0) + [MIDDLING] * (number % 100 == 1) + [RARE] * (number % every == 2)
        metadata = json.dumps({"number": number, "tags": ["benchmark", f"part-{number % 10}"]})
        yield ids[number], code_of(number), text[0][:60], " ".join(text), metadata, "english"


# --- chat


def thread_of(number: int) -> str:
    """The name of the thread *number*."""
    return f"thread-{number}"


# Many threads are short and few are long, and all grow at the same time: a thread's turns lie far apart in the table.
# The position is the table's own; the ids sort by time where the server can make such (PostgreSQL 18).
_FILL_TURNS = """
    INSERT INTO chat_history (id, thread_id, user_id, question, answer, metadata)
    SELECT {new_id},
           'thread-' || floor($2::int * power(turn * 7919 % 1000003 / 1000003::float8, 2))::int,
           turn % 1000,
           ($3::text[])[1 + turn * 7 % 50],
           concat_ws(' ', ($3::text[])[1 + turn * 11 % 50], ($3::text[])[1 + turn * 13 % 50],
                     ($3::text[])[1 + turn * 17 % 50]),
           $4::jsonb
      FROM generate_series(1, $1::bigint) AS turn
"""


def threads_for(turns: int) -> int:
    """In how many threads *turns* are; none has less than some 25."""
    return max(1, turns // 50)


async def fill_turns(address: Address, number: int) -> None:
    """
    Store *number* turns in threads of 25 turns and more, in the server.

    Ids that the server makes are made to sort by time from now on, where it can, so that the peers' inserts go to the
    end of the index as this package's do.
    """
    connection = await asyncpg.connect(address.uri)
    try:
        new_id = "uuidv7()" if connection.get_server_version().major >= 18 else "gen_random_uuid()"
        sentences = make_sentences(Random(3), 50)
        query = _FILL_TURNS.format(new_id=new_id)
        async with _without_indexes(address, "chat_history"):
            await connection.execute(query, number, threads_for(number), sentences, json.dumps(METADATA))
        await connection.execute(f"ALTER TABLE chat_history ALTER COLUMN id SET DEFAULT {new_id}")
        await connection.execute("VACUUM ANALYZE chat_history")
    finally:
        await connection.close()
