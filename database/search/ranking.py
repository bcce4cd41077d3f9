"""Searching by words: what is asked of the statement (statement.py), and again where its answer is not enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..columns import known_table, read_table
from ..conditions import read_where
from ..connect_db import Connection, Record, perform
from ..exceptions import DocumentError
from ..query import Built, check_page
from ..select_rows import build_condition
from . import Question, guess_language, make_snippet, parse_question, text_search_configuration
from .sections import passage_of
from .statement import LISTED, MOST, PARAMETERS, build_search

MARKS = ("<mark>", "</mark>")
_RESCORED = 1_000  # of those that the lists name
_NEARLY = 1 - 1e-6  # cut-offs are of single precision


class Wanted(NamedTuple):
    """What is looked for, but for the words; *max_per_document* None: as many as there are."""

    limit: int
    max_per_document: int | None
    language: str | None
    where: Mapping[str, Any] | None
    exact: bool
    marks: tuple[str, str]
    escape: bool


async def find_sections(
    search_term: str, wanted: Wanted, columns: str, *, more: str = "", conn: Connection | None
) -> list[tuple[Record, str]]:
    """
    The best sections for *search_term*, best first, and a snippet of each.

    A section has the *columns* of its document, rank, heading, section_text, and *more*.
    """
    configuration = check_wanted(wanted)
    question = parse_question(search_term)
    if not wanted.limit or wanted.max_per_document == 0 or not question:
        return []
    condition, values = await read_condition(wanted.where, PARAMETERS + 1, conn)
    sql = build_search(columns, condition, more=more)
    limit = min(wanted.limit, MOST)
    rescored = most_ranked(question, limit, fitting=condition is not None)
    use_lists = True
    while True:
        arguments = (*arguments_of(question, wanted, rescored, use_lists, configuration), *values)
        rows = await search_with(sql, arguments, conn)
        found = [row for row in rows if row["rank"] is not None]
        ranked, listed = rows[0]["ranked"], rows[0]["listed"]
        beyond = _beyond(rows[0])
        if listed and beyond and len(found) < limit and rescored < LISTED and not rows[0]["is_narrow"]:
            rescored *= 10
        elif listed and beyond and (len(found) < limit or (wanted.exact and found[-1]["rank"] < beyond * _NEARLY)):
            use_lists = False
        elif len(found) < limit and ranked >= rescored:
            rescored *= 10
        else:
            return with_snippets(found, question, wanted)


def _beyond(facts: Record) -> float:
    """What no section exceeds that was not ranked: one is behind those of the lists, or in some of them, or in none."""
    cut, tail = facts["cut"], facts["tail"]
    return float(max(cut, tail) if facts["lists"] <= 1 else cut + tail)


def check_wanted(wanted: Wanted) -> str | None:
    """The configuration of the language, None for any; raises `DocumentError` where something makes no sense."""
    check_page(wanted.limit, 0, DocumentError)
    check_page(wanted.max_per_document or 0, 0, DocumentError)
    configuration = None if wanted.language is None else text_search_configuration(wanted.language)
    if wanted.language is not None and configuration is None:
        raise DocumentError("language= is a name such as 'german' or an ISO 639-1 code such as 'de'")
    return configuration


async def read_condition(
    where: Mapping[str, Any] | None, first: int, conn: Connection | None
) -> tuple[str | None, list[Any]]:
    """The condition on `this`, a document, and its parameters, of which $*first* is the first; None where any fits."""
    shape, values = read_where(where)
    if shape is None:
        return None, []
    table = known_table("document", "public", conn) or await read_table("document", "public", conn)
    built: Built = table.query(("search", first, shape), lambda: build_condition(table, shape, first))
    return built.sql, built.arguments(values)


def most_ranked(question: Question, limit: int, *, fitting: bool = False) -> int:
    """How many sections are ranked exactly; of those *fitting* a condition, fewer, as each takes long to find."""
    if len(question.sought) == 1:
        return max(30, 3 * limit)  # the order in a list is right, but for those that are nearly equal
    return max(_RESCORED // 5 if fitting else _RESCORED, 10 * limit)


def arguments_of(
    question: Question, wanted: Wanted, rescored: int, use_lists: bool, configuration: str | None
) -> tuple[Any, ...]:
    """The first `PARAMETERS` of a statement."""
    limit = min(wanted.limit, MOST)
    return (
        question.alternatives,
        question.demanded,
        question.excluded,
        question.alternatives + question.demanded,
        question.counts + (1,) * len(question.demanded),
        min(wanted.max_per_document or limit, limit),
        limit,
        rescored,
        use_lists,
        configuration,
        configuration or guess_language(" ".join(question.sought)),
    )


async def search_with(sql: str, arguments: Sequence[Any], conn: Connection | None) -> list[Record]:
    """The rows of a search."""
    return await perform(
        lambda c: c.fetch(sql, *arguments),
        conn=conn,
        kind=DocumentError,
        doing="search documents",
        changes=False,
        repeatable=True,
    )


def with_snippets(found: Sequence[Record], question: Question, wanted: Wanted) -> list[tuple[Record, str]]:
    """Each row that was found, and its snippet."""
    return [(row, _snippet_of(row, question, wanted)) for row in found]


def _snippet_of(row: Record, question: Question, wanted: Wanted) -> str:
    text = passage_of(row["section_text"], is_first=row["start"] == 0)
    start, stop = wanted.marks
    return make_snippet(text, row["section_marks"], question.sought, start=start, stop=stop, escape=wanted.escape)
