"""
What keeps the search up to date in the background, above all the sections of documents that have none.

Everything happens in short transactions, and any number of workers may do it at once. Documents that somebody else is
writing are left to the next time; nobody waits for this, but for a document while its own sections are made.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from typing import Any
from uuid import UUID

from ..connect_db import Connection, Record, get_db_transaction
from ..exceptions import DocumentError, confidential
from .sections import cut_sections
from .upkeep import run
from .vectors import sweep_vectors
from .waiting_words import merge_waiting_words
from .word_lists import count_lists, refresh_lists
from .writing import REPLACE_SECTIONS, section_arrays

log = logging.getLogger("database")


async def refresh_search_index() -> dict[str, Any]:
    """
    Bring the search up to date: what every ingestion does at its end, and `python -m database index refresh`.

    Documents that came by other means than this package's functions are cut into sections; without that, they are not
    found. In large collections, lists of the sections where common words weigh most are made or brought up to date;
    without that, searches for such words take longer. Never keeps anybody from writing; safe with several workers.

    Returns a dict: `documents` that were cut, `sections` and `lists` (of common words) that there are now, `seconds`.
    """
    began = time.monotonic()
    documents = await cut_documents()
    await run("delete sections", lambda c: c.execute(_SWEEP), changes=True)
    await merge_waiting_words()
    await sweep_vectors()
    sections = await refresh_lists()
    lists = await count_lists()
    return {
        "documents": documents,
        "sections": sections,
        "lists": lists,
        "seconds": time.monotonic() - began,
    }


# --- documents without sections


_BATCH_DOCUMENTS, _BATCH_BYTES = 64, 2**20

_STALE = """
    SELECT id, octet_length(content) AS size
      FROM document
     WHERE indexed_state IS DISTINCT FROM document_state(language, name, content_hash) AND id > $1
     ORDER BY id
     LIMIT $2
"""
_LOCK = """
    SELECT id, content
      FROM document
     WHERE id = ANY($1) AND indexed_state IS DISTINCT FROM document_state(language, name, content_hash)
     ORDER BY code COLLATE "C"
       FOR NO KEY UPDATE SKIP LOCKED
"""
_CUT = f"""
    WITH changed AS MATERIALIZED (
        SELECT document.id AS old_id, code, name, language, content, new_state, true AS recut,
               substr(indexed_state, 65) = substr(new_state, 65) AS same_title,
               given.section_keys::uuid[] AS section_keys, given.section_starts::integer[] AS section_starts,
               given.section_headings::text[] AS section_headings
          FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::text[], $5::text[])
                   AS given (id, content_hash, section_keys, section_starts, section_headings)
          JOIN document ON document.id = given.id AND document.content_hash = given.content_hash
         CROSS JOIN LATERAL (SELECT document_state(language, name, given.content_hash) AS new_state) AS made
    ),
    written AS (
        UPDATE document
           SET section_keys = changed.section_keys, section_starts = changed.section_starts,
               indexed_state = changed.new_state
          FROM changed
         WHERE document.code = changed.code
        RETURNING document.id, document.code
    ),
    {REPLACE_SECTIONS}
    SELECT count(*)
      FROM written
"""


async def cut_documents(*, conn: Connection | None = None) -> int:
    """
    Cut the documents that have no sections, or those of another version of their text; how many there were.

    Those that somebody else is writing at that moment are left out. One that the server refuses is logged and left out.
    """
    last = UUID(int=0)
    count = 0
    while True:
        after = last
        found = await run("find new documents", lambda c: c.fetch(_STALE, after, _BATCH_DOCUMENTS), conn=conn)  # noqa: B023 (awaited at once)
        if not found:
            return count
        size = 0
        batch: list[UUID] = []
        for row in found:
            if batch and size + row["size"] > _BATCH_BYTES:
                break
            size += row["size"]
            batch.append(row["id"])
        last = batch[-1]
        count += await _cut_batch(batch, conn)


@confidential
async def _cut_batch(batch: list[UUID], conn: Connection | None) -> int:
    try:
        async with get_db_transaction(conn=conn) as c:
            rows = await run("lock new documents", lambda c: c.fetch(_LOCK, batch), conn=c)
            if not rows:
                return 0
            columns = await asyncio.to_thread(_cut_rows, rows)
            return int(await run("cut documents", lambda c: c.fetchval(_CUT, *columns), changes=True, conn=c))
    except DocumentError as exc:
        if exc.retryable or exc.sqlstate is None:
            raise
        if len(batch) == 1:
            log.warning("document %s was not cut into sections: %s", batch[0], exc)
            return 0
        half = len(batch) // 2
        return await _cut_batch(batch[:half], conn) + await _cut_batch(batch[half:], conn)


def _cut_rows(rows: list[Record]) -> list[list[Any]]:
    cut = []
    for row in rows:
        data = row["content"].encode()
        cut.append((row["id"], hashlib.sha256(data).digest(), *section_arrays(cut_sections(data))))
    return [list(column) for column in zip(*cut, strict=True)]


# Of documents that were deleted by other means, or while somebody else wrote them; they were not found any more.
_SWEEP = """
    DELETE FROM document_section
     WHERE id IN (SELECT section.id
                    FROM document_section AS section
                    LEFT JOIN document ON document.id = section.document_id
                   WHERE document.id IS NULL OR section.key <> ALL (document.section_keys))
"""
