"""What the systems do: each peer says how it does it, and leaves out what it does not offer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

POOL_SIZE = 20  # for every system; the default of this package
COLUMNS = ("id", "name", "code", "content", "metadata", "language", "source", "created_at", "updated_at")
METADATA = {"model": "small", "tokens": 42}

Row = Mapping[str, Any]


class Turn(NamedTuple):
    """A question and its answer, in a thread."""

    thread_id: str
    user_id: int
    question: str
    answer: str


class File(NamedTuple):
    """What a Markdown file holds, read before the clock starts."""

    code: str
    name: str
    content: str


@dataclass(frozen=True)
class Items:
    """What a system does with single rows of its table of items."""

    get: Callable[[int], Awaitable[Row]]
    insert: Callable[[Row], Awaitable[Row]]
    update: Callable[[int, Row], Awaitable[Row]]


@dataclass(frozen=True)
class Operations:
    """
    What a connected system can do; None where it does not offer it.

    Rows come with the nine `COLUMNS` of a document, in whatever types the library gives by default.
    """

    read_document: Callable[[str], Awaitable[Row]] | None = None
    save_turn: Callable[[Turn], Awaitable[object]] | None = None
    recent_turns: Callable[[str], Awaitable[Sequence[Row]]] | None = None
    first_page: Callable[[int], Awaitable[Sequence[Row]]] | None = None
    far_page: Callable[[int, int, str], Awaitable[Sequence[Row]]] | None = None  # size, offset, id of the last before
    search: Callable[[str], Awaitable[Sequence[Row]]] | None = None
    store_new: Callable[[Path, Sequence[File]], Awaitable[int]] | None = None
    merge_words: Callable[[], Awaitable[None]] | None = None  # what `store_new` leaves to the background
    store_again: Callable[[Path, Sequence[File]], Awaitable[int]] | None = None
    items: Items | None = None  # through the system's pool
    held_items: Items | None = None  # through one connection of asyncpg's own
    insert_items: Callable[[Sequence[Row]], Awaitable[int]] | None = None
    upsert_items: Callable[[Sequence[Row]], Awaitable[int]] | None = None
    turns_per_save: int = 1  # rows that one save leaves in `chat_table`
    chat_table: str = "chat_history"
