"""
The statement that ranks sections by BM25, in plain PostgreSQL.

For one lexeme, `ts_rank` is a fixed, strictly increasing function of how often it occurs, so the term frequency comes
out of a tsvector at the speed of C. Lexemes that very many sections hold have lists of the sections where they weigh
most (word_lists.py): those are added up, and the best of them are ranked exactly, beside all that hold a rarer lexeme
and all that are newer than the lists.
"""

from __future__ import annotations

import re
from functools import lru_cache

UNIT = 10_000.0  # of the impacts in the lists, which are less than 2.2
MOST = 2**30
_ENTRIES = 20_000  # of all the lists that are read
_UP_TO = 200_000  # sections; with more, the entries grow by their fourth root, those that are ranked by the square root
_GUESS = 0.5  # of where a list ends, for a section that is not in it
_NARROW = 2_000  # of those that the lists name, where it is looked which of them hold all words that must occur
_SIDE_BY_SIDE = 300  # of those that hold all words of one term, which no list puts in order
_LESS = 5  # times fewer of both are enough beside a rarer word, which weighs more
_FEW = 3_000  # documents that a filter leaves whose sections are all looked at
_COUNTED, _SAMPLED = 1_000, 300
_FOREIGN = 0.3  # of a word's weight in documents of another language than the question's

LEXEME_QUERY = r"""('''' || replace(replace({lexeme}, '\', '\\'), '''', '''''') || '''')"""

# The score of `section` by the `plan` of its language; unrolled for questions of a few words, in half the time.
_UNROLLED = 4
_SUM = " + ".join(
    f"section_impact(section.search, plan.queries[{n}], plan.raised[{n}], plan.weights[{n}], plan.length)"
    for n in range(1, _UNROLLED + 1)
)
_SCORE = f"""
    CASE WHEN plan.lexemes <= {_UNROLLED} THEN {_SUM}
    ELSE (SELECT sum(section_impact(section.search, term.query, term.raised, term.weight, plan.length))
            FROM term
           WHERE term.language = section.language AND ts_match_vq(section.search, term.query)) END
"""
# $1 alternatives, $2 what must occur, $3 what must not, $4 $5 all that count and how often, $6 how many sections of a
# document, $7 how many at all, $8 how many are ranked exactly, $9 whether lists may be used, $10 language, $11 the one
# that the question seems to be in.
PARAMETERS = 11
# The languages in use are found by skipping through the index (https://wiki.postgresql.org/wiki/Loose_indexscan).
USED = """
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
    )
"""
_NEWEST = f"document_section ORDER BY id DESC LIMIT {_SAMPLED}"
_TERMS = f"""{USED},
    asked AS MATERIALIZED (
        SELECT *
          FROM (SELECT language, section_query(language, $1, $2, $3) AS query,
                       CASE WHEN cardinality($3) > 0 THEN section_query(language, $3, '{{}}', '{{}}') END AS excluded,
                       CASE WHEN cardinality($2) = 0 THEN '{{}}'
                            ELSE ARRAY(SELECT lexeme
                                         FROM section_lexemes(language, $2, array_fill(1, ARRAY[cardinality($2)])))
                       END AS demanded
                  FROM unnest(ARRAY(SELECT language FROM used)) AS language
                 WHERE language = coalesce($10, language)
                OFFSET 0) AS parts
         WHERE query IS NOT NULL
    ),
    segment AS MATERIALIZED (
        SELECT segment.id, segment.epoch, segment.after_id, segment.up_to, state.length
          FROM document_head_state AS state
          JOIN document_head_segment AS segment ON segment.epoch = state.epoch AND segment.is_ready
    ),
    size AS MATERIALIZED (
        SELECT greatest(1, CASE WHEN pages <= 100
                                THEN (SELECT count(*) FROM (SELECT FROM document_section LIMIT 10000) AS few)
                                WHEN reltuples >= 0 AND relpages > 0 THEN reltuples / relpages * pages
                                ELSE pages * (SELECT count(*) / count(DISTINCT (ctid::text::point)[0])::float8
                                                FROM (SELECT ctid FROM {_NEWEST}) AS sample)
                           END)::float8 AS sections,
               greatest(1, coalesce((SELECT max(length) FROM segment),
                                    (SELECT avg(length(search)) FROM (SELECT search FROM {_NEWEST}) AS sample)))
                   ::float8 AS length,
               (SELECT coalesce(max(up_to), 0) FROM segment) AS up_to
          FROM (SELECT reltuples, relpages, pg_relation_size(oid) / current_setting('block_size')::integer AS pages
                  FROM pg_class
                 WHERE oid = 'document_section'::regclass) AS relation
    ),
    term AS MATERIALIZED (
        SELECT lexeme.*, counted,
               occurrences * ln(1 + (greatest(sections, found) - found + 0.5) / (found + 0.5))
                   * CASE WHEN language <> $11 THEN {_FOREIGN} ELSE 1 END AS weight
          FROM size
         CROSS JOIN (
            SELECT asked.language, word.lexeme, word.count AS occurrences,
                   (quoted || CASE WHEN word.begins THEN ':*' ELSE '' END)::tsquery AS query,
                   (quoted || CASE WHEN word.begins THEN ':*AB' ELSE ':AB' END)::tsquery AS raised,
                   head.*, is_required,
                   $9::boolean AND head.frequency IS NOT NULL
                       AND bool_and(head.frequency IS NOT NULL OR NOT is_required) OVER (PARTITION BY asked.language)
                       AS is_listed
              FROM asked
             CROSS JOIN LATERAL section_lexemes(asked.language, $4, $5) AS word
             CROSS JOIN LATERAL (SELECT CASE WHEN demanded = '{{}}' THEN cardinality($1) = 1
                                             ELSE word.lexeme = ANY(demanded) END AS is_required) AS demand
             CROSS JOIN LATERAL (SELECT {LEXEME_QUERY.format(lexeme="word.lexeme")} AS quoted) AS written
              LEFT JOIN LATERAL (
                SELECT sum(head.frequency) AS frequency, min(head.lexeme) AS number
                  FROM document_head_lexeme AS listed
                  JOIN document_head AS head ON head.lexeme = listed.number
                  JOIN segment ON segment.id = head.segment
                 WHERE listed.lexeme = word.lexeme AND listed.language = asked.language
                   AND listed.epoch = segment.epoch AND NOT word.begins
              ) AS head ON true
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
                        ELSE greatest(counted, sections * (SELECT avg((search @@ lexeme.query)::integer)
                                                             FROM (SELECT search FROM {_NEWEST}) AS sample))
                   END AS found
            OFFSET 0
         ) AS nearly
    ),
    reach AS MATERIALIZED (
        SELECT rescored, together, required > 1 AS is_narrow,
               CASE WHEN required > 1 THEN greatest(rescored, {_NARROW}) ELSE rescored END AS headed,
               least({MOST}, CASE WHEN lists > 1 THEN {{entries}} * growth / share / (lists * segments) + 1
                                  ELSE {{entries_of_one}} END)::integer AS cap
          FROM (SELECT greatest($7, $8 * growth ^ 2 / share,
                                CASE WHEN required > 1 THEN {_SIDE_BY_SIDE} END)::bigint AS rescored,
                       together, required, share, growth, lists,
                       (SELECT greatest(1, count(*)) FROM segment) AS segments
                  FROM (SELECT coalesce(max(lists), 0) AS together, coalesce(sum(lists), 0)::bigint AS lists,
                               max(required) AS required,
                               CASE WHEN bool_or(are_listed) THEN 1 ELSE {_LESS} END AS share,
                               CASE WHEN bool_or(are_listed) AND max(lists) > 1
                                    THEN (SELECT greatest(1, sections / {_UP_TO}) ^ 0.25 FROM size) ELSE 1 END AS growth
                          FROM (SELECT count(*) FILTER (WHERE is_listed) AS lists, bool_and(is_listed) AS are_listed,
                                       count(*) FILTER (WHERE is_required) AS required
                                  FROM term
                                 GROUP BY language) AS by_language) AS counted) AS weighed
    ),
    listed AS MATERIALIZED (
        SELECT term.language, term.weight, head.segment, head.ids[:cap] AS ids, head.impacts[:cap] AS impacts,
               together > 1 AS is_guessed,
               term.weight * CASE WHEN cardinality(head.impacts) > cap THEN head.impacts[cap] / {UNIT}
                                  ELSE head.cutoff END AS cut
          FROM reach
          JOIN term ON term.is_listed
          JOIN document_head AS head ON head.lexeme = term.number
          JOIN segment ON segment.id = head.segment
    ),
    plan AS MATERIALIZED (
        SELECT asked.language, asked.query, coalesce(listed, false) AS listed,
               CASE WHEN listed THEN rare && coalesce(!!asked.excluded, '') ELSE asked.query END AS rare,
               lexemes, queries, raised, weights, size.length
          FROM size
         CROSS JOIN asked
          LEFT JOIN (SELECT language, bool_or(is_listed) AS listed, count(*) AS lexemes,
                            array_agg(query ORDER BY weight DESC) AS queries,
                            array_agg(raised ORDER BY weight DESC) AS raised,
                            array_agg(weight ORDER BY weight DESC) AS weights,
                            string_agg(query::text, ' | ') FILTER (WHERE NOT is_listed)::tsquery AS rare
                       FROM term
                      GROUP BY language) AS terms USING (language)
    )
"""
# What a section that is nowhere within the lists weighs at the most.
_TAIL = """
    SELECT max(tail)
      FROM (SELECT sum(cut) AS tail
              FROM listed
             GROUP BY language, segment) AS tails
"""
# Where a filter leaves few documents, their sections are looked at. Where it leaves many, as a sample tells, the lists
# are gone through until enough of what is in them fits. The sample is always the same, so that it is in memory.
_FILTER = """,
    sampled AS MATERIALIZED (
        SELECT count(*) >= 20 AND count(*) FILTER (WHERE {condition}) > 0.05 * count(*) AS fits_often
          FROM document AS this TABLESAMPLE SYSTEM (least(100, 4000.0 / greatest(
               1, pg_relation_size('document') / current_setting('block_size')::integer))) REPEATABLE (0)
         WHERE {gate}
    ),
    chosen AS MATERIALIZED (
        SELECT this.id
          FROM document AS this
         WHERE {gate} AND NOT (SELECT fits_often FROM sampled) AND {condition}
         LIMIT {few} + 1
    ),
    few AS MATERIALIZED (
        SELECT {gate} AND NOT (SELECT fits_often FROM sampled)
           AND (SELECT count(*) <= {few} FROM chosen) AS are_few
    )
"""
_PAYS = f"(SELECT sum(counted) > {_FEW} FROM term)"
_FITS = "JOIN document AS this ON this.id = section.document_id AND {condition}"
# What a section weighs that is in some of the lists: beside what they say, a part of where the others end. As that sum
# over all lists is the same for all sections of a segment in one language, the part of a list is taken off where the
# list says what is so. The best of them come first by LATERAL: the order of a join is the planner's to choose.
_SCORED = """,
    headed AS MATERIALIZED (
        SELECT id, sum(impact * weight - guess) AS bound
          FROM (SELECT segment.after_id + unnest(listed.ids) AS id, unnest(listed.impacts) AS impact,
                       listed.weight / {unit} AS weight, CASE WHEN is_guessed THEN {guess} * cut ELSE 0 END AS guess
                  FROM listed
                  JOIN segment ON segment.id = listed.segment
                 WHERE true {many}) AS entry
         GROUP BY id
         ORDER BY bound DESC
         LIMIT {listed}
    ),
    best_headed AS MATERIALIZED (
        SELECT section.id, document_id, key, bound, score
          FROM headed
         CROSS JOIN LATERAL (
            SELECT section.id, section.document_id, section.key, {score} AS score
              FROM document_section AS section
              JOIN plan ON plan.language = section.language
              {fits}
             WHERE section.id = headed.id
               AND ts_match_vq(section.search, plan.query) AND ts_match_vq(section.search, plan.rare) IS NOT TRUE
            OFFSET 0
         ) AS section
         LIMIT (SELECT rescored FROM reach)
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
                 WHERE id > (SELECT up_to FROM size) AND id <= (SELECT max(id) FROM document_section)
                   AND (SELECT bool_or(listed) FROM plan) {many}
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
    )
"""
_FOUND = """,
    placed AS (
        SELECT {ranked}.*, row_number() OVER (PARTITION BY document_id ORDER BY score DESC, id DESC) AS place
          FROM {ranked}
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
# Which words are marked depends on their language alone: many texts are looked through at once. The text of a document
# that has changed since by other means is not that of its sections: nothing is cut out of it.
_SELECT = """,
    result AS (
        SELECT {columns}, score AS rank, headings AS heading, section_text, start, {more}
               section_id, document.language AS section_language,
               row_number() OVER (ORDER BY score DESC, section_id DESC) / 100 AS bundle
          FROM (SELECT document.*, found.score, section.id AS section_id, section.headings,
                       array_position(document.section_keys, found.key) AS place,
                       indexed_state = document_state(document.language, name, content_hash) AS is_fresh
                  FROM found
                  JOIN document ON document.id = found.document_id
                  JOIN document_section AS section ON section.id = found.id
                 ORDER BY score DESC, section_id DESC) AS document
         CROSS JOIN LATERAL (
            SELECT coalesce(CASE WHEN is_fresh THEN
                       section_text(bytes, start, coalesce(section_starts[place + 1], octet_length(bytes)) - start)
                   END, '') AS section_text, coalesce(start, 0) AS start
              FROM (SELECT coalesce(content_bytes, document_bytes(content)) AS bytes, section_starts[place] AS start
                    OFFSET 0) AS whole
         ) AS piece
         WHERE place IS NOT NULL OR is_fresh IS NOT TRUE
         ORDER BY score DESC, section_id DESC
         LIMIT $7
    ),
    marked AS MATERIALIZED (
        SELECT section_language, bundle, section_marks(section_language, string_agg(section_text, ' '), $4)
          FROM result
         GROUP BY section_language, bundle
    )
    SELECT result.*, section_marks, facts.*
      FROM (SELECT {facts}) AS facts
      LEFT JOIN (result JOIN marked USING (section_language, bundle)) ON true
     ORDER BY rank DESC, section_id DESC
"""
_FACTS = f"""
    (SELECT count(*) FROM best) AS ranked, (SELECT coalesce(bool_or(listed), false) FROM plan) {{many}} AS listed,
    coalesce(({_TAIL}), 0) AS tail,
    greatest((SELECT CASE WHEN count(*) >= {{listed}} THEN min(bound) ELSE 0 END FROM headed),
             (SELECT CASE WHEN count(*) >= (SELECT rescored FROM reach) THEN min(bound) ELSE 0 END FROM best_headed))
        AS cut,
    (SELECT together FROM reach) AS lists, (SELECT is_narrow FROM reach) AS is_narrow
"""
_SPARE = 10
LISTED = 20_000  # of which a filter may leave few


@lru_cache(maxsize=200)
def build_search(columns: str, condition: str | None, *, more: str = "") -> str:
    """
    The statement that returns *columns* of `document`, and *more*, for the best sections.

    Of documents that fit the *condition* on `this`, whose parameters begin with $12.
    """
    facts = _FACTS.format(many=build_many(condition), listed=_listed(condition))
    return build_statement(build_candidates(condition), build_result("best", columns, more, facts))


def build_candidates(condition: str | None, *, gate: str = _PAYS) -> str:
    """
    The common table expressions up to `best`: the sections that fit the words best, with their score.

    The *gate* is the condition on which it is looked whether the filter leaves few documents.
    """
    fits = build_fits(condition)
    many, listed = build_many(condition), _listed(condition)
    scored_few = "" if condition is None else _SCORED_FEW.format(score=_SCORE)
    scored = _SCORED.format(
        score=_SCORE, fits=fits, many=many, scored_few=scored_few, listed=listed, unit=UNIT, guess=_GUESS
    )
    one, all_of_them = ("rescored", _ENTRIES) if condition is None else (MOST, MOST)
    terms = _TERMS.replace("{entries_of_one}", str(one)).replace("{entries}", str(all_of_them))
    return f"{terms}{build_filter(condition, gate)}{scored}"


def build_many(condition: str | None) -> str:
    """What a condition goes on with where nothing is looked for if the *condition* leaves few documents."""
    return "" if condition is None else "AND NOT (SELECT are_few FROM few)"


def _listed(condition: str | None) -> str:
    """How many sections of the lists are looked at."""
    return "(SELECT headed FROM reach)" if condition is None else str(LISTED)


def build_filter(condition: str | None, gate: str) -> str:
    """The common table expressions that tell whether the *condition* leaves few documents, and which."""
    return "" if condition is None else _FILTER.format(few=_FEW, condition=condition, gate=gate)


def build_fits(condition: str | None) -> str:
    """The join that leaves of `section` what is of documents that fit the *condition*."""
    return "" if condition is None else _FITS.format(condition=condition)


def build_result(ranked: str, columns: str, more: str, facts: str) -> str:
    """
    What follows behind the common table expression *ranked*, which has id, document_id, key and score.

    The best of them with the *columns* of their documents and *more*, and the *facts*, also where there are none.
    """
    selected = _SELECT.format(columns=columns, more=more, facts=facts)
    return f"{_FOUND.format(ranked=ranked, spare=_SPARE)}{selected}"


def build_statement(*parts: str) -> str:
    """The *parts* as one statement, in few characters, for there are many."""
    return re.sub(r"\s+", " ", f"WITH RECURSIVE {''.join(parts)}")
