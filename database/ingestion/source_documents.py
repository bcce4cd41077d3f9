"""
Files as documents: what there is to be stored of each, or why there is nothing.

Reading blocks: call `read_batch` in a thread. A batch is bounded by files and by bytes, so memory is, too. A text is
decoded when it is to be stored and not before: that a file has not changed can be told from its bytes.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..codecs import encode_json
from ..ids import uuid7
from ..search import text_search_configuration
from .markdown import read_encoded_markdown
from .source_files import SourceFile, SourceFileError, SourceTree, decode_text, printable, read_source_file

# Small, so that the server has work from the first milliseconds on and its connections end together.
BATCH_FILES = 128
BATCH_BYTES = 2**20  # a batch ends with the file that reaches it
_KEYS = frozenset({"path", "code", "name", "metadata", "language"})


class Failure(NamedTuple):
    """A file that is not stored and why; *hides_files*: there may be files behind it that nobody has seen."""

    path: str | None
    code: str | None
    reason: str
    hides_files: bool = False

    def entry(self) -> dict[str, str | None]:
        """What is told to the caller."""
        return {"path": self.path, "code": self.code, "reason": self.reason}


@dataclass(slots=True)
class Source:
    """
    A file before it is read.

    *name* and *metadata* beat what it says itself; *language* None: as its text seems; *mark* becomes its source.
    """

    path: str
    code: str
    read: Callable[[int], bytes]
    language: str | None
    name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    mark: str | None = None


@dataclass(slots=True)
class SourceDocument:
    """
    A file as it is to be stored.

    *data* is its text as UTF-8, of which nobody has checked yet that it is. *size* in bytes of the file, *problem* with
    its front matter.
    """

    path: str
    code: str
    name: str
    data: bytes
    metadata: dict[str, Any]
    language: str | None
    source: str | None
    size: int
    problem: str | None

    @property
    def content(self) -> str:
        """The text; raises `SourceFileError` where it is none that PostgreSQL can store."""
        return decode_text(self.data, "utf-8")

    def row(self) -> dict[str, Any]:
        """What `insert_documents` and `upsert_documents` take; raises `SourceFileError` as `content`."""
        columns = ("code", "name", "content", "metadata", "language", "source")
        # an id of its own, in case it is a new one: whoever stores it twice then stores one and the same
        return {"id": uuid7()} | {column: getattr(self, column) for column in columns}

    def is_stored_as(self, fingerprint: Any) -> bool:
        """True where storing it would change nothing of the document that has this *fingerprint*, None for none."""
        return (
            fingerprint is not None
            and self.name == fingerprint["name"]
            and self.language in (None, fingerprint["language"])
            and self.source == fingerprint["source"]
            and _is_stored_as(self.metadata, fingerprint["metadata"])
            and hashlib.sha256(self.data).digest() == fingerprint["content_hash"]
        )


@dataclass(slots=True)
class Batch:
    """Files that were read, with what is in them, and those that could not be."""

    files: list[tuple[Source, bytes]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    size: int = 0
    last_path: str | None = None

    def __len__(self) -> int:
        return len(self.files) + len(self.failures)


def read_batch(sources: Iterator[Source | Failure], limit: int) -> Batch:
    """The next files of *sources*, none of more than *limit* bytes; empty at their end."""
    batch = Batch()
    for source in sources:
        batch.last_path = source.path
        if isinstance(source, Failure):
            batch.failures.append(source)
        else:
            try:
                data = source.read(limit)
            except SourceFileError as exc:
                batch.failures.append(Failure(source.path, source.code, str(exc)))
            else:
                batch.files.append((source, data))
                batch.size += len(data)
        if len(batch.files) + len(batch.failures) >= BATCH_FILES or batch.size >= BATCH_BYTES:
            break
    return batch


class DocumentRow(NamedTuple):
    """A file that can be stored: the *row* is what `insert_documents` and `upsert_documents` take."""

    path: str
    size: int
    row: dict[str, Any]


@dataclass(slots=True)
class Comparison:
    """Files that are stored as they are (the sizes of these), that are to be stored, by code, and that are no text."""

    unchanged: list[int] = field(default_factory=list)
    new: list[DocumentRow] = field(default_factory=list)
    changed: list[DocumentRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[Failure] = field(default_factory=list)


def compare_files(files: list[tuple[Source, bytes]], encoding: str, stored: Mapping[str, Any]) -> Comparison:
    """
    What is to be done about *files*, given the fingerprints of the documents that are *stored*, by code.

    Takes its time, as reading does: call it in the thread. Empties the list.
    """
    found = Comparison()
    files.sort(key=lambda file: file[0].code, reverse=True)
    while files:  # one by one, so that hardly any text is held as bytes and as characters at once
        source, data = files.pop()
        fingerprint = stored.get(source.code)
        try:
            document = document_of(source, data, encoding)
            del data
            if document.is_stored_as(fingerprint):
                found.unchanged.append(document.size)
            else:
                row = DocumentRow(document.path, document.size, document.row())
                (found.new if fingerprint is None else found.changed).append(row)
        except SourceFileError as exc:
            found.failures.append(Failure(source.path, source.code, str(exc)))
            continue
        if document.problem is not None:
            warning = f"{document.problem}; stored as text only"
            found.warnings.append(Failure(source.path, source.code, warning))
    return found


def read_document(source: Source, encoding: str, limit: int) -> SourceDocument:
    """The file *source* as a document; raises `SourceFileError`."""
    return document_of(source, source.read(limit), encoding)


def document_of(source: Source, data: bytes, encoding: str) -> SourceDocument:
    """
    The file *source*, in which there is *data*, as a document.

    The content is the whole text, front matter included. Metadata of the source goes over that of the front matter.
    Raises `SourceFileError` where the text is none; where it should be UTF-8, only when somebody asks for `content`.
    """
    size = len(data)
    if codecs.lookup(encoding).name != "utf-8":
        data = decode_text(data, encoding).encode()
    markdown = read_encoded_markdown(data)
    return SourceDocument(
        path=source.path,
        code=source.code,
        name=source.name or markdown.title or Path(source.path).name,
        data=data,
        metadata=markdown.metadata | dict(source.metadata),
        language=source.language,
        source=source.mark,
        size=size,
        problem=markdown.problem,
    )


def sources_in(
    tree: SourceTree, prefix: str, language: str | None, mark: str
) -> Generator[Source | Failure, None, None]:
    """The files of *tree*, each under the code `prefix/stem`."""
    with closing(tree.entries()) as entries:
        for entry in entries:
            if isinstance(entry, SourceFile):
                yield Source(entry.path, code_of(prefix, entry.stem), entry.read, language, mark=mark)
            else:
                code = None if entry.stem is None else code_of(prefix, entry.stem)
                yield Failure(entry.path, code, entry.reason, entry.hides_files)


def code_of(prefix: str, stem: str) -> str:
    """The code of the file *stem* of a tree that is ingested under *prefix*."""
    return f"{prefix}/{stem}" if prefix else stem


def sources_of(configs: Sequence[Mapping[str, Any]]) -> Generator[Source | Failure, None, None]:
    """The files that *configs* name; codes that two of them have are failures of both."""
    by_code: defaultdict[str, list[int]] = defaultdict(list)
    checked = [check_config(config, f"entry {position}") for position, config in enumerate(configs)]
    for position, source in enumerate(checked):
        if isinstance(source, Source):
            by_code[source.code].append(position)
    for position, source in enumerate(checked):
        twice = [other for other in by_code.get(source.code or "", ()) if other != position]
        if twice and isinstance(source, Source):
            yield Failure(source.path, source.code, f"entry {position} has the same code as entry {twice[0]}")
        else:
            yield source


def check_config(config: object, entry: str) -> Source | Failure:
    """What the *entry* of a batch says: `path` and `code`, perhaps `name`, `metadata` and `language`."""
    if not isinstance(config, Mapping):
        return Failure(None, None, f"{entry} is not a dict but {type(config).__name__}")
    path, code = config.get("path"), config.get("code")
    shown = printable(os.fsdecode(path)) if isinstance(path, str | os.PathLike) else ""
    if reason := _why_wrong(config):
        return Failure(shown or None, code if isinstance(code, str) else None, f"{entry}: {reason}")
    return Source(
        path=shown,
        code=str(code),
        read=partial(read_source_file, config["path"]),
        language=configuration_of(config.get("language")),
        name=config.get("name"),
        metadata=json.loads(encode_json(dict(config.get("metadata") or {}))),
    )


def _why_wrong(config: Mapping[str, Any]) -> str | None:
    for key in ("path", "code"):
        if key not in config:
            return f"the key {key!r} is missing"
    if unknown := sorted(str(key) for key in config if key not in _KEYS):
        return f"there is no key {unknown[0]!r}; the keys are {', '.join(sorted(_KEYS))}"
    if not isinstance(config["path"], str | os.PathLike):
        return f"the path is not a str but {type(config['path']).__name__}"
    if why := why_no_code(config["code"]):
        return why
    if (name := config.get("name")) is not None and not (isinstance(name, str) and is_storable(name)):
        return "the name is not a text that PostgreSQL can store"
    if not is_language(config.get("language")):
        return "the language is a name such as 'german' or an ISO 639-1 code such as 'de'"
    if not _is_json(config.get("metadata") or {}):
        return "the metadata is not a dict that JSON can hold: dict, list, str, int, float (not NaN), bool and None"
    return None


def _is_json(metadata: object) -> bool:
    try:
        return isinstance(metadata, Mapping) and bool(encode_json(dict(metadata)))
    except (TypeError, ValueError, RecursionError):
        return False


def why_no_code(code: object) -> str | None:
    """Why *code* cannot be the code of a document; None where it can."""
    if not isinstance(code, str):
        return f"the code is not a str but {type(code).__name__}"
    if not code.strip():
        return "the code is empty"
    return None if is_storable(code) else "the code holds a NUL character or a lone surrogate"


def is_storable(text: str) -> bool:
    """True where PostgreSQL can store *text*: no NUL, nothing that is not Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def is_language(language: object) -> bool:
    """True for a name or a code of a language, and for None, which leaves it to the text."""
    return language is None or configuration_of(language) is not None


def configuration_of(language: object) -> str | None:
    """The text search configuration for *language*; None where it is no language."""
    return text_search_configuration(language) if isinstance(language, str) else None


def is_text_encoding(encoding: str) -> bool:
    """True where Python knows *encoding* as one of texts, which "hex" and "rot13" are not."""
    try:
        b"a".decode(encoding)
    except UnicodeError:  # half a character of UTF-16
        return True
    except (LookupError, TypeError, ValueError):
        return False
    return True


def _is_stored_as(metadata: dict[str, Any], stored: str) -> bool:
    if not metadata or stored == "{}":
        return not metadata and stored == "{}"
    # as text: to Python, 1 and True are the same
    return json.dumps(metadata, sort_keys=True) == json.dumps(json.loads(stored), sort_keys=True)
