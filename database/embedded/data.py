"""The data directory: made by initdb, complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..exceptions import DatabaseNotAvailableError
from .account import Account, make_private_directory, run
from .directory import as_seen_by

INITDB_LIMIT = 120.0  # seconds; it takes less than one on a quick disk
_SETTINGS = """
# Set by database.embedded. Change what you like: this is read at every start and never written again.
max_connections = 100
shared_buffers = 128MB
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
"""


def major_of(data: Path) -> int | None:
    """
    The PostgreSQL version that made *data*; None where there is nothing yet.

    Raises `DatabaseNotAvailableError` for a directory that holds something else.
    """
    try:
        if not data.exists() or not any(data.iterdir()):
            return None
        return int((data / "PG_VERSION").read_text())
    except (OSError, ValueError) as exc:
        raise DatabaseNotAvailableError(
            f"{data} is not a PostgreSQL data directory ({exc}): "
            "move it away, or set DB_EMBEDDED_DIR to another directory",
            original_error=exc,
        ) from exc


def make_data(directory: Path, account: Account, programs: Path, major: int, server_lock: int) -> None:
    """
    Make `directory/data`: initdb beside the final name, then one rename.

    initdb flushes everything to disk before it ends: without that a power cut soon after could leave a cluster that
    looks complete. It costs 0.1 s here. initdb inherits *server_lock*: if we are killed, the next start waits for it.
    """
    for leftover in directory.glob("data.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = directory / f"data.new-{secrets.token_hex(4)}"
    make_private_directory(new, account)
    try:
        _run_initdb(new, account, programs, major, server_lock)
        _append(new / "postgresql.conf", _SETTINGS)
        new.rename(directory / "data")
        _fsync_directory(directory)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _run_initdb(new: Path, account: Account, programs: Path, major: int, server_lock: int) -> None:
    options = [
        f"--pgdata={as_seen_by(account, new)}",
        "--username=postgres",
        "--auth-local=trust",  # whoever can enter the 0700 directory of the socket
        "--auth-host=reject",
        "--encoding=UTF8",
        "--text-search-config=english",
        "--data-checksums",
    ]
    said = ""
    for locale in _locales(major):
        arguments = [str(programs / "initdb"), *options, *locale]
        finished = run(arguments, account, cwd=new, limit=INITDB_LIMIT, pass_fds=[server_lock])
        if finished.returncode == 0:
            return
        said = finished.output
        if "locale" not in said:
            break
    raise DatabaseNotAvailableError(
        f"initdb could not make a data directory in {new.parent}. {way_out(said, new.parent)}\nIt said:\n{said[-2000:]}"
    )


def _locales(major: int) -> Iterator[list[str]]:
    """
    Options that give UTF-8 case rules on every machine: a plain C locale does not know that Ä is an upper-case ä.

    PostgreSQL 17 brings its own rules; older ones depend on the system's locales, the usual ones of which are tried.
    """
    if major >= 17:
        yield ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        for name in ("C.UTF-8", "en_US.UTF-8"):
            yield [f"--locale={name}", "--lc-messages=C"]


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def way_out(said: str, directory: Path) -> str:
    """What to do about a failure of which initdb or the server *said* something."""
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return f"The disk is full: make room, or set DB_EMBEDDED_DIR to another disk than that of {directory}."
    if "could not create shared memory segment" in said or "could not map anonymous shared memory" in said:
        return "There is too little shared memory: lower shared_buffers in data/postgresql.conf, or raise the limit."
    if "Permission denied" in said or "Operation not permitted" in said or "Read-only file system" in said:
        return f"Make {directory} writable for the account of the server, or set DB_EMBEDDED_DIR to another directory."
    if "could not look up effective user ID" in said:
        return "PostgreSQL needs a name for this user: add one to /etc/passwd, or set DATABASE_URL."
    return "Mend what its log says, set DB_EMBEDDED_DIR to another directory, or set DATABASE_URL."
