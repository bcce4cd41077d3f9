"""
How long it takes until work can begin: `python -m benchmarks.startup [ROUNDS]`.

The import, each time in a new interpreter, against the import of what it stands on; the embedded server, started for
the first time in an empty directory, started again on the data that is there, and joined while it runs. Medians.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from database import embedded

_IMPORT = "import time{}; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
_JOIN = """
import asyncio, pathlib, sys, time
from database import embedded
directory = pathlib.Path(sys.argv[1])
began = time.perf_counter()
asyncio.run(embedded.start(directory))
print(time.perf_counter() - began)
"""


def seconds_of(program: str, *arguments: str) -> float:
    """What *program* prints, as seconds."""
    return float(subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=True).stdout)


async def start_and_stop(directory: Path) -> float:
    """Seconds that the start took."""
    began = time.perf_counter()
    await embedded.start(directory)
    took = time.perf_counter() - began
    await embedded.stop(directory)
    return took


async def measure(rounds: int) -> dict[str, float]:
    """The medians of *rounds* rounds, each in a new directory."""
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary) / "server"
            below = "asyncpg, pydantic_settings"
            taken.setdefault(f"import {below}", []).append(seconds_of(_IMPORT.format("", below)))
            on_top = seconds_of(_IMPORT.format(f", {below}", "database"))
            taken.setdefault("import database, on top of that", []).append(on_top)
            taken.setdefault("embedded server, first start (initdb)", []).append(await start_and_stop(directory))
            taken.setdefault("embedded server, later start", []).append(await start_and_stop(directory))
            await embedded.start(directory)
            taken.setdefault("embedded server, joined by a process", []).append(seconds_of(_JOIN, str(directory)))
            await embedded.stop(directory)
    return {what: statistics.median(times) for what, times in taken.items()}


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"medians of {rounds} rounds")
    for what, median in asyncio.run(measure(rounds)).items():
        print(f"{what:40} {median * 1000:7.0f} ms")


if __name__ == "__main__":
    main()
