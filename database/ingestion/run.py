"""
One run of an ingestion: its batches are read, compared and stored, and what became of the files is counted.

Files are read and compared in one thread, a batch at a time. One more batch than there are connections is under way,
so that the next one is ready when a connection becomes free; that is all that is in memory.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from ..connect_db import Connection, get_connection_pool, get_db_transaction
from ..document_batches import (
    delete_documents,
    get_document_fingerprints,
    insert_documents,
    iter_codes,
    upsert_documents,
)
from ..exceptions import ConnectionPoolError, DatabaseError, DocumentError, IngestionError, OutcomeUnknownError, reason
from ..search.background import refresh_soon
from ..search.embedding import Embed, embed_stored
from .file_thread import FileThread
from .source_documents import Batch, Comparison, DocumentRow, Failure, Source, code_of, compare_files, read_batch
from .source_files import SourceTree

log = logging.getLogger("database")

Progress = Callable[[dict[str, Any]], object]
Sources = Generator[Source | Failure, None, None]

# What `insert_documents` and `upsert_documents` are.
Store = Callable[..., Awaitable[list[dict[str, Any]]]]

CONNECTIONS = 2
# Classes of errors that are about the connection, the user, the transaction, the statement, or the server. Of 42, a row
# policy (42501) and a language that this server does not have (42704) are about the row.
_NO_VERDICTS = frozenset(
    ("08", "0A", "25", "26", "28", "2D", "34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "HV", "XX")
)
_SHOWN_FAILURES = 5


class IngestionRun:
    """
    The options and the counts of one call. *what* is ingested, in words; *expected* files, as far as is known.

    *limit* is the size of the largest file in bytes. *conn*, if given, is spoken through, else the default pool.
    """

    def __init__(
        self,
        what: str,
        *,
        encoding: str,
        limit: int,
        atomic: bool,
        dry_run: bool,
        progress: Progress | None,
        embed: Embed | None,
        conn: Connection | None,
    ) -> None:
        self.expected = 0
        self._what = what
        self._encoding = encoding
        self._limit = limit
        self._atomic = atomic
        self._dry_run = dry_run
        self._progress = progress
        self._embed = embed
        self._conn = conn
        self._started = time.monotonic()
        self._counts = {"inserted": 0, "updated": 0, "unchanged": 0}
        self._deleted = 0
        self._bytes = 0
        self._failures: list[Failure] = []
        self._warnings: list[Failure] = []
        self._callers_error: Exception | None = None
        self._telling = asyncio.Lock()
        self._end: BaseException | None = None  # what ends the run before its time

    def result(self, *, hidden: int = 0) -> dict[str, Any]:
        """What the public functions return."""
        stored = sum(self._counts.values())
        return {
            "total": stored + len(self._failures),
            "success_count": stored,
            "failed_count": len(self._failures),
            **self._counts,
            "deleted": self._deleted,
            "hidden": hidden,
            "bytes": self._bytes,
            "seconds": time.monotonic() - self._started,
            "failures": [failure.entry() for failure in self._failures],
            "warnings": [warning.entry() for warning in self._warnings],
        }

    async def refresh_search(self) -> None:
        """Bring the lists of the search up to date; not in a caller's transaction, which they would wait for."""
        if self._dry_run or self._conn is not None or not (self._counts["inserted"] or self._counts["updated"]):
            return
        try:
            await refresh_soon()
        except DatabaseError as exc:  # what was stored is stored, and found
            log.warning(
                "the ingestion of %s is complete, but not the lists that make searches faster: %s", self._what, exc
            )

    async def embed(self) -> dict[str, Any]:
        """Make the vectors that are missing; what that adds to the result."""
        if self._embed is None or self._dry_run:
            return {}
        return await embed_stored(self._embed, None, self._conn)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection | None]:
        """
        The connection to speak through; in a transaction where the run is atomic.

        Errors of the database that end the run in the block say how far it came.
        """
        inside = self._atomic and not self._dry_run
        try:
            async with get_db_transaction(conn=self._conn) if inside else nullcontext(self._conn) as conn:
                yield conn
        except IngestionError:
            raise
        except (DatabaseError, ModuleNotFoundError) as exc:
            if exc is self._callers_error:
                raise
            raise self._interrupted(exc) from exc

    async def store(self, files: FileThread, sources: Sources, conn: Connection | None) -> None:
        """Store all *sources*. Raises `IngestionError` where the run is atomic and one of them failed."""
        await self._tell(None)
        connections = 1 if conn is not None else min(CONNECTIONS, (await get_connection_pool()).get_max_size())
        reading, storing = asyncio.Lock(), asyncio.Semaphore(connections)

        async def store_next() -> bool:
            async with reading:
                batch = None if self._end else await files.run(read_batch, sources, self._limit)
            if not batch:
                return False
            async with storing:
                if self._end is None:
                    await self._store_batch(files, batch, conn)
            return True

        async def store_all() -> None:
            try:
                while await store_next():
                    pass
            except BaseException as exc:
                # no further batches, but those that are being stored are stored, and counted
                self._end = self._end or exc

        async with asyncio.TaskGroup() as group:
            for _ in range(connections + 1):
                group.create_task(store_all())
        if self._end is not None:
            raise self._end
        if self._is_refused():
            raise self._refusal()

    async def _store_batch(self, files: FileThread, batch: Batch, conn: Connection | None) -> None:
        self._failures += batch.failures
        if batch.files:
            stored = {}
            if not self._is_refused():
                stored = await get_document_fingerprints([source.code for source, _ in batch.files], conn=conn)
            found = await files.run(compare_files, batch.files, self._encoding, stored)
            self._failures += found.failures
            self._warnings += found.warnings
            if not self._is_refused():
                await self._store_changed(found, conn)
        await self._tell(batch.last_path)

    async def prune(self, files: FileThread, tree: SourceTree, prefix: str, mark: str, conn: Connection | None) -> None:
        """Delete the documents that have the *mark* and whose files are not in *tree* any more."""
        for failure in self._failures:
            if failure.hides_files:
                self._warnings.append(Failure(failure.path, None, f"nothing was pruned, because of: {failure.reason}"))
                return
        async for codes in iter_codes(mark, conn=conn):
            start = code_of(prefix, "")
            stems = [code.removeprefix(start) for code in codes if code.startswith(start)]
            gone = [code_of(prefix, stem) for stem in await files.run(tree.missing, stems)]
            if self._dry_run:
                self._deleted += len(gone)
            else:
                await self._delete(gone, mark, conn)

    async def _delete(self, codes: list[str], mark: str, conn: Connection | None) -> None:
        """Delete *codes* in one statement; where a foreign key holds one, by halves, and warn about that one."""
        if not codes:
            return
        try:
            async with get_db_transaction(conn=conn) if conn is not None else nullcontext(None) as c:
                self._deleted += await delete_documents(codes, source=mark, conn=c)
        except DocumentError as exc:
            if exc.sqlstate is None or exc.sqlstate[:2] != "23":
                raise
            if len(codes) == 1:
                self._warnings.append(Failure(codes[0], codes[0], f"not pruned: {reason(exc.original_error or exc)}"))
                return
            half = len(codes) // 2
            await self._delete(codes[:half], mark, conn)
            await self._delete(codes[half:], mark, conn)

    def _is_refused(self) -> bool:
        """True where nothing will be stored any more, and files are only looked at for what is wrong with them."""
        return self._atomic and bool(self._failures)

    async def _store_changed(self, found: Comparison, conn: Connection | None) -> None:
        for size in found.unchanged:
            self._count(size, "unchanged")
        if not self._dry_run:
            await self._write(found.new, insert_documents, conn)
            await self._write(found.changed, upsert_documents, conn)
            return
        for document in found.new:
            self._count(document.size, "inserted")
        for document in found.changed:
            self._count(document.size, "updated")

    async def _write(self, documents: list[DocumentRow], store: Store, conn: Connection | None) -> None:
        """Store *documents* in one statement; where the server refuses it, by halves, down to those it means."""
        if not documents:
            return
        try:
            # a savepoint: a statement that fails would abort the caller's transaction
            async with get_db_transaction(conn=conn) if conn is not None else nullcontext(None) as c:
                rows = await store([document.row for document in documents], conn=c)
        except DocumentError as exc:
            if not _is_verdict(exc):
                raise
            if len(documents) > 1:
                half = len(documents) // 2
                await self._write(documents[:half], upsert_documents, conn)
                await self._write(documents[half:], upsert_documents, conn)
                return
            why = reason(exc.original_error) if exc.sqlstate and exc.original_error else str(exc)
            self._failures.append(Failure(documents[0].path, documents[0].row["code"], why))
        else:
            for document, row in zip(documents, rows, strict=True):
                self._count(document.size, row["status"])

    def _count(self, size: int, status: str) -> None:
        self._counts[status] += 1
        self._bytes += size

    async def _tell(self, path: str | None) -> None:
        """Call the caller's *progress*, one call at a time, and none after one that has failed."""
        if self._progress is None:
            return
        done = sum(self._counts.values()) + len(self._failures)
        now = {
            "done": done,
            "total": max(self.expected, done),
            "bytes": self._bytes,
            "path": path,
            **self._counts,
            "failed": len(self._failures),
        }
        async with self._telling:
            if self._end is not None:
                return
            try:
                answer = self._progress(now)
                if inspect.isawaitable(answer):
                    await answer
            except Exception as exc:
                self._callers_error = exc
                raise

    def _refusal(self) -> IngestionError:
        shown = "; ".join(f"{failure.path}: {failure.reason}" for failure in self._failures[:_SHOWN_FAILURES])
        more = len(self._failures) - _SHOWN_FAILURES
        return self._with_failures(
            IngestionError(
                f"nothing of {self._what} was stored, because of {len(self._failures)} failures: {shown}"
                + (f"; and {more} more" if more > 0 else "")
            )
        )

    def _interrupted(self, exc: DatabaseError | ModuleNotFoundError) -> DatabaseError:
        """The error for what ended the run; of the same type where it speaks of the connection and not of documents."""
        counts = ", ".join(f"{count} {status}" for status, count in self._counts.items())
        fate = "nothing was stored" if self._atomic or self._dry_run else "what was stored stays"
        if self._conn is not None and self._conn.is_in_transaction():
            fate = "the transaction of conn= decides what stays"
        elif self._atomic and isinstance(exc, OutcomeUnknownError):
            fate = "it may have been stored"
        message = f"the ingestion of {self._what} ended early ({counts}, {len(self._failures)} failed; {fate})"
        if isinstance(exc, ModuleNotFoundError):
            return self._with_failures(IngestionError(f"{message}: {missing_extra(exc)}", original_error=exc))
        kind = type(exc) if isinstance(exc, ConnectionPoolError | OutcomeUnknownError) else IngestionError
        error = kind(
            f"{message}: {exc}", original_error=exc.original_error, sqlstate=exc.sqlstate, retryable=exc.retryable
        )
        return self._with_failures(error) if isinstance(error, IngestionError) else error

    def _with_failures(self, error: IngestionError) -> IngestionError:
        error.failures = [failure.entry() for failure in self._failures]
        return error


def missing_extra(exc: ModuleNotFoundError) -> str:
    """What to do about the missing module; raises *exc* where it is none of an extra."""
    if exc.name != "yaml":
        raise exc
    return "reading front matter needs PyYAML: pip install 'pgdatabase[ingestion]'"


def _is_verdict(exc: DocumentError) -> bool:
    """True where the document is to blame, and not the server, the connection, the table or a setting."""
    if exc.retryable:
        return False
    if exc.sqlstate is None:  # refused before it was sent
        return exc.original_error is None or isinstance(exc.original_error, ValueError | TypeError | RecursionError)
    # what a trigger of the application raises may have any code of its own
    return exc.sqlstate in ("42501", "42704") or exc.sqlstate[:2] not in _NO_VERDICTS
