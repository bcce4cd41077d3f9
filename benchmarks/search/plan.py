"""How much is measured: collections, sizes, rounds, queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

WORKS = ("quality", "speed", "unspaced")


@dataclass(frozen=True)
class Plan:
    """What a run does; `full()` and `quick()` are the two that have a name."""

    mode: str
    works: tuple[str, ...]
    sizes: tuple[int, ...]  # sections of the generated collections
    rounds: int
    queries: int  # of each kind in a round
    seconds: float  # in which a system that is slow asks no more of them
    certified: int  # queries of each kind whose answers are compared with the exact ones
    written: int  # sections that are added in a round
    unspaced: int  # sections in each of the languages without spaces
    unspaced_words: int  # that are looked for in each of them
    collections: tuple[Path, ...] = ()  # none: the one that is made up

    @classmethod
    def full(cls, works: tuple[str, ...]) -> Self:
        """What the figures in the documentation come from."""
        return cls("full", works, (200_000, 1_000_000), 3, 40, 10.0, 20, 5_000, 5_000, 200)

    @classmethod
    def quick(cls, works: tuple[str, ...]) -> Self:
        """The same in small: under two minutes."""
        return cls("quick", works, (30_000,), 3, 20, 2.0, 10, 2_000, 1_000, 100)

    def with_options(self, **options: object) -> Self:
        """The plan with those of *options* that are not None."""
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        return replace(self, **given)
