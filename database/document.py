"""
Documents: a named text under a unique code, with metadata, and its full-text search.

Every function speaks through *conn* if given, else for itself. SQL stands above the function that sends it. A document
is a dict with id, name, code, content, metadata, language, source, created_at and updated_at.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from .batching import ALONE, LOCK_GUARD, NOT_YET, Limits, NotYet, SharedStatement, bytes_of
from .codecs import decode_json, encode_metadata
from .connect_db import Connection, Record, perform
from .exceptions import DocumentError, confidential
from .ids import as_uuid, uuid7
from .query import check_page
from .schema import apply_migration
from .search import guess_language, text_search_configuration
from .search.languages import READ
from .search.ranking import MARKS, Wanted, find_sections
from .search.refresh import cut_documents
from .search.sections import Section, cut_sections
from .search.writing import REPLACE_SECTIONS, insert_sections, section_arrays

T = TypeVar("T")
Item = TypeVar("Item")
Document = dict[str, Any]

MAX_CODE = 2_000  # bytes of UTF-8; an index entry holds 2,704 bytes with the id
MAX_CONTENT = 64 * 2**20  # bytes of UTF-8; PostgreSQL's own limit for everything in one row is 1 GB
_DEFAULT_LANGUAGE = "english"  # where the text does not say
_ATTEMPTS = 10
_ITER_ROWS, _ITER_BYTES = 256, 4 * 2**20
_COLUMNS = """
    id::text AS id, name, code, content, metadata::text AS metadata, language, source, created_at, updated_at
"""
_FITTING = _COLUMNS.replace(
    "content, metadata::text", "CASE WHEN fits THEN content END AS content, CASE WHEN fits THEN metadata::text END"
)
_COLUMNS_WITHOUT_CONTENT = _COLUMNS.replace("content,", "")


async def init_document_table(*, conn: Connection | None = None) -> None:
    """
    Create the tables of documents and sections unless they are there; any number of processes may call it at once.

    Documents from before there were sections are cut into sections, which may take a while for many of them. Raises
    `SchemaError` where another table of that name is there, or the user may not create tables.
    """
    for version in ("0001", "0003"):
        await apply_migration(version, conn=conn)
    if await apply_migration("0004", conn=conn):
        await cut_documents(conn=conn)


class Row(NamedTuple):
    """
    A document as the statements take it.

    *metadata* as JSON, *language* as PostgreSQL's name for it, *content_hash* the SHA-256 of the content's UTF-8.
    """

    id: UUID
    code: str
    name: str
    content: str
    metadata: str
    language: str
    source: str | None
    content_hash: bytes
    sections: list[Section]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The parameters of a statement, each for a column."""
        return (*self[:-1], *section_arrays(self.sections))

    @property
    def size(self) -> int:
        """About its bytes."""
        return bytes_of(self.code, self.name, self.content, self.metadata)


def row_of(document: Mapping[str, Any]) -> Row:
    """The *document* with what it lacks as empty, and with an id if it has none; raises `DocumentError`."""
    code = document["code"]
    _check_text(code, document["name"], document["content"])
    data = document["content"].encode(errors="surrogatepass")
    return Row(
        document.get("id") or uuid7(),
        code,
        document["name"],
        document["content"],
        encode_metadata(document.get("metadata"), DocumentError, _named(code)),
        _language_of(document),
        document.get("source"),
        hashlib.sha256(data).digest(),
        cut_sections(data),
    )


# In the order of the codes, byte by byte, as all statements that lock several documents: in different orders they would
# deadlock.
_GIVEN = """
    given AS MATERIALIZED (
        SELECT id, code, name, content, metadata::jsonb AS metadata, language, source, content_hash,
               section_keys::uuid[] AS section_keys, section_starts::integer[] AS section_starts,
               section_headings::text[] AS section_headings
          FROM lock_guard,
               unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[],
                      $10::text[], $11::text[], $12::text[])
                   AS given (id, code, name, content, metadata, language, source, content_hash, section_keys,
                             section_starts, section_headings)
    )
"""
_INSERT_SECTIONS = insert_sections("""
    (SELECT stored.id, stored.language, stored.name, document_bytes(given.content) AS bytes,
            given.section_keys, given.section_starts, given.section_headings
       FROM stored
       JOIN given USING (id)
     OFFSET 0)
""")
_INSERT = f"""
    WITH {LOCK_GUARD},{_GIVEN},
    stored AS (
        INSERT INTO document (id, code, name, content, metadata, language, section_keys, section_starts, indexed_state)
        SELECT id, code, name, content, metadata, language, section_keys, section_starts,
               document_state(language, name, content_hash)
          FROM given
         ORDER BY code COLLATE "C"
        ON CONFLICT (code) DO NOTHING
        RETURNING id, name, code, metadata, language, source, created_at, updated_at
    ),
    sections AS ({_INSERT_SECTIONS})
    SELECT {_COLUMNS_WITHOUT_CONTENT}
      FROM stored
"""
_INSERT_SECTIONS_ALONE = insert_sections("""
    (SELECT stored.id, stored.language, stored.name, document_bytes($4) AS bytes, $8::text::uuid[] AS section_keys,
            $9::text::integer[] AS section_starts, $10::text::text[] AS section_headings
       FROM stored
     OFFSET 0)
""")
_INSERT_ALONE = f"""
    WITH stored AS (
        INSERT INTO document (id, code, name, content, metadata, language, section_keys, section_starts, indexed_state)
        VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $8::text::uuid[], $9::text::integer[],
                document_state($6, $3, $7::bytea))
        ON CONFLICT (code) DO NOTHING
        RETURNING id, name, code, metadata, language, source, created_at, updated_at
    ),
    sections AS ({_INSERT_SECTIONS_ALONE})
    SELECT {_COLUMNS_WITHOUT_CONTENT}
      FROM stored
"""


def _columns(rows: Sequence[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*(row.arguments for row in rows), strict=True)]


async def _insert_alone(c: Connection, row: Row) -> Record | None:
    arguments = row.arguments
    return await c.fetchrow(_INSERT_ALONE, *arguments[:6], *arguments[7:])


async def _insert_shared(c: Connection, rows: Sequence[Row], limits: Limits) -> list[Record | None]:
    columns = _columns(rows)
    stored = {record["id"]: record for record in await c.fetch(_INSERT, limits.lock_timeout, *columns)}
    return [stored.get(str(row.id)) for row in rows]


_insert = SharedStatement(
    _insert_shared,
    alone=_insert_alone,
    kind=DocumentError,
    doing=lambda row: f"store {_named(row.code)}",
    changes=True,
    key=lambda row: row.code,
    size=lambda row: row.size,
)
_GET_OWN = f"""
    SELECT {_COLUMNS_WITHOUT_CONTENT}
      FROM document
     WHERE id = ANY($1) AND code = ANY($2)
"""


async def _get_own_shared(c: Connection, rows: Sequence[Row], limits: Limits) -> list[Record | None]:
    found = await c.fetch(_GET_OWN, [row.id for row in rows], [row.code for row in rows])
    own = {record["id"]: record for record in found}
    return [own.get(str(row.id)) for row in rows]


# A repetition, whose first attempt was done although its answer was lost, finds its own row: by a statement of its own,
# because the insert may have had to wait until that attempt was committed.
_get_own = SharedStatement(
    _get_own_shared, kind=DocumentError, doing=lambda row: f"read {_named(row.code)}", changes=False
)


@confidential
async def insert_document(
    name: str,
    code: str,
    content: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    language: str | None = None,
    conn: Connection | None = None,
) -> Document:
    """
    Store a new document and return it.

    *language* is that of the text, a name ("german") or an ISO code ("de"); guessed if not given. Raises
    `DocumentError` where the code is taken (`sqlstate` 23505), where *metadata* is not JSON, and where PostgreSQL
    cannot store the text (a NUL character, more than 64 MiB).
    """
    given = row_of({"name": name, "code": code, "content": content, "metadata": metadata, "language": language})
    row = await _insert.call(given, conn) or await _get_own.call(given, conn)
    if row is None:
        raise DocumentError(
            f"cannot store {_named(code)}: there is one under this code already; upsert_document() replaces it",
            sqlstate="23505",
        )
    return _document(row, content=content)


@cache
def _upsert(keep: frozenset[str]) -> str:
    """
    The statement that upserts many documents and leaves the columns *keep* of those that exist alone.

    Rows that change nothing are left out before the insert, so that no index entries are made for nothing; the WHERE of
    the conflict is for what a concurrent transaction has done since. Sorted by code, as in document_batches.py: upserts
    in different orders would deadlock. What is missing in the result was changed by a concurrent transaction meanwhile:
    ask again.
    """
    compared = [column for column in ("name", "metadata", "language", "source") if column not in keep]
    set_columns = ", ".join(
        f"{column} = excluded.{column}"
        for column in [*compared, "content", "updated_at", "section_keys", "section_starts"]
    )
    name, language = (
        f"{'coalesce(document.{0}, given.{0})' if column in keep else 'given.{0}'}".format(column)
        for column in ("name", "language")
    )
    new_name, new_language = (
        f"{'document' if column in keep else 'excluded'}.{column}" for column in ("name", "language")
    )
    stored = ", ".join(f"document.{column}" for column in [*compared, "content_hash"])
    new = ", ".join(f"given.{column}" for column in [*compared, "content_hash"])
    excluded = ", ".join(f"excluded.{column}" for column in [*compared, "content_hash"])
    return f"""
        WITH {LOCK_GUARD},{_GIVEN},
        compared AS MATERIALIZED (
            SELECT given.*, {name} AS new_name, {language} AS new_language, document.id AS old_id,
                   document.xmin::text AS version, document.indexed_state,
                   document_state({language}, {name}, given.content_hash) AS new_state,
                   document.code IS NOT NULL AND ({stored}) IS NOT DISTINCT FROM ({new}) AS same
              FROM given
              LEFT JOIN document USING (code)
        ),
        changed AS MATERIALIZED (
            SELECT id, code, new_name AS name, new_language AS language, content, metadata, source, section_keys,
                   section_starts, section_headings, old_id, version, new_state,
                   indexed_state IS DISTINCT FROM new_state AS recut,
                   substr(indexed_state, 65) = substr(new_state, 65) AS same_title
              FROM compared
             WHERE NOT same
        ),
        written AS (
            INSERT INTO document (id, code, name, content, metadata, language, source, section_keys, section_starts,
                                  indexed_state)
            SELECT id, code, name, content, metadata, language, source, section_keys, section_starts, new_state
              FROM changed
             ORDER BY code COLLATE "C"
            ON CONFLICT (code) DO UPDATE
               SET {set_columns}, indexed_state = document_state({new_language}, {new_name}, excluded.content_hash)
             WHERE ({stored}) IS DISTINCT FROM ({excluded})
               AND (document.code, document.xmin::text) IN (SELECT changed.code, changed.version FROM changed)
            RETURNING id, name, code, metadata, language, source, created_at, updated_at
        ),
        {REPLACE_SECTIONS},
        found AS (
            SELECT id, name, code, metadata, language, source, created_at, updated_at, true AS written
              FROM written
            UNION ALL
            SELECT document.id, document.name, document.code, document.metadata, document.language, document.source,
                   document.created_at, document.updated_at, false
              FROM document
              JOIN compared USING (code)
             WHERE compared.same
        )
        SELECT {_COLUMNS_WITHOUT_CONTENT},
               CASE WHEN id = ANY($2) THEN 'inserted' WHEN written THEN 'updated' ELSE 'unchanged' END AS status
          FROM found
    """


async def _upsert_once(
    keep: frozenset[str], c: Connection, rows: Sequence[Row], limits: Limits
) -> list[Record | NotYet]:
    columns = _columns(rows)
    found = {record["code"]: record for record in await c.fetch(_upsert(keep), limits.lock_timeout, *columns)}
    return [found.get(row.code, NOT_YET) for row in rows]


async def upsert_rows(keep: frozenset[str], c: Connection, rows: Sequence[Row]) -> list[Record]:
    """What became of *rows*, in their order; of the documents that exist, the columns *keep* stay as they are."""
    records = await _persist(lambda missing: _upsert_once(keep, c, missing, ALONE), c, rows)
    for row, record in zip(rows, records, strict=True):
        if record is NOT_YET:
            raise DocumentError(
                f"cannot store {_named(row.code)}: the server neither stores nor shows it (a trigger, a row policy?)"
            )
    return cast("list[Record]", records)


async def _persist(
    once: Callable[[Sequence[Item]], Awaitable[list[T | NotYet]]], c: Connection, items: Sequence[Item]
) -> list[T | NotYet]:
    """
    The results of *once* for *items*; repeated for those whose documents were changed under the statement.

    Within a transaction: a statement that comes too late holds the lock from then on, and the next one does not.
    """
    results = await once(items)
    if NOT_YET not in results:
        return results
    async with c.transaction():
        for _ in range(_ATTEMPTS):
            late = [position for position, result in enumerate(results) if result is NOT_YET]
            if not late:
                break
            again = await once([items[position] for position in late])
            for position, result in zip(late, again, strict=True):
                results[position] = result
    return results


@cache
def _upsert_shared(keep: frozenset[str]) -> SharedStatement[Row, Record]:
    async def alone(c: Connection, row: Row) -> Record:
        return (await upsert_rows(keep, c, [row]))[0]

    return SharedStatement(
        partial(_upsert_once, keep),
        alone=alone,
        kind=DocumentError,
        doing=lambda row: f"store {_named(row.code)}",
        changes=True,
        key=lambda row: row.code,
        size=lambda row: row.size,
    )


@confidential
async def upsert_document(
    name: str,
    code: str,
    content: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    language: str | None = None,
    conn: Connection | None = None,
) -> Document:
    """
    Store a document, or replace what is under its code; the document and its `status`.

    `status` is "inserted", "updated" or "unchanged"; unchanged, nothing was written (or the answer to the update was
    lost, and its repetition found it done). *metadata* and *language* that are not given stay as they are. Raises as
    `insert_document`.
    """
    document = {"name": name, "code": code, "content": content, "metadata": metadata, "language": language}
    keep = frozenset({"source"} | {column for column, value in document.items() if value is None})
    row = await _upsert_shared(keep).call(row_of(document), conn)
    return _document(row, content=content, status=row["status"])


_GET = f"""
    SELECT {_COLUMNS}
      FROM document
     WHERE code = $1
"""
# Of what is longer than $2 bytes, the documents that were asked for first, at least one.
_GET_SHARED = f"""
    SELECT {_FITTING}
      FROM (SELECT document.*, sum(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - size < $2 AS fits
              FROM unnest($1::text[]) WITH ORDINALITY AS asked (code, number)
              JOIN document USING (code)
             CROSS JOIN LATERAL (SELECT octet_length(content) + octet_length(metadata::text) AS size) AS measured)
           AS found
"""


async def _get_shared(c: Connection, codes: Sequence[str], limits: Limits) -> list[Record | NotYet | None]:
    rows = await c.fetch(_GET_SHARED, list(dict.fromkeys(codes)), limits.answer_bytes)
    found = {row["code"]: row if row["content"] is not None else NOT_YET for row in rows}
    return [found.get(code) for code in codes]


_get = SharedStatement(
    _get_shared,
    alone=lambda c, code: c.fetchrow(_GET, code),
    kind=DocumentError,
    doing=lambda code: f"read {_named(code)}",
    changes=False,
)


async def get_document_by_code(code: str, *, conn: Connection | None = None) -> Document | None:
    """The document under *code*, None if there is none."""
    if len(str(code)) > MAX_CODE:
        return None
    row = await _get.call(code, conn)
    return None if row is None else _whole_document(row)


_GET_MANY = f"""
    SELECT {_COLUMNS}
      FROM document
     WHERE code = ANY($1)
"""


async def get_documents_by_codes(codes: Sequence[str], *, conn: Connection | None = None) -> list[Document]:
    """The documents under *codes*, in that order; codes that nothing is under are left out."""
    check_codes(codes)
    rows = await _read(conn, f"read {len(codes)} documents", lambda c: c.fetch(_GET_MANY, list(codes)))
    found = {row["code"]: row for row in rows}
    return [_whole_document(found[code]) for code in codes if code in found]


# Newest first: ids are made in the order of time. (id, code) because that is the primary key; with the table's name,
# because the bare one would mean the text among the columns, which no index is sorted by.
_LIST = """
    SELECT {columns}
      FROM document
     ORDER BY document.id DESC, document.code DESC
     LIMIT $1 OFFSET $2
"""
_LIST_AFTER = """
    SELECT {columns}
      FROM document
     WHERE id < $3
     ORDER BY document.id DESC, document.code DESC
     LIMIT $1 OFFSET $2
"""


async def get_list_of_documents(
    limit: int = 100,
    offset: int = 0,
    *,
    after: str | None = None,
    content: bool = True,
    conn: Connection | None = None,
) -> list[Document]:
    """
    A page of the documents, newest first; an empty list behind the last one.

    *after* is the id of the last document of the page before: any page then costs what the first one costs, while
    *offset* reads and throws away all that it skips. *content* False leaves the text out. Raises `DocumentError` where
    *limit* or *offset* is negative, or *after* is no id.
    """
    check_page(limit, offset, DocumentError)
    columns = _COLUMNS if content else _COLUMNS_WITHOUT_CONTENT
    if after is None:
        rows = await _read(conn, "list documents", lambda c: c.fetch(_LIST.format(columns=columns), limit, offset))
        return [_document(row) for row in rows]
    last = as_uuid(after)
    if last is None:
        raise DocumentError("cannot list documents: after= is the id of a document, the last one of the page before")
    query = _LIST_AFTER.format(columns=columns)
    rows = await _read(conn, "list documents", lambda c: c.fetch(query, limit, offset, last))
    return [_document(row) for row in rows]


# One statement, so that total and items are of the same moment.
_PAGE = f"""
    WITH page AS (
        SELECT *
          FROM document
         ORDER BY id DESC, code DESC
         LIMIT $1 OFFSET $2
    )
    SELECT total, {_COLUMNS}
      FROM (SELECT count(*) AS total FROM document) AS counted
      LEFT JOIN page ON true
     ORDER BY page.id DESC
"""


async def list_documents_page(page: int = 1, page_size: int = 20, *, conn: Connection | None = None) -> dict[str, Any]:
    """
    Page number *page* (the first is 1), newest first, with what a pager needs.

    `items` (empty behind the last page), `total` documents, `page`, `page_size`, `total_pages`. Raises `DocumentError`
    where *page* or *page_size* is less than 1.
    """
    if page < 1 or page_size < 1:
        raise DocumentError("cannot list documents: page and page_size begin at 1")
    offset = (page - 1) * page_size
    check_page(page_size, offset, DocumentError)
    rows = await _read(conn, "list documents", lambda c: c.fetch(_PAGE, page_size, offset))
    total = rows[0]["total"]
    return {
        "items": [_document(row) for row in rows if row["id"] is not None],
        "total": total,
        "page": page,
        "page_size": page_size,
        "total_pages": -(-total // page_size),
    }


# As many as fit into $3 bytes, at least one; octet_length knows the length of a long text without reading it.
_NEXT = f"""
    SELECT {_COLUMNS}
      FROM (SELECT *,
                   sum(octet_length(content)) OVER ahead - octet_length(content) AS bytes_before
              FROM document
             WHERE id > $1
            WINDOW ahead AS (ORDER BY id)
             ORDER BY id
             LIMIT $2) AS batch
     WHERE bytes_before < $3
     ORDER BY batch.id
"""


async def iter_documents(*, conn: Connection | None = None) -> AsyncIterator[Document]:
    """
    Every document, oldest first, in constant memory: batches of at most 256 documents and about 4 MiB.

    Holds no connection while the caller works on a document, and goes on after a lost connection. Documents that are
    stored or deleted meanwhile may be there or not; each is given once.
    """
    last = UUID(int=0)
    while True:
        after = last
        rows = await _read(conn, "read documents", lambda c: c.fetch(_NEXT, after, _ITER_ROWS, _ITER_BYTES))  # noqa: B023 (awaited at once)
        for row in rows:
            yield _document(row)
        if not rows:
            return
        last = UUID(rows[-1]["id"])


async def search_documents(
    search_term: str,
    limit: int = 50,
    *,
    language: str | None = None,
    where: Mapping[str, Any] | None = None,
    content: bool = True,
    marks: tuple[str, str] = MARKS,
    escape: bool = False,
    exact: bool = False,
    conn: Connection | None = None,
) -> list[Document]:
    """
    The documents that fit *search_term* best, best first; an empty list where none does. No text is a wrong query.

    Words are alternatives, "quoted words" and +words must occur, -words must not, and asyn* is the beginning of words.
    Each document comes with `rank` (a float; greater is better, comparable within one search), and of its best section
    the `heading` path ("Install > Linux") and a `snippet`, its best passage with the words between *marks*; *escape*
    makes the text around them safe within HTML.

    Documents in the language that the question seems to be in come first; *language* confines the search to documents
    in it. *where* is a condition on the columns of documents as in
    `repository.fetch`: `{"metadata.team": "x", "code": {"$startswith": "a/"}}`. *content* False leaves the whole text
    out. *exact*: also where common words are searched for in a large collection, certainly the best, however long that
    takes; without, they nearly always are.
    """
    wanted = Wanted(limit, 1, language, where, exact, marks, escape)
    columns = _COLUMNS if content else _COLUMNS_WITHOUT_CONTENT
    rows = await find_sections(search_term, wanted, columns, conn=conn)
    return [_document(row, rank=row["rank"], heading=row["heading"], snippet=snippet) for row, snippet in rows]


_UPDATE_CONTENT = f"""
    WITH {LOCK_GUARD},
    given AS MATERIALIZED (
        SELECT code, content, content_hash, section_keys::uuid[] AS section_keys,
               section_starts::integer[] AS section_starts, section_headings::text[] AS section_headings
          FROM unnest($2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[])
                   AS given (code, content, content_hash, section_keys, section_starts, section_headings)
    ),
    seen AS MATERIALIZED (
        SELECT id, code, name, language, indexed_state, xmin::text AS version
          FROM document
         WHERE code = ANY($2)
    ),
    locked AS MATERIALIZED (
        SELECT document.code, document.xmin::text AS version
          FROM lock_guard, document
         WHERE document.code = ANY($2)
         ORDER BY document.code COLLATE "C"
           FOR NO KEY UPDATE OF document
    ),
    changed AS MATERIALIZED (
        SELECT seen.id AS old_id, code, name, language, content, section_keys, section_starts, section_headings,
               new_state, indexed_state IS DISTINCT FROM new_state AS recut,
               substr(indexed_state, 65) = substr(new_state, 65) AS same_title
          FROM locked
          JOIN seen USING (code, version)
          JOIN given USING (code)
         CROSS JOIN LATERAL (SELECT document_state(language, name, content_hash) AS new_state) AS made
    ),
    written AS (
        UPDATE document
           SET content = changed.content, updated_at = clock_timestamp(), section_keys = changed.section_keys,
               section_starts = changed.section_starts, indexed_state = changed.new_state
          FROM changed
         WHERE document.code = changed.code
        RETURNING document.id, document.code
    ),
    {REPLACE_SECTIONS}
    SELECT locked.code, written.code IS NOT NULL AS written, changed.code IS NULL AS moved
      FROM locked
      LEFT JOIN changed USING (code)
      LEFT JOIN written USING (code)
"""


class _Text(NamedTuple):
    """The content of a document that is to be replaced; as in `Row`."""

    code: str
    content: str
    content_hash: bytes
    sections: list[Section]


async def _update_once(c: Connection, items: Sequence[_Text], limits: Limits) -> list[bool | NotYet]:
    arguments = [(*item[:-1], *section_arrays(item.sections)) for item in items]
    columns = [list(column) for column in zip(*arguments, strict=True)]
    rows = await c.fetch(_UPDATE_CONTENT, limits.lock_timeout, *columns)
    found = {row["code"]: NOT_YET if row["moved"] else bool(row["written"]) for row in rows}
    return [found.get(item.code, False) for item in items]


async def _update_alone(c: Connection, item: _Text) -> bool:
    (updated,) = await _persist(lambda items: _update_once(c, items, ALONE), c, [item])
    if updated is NOT_YET:
        raise DocumentError(f"cannot update {_named(item.code)}: others change it all the time", retryable=True)
    return updated


_update = SharedStatement(
    _update_once,
    alone=_update_alone,
    kind=DocumentError,
    doing=lambda item: f"update {_named(item.code)}",
    changes=True,
    key=lambda item: item.code,
    size=lambda item: bytes_of(item.code, item.content),
)


@confidential
async def update_document_content(code: str, content: str, *, conn: Connection | None = None) -> bool:
    """
    Replace the content of the document *code*; True if there was one.

    Raises `DocumentError` where PostgreSQL cannot store the text (a NUL character, more than 64 MiB).
    """
    _check_text(code, "", content)
    data = content.encode(errors="surrogatepass")
    return await _update.call(_Text(code, content, hashlib.sha256(data).digest(), cut_sections(data)), conn)


_DELETE = """
    WITH deleted AS (
        DELETE FROM document
         WHERE code = $1
        RETURNING id
    ),
    sections AS (
        DELETE FROM document_section
         WHERE document_id IN (SELECT id FROM deleted)
    )
    SELECT true
      FROM deleted
"""
_DELETE_SHARED = f"""
    WITH {LOCK_GUARD},
    locked AS MATERIALIZED (
        SELECT document.code
          FROM lock_guard, document
         WHERE document.code = ANY($2)
         ORDER BY document.code COLLATE "C"
           FOR UPDATE OF document
    ),
    deleted AS (
        DELETE FROM document
         USING locked
         WHERE document.code = locked.code
        RETURNING document.id, document.code
    ),
    sections AS (
        DELETE FROM document_section
         WHERE document_id IN (SELECT id FROM deleted)
    )
    SELECT code
      FROM deleted
"""


async def _delete_shared(c: Connection, codes: Sequence[str], limits: Limits) -> list[bool]:
    deleted = {row["code"] for row in await c.fetch(_DELETE_SHARED, limits.lock_timeout, codes)}
    return [code in deleted for code in codes]


async def _delete_alone(c: Connection, code: str) -> bool:
    return await c.fetchval(_DELETE, code) is True


# not repeatable: a repetition could delete a document that somebody stored under the same code meanwhile
_delete = SharedStatement(
    _delete_shared,
    alone=_delete_alone,
    kind=DocumentError,
    doing=lambda code: f"delete {_named(code)}",
    changes=True,
    repeatable=False,
    key=lambda code: code,
)


async def delete_document(code: str, *, conn: Connection | None = None) -> bool:
    """
    Delete the document *code*; True if there was one.

    Not repeated where its answer was lost (`OutcomeUnknownError`): a repetition could delete a document that somebody
    stored under the same code meanwhile.
    """
    if not isinstance(code, str):
        raise DocumentError(f"the code of a document is a str, not {type(code).__name__}")
    return await _delete.call(code, conn)


# The planner's own arithmetic: tuples per page when last counted, times the pages that there are now.
_ESTIMATE = """
    SELECT CASE WHEN reltuples < 0 OR relpages = 0 THEN NULL
                ELSE round(reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::int))
           END::bigint
      FROM pg_class
     WHERE oid = 'document'::regclass
"""


async def get_document_count(*, estimate: bool = False, conn: Connection | None = None) -> int:
    """
    How many documents there are; *estimate* True answers at once, from what the server last counted.

    A table that the server has not counted yet (VACUUM, ANALYZE) is counted exactly all the same.
    """

    async def count(c: Connection) -> int:
        guess = await c.fetchval(_ESTIMATE) if estimate else None
        return int(await c.fetchval("SELECT count(*) FROM document") if guess is None else guess)

    return await _read(conn, "count documents", count)


async def _read(conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    return await perform(work, conn=conn, kind=DocumentError, doing=doing, changes=False, repeatable=True)


async def _write(
    conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = True
) -> T:
    return await perform(work, conn=conn, kind=DocumentError, doing=doing, changes=True, repeatable=repeatable)


_KEYS = ("id", "name", "code", "content", "metadata", "language", "source", "created_at", "updated_at")


def _document(row: Record, **more: Any) -> Document:
    """The row as a plain dict in the order of the columns; *more* holds what the statement did not return, or adds."""
    values = dict(row)
    values["metadata"] = decode_json(values["metadata"])
    if not more:
        return values
    values |= more
    return {key: values[key] for key in (*_KEYS, *more) if key in values}


def _whole_document(row: Record) -> Document:
    """As `_document`, for a row of exactly `_COLUMNS`; spelled out it takes half the time, which readers feel."""
    document_id, name, code, content, metadata, language, source, created_at, updated_at = row
    return {
        "id": document_id,
        "name": name,
        "code": code,
        "content": content,
        "metadata": decode_json(metadata),
        "language": language,
        "source": source,
        "created_at": created_at,
        "updated_at": updated_at,
    }


def _named(code: object) -> str:
    """The document in a message: by its code, which may be of any length."""
    text = str(code)
    return f"document {text if len(text) <= 100 else text[:100] + '…'!r}"


def _check_text(code: str, name: str, content: str) -> None:
    for what, text in (("code", code), ("name", name), ("content", content)):
        if not isinstance(text, str):
            raise DocumentError(f"the {what} of a document is a str, not {type(text).__name__}")
    if not code:
        raise DocumentError("the code of a document must not be empty")
    if len(code.encode(errors="surrogatepass")) > MAX_CODE:
        raise DocumentError(f"cannot store {_named(code)}: its code has more than {MAX_CODE:,} bytes")
    # 4 bytes is the most that a character takes, so most texts need no second look
    if len(content) * 4 > MAX_CONTENT and len(content.encode(errors="surrogatepass")) > MAX_CONTENT:
        raise DocumentError(f"cannot store {_named(code)}: it has more than {MAX_CONTENT // 2**20} MiB; split it")


def check_codes(codes: Sequence[str]) -> None:
    """Raise `DocumentError` where *codes* is one code instead of a list of them."""
    if isinstance(codes, str):  # a sequence of characters, each of which may be a code
        raise DocumentError("codes is a list of codes, not a str")


def _language_of(document: Mapping[str, Any]) -> str:
    """PostgreSQL's name for the language that is given, or in which name and content seem to be written."""
    given = document.get("language")
    if given is None:
        return guess_language(f"{document['name']}\n{document['content'][:READ]}") or _DEFAULT_LANGUAGE
    configuration = text_search_configuration(given)
    if configuration is None:
        raise DocumentError(
            f"the language of {_named(document['code'])} is a name such as 'german' or an ISO 639-1 code such as 'de'"
        )
    return configuration
