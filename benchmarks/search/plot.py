"""Quality by collection, and times by kind of query, drawn as SVG for light and dark pages alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor, log10

from ..drawing import BLUE, GREEN, GREY, ORANGE, RED, VIOLET, draw_page, draw_text, find_ticks, place_on_scale
from .queries import KINDS
from .results import BM25S, HYBRID, OURS, RUM, TS_RANK, VECTORS, Key, Results

_TOP, _ROW = 122, 27
_COLOURS = {OURS: BLUE, TS_RANK: ORANGE, RUM: GREEN, BM25S: RED, VECTORS: GREY, HYBRID: VIOLET}
_QUALITY = (166, 290)  # left and right
_LABELS = 352
_TIMES = (516, 936)  # shared by the sizes
_GAP = 34


@dataclass(frozen=True)
class _Panel:
    """A place on the page with a logarithmic scale from left to right."""

    left: float
    right: float
    lowest: float
    highest: float

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * place_on_scale(value, self.lowest, self.highest)


def draw_plot(results: Results) -> str:
    """The whole picture; a part that was not measured says so."""
    rows = max(sum(1 + len(found) for found in results.quality.values()), len(KINDS))
    environment = results.environment
    version = environment["server"]["server_version"].split()[0]
    about = (
        f"{environment['cores']} cores, PostgreSQL {version} · nDCG@10: more is better · ms: less is better; median of "
        f"{results.plan['rounds']} rounds, the line ends at the 95th percentile"
    )
    height = _TOP + rows * _ROW + 62
    return draw_page(height, "Search: how good, and how fast", about, _draw_parts(results, rows))


def _draw_parts(results: Results, rows: int) -> Iterator[str]:
    bottom = _TOP + len(KINDS) * _ROW
    yield from _draw_legend(results, _TOP + rows * _ROW + 46)
    yield from _draw_quality(results)
    sizes = sorted({key.sections for key in results.speed})
    if not sizes:
        yield draw_text(_TIMES[0], _TOP + 16, "not measured")
        return
    for number, kind in enumerate(KINDS):
        yield draw_text(_LABELS, _middle(number) + 4, kind, "small")
    width = (_TIMES[1] - _TIMES[0] - _GAP * (len(sizes) - 1)) / len(sizes)
    for number, sections in enumerate(sizes):
        left = _TIMES[0] + number * (width + _GAP)
        yield from _draw_times(results, sections, left, left + width, bottom)


def _middle(row: int) -> float:
    return _TOP + row * _ROW + _ROW / 2


def _draw_legend(results: Results, y: float) -> Iterator[str]:
    present = {key.system for key in results.speed}
    x = 24.0
    for name, colour in _COLOURS.items():
        if name in present:
            yield f'<circle cx="{x + 5:.1f}" cy="{y - 4:.1f}" r="4.5" fill="{colour}"/>'
            label = _label(name)
            yield draw_text(x + 15, y, label, "small bold" if name == OURS else "small")
            x += 40 + 6.5 * len(label)


def _draw_quality(results: Results) -> Iterator[str]:
    """A row for each collection, and below it one for each system, with a bar."""
    left, right = _QUALITY
    yield draw_text(24, _TOP - 16, "nDCG@10", "panel")
    if not results.quality:
        yield draw_text(24, _TOP + 16, "not measured")
        return
    best = max(scores.ndcg for found in results.quality.values() for scores in found.values()) or 1.0
    row = 0
    for collection, found in results.quality.items():
        yield draw_text(24, _middle(row) + 4, collection, "small bold")
        for name, scores in found.items():
            row += 1
            width = (right - left) * scores.ndcg / best
            y = _middle(row)
            yield draw_text(24, y + 4, _label(name), "small bold" if name == OURS else "small")
            yield f'<rect x="{left}" y="{y - 8:.1f}" width="{width:.1f}" height="16" rx="2" fill="{_COLOURS[name]}"/>'
            yield draw_text(round(left + width + 6, 1), y + 4, f"{scores.ndcg:.3f}", "small")
        row += 1


def _label(name: str) -> str:
    return name.replace(OURS, "this package")


def _draw_times(results: Results, sections: int, left: float, right: float, bottom: float) -> Iterator[str]:
    yield draw_text(left, _TOP - 16, f"{sections:,} sections, ms", "panel")
    rows = [
        {name: (times.p50, times.p95) for name in _COLOURS if (times := results.median(Key(sections, kind, name)))}
        for kind in KINDS
    ]
    values = [value for row in rows for pair in row.values() for value in pair]
    if not values:
        return
    panel = _Panel(left, right, 10.0 ** floor(log10(min(values))), 10.0 ** ceil(log10(max(values))))
    ticks = {
        tick: f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}"
        for tick in find_ticks(panel.lowest, panel.highest, (1,))
    }
    yield from _draw_grid(panel, ticks, bottom)
    for number, row in enumerate(rows):
        yield from _draw_row(panel, number, row)


def _draw_grid(panel: _Panel, ticks: Mapping[float, str], bottom: float) -> Iterator[str]:
    for tick, label in ticks.items():
        x = panel.x(tick)
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield draw_text(round(x, 1), bottom + 18, label, "small", anchor="middle")


def _draw_row(panel: _Panel, number: int, row: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Dots, each with a line to the greater value; this package last, so that it lies on top."""
    y = _middle(number)
    for name in sorted(row, key=lambda name: name == OURS):
        value, greater = row[name]
        x, colour = panel.x(value), _COLOURS[name]
        if greater > value:
            end = f'x2="{panel.x(greater):.1f}" y2="{y:.1f}"'
            yield f'<line x1="{x:.1f}" y1="{y:.1f}" {end} stroke="{colour}" stroke-width="2"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5.5 if name == OURS else 4}" fill="{colour}"/>'
