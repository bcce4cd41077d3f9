"""The one embedded server that every system works against: in a directory of its own, which is deleted at the end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg

from database import embedded

from .address import Address
from .cancellation import finish

# eight systems with 20 connections each stay connected from the first round to the last
_MAX_CONNECTIONS = 200
_FAREWELL_SECONDS = 10.0
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_SHOWN = ("server_version", *_DURABLE, "wal_sync_method", "shared_buffers", "max_connections")


@asynccontextmanager
async def run_server(directory: Path) -> AsyncIterator[Address]:
    """
    A new server in *directory*, for as long as the block lasts; its database `postgres`.

    Its settings are PostgreSQL's defaults but for the number of connections.
    """
    try:
        address = Address.from_uri(await finish(embedded.start(directory)))
        await execute(address, f"ALTER SYSTEM SET max_connections = {_MAX_CONNECTIONS}")
        await finish(embedded.stop(directory))
        yield Address.from_uri(await finish(embedded.start(directory)))
    finally:
        await finish(_stop(directory))


async def _stop(directory: Path) -> None:
    """The end of the server; its last checkpoint need not reach the disk, as the data is deleted next."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        async with asyncio.timeout(_FAREWELL_SECONDS):
            if uri := (await embedded.status(directory))["uri"]:
                await execute(Address.from_uri(uri), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    await embedded.shut_down(directory, force=True)


@contextmanager
def make_workspace(parent: Path | None) -> Iterator[Path]:
    """
    A new directory below *parent* that is gone afterwards.

    Without *parent*, where temporary files are, unless that is memory: fsync would cost nothing there.
    """
    if parent is None and file_system_of(Path(tempfile.gettempdir())) == "tmpfs" and Path("/var/tmp").is_dir():
        parent = Path("/var/tmp")
    workspace = Path(tempfile.mkdtemp(prefix="pgdatabase-bench-", dir=parent))
    workspace.chmod(0o755)  # as root, the server runs under another account
    try:
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def file_system_of(path: Path) -> str:
    """The type of the file system that *path* is on, such as "ext4"; "unknown" where there is no /proc."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    real = path.resolve()
    around = [(place, kind) for place, kind in mounts if real.is_relative_to(place)]
    return max(around, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


async def execute(address: Address, *statements: str) -> None:
    """Run *statements*, one after the other."""
    connection = await asyncpg.connect(address.uri)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def read_settings(address: Address) -> dict[str, str]:
    """The server's settings that matter here; raises `RuntimeError` where what it acknowledges could be lost."""
    connection = await asyncpg.connect(address.uri)
    try:
        settings = {name: str(await connection.fetchval(f"SHOW {name}")) for name in _SHOWN}
    finally:
        await connection.close()
    wrong = [name for name, value in _DURABLE.items() if settings[name] != value]
    if wrong:
        raise RuntimeError(f"the server is not durable: {', '.join(f'{name} = {settings[name]}' for name in wrong)}")
    return settings
