"""How long answers take in generated collections, what keeping them up costs, and whether they are the exact ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import asyncpg

import database as db
from database.document_batches import insert_documents

from ..address import Address
from ..server import execute
from .generated import Section, make_sections
from .plan import Plan
from .queries import COMMON, KINDS, Query, make_queries
from .results import EXACT, OURS, RUM, TS_RANK, Agreement, Key, Results, Upkeep, Writes, times_of
from .rum import find_rum, run_rum_server
from .systems import Found, Search, check_answer, with_ours, with_rum, with_ts_rank
from .tables import DOCUMENT, MAKE_PLAIN, PLAIN, PLAIN_INDEX, as_document, fill, make_documents, store_plain

_LEAST = 3  # queries, however long they take
_ALMOST = 1 - 1e-4  # scores are computed from figures that are rounded
UNREFRESHED = "common word, after writing"


@dataclass(frozen=True)
class _Run:
    """A collection of so many *sections* in a database, and the systems that search it."""

    plan: Plan
    sections: int
    address: Address
    workspace: Path
    searches: Mapping[str, Search]
    results: Results
    progress: Callable[[str], None]

    @property
    def upkeep(self) -> Upkeep:
        return self.results.upkeep.setdefault(self.sections, Upkeep())


async def measure_speed(
    plan: Plan, server: Address, workspace: Path, results: Results, progress: Callable[[str], None]
) -> None:
    """Every kind of query in collections of all sizes; RUM takes part in the smallest only, as its index is slow."""
    for sections in plan.sizes:
        async with AsyncExitStack() as stack:
            others = {}
            if sections == min(plan.sizes):
                others = await _start_rum(stack, sections, workspace, results, progress)
            address = await make_documents(server, f"speed_{sections}")
            await stack.enter_async_context(db.database_lifespan())
            connection = await asyncpg.connect(address.uri)
            stack.push_async_callback(connection.close)
            searches = {OURS: with_ours(), TS_RANK: with_ts_rank(connection), **others}
            run = _Run(plan, sections, address, workspace, searches, results, progress)
            await _fill(run)
            await _measure_kinds(run)
            await _compare_with_exact(run)
            await _measure_writes(run, connection)
        db.configure(None)
        await execute(server, f"DROP DATABASE speed_{sections}")


async def _start_rum(
    stack: AsyncExitStack, sections: int, workspace: Path, results: Results, progress: Callable[[str], None]
) -> dict[str, Search]:
    """RUM with its table filled, where it is installed; it stops with the *stack*."""
    programs = find_rum()
    if programs is None:
        results.missing[RUM] = "Debian's package postgresql-15-rum is not installed"
        return {}
    progress(f"{sections:,} sections: loading RUM")
    try:
        address = await stack.enter_async_context(run_rum_server(programs, workspace / "rum"))
    except db.DatabaseNotAvailableError as exc:
        results.missing[RUM] = str(exc).splitlines()[0]
        return {}
    await fill(address, PLAIN, sections, workspace)
    await execute(address, "VACUUM ANALYZE plain", "CHECKPOINT")
    connection = await asyncpg.connect(address.uri)
    stack.push_async_callback(connection.close)
    return {RUM: with_rum(connection)}


_SIZES = """
    SELECT relname AS name, pg_table_size(oid) AS bytes
      FROM pg_class
     WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace
       AND (starts_with(relname, 'document') OR starts_with(relname, 'plain'))
"""


async def _fill(run: _Run) -> None:
    """Both tables, with sizes and times."""
    run.progress(f"{run.sections:,} sections: loading")
    began = time.perf_counter()
    await fill(run.address, DOCUMENT, run.sections, run.workspace)
    run.upkeep.fill_seconds = time.perf_counter() - began
    await execute(run.address, "VACUUM ANALYZE")
    run.progress(f"{run.sections:,} sections: refreshing the index")
    began = time.perf_counter()
    await db.refresh_search_index()
    run.upkeep.refresh_seconds = time.perf_counter() - began
    run.progress(f"{run.sections:,} sections: loading the plain table")
    await execute(run.address, MAKE_PLAIN, PLAIN_INDEX)
    await fill(run.address, PLAIN, run.sections, run.workspace)
    await execute(run.address, "VACUUM ANALYZE", "CHECKPOINT")
    connection = await asyncpg.connect(run.address.uri)
    try:
        run.upkeep.sizes = {row["name"]: row["bytes"] for row in await connection.fetch(_SIZES)}
    finally:
        await connection.close()


# --- queries


async def _measure_kinds(run: _Run) -> None:
    """In every round every system has its turn with every kind, in a new order, and with new queries."""
    for number in range(run.plan.rounds):
        run.progress(f"{run.sections:,} sections: queries, round {number + 1} of {run.plan.rounds}")
        for kind in KINDS:
            queries = make_queries(kind, run.plan.queries, number)
            for name in Random(f"{kind} {number}").sample(list(run.searches), len(run.searches)):
                await _measure(run, kind, name, queries)


async def _measure(run: _Run, kind: str, name: str, queries: list[Query]) -> None:
    """Ask everything once, so that what is read is in memory, and then once more by the clock."""
    search = run.searches[name]
    taken: list[float] = []
    asked = len(queries)
    for is_timed in (False, True):
        taken.clear()
        for query in queries[:asked]:
            began = time.perf_counter()
            found = await search(query)
            taken.append(time.perf_counter() - began)
            if wrong := check_answer(query, found):
                run.results.failures.append(f"{name}, {kind}, {run.sections:,} sections: {wrong}")
                return
            if not is_timed and len(taken) >= _LEAST and sum(taken) > run.plan.seconds:
                break
        asked = len(taken)
    run.results.speed.setdefault(Key(run.sections, kind, name), []).append(times_of(taken))


async def _compare_with_exact(run: _Run) -> None:
    """The same queries again, certified."""
    search, certify = run.searches[OURS], with_ours(exact=True)
    for kind in KINDS:
        run.progress(f"{run.sections:,} sections: exact answers, {kind}")
        same, places, deviation = 0, 0, 0.0
        taken: list[float] = []
        for query in make_queries(kind, run.plan.certified, 0):
            began = time.perf_counter()
            exact = await certify(query)
            taken.append(time.perf_counter() - began)
            found = await search(query)
            same += count_same(found, exact)
            places += len(exact)
            deviation = max(deviation, deviation_of(found, exact))
            if len(taken) >= _LEAST and sum(taken) > run.plan.seconds:
                break
        agreement = Agreement(len(taken), same / places if places else 1.0, deviation)
        run.results.agreement[run.sections, kind] = agreement
        run.results.speed[Key(run.sections, kind, EXACT)] = [times_of(taken)]


def count_same(found: list[Found], exact: list[Found]) -> int:
    """How many of *found* are among the *exact* ones, or as good as the last of them."""
    codes = {section.code for section in exact}
    least = exact[-1].rank * _ALMOST if exact else 0.0
    return sum(section.code in codes or section.rank >= least for section in found)


def deviation_of(found: list[Found], exact: list[Found]) -> float:
    """By which share a score falls short of the one in its place, at most; 1 where a section is missing."""
    shortfalls = [1 - own.rank / best.rank for own, best in zip(found, exact, strict=False) if best.rank > 0]
    return max(0.0, *shortfalls, float(len(found) < len(exact)))


# --- writing


async def _write(table: str, sections: list[Section], connection: asyncpg.Connection) -> None:
    if table == PLAIN:
        await store_plain(connection, sections)
    else:
        await insert_documents([as_document(section) for section in sections])


async def _measure_writes(run: _Run, connection: asyncpg.Connection) -> None:
    """New sections as ingestion stores them, beside COPY into the plain table; then queries, and a refresh."""
    for number in range(run.plan.rounds):
        run.progress(f"{run.sections:,} sections: writing, round {number + 1} of {run.plan.rounds}")
        sections = list(make_sections(range(run.plan.written), seed=number + 1))
        await execute(run.address, "VACUUM document_section", "VACUUM plain", "CHECKPOINT")
        rates = {}
        for table in Random(number).sample([DOCUMENT, PLAIN], 2):
            began = time.perf_counter()
            await _write(table, sections, connection)
            rates[table] = len(sections) / (time.perf_counter() - began)
        run.upkeep.writes.append(Writes(rates[DOCUMENT], rates[PLAIN]))
    await _measure(run, UNREFRESHED, OURS, make_queries(COMMON, run.plan.queries, 0))
    began = time.perf_counter()
    await db.refresh_search_index()
    run.upkeep.again_seconds = time.perf_counter() - began
    run.upkeep.again_sections = run.plan.rounds * run.plan.written
