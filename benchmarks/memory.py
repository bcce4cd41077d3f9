"""
Peak memory of a process of its own that streams all documents, or ingests a folder: as the input grows tenfold.

`python -m benchmarks.memory` is that process; `measure_peak` starts it.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sys
from pathlib import Path

import database as db

from .address import Address
from .systems import SystemFailedError, run_program

ITERATE, INGEST = "iterate", "ingest"
_LEAST_SECONDS, _SLOWEST = 300.0, 50  # rows or files a second: what takes longer hangs
_HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


async def measure_peak(work: str, address: Address, expected: int, workspace: Path, folder: Path | None = None) -> int:
    """The greatest resident set of the process in bytes, the interpreter and its modules included."""
    code, output, errors = await run_program(
        *(sys.executable, "-m", "benchmarks.memory", work, address.uri, str(folder or "")),
        workspace=workspace,
        seconds=_LEAST_SECONDS + expected / _SLOWEST,
    )
    if code:
        raise SystemFailedError((errors.strip().splitlines() or ["no message"])[-1])
    number, peak = map(int, output.split())
    if number != expected:
        raise SystemFailedError(f"{work}: {number} instead of {expected}")
    return peak


async def _iterate() -> int:
    return sum([1 async for _ in db.iter_documents()])


async def _ingest(folder: str) -> int:
    return int((await db.ingest_directory(folder, "corpus"))["inserted"])


def _peak() -> int:
    """
    The peak of this process in bytes.

    Linux keeps it in /proc. `ru_maxrss` will not do there: it is never less than what the parent had at the start,
    because it outlives the exec (getrusage(2)).
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := _HIGH_WATER.search(status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def _main(work: str, uri: str, folder: str) -> None:
    db.configure(db.Settings(database_url=uri))
    async with db.database_lifespan():
        number = await (_iterate() if work == ITERATE else _ingest(folder))
    print(number, _peak())


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
