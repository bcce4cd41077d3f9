"""
The query log: what each statement took, how often it failed, how many rows it returned; slow ones with their plan.

On where DB_QUERY_LOG=on, DB_SLOW_QUERY_MS or DB_ECHO=on say so; else no connection measures anything. Values are never
kept, whether they are parameters or literals in the SQL, unless DB_QUERY_PARAMETERS=on. Here is what is asked of it;
measuring.py measures, query_log.py tells, statistics.py keeps, in histogram.py.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from time import perf_counter
from typing import Any, TextIO, TypeVar, cast

from ..settings import get_settings
from .report import format_summary
from .statistics import all_names, functions, statistics_of

F = TypeVar("F", bound=Callable[..., Any])


def get_query_stats(name: str = "default") -> dict[str, Any]:
    """
    What was measured of the database *name* in this process, since its start or the last `reset_query_stats`.

    `enabled`: whether a pool opened now would measure; `since`, a datetime; `seconds` since then; `total` and each of
    `statements` (most time first): count (how often it was sent), calls (of functions that it carried: concurrent ones
    share statements), errors, rows, total_ms, min_ms, mean_ms, p50_ms, p95_ms, p99_ms, max_ms, with percentiles that
    are at most 3 % off; `others`, the same of rare statements that were dropped where there were more than 1,000;
    `slow`: the last 100 statements that took DB_SLOW_QUERY_MS or longer, with statement, at, ms, rows, calls, error and
    plan (None until it is known, and where PostgreSQL gives none); `waits` for a connection of the pool; `functions`
    that `time_query` has timed, of all databases. All counts are 0 and all lists empty where nothing was measured.
    """
    return {
        "enabled": get_settings(name).measures_queries,
        **statistics_of(name).snapshot(),
        "functions": functions().snapshot(),
    }


def print_query_summary(name: str = "default", *, limit: int = 10, file: TextIO | None = None) -> None:
    """Print `get_query_stats` as tables for people, with *limit* lines each, to *file*; by default to stdout."""
    (file or sys.stdout).write(format_summary(get_query_stats(name), limit))


def reset_query_stats(name: str | None = None) -> None:
    """Forget what was measured: of the database *name*, or of all, and of functions."""
    for each in all_names() if name is None else [name]:
        statistics_of(each).reset()
    if name is None:
        functions().reset()


def time_query(function: F) -> F:
    """
    A decorator: count and time the calls of *function*, async or not, for `get_query_stats()["functions"]`.

    Also where the query log is off. For a generator or a stream of rows, only the call that makes it is timed.
    """
    name = f"{function.__module__}.{function.__qualname__}"

    def note(began: float, failed: bool) -> None:
        functions().add(name, perf_counter() - began, failed)

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def timed_coroutine(*args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            failed = True
            try:
                result = await function(*args, **kwargs)
                failed = False
            finally:
                note(began, failed)
            return result

        return cast("F", timed_coroutine)

    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        failed = True
        try:
            result = function(*args, **kwargs)
            failed = False
        finally:
            note(began, failed)
        return result

    return cast("F", timed)
