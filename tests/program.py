"""The program as a shell runs it: a process, its two streams, its exit code; also in a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from database.settings import Settings

PROGRAM = [sys.executable, "-W", "error", "-m", "database"]


class Result:
    """What a run left; `json` is its stdout."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def environment(settings: Settings | None = None, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what changes how a program prints, and with the server of *settings*."""
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    if settings is not None:
        kept["DATABASE_URL"] = settings.dsn
    return kept | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | dict(variables or {})


def run(*arguments: object, settings: Settings | None = None, variables: Mapping[str, str] | None = None) -> Result:
    """`python -m database *arguments*` with pipes for its streams."""
    finished = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=environment(settings, variables), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return Result(finished.returncode, finished.stdout.decode(), finished.stderr.decode())


def start(
    *arguments: object, settings: Settings | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The same, still running."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=environment(settings, variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run_in_terminal(
    *arguments: object, settings: Settings | None = None, variables: Mapping[str, str] | None = None
) -> Result:
    """The same in a terminal of 80 columns: stdout and stderr are one stream there."""
    ours, theirs = pty.openpty()
    variables = {"COLUMNS": "80", "LINES": "50"} | dict(variables or {})
    with subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=environment(settings, variables), stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:  # what Linux says when the last one has closed the other side
            pass
        code = process.wait(60)
    os.close(ours)
    return Result(code, b"".join(chunks).decode().replace("\r\n", "\n"), "")


def write_files(directory: Path, files: dict[str, str | bytes]) -> Path:
    """Files by their path below *directory*, which is returned."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory
