"""
The tables that speed is measured on: the package's own, and a plain one with what people do without it.

`python -m benchmarks.search.tables` is a process that fills a part of one: several at a time fill it faster.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

import database as db
from database.document_batches import insert_documents

from ..address import Address
from ..server import execute
from ..systems import SystemFailedError, clean_environment
from .generated import Section, make_sections

DOCUMENT, PLAIN = "document", "plain"  # tables
LANGUAGE = "english"
_FILLERS = 2  # processes
_BATCH = 1_000  # sections in a statement

# All that the documents of this package have, and a tsvector with its index: what every manual recommends.
MAKE_PLAIN = """
    CREATE TABLE plain (
        id         uuid        NOT NULL PRIMARY KEY,
        code       text        NOT NULL UNIQUE,
        name       text        NOT NULL,
        content    text        NOT NULL,
        metadata   jsonb       NOT NULL,
        language   text        NOT NULL DEFAULT 'english',
        source     text,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        search     tsvector    GENERATED ALWAYS AS (
            setweight(to_tsvector('english', name), 'A') || setweight(to_tsvector('english', content), 'D')
        ) STORED
    )
"""
PLAIN_INDEX = "CREATE INDEX plain_search_index ON plain USING gin (search)"


class Part(NamedTuple):
    """Which sections go into which table."""

    table: str
    first: int
    last: int  # the number after it


async def make_documents(server: Address, database: str) -> Address:
    """A new database with the package's table of documents, which is used by default until `db.configure`."""
    await execute(server, f"CREATE DATABASE {database}")
    address = server.of(database)
    db.configure(db.Settings(database_url=address.uri))
    await db.init_document_table()
    return address


async def fill(address: Address, table: str, number: int, workspace: Path) -> None:
    """Store the sections 0 to *number*; the indexes of words are made after the rows, in a fraction of the time."""
    bounds = [number * part // _FILLERS for part in range(_FILLERS + 1)]
    async with _without_word_indexes(address, table):
        parts = [Part(table, first, last) for first, last in pairwise(bounds)]
        await asyncio.gather(*(_fill_part(address, part, workspace) for part in parts))


async def _fill_part(address: Address, part: Part, workspace: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.search.tables", json.dumps([address, part])),
        stderr=asyncio.subprocess.PIPE,
        cwd=workspace,  # no .env there
        env=clean_environment(),
    )
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemFailedError((errors.decode().strip().splitlines() or ["no message"])[-1])


_WORD_INDEXES = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
      FROM pg_index
      JOIN pg_class ON pg_class.oid = indexrelid
      JOIN pg_am ON pg_am.oid = relam
     WHERE starts_with(indrelid::regclass::text, $1) AND amname IN ('gin', 'rum')
"""


@asynccontextmanager
async def _without_word_indexes(address: Address, table: str) -> AsyncIterator[None]:
    """In the block, tables whose names begin with *table* have no GIN index; they are made again at its end."""
    connection = await asyncpg.connect(address.uri)
    try:
        indexes = await connection.fetch(_WORD_INDEXES, table)
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        yield
        await connection.execute("SET maintenance_work_mem = '1GB'")
        for index in indexes:
            await connection.execute(index["definition"])
    finally:
        await connection.close()


def as_document(section: Section) -> dict[str, Any]:
    """The *section* as the package's functions take it."""
    return {
        "id": section.id,
        "code": section.code,
        "name": section.name,
        "content": section.content,
        "metadata": {"half": section.half},
        "language": LANGUAGE,
    }


async def store_plain(connection: asyncpg.Connection, sections: Sequence[Section]) -> None:
    """Store *sections* in the plain table, by COPY."""
    rows = [(*section[:4], json.dumps({"half": section.half})) for section in sections]
    columns = ["id", "code", "name", "content", "metadata"]
    await connection.copy_records_to_table(PLAIN, records=rows, columns=columns)


async def _fill(address: Address, part: Part) -> None:
    """What the process does."""
    db.configure(db.Settings(database_url=address.uri))
    async with db.database_lifespan():
        connection = await asyncpg.connect(address.uri)
        for first in range(part.first, part.last, _BATCH):
            sections = list(make_sections(range(first, min(first + _BATCH, part.last))))
            if part.table == PLAIN:
                await store_plain(connection, sections)
            else:
                await insert_documents([as_document(section) for section in sections])
        await connection.close()


def _main(arguments: Sequence[str]) -> None:
    address, part = json.loads(arguments[0])
    asyncio.run(_fill(Address(*address), Part(*part)))


if __name__ == "__main__":
    _main(sys.argv[1:])
