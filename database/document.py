"""
Documents: a named text under a unique code, with metadata, and its full-text search.

Every function speaks through *conn* if given, else for itself. SQL stands above the function that sends it. A document
is a dict with id, name, code, content, metadata, language, source, created_at and updated_at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from .batching import ALONE, LOCK_GUARD, NOT_YET, Limits, NotYet, SharedStatement, bytes_of
from .codecs import decode_json, encode_metadata
from .connect_db import Connection, Record, perform
from .exceptions import DocumentError
from .ids import as_uuid, uuid7
from .query import check_page
from .schema import apply_migration
from .search import Question, parse_question, text_search_configuration

T = TypeVar("T")
Document = dict[str, Any]

MAX_CODE = 2_000  # bytes of UTF-8; an index entry holds 2,704 bytes with the id
MAX_CONTENT = 64 * 2**20  # bytes of UTF-8; PostgreSQL's own limit for everything in one row is 1 GB
_DEFAULT_LANGUAGE = "english"
_UPSERT_ATTEMPTS = 10
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
    Create the table `document` and its indexes unless they are there; any number of processes may call it at once.

    Raises `SchemaError` where another table of that name is there, or the user may not create tables.
    """
    for version in ("0001", "0003"):
        await apply_migration(version, conn=conn)


class Row(NamedTuple):
    """A document as the statements take it: *metadata* as JSON, *language* as PostgreSQL's name for it."""

    id: UUID
    code: str
    name: str
    content: str
    metadata: str
    language: str
    source: str | None

    @property
    def size(self) -> int:
        """About its bytes."""
        return bytes_of(self.code, self.name, self.content, self.metadata)


def row_of(document: Mapping[str, Any]) -> Row:
    """The *document* with what it lacks as empty, and with an id if it has none; raises `DocumentError`."""
    code = document["code"]
    _check_text(code, document["name"], document["content"])
    return Row(
        document.get("id") or uuid7(),
        code,
        document["name"],
        document["content"],
        encode_metadata(document.get("metadata"), DocumentError, _named(code)),
        _configuration(code, document.get("language")),
        document.get("source"),
    )


# In the order of the codes, byte by byte, as all statements that lock several documents: in different orders they would
# deadlock.
_INSERT = f"""
    WITH {LOCK_GUARD}
    INSERT INTO document (id, code, name, content, metadata, language)
    SELECT given.id, given.code, given.name, given.content, given.metadata::jsonb, given.language
      FROM lock_guard,
           unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
               AS given (id, code, name, content, metadata, language)
     ORDER BY given.code COLLATE "C"
    ON CONFLICT (code) DO NOTHING
    RETURNING {_COLUMNS_WITHOUT_CONTENT}
"""
_INSERT_ALONE = f"""
    INSERT INTO document (id, code, name, content, metadata, language)
    VALUES ($1, $2, $3, $4, $5::text::jsonb, $6)
    ON CONFLICT (code) DO NOTHING
    RETURNING {_COLUMNS_WITHOUT_CONTENT}
"""


async def _insert_shared(c: Connection, rows: Sequence[Row], limits: Limits) -> list[Record | None]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    stored = {record["id"]: record for record in await c.fetch(_INSERT, limits.lock_timeout, *columns[:6])}
    return [stored.get(str(row.id)) for row in rows]


_insert = SharedStatement(
    _insert_shared,
    alone=lambda c, row: c.fetchrow(_INSERT_ALONE, *row[:6]),
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

    *language* is that of the text, a name ("german") or an ISO code ("de"); English if not given. Raises
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
    set_columns = ", ".join(f"{column} = excluded.{column}" for column in [*compared, "content", "updated_at"])
    stored = ", ".join(f"document.{column}" for column in [*compared, "content_hash"])
    new = ", ".join(f"changed.{column}" for column in [*compared, "content_hash"])
    excluded = ", ".join(f"excluded.{column}" for column in [*compared, "content_hash"])
    return f"""
        WITH {LOCK_GUARD},
        changed AS (
            SELECT given.id, given.code, given.name, given.content, given.metadata::jsonb AS metadata, given.language,
                   given.source, document_hash(given.content) AS content_hash
              FROM lock_guard,
                   unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
                       AS given (id, code, name, content, metadata, language, source)
        ),
        written AS (
            INSERT INTO document (id, code, name, content, metadata, language, source)
            SELECT changed.id, changed.code, changed.name, changed.content, changed.metadata, changed.language,
                   changed.source
              FROM changed
              LEFT JOIN document USING (code)
             WHERE document.code IS NULL OR ({stored}) IS DISTINCT FROM ({new})
             ORDER BY changed.code COLLATE "C"
            ON CONFLICT (code) DO UPDATE SET {set_columns}
             WHERE ({stored}) IS DISTINCT FROM ({excluded})
            RETURNING id, name, code, metadata, language, source, created_at, updated_at
        ),
        found AS (
            SELECT id, name, code, metadata, language, source, created_at, updated_at, true AS written
              FROM written
            UNION ALL
            SELECT document.id, document.name, document.code, document.metadata, document.language, document.source,
                   document.created_at, document.updated_at, false
              FROM document
              JOIN changed USING (code)
             WHERE code NOT IN (SELECT code FROM written) AND ({stored}) IS NOT DISTINCT FROM ({new})
        )
        SELECT {_COLUMNS_WITHOUT_CONTENT},
               CASE WHEN id = ANY($2) THEN 'inserted' WHEN written THEN 'updated' ELSE 'unchanged' END AS status
          FROM found
    """


async def _upsert_once(
    keep: frozenset[str], c: Connection, rows: Sequence[Row], limits: Limits
) -> list[Record | NotYet]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    found = {record["code"]: record for record in await c.fetch(_upsert(keep), limits.lock_timeout, *columns)}
    return [found.get(row.code, NOT_YET) for row in rows]


async def upsert_rows(keep: frozenset[str], c: Connection, rows: Sequence[Row]) -> list[Record]:
    """What became of *rows*, in their order; of the documents that exist, the columns *keep* stay as they are."""
    found: dict[str, Record] = {}
    missing = rows
    for _ in range(_UPSERT_ATTEMPTS):
        for row, record in zip(missing, await _upsert_once(keep, c, missing, ALONE), strict=True):
            if record is not NOT_YET:
                found[row.code] = record
        missing = [row for row in missing if row.code not in found]
        if not missing:
            return [found[row.code] for row in rows]
    raise DocumentError(
        f"cannot store {_named(missing[0].code)}: the server neither stores nor shows it (a trigger, a row policy?)"
    )


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
    return None if row is None else _document(row)


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
    return [_document(found[code]) for code in codes if code in found]


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


# The parts of the query are turned into a tsquery for every language in use, found by skipping through its index
# (https://wiki.postgresql.org/wiki/Loose_indexscan). Only the rows that are returned are highlighted.
_SEARCH = """
    WITH RECURSIVE used AS (
        (SELECT language FROM document ORDER BY language LIMIT 1)
        UNION ALL
        SELECT (SELECT document.language
                  FROM document
                 WHERE document.language > used.language
                 ORDER BY document.language
                 LIMIT 1)
          FROM used
         WHERE used.language IS NOT NULL
    ),
    parts AS (
        SELECT language,
               websearch_to_tsquery(language::regconfig, $1) AS words,
               websearch_to_tsquery(language::regconfig, $2) AS required,
               websearch_to_tsquery(language::regconfig, $3) AS excluded
          FROM used
         WHERE language = coalesce($4, language)
    ),
    asked AS (
        SELECT language,
               CASE WHEN numnode(required) > 0 THEN required ELSE words END && excluded AS query,
               words || required AS wanted
          FROM parts
         WHERE numnode(words) + numnode(required) > 0
    ),
    best AS (
        SELECT document.*, wanted, ts_rank(search, wanted, 1) AS rank
          FROM asked
          JOIN document ON document.language = asked.language AND search @@ query
         ORDER BY rank DESC, id DESC
         LIMIT $5
    )
    SELECT {columns}, rank::float8 AS rank,
           ts_headline(language::regconfig, left(content, 200000), wanted, $6) AS snippet
      FROM best
     ORDER BY rank DESC, best.id DESC
"""
_HEADLINE = 'StartSel=<mark>, StopSel=</mark>, MaxFragments=2, MaxWords=25, MinWords=10, FragmentDelimiter=" … "'


async def search_documents(
    search_term: str,
    limit: int = 50,
    *,
    language: str | None = None,
    content: bool = True,
    conn: Connection | None = None,
) -> list[Document]:
    """
    The documents that fit *search_term* best, best first; an empty list where none does. No text is a wrong query.

    Words are alternatives, "quoted words" must occur side by side, -words must not occur. Each document comes with
    `rank` (a float; greater is better, comparable within one search) and `snippet`, its best passages with the words in
    `<mark>`; the text around them is the document's own and not escaped for HTML. *language* confines the search to
    documents in it; *content* False leaves the whole text out.
    """
    check_page(limit, 0, DocumentError)
    question = parse_question(search_term)
    if not question:
        return []
    sql = _SEARCH.format(columns=_COLUMNS if content else _COLUMNS_WITHOUT_CONTENT)
    arguments = (*_as_websearch(question), None if language is None else _configuration("", language), limit, _HEADLINE)
    rows = await _read(conn, "search documents", lambda c: c.fetch(sql, *arguments))
    return [_document(row, rank=row["rank"], snippet=row["snippet"]) for row in rows]


def _as_websearch(question: Question) -> tuple[str, str, str]:
    return (
        " or ".join(f'"{term}"' for term in question.alternatives),
        " ".join(f'"{term}"' for term in question.demanded),
        " ".join(f'-"{term}"' for term in question.excluded),
    )


_UPDATE_CONTENT = """
    UPDATE document
       SET content = $2, updated_at = clock_timestamp()
     WHERE code = $1
    RETURNING true
"""
_UPDATE_CONTENT_SHARED = f"""
    WITH {LOCK_GUARD},
    given AS (
        SELECT *
          FROM unnest($2::text[], $3::text[]) AS given (code, content)
    ),
    locked AS MATERIALIZED (
        SELECT document.code
          FROM lock_guard, document
         WHERE document.code = ANY($2)
         ORDER BY document.code COLLATE "C"
           FOR NO KEY UPDATE OF document
    )
    UPDATE document
       SET content = given.content, updated_at = clock_timestamp()
      FROM locked
      JOIN given USING (code)
     WHERE document.code = locked.code
    RETURNING document.code
"""


async def _update_shared(c: Connection, items: Sequence[tuple[str, str]], limits: Limits) -> list[bool]:
    codes, contents = zip(*items, strict=True)
    rows = await c.fetch(_UPDATE_CONTENT_SHARED, limits.lock_timeout, codes, contents)
    updated = {row["code"] for row in rows}
    return [code in updated for code in codes]


async def _update_alone(c: Connection, item: tuple[str, str]) -> bool:
    return await c.fetchval(_UPDATE_CONTENT, *item) is True


_update = SharedStatement(
    _update_shared,
    alone=_update_alone,
    kind=DocumentError,
    doing=lambda item: f"update {_named(item[0])}",
    changes=True,
    key=lambda item: item[0],
    size=lambda item: bytes_of(*item),
)


async def update_document_content(code: str, content: str, *, conn: Connection | None = None) -> bool:
    """
    Replace the content of the document *code*; True if there was one.

    Raises `DocumentError` where PostgreSQL cannot store the text (a NUL character, more than 64 MiB).
    """
    _check_text(code, "", content)
    return await _update.call((code, content), conn)


_DELETE = """
    DELETE FROM document
     WHERE code = $1
    RETURNING true
"""
_DELETE_SHARED = f"""
    WITH {LOCK_GUARD},
    locked AS MATERIALIZED (
        SELECT document.code
          FROM lock_guard, document
         WHERE document.code = ANY($2)
         ORDER BY document.code COLLATE "C"
           FOR UPDATE OF document
    )
    DELETE FROM document
     USING locked
     WHERE document.code = locked.code
    RETURNING document.code
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


def _configuration(code: str, language: str | None) -> str:
    if language is None:
        return _DEFAULT_LANGUAGE
    configuration = text_search_configuration(language)
    if configuration is None:
        about = f"the language of {_named(code)}" if code else "language="
        raise DocumentError(f"{about} is a name such as 'german' or an ISO 639-1 code such as 'de'")
    return configuration
