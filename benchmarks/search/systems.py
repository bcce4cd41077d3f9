"""
Those whose speed is compared: this package, plain `ts_rank`, and RUM, an extension (https://github.com/postgrespro/rum).

Each returns the ten best sections with their text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import asyncpg

import database as db

from .queries import Query
from .tables import LANGUAGE

LIMIT = 10


class Found(NamedTuple):
    """A section that was found."""

    code: str
    text: str
    rank: float


Search = Callable[[Query], Awaitable[list[Found]]]


def with_ours(*, exact: bool = False) -> Search:
    """The public function, with snippets and all else that it returns."""

    async def search(query: Query) -> list[Found]:
        found = await db.search_sections(query.typed, LIMIT, where=_where(query), exact=exact)
        return [Found(section["code"], section["text"], section["rank"]) for section in found]

    return search


def _where(query: Query) -> Mapping[str, Any] | None:
    where: dict[str, Any] = {}
    if query.prefix:
        where["code"] = {"$startswith": query.prefix}
    if query.half:
        where["metadata.half"] = query.half
    return where or None


_SELECT = "SELECT code, content, {rank} AS rank FROM plain, websearch_to_tsquery($1, $2) AS query"
_BY_TS_RANK = "ts_rank(search, query)", "rank DESC"
_BY_RUM = "search <=> query", "search <=> query"


def with_ts_rank(connection: asyncpg.Connection) -> Search:
    """As every manual says, but for the words, any of which may occur, as with the others."""
    return _with_sql(connection, *_BY_TS_RANK)


def with_rum(connection: asyncpg.Connection) -> Search:
    """As RUM's own manual says: the index returns the rows in their order."""
    return _with_sql(connection, *_BY_RUM)


def _with_sql(connection: asyncpg.Connection, rank: str, order: str) -> Search:
    async def search(query: Query) -> list[Found]:
        conditions = ["search @@ query"]
        arguments = [LANGUAGE, query.typed if query.is_phrase else " or ".join(query.words)]
        if query.prefix:
            arguments.append(f"{query.prefix}%")
            conditions.append(f"code LIKE ${len(arguments)}")
        if query.half:
            arguments.append(query.half)
            conditions.append(f"metadata->>'half' = ${len(arguments)}")
        sql = f"{_SELECT.format(rank=rank)} WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT {LIMIT}"
        return [Found(*row) for row in await connection.fetch(sql, *arguments)]

    return search


def check_answer(query: Query, found: list[Found]) -> str:
    """What is wrong with the answer: a fast wrong answer is no answer. Nothing where it may be right."""
    for section in found:
        words = section.text.lower().replace(".", " ").split()
        if not any(word in words for word in query.words):
            return f"{section.code} was found for {query.typed!r}, which is not in its text"
        if not section.code.startswith(query.prefix):
            return f"{section.code} was found where codes begin with {query.prefix}"
    return ""
