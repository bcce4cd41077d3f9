"""
Texts of sections become vectors, by a function of the caller that may fail, be slow, or be cancelled.

The texts are stored before, so nothing is lost: what has no vector is found by looking, and tried again. Every worker
claims the texts it asks for, for a time, and holds neither a connection nor a lock while it waits for the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from ..connect_db import Connection, get_db_transaction
from ..exceptions import DatabaseError, DocumentError
from ..query import check_page
from ..scalars import HALF, UnfitError
from ..vectors import vectors
from .ranking import read_condition
from .sections import SEPARATOR, key_of
from .statement import build_fits
from .upkeep import run
from .vectors import PROBE, PROBE_KEY, Space, find_space, init_section_vectors

log = logging.getLogger("database")

# From texts to as many vectors: lists of float, or arrays of numpy.
Embed = Callable[[list[str]], Awaitable[Iterable[Any]]]

TIMEOUT = 60.0  # seconds for one call of it
_BATCH, _LARGEST = 64, 1_000
_SAME = 0.01  # the cosine distance of two answers of one model to one text, at the most; those of two are far apart


class _EmbeddingError(Exception):
    """The function has failed; the text says how."""


class _SlowError(_EmbeddingError):
    """It has taken too long."""


async def _ask(embed: Embed, texts: list[str], dimensions: int, timeout: float) -> list[str]:
    """
    The vectors of *texts* as PostgreSQL reads them; *dimensions* 0: any number, the same for all.

    Raises `_EmbeddingError` where *embed* raises, takes longer than *timeout*, or answers with something else.
    """
    answer: Any = None
    is_async = True
    try:
        async with asyncio.timeout(timeout):
            waiting: Any = embed(texts)
            is_async = inspect.isawaitable(waiting)
            answer = list(await waiting) if is_async else []
    except TimeoutError as exc:
        raise _SlowError(f"no answer within {timeout:g} s") from exc
    except Exception as exc:
        raise _EmbeddingError(f"{type(exc).__name__}: {exc}") from exc
    if not is_async:
        raise DocumentError("embed= is an async function; what computes by itself belongs into asyncio.to_thread()")
    if len(answer) != len(texts):
        raise _EmbeddingError(f"{len(answer)} vectors for {len(texts)} texts")
    try:
        written = [vectors(dimensions, HALF)(vector) for vector in answer]
    except UnfitError as exc:
        raise _EmbeddingError(f"what a vector is to fit {exc}") from exc
    return written


async def embed_question(embed: Embed, question: str) -> Any:
    """The vector of *question*; raises `DocumentError` where *embed* fails."""
    try:
        (vector,) = await _ask(embed, [question], 0, TIMEOUT)
    except _EmbeddingError as exc:
        raise DocumentError(f"cannot search by vectors: the embedding function failed: {exc}") from exc
    return [float(number) for number in vector[1:-1].split(",")]


# --- what is missing


# In the order of the keys, through the index alone; the texts are looked up afterwards.
_WANTED = """
    SELECT DISTINCT section.key
      FROM document_section AS section
      {fits}
     WHERE section.key > $1
       AND NOT EXISTS (SELECT
                         FROM section_vector AS vector
                        WHERE vector.key = section.key
                          AND (vector.busy_until IS NULL OR vector.busy_until >= statement_timestamp()))
     ORDER BY section.key
     LIMIT $2
"""
_CLAIM = """
    WITH wanted AS MATERIALIZED ({wanted}),
    claimed AS (
        INSERT INTO section_vector AS vector (key, busy_until)
        SELECT key, clock_timestamp() + make_interval(secs => $3)
          FROM wanted
         ORDER BY key
        ON CONFLICT (key) DO UPDATE SET busy_until = excluded.busy_until
         WHERE vector.busy_until < statement_timestamp()
        RETURNING key
    )
    SELECT wanted.key, claimed.key IS NOT NULL AS is_claimed, piece.name, piece.headings, piece.text
      FROM wanted
      LEFT JOIN claimed USING (key)
      LEFT JOIN LATERAL (
        SELECT section.headings,
               CASE WHEN NOT EXISTS (SELECT
                                       FROM document_section AS other
                                      WHERE other.key = wanted.key AND other.document_id <> section.document_id)
                    THEN document.name ELSE '' END AS name,
               section_text(bytes, starts[place], coalesce(starts[place + 1], octet_length(bytes)) - starts[place])
                   AS text
          FROM document_section AS section
          JOIN document ON document.id = section.document_id
         CROSS JOIN LATERAL (
            SELECT coalesce(content_bytes, document_bytes(content)) AS bytes, section_starts AS starts,
                   array_position(section_keys, section.key) AS place
            OFFSET 0
         ) AS whole
         WHERE section.key = wanted.key AND place IS NOT NULL
           AND indexed_state = document_state(document.language, document.name, content_hash)
         LIMIT 1
      ) AS piece ON claimed.key IS NOT NULL
     ORDER BY wanted.key
"""
_COPY = """
    UPDATE section_vector AS vector
       SET embedding = same.embedding, busy_until = NULL
      FROM unnest($1::uuid[], $2::uuid[]) AS given (key, first)
      JOIN section_vector AS same ON same.key = given.first AND same.busy_until IS NULL
     WHERE vector.key = given.key
    RETURNING vector.key
"""
_STORE = """
    INSERT INTO section_vector AS vector (key, embedding)
    SELECT key, embedding::{schema}.halfvec
      FROM unnest($1::uuid[], $2::text[]) AS given (key, embedding)
     ORDER BY key
    ON CONFLICT (key) DO UPDATE SET embedding = excluded.embedding, busy_until = NULL
     WHERE vector.busy_until IS NOT NULL
"""
_APART = """
    SELECT embedding OPERATOR({schema}.<=>) $2::text::{schema}.halfvec
      FROM section_vector
     WHERE key = $1
"""
_RELEASE = """
    DELETE FROM section_vector
     WHERE key = ANY($1) AND busy_until IS NOT NULL
"""
_LACKING = """
    SELECT section.key, section.document_id, section.headings
      FROM document_section AS section
      {fits}
     WHERE NOT EXISTS (SELECT FROM section_vector WHERE key = section.key AND busy_until IS NULL)
"""
_ALL = """
    SELECT section.key, section.document_id, section.headings
      FROM document_section AS section
      {fits}
"""
_LIST = """
    SELECT document.id::text AS document_id, code, name, headings AS heading,
           array_position(section_keys, missing.key) - 1 AS position
      FROM ({missing}) AS missing
      JOIN document ON document.id = missing.document_id
     ORDER BY code, position
     LIMIT $1
"""


class _Text(NamedTuple):
    """
    A text that is to be embedded, and the *key* of the sections that have it.

    The *name* is that of its document, empty where several have it.
    """

    key: UUID
    name: str
    headings: str
    text: str

    @property
    def whole(self) -> str:
        """What the function is given; empty where there is no text, whatever it is called."""
        if not self.text.strip():
            return ""
        is_named = self.headings == self.name or self.headings.startswith(self.name + SEPARATOR)
        path = self.headings if is_named else SEPARATOR.join(filter(None, (self.name, self.headings)))
        return f"{path}\n\n{self.text}".strip()

    @property
    def first(self) -> UUID:
        """The key of the same text where it is there for the first time in its document."""
        return key_of(self.headings, self.text)


async def list_missing_embeddings(
    limit: int = 100, *, where: Mapping[str, Any] | None = None, conn: Connection | None = None
) -> list[dict[str, Any]]:
    """
    The first sections, by code and position, that have no vector yet; an empty list where all have one.

    Each is a dict of document_id, code, name, heading and position. *where* is a condition on their documents. Raises
    `SchemaError` without pgvector.
    """
    check_page(limit, 0, DocumentError)
    condition, values = await read_condition(where, 2, conn)
    sql = _LIST.format(missing=_missing(await find_space(conn), condition))
    rows = await run("list sections without a vector", lambda c: c.fetch(sql, limit, *values), conn)
    return [dict(row) for row in rows]


def _missing(space: Space | None, condition: str | None) -> str:
    return (_ALL if space is None else _LACKING).format(fits=build_fits(condition))


async def _count_missing(space: Space | None, where: Mapping[str, Any] | None, conn: Connection | None) -> int:
    condition, values = await read_condition(where, 1, conn)
    sql = f"SELECT count(*) FROM ({_missing(space, condition)}) AS missing"
    return int(await run("count sections without a vector", lambda c: c.fetchval(sql, *values), conn))


async def embed_missing(
    embed: Embed,
    *,
    where: Mapping[str, Any] | None = None,
    batch_size: int = _BATCH,
    timeout: float = TIMEOUT,
    conn: Connection | None = None,
) -> dict[str, Any]:
    """
    Store the vectors of all sections that have none; *embed* is an async function from texts to vectors.

    It is given the name of the document, the headings and the text of up to *batch_size* sections, and has *timeout*
    seconds for each call. Where it fails, halves of the batch are tried, so that one text that it refuses stops no
    other; where it does not even embed a short sentence, it is not called again. What it has not done is done by the
    next call. Any number of workers may do this at once, each for other texts; what one that was cancelled has claimed
    is free after two timeouts. In a transaction of *conn*, others who come to the same texts wait for its end.

    Returns a dict: `embedded` texts, `failed` ones, `missing` sections that still have no vector, `error` (what *embed*
    said last, None if nothing), `seconds`. *where* is a condition on the documents. Raises `SchemaError` without
    pgvector, and `DocumentError` where the vectors that are stored are of another model: it answers a sentence
    otherwise, or with other dimensions.
    """
    if not 1 <= batch_size <= _LARGEST or timeout <= 0:
        raise DocumentError(f"batch_size is 1 to {_LARGEST:,}, and timeout more than 0 seconds")
    began = time.monotonic()
    work = _Embedding(embed, batch_size, timeout, conn)
    space = await find_space(conn)
    if space is None and await _count_missing(None, where, conn):
        space = await work.begin()
    if space is not None:
        await work.embed_all(space, where)
    return {
        "embedded": work.embedded,
        "failed": work.failed,
        "missing": await _count_missing(space, where, conn),
        "error": work.error,
        "seconds": time.monotonic() - began,
    }


# Functions that have proved to be of the model whose vectors are stored, in a table with that number.
_recognized: list[tuple[Embed, int]] = []
_REMEMBERED = 20


class _Embedding:
    """One call of `embed_missing`: what it has done so far, and the last *error* of the function."""

    def __init__(self, embed: Embed, batch_size: int, timeout: float, conn: Connection | None) -> None:
        self.embedded = 0
        self.failed = 0
        self.error: str | None = None
        self._embed = embed
        self._batch_size = batch_size
        self._timeout = timeout
        self._conn = conn

    async def begin(self) -> Space | None:
        """Make the table, for vectors such as the function returns; None where it fails."""
        vector = await self._probe(0)
        if vector is None:
            return None
        await init_section_vectors(vector.count(",") + 1, conn=self._conn)
        space = await find_space(self._conn)
        if space is not None:
            await self._recognize(space, vector)
        return space

    async def embed_all(self, space: Space, where: Mapping[str, Any] | None) -> None:
        """Embed what is missing, batch by batch, until nothing is or the function is out of order."""
        condition, values = await read_condition(where, 4, self._conn)
        sql = _CLAIM.format(wanted=_WANTED.format(fits=build_fits(condition)))
        lease = 2 * self._timeout
        last = UUID(int=0)
        while True:
            after = last
            rows = await run(
                "claim sections",
                lambda c: c.fetch(sql, after, self._batch_size, lease, *values),  # noqa: B023 (awaited at once)
                self._conn,
                changes=True,
            )
            if not rows:
                return
            last = rows[-1]["key"]
            keys = [row["key"] for row in rows if row["is_claimed"]]
            texts = [
                _Text(row["key"], row["name"], row["headings"], row["text"]) for row in rows if row["text"] is not None
            ]
            try:
                goes_on = not texts or (await self._is_recognized(space) and await self._embed_texts(space, texts))
            except Exception:
                await self._release(keys)
                raise
            await self._release(keys)
            if not goes_on:
                return

    async def _release(self, keys: list[UUID]) -> None:
        """Leave what was claimed and not embedded to the next one who tries."""
        if keys:
            await run("release sections", lambda c: c.execute(_RELEASE, keys), self._conn, changes=True)

    async def _embed_texts(self, space: Space, texts: list[_Text]) -> bool:
        """Embed what is new in *texts*; False where the function is out of order."""
        empty = [text.key for text in texts if not text.whole]
        if empty:
            await self._store(space, dict.fromkeys(empty))
        repeated = {text.key: text.first for text in texts if text.whole and text.key != text.first}
        copied = await self._copy(repeated) if repeated else set()
        return await self._embed_batch(space, [text for text in texts if text.whole and text.key not in copied])

    async def _embed_batch(self, space: Space, texts: list[_Text]) -> bool:
        if not texts:
            return True
        wholes = list(dict.fromkeys(text.whole for text in texts))
        try:
            answer = await _ask(self._embed, wholes, space.dimensions, self._timeout)
        except _EmbeddingError as exc:
            self.error = str(exc)
            if await self._probe(space.dimensions) is None:
                return False
            if len(texts) == 1:
                self.failed += 1
                return True
            half = len(texts) // 2
            if isinstance(exc, _SlowError):
                self._batch_size = min(self._batch_size, half)
            return await self._embed_batch(space, texts[:half]) and await self._embed_batch(space, texts[half:])
        found = dict(zip(wholes, answer, strict=True))
        await self._store(space, {key: found[text.whole] for text in texts for key in (text.key, text.first)})
        self.embedded += len(wholes)
        return True

    async def _store(self, space: Space, embeddings: Mapping[UUID, str | None]) -> None:
        sql = _STORE.format(schema=space.schema)
        keys, values = list(embeddings), list(embeddings.values())
        await run("store vectors", lambda c: c.execute(sql, keys, values), self._conn, changes=True)

    async def _copy(self, repeated: Mapping[UUID, UUID]) -> set[UUID]:
        """The keys of those that had the vector of the same text already."""
        keys, firsts = list(repeated), list(repeated.values())
        rows = await run("copy vectors", lambda c: c.fetch(_COPY, keys, firsts), self._conn, changes=True)
        return {row["key"] for row in rows}

    # --- which model it is

    async def _probe(self, dimensions: int) -> str | None:
        """The vector of a sentence that any function embeds; None where it fails."""
        try:
            (vector,) = await _ask(self._embed, [PROBE], dimensions, self._timeout)
        except _EmbeddingError as exc:
            self.error = self.error or str(exc)
            return None
        return vector

    async def _is_recognized(self, space: Space) -> bool:
        """False where the function fails; raises `DocumentError` where it is of another model."""
        if any(space.table == table and embed == self._embed for embed, table in _recognized):
            return True
        vector = await self._probe(0)
        if vector is not None:
            await self._recognize(space, vector)
        return vector is not None

    async def _recognize(self, space: Space, vector: str) -> None:
        dimensions = vector.count(",") + 1
        if dimensions != space.dimensions:
            raise _other_model(f"they have {space.dimensions} dimensions, not {dimensions}")
        await self._store(space, {PROBE_KEY: vector})
        sql = _APART.format(schema=space.schema)
        distance = await run("compare vectors", lambda c: c.fetchval(sql, PROBE_KEY, vector), self._conn)
        if distance is not None and distance > _SAME:
            raise _other_model(f"the same sentence lies {distance:.2f} apart")
        _recognized.append((self._embed, space.table))
        del _recognized[:-_REMEMBERED]


def _other_model(why: str) -> DocumentError:
    return DocumentError(
        f"the vectors that are stored are of another model: {why}; drop_section_vectors() deletes them, then "
        "embed_missing() makes new ones"
    )


async def embed_stored(embed: Embed, where: Mapping[str, Any] | None, conn: Connection | None) -> dict[str, Any]:
    """
    As `embed_missing`, for what was stored just now: never raises what could look as if it had not been.

    Returns a dict: `embedded`, `missing` (None where that is not known) and `embedding_error`.
    """
    try:
        if conn is None:
            report = await embed_missing(embed, where=where)
        else:
            async with get_db_transaction(conn=conn) as c:  # a savepoint: what fails would abort the caller's
                report = await embed_missing(embed, where=where, conn=c)
    except DatabaseError as exc:
        report = {"embedded": 0, "missing": None, "error": str(exc)}
    if report["error"] is not None:
        log.warning("stored, but without some vectors, which embed_missing() makes: %s", report["error"])
    return {"embedded": report["embedded"], "missing": report["missing"], "embedding_error": report["error"]}
