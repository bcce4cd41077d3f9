"""What was measured of one database in this process: statements, slow ones, waits for connections; and functions."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from .histogram import Histogram
from .masking import mask

_MOST_STATEMENTS = 1_000
_FORGOTTEN = 100  # at once, where there is no room for another one
_MOST_TEXTS = 4_000  # of different literals or layout; only to find a statement quickly
_LONGEST_TEXT = 20_000  # characters; what is longer is masked anew each time
_MOST_SLOW = 100
MOST_PENDING = 256  # counted together, which costs a third of counting each by itself, between two waits


class Measured:
    """Something that takes time, by its *name*: a statement, or a function."""

    __slots__ = ("calls", "errors", "name", "rows", "times")

    def __init__(self, name: str) -> None:
        self.name = name
        self.times = Histogram()
        self.errors = 0
        self.rows = 0
        self.calls = 0

    def merge(self, other: Measured) -> None:
        """Count all of *other*, too."""
        self.times.merge(other.times)
        self.errors += other.errors
        self.rows += other.rows
        self.calls += other.calls

    def as_dict(self) -> dict[str, Any]:
        """count, calls, errors, rows and `Histogram.as_ms`."""
        counts = {"count": self.times.count, "calls": self.calls, "errors": self.errors, "rows": self.rows}
        return counts | self.times.as_ms()


class Statistics:
    """Of one database; kept when its pool is closed. Used from the threads of several event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pending: deque[tuple[str, float, int, int, bool]] = deque()  # whose methods are atomic
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        with self._lock:
            self.began, self.since = time.monotonic(), datetime.now(UTC)
            self.statements: dict[str, Measured] = {}
            self.others = Measured("")
            self.forgotten = 0
            self.waits = Histogram()
            self.slow: deque[dict[str, Any]] = deque(maxlen=_MOST_SLOW)
            self._by_text: dict[str, Measured] = {}
            self.pending.clear()

    def count_pending(self) -> None:
        """Count what was only noted until now."""
        with self._lock:
            self._count_pending()

    def _count_pending(self) -> None:
        while self.pending:
            query, seconds, rows, calls, failed = self.pending.popleft()
            measured = self._by_text.get(query)
            if measured is None:
                measured = self._find(query)
            measured.times.add(seconds)
            measured.calls += calls
            measured.rows += rows
            measured.errors += failed

    def add_wait(self, seconds: float) -> None:
        """Count a wait for a connection."""
        with self._lock:
            self.waits.add(seconds)

    def add_slow(self, about: dict[str, Any]) -> None:
        """Keep what is known *about* a slow statement, in place of the oldest one where there are a hundred."""
        with self._lock:
            self.slow.append(about)

    def _find(self, query: str) -> Measured:
        text = mask(query)
        measured = self.statements.get(text)
        if measured is None:
            if len(self.statements) >= _MOST_STATEMENTS:
                self._forget_rare_ones()
            measured = self.statements[text] = Measured(text)
        if len(query) <= _LONGEST_TEXT:
            if len(self._by_text) >= _MOST_TEXTS:
                self._by_text.clear()
            self._by_text[query] = measured
        return measured

    def _forget_rare_ones(self) -> None:
        rarest = sorted(self.statements.values(), key=lambda each: each.times.count)[:_FORGOTTEN]
        for each in rarest:
            del self.statements[each.name]
            self.others.merge(each)
        self.forgotten += len(rarest)
        self._by_text.clear()

    def snapshot(self) -> dict[str, Any]:
        """The part of `get_query_stats` that is about this database."""
        with self._lock:
            self._count_pending()
            total = Measured("")
            for each in (*self.statements.values(), self.others):
                total.merge(each)
            return {
                "since": self.since,
                "seconds": round(time.monotonic() - self.began, 3),
                "total": total.as_dict(),
                "statements": by_time(({"statement": each.name} | each.as_dict()) for each in self.statements.values()),
                "others": {"statements": self.forgotten} | self.others.as_dict(),
                "slow": [dict(each) for each in self.slow],
                "waits": {"count": self.waits.count} | self.waits.as_ms(),
            }

    def counts_up_to(self, bounds: Iterable[float]) -> tuple[list[int], float]:
        """For each of *bounds* (seconds) how many statements took no longer, and the sum of all, in seconds."""
        with self._lock:
            self._count_pending()
            times = Histogram()
            for each in (*self.statements.values(), self.others):
                times.merge(each.times)
            return [*(times.count_up_to(bound) for bound in bounds), times.count], times.total


def by_time(dicts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """*dicts* in the order of their total_ms, the largest first."""
    return sorted(dicts, key=lambda each: -each["total_ms"])


class Functions:
    """The functions of this process that are timed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured: dict[str, Measured] = {}

    def add(self, name: str, seconds: float, failed: bool) -> None:
        """Count a call of *name*."""
        with self._lock:
            measured = self._measured.get(name)
            if measured is None:
                measured = self._measured[name] = Measured(name)
            measured.times.add(seconds)
            measured.errors += failed

    def reset(self) -> None:
        """Begin anew."""
        with self._lock:
            self._measured.clear()

    def snapshot(self) -> list[dict[str, Any]]:
        """What took most time first: function, count, errors and `Histogram.as_ms`."""
        with self._lock:
            return by_time(
                {"function": each.name, "count": each.times.count, "errors": each.errors} | each.times.as_ms()
                for each in self._measured.values()
            )


_functions = Functions()
_of_databases: dict[str, Statistics] = {}


def functions() -> Functions:
    """Those of this process."""
    return _functions


def statistics_of(name: str) -> Statistics:
    """Those of the database *name*."""
    return _of_databases.setdefault(name, Statistics())


def all_names() -> list[str]:
    """The databases of which anything was measured."""
    return sorted(_of_databases)


def _begin_anew() -> None:
    """In a forked child, where a lock may be held by a thread that is not there."""
    global _functions
    _of_databases.clear()
    _functions = Functions()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
