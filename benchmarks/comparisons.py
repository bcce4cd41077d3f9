"""The lines of the table, and what this package has promised itself in each."""

from __future__ import annotations

from dataclasses import dataclass

from .peers import ASYNCPG_NO_RESET, OURS, PGBENCH
from .results import Key, Ratio, Results, ratio_of

ASYNCPG = "asyncpg"
NO_RESET = ASYNCPG_NO_RESET.name
BEST_OTHER = "best other"  # of the systems in Python other than asyncpg's pool
TENTH = "a tenth of the input"


@dataclass(frozen=True)
class Comparison:
    """
    A ratio and its target: at least so many times faster, or, with *at_most*, at most so many times itself.

    *against* is a system or `BEST_OTHER` at the same work; with *at_most* it is another work of this package, whose
    time is compared, or `TENTH`, with the memory for that.
    """

    against: str
    target: float | None = None
    at_most: bool = False

    def ratio(self, results: Results, work: str, callers: int) -> Ratio | None:
        """What was measured; None where one of the two was not."""
        key = Key(work, callers, OURS.name)
        if work in results.memory:
            return ratio_of(round_.large / round_.small for round_ in results.memory[work])
        if self.against == BEST_OTHER:
            return results.ratio(key, results.others(key))
        if self.at_most:
            return results.ratio(Key(self.against, callers, OURS.name), [key])
        return results.ratio(key, [Key(work, callers, self.against)])

    def is_met(self, ratio: Ratio) -> bool | None:
        """Whether the median keeps the target; None without one."""
        if self.target is None:
            return None
        return ratio.median <= self.target if self.at_most else ratio.median >= self.target


@dataclass(frozen=True)
class Line:
    """A line of the table: a work at a number of callers, the unit of its figures, and its comparisons."""

    work: str
    callers: int
    label: str
    unit: str  # "/s", "ms", "s" or "MB"
    comparisons: tuple[Comparison, ...]


def _faster(target: float | None = None, against: str = ASYNCPG) -> Comparison:
    return Comparison(against, target)


LINES = (
    Line("reads", 1, "point reads", "/s", (_faster(1.8), _faster(against=NO_RESET))),
    Line("reads", 10, "point reads", "/s", (_faster(4),)),
    Line("reads", 100, "point reads", "/s", (_faster(10), _faster(against=NO_RESET), _faster(1.5, PGBENCH))),
    Line("reads", 1000, "point reads", "/s", (_faster(14),)),
    Line("chat", 1, "chat inserts", "/s", (_faster(1.2), _faster(against=NO_RESET))),
    Line("chat", 10, "chat inserts", "/s", (_faster(2.5),)),
    Line("chat", 100, "chat inserts", "/s", (_faster(7), _faster(against=NO_RESET), _faster(10, BEST_OTHER))),
    Line("chat", 1000, "chat inserts", "/s", (_faster(),)),
    Line("recent", 1, "last 10 turns", "/s", (_faster(),)),
    Line("recent", 100, "last 10 turns", "/s", (_faster(),)),
    Line("page-first", 1, "page 1", "ms", (_faster(),)),
    Line("page-far", 1, "page {pages:,}", "ms", (_faster(), Comparison("page-first", 1.3, at_most=True))),
    Line("search-rare", 1, "search, rare", "ms", (_faster(),)),
    Line("search-middling", 1, "search, middling", "ms", (_faster(),)),
    Line("search-common", 1, "search, common", "ms", (_faster(),)),
    Line("ingest-new", 1, "ingest, new", "s", (_faster(1.3),)),
    Line("ingest-merge", 1, "  then in the background", "s", ()),
    Line("ingest-again", 1, "ingest, again", "s", (_faster(50),)),
    Line("held-get", 1, "get_by_id, conn=", "/s", (_faster(1 / 1.15),)),
    Line("held-update", 1, "update_by_id, conn=", "/s", (_faster(1 / 1.15),)),
    Line("held-insert", 1, "insert, conn=", "/s", (_faster(1 / 1.15),)),
    Line("item-get", 100, "get_by_id", "/s", (_faster(10),)),
    Line("item-update", 100, "update_by_id", "/s", (_faster(),)),
    Line("item-insert", 100, "insert", "/s", (_faster(),)),
    Line("many-insert", 1, "insert_many", "ms", (_faster(0.9),)),
    Line("many-upsert-new", 1, "upsert_many, new", "ms", (_faster(5), _faster(3, "SQLAlchemy"))),
    Line("many-upsert-again", 1, "upsert_many, again", "ms", (_faster(5), _faster(3, "SQLAlchemy"))),
    Line("memory-iterate", 1, "memory, iterate", "MB", (Comparison(TENTH, 1.2, at_most=True),)),
    Line("memory-ingest", 1, "memory, ingest", "MB", (Comparison(TENTH, 1.2, at_most=True),)),
)
