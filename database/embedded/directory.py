"""
Where the embedded server has its files: its directory, its socket, and how others find them.

    DIRECTORY/               0700
        data/                the data directory; it appears complete or not at all
        data.new-*/          one that is being made
        run/                 the socket, unless no client could reach it there (see `choose_socket_directory`)
        server.log           and server.log.1, the one before
        *.lock               see postmaster.py
        kept                 there: the server goes on without users
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from ..exceptions import DatabaseNotAvailableError
from ..settings import get_settings
from .account import Account, can_reach, make_open_directory

PORT = 5432
# sun_path holds 108 bytes on Linux and 104 elsewhere, with the closing NUL
_SOCKET_PATH_LIMIT = (107 if sys.platform == "linux" else 103) - len(f"/.s.PGSQL.{PORT}")
_PROJECT_MARKS = ("pyproject.toml", ".git", ".env")


def find_directory(directory: Path | None = None, *, place: Path | None = None) -> Path:
    """
    The real path of *directory*, else of DB_EMBEDDED_DIR, else of the project's directory in the user's data.

    The project is the nearest directory, from *place* (the working directory) upward, that holds a pyproject.toml, .git
    or .env.
    """
    directory = directory or get_settings().embedded_dir
    if directory is not None:
        return directory.expanduser().resolve()
    here = (place or Path.cwd()).resolve()
    marked = (place for place in (here, *here.parents) if any((place / mark).exists() for mark in _PROJECT_MARKS))
    project = next(marked, here)
    name = re.sub(r"[^\w.-]", "-", project.name, flags=re.ASCII)[:40] or "root"
    return (default_root() / f"{name}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:8]}").resolve()


def default_root() -> Path:
    """
    The directory that holds the servers of this user's projects.

    Root's is /var/lib/database-py and not in /root, which PostgreSQL's account could not enter.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/database-py")
    try:
        import platformdirs
    except ImportError as exc:
        raise DatabaseNotAvailableError(
            "the embedded server needs platformdirs to find your data directory: "
            "pip install 'pgdatabase[embedded]', or set DB_EMBEDDED_DIR",
            original_error=exc,
        ) from exc
    return Path(platformdirs.user_data_dir("database-py"))


def choose_socket_directory(directory: Path, account: Account) -> Path:
    """
    `run` in *directory*, unless no client could connect there; then a directory of the account's under the temp dir.

    A socket's path is short, libpq and asyncpg take a comma for a list of hosts, and `postmaster.pid` has lines.
    """
    inside = directory / "run"
    text = os.fsencode(inside)
    usable = len(text) <= _SOCKET_PATH_LIMIT and not set(text) & set(b",\n\r") and _is_utf8(text)
    if usable and can_reach(account, directory):
        return inside
    identity = f"{directory}\0{directory.stat().st_ino}"  # a directory that is deleted and made again is another one
    name = f"database-{account.uid}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:12]}"
    for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - a private directory in it
        outside = base / name
        if len(os.fsencode(outside)) <= _SOCKET_PATH_LIMIT and _is_safe_base(base, account):
            return outside
    raise DatabaseNotAvailableError(
        f"there is no place for the socket of {directory}: its path is too long, and neither {base} nor the temp "
        "directory is one where others cannot replace our files. Set DB_EMBEDDED_DIR to a shorter path"
    )


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_safe_base(base: Path, account: Account) -> bool:
    """True where nobody else can rename or remove what *account* has in *base*."""
    try:
        found = base.stat()
    except OSError:
        return False
    return can_reach(account, base) and (not found.st_mode & 0o022 or bool(found.st_mode & stat.S_ISVTX))


def make_uri(socket_directory: Path) -> str:
    """The connection URI for asyncpg, libpq and psql. The port is in it, so that a PGPORT does not matter."""
    return f"postgresql://postgres@/postgres?host={quote(os.fsencode(socket_directory), safe='')}&port={PORT}"


def make_directory(directory: Path, account: Account) -> None:
    """
    Make *directory* for the server, or make sure that an existing one is ours alone to write.

    The directories above are made as usual, and never changed. One that was there before, root's or the account's,
    keeps its owner. Raises `DatabaseNotAvailableError` for somebody else's, and for one that others may write.
    """
    try:
        if not directory.exists():
            _make_new(directory, account)
    except OSError as exc:
        raise DatabaseNotAvailableError(
            f"cannot make {directory} for the embedded server: {exc}. Set DB_EMBEDDED_DIR to a directory that can be "
            "made, or DATABASE_URL",
            original_error=exc,
        ) from exc
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), account.uid):
        raise DatabaseNotAvailableError(
            f"{directory} is not a directory of ours (it belongs to uid {found.st_uid}): set DB_EMBEDDED_DIR to another"
        )
    if (directory / "users.lock").exists() or not any(directory.iterdir()):
        # the account has to pass through root's directory; what is in it is 0700 or 0600
        directory.chmod(0o711 if account.is_other and found.st_uid == 0 else 0o700)
    elif found.st_mode & 0o022:
        raise DatabaseNotAvailableError(
            f"others may write to {directory}, and there are other things in it: chmod go-w it, or set DB_EMBEDDED_DIR "
            "to a directory that need not exist yet"
        )


def _make_new(directory: Path, account: Account) -> None:
    make_open_directory(directory.parent)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:  # another process that starts now
        return
    if account.is_other:
        os.chown(directory, account.uid, account.gid)


def as_seen_by(account: Account, data: Path) -> str:
    """
    A path that leads *account* to *data*.

    It need not be able to pass the directories above, such as /root: the program starts with *data* as its working
    directory, and Linux follows /proc/self/cwd without asking for the way there.
    """
    if can_reach(account, data):
        return str(data)
    if sys.platform == "linux":
        return "/proc/self/cwd"
    raise DatabaseNotAvailableError(
        f"PostgreSQL refuses to run as root, and uid {account.uid} cannot reach {data}: set DB_EMBEDDED_DIR to a "
        "directory that it can reach"
    )
