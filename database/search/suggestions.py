"""
"Did you mean": words that documents hold, for words of a question that none of them holds.

PostgreSQL's extension pg_trgm picks what looks alike among the lexemes that ANALYZE has found most often; which of them
a slip of the finger leads to is decided by the number of slips.
"""

from __future__ import annotations

from typing import Any

from ..connect_db import Connection, perform
from ..exceptions import DocumentError
from ..query import quote_identifier
from .languages import text_search_configuration
from .question import parse_question

_MOST_TERMS = 8
_LEAST_LETTERS = 4
_LEAST_SIMILARITY = 0.6
_SAMPLED = 300

_EXTENSION = """
    SELECT nspname
      FROM pg_extension
      JOIN pg_namespace ON pg_namespace.oid = extnamespace
     WHERE extname = 'pg_trgm'
"""
# What no document holds, in none of the languages in use. Those are found by skipping through the index
# (https://wiki.postgresql.org/wiki/Loose_indexscan). New databases have no statistics: the latest sections say it then.
_CANDIDATES = """
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
    form AS MATERIALIZED (
        SELECT term, language, lexeme
          FROM unnest($1::text[]) AS term
         CROSS JOIN used
         CROSS JOIN LATERAL section_lexemes(language, ARRAY[term], ARRAY[1]) AS word
         WHERE language = coalesce($2, language)
    ),
    unknown AS MATERIALIZED (
        SELECT term, lexeme
          FROM (SELECT term, lexeme FROM form UNION SELECT term, lower(term) FROM form) AS either
         WHERE term NOT IN (
                   SELECT term
                     FROM form
                    WHERE EXISTS (SELECT FROM document_section WHERE search @@ section_term(language, term)))
    ),
    analyzed AS MATERIALIZED (
        SELECT most_common_elems::text::text[] AS lexemes
          FROM pg_stats
          JOIN pg_class ON pg_class.oid = 'document_section'::regclass AND relname = tablename
          JOIN pg_namespace ON pg_namespace.oid = relnamespace AND nspname = schemaname
         WHERE attname = 'search' AND most_common_elems IS NOT NULL
    ),
    known AS MATERIALIZED (
        SELECT unnest(lexemes) AS lexeme
          FROM analyzed
         UNION
        SELECT unnest(tsvector_to_array(search))
          FROM (SELECT search FROM document_section ORDER BY id DESC LIMIT {sampled}) AS latest
    )
    SELECT term, unknown.lexeme AS form, alike.lexeme
      FROM unknown
     CROSS JOIN LATERAL (
        SELECT known.lexeme
          FROM known
         WHERE abs(length(known.lexeme) - length(unknown.lexeme)) <= 3
         ORDER BY {schema}.similarity(known.lexeme, unknown.lexeme) DESC, known.lexeme
         LIMIT 20
     ) AS alike
"""
# How the words that a lexeme stands for are written, in some of the sections that hold it.
_SPELLINGS = """
    SELECT DISTINCT chosen.term, spelled.word
      FROM unnest($1::text[], $2::text[]) AS chosen (term, lexeme)
     CROSS JOIN LATERAL (
        SELECT document.language, name, headings, content_bytes, content, section_starts AS starts,
               array_position(section_keys, key) AS place
          FROM document_section AS section
          JOIN document ON document.id = section.document_id
         WHERE section.search @@ ('''' || replace(replace(chosen.lexeme, '\\', '\\\\'), '''', '''''') || '''')::tsquery
         LIMIT 3
     ) AS section
     CROSS JOIN LATERAL (
        SELECT coalesce(content_bytes, document_bytes(content)) AS bytes
        OFFSET 0
     ) AS whole
     CROSS JOIN LATERAL regexp_split_to_table(
        section_words(name || ' ' || headings || ' ' || coalesce(section_text(
            bytes, starts[place], coalesce(starts[place + 1], octet_length(bytes)) - starts[place]), '')),
        '[[:space:][:punct:]]+') AS spelled (word)
     WHERE word <> '' AND tsvector_to_array(to_tsvector(section.language::regconfig, word)) = ARRAY[chosen.lexeme]
"""


async def suggest_terms(
    query: str, *, language: str | None = None, conn: Connection | None = None
) -> list[dict[str, Any]]:
    """
    For words of *query* that no document holds, the most similar one that a document holds: "did you mean …".

    A list of dicts with `term` (as it was typed), `suggestion` (as a document spells it) and `similarity` (up to 1:
    the share of letters that stay as they are), in the order of the query. Words that some document holds, and words
    that nothing is like, are left out. Empty without PostgreSQL's extension pg_trgm. *language* confines it to the
    spelling of one language. Raises `DocumentError` where *language* is none.
    """
    configuration = None if language is None else text_search_configuration(language)
    if language is not None and configuration is None:
        raise DocumentError("language= is a name such as 'german' or an ISO 639-1 code such as 'de'")
    terms = [t for t in parse_question(query).sought if len(t) >= _LEAST_LETTERS and t.isalpha()][:_MOST_TERMS]

    async def ask(c: Connection) -> list[dict[str, Any]]:
        schema = await c.fetchval(_EXTENSION)
        if schema is None:
            return []
        sql = _CANDIDATES.format(schema=quote_identifier(schema), sampled=_SAMPLED)
        chosen: dict[str, tuple[float, str]] = {}
        for row in await c.fetch(sql, terms, configuration):
            likeness = _likeness(row["form"], row["lexeme"])
            if likeness >= _LEAST_SIMILARITY:
                chosen[row["term"]] = max(chosen.get(row["term"], (0.0, "")), (likeness, row["lexeme"]))
        if not chosen:
            return []
        spellings = await c.fetch(_SPELLINGS, list(chosen), [lexeme for _, lexeme in chosen.values()])
        best: dict[str, tuple[float, str]] = {}
        for row in spellings:
            word = row["word"].lower()
            best[row["term"]] = max(best.get(row["term"], (0.0, "")), (_likeness(row["term"].lower(), word), word))
        return [
            {"term": term, "suggestion": best[term][1], "similarity": best[term][0]}
            for term in terms
            if best.get(term, (0.0, ""))[0] >= _LEAST_SIMILARITY
        ]

    if not terms:
        return []
    return await perform(ask, conn=conn, kind=DocumentError, doing="suggest terms", changes=False, repeatable=True)


def _likeness(one: str, other: str) -> float:
    """
    1 less the share of letters that were left out, added, exchanged, or swapped with the next one.

    The restricted edit distance of Damerau (1964), whose slips are four of five misspellings.
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, fellow in enumerate(other, 1):
            least = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != fellow))
            if before and j > 1 and letter == other[j - 2] and one[i - 2] == fellow:
                least = min(least, before[j - 2] + 1)
            row.append(least)
        before, last = last, row
    return 1 - last[-1] / max(len(one), len(other), 1)
