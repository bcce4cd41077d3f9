"""What is read of a directory tree, and what is said of everything else in it."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from database.ingestion.source_files import (
    MAX_DEPTH,
    SkippedEntry,
    SourceFile,
    SourceFileError,
    SourceTree,
    decode_text,
    printable,
    read_source_file,
)

LIMIT = 1_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def walk(root: Path, extension: str = ".md") -> tuple[dict[str, bytes | str], list[SkippedEntry]]:
    """The content, or the reason why there is none, of each file by its stem; and what was skipped."""
    read: dict[str, bytes | str] = {}
    skipped = []
    with closing(SourceTree(root, extension)) as tree:
        for entry in tree.entries():
            if isinstance(entry, SkippedEntry):
                skipped.append(entry)
                continue
            try:
                read[entry.stem] = entry.read(LIMIT)
            except SourceFileError as exc:
                read[entry.stem] = str(exc)
    return read, skipped


def reasons(root: Path) -> dict[str, str]:
    return {os.path.relpath(entry.path, root): entry.reason for entry in walk(root)[1]}


def test_files_below_the_root_are_read(root: Path) -> None:
    """Every file with the extension is found at any depth, under its path without extension, in the order of names."""
    (root / "b" / "c").mkdir(parents=True)
    (root / "b" / "c" / "deep.md").write_bytes(b"deep")
    (root / "b" / "two.md").write_bytes(b"two")
    (root / "z.md").write_bytes(b"z")
    (root / "a.md").write_bytes(b"a")
    read, skipped = walk(root)
    assert list(read.items()) == [("a", b"a"), ("z", b"z"), ("b/two", b"two"), ("b/c/deep", b"deep")]
    assert skipped == []


def test_the_extension_is_meant_in_any_case(root: Path) -> None:
    """`README.MD` is a Markdown file, `readme.txt`, `md` and a file with nothing before the extension are not."""
    for name in ("README.MD", "notes.Md", "readme.txt", "md", "x.md.txt", ".md"):
        (root / name).touch()
    assert walk(root) == ({"README": b"", "notes": b""}, [])


def test_hidden_entries_are_passed_over_and_counted(root: Path) -> None:
    """What begins with a dot is left alone, as a shell does, and `hidden` says how much of it there is."""
    (root / ".git").mkdir()
    (root / ".git" / "description.md").touch()
    (root / ".draft.md").touch()
    (root / ".gitignore").touch()
    with closing(SourceTree(root, ".md")) as tree:
        assert list(tree.entries()) == []
        assert tree.hidden == 2


@pytest.mark.parametrize("target", ["inside.md", "../outside.md", "/etc/passwd", "nowhere.md", "link.md"])
def test_a_link_is_reported_and_not_followed(root: Path, target: str) -> None:
    """A link to a file inside, outside, to nothing and to itself is skipped."""
    (root / "inside.md").touch()
    (root.parent / "outside.md").write_bytes(b"secret")
    (root / "link.md").symlink_to(target)
    read, skipped = walk(root)
    assert read == {"inside": b""}
    assert [(entry.stem, entry.reason) for entry in skipped] == [("link", "a symbolic link, which is not followed")]


def test_a_link_to_a_directory_is_reported_and_not_followed(root: Path) -> None:
    """Links to directories, outside, inside and above, are skipped; so a loop of links ends."""
    (root.parent / "outside").mkdir()
    (root.parent / "outside" / "secret.md").write_bytes(b"secret")
    (root / "sub").mkdir()
    (root / "sub" / "a.md").touch()
    (root / "sub" / "up").symlink_to("..")
    (root / "out").symlink_to("../outside")
    (root / "notes").symlink_to("sub/a.md")
    assert walk(root)[0] == {"sub/a": b""}
    assert set(reasons(root)) == {"out", "sub/up"}, "a link to a file of another extension is none of our business"


def test_what_is_no_regular_file_is_reported_and_not_opened(root: Path) -> None:
    """FIFOs, sockets and directories that have the extension in their names are skipped; nothing waits for a writer."""
    os.mkfifo(root / "fifo.md")
    os.mkfifo(root / "other")
    (root / "directory.md").mkdir()
    (root / "directory.md" / "a.md").touch()
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/s")
        Path(short, "s").rename(root / "socket.md")
        assert walk(root)[0] == {"directory.md/a": b""}
        assert reasons(root) == {
            "directory.md": "a directory, not a file",
            "fifo.md": "a FIFO, not a regular file",
            "socket.md": "a socket, not a regular file",
        }


def test_names_that_cannot_be_codes_are_reported(root: Path) -> None:
    """Line breaks, control characters and bytes that are no UTF-8 are skipped, with a path that can be printed."""
    for name in ("two\nlines.md", "bell\x07.md", "latin\udce9.md", "separator\u2028.md", "fine \u00a0é🎉.md"):
        (root / name).touch()
    (root / "directory\udcff").mkdir()
    (root / "directory\udcff" / "a.md").touch()
    read, skipped = walk(root)
    assert set(read) == {"fine \u00a0é🎉"}
    assert {Path(entry.path).name for entry in skipped} == {
        "two\\nlines.md", "bell\\x07.md", "latin\\xe9.md", "separator\\u2028.md", "directory\\xff",
    }  # fmt: skip
    assert {entry.reason for entry in skipped} == {
        "its name holds a line break or another control character; rename it",
        "its name is not valid UTF-8; rename it",
    }


def test_files_that_would_share_a_code_are_all_reported(root: Path) -> None:
    """Two names that differ in the case of their extensions only are both skipped, and name each other."""
    for name in ("a.md", "a.MD", "b.md"):
        (root / name).touch()
    if len(list(root.iterdir())) < 3:
        pytest.skip("this file system does not know upper from lower case")
    assert walk(root)[0] == {"b": b""}
    assert reasons(root) == {"a.md": "would get the same code as a.MD", "a.MD": "would get the same code as a.md"}


def test_directories_end_at_a_depth(root: Path) -> None:
    """What is deeper than 100 directories is reported as not looked into, and what is above is read."""
    bottom = root.joinpath(*["d"] * (MAX_DEPTH + 1))
    bottom.mkdir(parents=True)
    (bottom / "a.md").touch()
    (bottom.parent / "b.md").touch()
    read, skipped = walk(root)
    assert list(read) == ["d/" * MAX_DEPTH + "b"]
    assert [(entry.reason, entry.hides_files) for entry in skipped] == [
        ("more than 100 directories deep, not looked into", True)
    ]


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """A directory of an ordinary user, and as that user: root may read everything."""
    with tempfile.TemporaryDirectory() as directory:
        if os.geteuid() == 0:
            os.chown(directory, 65534, 65534)
            os.seteuid(65534)
            try:
                yield Path(directory)
            finally:
                os.seteuid(0)
        else:
            yield Path(directory)


def test_what_may_not_be_read_is_reported() -> None:
    """A file and a directory without permission have their reasons; of the directory nobody knows what it hides."""
    with ordinary_user() as root:
        (root / "a.md").touch(mode=0)
        (root / "b.md").touch()
        (root / "closed").mkdir(mode=0)
        read, skipped = walk(root)
        assert read == {"a": "cannot be read: Permission denied", "b": b""}
        assert [(entry.path, entry.reason, entry.hides_files) for entry in skipped] == [
            (str(root / "closed"), "cannot be read: Permission denied", True)
        ]
        with closing(SourceTree(root, ".md")) as tree:
            assert tree.missing(["a", "closed/x", "c"]) == ["c"]
        with pytest.raises(SourceFileError, match="cannot be read: Permission denied"):
            SourceTree(root / "closed", ".md")


def replace_with(kind: str, path: Path, secret: Path) -> None:
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "a symbolic link, which is not followed"),
        ("fifo", "a FIFO, not a regular file"),
        ("directory", "a directory, not a file"),
        ("nothing", "it is not there, or has just vanished"),
    ],
)
def test_a_file_swapped_before_it_is_read_is_caught(root: Path, kind: str, reason: str) -> None:
    """A regular file that becomes something else after the directory was listed is not read, and nothing hangs."""
    (root / "a.md").write_bytes(b"harmless")
    secret = root.parent / "secret"
    secret.write_bytes(b"secret")
    with closing(SourceTree(root, ".md")) as tree, closing(tree.entries()) as entries:
        entry = next(entries)
        assert isinstance(entry, SourceFile)
        replace_with(kind, root / "a.md", secret)
        with pytest.raises(SourceFileError, match=reason):
            entry.read(LIMIT)


@pytest.mark.parametrize("level", ["sub", "sub/below"])
def test_a_directory_swapped_for_a_link_is_not_entered(root: Path, level: str) -> None:
    """A directory on the way that becomes a link after it was listed leads nowhere, and is reported."""
    outside = root.parent / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "secret.md").write_bytes(b"secret")
    (outside / "below" / "secret.md").write_bytes(b"secret")
    (root / "sub" / "below").mkdir(parents=True)
    (root / "sub" / "below" / "b.md").touch()
    (root / "sub" / "s.md").touch()
    (root / "a.md").touch()
    with closing(SourceTree(root, ".md")) as tree, closing(tree.entries()) as entries:
        stop = "a" if level == "sub" else "sub/s"
        for entry in entries:
            if entry.stem == stop:
                break
        (root / level).rename(root.parent / "moved")
        (root / level).symlink_to(outside, target_is_directory=True)
        (rest,) = entries
        assert isinstance(rest, SkippedEntry)
        assert (rest.path, rest.hides_files) == (str(root / level), True)


def test_a_file_that_changes_while_it_is_read_is_not_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows with every look at it is refused, after a few attempts; one that stands still again is read."""
    file = root / "log.md"
    file.write_bytes(b"1")
    real_read, changes = os.read, [3]

    def grow(descriptor: int, count: int) -> bytes:
        if changes[0]:
            changes[0] -= 1
            file.write_bytes(file.read_bytes() + b"more")
        return real_read(descriptor, count)

    monkeypatch.setattr(os, "read", grow)
    with pytest.raises(SourceFileError, match="it changes while it is read"):
        read_source_file(file, LIMIT)
    changes[0] = 1
    assert read_source_file(file, LIMIT) == b"1" + b"more" * 4


def test_a_file_of_a_gigabyte_is_refused_by_its_size(root: Path) -> None:
    """A file over the limit, here a sparse one, is not read at all; one of exactly the limit is."""
    with (root / "big.md").open("wb") as file:
        file.truncate(2**30)
    (root / "fits.md").write_bytes(b"x" * LIMIT)
    assert walk(root)[0] == {
        "big": "too large: 1,073,741,824 bytes, and the limit is 1,000",
        "fits": b"x" * LIMIT,
    }


def test_no_descriptor_is_left_open(root: Path) -> None:
    """Walking to the end, stopping in the middle and failing all give back every descriptor."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    (root / "sub").mkdir()
    for name in ("a.md", "sub/b.md"):
        (root / name).touch()
    os.mkfifo(root / "c.md")
    before = len(list(Path("/proc/self/fd").iterdir()))
    walk(root)
    with closing(SourceTree(root, ".md")) as tree, closing(tree.entries()) as entries:
        next(entries)
        tree.missing(["a", "x/y", "sub/z", "a.md/x"])
    with pytest.raises(SourceFileError):
        SourceTree(root / "a.md", ".md")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "there is no such directory"),
        ("file", "not a directory"),
        ("fifo", "not a directory"),
        ("nul\0", "no path has such characters"),
    ],
)
def test_a_root_that_is_no_directory_is_refused(root: Path, name: str, reason: str) -> None:
    """A missing directory, a file and a FIFO as root are errors that say so, and do not wait."""
    (root / "file").touch()
    os.mkfifo(root / "fifo")
    with pytest.raises(SourceFileError, match=reason):
        SourceTree(f"{root}/{name}", ".md")


def test_missing_names_only_what_is_certainly_gone(root: Path) -> None:
    """A file that became a link, a directory or anything else is there; behind a link nobody can tell."""
    (root / "sub").mkdir()
    (root / "sub" / "here.md").touch()
    (root / "UPPER.MD").touch()
    (root / "link.md").symlink_to("nowhere")
    (root / "linked").symlink_to("sub")
    (root / "file").touch()
    there = ["sub/here", "UPPER", "link", "linked/x"]
    no_stems = ["../x", "a/../b", "", "a//b"]
    with closing(SourceTree(root, ".md")) as tree:
        assert set(tree.missing([*there, *no_stems, "sub/gone", "file/x", "nodir/x", "gone"])) == {
            "sub/gone", "file/x", "nodir/x", "gone",
        }  # fmt: skip
        assert tree.missing([]) == []


def test_nothing_is_missing_in_a_root_that_was_deleted(root: Path) -> None:
    """Where the whole tree has vanished, no file counts as gone: something else is wrong."""
    with closing(SourceTree(root, ".md")) as tree:
        root.rmdir()
        assert tree.missing(["a", "b/c"]) == []


def test_a_named_file_may_be_a_link(root: Path) -> None:
    """A path that the caller names is opened as `cat` would, through links, but only if a regular file is there."""
    (root / "a.md").write_bytes(b"text")
    (root / "link.md").symlink_to("a.md")
    (root / "loop.md").symlink_to("loop.md")
    os.mkfifo(root / "fifo.md")
    assert read_source_file(root / "link.md", LIMIT) == b"text"
    for path, reason in {
        root / "missing.md": "it is not there",
        root: "a directory, not a file",
        root / "fifo.md": "a FIFO, not a regular file",
        root / "loop.md": "a symbolic link that leads to itself",
        root / "a.md" / "b": "a part of its path is not a directory",
        Path("/dev/null"): "a device, not a regular file",
    }.items():
        with pytest.raises(SourceFileError, match=reason):
            read_source_file(path, LIMIT)
    with pytest.raises(SourceFileError, match="no path has such characters"):
        read_source_file("a\0b", LIMIT)


@pytest.mark.parametrize("text", ["", "a\r\nb\rc\n", "\ufeff# Mark\n", "日本語 🎉\n"])
def test_every_character_of_a_text_stays(text: str) -> None:
    """Line ends, a byte order mark and everything else come through, and the hash is that of the UTF-8."""
    assert decode_text(text.encode(), "utf-8") == text
    assert decode_text(text.encode("utf-16-le"), "utf-16-le") == text
    assert decode_text(b"\xef\xbb\xbfx", "utf-8-sig") == "x"


@pytest.mark.parametrize(
    ("data", "encoding", "reason"),
    [
        (b"abc\xffdef", "utf-8", "not UTF-8: byte 0xff at position 3"),
        (b"ab\xc3", "utf8", "not UTF-8: byte 0xc3 at position 2"),
        (b"\xef\xbb\xbfab\xff", "utf-8-sig", "not UTF-8-SIG: byte 0xff at position 5"),
        (b"\xed\xa0\x80", "utf-8", "not UTF-8: byte 0xed at position 0"),
        (b"caf\xe9", "ascii", "not ASCII: byte 0xe9 at position 3"),
        ("é\0".encode(), "utf-8", "a NUL at byte 2, which PostgreSQL cannot store in a text"),
        ("é\0".encode("utf-16-le"), "utf-16-le", "a NUL at character 1, which PostgreSQL cannot store in a text"),
        (b"+2AA-", "utf-7", "not UTF-7: byte 0x2b at position 0|a lone surrogate"),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_their_position(data: bytes, encoding: str, reason: str) -> None:
    """The reason names the encoding and where in the file the first wrong byte is, and repeats nothing else of it."""
    with pytest.raises(SourceFileError, match=reason):
        decode_text(data, encoding)


@given(st.binary(max_size=50))
def test_any_path_can_be_printed(name: bytes) -> None:
    """Whatever bytes a path has, what people see of it is one line of valid Unicode."""
    shown = printable(os.fsdecode(name))
    shown.encode()
    assert len(shown.splitlines()) <= 1


NAMES = ["a", "b", "a.md", "b.md", "B.MD", ".md", ".h.md", "two\nlines.md", "\udcff.md", "\udcff", ".git"]
KINDS = ["file", "directory", "fifo", "link to itself", "link above", "link to a secret", "link to secrets", "sparse"]
ENTRIES = st.tuples(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), st.sampled_from(KINDS))


def plant(path: Path, kind: str, outside: Path) -> None:
    """Make one entry of a hostile tree, unless something is there already, or its directory is none."""
    with contextlib.suppress(FileExistsError, FileNotFoundError, NotADirectoryError):
        if kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind.startswith("link"):
            targets = {"itself": path, "above": Path(".."), "secret": outside / "secret.md", "secrets": outside}
            path.symlink_to(targets[kind.split()[-1]])
        else:
            with path.open("xb") as file:
                file.truncate(2**30) if kind == "sparse" else file.write(b"ours")


@settings(max_examples=60, deadline=None)
@given(st.lists(ENTRIES, max_size=25))
def test_a_hostile_tree_is_told_of_in_full(entries: list[tuple[list[str], str]]) -> None:
    """Whatever links, loops, FIFOs and names a tree has: nothing outside is read, nothing inside is left out."""
    with tempfile.TemporaryDirectory() as directory:
        root, outside = Path(directory, "root"), Path(directory, "outside")
        root.mkdir()
        outside.mkdir()
        (outside / "secret.md").write_bytes(b"secret")
        for names, kind in sorted(entries, key=lambda entry: (len(entry[0]), entry[1] != "directory")):
            if not any(root.joinpath(*names[:end]).is_symlink() for end in range(1, len(names))):
                plant(root.joinpath(*names), kind, outside)

        read, skipped = walk(root)

        assert all(content == b"ours" or str(content).startswith("too large") for content in read.values())
        expected = set()
        for parent, directories, files in os.walk(root):
            for name in [name for name in directories + files if not name.startswith(".")]:
                path = Path(parent, name)
                if name.lower().endswith(".md") or (path.is_symlink() and path.is_dir()):
                    expected.add(printable(str(path)).removesuffix(".md").removesuffix(".MD"))
            directories[:] = [name for name in directories if name in ("a", "b", "a.md", "b.md", "B.MD")]
        told = [entry.path.removesuffix(".md").removesuffix(".MD") for entry in skipped]
        assert expected - {str(root / stem) for stem in read} - set(told) == set()
