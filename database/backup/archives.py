"""
Dumps as files: what their heads say, their checksums, and how a new one appears whole or not at all.

A dump is an archive in pg_dump's custom format, and beside it lies its checksum, as `sha256sum -c` reads it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..exceptions import BackupError

SUFFIX = ".dump"
_CHECKSUM = ".sha256"
_MAGIC = b"PGDMP"
_CUSTOM = 1  # the format
_OLDEST, _COMPRESSED_BY_NAME = (1, 14), (1, 15)  # versions of the archive format
_PIECE = 1 << 20


class Head(NamedTuple):
    """What the head of an archive says: the time is that of the machine that made it, without a zone."""

    database: str
    server_version: str
    pg_dump_version: str
    created_at: datetime


def major_of(version: str) -> int:
    """18 of "18.6 (Debian 18.6-1)"."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def read_head(path: Path) -> Head:
    """The head of the archive *path*. Raises `BackupError` where it is none, `OSError` where it cannot be read."""
    with path.open("rb") as file:
        try:
            return _read_head(file)
        except (ValueError, IndexError, OverflowError) as exc:
            raise BackupError(f"{path} is no dump: it was not made by pg_dump --format=custom") from exc


def _read_head(file: BinaryIO) -> Head:
    # https://github.com/postgres/postgres/blob/REL_18_STABLE/src/bin/pg_dump/pg_backup_archiver.c, ReadHead
    if file.read(5) != _MAGIC:
        raise ValueError
    major, minor, _, size, _, kind = file.read(6)
    if (major, minor) < _OLDEST or kind != _CUSTOM or not 1 <= size <= 8:
        raise ValueError

    def read_integer() -> int:
        sign, *digits = file.read(size + 1)
        if len(digits) != size:
            raise ValueError
        number = int.from_bytes(bytes(digits), "little")
        return -number if sign else number

    def read_text() -> str:
        length = read_integer()
        if not 0 <= length <= 10_000:
            raise ValueError
        return file.read(length).decode(errors="replace")

    if (major, minor) >= _COMPRESSED_BY_NAME:
        file.read(1)
    else:
        read_integer()
    second, minute, hour, day, month, year, _ = (read_integer() for _ in range(7))
    created_at = datetime(year + 1900, month + 1, day, hour, minute, min(second, 59))
    return Head(read_text(), read_text(), read_text(), created_at)


def checksum_of(path: Path) -> str:
    """SHA-256 of the file, as 64 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    """Where the checksum of the dump *path* lies."""
    return path.with_name(path.name + _CHECKSUM)


def read_checksum(path: Path) -> str | None:
    """The checksum that lies beside the dump *path*; None where there is none."""
    try:
        text = checksum_file(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = re.match(r"[0-9a-f]{64}\b", text)
    return found[0] if found else ""


def verify(path: Path) -> str:
    """The checksum of the dump *path*. Raises `BackupError` where it is not the one that lies beside it."""
    if not path.is_file():
        raise BackupError(f"there is no dump {path}")
    expected = read_checksum(path)
    if expected is None:
        raise BackupError(
            f"there is no checksum {checksum_file(path)}: if you trust the file, make one by "
            f"`sha256sum {path.name} > {checksum_file(path).name}`"
        )
    found = checksum_of(path)
    if found != expected:
        raise BackupError(f"{path} is not what was dumped: its checksum is {found[:12]}…, not {expected[:12] or '?'}…")
    return found


def new_path(directory: Path, database: str) -> Path:
    """A path for a dump of *database*, made now, that is not there yet."""
    readable = re.sub(r"[^\w.-]+", "_", database).lstrip(".-") or "database"
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path, number = directory / f"{readable}-{moment}{SUFFIX}", 1
    while path.exists() or checksum_file(path).exists():
        number += 1
        path = directory / f"{readable}-{moment}-{number}{SUFFIX}"
    return path


class NewDump:
    """A file that is being written, and that only its writer sees."""

    def __init__(self, path: Path, temporary: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self._temporary = temporary

    def size(self) -> int:
        """How many bytes there are until now."""
        return os.fstat(self.file.fileno()).st_size

    def seal(self, expected: str | None = None) -> str:
        """
        Its checksum, once it is on the disk: all of it is read, so not in an event loop.

        Raises `BackupError` where that is not the *expected* one, or where it is no dump.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        checksum = checksum_of(self._temporary)
        if expected is not None and checksum != expected:
            raise BackupError("the dump did not arrive whole: its checksum is not the one that was announced")
        read_head(self._temporary)
        return checksum

    def publish(self, checksum: str) -> None:
        """Let it appear under its name, with its *checksum*; raises `BackupError` where the name is taken meanwhile."""
        self._write_checksum(checksum)
        try:
            os.link(self._temporary, self.path)  # unlike a renaming, it replaces nothing
        except FileExistsError as exc:
            raise _taken(self.path) from exc
        except OSError:  # a file system without hard links
            self._temporary.rename(self.path)
        _sync_directory(self.path.parent)

    def _write_checksum(self, checksum: str) -> None:
        """Before the dump itself: one without a dump means nothing."""
        if self.path.exists():
            raise _taken(self.path)
        beside = self._temporary.with_name(self._temporary.name + _CHECKSUM)
        with _open_new(beside) as file:
            file.write(f"{checksum}  {self.path.name}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        beside.rename(checksum_file(self.path))


@contextmanager
def new_dump(path: Path) -> Iterator[NewDump]:
    """
    A file of mode 0600 beside *path*, gone at the end of the block in any case; what was published stays.

    Raises `BackupError` where *path* is there already, or where it cannot be written.
    """
    if path.exists():
        raise _taken(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _open_new(temporary) as file:
            yield NewDump(path, temporary, file)
    except OSError as exc:
        raise BackupError(f"cannot write {path}: {exc.strerror}", original_error=exc) from exc
    finally:
        with suppress(OSError):
            for leftover in (temporary, temporary.with_name(temporary.name + _CHECKSUM)):
                leftover.unlink(missing_ok=True)
            if not path.exists():
                checksum_file(path).unlink(missing_ok=True)


def _open_new(path: Path) -> BinaryIO:
    # for reading, too: pg_dump goes back and reads
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600), "w+b")


def _taken(path: Path) -> BackupError:
    return BackupError(f"{path} is there already: dumps are not overwritten; delete it, or take another name")


def _sync_directory(directory: Path) -> None:
    """After a power cut, the names are there, too."""
    with suppress(OSError):  # not every system can
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
