"""Callers that write all the time, each in its own way, and keep a ledger of what they were told."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

import database as db
from database import Connection, Settings
from tests.proxy import Proxy

from .ledger import Ledger
from .outcome import Outcome
from .servers import Server

_FILES = 25


class Writers:
    """
    `await run(stop)` until the event *stop*; then `await check(server, outcome)`.

    Chats, documents, upserts, ingestions, and transactions of two rows in a table without a key, where nothing but the
    package itself keeps a row from being stored twice.
    """

    def __init__(self, place: Path, outcome: Outcome) -> None:
        self.outcome = outcome
        self.chats, self.documents, self.files, self.pairs = (
            Ledger(kind) for kind in ("save_chat_history", "insert_document", "ingest_directory", "run_in_transaction")
        )
        self._place = place
        self._numbers = itertools.count()
        # by code: the versions that may be there, the last acknowledged one and those after it that are unknown
        self._upserts: dict[str, set[str]] = {}
        self._upserted = 0
        self.last_success = 0.0

    @staticmethod
    async def make_tables() -> None:
        """In the database that is configured."""
        await db.init_document_table()
        await db.init_chat_history_table()
        async with db.get_db_connection() as conn:
            await conn.execute("CREATE TABLE pair (token text, half int)")

    @property
    def acknowledged(self) -> int:
        """How many writes were, until now."""
        ledgers = (self.chats, self.documents, self.files, self.pairs)
        return self._upserted + sum(len(ledger.stored) for ledger in ledgers)

    async def run(self, stop: asyncio.Event, *, callers: int = 60) -> None:
        """*callers* of each kind but ingestion, of which there is one."""
        async with asyncio.TaskGroup() as group:
            for worker in range(callers):
                for write in (self._save, self._insert, self._transact, self._upsert):
                    group.create_task(self._repeat(write, worker, stop))
            group.create_task(self._repeat(self._ingest, 0, stop))

    async def _repeat(self, write: Callable[[int], Awaitable[None]], worker: int, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await write(worker)
            # all of a shared statement come back at once; without it they would go on in step
            await asyncio.sleep(0)

    async def _tell(self, ledger: Ledger, token: str, write: Awaitable[object]) -> None:
        try:
            await write
        except db.OutcomeUnknownError:
            ledger.unknown.add(token)
        except db.DatabaseError as exc:
            ledger.refused.add(token)
            self.outcome.breaks(f"{ledger.kind} raised {type(exc).__name__}: {exc}")
        except asyncio.CancelledError:
            ledger.unknown.add(token)
            raise
        except Exception as exc:
            ledger.unknown.add(token)
            self.outcome.breaks(f"{ledger.kind} raised the foreign {type(exc).__name__}: {exc}")
        else:
            ledger.stored.add(token)
            self.last_success = asyncio.get_running_loop().time()

    def _token(self) -> str:
        return f"t{next(self._numbers)}"

    async def _save(self, worker: int) -> None:
        token = self._token()
        await self._tell(self.chats, token, db.save_chat_history(worker, f"thread {worker % 7}", token, "a"))

    async def _insert(self, worker: int) -> None:
        token = self._token()
        await self._tell(self.documents, token, db.insert_document("n", token, "text", metadata={"worker": worker}))

    async def _transact(self, worker: int) -> None:
        token = self._token()

        async def insert_pair(conn: Connection) -> None:
            await conn.execute("INSERT INTO pair VALUES ($1, 1)", token)
            await conn.execute("INSERT INTO pair VALUES ($1, 2)", token)

        await self._tell(self.pairs, token, db.run_in_transaction(insert_pair))

    async def _upsert(self, worker: int) -> None:
        number = next(self._numbers)
        code, content = f"upsert {worker}", f"t{number}"
        try:
            await db.upsert_document("n", code, content)
        except db.OutcomeUnknownError:
            self._upserts.setdefault(code, {""}).add(content)
            self.outcome.count("said to be unknown")
        except db.DatabaseError as exc:
            self.outcome.breaks(f"upsert_document raised {type(exc).__name__}: {exc}")
        else:
            self._upserts[code] = {content}
            self._upserted += 1

    async def _ingest(self, worker: int) -> None:
        token = self._token()
        directory = self._place / token
        directory.mkdir()
        for number in range(_FILES):
            (directory / f"{number}.md").write_text(f"# {token}\n\n{number}\n")
        tokens = {f"ingest/{token}/{number}" for number in range(_FILES)}
        try:
            result = await db.ingest_directory(directory, code_prefix=f"ingest/{token}/")
            if result["success_count"] != _FILES or result["failures"]:
                self.outcome.breaks(f"ingest_directory stored {result['success_count']}: {result['failures'][:1]}")
            self.files.stored |= tokens
        except db.OutcomeUnknownError:
            self.files.unknown |= tokens
        except db.DatabaseError as exc:
            self.files.unknown |= tokens
            self.outcome.breaks(f"ingest_directory raised {type(exc).__name__}: {exc}")
        finally:
            shutil.rmtree(directory)

    async def check(self, server: Server) -> None:
        """Compare what was told with what *server* has."""
        chats = await server.fetch("SELECT question FROM chat_history")
        self.chats.check((row["question"] for row in chats), self.outcome)
        codes = [row["code"] for row in await server.fetch("SELECT code FROM document")]
        self.documents.check((code for code in codes if code.startswith("t")), self.outcome)
        self.files.check((code for code in codes if code.startswith("ingest/")), self.outcome)
        pairs = await server.fetch("SELECT token, array_agg(half ORDER BY half) AS halves FROM pair GROUP BY token")
        found = {row["token"]: len(row["halves"]) // 2 for row in pairs}
        self.pairs.check(found, self.outcome)
        if halves := [row for row in pairs if row["halves"] != [1, 2] * (len(row["halves"]) // 2)]:
            self.outcome.breaks(f"run_in_transaction: {len(halves)} transactions were stored in part")
        rows = await server.fetch("SELECT code, content FROM document WHERE code LIKE 'upsert %'")
        contents = {row["code"]: row["content"] for row in rows}
        wrong = [code for code, allowed in self._upserts.items() if contents.get(code, "") not in allowed]
        self.outcome.count("acknowledged", self._upserted)
        self.outcome.count("lost", len(wrong))
        if wrong:
            self.outcome.breaks(f"upsert_document: {len(wrong)} documents are not what was acknowledged last")


def proxied(server: Server, proxy: Proxy, **options: Any) -> Settings:
    """Settings for *server* through *proxy*."""
    return server.settings(database_url=SecretStr(proxy.url("postgres")), **options)
