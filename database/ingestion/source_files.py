"""
Files of a directory tree, read without leaving it, without hanging, and with nothing left out in silence.

Directories are listed and files opened through descriptors, never through a path, and what was opened is looked at
again: a race that swaps a file or a directory for a link or a FIFO is seen (CWE-367). All of it blocks: call it in a
thread, and everything of one `SourceTree` in the same one.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_DEPTH = 100  # directories below the root; bind mounts can make a tree without an end
_ATTEMPTS = 3

# 0 where a platform lacks one; `SourceTree` refuses platforms that lack what it relies on
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)

_VANISHED = "it is not there, or has just vanished"
_KINDS = {
    0: _VANISHED,
    stat.S_IFDIR: "a directory, not a file",
    stat.S_IFLNK: "a symbolic link, which is not followed",
    stat.S_IFIFO: "a FIFO, not a regular file",
    stat.S_IFSOCK: "a socket, not a regular file",
    stat.S_IFCHR: "a device, not a regular file",
    stat.S_IFBLK: "a device, not a regular file",
}
_BREAKS = frozenset({"Cc", "Zl", "Zp"})  # Unicode's control characters, line and paragraph separators
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_NOT_NAMES = frozenset({"", ".", ".."})


class SourceFileError(Exception):
    """Something that is not read; the text is the reason, for people, without the path and the content."""


@dataclass(slots=True)  # not frozen, which would cost more than listing the file
class SourceFile:
    """
    A regular file of a tree. *path* is for people; *stem* is the path below the root, with slashes, less the extension.

    It can be read until the tree is asked for its next entry.
    """

    path: str
    stem: str
    name: str
    directory: int

    def read(self, limit: int) -> bytes:
        """The content; raises `SourceFileError`, also where it has more than *limit* bytes."""
        return _read_regular_file(self.name, limit, directory=self.directory)


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """
    What is there and is not read, and why.

    *stem* as in `SourceFile`, None for what would not have become a document. *hides_files*: behind it may lie files
    that nobody has seen.
    """

    path: str
    reason: str
    stem: str | None = None
    hides_files: bool = False


class SourceTree:
    """
    An open directory. *extension* (".md", in upper or lower case) says which of the files in and below it are meant.

    Hidden files and directories, those whose names begin with a dot, are passed over as a shell does, and counted in
    `hidden`. *path* itself may be a link. Raises `SourceFileError` where it is no directory that can be read.
    """

    def __init__(self, path: str | os.PathLike[str], extension: str) -> None:
        self.path = os.fspath(path)
        self.hidden = 0
        self._extension = extension.lower()
        shown = str(Path(self.path))
        self._shown = "" if shown == "." else shown if shown.endswith("/") else f"{shown}/"
        if os.open not in os.supports_dir_fd or not _NO_FOLLOW:
            raise SourceFileError("reading a directory needs a POSIX system (openat, O_NOFOLLOW)")
        try:
            self._root = os.open(self.path, _DIRECTORY)
        except FileNotFoundError as exc:
            raise SourceFileError("there is no such directory") from exc
        except NotADirectoryError as exc:
            raise SourceFileError("not a directory") from exc
        except OSError as exc:
            raise SourceFileError(f"cannot be read: {exc.strerror}") from exc
        except ValueError as exc:  # a NUL or a lone surrogate
            raise SourceFileError("no path has such characters") from exc

    def close(self) -> None:
        """Give the descriptor back. Entries that are not at their end are to be closed before."""
        os.close(self._root)

    def entries(self) -> Generator[SourceFile | SkippedEntry, None, None]:
        """
        Every file that is meant, whatever else has such a name, and what else files may lie behind and is not opened.

        In the order of names, the files of a directory before those below it. Holds the names in one directory, and
        those of the directories that are still to come.
        """
        self.hidden = 0
        waiting = [""]
        while waiting:
            relative = waiting.pop()
            try:
                directory = self._open(relative)
            except OSError as exc:
                yield self._unreadable(relative, exc)
                continue
            try:
                below: list[str] = []
                yield from self._entries_in(relative, directory, below)
                waiting += reversed(below)
            except OSError as exc:
                yield self._unreadable(relative, exc)
            finally:
                os.close(directory)

    def missing(self, stems: Iterable[str]) -> list[str]:
        """
        Those of *stems* under which nothing, of whatever kind, is there any more.

        Only where that is certain: not behind a link or a directory that cannot be read, and not in a root that was
        itself deleted.
        """
        wanted: defaultdict[str, list[str]] = defaultdict(list)
        for stem in stems:
            if _NOT_NAMES.isdisjoint(stem.split("/")):
                wanted[stem.rpartition("/")[0]].append(stem)
        gone: list[str] = []
        for relative, in_directory in wanted.items():
            there = self._stems_in(relative)
            if there is not None:
                gone += [stem for stem in in_directory if stem not in there]
        return gone if os.fstat(self._root).st_nlink else []

    def _open(self, relative: str) -> int:
        """A descriptor of the directory *relative*, reached through nothing but directories."""
        directory = os.open(".", _DIRECTORY, dir_fd=self._root)
        for name in relative.split("/") if relative else ():
            parent = directory
            try:
                directory = os.open(name, _DIRECTORY | _NO_FOLLOW, dir_fd=parent)
            except NotADirectoryError:
                # what Linux says of a link, too; anything else that took the place of a directory has no files in it
                if not stat.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
                raise
            finally:
                os.close(parent)
        return directory

    def _entries_in(self, relative: str, directory: int, below: list[str]) -> Iterator[SourceFile | SkippedEntry]:
        """The entries of one directory; the directories in it that are to be looked into go to *below*."""
        by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for name, kind in _list_directory(directory):
            meant = self._is_meant(name)
            is_directory = kind == stat.S_IFDIR
            if name.startswith("."):
                self.hidden += meant or is_directory
                continue
            if not (meant or is_directory or (kind == stat.S_IFLNK and _leads_to_directory(name, directory))):
                continue
            entry = _join(relative, name)
            if reason := _why_no_code(name):
                yield SkippedEntry(self._path_of(entry), reason)
                continue
            if kind == stat.S_IFREG:
                by_stem[self._stem_of(entry)].append(name)
                continue
            if is_directory and entry.count("/") < MAX_DEPTH:
                below.append(entry)
            elif is_directory:
                yield SkippedEntry(
                    self._path_of(entry), f"more than {MAX_DEPTH} directories deep, not looked into", hides_files=True
                )
            if meant or not is_directory:
                stem = self._stem_of(entry) if meant else None
                yield SkippedEntry(self._path_of(entry), _KINDS.get(kind, "not a regular file"), stem)
        for stem, names in by_stem.items():
            for name in names:
                path = self._path_of(_join(relative, name))
                if len(names) == 1:
                    yield SourceFile(path, stem, name, directory)
                else:
                    others = " and ".join(other for other in names if other != name)
                    yield SkippedEntry(path, f"would get the same code as {others}", stem)

    def _stems_in(self, relative: str) -> set[str] | None:
        """The stems in the directory *relative*: none where it is gone, None where nobody can tell."""
        try:
            directory = self._open(relative)
        except FileNotFoundError:
            return set()
        except OSError:
            return None
        try:
            return {
                self._stem_of(_join(relative, name)) for name, _ in _list_directory(directory) if self._is_meant(name)
            }
        except OSError:
            return None
        finally:
            os.close(directory)

    def _is_meant(self, name: str) -> bool:
        return name[-len(self._extension) :].lower() == self._extension and len(name) > len(self._extension)

    def _stem_of(self, entry: str) -> str:
        return entry[: -len(self._extension)]

    def _path_of(self, relative: str) -> str:
        return printable(self._shown + relative if relative else str(Path(self.path)))

    def _unreadable(self, relative: str, exc: OSError) -> SkippedEntry:
        return SkippedEntry(self._path_of(relative), _why(exc), hides_files=True)


def read_source_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """
    What is in the file *path*, which may be a link; raises `SourceFileError`.

    Not for paths from strangers: it opens whatever regular file they name.
    """
    try:
        kind = stat.S_IFMT(Path(path).stat().st_mode)
    except OSError as exc:
        reason = "a symbolic link that leads to itself" if exc.errno == errno.ELOOP else _why(exc)
        raise SourceFileError(reason) from exc
    except ValueError as exc:
        raise SourceFileError("no path has such characters") from exc
    if kind != stat.S_IFREG:  # looked at before it is opened: opening a device can be enough to do something
        raise SourceFileError(_KINDS.get(kind, "not a regular file"))
    return _read_regular_file(path, limit)


def decode_text(data: bytes, encoding: str) -> str:
    """
    *data* as text, every character of it; raises `SourceFileError` where PostgreSQL could not store that.

    Line ends stay as they are, and so does a byte order mark (U+FEFF) in UTF-8; "utf-8-sig" takes it away.
    """
    codec = codecs.lookup(encoding).name
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as exc:
        position = exc.start + len(data) - len(exc.object)  # utf-8-sig decodes what is behind the mark
        raise SourceFileError(f"not {codec.upper()}: byte 0x{data[position]:02x} at position {position}") from exc
    except UnicodeError as exc:
        raise SourceFileError(f"not {codec.upper()}") from exc
    if (position := text.find("\0")) >= 0:
        where = f"byte {data.index(0)}" if codec == "utf-8" else f"character {position}"
        raise SourceFileError(f"a NUL at {where}, which PostgreSQL cannot store in a text")
    if codec != "utf-8":  # others, UTF-7 for one, can spell what is no text
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise SourceFileError(f"a lone surrogate at character {exc.start}, which is no text") from exc
    return text


def printable(path: str) -> str:
    """*path* on one line and as valid Unicode, whatever is in it; control characters and stray bytes as escapes."""
    if path.isprintable():
        return path
    path = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if _misleads(c) else c for c in path)


def _misleads(character: str) -> bool:
    """Breaks a line, or turns the direction of what follows, so that it reads as something else (CVE-2021-42574)."""
    return unicodedata.category(character) in _BREAKS or unicodedata.bidirectional(character) in _TURNS


def _why_no_code(name: str) -> str | None:
    """Why neither a file of this name nor what is in a directory of this name can have a code; None where it can."""
    if name.isprintable():
        return None
    if not _BREAKS.isdisjoint(map(unicodedata.category, name)):
        return "its name holds a line break or another control character; rename it"
    if "Cs" in map(unicodedata.category, name):  # how Python spells a byte that is no text (PEP 383)
        return "its name is not valid UTF-8; rename it"
    return None


def _join(relative: str, name: str) -> str:
    return f"{relative}/{name}" if relative else name


def _list_directory(directory: int) -> list[tuple[str, int]]:
    """Names and kinds (`stat.S_IFMT`) of what is in a directory, in the order of names."""
    with os.scandir(directory) as entries:
        return sorted((entry.name, _kind_of(entry)) for entry in entries)


def _kind_of(entry: os.DirEntry[str]) -> int:
    """0 for what has just vanished. The first three cost no system call on most file systems."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def _leads_to_directory(name: str, directory: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory).st_mode)
    except OSError:
        return False


def _read_regular_file(path: str | os.PathLike[str], limit: int, *, directory: int | None = None) -> bytes:
    """The content of a file that is regular once it is open; in a *directory*, links are not followed."""
    flags = _FILE if directory is None else _FILE | _NO_FOLLOW
    try:
        for _ in range(_ATTEMPTS):
            descriptor = os.open(path, flags, dir_fd=directory)
            try:
                data = _read_descriptor(descriptor, limit)
            finally:
                os.close(descriptor)
            if data is not None:
                return data
    except OSError as exc:
        raise SourceFileError(_why(exc)) from exc
    raise SourceFileError("it changes while it is read")


def _read_descriptor(descriptor: int, limit: int) -> bytes | None:
    """The content, None where it changed meanwhile. Reads one byte more than there was, however fast the file grows."""
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise SourceFileError(_KINDS.get(stat.S_IFMT(before.st_mode), "not a regular file"))
    if before.st_size > limit:
        raise SourceFileError(f"too large: {before.st_size:,} bytes, and the limit is {limit:,}")
    chunks: list[bytes] = []
    left = before.st_size + 1
    while left > 1 or not chunks:  # a read that gets all but the one byte more was the last one
        chunk = os.read(descriptor, left)
        chunks.append(chunk)
        left -= len(chunk)
        if not chunk:
            break
    after = os.fstat(descriptor)
    if left != 1 or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


_ERRORS = {
    errno.ENOENT: _VANISHED,
    errno.ENOTDIR: "a part of its path is not a directory",
    errno.ELOOP: "a symbolic link, which is not followed",
    errno.EMLINK: "a symbolic link, which is not followed",  # FreeBSD
    errno.ENXIO: "a socket, not a regular file",
}


def _why(exc: OSError) -> str:
    return _ERRORS.get(exc.errno or 0) or f"cannot be read: {exc.strerror or type(exc).__name__}"
