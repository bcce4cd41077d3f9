"""
A private PostgreSQL, for when no server is configured: `await start()`, and it runs.

All processes of a project share one server. It stops when the last of them has left, be it by `stop()`, by its end or
by SIGKILL: a watcher process sleeps until then (see postmaster.py). Every function may be called from any thread and
any event loop; the work is done in threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..exceptions import DatabaseNotAvailableError
from .account import Account, choose_account, launch
from .directory import find_directory, make_directory, make_uri
from .postmaster import (
    close_lock,
    find_postmaster,
    is_kept,
    is_lock_of,
    lock,
    open_lock,
    set_kept,
    stop_postmaster,
    stop_unless_used,
    try_lock,
    unlock,
)
from .server import bring_up, log_size

_log = logging.getLogger("database")
_START_LOCK_LIMIT = 150.0  # seconds in which its holder must show progress; initdb may take 120

# directory -> the descriptor that holds users.lock: this process is one user, however often it calls start()
_joined: dict[Path, int] = {}
_joined_lock = threading.RLock()


def _forget_membership() -> None:
    """In a forked child: it is no user until it calls start() itself."""
    _joined.clear()
    _joined_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_joined_lock.acquire, after_in_parent=_joined_lock.release, after_in_child=_forget_membership
    )


async def start(directory: Path | None = None, *, keep: bool = False) -> str:
    """
    Make sure that the server of *directory* runs, become one of its users, return its URI (for asyncpg, libpq, psql).

    *directory* defaults to DB_EMBEDDED_DIR, else to one per project in the user's data directory. Calling it again is
    cheap, and brings a server back that was killed. A process counts once, until it calls `stop()` or ends; a forked
    child counts for itself once it calls this. With *keep* the server goes on after its last user, until `shut_down()`.

    Raises `DatabaseNotAvailableError` that says why and what to do. Takes about a second the first time and a tenth
    later, after a crash as long as recovery takes; it is given up after 60 s without a sign of life.
    """
    return await asyncio.to_thread(_start, directory, keep)


async def stop(directory: Path | None = None) -> None:
    """
    Leave the server, for the whole process. If nobody else uses it and it is not kept, it has stopped on return.

    Does nothing where `start()` was not called. Returns within 90 s however the server behaves. Connections that this
    process still has open break: close them first.
    """
    await asyncio.to_thread(_stop, directory)


async def shut_down(directory: Path | None = None, *, force: bool = False) -> bool:
    """
    Stop the server also if it is kept: the opposite of `start(keep=True)`.

    True when it does not run any more. False while other processes use it: then it stops when the last of them leaves,
    or, with *force*, now, and their connections break.
    """
    return await asyncio.to_thread(_shut_down, directory, force)


async def status(directory: Path | None = None) -> dict[str, Any]:
    """
    How the server of *directory* is, without starting it or making anything.

    `running` (bool: it accepts connections), `pid` (int or None), `version` (of the data: "18", None without data),
    `directory`, `data_directory`, `log_file` (str), `socket_directory` and `uri` (str; None while it does not run),
    `kept` (bool), `users` (list of pids; None where the system does not tell).
    """
    return await asyncio.to_thread(_status, directory)


def _start(directory: Path | None, keep: bool) -> str:
    if sys.platform == "win32":
        raise DatabaseNotAvailableError("the embedded server needs Linux or macOS (or WSL): set DATABASE_URL")
    directory = find_directory(directory)
    if not keep and (uri := _uri_of_joined(directory)):
        return uri
    account = choose_account(directory)
    try:
        make_directory(directory, account)
        with _start_lock(directory):
            newly = _join(directory)
            try:
                _ensure_watcher(directory)
                running, started = bring_up(directory, account)
            except BaseException:
                if newly:
                    _leave(directory)
                raise
            if keep:
                set_kept(directory, True)
    except OSError as exc:
        raise DatabaseNotAvailableError(
            f"the embedded PostgreSQL in {directory} cannot be started: {exc}. "
            "Mend that, set DB_EMBEDDED_DIR to another directory, or set DATABASE_URL",
            original_error=exc,
        ) from exc
    if started or newly:
        _log.info(
            "%s the embedded PostgreSQL (pid %d); its data lies in %s",
            "started" if started else "joined",
            running.pid,
            directory,
        )
    return make_uri(running.socket_directory)


def _uri_of_joined(directory: Path) -> str | None:
    """The URI if we are a user already and all is well: a look at a few files, no lock. None: `_start` has work."""
    with _joined_lock:
        if directory not in _joined or not is_lock_of(_joined[directory], directory / "users.lock"):
            return None
    running = find_postmaster(directory)
    if running is None or running.status not in ("ready", "standby") or not _is_watched(directory):
        return None
    return make_uri(running.socket_directory)


def _stop(directory: Path | None) -> None:
    directory = find_directory(directory)
    with _joined_lock:
        if directory not in _joined:
            return
    try:
        fd = lock(directory / "start.lock", limit=10)
    except OSError:
        # somebody starts or stops it at length, or the directory is gone: the watcher does the rest
        _leave(directory)
        return
    try:
        _leave(directory)
        stop_unless_used(directory)
    finally:
        unlock(fd)


def _shut_down(directory: Path | None, force: bool) -> bool:
    directory = find_directory(directory)
    if not (directory / "start.lock").exists():
        return True
    _leave(directory)
    with _start_lock(directory):
        set_kept(directory, False)
        if force:
            stop_postmaster(directory)
        elif not stop_unless_used(directory):
            _ensure_watcher(directory)
        return find_postmaster(directory) is None


def _status(directory: Path | None) -> dict[str, Any]:
    directory = find_directory(directory)
    running = find_postmaster(directory)
    try:
        version = (directory / "data" / "PG_VERSION").read_text().strip()
    except OSError:
        version = None
    return {
        "running": running is not None and running.status in ("ready", "standby"),
        "pid": running.pid if running else None,
        "version": version,
        "directory": str(directory),
        "data_directory": str(directory / "data"),
        "socket_directory": str(running.socket_directory) if running else None,
        "log_file": str(directory / "server.log"),
        "uri": make_uri(running.socket_directory) if running else None,
        "kept": is_kept(directory),
        "users": _find_users(directory),
    }


# --- users


def _join(directory: Path) -> bool:
    """Hold users.lock; False if we did already."""
    with _joined_lock:
        if directory in _joined:
            if is_lock_of(_joined[directory], directory / "users.lock"):
                return False
            unlock(_joined.pop(directory))  # of a directory that was deleted since
        # only the watcher holds it exclusively, and without start.lock for a blink only
        _joined[directory] = lock(directory / "users.lock", shared=True, limit=30)
        return True


def _leave(directory: Path) -> None:
    with _joined_lock:
        if directory in _joined:
            unlock(_joined.pop(directory))


def _find_users(directory: Path) -> list[int] | None:
    """The processes that hold users.lock, as Linux lists them in /proc/locks (a fork is listed as its parent)."""
    try:
        inode = (directory / "users.lock").stat().st_ino
    except OSError:
        return []
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    fields = [line.split() for line in lines]
    # 1: FLOCK  ADVISORY  READ 4711 fe:00:131 0 EOF
    return sorted(
        int(field[4])
        for field in fields
        if len(field) == 8 and field[1] == "FLOCK" and field[3] == "READ" and field[5].rpartition(":")[2] == str(inode)
    )


@contextmanager
def _start_lock(directory: Path) -> Iterator[None]:
    """Hold start.lock. Waits for its holder as long as the server's log grows, and `_START_LOCK_LIMIT` more."""
    fd = None
    while fd is None:
        before = log_size(directory)
        try:
            fd = lock(directory / "start.lock", limit=_START_LOCK_LIMIT)
        except TimeoutError as exc:
            if log_size(directory) == before:
                raise DatabaseNotAvailableError(
                    f"another process has been starting or stopping the embedded PostgreSQL in {directory} for "
                    f"{_START_LOCK_LIMIT:.0f} s without progress (it holds start.lock): end it, or set DATABASE_URL",
                    original_error=exc,
                ) from exc
    try:
        yield
    finally:
        unlock(fd)


# --- the watcher


def _is_watched(directory: Path) -> bool:
    fd = open_lock(directory / "watcher.lock")
    try:
        return not try_lock(fd, shared=True)
    finally:
        close_lock(fd)


def _ensure_watcher(directory: Path) -> None:
    """Start the process that stops the server after its last user, unless there is one. It inherits its lock."""
    fd = open_lock(directory / "watcher.lock")
    try:
        if not try_lock(fd):
            return
        python = _find_python()
        if python is None:
            _log.warning("no Python to watch the embedded PostgreSQL with: call stop() at the end, or it goes on")
            return
        # without site-packages it is small; psutil, which is in them, is needed where there is no /proc
        options = ["-I", "-S"] if Path("/proc/self/stat").exists() else ["-I"]
        script = Path(__file__).with_name("postmaster.py")
        launch(
            [python, *options, str(script), str(directory), str(fd)],
            Account(os.geteuid(), os.getegid()),
            cwd=Path("/"),
            pass_fds=[fd],
        )
    finally:
        close_lock(fd)


def _find_python() -> str | None:
    """A Python interpreter: `sys.executable` is none under uWSGI, or in a frozen application."""
    candidates = (sys.executable, str(Path(sys.base_prefix, "bin", "python3")), shutil.which("python3"))
    return next((path for path in candidates if path and Path(path).name.startswith("python")), None)
