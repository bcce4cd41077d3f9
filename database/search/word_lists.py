"""
Lists of the sections where common words weigh most, which statement.py reads.

They are kept as a log-structured merge tree keeps its data: a segment is of a range of section ids and never changes,
new sections get a segment of their own, and many small segments become one by merging their lists. Everything happens
in short transactions, and any number of workers may do it at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import TypeVar, cast

from ..connect_db import Connection, get_db_transaction
from .statement import LEXEME_QUERY, UNIT
from .upkeep import run

log = logging.getLogger("database")

T = TypeVar("T")

SECTIONS_FROM = 4_000  # with fewer, looking at all sections that hold a word is fast enough
MANY_SECTIONS = 20_000  # their lists take more than some seconds
_LISTED_FROM = 500  # words that fewer sections hold need no list
_SEGMENT_FROM = 2_500  # new sections that are a segment of their own; fewer are looked at one by one
_SEGMENT = 40_000  # sections of a segment that is made, by a statement of some seconds
_SEGMENTS = 8  # so many smaller ones become one
_KEPT = 300  # sections in a list, at the least
_WORKERS = 2
_LEASE = "2 minutes"
_PATIENCE = 20.0  # seconds in which those end who may have taken an id and are not visible yet

_COUNT = """
    SELECT CASE WHEN reltuples > 0 AND relpages > 0
                THEN reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::integer)
                ELSE (SELECT count(*) FROM document_section) END::bigint
      FROM pg_class
     WHERE oid = 'document_section'::regclass
"""
_COUNT_LISTS = """
    SELECT count(*)
      FROM document_head_lexeme
     WHERE epoch = (SELECT epoch FROM document_head_state)
       AND EXISTS (SELECT FROM document_head WHERE lexeme = number)
"""


async def count_sections() -> int:
    """How many sections there are, about."""
    return int(await run("count sections", lambda c: c.fetchval(_COUNT)))


async def refresh_lists(*, patience: float | None = None) -> int:
    """
    Bring the lists of common words up to date, where there are enough sections; how many of these there are.

    Others who write sections are waited for, up to *patience* seconds, or 20; then it is left for the next time.
    """
    sections = await count_sections()
    if sections >= SECTIONS_FROM:
        await _refresh_lists(sections, _PATIENCE if patience is None else patience)
    return sections


async def count_lists() -> int:
    """How many lists there are."""
    return int(await run("count lists", lambda c: c.fetchval(_COUNT_LISTS)))


_CLAIM = f"""
    INSERT INTO document_head_state AS state (busy_until)
    VALUES (clock_timestamp() + interval '{_LEASE}')
    ON CONFLICT (id) DO UPDATE SET busy_until = excluded.busy_until
     WHERE state.busy_until IS NULL OR state.busy_until < clock_timestamp()
    RETURNING epoch, sections, busy_until
"""
_RENEW = f"""
    UPDATE document_head_state
       SET busy_until = clock_timestamp() + interval '{_LEASE}'
     WHERE busy_until = $1
    RETURNING busy_until
"""
_WORK_MEMORY = "SET LOCAL work_mem = '64MB'"
_RELEASE = "UPDATE document_head_state SET busy_until = NULL WHERE busy_until = $1"


class _ClaimLostError(Exception):
    """Somebody else works on the lists: the claim was not renewed in time."""


class _Claim:
    """The right to work on the lists, which has to be renewed before each step."""

    def __init__(self, until: datetime) -> None:
        self._until = until
        self._renewing = asyncio.Lock()

    async def renew(self) -> None:
        async with self._renewing:
            until = await run("renew the claim", lambda c: c.fetchval(_RENEW, self._until), changes=True)
            if until is None:
                raise _ClaimLostError
            self._until = until

    async def release(self) -> None:
        await run("release the lists", lambda c: c.execute(_RELEASE, self._until), changes=True)


async def _refresh_lists(sections: int, patience: float) -> None:
    state = await run("claim the lists", lambda c: c.fetchrow(_CLAIM), changes=True)
    if state is None:
        return
    claim = _Claim(state["busy_until"])
    try:
        up_to = await _settled_id(patience)
        if up_to is None:
            log.info("lists of common words: a transaction is open for long, they are left for the next time")
            return
        epoch = state["epoch"]
        if not epoch or not 0.5 < sections / max(1, state["sections"]) < 2:
            await _begin_epoch(claim, epoch + 1, up_to, sections)
        else:
            await _add_segments(claim, epoch, up_to, sections)
            await _merge_segments(claim, epoch, sections)
    except _ClaimLostError:
        log.info("lists of common words: it took too long, and somebody else makes them now")
    finally:
        await claim.release()


# Ids are taken before their transaction commits: what is below the last id may still be on its way. Whoever has taken
# one holds a lock on the table, which lasts as long as the transaction.
_LAST_ID = "SELECT coalesce(max(id), 0) FROM document_section"
_WRITERS = """
    SELECT DISTINCT virtualtransaction
      FROM pg_locks
     WHERE locktype = 'relation' AND relation = 'document_section'::regclass
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AND granted
"""
_PREPARED = "-1/"  # what a transaction is called from PREPARE TRANSACTION on, whatever its name was before


async def _settled_id(patience: float) -> int | None:
    """An id up to which there will be no new section any more; None where somebody takes too long."""
    last_id = int(await run("ask for the last section", lambda c: c.fetchval(_LAST_ID)))
    before = await _writers()
    writers = before
    deadline = time.monotonic() + patience
    while any(writer in before or writer.startswith(_PREPARED) for writer in writers):
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(0.1)
        writers = await _writers()
    return last_id


async def _writers() -> set[str]:
    """The transactions that have written sections, or may do so next."""
    rows = await run("wait for transactions", lambda c: c.fetch(_WRITERS))
    return {row["virtualtransaction"] for row in rows}


def _kept(of: int, sections: int) -> int:
    """How long the lists of a segment *of* so many sections are: twice its share, as segments are not all alike."""
    return max(_KEPT, round(2 * 5_000 * math.sqrt(sections / 200_000) * min(1.0, of / sections)))


# From a sample: which words are common does not change by a few sections more or less.
_SAMPLE = 20_000
_BEGIN_EPOCH = f"""
    WITH sample AS MATERIALIZED (
        SELECT language, search
          FROM document_section TABLESAMPLE SYSTEM (least(100, 100.0 * {_SAMPLE} / $2::float8))
    ),
    word AS (
        SELECT language, unnest(tsvector_to_array(search)) AS lexeme
          FROM sample
    ),
    listed AS (
        INSERT INTO document_head_lexeme (epoch, language, lexeme, query, raised)
        SELECT $1, language, lexeme, {LEXEME_QUERY.format(lexeme="lexeme")}::tsquery,
               ({LEXEME_QUERY.format(lexeme="lexeme")} || ':AB')::tsquery
          FROM word
         GROUP BY language, lexeme
        HAVING count(*) > $3::float8 * (SELECT count(*) FROM sample) / $2::float8
        ON CONFLICT DO NOTHING
    )
    SELECT avg(length(search))::float8
      FROM sample
"""
_FORGET_EPOCHS = """
    WITH segments AS (
        DELETE FROM document_head_segment
         WHERE epoch NOT IN ($1, (SELECT epoch FROM document_head_state))
        RETURNING id
    ),
    lexemes AS (
        DELETE FROM document_head_lexeme
         WHERE epoch NOT IN ($1, (SELECT epoch FROM document_head_state))
    )
    DELETE FROM document_head
     WHERE segment IN (SELECT id FROM segments)
"""
_USE_EPOCH = """
    UPDATE document_head_state
       SET epoch = $1, sections = $2, length = $3
"""


async def _begin_epoch(claim: _Claim, epoch: int, up_to: int, sections: int) -> None:
    """Make all lists anew; until they are complete, the old ones are used."""
    await run("forget lists", lambda c: c.execute(_FORGET_EPOCHS, -1), changes=True)
    length = await run(
        "find common words",
        lambda c: c.fetchval(_BEGIN_EPOCH, epoch, float(sections), float(_LISTED_FROM)),
        changes=True,
    )
    if length is None:
        return
    ranges = await _cut_ranges(0, up_to)
    kept = _kept(_SEGMENT, sections)
    await _do_all(claim, lambda c, bounds: c.execute(_ADD_SEGMENT, epoch, *bounds, length, kept), ranges)
    await claim.renew()
    await run("use the new lists", lambda c: c.execute(_USE_EPOCH, epoch, sections, length), changes=True)
    await run("forget lists", lambda c: c.execute(_FORGET_EPOCHS, epoch), changes=True)


# Of `entry`, with lexeme, id and impact.
_LISTS = f"""
    list AS (
        SELECT lexeme, count(*) AS frequency,
               coalesce((array_agg(impact))[{{kept}}::integer + 1] / {UNIT}, 0) AS cutoff,
               (array_agg(id))[:{{kept}}::integer] AS ids, (array_agg(impact))[:{{kept}}::integer] AS impacts
          FROM (SELECT *
                  FROM entry
                 ORDER BY lexeme, impact DESC) AS weighed
         GROUP BY lexeme
    )
"""
_NEXT_SEGMENT = """
    SELECT max(id)
      FROM (SELECT id
              FROM document_section
             WHERE id > $1 AND id <= $2
             ORDER BY id
             LIMIT $3) AS next
"""
_LAST_SEGMENT = "SELECT coalesce(max(up_to), 0) FROM document_head_segment WHERE epoch = $1"
_COUNT_NEW = "SELECT count(*) FROM document_section WHERE id > $1 AND id <= $2"
_ADD_SEGMENT = f"""
    WITH segment AS (
        INSERT INTO document_head_segment (epoch, after_id, up_to, sections, is_ready)
        SELECT $1, $2, $3, count(*), true
          FROM document_section
         WHERE id > $2 AND id <= $3
        RETURNING id
    ),
    entry AS (
        SELECT listed.number AS lexeme, (section.id - $2)::integer AS id,
               ceil(section_impact(section.search, listed.query, listed.raised, 1, $4) * {UNIT})::smallint AS impact
          FROM (SELECT id, language, search, unnest(tsvector_to_array(search)) AS lexeme
                  FROM document_section
                 WHERE id > $2 AND id <= $3
                OFFSET 0) AS section
          JOIN document_head_lexeme AS listed
            ON listed.lexeme = section.lexeme AND listed.language = section.language AND listed.epoch = $1
    ),
    {_LISTS.format(kept="$5")}
    INSERT INTO document_head (lexeme, segment, frequency, cutoff, ids, impacts)
    SELECT lexeme, segment.id, frequency, cutoff, ids, impacts
      FROM list, segment
"""


async def _add_segments(claim: _Claim, epoch: int, up_to: int, sections: int) -> None:
    """Make segments of the sections up to the id *up_to* that are in none, where they are many."""
    after = await run("find new sections", lambda c: c.fetchval(_LAST_SEGMENT, epoch))
    count = await run("find new sections", lambda c: c.fetchval(_COUNT_NEW, after, up_to))
    if count < _SEGMENT_FROM:
        return
    length = await run("read the state", lambda c: c.fetchval("SELECT length FROM document_head_state"))
    kept = _kept(min(count, _SEGMENT), sections)
    await _do_all(
        claim,
        lambda c, bounds: c.execute(_ADD_SEGMENT, epoch, *bounds, length, kept),
        await _cut_ranges(after, up_to),
        workers=1,  # what lies behind the last segment is searched without: there must be no gap
    )


async def _cut_ranges(after: int, up_to: int) -> list[tuple[int, int]]:
    """The sections behind *after*, up to the id *up_to*, as ranges of ids, each for a segment."""
    ranges = []
    while last := await _next_segment(after, up_to):
        ranges.append((after, last))
        after = last
    return ranges


async def _next_segment(after: int, up_to: int) -> int | None:
    """The last id of a segment of the sections behind *after*."""
    return cast(
        "int | None",
        await run("find new sections", lambda c: c.fetchval(_NEXT_SEGMENT, after, up_to, _SEGMENT)),
    )


async def _do_all(
    claim: _Claim, work: Callable[[Connection, T], Awaitable[object]], parts: Iterable[T], *, workers: int = _WORKERS
) -> None:
    """Do the *work* for each of the *parts*, in their order, in a transaction of its own."""
    waiting = iter(parts)

    async def do_one(part: T) -> None:
        await claim.renew()
        async with get_db_transaction() as c:
            await run("make lists", lambda c: c.execute(_WORK_MEMORY), changes=True, conn=c)
            await run("make lists", lambda c: work(c, part), changes=True, conn=c)

    async def do_some() -> None:
        for part in waiting:
            await do_one(part)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(do_some())
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from None  # as from any other function


_SMALL_SEGMENTS = """
    SELECT id, sections
      FROM document_head_segment
     WHERE epoch = $1 AND is_ready AND sections < $2
"""
_MERGED_SEGMENT = """
    INSERT INTO document_head_segment (epoch, after_id, up_to, sections, is_ready)
    SELECT $1, min(after_id), max(up_to), sum(sections), false
      FROM document_head_segment
     WHERE id = ANY($2)
    RETURNING id
"""
_LEXEMES_OF = "SELECT DISTINCT lexeme FROM document_head WHERE segment = ANY($1) ORDER BY lexeme"
_MERGE = f"""
    WITH entry AS (
        SELECT head.lexeme, (segment.after_id - merged.after_id + unnest(head.ids))::integer AS id,
               unnest(head.impacts) AS impact
          FROM document_head AS head
          JOIN document_head_segment AS segment ON segment.id = head.segment
          JOIN document_head_segment AS merged ON merged.id = $3
         WHERE segment.id = ANY($1) AND head.lexeme = ANY($2)
    ),
    {_LISTS.format(kept="$4")}
    INSERT INTO document_head (lexeme, segment, frequency, cutoff, ids, impacts)
    SELECT lexeme, $3, head.frequency, greatest(head.cutoff, list.cutoff), ids, impacts
      FROM list
      JOIN (SELECT lexeme, sum(frequency) AS frequency, max(cutoff) AS cutoff
              FROM document_head
             WHERE segment = ANY($1)
             GROUP BY lexeme) AS head USING (lexeme)
"""
_SWITCH = """
    WITH gone AS (
        DELETE FROM document_head_segment
         WHERE id = ANY($1)
    ),
    heads AS (
        DELETE FROM document_head
         WHERE segment = ANY($1)
    )
    UPDATE document_head_segment
       SET is_ready = true
     WHERE id = $2
"""
_FORGET_UNFINISHED = """
    WITH segments AS (
        DELETE FROM document_head_segment
         WHERE NOT is_ready
        RETURNING id
    )
    DELETE FROM document_head
     WHERE segment IN (SELECT id FROM segments)
"""
_MERGED_LEXEMES = 50  # by one statement


async def _merge_segments(claim: _Claim, epoch: int, sections: int) -> None:
    """Make one segment of many small ones."""
    await run("forget lists", lambda c: c.execute(_FORGET_UNFINISHED), changes=True)
    small = await run("read segments", lambda c: c.fetch(_SMALL_SEGMENTS, epoch, _SEGMENT))
    if len(small) < _SEGMENTS:
        return
    ids = [row["id"] for row in small]
    kept = _kept(sum(row["sections"] for row in small), sections)
    new = await run("merge lists", lambda c: c.fetchval(_MERGED_SEGMENT, epoch, ids), changes=True)
    lexemes = [row["lexeme"] for row in await run("merge lists", lambda c: c.fetch(_LEXEMES_OF, ids))]
    batches = [lexemes[start : start + _MERGED_LEXEMES] for start in range(0, len(lexemes), _MERGED_LEXEMES)]
    await _do_all(claim, lambda c, batch: c.execute(_MERGE, ids, batch, new, kept), batches)
    await claim.renew()
    await run("use the merged lists", lambda c: c.execute(_SWITCH, ids, new), changes=True)
