"""
Documents by the batch: many stored, compared or deleted in one statement.

Every function speaks through *conn* if given, else for itself. Whatever locks many documents takes them in the order of
their codes, byte by byte, so that two who meet wait for each other and do not deadlock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from .connect_db import Connection, Record, get_db_transaction, perform
from .document import Row, check_codes, row_of, upsert_rows
from .exceptions import (
    ConnectionPoolError,
    DatabaseNotAvailableError,
    DocumentError,
    OutcomeUnknownError,
    confidential,
)
from .search.waiting_words import LET_THEM_WAIT
from .search.writing import binary_arrays, headings_array, insert_sections, state_of

_CHUNK = 64 * 2**10  # bytes that are handed to the driver at once: it copies what it is handed, and then sends it


@confidential
async def upsert_documents(
    documents: Sequence[Mapping[str, Any]], *, conn: Connection | None = None
) -> list[dict[str, Any]]:
    """
    Store many documents in one statement, all or none; for each, in the order given, its id, code and `status`.

    Each has name, code and content, and may have metadata, language and source; what it has not is stored as empty. It
    may have an `id`, a UUID, for the case that it is new: who asks again under the same one hears "inserted" again.
    Raises `DocumentError` where PostgreSQL refuses one of them, or where two have the same code.
    """
    return await _upsert(_rows_of(documents), conn)


@confidential
async def insert_documents(
    documents: Sequence[Mapping[str, Any]], *, conn: Connection | None = None
) -> list[dict[str, Any]]:
    """
    As `upsert_documents`, and faster where none of *documents* is there yet: by COPY.

    Where that fails (somebody has stored one of them meanwhile, the answer was lost, a row policy forbids COPY) or
    stores fewer (a trigger), they are upserted under the same ids, which also finds what the COPY has stored after all.
    """
    rows = _rows_of(documents)
    try:
        # with conn=, a savepoint: a statement that fails would abort the caller's transaction
        async with get_db_transaction(conn=conn) as c:
            stored = await _copy(sorted(rows, key=lambda row: row.code), c)
    except (DocumentError, UnicodeEncodeError):
        return await _upsert(rows, conn)
    except DatabaseNotAvailableError:
        if conn is not None:
            raise
        return await _upsert(rows, conn)
    except OutcomeUnknownError as exc:
        if isinstance(exc.original_error, TimeoutError):
            raise  # what took longer than DB_COMMAND_TIMEOUT once would do so again
        try:
            return await _upsert(rows, conn)
        except ConnectionPoolError:
            raise exc from None  # still nobody knows
    if stored < len(rows):
        return await _upsert(rows, conn)
    return [{"id": str(row.id), "code": row.code, "status": "inserted"} for row in rows]


def _rows_of(documents: Sequence[Mapping[str, Any]]) -> list[Row]:
    codes = [str(document["code"]) for document in documents]
    if len(set(codes)) < len(codes):
        twice = next(code for position, code in enumerate(codes) if code in codes[:position])
        raise DocumentError(f"cannot store documents: {twice!r} is the code of two of them")
    return [row_of(document) for document in documents]


async def _upsert(rows: list[Row], conn: Connection | None) -> list[dict[str, Any]]:
    if not rows:
        return []
    records = await perform(
        lambda c: upsert_rows(frozenset(), c, rows),
        conn=conn,
        kind=DocumentError,
        doing=f"store {len(rows)} documents",
        changes=True,
        repeatable=True,
    )
    return [{"id": record["id"], "code": record["code"], "status": record["status"]} for record in records]


_COPIED = (
    "id", "code", "name", "metadata", "language", "source", "section_keys", "section_starts", "indexed_state", "content"
)  # fmt: skip
# The text of the sections is in the server already.
_COPY_SECTIONS = insert_sections("""
    (SELECT document.id, document.language, document.name,
            coalesce(document.content_bytes, document_bytes(document.content)) AS bytes,
            document.section_keys, document.section_starts, given.headings::text[] AS section_headings
       FROM unnest($1::uuid[], $2::text[]) AS given (id, headings)
       JOIN document USING (id)
     OFFSET 0)
""")


async def _copy(rows: list[Row], conn: Connection) -> int:
    """How many of *rows* were stored."""

    async def copy(c: Connection) -> str:
        await c.execute(LET_THEM_WAIT)
        status = await c.copy_to_table("document", source=_copy_stream(rows), columns=_COPIED, format="binary")
        await c.execute(_COPY_SECTIONS, [row.id for row in rows], [headings_array(row.sections) for row in rows])
        return status

    status = await perform(
        copy, conn=conn, kind=DocumentError, doing=f"store {len(rows)} documents", changes=True, repeatable=False
    )
    return int(status.rpartition(" ")[2])


async def _copy_stream(rows: list[Row]) -> AsyncIterator[bytes]:
    """
    The *rows* in the binary format of https://www.postgresql.org/docs/current/sql-copy.html, piece by piece.

    Written here because asyncpg's own encoder has none for jsonb where a connection takes it as text, as ours do.
    """
    waiting = bytearray(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    for row in rows:
        content = row.content.encode()
        source = None if row.source is None else row.source.encode()
        metadata = b"\1" + row.metadata.encode()  # the version of jsonb's binary format
        waiting += len(_COPIED).to_bytes(2, "big")
        state = state_of(row.language, row.name, row.content_hash).encode()
        keys, starts = binary_arrays(row.sections)
        for value in (row.id.bytes, row.code.encode(), row.name.encode(), metadata, row.language.encode(), source,
                      keys, starts, state):  # fmt: skip
            waiting += _field(value)
        waiting += len(content).to_bytes(4, "big")
        for start in range(0, len(content), _CHUNK):
            waiting += content[start : start + _CHUNK]
            if len(waiting) >= _CHUNK:
                yield bytes(waiting)
                waiting.clear()
    waiting += b"\xff\xff"
    yield bytes(waiting)


def _field(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value


_DELETE_MANY = """
    WITH deleted AS (
        DELETE FROM document
         WHERE code IN (SELECT code
                          FROM document
                         WHERE code = ANY($1) AND ($2::text IS NULL OR source = $2)
                         ORDER BY code COLLATE "C"
                           FOR UPDATE)
        RETURNING id
    ),
    sections AS (
        DELETE FROM document_section
         WHERE document_id IN (SELECT id FROM deleted)
    )
    SELECT count(*)
      FROM deleted
"""


async def delete_documents(codes: Sequence[str], *, source: str | None = None, conn: Connection | None = None) -> int:
    """
    Delete the documents under *codes*, all in one statement; how many there were.

    With *source*, only those that still come from it when their turn has come.
    """
    check_codes(codes)
    count = await perform(
        lambda c: c.fetchval(_DELETE_MANY, list(codes), source),
        conn=conn,
        kind=DocumentError,
        doing=f"delete {len(codes)} documents",
        changes=True,
        repeatable=False,
    )
    return int(count)


_FINGERPRINTS = """
    SELECT code, name, metadata::text AS metadata, language, source, content_hash
      FROM document
     WHERE code = ANY($1)
"""


async def get_document_fingerprints(codes: Sequence[str], *, conn: Connection | None = None) -> dict[str, Record]:
    """
    What is needed to tell whether documents have changed, by code; codes that nothing is under are left out.

    Each has name, metadata (JSON as text), language, source and content_hash, the SHA-256 of the content's UTF-8
    (bytes).
    """
    rows = await perform(
        lambda c: c.fetch(_FINGERPRINTS, list(codes)),
        conn=conn,
        kind=DocumentError,
        doing=f"compare {len(codes)} documents",
        changes=False,
        repeatable=True,
    )
    return {row["code"]: row for row in rows}


_CODES = """
    SELECT code
      FROM document
     WHERE code > $1 AND source = $2
     ORDER BY code
     LIMIT $3
"""


async def iter_codes(source: str, *, conn: Connection | None = None) -> AsyncIterator[list[str]]:
    """The codes of the documents that came from *source*, in order, in batches of up to 10,000."""
    last = ""
    while True:
        after = last
        rows = await perform(
            lambda c: c.fetch(_CODES, after, source, 10_000),  # noqa: B023 (awaited at once)
            conn=conn,
            kind=DocumentError,
            doing="list codes",
            changes=False,
            repeatable=True,
        )
        if not rows:
            return
        yield [row["code"] for row in rows]
        last = rows[-1]["code"]
