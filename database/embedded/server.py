"""
The running server of one directory: start it, join it, bring it back after a crash.

Everything here is called with start.lock held.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from ..exceptions import DatabaseNotAvailableError
from .account import Account, check_private_directory, launch, make_private_directory
from .binaries import find_binaries, make_usable
from .data import major_of, make_data, way_out
from .directory import PORT, as_seen_by, choose_socket_directory
from .postmaster import (
    Postmaster,
    close_lock,
    find_postmaster,
    find_server_processes,
    give_to_owner,
    mark_of,
    open_lock,
    send_signal,
    try_lock,
)

LIFE_SIGN_LIMIT = 60.0  # seconds without a new line in the log: recovery after a crash writes one every 10 s
START_LIMIT = 1800.0  # seconds, whatever the log says
STARTS = 3  # attempts, if each is killed from outside
ORPHAN_LIMIT = 5.0  # seconds that backends have to notice that their postmaster is gone
_LOG_LIMIT = 4 * 1024 * 1024  # bytes
_IMPOSSIBLE_PID = 4194305  # above Linux' PID_MAX_LIMIT


class _Patience:
    """Waiting in small steps for as long as the server's log grows, and `LIFE_SIGN_LIMIT` more; see `START_LIMIT`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._began = self._life_sign = time.monotonic()
        self._size = log_size(directory)
        self.log_start = self._size  # where the lines begin that concern this start

    def renew(self, log_start: int) -> None:
        """A start has been made; it writes to the log from *log_start* on."""
        self._size = self.log_start = log_start
        self._life_sign = time.monotonic()

    def silence(self) -> float:
        """Seconds since the last sign of life."""
        if (size := log_size(self._directory)) != self._size:
            self._size, self._life_sign = size, time.monotonic()
        return time.monotonic() - self._life_sign

    def wait(self, state: str) -> None:
        """Wait a moment, or raise `DatabaseNotAvailableError`: the server *state*."""
        waited = time.monotonic() - self._began
        if self.silence() > LIFE_SIGN_LIMIT or waited > START_LIMIT:
            raise _failure(
                self._directory, f"{state} after {waited:.0f} s", _end_of_log(self._directory, self.log_start)
            )
        time.sleep(0.01)


def bring_up(directory: Path, account: Account) -> tuple[Postmaster, bool]:
    """
    The running server of *directory* and True where it had to be started.

    Waits while another process's start, a recovery or a shutdown goes on, and for backends that a killed postmaster
    left behind. Raises `DatabaseNotAvailableError` with the end of the server's log where it does not come up: it
    gave up, was killed three times, gave no sign of life for 60 s, or took half an hour.
    """
    patience = _Patience(directory)
    starts = 0
    while True:
        running = find_postmaster(directory)
        if running is not None and running.status in ("ready", "standby"):
            check_private_directory(running.socket_directory, account)
            return running, starts > 0
        if running is None and (server_lock := _take_server_lock(directory)) is not None:
            try:
                said = _end_of_log(directory, patience.log_start)
                # one that gave up says why; one that was killed meanwhile deserves another start
                if starts == STARTS or (starts and ("FATAL" in said or "PANIC" in said)):
                    raise _failure(directory, "ended while starting", said)
                patience.renew(_start_postmaster(directory, account, server_lock))
                starts += 1
            finally:
                close_lock(server_lock)  # the postmaster has inherited it, and keeps it
        if running is None and not starts:
            if patience.silence() > ORPHAN_LIMIT:
                _kill_orphans(directory)
            patience.wait("cannot be started: what an earlier server left, perhaps in another container, is in use")
        else:
            patience.wait("is not ready")


def _take_server_lock(directory: Path) -> int | None:
    """A descriptor that holds server.lock; None while anything of a server, or an initdb, lives."""
    fd = open_lock(directory / "server.lock")
    if try_lock(fd):
        return fd
    close_lock(fd)
    return None


def log_size(directory: Path) -> int:
    """Bytes in the server's log; 0 where there is none."""
    try:
        return (directory / "server.log").stat().st_size
    except OSError:
        return 0


def _kill_orphans(directory: Path) -> None:
    """
    Backends that still work for a postmaster that is gone would keep the data locked for as long as they like.

    None of them can report a result to anybody; recovery undoes what they have not committed.
    """
    if find_postmaster(directory) is None:
        for pid in find_server_processes(directory):
            send_signal(pid, directory, signal.SIGKILL)


def _end_of_log(directory: Path, start: int) -> str:
    """The last lines of the server's log, none of them before the byte *start*."""
    try:
        with (directory / "server.log").open("rb") as file:
            file.seek(max(start, log_size(directory) - 4000))
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-15:])
    except OSError:
        return ""


def _failure(directory: Path, what: str, said: str) -> DatabaseNotAvailableError:
    """The error for a server that *what*, and in whose log *said* is the end."""
    log = f"\nThe end of {directory / 'server.log'}:\n{said}" if said else ""
    return DatabaseNotAvailableError(f"the embedded PostgreSQL in {directory} {what}. {way_out(said, directory)}{log}")


# --- starting


def _start_postmaster(directory: Path, account: Account, server_lock: int) -> int:
    """Launch a postmaster that inherits *server_lock*, which is held; the length of the log before its first line."""
    data = directory / "data"
    major = major_of(data)
    binaries = make_usable(find_binaries(major), account)
    if major is None:
        make_data(directory, account, binaries.directory, binaries.major, server_lock)
    if (owner := data.stat().st_uid) != account.uid:
        raise DatabaseNotAvailableError(
            f"{data} belongs to uid {owner}, and the server would run as uid {account.uid}: "
            f"chown -R {account.uid} {directory}, or set DB_EMBEDDED_DIR to another directory"
        )
    socket_directory = choose_socket_directory(directory, account)
    make_private_directory(socket_directory, account)
    _mend_pid_file(data / "postmaster.pid")
    _mend_pid_file(socket_directory / f".s.PGSQL.{PORT}.lock")
    quoted = str(socket_directory).replace('"', '""')
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{quoted}"',
        "unix_socket_permissions": "0700",
        "port": PORT,
        "logging_collector": "off",
        "cluster_name": mark_of(directory),
    }
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    log, log_start = _open_log(directory)
    try:
        launch(
            [str(binaries.directory / "postgres"), "-D", as_seen_by(account, data), *options],
            account,
            cwd=data,
            output=log,
            pass_fds=[server_lock],
        )
    finally:
        os.close(log)
    return log_start


def _open_log(directory: Path) -> tuple[int, int]:
    """A descriptor that appends to the log, and the log's length. A log that is too long is moved aside first."""
    log = directory / "server.log"
    if log_size(directory) > _LOG_LIMIT:
        log.replace(directory / "server.log.1")
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    give_to_owner(fd, directory)
    return fd, os.fstat(fd).st_size


def _mend_pid_file(path: Path) -> None:
    """
    Take from a pid file what keeps PostgreSQL from starting: a pid that another process has by now, torn content.

    server.lock is ours, so no postmaster that we started is behind it, and `find_postmaster` found none that somebody
    else started. The file is not removed: from its other lines PostgreSQL learns which shared memory to look for, and
    refuses to start while anybody is attached to it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "r+b") as file:
        first, _, rest = file.read().partition(b"\n")
        pid = int(first) if re.fullmatch(rb"-?\d{1,18}", first) else 0
        if pid == 0:
            path.unlink()  # PostgreSQL refuses an empty file, and one without a number
        elif pid > 0:  # a negative one is that of a single-user server, which PostgreSQL looks after itself
            file.seek(0)
            file.write(b"%d\n%s" % (_IMPOSSIBLE_PID, rest))
            file.truncate()
