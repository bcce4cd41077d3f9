"""
What the query log costs: `python -m benchmarks.query_log [ROUNDS]`.

Reads of single documents by their codes, one after the other and by 100 callers at once, with the log off, on, and with
a logger of asyncpg's own that counts in its place. Each is a process of its own; they take turns, so short that what
else the machine does weighs on neighbours alike, in a new order each round. Told are the medians of the reads, of the
processor time that the client took for one, and of the ratios to the log being off in the same round.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import database as db
from database import embedded
from database.settings import Settings, configure

_DOCUMENTS = 1_000
_SECONDS = 0.05
_VARIANTS = ("off", "on", "asyncpg")
_CALLERS = (1, 100)


class Turn(NamedTuple):
    """What one turn came to: reads a second, and seconds of processor time for one."""

    rate: float
    processor: float


class Counting:
    """A query logger of asyncpg's that counts, and does nothing else."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def __call__(self, query: Any) -> None:
        """Note how long it took."""
        times = self.times.setdefault(query.query, [0, 0.0])
        times[0] += 1
        times[1] += query.elapsed


async def read(callers: int, seconds: float) -> Turn:
    """Read for so long, by so many callers at once."""
    done = 0
    began, processor = time.perf_counter(), time.process_time()

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < began + seconds:
            await db.get_document_by_code(f"document/{random.randrange(_DOCUMENTS)}")
            done += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return Turn(done / (time.perf_counter() - began), (time.process_time() - processor) / done)


async def work(url: str, variant: str) -> None:
    """What the process of a variant does: a turn for each line that it is told, which says how many callers."""
    log: Literal["on", "off"] = "on" if variant == "on" else "off"
    configure(Settings(database_url=url, min_connections=4, max_connections=4, query_log=log))
    pool = await db.get_connection_pool()
    if variant == "asyncpg":
        counting = Counting()
        connections = [await pool.borrow(asyncio.get_running_loop().time() + 10) for _ in range(4)]
        for connection in connections:
            connection.add_query_logger(counting)
            pool.give_back(connection)
    for callers in _CALLERS:
        await read(callers, 0.5)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await read(int(line), _SECONDS)), flush=True)
    await db.close_connection_pool()


def take_turns(url: str, rounds: int) -> dict[tuple[int, str], list[Turn]]:
    """The turns, by callers and variant."""
    turns: dict[tuple[int, str], list[Turn]] = {(callers, name): [] for callers in _CALLERS for name in _VARIANTS}
    with ExitStack() as stack:
        workers = {}
        for name in _VARIANTS:
            command = [sys.executable, "-m", "benchmarks.query_log", "--work", url, name]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            workers[name] = stack.enter_context(worker)
            assert worker.stdout is not None
            worker.stdout.readline()
        for _ in range(rounds):
            for callers in _CALLERS:
                for name in random.sample(_VARIANTS, len(_VARIANTS)):
                    worker = workers[name]
                    assert worker.stdin is not None
                    assert worker.stdout is not None
                    worker.stdin.write(f"{callers}\n")
                    worker.stdin.flush()
                    turns[callers, name].append(Turn(*json.loads(worker.stdout.readline())))
    return turns


async def main(rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "server"
        url = await embedded.start(directory)
        try:
            configure(Settings(database_url=url))
            await db.init_document_table()
            documents = [(f"document/{number}", "x" * 1_000) for number in range(_DOCUMENTS)]
            await asyncio.gather(*(db.insert_document(code, code, text) for code, text in documents))
            await db.close_connection_pool()
            turns = await asyncio.to_thread(take_turns, url, rounds)
        finally:
            await embedded.stop(directory)
    for (callers, name), own in turns.items():
        rate = statistics.median(turn.rate for turn in own)
        processor = statistics.median(turn.processor for turn in own)
        ratio = statistics.median(
            turn.rate / beside.rate for turn, beside in zip(own, turns[callers, "off"], strict=True)
        )
        print(
            f"{callers:>3} caller{'s' if callers > 1 else ' '}  {name:<8}{rate:>9,.0f} reads/s"
            f"{processor * 1e6:>8.1f} µs of processor time  ratio {ratio:.3f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(work(*sys.argv[2:]))
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
