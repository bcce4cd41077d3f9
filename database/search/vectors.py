"""
The table of the vectors of sections, for which PostgreSQL needs pgvector (https://github.com/pgvector/pgvector).

A vector belongs to a text, not to a place: its key is that of the section it was made of, a hash of headings and text.
So it stays when a document is renamed, copied, or stored anew, and when the section moves to another one. The table is
made when it is first needed; all else works without the extension.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from ..concurrent_indexes import drop_remains
from ..connect_db import Connection, get_connection_pool
from ..exceptions import DatabaseError, DatabaseNotAvailableError, DocumentError, SchemaError, translate, translated
from ..migration_changes import PATIENCE, in_turn
from ..scalars import HALF, UnfitError
from ..vectors import vectors
from .sections import key_of
from .upkeep import run

MOST_DIMENSIONS = 4_000  # of a halfvec in an index
_OLDEST = (0, 8)  # the first with iterative scans
# A text that is embedded only to see whether the function that answers is the one that has made the other vectors.
PROBE = "The quick brown fox jumps over the lazy dog."
PROBE_KEY = key_of("", PROBE)


class Space(NamedTuple):
    """The vectors there are: the *schema* of pgvector (quoted), their *dimensions*, and the number of their *table*."""

    schema: str
    dimensions: int
    table: int


_FIND = """
    SELECT quote_ident(nspname) AS schema, extversion AS version, attrelid::bigint AS table, atttypmod AS dimensions
      FROM pg_extension
      JOIN pg_namespace ON pg_namespace.oid = extnamespace
      LEFT JOIN pg_attribute ON attrelid = to_regclass('section_vector') AND attname = 'embedding'
     WHERE extname = 'vector'
"""
_AVAILABLE = """
    SELECT (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS version,
           current_setting('server_version_num')::integer / 10000 AS server
"""


async def open_space(conn: Connection | None) -> Space:
    """What vectors there are; raises `SchemaError` without pgvector and `DocumentError` where there are none."""
    space = await find_space(conn)
    if space is None:
        raise DocumentError("no section has a vector: embed_missing(embed) makes them")
    return space


async def find_space(conn: Connection | None) -> Space | None:
    """As `open_space`, but None where there are none yet, though there could be."""
    row = await run("look for vectors", lambda c: c.fetchrow(_FIND), conn)
    if row is None:
        await _check_available(conn)
        return None
    _check_version(row["version"], "ALTER EXTENSION vector UPDATE")
    return None if row["table"] is None else Space(row["schema"], row["dimensions"], row["table"])


async def _check_available(conn: Connection | None) -> None:
    row = await run("look for pgvector", lambda c: c.fetchrow(_AVAILABLE), conn)
    assert row is not None  # noqa: S101 (no FROM: always one row)
    if row["version"] is None:
        raise SchemaError(
            "vectors need PostgreSQL's extension vector (pgvector), which this server does not have: install it, on "
            f"Debian and Ubuntu by apt install postgresql-{row['server']}-pgvector, else as "
            "https://github.com/pgvector/pgvector#installation says; the embedded server has it"
        )
    _check_version(row["version"], "install a newer one")


def _check_version(version: str, way_out: str) -> None:
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if numbers < _OLDEST:
        raise SchemaError(f"vectors need the extension vector (pgvector) 0.8 or newer, this is {version}: {way_out}")


def vector_text(vector: Any, space: Space, owner: str) -> str:
    """A vector as PostgreSQL reads it; raises `DocumentError` where it is none, or has other dimensions."""
    try:
        return str(vectors(space.dimensions, HALF)(vector))
    except UnfitError as exc:
        raise DocumentError(
            f"the vector of {owner} does not fit: what is stored {exc}"
            if "dimensions" in str(exc)
            else f"the vector of {owner} is none: it {exc}"
        ) from exc


# --- the table


_CREATE_EXTENSION = "CREATE EXTENSION IF NOT EXISTS vector"
# Of 16 bits: half the size, and the same order of what is found but for ties. Not compressed, and in the row itself up
# to 4,000 dimensions: a look at all of them takes a fraction of the time. What is missing is found in the primary key.
_CREATE = """
    CREATE TABLE section_vector (
        key        uuid NOT NULL,
        embedding  {schema}.halfvec({dimensions}),
        busy_until timestamptz,
        PRIMARY KEY (key) INCLUDE (busy_until)
    ) WITH (toast_tuple_target = 8160);
    COMMENT ON TABLE section_vector IS 'Vectors of texts, by the keys of the sections that have them';
    COMMENT ON COLUMN section_vector.embedding IS 'NULL where there is nothing to embed, and before it was done';
    COMMENT ON COLUMN section_vector.busy_until IS 'Somebody asks for the vector; where that time is past, nobody does';
    CREATE INDEX section_vector_embedding_index ON section_vector USING hnsw (embedding {schema}.halfvec_cosine_ops)
"""
_CREATE_KEY_INDEX = "CREATE INDEX {concurrently} IF NOT EXISTS document_section_key_index ON document_section (key)"
_IS_INDEXED = "SELECT to_regclass('document_section_key_index') IS NOT NULL"


async def init_section_vectors(dimensions: int, *, conn: Connection | None = None) -> None:
    """
    Create the table of vectors of so many *dimensions*, 1 to 4,000, unless it is there; `embed_missing` does it, too.

    Installs the extension vector in the database where the user may. Makes an index on document_section, without
    keeping anybody from writing unless *conn* is given. Any number of processes may call it at once. Raises
    `SchemaError` where pgvector 0.8 is missing and where the user may not create what is needed, `DocumentError` where
    there are vectors of other dimensions.
    """
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise DocumentError(f"vectors have 1 to {MOST_DIMENSIONS:,} dimensions, not {dimensions:,}")

    async def make(c: Connection) -> bool:
        space = await find_space(c)
        if space is None:
            if not await c.fetchval(_IS_INDEXED):
                await _make_key_index(c, conn)
            await c.execute(_CREATE_EXTENSION)
            schema = (await c.fetchrow(_FIND))["schema"]  # type: ignore[index]  # it was made just now
            await c.execute(_CREATE.format(schema=schema, dimensions=dimensions))
            return True
        if space.dimensions != dimensions:
            raise DocumentError(_other_dimensions(space.dimensions, dimensions))
        return False

    space = await find_space(conn)
    if space is not None and space.dimensions == dimensions:
        return
    try:
        await in_turn(make, doing="create the table of vectors", conn=conn)
    except DatabaseError as exc:
        if exc.sqlstate != "42501":
            raise
        raise SchemaError(
            "cannot create the table of vectors: the user may not; let the owner of the database run "
            f"CREATE EXTENSION IF NOT EXISTS vector, and init_section_vectors({dimensions}) once",
            original_error=exc,
            sqlstate=exc.sqlstate,
        ) from exc


def _other_dimensions(stored: int, given: int) -> str:
    return (
        f"the vectors that are stored have {stored} dimensions, not {given}: this is another model; "
        "drop_section_vectors() deletes them, then embed_missing() makes new ones"
    )


async def _make_key_index(holder: Connection, conn: Connection | None) -> None:
    """
    Make the index that leads from vectors to sections; *holder* has the lock that keeps others from doing the same.

    Where the caller's transaction is not to decide: without keeping anybody from writing, and through a connection
    that the pool does not count, for all that it counts may be held by those who wait for the lock.
    """
    if conn is not None:
        await holder.execute(_CREATE_KEY_INDEX.format(concurrently=""))
        return
    # as one simple query: that closes the portal of the last SELECT, for whose snapshot the index would wait
    await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    pool = await get_connection_pool()
    try:
        connection: Any = await pool.connect(pool.settings.connection_timeout)
    except Exception as exc:
        raise translate(exc, DatabaseNotAvailableError, "connect", changes=False) from exc
    try:
        with translated(connection.is_closed, SchemaError, "create an index on document_section"):
            deadline = asyncio.get_running_loop().time() + PATIENCE
            statement = _CREATE_KEY_INDEX.format(concurrently="CONCURRENTLY")
            await drop_remains(connection, statement, deadline)
            await connection.execute("SET statement_timeout = 0")
            await connection.execute(statement, timeout=PATIENCE)
    finally:
        connection.terminate()


async def drop_section_vectors(*, conn: Connection | None = None) -> bool:
    """
    Delete all vectors, and the table of them; True if there was one. For another model, which makes others.

    Until `embed_missing` has made new ones, only searches by text find something.
    """

    async def drop(c: Connection) -> bool:
        there = await c.fetchval("SELECT to_regclass('section_vector') IS NOT NULL")
        await c.execute("DROP TABLE IF EXISTS section_vector")
        return bool(there)

    return await in_turn(drop, doing="drop the table of vectors", conn=conn)


_IS_THERE = "SELECT to_regclass('section_vector') IS NOT NULL"
_SWEEP = """
    DELETE FROM section_vector
     WHERE key IN (SELECT vector.key
                     FROM section_vector AS vector
                    WHERE NOT EXISTS (SELECT FROM document_section AS section WHERE section.key = vector.key))
       AND key <> $1 AND (busy_until IS NULL OR busy_until < clock_timestamp())
"""


async def sweep_vectors() -> None:
    """Delete the vectors of texts that no document has any more."""
    if await run("look for vectors", lambda c: c.fetchval(_IS_THERE), None):
        await run("delete vectors", lambda c: c.execute(_SWEEP, PROBE_KEY), None, changes=True)
