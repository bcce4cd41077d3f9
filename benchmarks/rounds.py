"""The measuring itself: every work in rounds, in each of which every system has its turn, in a new order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Protocol

import asyncpg

from . import memory
from .address import Address
from .corpus import write_corpus
from .dataset import code_of, fill_documents, fill_turns, make_tables, threads_for
from .load import Measure
from .operations import POOL_SIZE
from .peers import OURS, PGBENCH, SYSTEMS
from .pgbench import find_pgbench
from .plan import Plan
from .results import Key, MemoryRound, Results
from .server import execute
from .systems import RunningSystem, SystemFailedError, run_systems
from .workloads import PAGE_SIZE, Facts, count_turns

Progress = Callable[[str], None]

# which measures a work of the plan consists of, and whether it is done at every number of callers
_MEASURES = {
    "reads": (("reads",), None),
    "recent": (("recent",), (1, 100)),
    "list": (("page-first", "page-far"), (1,)),
    "search": (("search-rare", "search-middling", "search-common"), (1,)),
    "chat": (("chat",), None),
}
_SAMPLES = 20
_WARM_UP = 0.3  # of the seconds of a measure


class Measured(Protocol):
    """A system in a process of its own, or pgbench."""

    @property
    def name(self) -> str:
        """As in the table."""

    @property
    def works(self) -> Sequence[str]:
        """What it can be asked to do."""

    async def measure(
        self, work: str, callers: int = 1, seconds: float = 0.0, *, warm_up: float = 0.0, warm_up_callers: int = 1
    ) -> Measure:
        """Do *work*."""


async def run_plan(plan: Plan, server: Address, workspace: Path, results: Results, progress: Progress) -> None:
    """Do all that the *plan* says, and note it in *results*."""
    if set(plan.works) & {*_MEASURES, "memory"}:
        address = await make_tables(server, "bench")
        facts = await _fill(plan, address, progress)
        if set(plan.works) & {*_MEASURES}:
            await _run_load(plan, address, facts, workspace, results, progress)
        if "memory" in plan.works:
            await _run_streaming(plan, server, address, workspace, results, progress)
            await _run_ingestion_memory(plan, server, workspace, results, progress)
    if "ingestion" in plan.works:
        await _run_ingestion(plan, server, workspace, results, progress)


async def _fill(plan: Plan, address: Address, progress: Progress) -> Facts:
    """The tables that the plan needs."""
    facts = Facts()
    if set(plan.works) & {"reads", "list", "search", "memory"}:
        progress(f"making {plan.documents:,} documents")
        ids = await fill_documents(address, plan.documents)
        far_id = str(ids[PAGE_SIZE]) if plan.pages > 1 else ""
        facts = Facts(documents=plan.documents, pages=plan.pages, far_id=far_id)
    if set(plan.works) & {"recent", "chat"}:
        progress(f"making {plan.turns:,} chat turns")
        await fill_turns(address, plan.turns)
        facts = Facts(facts.documents, threads_for(plan.turns), facts.pages, facts.far_id)
    await execute(address, "CHECKPOINT")
    return facts


# --- works under load


async def _run_load(
    plan: Plan, address: Address, facts: Facts, workspace: Path, results: Results, progress: Progress
) -> None:
    async with _start(plan, plan.systems, address, facts, workspace, results, progress) as systems:
        await _check_samples(systems, facts, results)
        for work in plan.works:
            measures, callers_of_work = _MEASURES.get(work, ((), ()))
            for number in range(plan.rounds if measures else 0):
                progress(f"{work}, round {number + 1} of {plan.rounds}")
                for measure in measures:
                    for callers in plan.callers if callers_of_work is None else callers_of_work:
                        await _run_round(plan, systems, measure, callers, number, results)
        await _check_counts([each for each in systems if isinstance(each, RunningSystem)], address, results)


@asynccontextmanager
async def _start(
    plan: Plan,
    names: Sequence[str],
    address: Address,
    facts: Facts,
    workspace: Path,
    results: Results,
    progress: Progress,
) -> AsyncIterator[list[Measured]]:
    """The systems that run; those that do not are noted as missing."""
    progress("starting the systems")
    async with AsyncExitStack() as stack:
        python = [name for name in names if name in SYSTEMS]
        running, missing = await stack.enter_async_context(run_systems(python, address, facts, workspace))
        results.missing |= missing
        systems: list[Measured] = [*running]
        if PGBENCH in names and facts.documents:
            try:
                systems.append(await stack.enter_async_context(find_pgbench(address, facts.documents, workspace)))
            except SystemFailedError as exc:
                results.missing[PGBENCH] = str(exc)
        yield systems


async def _run_round(
    plan: Plan, systems: Sequence[Measured], work: str, callers: int, number: int, results: Results
) -> None:
    """One measure of every system that offers the work, in the order that this round has drawn."""
    able = [system for system in systems if work in system.works]
    Random(f"{work} {callers} {number}").shuffle(able)
    for system in able:
        key = Key(work, callers, system.name)
        if key in results.failures:
            continue
        # at first more of them, so that every connection is open and has its statement prepared
        first = number == 0 and work in ("reads", "chat")
        warm_up_callers = POOL_SIZE * 5 if first else min(callers, POOL_SIZE)
        try:
            measure = await system.measure(
                work, callers, plan.seconds, warm_up=plan.seconds * _WARM_UP, warm_up_callers=warm_up_callers
            )
        except SystemFailedError as exc:
            results.failures[key] = str(exc)
        else:
            results.add(key, number, measure)


async def _check_samples(systems: Sequence[Measured], facts: Facts, results: Results) -> None:
    """Every system must read the same documents, in all columns, as this package does."""
    codes = [code_of(number) for number in range(0, facts.documents, max(1, facts.documents // _SAMPLES))]
    readers = [each for each in systems if isinstance(each, RunningSystem) and "reads" in each.works]
    samples = {reader.name: (await reader.ask(sample=codes))["rows"] for reader in readers}
    for name, rows in samples.items():
        if rows != samples.get(OURS.name, rows):
            results.failures |= dict.fromkeys([Key("reads", callers, name) for callers in (1, 10, 100, 1000)], "wrong")


async def _check_counts(systems: Sequence[RunningSystem], address: Address, results: Results) -> None:
    """What was acknowledged is in the table, and nothing else."""
    connection = await asyncpg.connect(address.uri)
    try:
        for system in systems:
            if "chat" not in system.works:
                continue
            acknowledged = (await system.ask(work="acknowledged"))["acknowledged"] * system.turns_per_save
            stored = await count_turns(connection, system.chat_table, system.user_id)
            if stored != acknowledged and not any(key.system == system.name for key in results.failures):
                reason = f"{acknowledged} rows were acknowledged, {stored} are stored"
                results.failures |= {
                    key: reason for key in results.rounds if key.work == "chat" and key.system == system.name
                }
    finally:
        await connection.close()


# --- ingestion


async def _run_ingestion(plan: Plan, server: Address, workspace: Path, results: Results, progress: Progress) -> None:
    address = await make_tables(server, "ingestion")
    folder = plan.corpus or _corpus(workspace, plan.files, progress)
    facts = Facts(folder=str(folder))
    names = [name for name in plan.systems if name in (OURS.name, "asyncpg")]
    async with _start(plan, names, address, facts, workspace, results, progress) as systems:
        for number in range(plan.rounds):
            progress(f"ingestion, round {number + 1} of {plan.rounds}")
            await execute(address, "TRUNCATE document, copied", "CHECKPOINT")
            await _run_round(plan, systems, "ingest-new", 1, number, results)
            await execute(address, "VACUUM ANALYZE document", "VACUUM ANALYZE copied", "CHECKPOINT")
            await _run_round(plan, systems, "ingest-again", 1, number, results)


def _corpus(workspace: Path, files: int, progress: Progress) -> Path:
    """A folder of made-up Markdown files."""
    folder = workspace / f"corpus-{files}"
    if not folder.exists():
        progress(f"writing {files:,} Markdown files")
        write_corpus(folder, files)
    return folder


# --- memory


async def _run_streaming(
    plan: Plan, server: Address, large: Address, workspace: Path, results: Results, progress: Progress
) -> None:
    small = await make_tables(server, "small")
    await fill_documents(small, plan.documents // 10)
    await _measure_memory(
        plan,
        memory.ITERATE,
        lambda: memory.measure_peak(memory.ITERATE, small, plan.documents // 10, workspace),
        lambda: memory.measure_peak(memory.ITERATE, large, plan.documents, workspace),
        results,
        progress,
    )


async def _run_ingestion_memory(
    plan: Plan, server: Address, workspace: Path, results: Results, progress: Progress
) -> None:
    address = await make_tables(server, "memory")

    async def ingest(files: int) -> int:
        folder = await asyncio.to_thread(_corpus, workspace, files, progress)
        await execute(address, "TRUNCATE document")
        return await memory.measure_peak(memory.INGEST, address, files, workspace, folder)

    await _measure_memory(
        plan,
        memory.INGEST,
        lambda: ingest(plan.memory_files),
        lambda: ingest(plan.memory_files * 10),
        results,
        progress,
    )


async def _measure_memory(
    plan: Plan,
    work: str,
    small: Callable[[], Awaitable[int]],
    large: Callable[[], Awaitable[int]],
    results: Results,
    progress: Progress,
) -> None:
    for number in range(plan.memory_rounds):
        progress(f"memory, {work}, round {number + 1} of {plan.memory_rounds}")
        try:
            measured = MemoryRound(await small(), await large())
        except SystemFailedError as exc:
            results.failures[Key(f"memory-{work}", 1, OURS.name)] = str(exc)
            return
        results.memory.setdefault(f"memory-{work}", []).append(measured)
