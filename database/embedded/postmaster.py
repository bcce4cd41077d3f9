"""
The server process of one data directory: who it is, how to end it, and the watcher that ends it after its last user.

Liveness rests on file locks that the kernel drops with their holders, SIGKILL included, never on a pid alone:

    start.lock    exclusive: whoever starts or stops the server; held for moments
    users.lock    shared: every process that uses the server, for as long as it does
    watcher.lock  exclusive: the watcher, inherited from whoever spawned it
    server.lock   exclusive: initdb, postmaster and every backend, inherited; free means that nothing of them is left

This file is also run as a script (the watcher, `python -I -S postmaster.py DIRECTORY WATCHER_FD`), so it imports
nothing of the package, and of the standard library only what is cheap.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform != "win32":
    import fcntl

FAST_SHUTDOWN_LIMIT = 60.0  # seconds: the shutdown checkpoint has to write what is dirty
IMMEDIATE_SHUTDOWN_LIMIT = 15.0  # seconds: the postmaster itself kills stubborn children after 5
_HAS_PROC = Path("/proc/self/stat").exists()


# --- locks: a name is locked, not an inode, so a directory that was deleted and made again is seen as another one

_open_locks: set[int] = set()
_forking = threading.RLock()  # no fork between the opening of a lock file and its entry in the set


def open_lock(path: Path) -> int:
    """A descriptor of the lock file *path*, which is made if need be. No lock is taken."""
    with _forking:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _open_locks.add(fd)
    give_to_owner(fd, path.parent)
    return fd


def give_to_owner(fd: int, directory: Path) -> None:
    """Made by root in the *directory* of an ordinary account, the file belongs to that account."""
    if os.geteuid() == 0 and os.fstat(fd).st_uid == 0:
        owner = directory.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take the lock if it is free; True if it is ours now."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(path: Path, *, shared: bool = False, limit: float) -> int:
    """A descriptor that holds the lock *path*. Raises TimeoutError after *limit* seconds."""
    deadline, pause = time.monotonic() + limit, 0.001
    while True:
        fd = open_lock(path)
        while not try_lock(fd, shared=shared):
            if time.monotonic() > deadline:
                close_lock(fd)
                raise TimeoutError(f"{path} has been locked by another process for {limit:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        if is_lock_of(fd, path):
            return fd
        unlock(fd)


def unlock(fd: int) -> None:
    """Release the lock now, also where a forked child still holds a duplicate of *fd*, and close it."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    close_lock(fd)


def close_lock(fd: int) -> None:
    """Close *fd*; the lock stays with those who inherited it."""
    with _forking:
        _open_locks.discard(fd)
        os.close(fd)


def is_lock_of(fd: int, path: Path) -> bool:
    """True where *fd* is still the file that *path* names."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _forget_locks() -> None:
    """In a forked child: the parent's locks are not ours, and must not live as long as we do."""
    for fd in _open_locks:
        os.close(fd)
    _open_locks.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forget_locks)


# --- the process


class Postmaster(NamedTuple):
    """A live postmaster, as `postmaster.pid` describes it."""

    pid: int
    socket_directory: Path
    status: str  # "starting", "ready", "standby", "stopping"; "" before it has said anything


def mark_of(directory: Path) -> str:
    """The cluster_name of the server in *directory*: the processes carry it in their command lines."""
    import hashlib  # not at the top: the watcher seldom needs it

    return "database-" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]


def find_postmaster(directory: Path) -> Postmaster | None:
    """
    The live postmaster of `directory/data`; None if there is none.

    A pid is believed only where that process is a postgres that works in this data directory.
    See "postmaster.pid" in PostgreSQL's src/include/utils/pidfile.h for the lines.
    """
    try:
        lines = (directory / "data" / "postmaster.pid").read_text(errors="surrogateescape").split("\n")
        pid = int(lines[0])
    except (OSError, ValueError):
        return None
    if pid <= 1 or not is_server_process(pid, directory):
        return None
    lines += [""] * (8 - len(lines))
    return Postmaster(pid, Path(lines[4]), lines[7].strip())


def is_server_process(pid: int, directory: Path) -> bool:
    """True where *pid* is a live postgres process that works in `directory/data`. A zombie does not live."""
    if not _HAS_PROC:
        return _is_server_process_psutil(pid, directory)
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
        if status[status.index(b"(") + 1 : status.rindex(b")")] != b"postgres":
            return False
        try:
            return os.path.samestat(Path(f"/proc/{pid}/cwd").stat(), (directory / "data").stat())
        except PermissionError:
            # root without CAP_SYS_PTRACE, as in most containers, may not look at the cwd of other accounts
            return mark_of(directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def _is_server_process_psutil(pid: int, directory: Path) -> bool:
    import psutil  # optional extra, and needed where there is no /proc

    try:
        process = psutil.Process(pid)
        if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.path.samestat(Path(process.cwd()).stat(), (directory / "data").stat())
    except (psutil.Error, OSError):
        return False


def find_server_processes(directory: Path) -> Iterator[int]:
    """The pids of all processes of the server in *directory*, also of those whose postmaster is gone."""
    if _HAS_PROC:
        pids: Any = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    else:
        import psutil

        pids = psutil.pids()
    return (pid for pid in pids if is_server_process(pid, directory))


def send_signal(pid: int, directory: Path, number: signal.Signals) -> None:
    """Signal *pid* if it belongs to the server in *directory*; nothing otherwise."""
    if not hasattr(os, "pidfd_open"):
        if is_server_process(pid, directory):
            os.kill(pid, number)
        return
    try:
        fd = os.pidfd_open(pid)  # pins the process: its pid cannot be reused between the look and the signal
    except OSError:
        return
    try:
        if is_server_process(pid, directory):
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def stop_postmaster(directory: Path) -> bool:
    """
    Shut the server down, in order if it can ("fast"), else at once ("immediate": the next start recovers from the
    log). True when it is gone; False when it did not even obey that, after 75 s. Call it with start.lock held.
    """
    for number, limit in (
        (signal.SIGINT, FAST_SHUTDOWN_LIMIT),
        (signal.SIGQUIT, IMMEDIATE_SHUTDOWN_LIMIT),
    ):
        if (running := find_postmaster(directory)) is None:
            return True
        send_signal(running.pid, directory, number)
        if _wait_for_end(running.pid, directory, limit):
            if running.socket_directory.parent != directory:  # a directory in /tmp that nobody needs now
                with contextlib.suppress(OSError):
                    running.socket_directory.rmdir()
            return True
    return False


def _wait_for_end(pid: int, directory: Path, limit: float) -> bool:
    """True as soon as the server process *pid* has ended, False if it has not within *limit* seconds."""
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return not is_server_process(pid, directory)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return not is_server_process(pid, directory) or bool(poll.poll(limit * 1000))
        finally:
            os.close(fd)
    deadline = time.monotonic() + limit
    while is_server_process(pid, directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# --- the watcher


def is_kept(directory: Path) -> bool:
    """True where the server is to go on without users."""
    return (directory / "kept").exists()


def set_kept(directory: Path, kept: bool) -> None:
    """Let the server go on without users, or not. Call it with start.lock held."""
    if kept:
        close_lock(open_lock(directory / "kept"))
    else:
        (directory / "kept").unlink(missing_ok=True)


def stop_unless_used(directory: Path) -> bool:
    """
    Stop the server if no process uses it, and nobody asked to keep it. Call it with start.lock held.

    False where a process uses it. A process that wants to become a user waits for start.lock meanwhile, and finds the
    server stopped, never stopping.
    """
    users = open_lock(directory / "users.lock")
    try:
        if _is_shared(users):
            return False
        if not is_kept(directory):
            stop_postmaster(directory)
        return True
    finally:
        close_lock(users)


def _is_shared(users: int) -> bool:
    """
    True where another process holds the lock *users* shared. Call it with start.lock held: nobody can join meanwhile.

    The watcher may hold it exclusively for a blink, and can do so only where there are no users; after that it waits
    for start.lock.
    """
    if try_lock(users) or not try_lock(users, shared=True):
        return False
    return not try_lock(users)


def watch(directory: Path, watcher_fd: int) -> None:
    """Sleep in the kernel until no process uses the server in *directory*, then stop it."""
    users = open_lock(directory / "users.lock")
    start = open_lock(directory / "start.lock")
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        # let go before start.lock is asked for: a user holds start.lock while it asks for users.lock
        fcntl.flock(users, fcntl.LOCK_UN)
        fcntl.flock(start, fcntl.LOCK_EX)
        if not is_lock_of(users, directory / "users.lock") or not is_lock_of(start, directory / "start.lock"):
            return  # the directory was deleted, perhaps made again: its server is not ours to stop
        if stop_unless_used(directory):
            fcntl.flock(watcher_fd, fcntl.LOCK_UN)  # first: the next one to hold start.lock must see it free
            return
        fcntl.flock(start, fcntl.LOCK_UN)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), int(sys.argv[2]))
