"""What is printed: the head, a table for each part with its targets, and what was left out."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..report import mark_target, ratio_cells, render_facts
from ..results import ratio_of
from .plan import Plan
from .queries import COMMON, KINDS, MIDDLING, RARE, THREE, THREE_COMMON
from .results import BM25S, EXACT, HYBRID, OURS, RUM, TS_RANK, Key, Results, Upkeep
from .speed import UNREFRESHED

_NDCG = {"cranfield": {OURS: 0.385, HYBRID: 0.425}}  # of other collections: what bm25s has
_P95 = {RARE: 5, MIDDLING: 10, COMMON: 10, THREE: 20, THREE_COMMON: 20}  # ms
_TIMES_TS_RANK, _TIMES_RUM = 20, 1  # for COMMON
_SAME, _DEVIATION = 0.99, 0.01  # where all words are common, it is the scores that count
_WRITES, _DISK = 0.8, 1.3
_UNSPACED_P95 = 2  # ms


def render_plan(plan: Plan, machine: dict[str, str]) -> RenderableType:
    """What is measured, and on what."""
    names = ", ".join(path.name for path in plan.collections) or "a collection that is made up"
    sizes = ", ".join(f"{size:,}" for size in plan.sizes)
    return render_facts(
        {
            "measured": f"{', '.join(plan.works)}; {plan.mode}, {plan.rounds} rounds of {plan.queries} queries a kind",
            "quality": names,
            "speed": f"generated collections of {sizes} sections",
            **machine,
        }
    )


def render_tables(results: Results) -> RenderableType:
    """All tables that have something in them, and below them who is not in them."""
    parts: list[RenderableType] = []
    if results.quality:
        parts += [_quality(results), Text()]
    for sections in results.upkeep:
        parts += [_speed(results, sections), Text()]
    if results.upkeep:
        parts += [_upkeep(results), Text()]
    if results.unspaced:
        parts += [_unspaced(results), Text()]
    return Group(*parts, *_notes(results))


def _table(title: str, *headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", vertical="bottom", no_wrap=True)
    return table


def _quality(results: Results) -> Table:
    table = _table("Quality", "", "nDCG@10", "target", "MAP@100", "recall@100", "no answer", "queries")
    for collection, systems in results.quality.items():
        table.add_row(Text(collection, style="bold"))
        for system, scores in systems.items():
            target = _NDCG.get(collection, {}).get(system)
            if target is None and system == OURS and BM25S in systems:
                target = round(systems[BM25S].ndcg, 3)
            table.add_row(
                f"  {system}",
                f"{scores.ndcg:.3f}",
                Text() if target is None else mark_target(target, scores.ndcg >= target, at_most=False),
                f"{scores.precision:.3f}",
                f"{scores.recall:.3f}",
                f"{scores.unanswered:.1%}",
                str(scores.queries),
            )
        if collection in results.silent:
            silent = results.silent[collection]
            mark = mark_target(0, silent == 0, at_most=True)
            table.add_row(Text("  no answer where bm25s has one", style="dim"), "", mark, "", "", str(silent), "")
    return table


def _speed(results: Results, sections: int) -> Table:
    table = _table(
        f"Time of a query, ms: {sections:,} sections",
        *("", "ours\np50", "\np95", "\ntarget", "exact\np50", "ts_rank\np50", "\nratio", "\ntarget", "RUM\np50"),
        *("\nratio", "same\ntop 10", "\ntarget", "scores\noff by"),
    )
    for kind in (*KINDS, UNREFRESHED):
        own = results.median(Key(sections, kind, OURS))
        if own is None:
            continue
        limit = _P95.get(kind)
        table.add_row(
            kind,
            f"{own.p50:.1f}",
            f"{own.p95:.1f}",
            Text() if limit is None else mark_target(limit, own.p95 <= limit, at_most=True),
            _time(results, Key(sections, kind, EXACT)),
            *_against(results, Key(sections, kind, OURS), TS_RANK, _TIMES_TS_RANK if kind == COMMON else None),
            *_against(results, Key(sections, kind, OURS), RUM, None)[:2],
            *_agreement(results, sections, kind),
        )
    return table


def _time(results: Results, key: Key) -> str:
    times = results.median(key)
    return "" if times is None else f"{times.p50:,.1f}" if times.p50 < 100 else f"{times.p50:,.0f}"


def _against(results: Results, key: Key, other: str, target: float | None) -> list[str | Text]:
    """The time of the *other* system, the ratio, and the target for that."""
    ratio = results.ratio(key, other)
    mark = Text() if target is None or ratio is None else mark_target(target, ratio.median >= target, at_most=False)
    return [_time(results, key._replace(system=other)), ratio_cells(ratio)[0], mark]


def _agreement(results: Results, sections: int, kind: str) -> list[str | Text]:
    agreement = results.agreement.get((sections, kind))
    if agreement is None:
        return []
    if kind == THREE_COMMON:
        mark = mark_target(_DEVIATION, agreement.deviation <= _DEVIATION, at_most=True)
    else:
        mark = mark_target(_SAME, agreement.same >= _SAME, at_most=False)
    return [f"{agreement.same:.1%}", mark, f"{agreement.deviation:.2%}"]


def _upkeep(results: Results) -> Table:
    table = _table(
        "Upkeep",
        *(
            "sections",
            "loading\ns",
            "refresh\ns",
            "again, of\nso many",
            "\ns",
            "writes/s\nours",
            "with GIN\nonly",
            "\nratio",
        ),
        *("\ntarget", "disk, MB\nours", "with GIN\nonly", "\nratio", "\ntarget"),
    )
    for sections, upkeep in results.upkeep.items():
        table.add_row(
            f"{sections:,}",
            f"{upkeep.fill_seconds:.0f}",
            f"{upkeep.refresh_seconds:.1f}",
            f"{upkeep.again_sections:,}",
            f"{upkeep.again_seconds:.1f}",
            *_writes(upkeep),
            *_disk(upkeep),
        )
    return table


def _writes(upkeep: Upkeep) -> Iterator[str | Text]:
    ratio = ratio_of(writes.ours / writes.plain for writes in upkeep.writes)
    if ratio is None:
        yield from [""] * 4
        return
    yield f"{statistics.median(writes.ours for writes in upkeep.writes):,.0f}"
    yield f"{statistics.median(writes.plain for writes in upkeep.writes):,.0f}"
    yield ratio_cells(ratio)[0]
    yield mark_target(_WRITES, ratio.median >= _WRITES, at_most=False)


def _disk(upkeep: Upkeep) -> Iterator[str | Text]:
    ours, plain = upkeep.size_of("document"), upkeep.size_of("plain")
    if plain:
        yield f"{ours / 2**20:,.0f}"
        yield f"{plain / 2**20:,.0f}"
        yield f"{ours / plain:.2f}×"
        yield mark_target(_DISK, ours / plain <= _DISK, at_most=True)


def _unspaced(results: Results) -> Table:
    table = _table(
        "Words of 2-4 characters inside Chinese, Japanese and Korean texts",
        *("", "sections", "words", "recall", "target", "precision", "target", "p50, ms", "p95, ms", "target"),
    )
    for language, found in results.unspaced.items():
        table.add_row(
            language,
            f"{found.sections:,}",
            str(found.words),
            f"{found.recall:.4g}",
            mark_target(1, found.recall == 1, at_most=False),
            f"{found.precision:.4g}",
            mark_target(1, found.precision == 1, at_most=False),
            f"{found.times.p50:.2f}",
            f"{found.times.p95:.2f}",
            mark_target(_UNSPACED_P95, found.times.p95 <= _UNSPACED_P95, at_most=True),
        )
    return table


def _notes(results: Results) -> Iterator[Text]:
    yield Text(
        "Medians over the rounds. Ratio: how many times longer the other one takes, by p50 in the same round; of "
        "writes and disk: ours by theirs. Same top 10: as exact=True; off by: how far a score falls short of that.",
        style="dim",
    )
    for name, reason in results.missing.items():
        yield Text(f"not in it: {name} ({reason})", style="yellow")
    for failure in results.failures:
        yield Text(f"failed: {failure}", style="red")
