"""Operations per second by the number of callers, drawn as SVG for light and dark pages alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from .drawing import (
    BLUE,
    GREEN,
    GREY,
    OCHRE,
    ORANGE,
    RED,
    TEAL,
    VIOLET,
    draw_page,
    draw_text,
    find_ticks,
    place_apart,
    place_on_scale,
)
from .peers import ASYNCPG_NO_RESET, OURS, PGBENCH
from .results import Key, Results

_HEIGHT = 450
_TOP, _BOTTOM = 108, 384  # of the panels
_PANELS = ((62, 302), (532, 772))  # left and right; the names of the lines stand to the right of it
_CALLERS = (1, 10, 100, 1000)
_TITLES = {"reads": "Point reads", "chat": "Chat inserts, durable"}
_DASHES = {ASYNCPG_NO_RESET.name: "1 5", PGBENCH: "5 5"}
_COLOURS = {
    OURS.name: BLUE,
    "asyncpg": ORANGE,
    ASYNCPG_NO_RESET.name: ORANGE,
    "psycopg": GREEN,
    "SQLAlchemy": RED,
    "psqlpy": VIOLET,
    "psycopg-toolkit": OCHRE,
    "langchain-postgres": TEAL,
    PGBENCH: GREY,
}


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
        return _BOTTOM - (_BOTTOM - _TOP) * place_on_scale(speed, self.lowest, self.highest)


def draw_plot(results: Results) -> str:
    """The whole picture; a panel without figures says so."""
    environment = results.environment
    about = (
        f"median of {results.plan['rounds']} rounds · {environment['cores']} cores, {environment['python']}, "
        f"PostgreSQL {environment['server']['server_version'].split()[0]} · higher is better, both scales logarithmic"
    )
    panels = (
        line
        for work, (left, right) in zip(_TITLES, _PANELS, strict=True)
        for line in _draw_panel(results, work, left, right)
    )
    return draw_page(_HEIGHT, "Operations per second by the number of concurrent callers", about, panels)


def _draw_panel(results: Results, work: str, left: float, right: float) -> Iterator[str]:
    yield draw_text(left, _TOP - 12, _TITLES[work], "panel")
    curves = _curves(results, work)
    speeds = [speed for points in curves.values() for _, speed in points]
    if not speeds:
        yield draw_text(left, _TOP + 30, "not measured")
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
        yield draw_text(panel.x(callers), _BOTTOM + 20, f"{callers:,}", "small", anchor="middle")
    yield draw_text((panel.left + panel.right) / 2, _BOTTOM + 40, "concurrent callers", "small", anchor="middle")
    for tick in find_ticks(panel.lowest, panel.highest):
        y = panel.y(tick)
        yield f'<line class="grid" x1="{panel.left}" y1="{y:.1f}" x2="{panel.right}" y2="{y:.1f}"/>'
        label = f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}"
        yield draw_text(panel.left - 8, y + 4, label, "small", anchor="end")


def _draw_curve(panel: _Panel, name: str, points: Sequence[tuple[int, float]]) -> Iterator[str]:
    colour = _COLOURS[name]
    places = [(panel.x(callers), panel.y(speed)) for callers, speed in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    kind = "line ours" if name == OURS.name else "line"
    dashes = f' stroke-dasharray="{_DASHES[name]}"' if name in _DASHES else ""
    yield f'<polyline class="{kind}" points="{path}" stroke="{colour}"{dashes}/>'
    radius = 4.5 if name == OURS.name else 3
    for x, y in places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def _draw_labels(panel: _Panel, curves: dict[str, list[tuple[int, float]]]) -> Iterator[str]:
    """The names behind the ends of the lines."""
    ends = sorted((panel.y(points[-1][1]), name) for name, points in curves.items())
    for (y, name), place in zip(ends, place_apart([y for y, _ in ends]), strict=True):
        callers, speed = curves[name][-1]
        colour = _COLOURS[name]
        yield (
            f'<line x1="{panel.x(callers) + 7:.1f}" y1="{y:.1f}" x2="{panel.right + 18}" y2="{place:.1f}"'
            f' stroke="{colour}" opacity="0.6"/>'
        )
        ours = name == OURS.name
        label = f"{'this package' if ours else name} {speed:,.0f}"
        yield draw_text(panel.right + 22, place + 4, label, "small bold" if ours else "small", colour=colour)
