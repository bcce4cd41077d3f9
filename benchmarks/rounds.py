"""The measuring itself: every work in rounds, in each of which every system has its turn, in a new order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Protocol

import asyncpg

from . import memory
from .address import Address
from .corpus import write_corpus
from .dataset import OF_DOCUMENTS, code_of, fill_documents, fill_turns, index_documents, make_tables, threads_for
from .items import TABLES, make_items
from .load import Measure
from .operations import POOL_SIZE
from .peers import OURS, PGBENCH, SYSTEMS
from .pgbench import find_pgbench
from .plan import Plan
from .results import Key, MemoryRound, Results
from .server import execute
from .systems import RunningSystem, SystemFailedError, run_systems
from .workloads import Facts, count_turns

Progress = Callable[[str], None]

# which measures a work of the plan consists of, and whether it is done at every number of callers
_MEASURES = {
    "reads": (("reads",), None),
    "recent": (("recent",), (1, 100)),
    "list": (("page-first", "page-far"), (1,)),
    "search": (("search-rare", "search-middling", "search-common"), (1,)),
    "chat": (("chat",), None),
}
_IN_BACKGROUND = {"ingest-new": "ingest-merge"}  # what a work leaves behind, done before anything else is measured
_SAMPLES = 20
_WARM_UP = 0.3  # of the seconds of a measure
_LEAST_SECONDS, _SLOWEST = 300.0, 200  # rows a second: making them takes a fiftieth of that


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


@dataclass(frozen=True)
class Run:
    """A run: what is to be done, where, and what is known so far."""

    plan: Plan
    server: Address
    workspace: Path
    results: Results
    progress: Progress


async def do_all(run: Run) -> None:
    """Do all that the plan says, and note it in the results."""
    if set(run.plan.works) & {*_MEASURES, "memory"}:
        address = await make_tables(run.server, "bench")
        facts = await _fill(run, address)
        if set(run.plan.works) & {*_MEASURES}:
            await _run_load(run, address, facts)
        if "memory" in run.plan.works:
            await _run_streaming(run, address)
            await _run_ingestion_memory(run)
    if "ingestion" in run.plan.works:
        await _drop_databases(run.server)  # autovacuum would go on in them
        await _run_ingestion(run)
    if "tables" in run.plan.works:
        await _run_tables(run)


@asynccontextmanager
async def _phase(run: Run, doing: str, rows: int) -> AsyncIterator[None]:
    """The block stores so many *rows*; raises `TimeoutError` where that takes so long that it can only hang."""
    run.progress(doing)
    seconds = _LEAST_SECONDS + rows / _SLOWEST
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise TimeoutError(str(exc) or f"not done after {seconds:.0f} s") from exc


async def _fill(run: Run, address: Address) -> Facts:
    """The tables that the plan needs."""
    facts = Facts()
    if set(run.plan.works) & {"reads", "list", "search", "memory"}:
        async with _phase(run, f"making {run.plan.documents:,} documents", run.plan.documents):
            ids = await fill_documents(address, run.plan.documents)
        if "search" in run.plan.works:
            async with _phase(run, f"making {run.plan.documents:,} documents searchable", run.plan.documents):
                await index_documents(address)
        facts = Facts(documents=run.plan.documents, pages=run.plan.pages)
        if facts.far_offset > 0:
            facts = replace(facts, far_id=str(ids[-facts.far_offset]))
    if set(run.plan.works) & {"recent", "chat"}:
        async with _phase(run, f"making {run.plan.turns:,} chat turns", run.plan.turns):
            await fill_turns(address, run.plan.turns)
        facts = replace(facts, threads=threads_for(run.plan.turns))
    await execute(address, "CHECKPOINT")
    return facts


# --- works under load


async def _run_load(run: Run, address: Address, facts: Facts) -> None:
    async with _start(run, run.plan.systems, address, facts) as systems:
        if facts.documents:
            await check_samples(run, systems, facts)
        for work in run.plan.works:
            measures, callers_of_work = _MEASURES.get(work, ((), ()))
            for number in range(run.plan.rounds if measures else 0):
                run.progress(f"{work}, round {number + 1} of {run.plan.rounds}")
                for measure in measures:
                    for callers in run.plan.callers if callers_of_work is None else callers_of_work:
                        await _run_round(run, systems, measure, callers, number)
        await check_counts(run, systems, address)


@asynccontextmanager
async def _start(run: Run, names: Sequence[str], address: Address, facts: Facts) -> AsyncIterator[list[Measured]]:
    """The systems that run; those that do not are noted as missing."""
    run.progress("starting the systems")
    async with AsyncExitStack() as stack:
        python = [name for name in names if name in SYSTEMS]
        running, missing = await stack.enter_async_context(run_systems(python, address, facts, run.workspace))
        run.results.missing |= missing
        systems: list[Measured] = [*running]
        if PGBENCH in names and facts.documents:
            try:
                systems.append(await stack.enter_async_context(find_pgbench(address, facts.documents, run.workspace)))
            except SystemFailedError as exc:
                run.results.missing[PGBENCH] = str(exc)
        try:
            yield systems
        finally:
            run.results.lost |= {system.name: system.lost for system in running if system.lost}


async def _run_round(run: Run, systems: Sequence[Measured], work: str, callers: int, number: int) -> None:
    """One measure of every system that offers the work, in the order that this round has drawn."""
    able = [system for system in systems if work in system.works]
    Random(f"{work} {callers} {number}").shuffle(able)
    for system in able:
        await _measure(run, system, work, callers, number)
        if (rest := _IN_BACKGROUND.get(work)) in system.works:
            await _measure(run, system, str(rest), callers, number)


async def _measure(run: Run, system: Measured, work: str, callers: int, number: int) -> None:
    key = Key(work, callers, system.name)
    if key in run.results.failures:
        return
    # at first more of them, so that every connection is open and has its statement prepared
    first = number == 0 and work in ("reads", "chat")
    warm_up_callers = POOL_SIZE * 5 if first else min(callers, POOL_SIZE)
    try:
        measure = await system.measure(
            work, callers, run.plan.seconds, warm_up=run.plan.seconds * _WARM_UP, warm_up_callers=warm_up_callers
        )
    except SystemFailedError as exc:
        run.results.failures[key] = str(exc)
    else:
        run.results.add(key, number, measure)


async def check_samples(run: Run, systems: Sequence[Measured], facts: Facts) -> None:
    """Every system must read the same documents, in all columns, as this package does."""
    codes = [code_of(number) for number in range(0, facts.documents, max(1, facts.documents // _SAMPLES))]
    samples = {}
    for reader in _in_python(systems, "reads"):
        try:
            samples[reader.name] = (await reader.ask(sample=codes))["rows"]
        except SystemFailedError as exc:
            _fail(run, "reads", reader.name, str(exc))
    for name, rows in samples.items():
        if rows != samples.get(OURS.name, rows):
            _fail(run, "reads", name, "it reads other documents than this package does")


async def check_counts(run: Run, systems: Sequence[Measured], address: Address) -> None:
    """What was acknowledged is in the table, and nothing else."""
    connection = await asyncpg.connect(address.uri)
    try:
        for writer in _in_python(systems, "chat"):
            if any(key.system == writer.name for key in run.results.failures):
                continue  # calls that were cancelled then may be stored or not
            try:
                acknowledged = (await writer.ask(work="acknowledged"))["acknowledged"] * writer.turns_per_save
            except SystemFailedError as exc:
                _fail(run, "chat", writer.name, str(exc))
                continue
            stored = await count_turns(connection, writer.chat_table, writer.user_id)
            if stored != acknowledged:
                _fail(run, "chat", writer.name, f"{acknowledged} rows were acknowledged, {stored} are stored")
    finally:
        await connection.close()


def _in_python(systems: Sequence[Measured], work: str) -> list[RunningSystem]:
    return [system for system in systems if isinstance(system, RunningSystem) and work in system.works]


def _fail(run: Run, work: str, system: str, reason: str) -> None:
    """A work that a system did wrong has failed at every number of callers."""
    run.results.failures |= {Key(work, callers, system): reason for callers in run.plan.callers}


# --- ingestion


async def _drop_databases(server: Address) -> None:
    await execute(server, *(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in ("bench", "small", "memory")))


async def _run_ingestion(run: Run) -> None:
    address = await make_tables(run.server, "ingestion")
    folder = run.plan.corpus or _corpus(run, run.plan.files)
    facts = Facts(folder=str(folder))
    names = [name for name in run.plan.systems if name in (OURS.name, "asyncpg")]
    async with _start(run, names, address, facts) as systems:
        for number in range(run.plan.rounds):
            run.progress(f"ingestion, round {number + 1} of {run.plan.rounds}")
            await execute(address, f"TRUNCATE {OF_DOCUMENTS}, copied", "CHECKPOINT")
            await _run_round(run, systems, "ingest-new", 1, number)
            await execute(address, f"VACUUM ANALYZE {OF_DOCUMENTS}, copied", "CHECKPOINT")
            await _run_round(run, systems, "ingest-again", 1, number)


def _corpus(run: Run, files: int) -> Path:
    """A folder of made-up Markdown files."""
    folder = run.workspace / f"corpus-{files}"
    if not folder.exists():
        run.progress(f"writing {files:,} Markdown files")
        write_corpus(folder, files)
    return folder


# --- any table


async def _run_tables(run: Run) -> None:
    address = await make_items(run.server)
    names = [name for name in run.plan.systems if name in TABLES]
    tables = [TABLES[name] for name in names]
    vacuum = [f"VACUUM ANALYZE {table}" for table in tables]
    async with _start(run, names, address, Facts(items=run.plan.items)) as systems:
        for number in range(run.plan.rounds):
            run.progress(f"tables, round {number + 1} of {run.plan.rounds}")
            for work in ("many-insert", "many-upsert-new"):
                await execute(address, f"TRUNCATE {', '.join(tables)}", "CHECKPOINT")
                await _run_round(run, systems, work, 1, number)
            await execute(address, *vacuum, "CHECKPOINT")
            await _run_round(run, systems, "many-upsert-again", 1, number)
            await execute(address, *vacuum, "CHECKPOINT")
            for work in ("get", "update", "insert"):
                await _run_round(run, systems, f"held-{work}", 1, number)
                await _run_round(run, systems, f"item-{work}", 100, number)


# --- memory


async def _run_streaming(run: Run, large: Address) -> None:
    small = await make_tables(run.server, "small")
    number = run.plan.documents // 10
    async with _phase(run, f"making {number:,} documents", number):
        await fill_documents(small, number)
    await _measure_memory(
        run,
        memory.ITERATE,
        lambda: memory.measure_peak(memory.ITERATE, small, number, run.workspace),
        lambda: memory.measure_peak(memory.ITERATE, large, run.plan.documents, run.workspace),
    )


async def _run_ingestion_memory(run: Run) -> None:
    address = await make_tables(run.server, "memory")

    async def ingest(files: int) -> int:
        folder = await asyncio.to_thread(_corpus, run, files)
        await execute(address, f"TRUNCATE {OF_DOCUMENTS}")
        return await memory.measure_peak(memory.INGEST, address, files, run.workspace, folder)

    await _measure_memory(
        run,
        memory.INGEST,
        lambda: ingest(run.plan.memory_files),
        lambda: ingest(run.plan.memory_files * 10),
    )


async def _measure_memory(
    run: Run, work: str, small: Callable[[], Awaitable[int]], large: Callable[[], Awaitable[int]]
) -> None:
    for number in range(run.plan.memory_rounds):
        run.progress(f"memory, {work}, round {number + 1} of {run.plan.memory_rounds}")
        try:
            measured = MemoryRound(await small(), await large())
        except SystemFailedError as exc:
            run.results.failures[Key(f"memory-{work}", 1, OURS.name)] = str(exc)
            return
        run.results.memory.setdefault(f"memory-{work}", []).append(measured)
