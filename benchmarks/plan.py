"""How much is measured: sizes, rounds, seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from .workloads import PAGE_SIZE

BY_DEFAULT = ("reads", "recent", "list", "search", "chat", "ingestion", "memory")
WORKS = (*BY_DEFAULT, "tables")


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

    @property
    def pages(self) -> int:
        """The number of the last page of the list, which is the far one: 10,000 of 200,000 documents."""
        return self.documents // PAGE_SIZE
