"""What was measured, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_TIMES = ("total_ms", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms")
_HEAD = ("sent", "calls", "errors", "rows", *_TIMES)
_LONGEST = 100  # characters of a statement


def format_summary(stats: Mapping[str, Any], limit: int) -> str:
    """`get_query_stats` in lines, the tables with at most *limit* each."""
    return "\n".join(_lines(stats, limit)) + "\n"


def _lines(stats: Mapping[str, Any], limit: int) -> Iterable[str]:
    total = stats["total"]
    if not total["count"]:
        hint = "" if stats["enabled"] else "; the query log is off, and DB_QUERY_LOG=on turns it on"
        yield f"no statements in {stats['seconds']:,.0f} s{hint}"
    else:
        yield (
            f"{total['count']:,} statements for {total['calls']:,} calls in {stats['seconds']:,.0f} s: "
            f"{total['errors']:,} failed, {total['rows']:,} rows, "
            f"mean {total['mean_ms']:,.2f} ms, p95 {total['p95_ms']:,.2f} ms, p99 {total['p99_ms']:,.2f} ms"
        )
        yield ""
        rows = [_row(each, each["statement"]) for each in stats["statements"][:limit]]
        left = stats["statements"][limit:]
        yield from _table((*_HEAD, "statement"), rows)
        if left or stats["others"]["statements"]:
            yield f"and {len(left) + stats['others']['statements']:,} more"
    if stats["slow"]:
        count = len(stats["slow"])
        yield from ("", f"{count} slow statement{'s' * (count != 1)}{f', the last {limit}' * (count > limit)}")
        for each in stats["slow"][-limit:]:
            error = f", {each['error']}" if each["error"] else ""
            yield f"{each['at']:%Y-%m-%d %H:%M:%S}  {each['ms']:,.1f} ms{error}  {_short(each['statement'])}"
            yield from (f"    {line}" for line in (each["plan"] or "").splitlines())
    if stats["waits"]["count"]:
        waits = stats["waits"]
        yield from (
            "",
            f"{waits['count']:,} wait{'s' * (waits['count'] != 1)} for a connection: mean {waits['mean_ms']:,.2f} ms, "
            f"p95 {waits['p95_ms']:,.2f} ms, longest {waits['max_ms']:,.2f} ms",
        )
    if stats["functions"]:
        yield ""
        head = ("calls", "errors", *_TIMES, "function")
        timed = stats["functions"][:limit]
        rows = [[f"{e['count']:,}", f"{e['errors']:,}", *_times(e), e["function"]] for e in timed]
        yield from _table(head, rows)


def _row(each: Mapping[str, Any], name: str) -> list[str]:
    return [*(f"{each[key]:,}" for key in ("count", "calls", "errors", "rows")), *_times(each), _short(name)]


def _times(each: Mapping[str, Any]) -> list[str]:
    return [f"{each[key]:,.2f}" for key in _TIMES]


def _short(statement: str) -> str:
    return statement if len(statement) <= _LONGEST else statement[: _LONGEST - 1] + "…"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> Iterable[str]:
    widths = [max(len(line[column]) for line in (list(head), *rows)) for column in range(len(head) - 1)]
    for line in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=False)]
        yield "  ".join([*cells, line[-1]])
