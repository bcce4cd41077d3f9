"""Files become documents, against a real server."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

import database as db
from database import Settings
from database.connect_db import Connection
from database.ingestion.run import CONNECTIONS
from database.ingestion.source_documents import BATCH_BYTES, BATCH_FILES
from database.registry import open_pool
from database.search import word_lists
from database.settings import configure
from tests.proxy import proxy_to

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def write_files(root: Path, count: int) -> None:
    for number in range(count):
        (root / f"{number:04}.md").write_text(f"# Number {number}\n")


async def contents() -> dict[str, str]:
    return {document["code"]: document["content"] async for document in db.iter_documents()}


def counts(result: dict[str, Any]) -> dict[str, int]:
    """The counts that are not 0."""
    names = ("inserted", "updated", "unchanged", "deleted", "failed_count")
    return {name: result[name] for name in names if result[name]}


def failures(result: dict[str, Any]) -> dict[str, str]:
    return {failure["code"]: failure["reason"] for failure in result["failures"]}


async def test_a_file_becomes_a_document(root: Path) -> None:
    """What comes back is the row with its status: inserted, then unchanged, then updated."""
    file = root / "a.md"
    file.write_text("---\ntitle: Title\ndate: 2024-01-31\n---\ntext\n")
    first = await db.read_and_insert_md_file(file, "a", metadata={"extra": [1]}, language="de")
    assert (first["status"], first["name"], first["language"]) == ("inserted", "Title", "german")
    assert first["metadata"] == {"title": "Title", "date": "2024-01-31", "extra": [1]}
    assert first["content"] == file.read_text()
    again = await db.read_and_insert_md_file(str(file), "a", "utf-8", metadata={"extra": [1]})
    assert (again["status"], again["id"], again["updated_at"]) == ("unchanged", first["id"], first["updated_at"])
    file.write_text("# Heading")
    changed = await db.read_and_insert_md_file(file, "a")
    assert (changed["status"], changed["name"], changed["metadata"]) == ("updated", "Heading", {})
    stored = await db.get_document_by_code("a")
    assert stored is not None
    assert stored == {key: value for key, value in changed.items() if key != "status"}


@pytest.mark.parametrize(
    ("make", "code", "options", "message"),
    [
        (lambda path: None, "a", {}, "cannot ingest .*/a.md: it is not there, or has just vanished"),
        (lambda path: path.mkdir(), "a", {}, "cannot ingest .*/a.md: a directory, not a file"),
        (os.mkfifo, "a", {}, "cannot ingest .*/a.md: a FIFO, not a regular file"),
        (lambda path: path.write_bytes(b"ab\xff"), "a", {}, "/a.md: not UTF-8: byte 0xff at position 2"),
        (lambda path: path.write_bytes(b"ab\0"), "a", {}, "/a.md: a NUL at byte 2"),
        (lambda path: path.touch(), "", {}, "/a.md: the code is empty"),
        (lambda path: path.touch(), random.Random(0).randbytes(4_000).hex(), {}, "/a.md: cannot store document"),
        (lambda path: path.touch(), "a", {"metadata": {"a": "\0"}}, "/a.md: cannot store document 'a': a text holds"),
        (lambda path: path.touch(), "a", {"language": "?"}, "/a.md: the language is a name such as 'german'"),
        (lambda path: path.touch(), "a", {"encoding": "rot13"}, "there is no text encoding 'rot13'"),
        (lambda path: os.truncate(path.touch() or path, 2**27), "a", {}, "/a.md: too large: 134,217,728 bytes"),
    ],
)
async def test_a_bad_file_raises_with_path_and_reason(
    root: Path, make: Callable[[Path], object], code: str, options: dict[str, Any], message: str
) -> None:
    """A missing, irregular, undecodable or oversized file and an empty code are an `IngestionError` that says so."""
    make(root / "a.md")
    with pytest.raises(db.IngestionError, match=message):
        await db.read_and_insert_md_file(root / "a.md", code, **options)
    assert await contents() == {}


@pytest.mark.parametrize("data", [b"", b"a\r\nb\rc\n", b"\xef\xbb\xbf# Mark\r\n", "日本語 🎉\u2028".encode()])
async def test_every_byte_comes_back(root: Path, data: bytes) -> None:
    """Line ends, a byte order mark and an empty file are stored as they are."""
    (root / "a.md").write_bytes(data)
    await db.ingest_directory(root)
    assert (await contents())["a"].encode() == data


async def test_a_directory_becomes_documents(root: Path) -> None:
    """Codes are prefix and path, names are titles; a second run writes nothing, a third only what has changed."""
    (root / "sub").mkdir()
    (root / "sub" / "b.md").write_text("# B")
    (root / "a.MD").write_text("no title")
    (root / "c.txt").write_text("not meant")
    (root / ".hidden.md").write_text("hidden")
    result = await db.ingest_directory(str(root), "doc/", "md", language="german")
    assert result.pop("seconds") > 0
    assert result == {
        "total": 2, "success_count": 2, "failed_count": 0, "inserted": 2, "updated": 0, "unchanged": 0, "deleted": 0,
        "hidden": 1, "bytes": 11, "failures": [], "warnings": [],
    }  # fmt: skip
    before = {document["code"]: document async for document in db.iter_documents()}
    assert {code: (row["name"], row["language"], row["source"]) for code, row in before.items()} == {
        "doc/a": ("a.MD", "german", "doc/**/*.md"), "doc/sub/b": ("B", "german", "doc/**/*.md"),
    }  # fmt: skip
    assert counts(await db.ingest_directory(root, "doc", language="de")) == {"unchanged": 2}
    assert {document["code"]: document async for document in db.iter_documents()} == before
    (root / "sub" / "b.md").write_text("# C")
    assert counts(await db.ingest_directory(root, "doc", language="de")) == {"updated": 1, "unchanged": 1}


async def test_bad_files_are_failures_and_the_others_are_stored(root: Path) -> None:
    """Each bad file is told with path, code and reason, those that the server refuses too, and the rest goes in."""
    async with db.get_db_connection() as conn:
        await conn.execute("ALTER TABLE document ADD CONSTRAINT polite CHECK (content NOT LIKE '%refused%')")
    write_files(root, 20)
    (root / "0007.md").write_text("refused")
    (root / "0013.md").write_text("refused, too")
    (root / "utf8.md").write_bytes(b"\xff")
    (root / "nul.md").write_bytes(b"\0")
    (root / "large.md").write_bytes(b"x" * 101)
    (root / "link.md").symlink_to("0001.md")
    (root / "new\nline.md").touch()
    os.mkfifo(root / "fifo.md")
    (root / "directory.md").mkdir()
    result = await db.ingest_directory(root, "p", max_file_size=100)
    assert (result["total"], result["success_count"], result["failed_count"]) == (27, 18, 9)
    refused = "constraint polite of table document refuses it [23514]"
    assert failures(result) == {
        "p/0007": refused,
        "p/0013": refused,
        "p/utf8": "not UTF-8: byte 0xff at position 0",
        "p/nul": "a NUL at byte 0, which PostgreSQL cannot store in a text",
        "p/large": "too large: 101 bytes, and the limit is 100",
        "p/link": "a symbolic link, which is not followed",
        "p/fifo": "a FIFO, not a regular file",
        "p/directory": "a directory, not a file",
        None: "its name holds a line break or another control character; rename it",
    }
    assert {failure["path"] for failure in result["failures"]} >= {f"{root}/0007.md", f"{root}/new\\nline.md"}
    assert len(await contents()) == 18


async def test_broken_front_matter_is_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file whose front matter is no YAML mapping is stored as text, and the result or the log says what is wrong."""
    (root / "a.md").write_text("---\ntitle: a: b\n---\n# Heading\n")
    result = await db.ingest_directory(root)
    assert counts(result) == {"inserted": 1}
    assert [(warning["path"], warning["code"]) for warning in result["warnings"]] == [(str(root / "a.md"), "a")]
    assert "its front matter is not valid YAML in line 2" in result["warnings"][0]["reason"]
    stored = await db.get_document_by_code("a")
    assert stored is not None
    assert (stored["name"], stored["metadata"], stored["content"]) == ("Heading", {}, (root / "a.md").read_text())
    with caplog.at_level(logging.WARNING, "database"):
        await db.read_and_insert_md_file(root / "a.md", "b")
    assert "its front matter is not valid YAML in line 2" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directory_path": "missing"}, "cannot ingest the directory missing: there is no such directory"),
        ({"directory_path": "file"}, "cannot ingest the directory file: not a directory"),
        ({"directory_path": ""}, "there is no such directory"),
        ({"directory_path": "a\0"}, "no path has such characters"),
        ({"file_extension": ""}, "file_extension is the end of a name such as '.md', not ''"),
        ({"file_extension": "*.md"}, "file_extension is the end of a name"),
        ({"encoding": "nope"}, "there is no text encoding 'nope'"),
        ({"language": "?"}, "language= is a name such as 'german'"),
        ({"code_prefix": "a\0"}, "code_prefix is a text without NUL"),
        ({"max_file_size": 0}, "max_file_size is a number of bytes"),
    ],
)
async def test_a_call_that_makes_no_sense_raises(root: Path, arguments: dict[str, Any], message: str) -> None:
    """A directory that is none and options that are none raise `IngestionError`; nothing else of the run does."""
    Path("file").touch()
    with pytest.raises(db.IngestionError, match=message):
        await db.ingest_directory(**{"directory_path": root, **arguments})


async def test_a_batch_of_named_files(root: Path) -> None:
    """Entries may bring name, metadata and language; bad entries are failures that say which, and the others go in."""
    write_files(root, 3)
    configs: list[Any] = [
        {"path": str(root / "0000.md"), "code": "zero"},
        {"path": root / "0001.md", "code": "one", "name": "N", "metadata": {"m": 1}, "language": "fr"},
        {"path": root / "missing.md", "code": "missing"},
        {"path": root / "0002.md"},
        {"path": root / "0002.md", "code": ""},
        {"path": root / "0002.md", "code": "twice"},
        {"path": root / "0001.md", "code": "twice"},
        None,
    ]
    result = await db.ingest_files_batch(configs)
    assert counts(result) == {"inserted": 2, "failed_count": 6}
    assert [(failure["path"], failure["code"], failure["reason"]) for failure in result["failures"]] == [
        (str(root / "missing.md"), "missing", "it is not there, or has just vanished"),
        (str(root / "0002.md"), None, "entry 3: the key 'code' is missing"),
        (str(root / "0002.md"), "", "entry 4: the code is empty"),
        (str(root / "0002.md"), "twice", "entry 5 has the same code as entry 6"),
        (str(root / "0001.md"), "twice", "entry 6 has the same code as entry 5"),
        (None, None, "entry 7 is not a dict but NoneType"),
    ]
    one = await db.get_document_by_code("one")
    assert one is not None
    assert (one["name"], one["metadata"], one["language"], one["source"]) == ("N", {"m": 1}, "french", None)
    assert counts(await db.ingest_files_batch(configs[:2])) == {"unchanged": 2}
    assert (await db.ingest_files_batch([]))["total"] == 0


async def test_another_encoding(root: Path) -> None:
    """A file in Latin-1 or UTF-16 is stored as the text that it is, and recognised when nothing has changed."""
    (root / "a.md").write_bytes("# Zürich\n".encode("latin-1"))
    assert counts(await db.ingest_directory(root, encoding="latin-1")) == {"inserted": 1}
    assert counts(await db.ingest_directory(root, encoding="latin-1")) == {"unchanged": 1}
    (root / "b.md").write_bytes("# Zürich\n".encode("utf-16"))
    await db.ingest_files_batch([{"path": root / "b.md", "code": "b"}], "utf-16")
    assert await contents() == {"a": "# Zürich\n", "b": "# Zürich\n"}


async def test_prune_deletes_documents_whose_files_are_gone(root: Path) -> None:
    """Only what an ingestion with this prefix and extension stored, and only if its file is not there in any form."""
    write_files(root, 4)
    (root / "sub").mkdir()
    (root / "sub" / "a.md").touch()
    await db.ingest_directory(root, "p")
    await db.insert_document("by hand", "p/hand", "kept")
    (root / "other.txt").touch()
    await db.ingest_directory(root, "p", ".txt")
    await db.ingest_directory(root, "p2")
    (root / "0000.md").unlink()
    (root / "0001.md").write_bytes(b"\xff")
    (root / "0002.md").unlink()
    (root / "0002.md").symlink_to("0003.md")
    (root / "sub" / "a.md").unlink()
    (root / "sub").rmdir()
    dry = await db.ingest_directory(root, "p", prune=True, dry_run=True)
    assert counts(dry) == {"unchanged": 1, "failed_count": 2, "deleted": 2}
    assert len(await contents()) == 12
    assert counts(await db.ingest_directory(root, "p", prune=True)) == counts(dry)
    assert {code for code in await contents() if code.startswith("p/")} == {
        "p/0001", "p/0002", "p/0003", "p/hand", "p/other",
    }  # fmt: skip
    assert sum(code.startswith("p2/") for code in await contents()) == 5


async def test_nothing_is_pruned_where_files_may_be_hidden(root: Path) -> None:
    """A directory that nobody looked into may hold any file: the result says that nothing was deleted, and why."""
    write_files(root, 1)
    await db.ingest_directory(root)
    (root / "0000.md").unlink()
    root.joinpath(*["d"] * 102).mkdir(parents=True)
    result = await db.ingest_directory(root, prune=True)
    assert counts(result) == {"failed_count": 1}
    assert result["warnings"][0]["reason"].startswith("nothing was pruned, because of: more than 100 directories deep")
    assert list(await contents()) == ["0000"]


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may read everything, so it becomes somebody else for the time of the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_nothing_is_pruned_below_a_closed_directory() -> None:
    """A directory without permission is a failure, and keeps every document."""
    with tempfile.TemporaryDirectory() as temporary:  # not below tmp_path, where only its owner comes in
        Path(temporary).chmod(0o755)
        await prune_with_a_closed_directory(Path(temporary))


async def prune_with_a_closed_directory(root: Path) -> None:
    (root / "closed").mkdir()
    write_files(root / "closed", 1)
    write_files(root, 1)
    await db.ingest_directory(root)
    (root / "0000.md").unlink()
    (root / "closed").chmod(0)
    with as_an_ordinary_user():
        result = await db.ingest_directory(root, prune=True)
    (root / "closed").chmod(0o700)
    assert counts(result) == {"failed_count": 1}
    assert len(await contents()) == 2


async def test_a_dry_run_writes_nothing(root: Path) -> None:
    """It counts what would be inserted, updated and refused, and the table stays as it is."""
    write_files(root, 3)
    (root / "bad.md").write_bytes(b"\xff")
    await db.read_and_insert_md_file(root / "0000.md", "0000")
    assert counts(await db.ingest_directory(root, dry_run=True)) == {"inserted": 2, "updated": 1, "failed_count": 1}
    assert list(await contents()) == ["0000"]


async def test_atomic_is_all_or_nothing(root: Path) -> None:
    """With one bad file nothing is stored and the error names them all; without, everything is."""
    write_files(root, 300)
    (root / "0000a.md").write_bytes(b"\xff")
    (root / "9999.md").write_bytes(b"\0")
    message = r"nothing of .* was stored, because of 2 failures: .*/0000a\.md: not UTF-8: .*/9999\.md: a NUL at byte 0"
    with pytest.raises(db.IngestionError, match=message) as caught:
        await db.ingest_directory(root, atomic=True, prune=True)
    assert [failure["code"] for failure in getattr(caught.value, "failures", [])] == ["0000a", "9999"]
    assert await contents() == {}
    (root / "0000a.md").unlink()
    (root / "9999.md").unlink()
    assert counts(await db.ingest_directory(root, atomic=True)) == {"inserted": 300}
    assert len(await contents()) == 300
    with pytest.raises(db.IngestionError, match=r"/missing\.md: it is not there"):
        await db.ingest_files_batch(
            [{"path": root / "0001.md", "code": "x"}, {"path": root / "missing.md", "code": "y"}], atomic=True
        )
    assert len(await contents()) == 300


@pytest.mark.parametrize("atomic", [False, True])
async def test_conn_means_the_callers_transaction(root: Path, atomic: bool) -> None:
    """Everything is undone with the caller's transaction, and no refused row or `IngestionError` aborts it."""
    write_files(root, 5)
    async with db.get_db_connection() as conn:
        await conn.execute("ALTER TABLE document ADD CONSTRAINT polite CHECK (content NOT LIKE '%refused%')")
    (root / "0003.md").write_text("refused")

    async def work(conn: Connection) -> None:
        if atomic:
            with pytest.raises(db.IngestionError, match="constraint polite"):
                await db.ingest_directory(root, atomic=True, conn=conn)
            assert await db.get_document_count(conn=conn) == 0
        else:
            result = await db.ingest_directory(root, conn=conn)
            assert counts(result) == {"inserted": 4, "failed_count": 1}
            assert await db.get_document_count(conn=conn) == 4
        (await db.read_and_insert_md_file(root / "0001.md", "single", conn=conn))
        assert await db.get_document_count() == 0, "others see nothing yet"
        raise LookupError

    with pytest.raises(LookupError):
        async with db.get_db_transaction() as conn:
            await work(conn)
    assert await contents() == {}


async def test_progress_is_told_after_each_batch(root: Path) -> None:
    """The callback hears how many files there are before the first batch, and then what has become of them."""
    write_files(root, 300)
    (root / "bad.md").write_bytes(b"\xff")
    told: list[dict[str, Any]] = []
    await db.ingest_directory(root, progress=told.append)
    assert (told[0]["done"], told[0]["total"], told[0]["path"]) == (0, 301, None)
    done = [progress["done"] for progress in told]
    assert done == sorted(done)
    assert {progress["path"] for progress in told[1:]} == {
        str(root / name) for name in ("0127.md", "0255.md", "bad.md")
    }
    assert (told[-1]["done"], told[-1]["total"], told[-1]["inserted"], told[-1]["failed"]) == (301, 301, 300, 1)
    heard: list[int] = []

    async def hear(progress: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        heard.append(progress["done"])

    await db.ingest_files_batch([{"path": root / "0000.md", "code": "0000"}], progress=hear)
    assert heard == [0, 1]


async def test_progress_may_use_the_connection(root: Path) -> None:
    """With conn=, nobody else speaks through it while the callback does, and each batch is told before the next."""
    write_files(root, 300)
    counted = []

    async with db.get_db_transaction() as conn:

        async def count(progress: dict[str, Any]) -> None:
            counted.append((progress["done"], await db.get_document_count(conn=conn)))

        await db.ingest_directory(root, conn=conn, progress=count)
    assert counted == [(number, number) for number in (0, 128, 256, 300)]


@pytest.mark.parametrize("atomic", [False, True])
async def test_an_error_of_the_callback_ends_the_ingestion(root: Path, atomic: bool) -> None:
    """
    It comes out as it is, also if it is one of ours; what was stored until then stays, unless atomic.

    What another connection was storing at that moment is stored, and nothing after it; the callback hears no more.
    """
    write_files(root, 300)
    error = db.DocumentError("from the callback")
    calls = []

    def fail(progress: dict[str, Any]) -> None:
        if progress["done"]:
            calls.append(progress["done"])
            raise error

    with pytest.raises(db.DocumentError) as caught:
        await db.ingest_directory(root, progress=fail, atomic=atomic)
    assert caught.value is error
    assert len(calls) == 1
    stored = len(await contents())
    assert stored == 0 if atomic else calls[0] <= stored <= CONNECTIONS * BATCH_FILES


async def test_a_lost_connection_ends_it_and_says_how_far_it_came(root: Path) -> None:
    """An error of the connection is no verdict on a file: it keeps its type and says what was stored."""
    write_files(root, 300)

    async def cut(progress: dict[str, Any]) -> None:
        if progress["done"] == 256:
            await db.execute_with_retry("SELECT pg_terminate_backend($1)", pid)

    with pytest.raises(db.DatabaseError, match=r"ended early \(256 inserted, 0 updated, 0 unchanged, 0 failed"):
        async with db.get_db_transaction() as conn:
            pid = conn.get_server_pid()
            await db.ingest_directory(root, conn=conn, progress=cut)
    assert await contents() == {}


async def test_without_conn_a_lost_connection_is_survived(root: Path) -> None:
    """An upsert may be repeated, so a server that cuts every connection between two batches stops nothing."""
    write_files(root, 300)

    async def cut(progress: dict[str, Any]) -> None:
        await db.execute_with_retry(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    assert counts(await db.ingest_directory(root, progress=cut)) == {"inserted": 300}
    assert len(await contents()) == 300


async def test_a_missing_table_is_not_the_fault_of_the_files(root: Path) -> None:
    """Where no document can be stored at all, the ingestion ends with one error and not with a failure per file."""
    write_files(root, 300)
    async with db.get_db_connection() as conn:
        await conn.execute("DROP TABLE document")
    with pytest.raises(db.IngestionError, match=r'ended early \(0 ins.* relation "document" does not exist') as caught:
        await db.ingest_directory(root)
    assert caught.value.sqlstate == "42P01"


async def test_a_cancelled_ingestion_ends_at_once_and_leaks_nothing(root: Path) -> None:
    """Cancelling does not wait for a file that is being read, and everything is closed when the thread is done."""
    write_files(root, 1)
    reading, release = threading.Event(), threading.Event()

    class SlowPath(os.PathLike[str]):
        def __fspath__(self) -> str:
            if threading.current_thread() is not threading.main_thread():
                reading.set()
                release.wait(30)
            return str(root / "0000.md")

    task = asyncio.create_task(db.ingest_files_batch([{"path": SlowPath(), "code": "slow"}], atomic=True))
    assert await asyncio.to_thread(reading.wait, 30)
    task.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("database-ingestion")]
        assert len(threads) == 1
    finally:
        release.set()
    await asyncio.to_thread(threads[0].join, 30)
    assert not threads[0].is_alive()
    assert (await db.get_pool_stats())["in_use"] == 0
    assert await contents() == {}


async def test_no_descriptor_is_left_open(root: Path) -> None:
    """A run to the end, one that fails and one that is cancelled in the middle all give back their descriptors."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    write_files(root, 300)
    await db.ingest_directory(root)
    before = {str(fd.readlink()) for fd in descriptors.iterdir() if fd.is_symlink()}

    async def stop(progress: dict[str, Any]) -> None:
        raise asyncio.CancelledError

    await db.ingest_directory(root, prune=True)
    with pytest.raises(asyncio.CancelledError):
        await db.ingest_directory(root, progress=stop)
    for thread in threading.enumerate():
        if thread.name.startswith("database-ingestion"):
            await asyncio.to_thread(thread.join, 30)
    after = {str(fd.readlink()) for fd in descriptors.iterdir() if fd.is_symlink()}
    assert {name for name in after - before if str(root) in name} == set()


async def test_memory_holds_a_few_batches_and_not_the_tree(root: Path) -> None:
    """However large the tree is, no more than one batch for each connection and one more are in memory."""
    for number in range(30 * BATCH_BYTES // 100_000):
        (root / f"{number}.md").write_text("word " * 20_000)
    for dry_run in (True, False):
        tracemalloc.start()
        result = await db.ingest_directory(root, dry_run=dry_run)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert result["bytes"] > 29 * BATCH_BYTES
        # as bytes or as text, and a little on its way to the server
        assert peak < 2 * (CONNECTIONS + 1) * BATCH_BYTES


async def test_a_large_file_is_sent_in_pieces(root: Path) -> None:
    """To be stored, a new document is in memory as text and as UTF-8, and never as one message, too."""
    size = 16 * 2**20
    (root / "large.md").write_text("word" * (size // 4))
    tracemalloc.start()
    result = await db.ingest_directory(root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts(result) == {"inserted": 1}
    assert peak < 2.5 * size
    assert (await contents())["large"] == (root / "large.md").read_text()


async def test_a_missing_extra_is_named_when_it_is_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML everything works but front matter, and the error for that names the pip command."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "database.ingestion.front_matter", raising=False)
    (root / "a.md").write_text("# No front matter")
    assert counts(await db.ingest_directory(root)) == {"inserted": 1}
    (root / "b.md").write_text("---\na: b\n---\n")
    command = r"pip install 'pgdatabase\[ingestion\]'"
    with pytest.raises(db.IngestionError, match=command):
        await db.ingest_directory(root)
    with pytest.raises(db.IngestionError, match=command):
        await db.read_and_insert_md_file(root / "b.md", "b")


def test_the_yaml_library_is_not_imported_by_the_package() -> None:
    """`import database` costs nothing for front matter that nobody has."""
    program = "import sys, database; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_concurrent_ingestions_of_one_directory(database: Settings, root: Path) -> None:
    """Several at once do not deadlock, and every document is inserted by one of them."""
    write_files(root, 300)
    results = await asyncio.gather(*(db.ingest_directory(root, prune=True) for _ in range(4)))
    assert sum(result["inserted"] for result in results) == 300
    assert all(result["success_count"] == 300 and not result["deleted"] for result in results)
    assert len(await contents()) == 300


async def test_unchanged_files_write_nothing(root: Path) -> None:
    """Not a row gets a new version, or even a lock."""
    write_files(root, 100)
    (root / "front.md").write_text("---\ntags: [a, b]\nnumber: 1.50\n---\n# Front matter\n")
    await db.ingest_directory(root)
    query = "SELECT code, xmin::text, xmax::text, ctid::text, updated_at FROM document ORDER BY code"
    before = await db.execute_with_retry(query)
    assert counts(await db.ingest_directory(root)) == {"unchanged": 101}
    assert await db.execute_with_retry(query) == before


async def test_rows_that_a_trigger_refuses_are_found_in_every_batch(root: Path) -> None:
    """An application's own trigger may raise on any row: new or changed, each is told, and all others go in."""
    write_files(root, 300)
    await db.ingest_directory(root)
    for number in range(0, 300, 2):
        (root / f"{number:04}.md").write_text("# Changed\n")
    for number in range(300, 600):
        (root / f"{number:04}.md").write_text("# New\n")
    refused = [10, 100, 102, 298, 300, 333, 450, 599]
    for number in refused:
        (root / f"{number:04}.md").write_text("refused\n")
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.content LIKE 'refused%' THEN RAISE 'no'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON document FOR EACH ROW EXECUTE FUNCTION refuse();
        """)
    result = await db.ingest_directory(root)
    assert counts(result) == {"inserted": 296, "updated": 146, "unchanged": 150, "failed_count": 8}
    assert set(failures(result)) == {f"{number:04}" for number in refused}
    stored = await contents()
    assert len(stored) == 596
    assert "refused\n" not in stored.values()


async def test_one_connection_is_enough(server_url: str, database: Settings, root: Path) -> None:
    """With DB_MAX_CONNECTIONS=1 it works as well, and with more it takes two and leaves the others alone."""
    write_files(root, 300)
    await db.ingest_directory(root)
    assert (await db.get_pool_stats())["connects"] <= CONNECTIONS
    await db.close_connection_pool()
    configure(database.model_copy(update={"max_connections": 1}))
    for number in range(200, 400):
        (root / f"{number:04}.md").write_text("# Changed\n")
    assert counts(await db.ingest_directory(root)) == {"inserted": 100, "updated": 100, "unchanged": 200}
    assert (await db.get_pool_stats())["connects"] == 1


async def test_the_pool_closes_when_the_lists_are_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an ingestion leaves to the background is done before, and opens no other pool."""
    monkeypatch.setattr(word_lists, "SECTIONS_FROM", 100)
    monkeypatch.setattr(word_lists, "_LISTED_FROM", 20)
    write_files(root, 300)
    await db.ingest_directory(root)
    await db.close_connection_pool()
    assert open_pool() is None
    assert await word_lists.count_lists() > 0


@pytest.mark.parametrize("moment", ["unnest($2", "FROM STDIN", "code = ANY"])
async def test_an_ingestion_that_is_cancelled_while_the_server_works_leaks_nothing(root: Path, moment: str) -> None:
    """Whatever it waits for: the connections go back, no lock stays, and running it again stores the rest."""
    write_files(root, 300)
    if moment == "unnest($2":
        await db.ingest_directory(root)
        for file in root.iterdir():
            file.write_text("# Changed\n")
    mode = "ACCESS EXCLUSIVE" if moment == "code = ANY" else "EXCLUSIVE"  # which lets nobody read, or nobody write
    async with db.get_db_transaction() as conn:
        await conn.execute(f"LOCK TABLE document IN {mode} MODE")
        task = asyncio.create_task(db.ingest_directory(root))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
        while await conn.fetchval(waiting, f"%{moment}%") < CONNECTIONS:
            assert not task.done()
            await conn.execute("SELECT pg_stat_clear_snapshot()")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        assert (await db.get_pool_stats())["in_use"] == 1
        while await conn.fetchval(waiting, "%document%"):
            await conn.execute("SELECT pg_stat_clear_snapshot()")
    assert (await db.ingest_directory(root))["failed_count"] == 0
    assert await contents() == {file.stem: file.read_text() for file in root.iterdir()}


@pytest.mark.parametrize("lost", ["swallow", "lose"])
async def test_a_copy_whose_answer_is_lost_is_stored_once(database: Settings, root: Path, lost: str) -> None:
    """Whether the server has done it or has never heard of it: every file is inserted, and told so, once."""
    write_files(root, 300)
    async with proxy_to(database.dsn) as proxy:
        url = SecretStr(proxy.url(urlsplit(database.dsn).path[1:]))
        configure(database.model_copy(update={"database_url": url}))
        await db.close_connection_pool()
        setattr(proxy, lost, b"# Number 127\n")  # the last file of a batch: the next answer is that it is stored
        result = await db.ingest_directory(root)
        assert getattr(proxy, lost) is None
        assert counts(result) == {"inserted": 300}
        assert len(await contents()) == 300
        await db.close_connection_pool()


async def test_a_trigger_may_refuse_a_file_with_any_code_of_its_own(root: Path) -> None:
    """One file is told as failed, the others are stored."""
    write_files(root, 5)
    await db.execute_with_retry("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.code LIKE '%0003' THEN RAISE EXCEPTION 'no' USING ERRCODE = '45000'; END IF;
            RETURN NEW;
        END $$
    """)
    await db.execute_with_retry(
        "CREATE TRIGGER refuse BEFORE INSERT ON document FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    result = await db.ingest_directory(root)
    assert (result["inserted"], [Path(failure["path"]).name for failure in result["failures"]]) == (4, ["0003.md"])


async def test_a_document_that_others_refer_to_is_not_pruned(root: Path) -> None:
    """It is a warning; what can be deleted is."""
    write_files(root, 5)
    await db.ingest_directory(root)
    await db.execute_with_retry("CREATE TABLE note (code text REFERENCES document (code))")
    await db.execute_with_retry("INSERT INTO note SELECT min(code) FROM document")
    for path in root.glob("*.md"):
        if path.name != "0004.md":
            path.unlink()
    result = await db.ingest_directory(root, prune=True)
    assert (result["deleted"], len(result["warnings"])) == (3, 1)
    assert "not pruned" in result["warnings"][0]["reason"]
