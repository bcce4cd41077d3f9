"""
Servers of our own, to be killed, stopped, stalled and promoted: the embedded programs, started without the watch.

They listen on a unix socket in a directory that only their account may enter. `fsync` is off: kill -9 takes a process
and leaves the operating system, which has what was written.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from pydantic import SecretStr

from database import Settings
from database.embedded.account import Account, choose_account, run
from database.embedded.binaries import find_binaries, make_usable

_START_SECONDS = 60.0
_started: set[Server] = set()
_SETTINGS = """
listen_addresses = ''
fsync = off
max_connections = 100
shared_buffers = 64MB
max_wal_size = 512MB
wal_level = replica
wal_keep_size = 64MB
hot_standby = on
timezone = 'UTC'
restart_after_crash = on
log_line_prefix = '%m [%p] '
"""


@contextmanager
def directory_for_servers() -> Iterator[Path]:
    """A directory for `Server`s, with a short name, for the time of the block; whatever runs in it is killed then."""
    place = Path(tempfile.mkdtemp(prefix="pgt-"))
    account = choose_account(place)
    if account.is_other:
        os.chown(place, account.uid, account.gid)
    try:
        yield place
    finally:
        for server in [server for server in _started if server.place.parent == place]:
            server.kill()
        shutil.rmtree(place, ignore_errors=True)


class Server:
    """The server in the directory *place*, with a superuser `postgres`; every method blocks."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.data = place / "data"
        self.account: Account = choose_account(place)
        self.programs = make_usable(find_binaries(), self.account).directory
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, place: Path, settings: str = "") -> Server:
        """A new server in *place*, which is made; not started."""
        server = cls(place)
        server._make_place()
        server._program(
            "initdb", f"--pgdata={server.data}", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync",
            "--no-locale",
        )  # fmt: skip
        with (server.data / "postgresql.conf").open("a") as file:
            file.write(f"{_SETTINGS}unix_socket_directories = '{place}'\n{settings}\n")
        return server

    def _make_place(self) -> None:
        self.place.mkdir(mode=0o700)
        if self.account.is_other:
            os.chown(self.place, self.account.uid, self.account.gid)

    def _program(self, name: str, *arguments: str) -> str:
        finished = run([str(self.programs / name), *arguments], self.account, cwd=self.place)
        assert finished.returncode == 0, f"{name}: {finished.output}"
        return finished.output

    # -- its life

    def start(self, *, wait: bool = True) -> None:
        """Start it; wait until it takes connections, unless told otherwise."""
        assert self._process is None
        _started.add(self)
        with (self.place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data],
                cwd=self.place, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, umask=0o077, **self.account.switch,
            )  # fmt: skip
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the postmaster says so."""
        deadline = time.monotonic() + _START_SECONDS
        while self.status() not in ("ready", "standby"):
            assert self._process is None or self._process.poll() is None, self.end_of_log()
            assert time.monotonic() < deadline, self.end_of_log()
            time.sleep(0.005)

    def status(self) -> str:
        """What the postmaster says of itself: ready, standby, starting, stopping; "" where it says nothing."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return ""
        # the file of an earlier life stays until the new one has overwritten it
        ours = self._process is not None and lines and lines[0] == str(self._process.pid)
        return lines[7].strip() if ours and len(lines) > 7 else ""

    def end_of_log(self) -> str:
        """Its last words."""
        with suppress(OSError):
            return (self.place / "log").read_text(errors="replace")[-3000:]
        return ""

    def processes(self) -> list[psutil.Process]:
        """The postmaster and every process of it."""
        assert self._process is not None
        try:
            postmaster = psutil.Process(self._process.pid)
            return [postmaster, *postmaster.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """kill -9 of the postmaster and all its processes."""
        if self._process is None:
            return
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(_START_SECONDS)
        deadline = time.monotonic() + _START_SECONDS
        while any(_lives(process) for process in processes[1:]):
            assert time.monotonic() < deadline, "a killed backend does not die"
            time.sleep(0.005)
        self._process = None

    def stop(self) -> None:
        """An orderly and fast end: every session is told 57P01."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_START_SECONDS)
            self._process = None
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP to every process: the server hangs, its sockets stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """The end of `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    # -- a family of servers

    def copy_to(self, place: Path) -> Server:
        """A standby of this server in *place*, which streams from it; not started."""
        standby = Server(place)
        if place.exists():
            shutil.rmtree(place / "data", ignore_errors=True)
        else:
            standby._make_place()
        standby._program(
            "pg_basebackup", "-h", str(self.place), "-U", "postgres", "-D", str(standby.data), "-R", "-X", "stream",
            "-c", "fast", "--no-sync",
        )  # fmt: skip
        with (standby.data / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{place}'\n")
        return standby

    def promote(self) -> None:
        """Make a standby a primary."""
        self._program("pg_ctl", "promote", "-D", str(self.data), "-w")

    # -- talking to it

    def dsn(self, database: str = "postgres") -> str:
        """The URL of *database*."""
        return f"postgresql://postgres@/{database}?host={self.place}"

    def settings(self, **options: Any) -> Settings:
        """Settings for its database `postgres`."""
        return Settings(**{"database_url": SecretStr(self.dsn()), "min_connections": 0, **options})

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Ask it something, past the package."""
        connection = await asyncpg.connect(self.dsn(), timeout=10, command_timeout=30)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close(timeout=5)


@contextmanager
def running_server(settings: str = "", *, name: str = "a") -> Iterator[Server]:
    """A server that runs, for the time of the block."""
    with directory_for_servers() as place:
        server = Server.make(place / name, settings)
        server.start()
        yield server


def _lives(process: psutil.Process) -> bool:
    """False also for one that waits to be reaped, which init may take its time for."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def in_thread(work: Any, *arguments: Any) -> Any:
    """`work(*arguments)` in a thread, to its end also if the caller is cancelled."""
    return await asyncio.shield(asyncio.to_thread(work, *arguments))
