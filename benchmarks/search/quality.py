"""How good the answers are: every query of a collection, each system with its usual settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal
from uuid import UUID

import asyncpg

import database as db
from database.document_batches import insert_documents

from ..address import Address
from ..server import execute
from .collection import Collection, make_collection, read_collection
from .metrics import DEPTH, score_all
from .minilm import MiniLM
from .results import BM25S, HYBRID, OURS, TS_RANK, VECTORS, Results
from .tables import LANGUAGE, MAKE_PLAIN, PLAIN, PLAIN_INDEX, make_documents

# by query, the ids of the documents, best first
Answers = dict[str, list[str]]
_BATCH = 500
_MOST_EMBEDDED = 10_000  # documents; some six a second and core
_HAS_VECTORS = "SELECT to_regclass('section_vector') IS NOT NULL"


async def measure_quality(
    paths: Sequence[Path], server: Address, results: Results, progress: Callable[[str], None]
) -> None:
    """Rank the collections at *paths*, or the one that is made up where there are none."""
    collections = [read_collection(path) for path in paths] or [make_collection()]
    for number, collection in enumerate(collections):
        address = await make_documents(server, f"quality_{number}")
        answers = {}
        async with db.database_lifespan():
            for name, rank in RANKERS.items():
                progress(f"quality: {collection.name}, {len(collection.documents):,} documents, {name}")
                try:
                    answers[name] = await rank(address, collection)
                except (ImportError, NotMeantError) as exc:
                    results.missing[f"{name}, {collection.name}"] = str(exc)
        db.configure(None)
        results.quality[collection.name] = {
            name: score_all(answer, collection.judged) for name, answer in answers.items()
        }
        if BM25S in answers:
            silent = [query for query, found in answers[BM25S].items() if found and not answers[OURS][query]]
            results.silent[collection.name] = len(silent)


async def rank_with_ours(address: Address, collection: Collection) -> Answers:
    """The documents that `search_documents` finds."""
    documents = [
        {"code": text.id, "name": text.title or text.id, "content": text.text, "language": LANGUAGE}
        for text in collection.documents
    ]
    for start in range(0, len(documents), _BATCH):
        await insert_documents(documents[start : start + _BATCH])
    await execute(address, "VACUUM ANALYZE")
    await db.refresh_search_index()
    answers = {}
    for query, text in collection.queries.items():
        found = await db.search_documents(text, DEPTH, content=False)
        answers[query] = [document["code"] for document in found]
    return answers


async def rank_with_bm25s(address: Address, collection: Collection) -> Answers:
    """bm25s as its README shows it: stop words left out, words stemmed, the parameters that it has by default."""
    return await asyncio.to_thread(_rank_with_bm25s, collection)


def _rank_with_bm25s(collection: Collection) -> Answers:
    import bm25s  # of the extra `bench`
    import Stemmer

    stemmer = Stemmer.Stemmer(LANGUAGE)

    def words_of(texts: list[str]) -> object:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    retriever = bm25s.BM25()
    retriever.index(words_of([text.whole for text in collection.documents]), show_progress=False)
    depth = min(DEPTH, len(collection.documents))
    tokens = words_of(list(collection.queries.values()))
    places, scores = retriever.retrieve(tokens, k=depth, show_progress=False)
    return {
        query: [
            collection.documents[place].id for place, score in zip(places[row], scores[row], strict=True) if score > 0
        ]
        for row, query in enumerate(collection.queries)
    }


_BY_TS_RANK = """
    SELECT code
      FROM plain, websearch_to_tsquery('english', $1) AS query
     WHERE search @@ query
     ORDER BY ts_rank(search, query) DESC
     LIMIT $2
"""


async def rank_with_ts_rank(address: Address, collection: Collection) -> Answers:
    """The usual way: all words must occur, ordered by `ts_rank` with its default weights."""
    await execute(address, MAKE_PLAIN)
    connection = await asyncpg.connect(address.uri)
    try:
        rows = [
            (UUID(int=number), text.id, text.title, text.text, "{}") for number, text in enumerate(collection.documents)
        ]
        columns = ["id", "code", "name", "content", "metadata"]
        await connection.copy_records_to_table(PLAIN, records=rows, columns=columns)
        await connection.execute(PLAIN_INDEX)
        return {
            query: [row["code"] for row in await connection.fetch(_BY_TS_RANK, text, DEPTH)]
            for query, text in collection.queries.items()
        }
    finally:
        await connection.close()


class NotMeantError(RuntimeError):
    """A system takes no part with this collection."""


async def rank_with_vectors(address: Address, collection: Collection) -> Answers:
    """The documents whose sections `search_sections` finds by sentence embeddings alone."""
    if collection.is_made_up:
        raise NotMeantError("its words mean nothing")
    if len(collection.documents) > _MOST_EMBEDDED:
        raise NotMeantError(f"more than {_MOST_EMBEDDED:,} documents take too long to embed")
    model = await asyncio.to_thread(MiniLM)
    made = await db.embed_missing(lambda texts: asyncio.to_thread(model.embed, texts))
    if made["missing"]:
        raise RuntimeError(f"{made['missing']} sections have no vector: {made['error']}")
    return await _rank_near(collection, "vector")


async def rank_with_both(address: Address, collection: Collection) -> Answers:
    """By words and embeddings, fused in one statement; where there are embeddings."""
    pool = await db.get_connection_pool()
    if not await pool.fetchval(_HAS_VECTORS):
        raise NotMeantError("no embeddings")
    return await _rank_near(collection, "hybrid")


async def _rank_near(collection: Collection, mode: Literal["vector", "hybrid"]) -> Answers:
    model = await asyncio.to_thread(MiniLM)
    vectors = await asyncio.to_thread(model.embed, list(collection.queries.values()))
    answers = {}
    for (query, text), vector in zip(collection.queries.items(), vectors, strict=True):
        found = await db.search_sections(text, DEPTH, mode=mode, vector=vector, max_per_document=1)
        answers[query] = [section["code"] for section in found]
    return answers


RANKERS: dict[str, Callable[[Address, Collection], Awaitable[Answers]]] = {
    OURS: rank_with_ours,
    BM25S: rank_with_bm25s,
    TS_RANK: rank_with_ts_rank,
    VECTORS: rank_with_vectors,
    HYBRID: rank_with_both,
}
