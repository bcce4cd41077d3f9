"""What a fault did and what it has broken."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

_SHOWN = 20


@dataclass(frozen=True)
class Plan:
    """How a fault is to be run: with which *share* of its full figures, in which directory, made for it."""

    share: float
    place: Path

    def times(self, full: int, least: int = 1) -> int:
        """The share of *full* repetitions, *least* at the least."""
        return max(least, round(full * self.share))


@dataclass
class Outcome:
    """
    *figures*: what was done and measured, in words and numbers. *broken*: promises that were not kept.

    *late*: promises about time that were not kept. On a machine that others load, too, only a report may complain.
    """

    figures: dict[str, int | float | str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def count(self, figure: str, number: int = 1) -> None:
        """Add *number* to a figure."""
        before = self.figures.get(figure, 0)
        assert isinstance(before, int)
        self.figures[figure] = before + number

    def breaks(self, what: str) -> None:
        """Note a broken promise; of many, the first ones are enough."""
        self.count("broken promises")
        if len(self.broken) < _SHOWN:
            self.broken.append(what)

    def is_late(self, what: str) -> None:
        """As `breaks`, for a promise about time."""
        self.count("late")
        if len(self.late) < _SHOWN:
            self.late.append(what)


@contextmanager
def nobody_complains(outcome: Outcome) -> Iterator[None]:
    """
    In the block, what reaches the event loop's exception handler is a broken promise: somebody forgot an error.

    asyncpg's COPY does so itself where the line is lost while it sends; that is counted apart.
    """
    loop = asyncio.get_running_loop()

    def complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), asyncpg.ConnectionDoesNotExistError) and "future" in context:
            outcome.count("errors of lost lines that asyncpg left unfetched")
            return
        outcome.breaks(f"in the background: {context['message']} {context.get('exception') or ''}")

    before = loop.get_exception_handler()
    loop.set_exception_handler(complain)
    try:
        yield
        gc.collect()
    finally:
        loop.set_exception_handler(before)


def percentile(values: list[float], part: float) -> float:
    """The value below which *part* (0.99) of the others lie; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0
