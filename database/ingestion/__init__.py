"""
Ingestion: Markdown files become documents.

Files are read in a thread, a batch at a time, and compared with the stored fingerprints; only what has changed is
written. A file that cannot be stored is a failure in the result and stops nothing else. Memory holds a few batches,
whatever the number of files.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..connect_db import Connection
from ..document import MAX_CONTENT, upsert_document
from ..exceptions import DocumentError, IngestionError, confidential
from ..search.embedding import Embed, embed_stored
from ..search.vectors import find_space
from .file_thread import FileThread
from .run import IngestionRun, Progress, missing_extra
from .source_documents import (
    Failure,
    check_config,
    code_of,
    configuration_of,
    is_language,
    is_storable,
    is_text_encoding,
    read_document,
    sources_in,
    sources_of,
)
from .source_files import SourceFileError, SourceTree, printable

log = logging.getLogger("database")


@confidential
async def read_and_insert_md_file(
    file_path: str | os.PathLike[str],
    code: str,
    encoding: str = "utf-8",
    *,
    metadata: Mapping[str, Any] | None = None,
    language: str | None = None,
    embed: Embed | None = None,
    conn: Connection | None = None,
) -> dict[str, Any]:
    """
    Store one file under *code*, or replace what is there; the document, with its `status` as of `upsert_document`.

    The content is the whole text of the file. Name: the title of the front matter, else the first heading, else the
    name of the file. Metadata: the front matter, and over it *metadata*. Raises `IngestionError` where the file is
    missing, not regular, larger than 64 MiB, not valid in its *encoding* or holds a NUL, and where *code* is empty.
    With *embed*, the document also has what that adds to the result of `ingest_files_batch`, for its own sections.
    """
    _check_encoding(encoding)
    if embed is not None:
        await find_space(conn)
    source = check_config({"path": file_path, "code": code, "metadata": metadata, "language": language}, "the call")
    if isinstance(source, Failure):
        raise IngestionError(f"cannot ingest {source.path}: {source.reason.removeprefix('the call: ')}")
    try:
        document = await asyncio.to_thread(read_document, source, encoding, MAX_CONTENT)
        if document.problem is not None:
            log.warning("%s: %s; it is stored as text only", document.path, document.problem)
        stored = await upsert_document(
            document.name, code, document.content, metadata=document.metadata, language=language, conn=conn
        )
    except SourceFileError as exc:
        raise IngestionError(f"cannot ingest {source.path}: {exc}") from exc
    except ModuleNotFoundError as exc:
        raise IngestionError(f"cannot ingest {source.path}: {missing_extra(exc)}", original_error=exc) from exc
    except DocumentError as exc:
        raise IngestionError(
            f"cannot ingest {source.path}: {exc}",
            original_error=exc.original_error,
            sqlstate=exc.sqlstate,
            retryable=exc.retryable,
        ) from exc
    return stored if embed is None else stored | await embed_stored(embed, {"code": code}, conn)


@confidential
async def ingest_directory(
    directory_path: str | os.PathLike[str],
    code_prefix: str = "",
    file_extension: str = ".md",
    *,
    encoding: str = "utf-8",
    language: str | None = None,
    prune: bool = False,
    dry_run: bool = False,
    atomic: bool = False,
    progress: Progress | None = None,
    embed: Embed | None = None,
    max_file_size: int = MAX_CONTENT,
    conn: Connection | None = None,
) -> dict[str, Any]:
    """
    Store every file with *file_extension* (upper or lower case) in and below a directory.

    Code: `code_prefix/path/below/the/directory`, without the extension. Hidden files and directories (a leading dot)
    are passed over; links, FIFOs, sockets and devices are failures and never opened. Returns what
    `ingest_files_batch` returns. Raises `IngestionError` where there is no such directory.

    *prune* deletes the documents that an ingestion with the same prefix and extension has stored and whose files are
    gone: give every tree a prefix of its own. Nothing is deleted where a directory could not be looked into; a file
    that is there and failed is not gone. *language* is that of the texts; if not given, it is guessed for each that is
    stored. *max_file_size* is in bytes. The other options are those of `ingest_files_batch`.
    """
    _check_encoding(encoding)
    prefix, extension = _check_prefix(code_prefix), _check_extension(file_extension)
    if not is_language(language):
        raise IngestionError("language= is a name such as 'german' or an ISO 639-1 code such as 'de'")
    if max_file_size < 1:
        raise IngestionError("max_file_size is a number of bytes, at least 1")
    if embed is not None:
        await find_space(conn)
    what = printable(os.fsdecode(directory_path))
    run = IngestionRun(
        what,
        encoding=encoding,
        limit=max_file_size,
        atomic=atomic,
        dry_run=dry_run,
        progress=progress,
        embed=embed,
        conn=conn,
    )
    mark = code_of(prefix, f"**/*{extension}")
    async with FileThread() as files:
        try:
            tree = await files.open(SourceTree, directory_path, extension)
        except SourceFileError as exc:
            raise IngestionError(f"cannot ingest the directory {what}: {exc}") from exc
        if progress is not None:
            run.expected = await files.run(lambda: sum(1 for _ in tree.entries()))
        sources = await files.open(sources_in, tree, prefix, configuration_of(language), mark)
        async with run.transaction() as c:
            await run.store(files, sources, c)
            if prune:
                await run.prune(files, tree, prefix, mark, c)
        await run.refresh_search()
        vectors = await run.embed()
        return run.result(hidden=tree.hidden) | vectors


@confidential
async def ingest_files_batch(
    file_configs: Sequence[Mapping[str, Any]],
    encoding: str = "utf-8",
    *,
    atomic: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    embed: Embed | None = None,
    conn: Connection | None = None,
) -> dict[str, Any]:
    """
    Store the files that *file_configs* name: dicts with `path` and `code`, perhaps `name`, `metadata`, `language`.

    Returns a dict: `total` = `success_count` + `failed_count`; `inserted`, `updated`, `unchanged` (not written) and
    `deleted` documents; the `bytes` of the files of the first three; `seconds`; `hidden`, the number of entries passed
    over; `failures` and `warnings`, lists of dicts with path, code (or None) and reason. Front matter that is no YAML
    mapping is a warning: the file is stored, all of it as text. An entry that makes no sense is a failure.

    *atomic*: all in one transaction, and where one fails nothing is stored: `IngestionError` with `failures`.
    *dry_run* says what would happen, as far as it can be told without writing. *progress* is called before the first
    batch and after each (up to 128 files), and awaited where it is a coroutine function, with a dict of done, total,
    bytes, path (the last one of the batch), inserted, updated, unchanged and failed; what it raises ends the ingestion.
    What was stored until then stays, unless *atomic*; so it does where the database fails, and the error says how far
    it came. With *conn*, everything happens in the transaction that it is in.

    *embed*, an async function from texts to vectors, is called at the end, as by `embed_missing`, for all sections that
    have no vector; the result then has `embedded` (texts), `missing` (sections that still have none; None where that is
    not known) and `embedding_error` (a text, or None). Without pgvector, `SchemaError` is raised before anything else.
    """
    _check_encoding(encoding)
    if embed is not None:
        await find_space(conn)
    run = IngestionRun(
        f"{len(file_configs)} files",
        encoding=encoding,
        limit=MAX_CONTENT,
        atomic=atomic,
        dry_run=dry_run,
        progress=progress,
        embed=embed,
        conn=conn,
    )
    run.expected = len(file_configs)
    async with FileThread() as files, run.transaction() as c:
        await run.store(files, sources_of(file_configs), c)
    await run.refresh_search()
    vectors = await run.embed()
    return run.result() | vectors


def _check_encoding(encoding: str) -> None:
    if not is_text_encoding(encoding):
        raise IngestionError(f"there is no text encoding {encoding!r}; Python has names such as 'utf-8' and 'latin-1'")


def _check_prefix(prefix: str) -> str:
    if not is_storable(prefix):
        raise IngestionError("code_prefix is a text without NUL characters")
    return prefix.rstrip("/")


def _check_extension(extension: str) -> str:
    name = extension.removeprefix(".")
    if not name or not name.isprintable() or any(c in name for c in "/*?[]"):
        raise IngestionError(f"file_extension is the end of a name such as '.md', not {extension!r}")
    return f".{name.lower()}"
