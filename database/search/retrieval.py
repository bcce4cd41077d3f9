"""Sections for retrieval: by their words, by vectors, or by both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..codecs import decode_json
from ..connect_db import Connection, Record
from ..exceptions import DocumentError
from . import parse_question
from .embedding import Embed, embed_question
from .hybrid import find_near_sections
from .ranking import MARKS, Wanted, find_sections
from .vectors import open_space, vector_text

Mode = Literal["text", "vector", "hybrid"]

_COLUMNS = """
    document.id::text AS document_id, code, name, metadata::text AS metadata, language, source, created_at, updated_at
"""
_MORE = "coalesce(place, 1) - 1 AS position,"
_KEYS = (
    "document_id", "code", "name", "metadata", "language", "source", "created_at", "updated_at",
    "position", "start", "heading", "text", "rank", "snippet",
)  # fmt: skip


async def search_sections(
    search_term: str,
    limit: int = 10,
    *,
    mode: Mode = "text",
    embed: Embed | None = None,
    vector: Any = None,
    max_per_document: int | None = None,
    language: str | None = None,
    where: Mapping[str, Any] | None = None,
    marks: tuple[str, str] = MARKS,
    escape: bool = False,
    exact: bool = False,
    conn: Connection | None = None,
) -> list[dict[str, Any]]:
    """
    The sections of documents that fit *search_term* best, best first, for retrieval; an empty list where none does.

    As `search_documents`, but any number of sections of one document, or at most *max_per_document*. Each is a dict:
    `text`, the `heading` path above it ("Install > Linux"), `rank` and `snippet`, its `position` among the sections of
    its document (from 0) and where it begins there (`start`, in bytes of UTF-8), and of the document document_id, code,
    name, metadata, language, source, created_at and updated_at.

    *mode* "text" compares words; "vector" the vectors that `embed_missing` has stored with that of the question, which
    is *vector*, or what *embed* makes of *search_term*; "hybrid" fuses the first places of both. `rank` is the score of
    BM25, the cosine of the angle (1: the same direction), or the sum of 1 / (60 + place). What +must and what -must not
    occur, and every filter, holds in all modes. *exact* also compares all vectors, not those an index leads to.

    Raises `SchemaError` where vectors are asked for and pgvector is missing, and `DocumentError` where *embed* fails,
    where no vectors are stored, or such of another number of dimensions.
    """
    wanted = Wanted(limit, max_per_document, language, where, exact, marks, escape)
    if mode == "text":
        found = await find_sections(search_term, wanted, _COLUMNS, more=_MORE, conn=conn)
    elif mode in get_args(Mode):
        found = await _find_near(search_term, mode, embed, vector, wanted, conn)
    else:
        raise DocumentError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")
    return [_section(row, snippet) for row, snippet in found]


async def _find_near(
    search_term: str, mode: Mode, embed: Embed | None, vector: Any, wanted: Wanted, conn: Connection | None
) -> list[tuple[Record, str]]:
    if (embed is None) == (vector is None):
        raise DocumentError(f"mode={mode!r} needs embed=, an async function from texts to vectors, or else vector=")
    space = await open_space(conn)
    if embed is not None:
        if not search_term.strip():
            return []
        vector = await embed_question(embed, search_term)
    text = vector_text(vector, space, "the question")
    question = parse_question(search_term)
    return await find_near_sections(
        question, text, space, wanted, _COLUMNS, more=_MORE, with_words=mode == "hybrid", conn=conn
    )


def _section(row: Record, snippet: str) -> dict[str, Any]:
    section = dict(row)
    section |= {"metadata": decode_json(row["metadata"]), "text": row["section_text"], "snippet": snippet}
    return {key: section[key] for key in _KEYS}
