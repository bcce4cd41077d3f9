"""Operations per second by the number of callers, drawn as SVG for light and dark pages alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from statistics import fmean

from .peers import OURS, PGBENCH
from .results import Key, Results

_WIDTH, _HEIGHT = 960, 450
_TOP, _BOTTOM = 108, 384  # of the panels
_PANELS = ((62, 302), (532, 772))  # left and right; the names of the lines stand to the right of it
_LABEL_GAP = 15.5
_CALLERS = (1, 10, 100, 1000)
_TITLES = {"reads": "Point reads", "chat": "Chat inserts, durable"}
# middle tones: they stand out from white and from black
_COLOURS = {
    OURS.name: "#2f81f7",
    "asyncpg": "#e8590c",
    "psycopg": "#2b9a66",
    "SQLAlchemy": "#d6336c",
    "psqlpy": "#8f66e0",
    "psycopg-toolkit": "#a0833c",
    "langchain-postgres": "#1098ad",
    PGBENCH: "#8b949e",
}
_STYLE = """
    .page { fill: #ffffff; stroke: #d0d7de }
    .grid { stroke: #d8dee4; stroke-width: 1 }
    text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a }
    .title { font-size: 17px; font-weight: 600; fill: #1f2328 }
    .panel { font-size: 15px; font-weight: 600; fill: #1f2328 }
    .small { font-size: 12px }
    .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
    .ours { stroke-width: 3.5 }
    .bold { font-weight: 700 }
    @media (prefers-color-scheme: dark) {
        .page { fill: #0d1117; stroke: #30363d }
        .grid { stroke: #262c34 }
        text { fill: #9aa4ae }
        .title, .panel { fill: #e6edf3 }
    }
"""


@dataclass(frozen=True)
class _Panel:
    """A place on the page with logarithmic axes."""

    left: float
    right: float
    lowest: float
    highest: float

    def x(self, callers: float) -> float:
        return self.left + (self.right - self.left) * log10(callers) / log10(_CALLERS[-1])

    def y(self, speed: float) -> float:
        part = (log10(speed) - log10(self.lowest)) / (log10(self.highest) - log10(self.lowest))
        return _BOTTOM - (_BOTTOM - _TOP) * part


def draw_plot(results: Results) -> str:
    """The whole picture; a panel without figures says so."""
    environment = results.environment
    about = (
        f"median of {results.plan['rounds']} rounds · {environment['cores']} cores, {environment['python']}, "
        f"PostgreSQL {environment['server']['server_version'].split()[0]} · higher is better, both scales logarithmic"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        ' role="img" aria-labelledby="title">',
        '<title id="title">Operations per second by the number of concurrent callers</title>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="8"/>',
        _text(24, 32, "Operations per second by the number of concurrent callers", "title"),
        _text(24, 54, about, "small"),
    ]
    for work, (left, right) in zip(_TITLES, _PANELS, strict=True):
        lines += _draw_panel(results, work, left, right)
    return "\n".join([*lines, "</svg>", ""])


def _draw_panel(results: Results, work: str, left: float, right: float) -> Iterator[str]:
    yield _text(left, _TOP - 12, _TITLES[work], "panel")
    curves = _curves(results, work)
    speeds = [speed for points in curves.values() for _, speed in points]
    if not speeds:
        yield _text(left, _TOP + 30, "not measured")
        return
    lowest = 10 ** (floor(log10(min(speeds)) * 2) / 2)
    highest = 10 ** (ceil(log10(max(speeds)) * 2 + 0.1) / 2)
    panel = _Panel(left, right, lowest, highest)
    yield from _draw_axes(panel)
    # this package last, so that it lies on top
    for name in sorted(curves, key=lambda name: name == OURS.name):
        yield from _draw_curve(panel, name, curves[name])
    yield from _draw_labels(panel, curves)


def _curves(results: Results, work: str) -> dict[str, list[tuple[int, float]]]:
    """Callers and operations per second, by system."""
    curves = {}
    for name in _COLOURS:
        speeds = {callers: results.speed(Key(work, callers, name)) for callers in _CALLERS}
        if points := [(callers, speed) for callers, speed in speeds.items() if speed is not None]:
            curves[name] = points
    return curves


def _draw_axes(panel: _Panel) -> Iterator[str]:
    for callers in _CALLERS:
        yield _text(panel.x(callers), _BOTTOM + 20, f"{callers:,}", "small", anchor="middle")
    yield _text((panel.left + panel.right) / 2, _BOTTOM + 40, "concurrent callers", "small", anchor="middle")
    for tick in _ticks(panel.lowest, panel.highest):
        y = panel.y(tick)
        yield f'<line class="grid" x1="{panel.left}" y1="{y:.1f}" x2="{panel.right}" y2="{y:.1f}"/>'
        label = f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}"
        yield _text(panel.left - 8, y + 4, label, "small", anchor="end")


def _ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times the powers of ten, within the bounds."""
    powers = range(floor(log10(lowest)), ceil(log10(highest)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if lowest <= step * 10.0**power <= highest]


def _draw_curve(panel: _Panel, name: str, points: Sequence[tuple[int, float]]) -> Iterator[str]:
    colour = _COLOURS[name]
    places = [(panel.x(callers), panel.y(speed)) for callers, speed in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    kind = "line ours" if name == OURS.name else "line"
    dashes = ' stroke-dasharray="5 5"' if name == PGBENCH else ""
    yield f'<polyline class="{kind}" points="{path}" stroke="{colour}"{dashes}/>'
    radius = 4.5 if name == OURS.name else 3
    for x, y in places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def _draw_labels(panel: _Panel, curves: dict[str, list[tuple[int, float]]]) -> Iterator[str]:
    """The names behind the ends of the lines."""
    ends = sorted((panel.y(points[-1][1]), name) for name, points in curves.items())
    for (y, name), place in zip(ends, _apart([y for y, _ in ends]), strict=True):
        callers, speed = curves[name][-1]
        colour = _COLOURS[name]
        yield (
            f'<line x1="{panel.x(callers) + 7:.1f}" y1="{y:.1f}" x2="{panel.right + 18}" y2="{place:.1f}"'
            f' stroke="{colour}" opacity="0.6"/>'
        )
        ours = name == OURS.name
        label = f"{'this package' if ours else name} {speed:,.0f}"
        yield _text(panel.right + 22, place + 4, label, "small bold" if ours else "small", colour=colour)


def _apart(wanted: Sequence[float]) -> list[float]:
    """
    Places close to the *wanted* ones, which are in order, but `_LABEL_GAP` apart.

    Those that would overlap become a block around their mean (pool adjacent violators).
    """
    blocks: list[list[float]] = []  # of places, each less the gaps before it
    for index, place in enumerate(wanted):
        blocks.append([place - index * _LABEL_GAP])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    means = [fmean(block) for block in blocks for _ in block]
    return [mean + index * _LABEL_GAP for index, mean in enumerate(means)]


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start", colour: str = "") -> str:
    style = f' style="fill: {colour}"' if colour else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(text)}</text>'
