"""pgbench, PostgreSQL's own load generator in C: what the server gives when the client costs next to nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from database import DatabaseNotAvailableError
from database.embedded.binaries import find_binaries

from .address import Address
from .environment import count_cores
from .load import Measure
from .operations import COLUMNS, POOL_SIZE
from .peers import PGBENCH
from .systems import SystemFailedError, run_program

# Without the check that the others do: it throws the rows away.
_SCRIPT = f"""
\\set number random(0, {{last}})
SELECT {", ".join(COLUMNS)} FROM document WHERE code = 'document/' || CAST(:number AS text);
"""
_SHORTEST = 0.3  # seconds; it connects anew for each run, and the first statements of a connection are slow
_PROBE = 50  # transactions a client


class Pgbench:
    """Runs `pgbench -M prepared -n` with as many clients as there are callers, but no more than a pool holds."""

    name = PGBENCH
    works = ("reads",)

    def __init__(self, program: Path, script: Path, address: Address) -> None:
        self._command = [str(program), "-M", "prepared", "-n", "-f", str(script)]
        self._workspace = script.parent
        self._address = address
        self._rates: dict[int, float] = {}  # transactions per second in the last run, by the number of clients

    async def measure(
        self, work: str, callers: int = 1, seconds: float = 0.0, *, warm_up: float = 0.0, warm_up_callers: int = 1
    ) -> Measure:
        """As `RunningSystem.measure`, for as long as the last rate says; the time does not include the connecting."""
        clients = min(callers, POOL_SIZE)
        if clients not in self._rates:
            await self._run(clients, _PROBE)
            await self._run(clients, self._transactions(clients, _SHORTEST))  # the first probe was cold
        return await self._run(clients, self._transactions(clients, max(seconds, _SHORTEST)))

    def _transactions(self, clients: int, seconds: float) -> int:
        return int(self._rates[clients] * seconds / clients) + 1

    async def _run(self, clients: int, transactions: int) -> Measure:
        threads = min(clients, count_cores())
        address = self._address
        code, output, errors = await run_program(
            *self._command,
            *("-c", str(clients), "-j", str(threads), "-t", str(transactions)),
            *("-h", address.host, "-p", str(address.port), "-U", address.user, address.database),
            workspace=self._workspace,
        )
        done = re.search(r"actually processed: (\d+)", output)
        rate = re.search(r"tps = ([\d.]+) \(without initial connection time\)", output)
        if code or not done or not rate:
            raise SystemFailedError(f"exit code {code}: {errors.strip()[:200]}")
        self._rates[clients] = float(rate[1])
        return Measure(int(done[1]), int(done[1]) / float(rate[1]))


@asynccontextmanager
async def find_pgbench(address: Address, documents: int, workspace: Path) -> AsyncIterator[Pgbench]:
    """The pgbench of the server's own binaries, else of the system; raises `SystemFailedError` where there is none."""
    try:
        beside_server = find_binaries().directory / "pgbench"
    except DatabaseNotAvailableError as exc:
        raise SystemFailedError(str(exc)) from exc
    program = str(beside_server) if beside_server.is_file() else shutil.which("pgbench")
    if program is None:
        raise SystemFailedError("it is not on this system")
    script = workspace / "read.pgbench"
    script.write_text(_SCRIPT.format(last=documents - 1))
    yield Pgbench(Path(program), script, address)
