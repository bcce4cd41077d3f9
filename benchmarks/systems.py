"""The systems as the benchmark sees them: a process each, asked one at a time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import peers
from .address import Address
from .cancellation import finish
from .load import Measure
from .workloads import Facts

_ROOT = Path(__file__).parent.parent
_ANSWER_SECONDS = 300.0
_END_SECONDS = 10.0
_SETTINGS = ("DATABASE_URL", "POSTGRES_", "PG", "DB_")


class SystemFailedError(RuntimeError):
    """A system did not start, gave a wrong answer or none."""


@dataclass
class RunningSystem:
    """A connected system, in its process."""

    name: str
    user_id: int  # marks what it writes
    process: asyncio.subprocess.Process
    works: list[str] = field(default_factory=list)
    chat_table: str = ""
    turns_per_save: int = 1
    patience: float = _ANSWER_SECONDS
    lost: str = ""  # why its process was ended, or has ended

    def hang_up(self) -> None:
        """Let its process end."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    async def measure(
        self, work: str, callers: int = 1, seconds: float = 0.0, *, warm_up: float = 0.0, warm_up_callers: int = 1
    ) -> Measure:
        """Do *work* for so many *seconds*; raises `SystemFailedError` where an answer is wrong or missing."""
        answer = await self.ask(
            work=work, callers=callers, seconds=seconds, warm_up=warm_up, warm_up_callers=warm_up_callers
        )
        return Measure(answer["operations"], answer["seconds"])

    async def ask(self, **question: Any) -> dict[str, Any]:
        """
        The answer to *question*; raises `SystemFailedError` where it is an error, or does not come in time.

        A process that did not answer in time is ended: its answer would be taken for that to the next question.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.lost:
            raise SystemFailedError(self.lost)
        line = b""
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            await self.process.stdin.drain()
            line = await asyncio.wait_for(self.process.stdout.readline(), self.patience)
        except TimeoutError as exc:
            raise await self._lose(f"no answer for {self.patience:g} s") from exc
        except OSError:
            pass  # it has ended
        if not line.endswith(b"\n"):
            raise await self._lose("")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SystemFailedError(answer["error"])
        return answer

    async def _lose(self, reason: str) -> SystemFailedError:
        """The process is ended, if it has not yet; the error that says so."""
        self.hang_up()
        self.works = []
        if reason:
            self.process.kill()
        await finish(_end(self.process))
        self.lost = reason or f"its process ended with exit code {self.process.returncode}"
        return SystemFailedError(self.lost)


@asynccontextmanager
async def run_systems(
    names: Sequence[str], address: Address, facts: Facts, workspace: Path
) -> AsyncIterator[tuple[list[RunningSystem], dict[str, str]]]:
    """The systems that run, connected to *address*, and for the others, by name, why they do not."""
    async with AsyncExitStack() as stack:
        systems = [await stack.enter_async_context(_start_process(name, workspace)) for name in names]
        reasons = await asyncio.gather(*(_connect(system, address, facts) for system in systems))
        missing = {system.name: reason for system, reason in zip(systems, reasons, strict=True) if reason}
        try:
            yield [system for system in systems if system.name not in missing], missing
        finally:
            for system in systems:  # all at once; the stack then waits for one after the other
                system.hang_up()


async def _connect(system: RunningSystem, address: Address, facts: Facts) -> str:
    """Why *system* does not run; nothing where it is connected."""
    try:
        answer = await system.ask(system=system.name, address=address, facts=asdict(facts), user_id=system.user_id)
    except SystemFailedError as exc:
        return str(exc)
    system.works = answer["works"]
    system.chat_table = answer["chat_table"]
    system.turns_per_save = answer["turns_per_save"]
    return ""


@asynccontextmanager
async def _start_process(name: str, workspace: Path) -> AsyncIterator[RunningSystem]:
    with (workspace / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.client"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=2**24,
            cwd=workspace,  # no .env there
            env=clean_environment(),
        )
    system = RunningSystem(name, 1_000_000 + list(peers.SYSTEMS).index(name), process)
    try:
        yield system
    finally:
        system.hang_up()
        await finish(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), _END_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def clean_environment() -> dict[str, str]:
    """The environment without settings of this package or of libpq: every system starts from its defaults."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return environment | {"PYTHONPATH": str(_ROOT)}


async def run_program(*command: str, workspace: Path, seconds: float = _ANSWER_SECONDS) -> tuple[int, str, str]:
    """Exit code, output and errors of *command*; raises `SystemFailedError` where it takes longer than *seconds*."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=workspace,
        env=clean_environment(),
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError as exc:
        raise SystemFailedError(f"{Path(command[0]).name} has not ended after {seconds:.0f} s") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await finish(process.wait())
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()
