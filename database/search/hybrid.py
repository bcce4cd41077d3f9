"""
Sections near a vector, alone or fused with those that fit the words, in one statement.

Fused by reciprocal rank: a section gets 1 / (60 + place) from each half it is in. Places are comparable where scores
are not, and the constant is that of Cormack, Clarke and Büttcher (https://doi.org/10.1145/1571941.1572114), who found
that it does not matter much.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..connect_db import Connection, Record
from . import Question
from .ranking import (
    Wanted,
    arguments_of,
    check_wanted,
    most_ranked,
    read_condition,
    search_with,
    with_snippets,
)
from .statement import (
    MOST,
    PARAMETERS,
    USED,
    build_candidates,
    build_filter,
    build_fits,
    build_many,
    build_result,
    build_statement,
)
from .vectors import Space

_FUSION = 60
_DEPTH = 100  # places of each half that count
_SHALLOW = 40  # where there are no halves
_BREADTH = 100  # of the search in the index; more finds what is near more certainly
_VECTOR = PARAMETERS + 1

# Settings of pgvector (https://github.com/pgvector/pgvector#iterative-index-scans), for this statement alone: local to
# its transaction, and put back at its end, for a transaction of the caller goes on. They take effect because the scan
# begins with a look at them. The vector of the question is among them for the statement to read it once: a generic plan
# would read the text of a parameter again for every row.
_SETTINGS = """
    settings AS MATERIALIZED (
        SELECT before.*, {question} AS question,
               set_config('hnsw.iterative_scan', 'relaxed_order', true) AS new_scan,
               set_config('hnsw.ef_search', '{breadth}', true) AS new_breadth,
               set_config('hnsw.max_scan_tuples', '2147483647', true) AS new_length
          FROM (SELECT current_setting('hnsw.iterative_scan', true) AS scan,
                       current_setting('hnsw.ef_search', true) AS breadth,
                       current_setting('hnsw.max_scan_tuples', true) AS length
                OFFSET 0) AS before
    )
"""
_PUT_BACK = """
    (SELECT set_config('hnsw.iterative_scan', scan, true) || set_config('hnsw.ef_search', breadth, true)
            || set_config('hnsw.max_scan_tuples', length, true)
       FROM settings
      WHERE (SELECT count(*) FROM nearest) >= 0) AS put_back
"""
# The words that must occur and those that must not, in each language in use.
_DEMANDS = """,
    demand AS MATERIALIZED (
        SELECT language, section_query(language, '{}', $2, '{}') AS demanded,
               section_query(language, $3, '{}', '{}') AS excluded
          FROM used
         WHERE language IS NOT NULL
    )
"""
_DEMANDED = """
    JOIN demand ON demand.language = section.language AND ts_match_vq(section.search, demand.demanded) IS NOT FALSE
     AND ts_match_vq(section.search, demand.excluded) IS NOT TRUE
"""
# The vector of a text without any length has no angle: NaN, which counts as greater than any number.
_NEAREST = """,
    nearest AS MATERIALIZED (
        (SELECT section.id, section.document_id, section.key, {distance} AS distance
           FROM section_vector AS vector
           JOIN document_section AS section ON section.key = vector.key
           {demanded}
           {fits}
          WHERE (SELECT new_scan || new_breadth || new_length <> '' FROM settings) AND {distance} <= 2 {many}
          ORDER BY {order}
          LIMIT {depth})
        {nearest_few}
    )
"""
_NEAREST_FEW = """
        UNION ALL
        (SELECT section.id, section.document_id, section.key, {distance}
           FROM chosen
           JOIN document_section AS section ON section.document_id = chosen.id
           JOIN section_vector AS vector ON vector.key = section.key
           {demanded}
          WHERE (SELECT are_few FROM few) AND {distance} <= 2
          ORDER BY {distance}
          LIMIT {depth})
"""
_BY_VECTOR = """,
    ranked_near AS (
        SELECT id, document_id, key, 1 - distance AS score
          FROM nearest
    )
"""
_BY_BOTH = """,
    ranked_near AS MATERIALIZED (
        SELECT id, document_id, key, sum(1.0 / ({fusion} + place))::float8 AS score
          FROM (SELECT id, document_id, key, row_number() OVER (ORDER BY score DESC, id DESC) AS place
                  FROM best
                UNION ALL
                SELECT id, document_id, key, row_number() OVER (ORDER BY distance, id DESC)
                  FROM nearest) AS half
         WHERE place <= {depth}
         GROUP BY id, document_id, key
    )
"""
_FACTS = """
    (SELECT count(*) FROM {words}) AS ranked, (SELECT count(*) FROM nearest) AS near, {few} AS are_few,
    {listed} AS listed, {put_back}
"""
# For the types of the parameters that only the words need.
_UNUSED = """,
    unused AS (
        SELECT $1::text[], $2::text[], $3::text[], $5::integer[], $8::bigint, $9::boolean, $10::text, $11::text
    )
"""


@lru_cache(maxsize=200)
def build_near_search(
    columns: str,
    condition: str | None,
    schema: str,
    *,
    more: str,
    with_words: bool,
    demands: bool,
    depth: int,
    exact: bool,
) -> str:
    """
    The statement for the sections near the vector $12, or *with_words*, for these fused with those that fit the words.

    Of documents that fit the *condition*, whose parameters begin with $13. Each half has *depth* places. *demands* says
    that there are words that must or must not occur, *exact* that all vectors are to be looked at.
    """
    distance = f"(vector.embedding OPERATOR({schema}.<=>) (SELECT question FROM settings))"
    parts = {
        "distance": distance,
        "order": f"{distance} + 0" if exact else distance,  # what no index has
        "demanded": _DEMANDED if demands else "",
        "fits": build_fits(condition),
        "many": build_many(condition),
        "depth": depth,
    }
    nearest = _NEAREST.format(**parts, nearest_few="" if condition is None else _NEAREST_FEW.format(**parts))
    facts = _FACTS.format(
        words="best" if with_words else "nearest",
        few="false" if condition is None else "(SELECT are_few FROM few)",
        listed=f"(SELECT coalesce(bool_or(listed), false) FROM plan) {parts['many']}" if with_words else "false",
        put_back=_PUT_BACK,
    )
    question = f"${_VECTOR}::text::{schema}.halfvec"
    settings = _SETTINGS.format(breadth=max(_BREADTH, min(depth, 1_000)), question=question)
    if with_words:
        words = f"{build_candidates(condition, gate='true')}, {settings}"
        ranked = _BY_BOTH.format(fusion=_FUSION, depth=depth)
    else:
        words = f"{USED}, {settings}{_UNUSED}{build_filter(condition, 'true')}"
        ranked = _BY_VECTOR
    return build_statement(
        words, _DEMANDS if demands else "", nearest, ranked, build_result("ranked_near", columns, more, facts)
    )


def _deep_enough(depth: int, least: int) -> int:
    """A *depth* of at least *least*, one of few: there is a statement for each."""
    while depth < least:
        depth *= 4
    return depth


async def find_near_sections(
    question: Question,
    vector: str,
    space: Space,
    wanted: Wanted,
    columns: str,
    *,
    more: str,
    with_words: bool,
    conn: Connection | None,
) -> list[tuple[Record, str]]:
    """As `find_sections`, for the *vector* of the question, and its words where they are to count."""
    configuration = check_wanted(wanted)
    if not wanted.limit or wanted.max_per_document == 0:
        return []
    where = dict(wanted.where or {})
    if configuration is not None:
        where = {"$and": [{"language": configuration}, *([where] if where else [])]}
    condition, values = await read_condition(where, _VECTOR + 1, conn)
    with_words = with_words and bool(question)
    demands = bool(question.demanded or question.excluded)
    limit = min(wanted.limit, MOST)
    depth = _deep_enough(_DEPTH, limit) if with_words else _deep_enough(_SHALLOW, 2 * limit)
    rescored, exact = most_ranked(question, depth), wanted.exact
    use_lists = not exact and not question.demanded  # they name few of those that hold all words
    while True:
        sql = build_near_search(
            columns, condition, space.schema,
            more=more, with_words=with_words, demands=demands, depth=depth, exact=exact,
        )  # fmt: skip
        arguments: tuple[Any, ...] = (*arguments_of(question, wanted, rescored, use_lists, configuration), vector)
        rows = await search_with(sql, (*arguments, *values), conn)
        found = [row for row in rows if row["rank"] is not None]
        facts = rows[0]
        if facts["listed"] and facts["ranked"] < depth:
            use_lists = False  # what they name is excluded, or does not hold the words side by side
            continue
        if len(found) < limit or facts["near"] < limit:
            if facts["near"] >= depth or (with_words and len(found) < limit and facts["ranked"] >= rescored):
                depth, rescored = depth * 10, rescored * 10  # of one document, or of sections that are gone
                continue
            if not exact and not facts["are_few"]:
                exact, use_lists = True, False  # the scan of an index ends where its memory does
                continue
        return with_snippets(found, question, wanted)
