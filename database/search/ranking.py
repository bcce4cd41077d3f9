"""
Sections ranked by BM25, in one statement of plain PostgreSQL.

For one lexeme, `ts_rank` is a fixed, strictly increasing function of how often it occurs, so the term frequency comes
out of a tsvector at the speed of C. Lexemes that very many sections hold have lists of the sections where they weigh
most (refresh.py): those are added up, and the best of them are ranked exactly, beside all that hold a rarer lexeme and
all that are newer than the lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..codecs import decode_json
from ..columns import known_table, read_table
from ..connect_db import Connection, Record, perform
from ..exceptions import DocumentError
from ..query import Built, build_condition, check_page, read_where
from . import SearchQuery, parse_search, text_search_configuration

# The usual constants of BM25. A word in the title counts as three, one in a heading as two.
K1, B = 1.2, 0.75
_RESCORED = 500  # of those that the lists name
_FEW = 1_000  # documents that a filter leaves whose sections are all looked at
_COUNTED, _SAMPLED = 1_000, 300

# How often the lexemes of a query occur, from ts_rank: 1/1² + 1/2² + … + 1/n², divided by what that comes to in the end.
_OCCURRENCES = "round(1 / (1.64493406685 * (1 - ts_rank('{{{weights}}}', {search}, {query}))) - 0.5)"


def impact(search: str, query: str, length: str) -> str:
    """The SQL of what *query*, one lexeme, adds to the rank of *search*, but for its weight; *length* is the average."""
    frequency = " + ".join(
        _OCCURRENCES.format(weights=weights, search=search, query=query)
        for weights in ("1,1,1,1", "0,0,1,1", "0,0,0,1")
    )
    return f"""
        (SELECT {K1 + 1} * frequency / (frequency + {K1} * ({1 - B} + {B} * length({search}) / {length}))
           FROM (SELECT {frequency} AS frequency) AS counted)
    """


LEXEME_QUERY = r"""('''' || replace(replace({lexeme}, '\', '\\'), '''', '''''') || '''')::tsquery"""

# The score of `section`, whose language's terms are in `term`.
_SCORE = f"""
    (SELECT sum(term.weight * {impact("section.search", "term.query", "size.length")})
       FROM term, size
      WHERE term.language = section.language)
"""
# $1 the words that count, $2 $3 $4 alternatives, what must occur, what must not, $5 language, $6 how many sections of a
# document, $7 how many at all, $8 how many are ranked exactly, $9 whether lists may be used, $10 options of snippets.
# The languages in use are found by skipping through the index (https://wiki.postgresql.org/wiki/Loose_indexscan).
_PARAMETERS = 10
_TERMS = f"""
    used AS (
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
               websearch_to_tsquery(language::regconfig, $2) AS words,
               websearch_to_tsquery(language::regconfig, $3) AS required,
               websearch_to_tsquery(language::regconfig, $4) AS excluded
          FROM used
         WHERE language = coalesce($5, language)
    ),
    asked AS MATERIALIZED (
        SELECT language, numnode(required) > 0 AS demands, excluded,
               CASE WHEN numnode(required) > 0 THEN required ELSE words END && excluded AS query,
               words || required AS wanted
          FROM parts
         WHERE numnode(words) + numnode(required) > 0
    ),
    sample AS MATERIALIZED (
        SELECT search, ctid
          FROM document_section
         ORDER BY id DESC
         LIMIT {_SAMPLED}
    ),
    size AS MATERIALIZED (
        SELECT greatest(1, coalesce(state.sections, guessed.sections))::double precision AS sections,
               greatest(1, coalesce(state.length, (SELECT avg(length(search)) FROM sample)))::double precision
                   AS length,
               coalesce(state.up_to, 0) AS up_to
          FROM (SELECT CASE WHEN sampled < {_SAMPLED} THEN sampled
                            WHEN reltuples < 0 OR relpages = 0 THEN sampled / density * pages
                            ELSE reltuples / relpages * pages END AS sections
                  FROM (SELECT count(*)::float8 AS sampled, count(DISTINCT (ctid::text::point)[0]) AS density
                          FROM sample) AS counted,
                       (SELECT reltuples, relpages,
                               pg_relation_size(oid) / current_setting('block_size')::integer AS pages
                          FROM pg_class
                         WHERE oid = 'document_section'::regclass) AS relation) AS guessed
          LEFT JOIN document_head_state AS state ON true
    ),
    term AS MATERIALIZED (
        SELECT lexeme.*, counted,
               occurrences * ln(1 + (greatest(sections, found) - found + 0.5) / (found + 0.5)) AS weight
          FROM size
         CROSS JOIN (
            SELECT asked.language, word.lexeme, cardinality(word.positions) AS occurrences,
                   {LEXEME_QUERY.format(lexeme="word.lexeme")} AS query, head.frequency, head.cutoff,
                   $9::boolean AND head.frequency IS NOT NULL AND NOT asked.demands AS is_listed
              FROM asked
             CROSS JOIN LATERAL unnest(section_tsvector(asked.language, '', '', $1)) AS word
              LEFT JOIN document_head AS head ON head.language = asked.language AND head.lexeme = word.lexeme
            OFFSET 0
         ) AS lexeme
         CROSS JOIN LATERAL (
            SELECT CASE WHEN frequency IS NOT NULL THEN frequency
                        ELSE (SELECT count(*)
                                FROM (SELECT
                                        FROM document_section AS section
                                       WHERE section.search @@ lexeme.query AND section.language = lexeme.language
                                       LIMIT {_COUNTED}) AS few)
                   END AS counted
            OFFSET 0
         ) AS exactly
         CROSS JOIN LATERAL (
            SELECT CASE WHEN frequency IS NOT NULL OR counted < {_COUNTED} THEN counted
                        ELSE greatest(counted, sections * (SELECT avg((search @@ lexeme.query)::integer) FROM sample))
                   END AS found
            OFFSET 0
         ) AS nearly
    ),
    plan AS MATERIALIZED (
        SELECT asked.language, asked.query, asked.wanted, coalesce(listed, false) AS listed,
               CASE WHEN listed THEN rare && asked.excluded ELSE asked.query END AS rare,
               coalesce(tail, 0) AS tail
          FROM asked
          LEFT JOIN (SELECT language, bool_or(is_listed) AS listed, sum(weight * cutoff) FILTER (WHERE is_listed) AS tail,
                            string_agg(query::text, ' | ') FILTER (WHERE NOT is_listed)::tsquery AS rare
                       FROM term
                      GROUP BY language) AS terms USING (language)
    )
"""
_FILTER = """,
    chosen AS MATERIALIZED (
        SELECT this.id
          FROM document AS this
         WHERE (SELECT sum(counted) > {few} FROM term) AND {condition}
         LIMIT {few} + 1
    ),
    few AS MATERIALIZED (
        SELECT (SELECT sum(counted) > {few} FROM term) AND (SELECT count(*) <= {few} FROM chosen) AS are_few
    )
"""
_FITS = "JOIN document AS this ON this.id = section.document_id AND {condition}"
_SCORED = """,
    headed AS MATERIALIZED (
        SELECT id, sum(impact * weight) AS bound
          FROM (SELECT unnest(head.ids) AS id, unnest(head.impacts) AS impact, term.weight
                  FROM term
                  JOIN document_head AS head USING (language, lexeme)
                 WHERE term.is_listed {many}) AS listed
         GROUP BY id
         ORDER BY bound DESC
         LIMIT {listed}
    ),
    best_headed AS MATERIALIZED (
        SELECT section.id, section.document_id, section.key, headed.bound, {score} AS score
          FROM headed
          JOIN document_section AS section ON section.id = headed.id
          JOIN plan ON plan.language = section.language
          {fits}
         WHERE ts_match_vq(section.search, plan.query) AND ts_match_vq(section.search, plan.rare) IS NOT TRUE
         LIMIT $8
    ),
    scored AS (
        SELECT section.id, section.document_id, section.key, {score} AS score
          FROM plan
          JOIN document_section AS section
            ON section.search @@ plan.rare AND section.language = plan.language
          {fits}
         WHERE (NOT plan.listed OR ts_match_vq(section.search, plan.query)) {many}
        UNION ALL
        SELECT id, document_id, key, score
          FROM best_headed
        UNION ALL
        SELECT section.id, section.document_id, section.key, {score}
          FROM (SELECT id, document_id, key, language, search
                  FROM document_section
                 WHERE id > (SELECT up_to FROM size) AND (SELECT bool_or(listed) FROM plan) {many}
                OFFSET 0) AS section
          JOIN plan ON plan.listed AND plan.language = section.language
          {fits}
         WHERE section.search @@ plan.query AND (section.search @@ plan.rare) IS NOT TRUE
        {scored_few}
    ),
    best AS MATERIALIZED (
        SELECT *
          FROM scored
         ORDER BY score DESC, id DESC
         LIMIT $8
    ),
    placed AS (
        SELECT best.*, row_number() OVER (PARTITION BY document_id ORDER BY score DESC, id DESC) AS place
          FROM best
    ),
    found AS MATERIALIZED (
        SELECT *
          FROM placed
         WHERE place <= $6
         ORDER BY score DESC, id DESC
         LIMIT $7 + {spare}
    )
"""
_SCORED_FEW = """
        UNION ALL
        SELECT section.id, section.document_id, section.key, {score}
          FROM chosen
          JOIN document_section AS section ON section.document_id = chosen.id
          JOIN plan ON plan.language = section.language
         WHERE (SELECT are_few FROM few) AND ts_match_vq(section.search, plan.query)
"""
# The text of a document that has changed since by other means is not that of its sections: nothing is cut out of it.
_SELECT = """
    SELECT {columns}, score AS rank, headings AS heading, {more}
           (SELECT count(*) FROM best) AS __best, tail AS __tail,
           (SELECT CASE WHEN count(*) >= $8 THEN min(bound) ELSE 0 END FROM best_headed) AS __cut
      FROM (SELECT document.*, found.score, section.id AS section_id, section.headings, plan.wanted, plan.tail,
                   array_position(document.section_keys, found.key) AS position,
                   indexed_state = document_state(document.language, name, content_hash) AS is_fresh
              FROM found
              JOIN document ON document.id = found.document_id
              JOIN document_section AS section ON section.id = found.id
              JOIN plan ON plan.language = section.language
             ORDER BY score DESC, section_id DESC) AS document
     CROSS JOIN LATERAL (
        SELECT coalesce(CASE WHEN is_fresh AND section_keys IS NOT NULL THEN
                   section_text(bytes, start, coalesce(section_starts[position + 1], octet_length(bytes)) - start)
               END, '') AS section_text
          FROM (SELECT coalesce(content_bytes, document_bytes(content)) AS bytes, section_starts[position] AS start
                OFFSET 0) AS whole
     ) AS piece
     WHERE position IS NOT NULL OR is_fresh IS NOT TRUE
     ORDER BY score DESC, section_id DESC
     LIMIT $7
"""
_SPARE = 10
_LISTED = 20_000


def build(columns: str, more: str, condition: str | None) -> str:
    """The statement that returns *columns* of `document` and *more*, of documents that fit the *condition* on `this`."""
    fits = "" if condition is None else _FITS.format(condition=condition)
    many = "" if condition is None else "AND NOT (SELECT are_few FROM few)"
    scored_few = "" if condition is None else _SCORED_FEW.format(score=_SCORE)
    filtered = "" if condition is None else _FILTER.format(few=_FEW, condition=condition)
    listed = "$8" if condition is None else str(_LISTED)
    scored = _SCORED.format(
        score=_SCORE, fits=fits, many=many, scored_few=scored_few, listed=listed, spare=_SPARE
    )
    return f"WITH RECURSIVE {_TERMS}{filtered}{scored}{_SELECT.format(columns=columns, more=more)}"
