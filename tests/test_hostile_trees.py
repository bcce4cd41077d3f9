"""
Trees that somebody made to do harm: no file from outside is read, nothing hangs, and nothing is left out in silence.

HOSTILE_TREES says how many are tried; the full run takes 10,000.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from database.ingestion.source_files import SkippedEntry, SourceFileError, SourceTree

TREES = int(os.environ.get("HOSTILE_TREES", "60"))
LIMIT = 100_000
Tree = dict[bytes, tuple[str, Any]]  # kind and content, target or entries, by name
INSIDE, OUTSIDE = b"inside", b"OUTSIDE"

_FILE_NAMES = [
    b"a.md", b"b.md", b"B.MD", b"two\nlines.md", b"\xff\xfe.md", b"bell\x07.md", "e\u0301.md".encode(), b" .md",
    b"-rf.md", b"..md", b"x.md.md", b".hidden.md", b"c.txt", b"%2e%2e.md", b"\xe2\x80\xae.md", b"$(id).md",
]  # fmt: skip
_DIRECTORY_NAMES = [b"d", b"e.md", b".git", b"new\nline", b"\xff", "\u202e".encode(), b"..."]
_TARGETS = [
    b".", b"..", b"../..", b"a.md", b"d", b"d/a.md", b"nowhere", b"../outside", b"../outside/secret.md", b"/",
    b"/dev/zero", b"/dev/tty", b"/proc/self/fd/0", b"/proc/self/root", b"/etc", b"../root", b"loop", b"loop.md",
]  # fmt: skip
_FILES = st.one_of(
    st.just(("file", INSIDE)),
    st.just(("empty", b"")),
    st.just(("sparse", b"")),
    st.just(("fifo", b"")),
    st.just(("socket", b"")),
    st.just(("forbidden", b"")),
    st.sampled_from(_TARGETS).map(lambda target: ("link", target)),
    st.sampled_from([b"a.md", b"b.md"]).map(lambda target: ("hard link", target)),
)
_TREE = st.recursive(
    st.dictionaries(st.sampled_from(_FILE_NAMES), _FILES, max_size=5),
    lambda below: st.dictionaries(
        st.sampled_from([*_FILE_NAMES, *_DIRECTORY_NAMES, b"loop", b"loop.md"]),
        st.one_of(_FILES, below.map(lambda tree: ("directory", tree))),
        max_size=6,
    ),
    max_leaves=12,
)
_SWAPS = st.lists(
    st.tuples(
        st.sampled_from([b"a.md", b"b.md", b"d", b"e.md", b"d/a.md", b"d/d"]),
        st.sampled_from(["link out", "fifo", "directory", "gone", "grown", "link to directory out"]),
    ),
    min_size=1,
    max_size=6,
)


def plant(directory: bytes, tree: Tree) -> None:
    """Make the entries of *tree*; what the file system refuses is not there."""
    for name, (kind, what) in tree.items():
        path = os.path.join(directory, name)
        with suppress(OSError):
            if kind == "directory":
                os.mkdir(path)
                plant(path, what)
            elif kind == "link":
                os.symlink(what, path)
            elif kind == "hard link":
                os.link(os.path.join(directory, what), path)
            else:
                make(kind, path)


def make(kind: str, path: bytes) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{short}/s")
            os.rename(f"{short}/s", path)
    else:
        with open(path, "xb") as file:
            if kind == "file":
                file.write(INSIDE)
            elif kind == "sparse":
                file.truncate(2**30)
        if kind == "forbidden":
            os.chmod(path, 0)


def swap(root: bytes, outside: bytes, name: bytes, kind: str) -> None:
    """Put something else in the place of what is there, as somebody who wants to be read as another would."""
    path, new = os.path.join(root, name), os.path.join(root, b".new")
    with suppress(OSError):
        if kind == "grown":
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)  # it may be a FIFO
            try:
                os.write(file, INSIDE * 100)
            finally:
                os.close(file)
            return
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rename(path, os.path.join(root, b".moved" + os.urandom(4).hex().encode()))
        if kind == "gone":
            os.unlink(path)
        elif kind == "directory":
            os.mkdir(path)
        elif kind == "fifo":
            os.mkfifo(new)
            os.rename(new, path)
        else:
            os.symlink(outside if "directory" in kind else os.path.join(outside, b"a.md"), new)
            os.rename(new, path)


@contextmanager
def planted(tree: Tree) -> Iterator[tuple[Path, bytes]]:
    """A root with *tree* in it, beside a directory full of what must not be read; and that directory."""
    with tempfile.TemporaryDirectory(prefix="hostile") as name:
        base = Path(name)
        outside = base / "outside"
        (outside / "d").mkdir(parents=True)
        for path in ("a.md", "secret.md", "d/a.md"):
            (outside / path).write_bytes(OUTSIDE)
        (base / "root").mkdir()
        plant(os.fsencode(base / "root"), tree)
        yield base / "root", os.fsencode(outside)


def walk(root: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """What was read, by path, and what was not, with the reason."""
    read: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    with closing(SourceTree(root, ".md")) as tree:
        for entry in tree.entries():
            if isinstance(entry, SkippedEntry):
                refused[entry.path] = entry.reason
                continue
            try:
                read[entry.path] = entry.read(LIMIT)
            except SourceFileError as exc:
                refused[entry.path] = str(exc)
    return read, refused


def expected(root: Path) -> int:
    """How many entries are to be told of: those that look like Markdown, or like a directory and are none."""
    count = 0
    waiting = [os.fsencode(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                meant = entry.name.lower().endswith(b".md") and len(entry.name) > 3
                text = os.fsdecode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if {"Cc", "Zl", "Zp", "Cs"}.isdisjoint(map(unicodedata.category, text)):
                        waiting.append(entry.path)
                        count += meant
                    else:
                        count += 1
                elif meant:
                    count += 1
                elif entry.is_symlink():
                    with suppress(OSError):
                        count += stat.S_ISDIR(os.stat(entry.path).st_mode)
    return count


@settings(max_examples=TREES, deadline=None, suppress_health_check=list(HealthCheck))
@given(_TREE)
def test_nothing_escapes_and_nothing_is_left_out(tree: Tree) -> None:
    """Each file that is meant is read or refused with a reason, once; none is read from outside."""
    with planted(tree) as (root, _):
        read, refused = walk(root)
        assert all(content in (INSIDE, b"") for content in read.values())
        assert not read.keys() & refused.keys()
        assert len(read) + len(refused) == expected(root)
        assert all(path.isprintable() and reason for path, reason in refused.items())


@settings(max_examples=TREES, deadline=None, suppress_health_check=list(HealthCheck))
@given(_TREE, _SWAPS)
def test_nothing_escapes_while_the_tree_is_changed(tree: Tree, swaps: list[tuple[bytes, str]]) -> None:
    """Files and directories become links, FIFOs and others while they are read: nothing escapes, nothing hangs."""
    tree = {b"a.md": ("file", INSIDE), b"d": ("directory", {b"a.md": ("file", INSIDE), b"d": ("directory", {})})} | tree
    with planted(tree) as (root, outside):
        stop = threading.Event()

        def disturb() -> None:
            while not stop.is_set():
                for name, kind in swaps:
                    swap(os.fsencode(root), outside, name, kind)
                    with suppress(OSError):
                        path = os.path.join(os.fsencode(root), name)
                        os.unlink(path)
                        make("file", path)

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            for _ in range(3):
                read, _ = walk(root)
                assert not any(OUTSIDE in content for content in read.values())
        finally:
            stop.set()
            disturber.join(30)
        assert not disturber.is_alive()
