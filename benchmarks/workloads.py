"""What one call of each work is, and what must be true of its answer: a fast wrong answer counts as a failure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from .corpus import read_corpus
from .dataset import RARE_DOCUMENTS, code_of, thread_of
from .items import is_item, make_item
from .load import Call
from .operations import COLUMNS, Items, Operations, Row, Turn
from .words import COMMON, MIDDLING, RARE

PAGE_SIZE = 20
RECENT_TURNS = 10
_WORDS = {"search-rare": RARE, "search-middling": MIDDLING, "search-common": COMMON}
_QUESTION = "Which of the two servers answers first when both of them are asked at the same time, and why is that so?"
_ANSWER = (
    "The one that has less to do. A server that is asked while it is busy lets the question wait, and waiting takes "
    "longer than answering. So ask the one that has answered most recently, and keep the number of questions that are "
    "under way small; the second one will be as fast as soon as its memory holds what it is asked for."
)


@dataclass(frozen=True)
class Facts:
    """What is in the database and the folder, so that questions can be asked and answers checked."""

    documents: int = 0
    threads: int = 0
    pages: int = 0  # the number of the far page, counted from 1
    far_id: str = ""  # of the last document of the page before it
    folder: str = ""
    items: int = 0

    @property
    def far_offset(self) -> int:
        """How many documents stand before the far page."""
        return (self.pages - 1) * PAGE_SIZE


class Workloads:
    """The works that a system offers, by name; *acknowledged* counts the turns that it said were stored."""

    def __init__(self, operations: Operations, facts: Facts, user_id: int) -> None:
        self.operations = operations
        self.facts = facts
        self.user_id = user_id
        self.acknowledged = 0
        self._random = Random(user_id)
        self._files = read_corpus(Path(facts.folder)) if facts.folder else []
        self._next_item = facts.items
        self._items = [make_item(number) for number in range(facts.items)]
        offered: dict[str, tuple[object, Call]] = {
            "reads": (operations.read_document and facts.documents, self._read),
            "recent": (operations.recent_turns and facts.threads, self._recent),
            "page-first": (operations.first_page and facts.pages, self._first_page),
            "page-far": (operations.far_page and facts.pages, self._far_page),
            **{name: (operations.search and facts.documents, self._search(word)) for name, word in _WORDS.items()},
            "chat": (operations.save_turn and facts.threads, self._save),
            "ingest-new": (operations.store_new and self._files, self._store_new),
            "ingest-merge": (operations.merge_words and self._files, self._merge_words),
            "ingest-again": (operations.store_again and self._files, self._store_again),
            "many-insert": (operations.insert_items and facts.items, self._insert_items),
            "many-upsert-new": (operations.upsert_items and facts.items, self._upsert_items),
            "many-upsert-again": (operations.upsert_items and facts.items, self._upsert_items),
            **self._single_items("held", operations.held_items),
            **self._single_items("item", operations.items),
        }
        self.calls: dict[str, Call] = {name: call for name, (offers, call) in offered.items() if offers}

    def _one_of(self, number: int) -> int:
        return int(self._random.random() * number)  # `randrange` would cost a tenth of what is measured

    async def _read(self, caller: int) -> None:
        assert self.operations.read_document is not None
        code = code_of(self._one_of(self.facts.documents))
        row = await self.operations.read_document(code)
        _expect(row["code"] == code, "reads", code)

    async def _recent(self, caller: int) -> None:
        assert self.operations.recent_turns is not None
        thread = thread_of(self._one_of(self.facts.threads))
        rows = await self.operations.recent_turns(thread)
        _expect(len(rows) == RECENT_TURNS, "recent", thread)
        _expect(rows[0]["thread_id"] == rows[-1]["thread_id"] == thread, "recent", thread)
        _expect(rows[0]["created_at"] > rows[-1]["created_at"], "recent", thread)

    async def _first_page(self, caller: int) -> None:
        assert self.operations.first_page is not None
        self._expect_page(await self.operations.first_page(PAGE_SIZE), 0)

    async def _far_page(self, caller: int) -> None:
        assert self.operations.far_page is not None
        offset = self.facts.far_offset
        self._expect_page(await self.operations.far_page(PAGE_SIZE, offset, self.facts.far_id), offset)

    def _expect_page(self, rows: Sequence[Row], offset: int) -> None:
        newest = self.facts.documents - 1 - offset
        codes = [code_of(number) for number in range(newest, newest - PAGE_SIZE, -1)]
        _expect([row["code"] for row in rows] == codes, "a page", str(offset))

    def _search(self, word: str) -> Call:
        async def search(caller: int) -> None:
            assert self.operations.search is not None
            rows = await self.operations.search(word)
            _expect(0 < len(rows) <= min(10, RARE_DOCUMENTS), "search", word)
            _expect(all(word in row["content"] for row in rows), "search", word)

        return search

    async def _save(self, caller: int) -> None:
        assert self.operations.save_turn is not None
        thread = f"{self.user_id}/{caller}"  # every caller is in a conversation of its own
        await self.operations.save_turn(Turn(thread, self.user_id, _QUESTION, _ANSWER))
        self.acknowledged += 1

    async def _store_new(self, caller: int) -> None:
        assert self.operations.store_new is not None
        stored = await self.operations.store_new(Path(self.facts.folder), self._files)
        _expect(stored == len(self._files), "ingest-new", str(stored))

    async def _merge_words(self, caller: int) -> None:
        assert self.operations.merge_words is not None
        await self.operations.merge_words()

    async def _store_again(self, caller: int) -> None:
        assert self.operations.store_again is not None
        stored = await self.operations.store_again(Path(self.facts.folder), self._files)
        _expect(stored == len(self._files), "ingest-again", str(stored))

    def _single_items(self, name: str, items: Items | None) -> dict[str, tuple[object, Call]]:
        async def get(caller: int) -> None:
            assert items is not None
            number = self._one_of(self.facts.items)
            _expect(is_item(await items.get(number), number), "get", str(number))

        async def insert(caller: int) -> None:
            assert items is not None
            self._next_item += 1
            number = self._next_item
            _expect(is_item(await items.insert(make_item(number)), number), "insert", str(number))

        async def update(caller: int) -> None:
            assert items is not None
            number = self._one_of(self.facts.items)
            row = await items.update(number, {"amount": number % 7, "price": 0.5})
            _expect(is_item(row, number) and row["amount"] == number % 7, "update", str(number))

        offers = items and self.facts.items
        return {f"{name}-get": (offers, get), f"{name}-insert": (offers, insert), f"{name}-update": (offers, update)}

    async def _insert_items(self, caller: int) -> None:
        assert self.operations.insert_items is not None
        _expect(await self.operations.insert_items(self._items) == len(self._items), "many-insert", "")

    async def _upsert_items(self, caller: int) -> None:
        assert self.operations.upsert_items is not None
        _expect(await self.operations.upsert_items(self._items) == len(self._items), "many-upsert", "")


def comparable(row: Mapping[str, Any]) -> dict[str, object]:
    """A document's columns without what the libraries may choose: the types of ids and times, JSON as text."""
    values = {column: row[column] for column in COLUMNS}
    if isinstance(values["metadata"], str):
        values["metadata"] = json.loads(values["metadata"])
    return {column: value if column == "metadata" else str(value) for column, value in values.items()}


_COUNT = "SELECT count(*) FROM {table} WHERE {condition}"


async def count_turns(connection: asyncpg.Connection[Any], table: str, user_id: int) -> int:
    """How many rows the system with this *user_id* has in *table*; of a table of its own, all."""
    condition = f"user_id = {user_id}" if table == "chat_history" else "true"
    return int(await connection.fetchval(_COUNT.format(table=table, condition=condition)))


def _expect(true: bool, work: str, asked: str) -> None:
    if not true:
        raise AssertionError(f"wrong answer: {work}, {asked}")
