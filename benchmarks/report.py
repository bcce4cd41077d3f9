"""What is printed: the head, the table, and what was left out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .comparisons import BEST_OTHER, LINES, Comparison, Line
from .peers import OURS, PGBENCH, SYSTEMS
from .plan import Plan
from .results import Key, Ratio, Results

_WIDTH = 132
_HEADINGS = {
    "asyncpg-no-reset": "asyncpg\nno reset",
    "SQLAlchemy": "SQL\nAlchemy",
    "psycopg-toolkit": "psycopg\ntoolkit",
    "langchain-postgres": "langchain\npostgres",
}
_FIRST_OF_SECTIONS = (
    "chat",
    "recent",
    "page-first",
    "search-rare",
    "ingest-new",
    "held-get",
    "many-insert",
    "memory-iterate",
)


def make_console() -> Console:
    """As wide as the terminal, but no narrower than the table, in a file neither."""
    console = Console(highlight=False)
    return Console(highlight=False, width=max(_WIDTH, console.width))


def render_head(plan: Plan, environment: Mapping[str, Any]) -> RenderableType:
    """What is measured, and on what."""
    facts = {
        "measured": f"{', '.join(plan.works)}; {plan.mode}, rounds: {plan.rounds}, of {plan.seconds:g} s a measure",
        "data": f"{plan.documents:,} documents, {plan.turns:,} chat turns, {plan.items:,} items, "
        + (f"the files in {plan.corpus}" if plan.corpus else f"{plan.files:,} Markdown files"),
    }
    return render_facts({**facts, **describe_machine(environment)})


def describe_machine(environment: Mapping[str, Any]) -> dict[str, str]:
    """The lines of the head that every benchmark has."""
    server = environment["server"]
    versions = {name: number for found in environment["packages"].values() for name, number in found.items()}
    return {
        "machine": f"{environment['cpu']}, {environment['cores']} cores, {environment['system']}, "
        f"load {environment['load']}",
        "python": f"{environment['python']}, {environment['event_loop']}",
        "server": f"PostgreSQL {server['server_version']} on {environment['file_system']}, "
        + ", ".join(f"{name} {server[name]}" for name in ("fsync", "synchronous_commit", "max_connections")),
        "packages": ", ".join(f"{name} {number}" for name, number in versions.items() if number != "not installed"),
    }


def render_facts(facts: Mapping[str, str]) -> RenderableType:
    """Two columns: what, and the fact."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, fact in facts.items():
        grid.add_row(name, fact)
    return grid


def render_table(plan: Plan, results: Results) -> RenderableType:
    """The table, and below it how to read it and who is not in it."""
    systems = [name for name in (*SYSTEMS, PGBENCH) if any(key.system == name for key in results.rounds)]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("callers", justify="right", vertical="bottom")
    for name in systems:
        heading = _HEADINGS.get(name, name)
        table.add_column(heading, justify="right", style="bold" if name == OURS.name else "")
    table.add_column("ratio", justify="right", style="bold", no_wrap=True)
    table.add_column("(range)", justify="right", style="dim", no_wrap=True)
    table.add_column("target", no_wrap=True)
    begun: set[str] = set()
    for line in LINES:
        if not _is_measured(line, results):
            continue
        if begun and line.work in _FIRST_OF_SECTIONS and line.work not in begun:
            table.add_row()
        begun.add(line.work)
        for row in _rows(plan, line, systems, results):
            table.add_row(*row)
    return Group(table, Text(), *_notes(results))


def _is_measured(line: Line, results: Results) -> bool:
    keys = {*results.rounds, *results.failures}
    return line.work in results.memory or any(key[:2] == (line.work, line.callers) for key in keys)


def _rows(plan: Plan, line: Line, systems: Iterable[str], results: Results) -> Iterator[list[str | Text]]:
    callers = str(f"{line.callers:,}") if line.unit == "/s" else ""
    label = f"{line.label.format(pages=plan.pages)}, {line.unit}"
    figures = [_figure(line, name, results) for name in systems]
    if not line.comparisons:
        yield [label, callers, *figures, "", "", ""]
    for number, comparison in enumerate(line.comparisons):
        ratio = comparison.ratio(results, line.work, line.callers)
        verdict: list[str | Text] = [*ratio_cells(ratio), _target(comparison, ratio)]
        if number == 0:
            yield [label, callers, *figures, *verdict]
        else:
            yield [Text(f"  {_against(comparison)}", style="dim"), "", *[""] * len(figures), *verdict]


def _against(comparison: Comparison) -> str:
    if comparison.at_most:
        return "times page 1"
    return "to the best other" if comparison.against == BEST_OTHER else f"to {comparison.against}"


def _figure(line: Line, system: str, results: Results) -> str | Text:
    key = Key(line.work, line.callers, system)
    if key in results.failures:
        return Text("failed", style="red")
    if line.work in results.memory:
        peak = statistics.median(round_.large for round_ in results.memory[line.work]) / 2**20
        return f"{peak:,.0f}" if system == OURS.name else ""
    speed = results.speed(key)
    if speed is None:
        return ""
    if line.unit == "/s":
        return f"{speed:,.0f}"
    time = 1 / speed * (1000 if line.unit == "ms" else 1)
    return f"{time:,.2f}" if time < 10 else f"{time:,.0f}"


def ratio_cells(ratio: Ratio | None) -> list[str]:
    """The median and the range of *ratio*, each for a cell."""
    if ratio is None:
        return ["", ""]
    return [f"{_short(ratio.median)}×", f"({_short(ratio.low)}–{_short(ratio.high)})"]


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"


def _target(comparison: Comparison, ratio: Ratio | None) -> Text:
    if comparison.target is None:
        return Text()
    return mark_target(comparison.target, None if ratio is None else comparison.is_met(ratio), comparison.at_most)


def mark_target(target: float, is_met: bool | None, at_most: bool) -> Text:
    """A target with a mark behind it that says whether it is met; without one where that is not known."""
    text = Text(f"{'≤' if at_most else '≥'} {target:<4g}")
    if is_met is not None:
        text.append("✓" if is_met else "✗", style="bold green" if is_met else "bold red")
    return text


def _notes(results: Results) -> Iterator[Text]:
    yield Text(
        "Medians over the rounds. Ratio: times faster than asyncpg's pool in the same round, median and range; "
        "where ≤ stands, how many times more than page 1, or than a tenth of the input.",
        style="dim",
    )
    for name, reason in results.missing.items():
        yield Text(f"not in it: {name} ({reason})", style="yellow")
    for name, reason in results.lost.items():
        yield Text(f"no longer in it: {name} ({reason})", style="yellow")
    for key, reason in results.failures.items():
        yield Text(f"failed: {key.system}, {key.work}, {key.callers} callers ({reason})", style="red")
