"""A dump of a database: by pg_dump, into a file that appears whole or not at all."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..exceptions import BackupError, confidential
from ..settings import get_settings
from .archives import SUFFIX, NewDump, new_dump, new_path, read_checksum, read_head
from .places import find_place, refuse_pooler
from .programs import find_clients, run_program

Progress = Callable[[dict[str, Any]], None]

_TABLE = re.compile(r"dumping contents of table \"(.*)\"$")


@confidential
async def dump_database(
    path: str | Path | None = None,
    *,
    directory: str | Path = "dumps",
    name: str = "default",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """
    Dump the database *name* with pg_dump to *path*, or to a new file in *directory*, `<database>-<time>.dump`.

    The result: path, database, server_version, bytes, sha256, tables, seconds. The file has mode 0600 and appears when
    it is whole, with its checksum beside it (`….dump.sha256`, as `sha256sum -c` reads it); where the dump fails, or is
    cancelled, nothing stays. It is one snapshot of the database, of everything in it: tables, data, functions,
    extensions, grants; not roles, which belong to the server. *progress* gets dicts with done, total (tables), table
    and bytes. Raises `BackupError` where pg_dump fails or is missing, where *path* is there already, and behind a
    pooler; `DatabaseNotAvailableError` where there is no server.
    """
    settings = get_settings(name)
    doing = f"dump the database {name!r}"
    refuse_pooler(settings, doing)
    began = time.monotonic()
    place, facts = await find_place(settings)
    clients = await asyncio.to_thread(find_clients, place.server_version, tls=place.needs_tls)
    final = Path(path) if path is not None else new_path(Path(directory), place.database)
    with new_dump(final) as dump, place.surroundings(settings) as surroundings:
        arguments: list[str | Path] = [clients.directory / "pg_dump", "--format=custom", "--no-password", "--verbose"]
        told = _tell(progress, facts["tables"], dump)
        await run_program(arguments, surroundings, doing=doing, stdout=dump.file.fileno(), on_line=told)
        checksum = await asyncio.to_thread(dump.seal)
        dump.publish(checksum)
    return {
        "path": str(final),
        "database": place.database,
        "server_version": read_head(final).server_version,
        "bytes": final.stat().st_size,
        "sha256": checksum,
        "tables": facts["tables"],
        "seconds": round(time.monotonic() - began, 3),
    }


def _tell(progress: Progress | None, total: int, dump: NewDump) -> Callable[[str], None]:
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if progress is not None and (found := _TABLE.search(line)):
            done += 1
            size = dump.size()
            progress({"done": done, "total": max(total, done), "table": found[1], "bytes": size})

    return on_line


def list_dumps(directory: str | Path = "dumps") -> list[dict[str, Any]]:
    """
    The dumps in *directory*, the newest first: path, database, server_version, created_at, bytes, sha256.

    `created_at` is the time of the machine that made the dump, without a zone. `sha256` is what is written beside it,
    not looked at here; None: nothing is. What is no dump is left out; [] also where there is no such directory.
    """
    found = []
    for path in Path(directory).glob(f"*{SUFFIX}"):
        try:
            head, file = read_head(path), path.stat()
            about = {"path": str(path), **head._asdict(), "bytes": file.st_size, "sha256": read_checksum(path)}
        except (OSError, BackupError):
            continue
        found.append((head.created_at, file.st_mtime_ns, about))  # the head knows no parts of a second
    return [about for *_, about in sorted(found, key=lambda each: each[:2], reverse=True)]
