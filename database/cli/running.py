"""From a command to its exit code: the event loop, the database, log lines, errors in one line."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated

import typer

from .. import embedded
from ..connect_db import close_connection_pool
from ..exceptions import DatabaseError
from ..settings import configure, get_settings
from .terminal import Terminal, log_to

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print more log lines, and a traceback with an error.")]

_UNDEFINED_TABLE = "42P01"


def run_command(
    work: Callable[[Terminal], Awaitable[int]], as_json: bool, debug: bool, level: int = logging.INFO
) -> None:
    """Do the *work* of a command and exit with its code; errors become one line."""
    terminal = Terminal(as_json=as_json)
    log_to(terminal, logging.DEBUG if debug else level)
    try:
        code = asyncio.run(_with_database(work, terminal))
    except KeyboardInterrupt:
        terminal.complain(DatabaseError("interrupted"))
        code = 130
    except asyncio.CancelledError:
        terminal.complain(DatabaseError("terminated"))
        code = 128 + signal.SIGTERM
    except (DatabaseError, OSError) as exc:
        if debug:
            terminal.talk_lines(traceback.format_exc())
        if isinstance(exc, OSError):
            _abandon_stdout()
        if not isinstance(exc, BrokenPipeError):
            terminal.complain(exc)
            if isinstance(exc, DatabaseError) and exc.sqlstate == _UNDEFINED_TABLE:
                terminal.hint("python -m database init makes the tables")
        code = 1
    raise typer.Exit(code)


async def _with_database(work: Callable[[Terminal], Awaitable[int]], terminal: Terminal) -> int:
    _end_as_if_interrupted()
    with suppress(DatabaseError):  # wrong settings are told by whoever needs them
        configure(get_settings().model_copy(update={"min_connections": 0}))
    try:
        return await work(terminal)
    finally:
        await close_connection_pool(timeout=2)
        with suppress(DatabaseError):
            await embedded.stop()


def _end_as_if_interrupted() -> None:
    """Leave nothing behind either where others ask us to end: no file, no server, no other program."""
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if task is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            with suppress(RuntimeError, ValueError):  # not the main thread
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _abandon_stdout() -> None:
    """Nobody reads stdout, or it cannot be written: what is still buffered must not fail again at the end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
