"""How a run ends before its time: by a signal, or by a failure. What has been started is ended first in either case."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

import database as db

from .systems import SystemFailedError

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, db.DatabaseError, SystemFailedError)


class RunFailedError(RuntimeError):
    """A run could not go on; the text says what was being done, what happened, and the way out."""


def run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    """
    The result of *work*; Ctrl-C, SIGTERM and SIGHUP cancel it, and `asyncio.CancelledError` is raised at its end.

    Only the first signal does: the others would disturb the cleaning up. A signal that was ignored before (nohup, a job
    in the background) still is.
    """
    signalled = False

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            nonlocal signalled
            if not signalled:
                signalled = True
                task.cancel()

        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, cancel)
        return await work

    try:
        return asyncio.run(run())
    except Exception as exc:
        if signalled:  # of a terminal that is gone, for instance
            raise asyncio.CancelledError from exc
        raise


@contextmanager
def explain_failures(progress: Callable[[str], None], workspace: Path) -> Iterator[Callable[[str], None]]:
    """*progress* for the block, whose failures become a `RunFailedError`."""
    doing = ""

    def show(what: str) -> None:
        nonlocal doing
        doing = what
        progress(what)

    try:
        yield show
    except _FAILURES as exc:
        reason = f"{type(exc).__name__}: {exc}".splitlines()[0][:300]
        free = shutil.disk_usage(workspace).free / 2**20
        raise RunFailedError(
            f"stopped while {doing}: {reason}{_last_words(workspace / 'server' / 'server.log')}. "
            f"{free:,.0f} MB are free in {workspace.parent}: --directory PATH takes another disk"
        ) from exc


def _last_words(log: Path) -> str:
    """What the server said when it gave up; nothing where it did not."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    panic = [line.partition("PANIC:")[2].strip() for line in lines if "PANIC:" in line]
    return f" (the server: {panic[-1][:200]})" if panic else ""
