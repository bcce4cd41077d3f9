"""How much is measured: sizes, rounds, seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from .corpus import find_files
from .dataset import RARE_DOCUMENTS
from .workloads import PAGE_SIZE, RECENT_TURNS

BY_DEFAULT = ("reads", "recent", "list", "search", "chat", "ingestion", "memory")
WORKS = (*BY_DEFAULT, "tables")
_LEAST_DOCUMENTS = {"reads": 1, "list": 2 * PAGE_SIZE, "search": 3 * RARE_DOCUMENTS, "memory": 10}
_LEAST_TURNS = {"chat": 1, "recent": RECENT_TURNS}


@dataclass(frozen=True)
class Plan:
    """What a run does; `full()` and `quick()` are the two that have a name."""

    mode: str
    works: tuple[str, ...]
    systems: tuple[str, ...]
    rounds: int
    memory_rounds: int  # it hardly varies
    seconds: float  # of each measure with several callers
    documents: int
    turns: int
    files: int  # of the corpus that is made up
    memory_files: int  # of the small folder; the large one has ten times as many
    items: int  # rows of the tables of items
    corpus: Path | None = None  # somebody's own folder instead
    callers: tuple[int, ...] = (1, 10, 100, 1000)

    @classmethod
    def full(cls, works: tuple[str, ...], systems: tuple[str, ...]) -> Self:
        """What the figures in the documentation come from."""
        return cls("full", works, systems, 5, 3, 1.0, 200_000, 1_000_000, 1_600, 800, 100_000)

    @classmethod
    def quick(cls, works: tuple[str, ...], systems: tuple[str, ...]) -> Self:
        """The same in small: under two minutes."""
        return cls("quick", works, systems, 3, 1, 0.08, 20_000, 100_000, 200, 300, 10_000)

    def with_options(self, **options: object) -> Self:
        """The plan with those of *options* that are not None."""
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        return replace(self, **given)

    def why_too_small(self) -> str:
        """Why a work could only fail, having too little to work on; nothing where each has enough."""
        for work in self.works:
            for option, number, least in (
                ("--documents", self.documents, _LEAST_DOCUMENTS.get(work, 0)),
                ("--turns", self.turns, _LEAST_TURNS.get(work, 0)),
            ):
                if number < least:
                    return f"{option} {number} is too small for {work}: it needs {least}; --only can leave it out"
        if "ingestion" in self.works and self.corpus and not find_files(self.corpus):
            return f"--corpus: there are no Markdown files below {self.corpus}"
        return ""

    @property
    def pages(self) -> int:
        """The number of the last page of the list, which is the far one: 10,000 of 200,000 documents."""
        return self.documents // PAGE_SIZE
