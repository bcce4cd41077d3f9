"""Files and batch entries as documents, before any database is asked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from database.ingestion.source_documents import (
    BATCH_BYTES,
    BATCH_FILES,
    Failure,
    Source,
    check_config,
    compare_files,
    is_text_encoding,
    read_batch,
    read_document,
    sources_of,
)

LIMIT = 64 * 2**20


def source_of(path: Path, **config: Any) -> Source:
    source = check_config({"path": path, "code": "code", **config}, "entry")
    assert isinstance(source, Source)
    return source


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("file.md", "entry is not a dict but str"),
        ({"code": "c"}, "entry: the key 'path' is missing"),
        ({"path": "p"}, "entry: the key 'code' is missing"),
        ({"path": "p", "code": ""}, "entry: the code is empty"),
        ({"path": "p", "code": " \n"}, "entry: the code is empty"),
        ({"path": "p", "code": 1}, "entry: the code is not a str but int"),
        ({"path": "p", "code": "a\0"}, "entry: the code holds a NUL character or a lone surrogate"),
        ({"path": "p", "code": "\ud800"}, "entry: the code holds a NUL character or a lone surrogate"),
        ({"path": 1, "code": "c"}, "entry: the path is not a str but int"),
        ({"path": "p", "code": "c", "name": 1}, "entry: the name is not a text that PostgreSQL can store"),
        ({"path": "p", "code": "c", "language": "?"}, "entry: the language is a name such as 'german'"),
        ({"path": "p", "code": "c", "language": 1}, "entry: the language is a name such as 'german'"),
        ({"path": "p", "code": "c", "metadata": [1]}, "entry: the metadata is not a dict that JSON can hold"),
        ({"path": "p", "code": "c", "metadata": {"a": b"x"}}, "entry: the metadata is not a dict that JSON can hold"),
        ({"path": "p", "code": "c", "metadata": {"a": float("nan")}}, "entry: the metadata is not a dict that JSON"),
        ({"path": "p", "code": "c", "metdata": {}}, "entry: there is no key 'metdata'; the keys are code, language,"),
    ],
)
def test_an_entry_that_makes_no_sense_is_a_failure(config: object, reason: str) -> None:
    """Missing and misspelt keys, wrong types and codes that cannot be stored are told by name."""
    failure = check_config(config, "entry")
    assert isinstance(failure, Failure)
    assert failure.reason.startswith(reason)


def test_entries_with_one_code_are_all_failures() -> None:
    """Which of two files a code is meant for nobody can tell, so neither is stored."""
    configs = [{"path": "a", "code": "x"}, {"path": "b", "code": "y"}, {"path": "c", "code": "x"}]
    first, second, third = sources_of(configs)
    assert isinstance(second, Source)
    assert first == Failure("a", "x", "entry 0 has the same code as entry 2")
    assert third == Failure("c", "x", "entry 2 has the same code as entry 0")


def test_what_an_entry_says_beats_what_the_file_says(tmp_path: Path) -> None:
    """Name and metadata of the entry go over the front matter, which stays part of the content."""
    file = tmp_path / "file.md"
    file.write_bytes(b"---\r\ntitle: Title\r\na: 1\r\nb: 1\r\n---\r\n# Heading\r\n")
    document = read_document(source_of(file), "utf-8", LIMIT)
    assert (document.name, document.metadata) == ("Title", {"title": "Title", "a": 1, "b": 1})
    assert document.content.encode() == file.read_bytes()
    document = read_document(source_of(file, name="Name", metadata={"b": 2}, language="de"), "utf-8", LIMIT)
    assert (document.name, document.metadata, document.language) == (
        "Name", {"title": "Title", "a": 1, "b": 2}, "german",
    )  # fmt: skip


def test_a_file_without_title_is_named_after_itself(tmp_path: Path) -> None:
    """Without front matter and heading, the name of the document is that of the file."""
    (tmp_path / "notes.md").write_text("text")
    assert read_document(source_of(tmp_path / "notes.md"), "utf-8", LIMIT).name == "notes.md"


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        ("content_hash", b"other"),
        ("name", "other"),
        ("language", "german"),
        ("source", "other"),
        ("metadata", '{"flag": 1}'),
        ("metadata", "{}"),
    ],
)
def test_a_document_has_changed_if_anything_of_it_has(tmp_path: Path, column: str, stored: object) -> None:
    """Content, name, language, source and metadata are all compared; True in metadata is not 1."""
    (tmp_path / "a.md").write_text("# A")
    document = read_document(source_of(tmp_path / "a.md", metadata={"flag": True}, language="en"), "utf-8", LIMIT)
    fingerprint = {
        "name": "A", "language": "english", "source": None, "metadata": '{"flag": true}',
        "content_hash": hashlib.sha256(b"# A").digest(),
    }  # fmt: skip
    assert document.is_stored_as(fingerprint)
    assert not document.is_stored_as(None)
    assert not document.is_stored_as(fingerprint | {column: stored})
    document.language = None  # not given: whatever it was taken for
    assert document.is_stored_as(fingerprint | {"language": "german"})


def test_batches_are_bounded_by_files_and_by_bytes(tmp_path: Path) -> None:
    """A batch ends with its 128th file, failures included, or with the file that fills 1 MiB."""
    (tmp_path / "small.md").write_text("small")
    with (tmp_path / "large.md").open("w") as file:
        file.write("x" * (BATCH_BYTES // 2))
    small, large = source_of(tmp_path / "small.md"), source_of(tmp_path / "large.md")
    missing = source_of(tmp_path / "missing.md")
    sources = iter([small] * 100 + [missing] * 50 + [large] * 3)
    first, second, third, end = (read_batch(sources, LIMIT) for _ in range(4))
    assert (len(first.files), len(first.failures), first.size) == (100, BATCH_FILES - 100, 500)
    assert (len(second.files), len(second.failures), second.size) == (2, 150 - BATCH_FILES, BATCH_BYTES)
    assert (len(third), third.last_path) == (1, str(tmp_path / "large.md"))
    assert not end


def test_files_are_sorted_by_what_is_to_be_done(tmp_path: Path) -> None:
    """Unchanged, new, changed, no text: each goes its way, those to be stored by code and with ids in that order."""
    for name, text in (("d", b"# D"), ("c", b"# C"), ("b", b"---\n[\n---\n"), ("a", b"# A"), ("bad", b"\xff")):
        (tmp_path / name).write_bytes(text)
    files = [(source_of(tmp_path / name, code=name), (tmp_path / name).read_bytes()) for name in "dcba"]
    files.append((source_of(tmp_path / "bad", code="bad"), b"\xff"))
    stored = {
        code: {
            "name": code.upper(), "language": "english", "source": None, "metadata": "{}",
            "content_hash": hashlib.sha256(b"# A").digest(),
        } for code in "ac"
    }  # fmt: skip
    found = compare_files(files, "utf-8", stored)
    assert found.unchanged == [3]
    assert [each.row["code"] for each in found.new] == ["b", "d"]
    assert found.new[0].row["id"] < found.new[1].row["id"]
    assert [(each.row["content"], each.path) for each in found.changed] == [("# C", str(tmp_path / "c"))]
    assert found.failures == [Failure(str(tmp_path / "bad"), "bad", "not UTF-8: byte 0xff at position 0")]
    assert [warning.code for warning in found.warnings] == ["b"]
    assert files == []


@pytest.mark.parametrize(
    ("encoding", "known"),
    [("utf-8", True), ("cp1252", True), ("utf-16", True), ("hex", False), ("rot13", False), ("no", False), ("", False)],
)
def test_an_encoding_is_one_of_text(encoding: str, known: bool) -> None:
    """Codecs that turn bytes into bytes, or text into text, are no encodings."""
    assert is_text_encoding(encoding) is known
