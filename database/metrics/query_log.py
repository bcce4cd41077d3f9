"""The query log of one pool: what is measured, told and kept of each statement that its connections send."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..exceptions import sqlstate_of
from ..formatting import format_for_log
from ..settings import Settings
from .masking import mask
from .statistics import MOST_PENDING, Statistics, statistics_of

log = logging.getLogger("database")
echo = logging.getLogger("database.echo")

_MOST_PARAMETERS = 20  # that are shown, of one statement
_LONGEST_ECHO = 10_000  # characters


class QueryLog:
    """
    Measures the statements of the pool of the database *name*.

    *explain* is called with the SQL and with what is known about a statement that was slow, a dict that it may add to.
    """

    def __init__(
        self, settings: Settings, name: str, explain: Callable[[str, dict[str, Any]], None] | None = None
    ) -> None:
        self.statistics: Statistics = statistics_of(name)
        self._pending = self.statistics.pending
        self.explain = explain
        self.shows_values = settings.query_parameters == "on"
        self._slow = float("inf") if settings.slow_query_ms is None else settings.slow_query_ms / 1000
        self._echoes = settings.echo == "on"
        self._told = 0.0 if self._echoes else self._slow  # what takes as long is worth more than counting
        if self._echoes:
            _make_audible()

    def record(
        self,
        query: str,
        args: Sequence[object],
        seconds: float,
        rows: int,
        calls: int,
        exc: BaseException | None = None,
    ) -> None:
        """A statement that took so many *seconds*, carried so many *calls*, returned or changed so many *rows*."""
        pending = self._pending  # not by a method of the statistics: a call less for each statement
        pending.append((query, seconds, rows, calls, exc is not None))
        if len(pending) >= MOST_PENDING:
            self.statistics.count_pending()
        if seconds >= self._told:
            line = self._describe(query, args, seconds, rows, calls, exc)
            if self._echoes:
                echo.info("%s", line)
            if seconds >= self._slow:
                log.warning("slow query: %s", line)
                self._keep_slow(query, args, seconds, rows, calls, exc)

    def _keep_slow(
        self, query: str, args: Sequence[object], seconds: float, rows: int, calls: int, exc: BaseException | None
    ) -> None:
        about: dict[str, Any] = {
            "statement": self.show(query),
            "at": datetime.now(UTC),
            "ms": round(seconds * 1000, 3),
            "rows": rows,
            "calls": calls,
            "error": None if exc is None else _name_of(exc),
            "plan": None,
        }
        if self.shows_values:
            about["parameters"] = _show(args)
        self.statistics.add_slow(about)
        if self.explain is not None:
            self.explain(query, about)

    def show(self, query: str) -> str:
        """*query* in one line, with its literals where values may be shown."""
        return " ".join(query[:_LONGEST_ECHO].split()) if self.shows_values else mask(query)

    def _describe(
        self, query: str, args: Sequence[object], seconds: float, rows: int, calls: int, exc: BaseException | None
    ) -> str:
        facts = [f"{seconds * 1000:,.2f} ms", f"{rows:,} row" + "s" * (rows != 1)]
        if calls != 1:
            facts.append(f"{calls:,} calls")
        if exc is not None:
            facts.append(_name_of(exc))
        parameters = f" {_show(args)}" if args and self.shows_values else ""
        return f"[{', '.join(facts)}] {self.show(query)}{parameters}"


def _show(args: Sequence[object]) -> str:
    shown = [f"${number} = {format_for_log(value)}" for number, value in enumerate(args[:_MOST_PARAMETERS], 1)]
    return ", ".join(shown) + ", …" * (len(args) > _MOST_PARAMETERS)


def _name_of(exc: BaseException) -> str:
    return " ".join(filter(None, (type(exc).__name__, sqlstate_of(exc))))


def _make_audible() -> None:
    """DB_ECHO is meant to be seen: without any handler, lines go to stderr, as SQLAlchemy's echo does."""
    if not echo.isEnabledFor(logging.INFO):
        echo.setLevel(logging.INFO)
    if not echo.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        echo.addHandler(handler)
