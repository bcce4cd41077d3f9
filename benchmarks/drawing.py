"""What the plots share: an SVG page for light and dark backgrounds, text, logarithmic scales, places of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, log10
from statistics import fmean

WIDTH = 960
LABEL_GAP = 15.5
GREY = "#8b949e"
# middle tones: they stand out from white and from black
BLUE, ORANGE, GREEN, RED, VIOLET, OCHRE, TEAL = (
    "#2f81f7", "#e8590c", "#2b9a66", "#d6336c", "#8f66e0", "#a0833c", "#1098ad"
)  # fmt: skip
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


def draw_page(height: int, title: str, about: str, parts: Iterable[str]) -> str:
    """The whole picture: *title*, below it *about*, and the *parts*."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-labelledby="title">',
        f'<title id="title">{escape(title)}</title>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        draw_text(24, 32, title, "title"),
        draw_text(24, 54, about, "small"),
    ]
    return "\n".join([*lines, *parts, "</svg>", ""])


def draw_text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start", colour: str = "") -> str:
    """*text* at a place; *kind* are the classes of the style."""
    style = f' style="fill: {colour}"' if colour else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def place_on_scale(value: float, lowest: float, highest: float) -> float:
    """Where *value* stands between the bounds of a logarithmic scale, from 0 to 1."""
    return (log10(value) - log10(lowest)) / (log10(highest) - log10(lowest))


def find_ticks(lowest: float, highest: float, steps: Sequence[int] = (1, 2, 5)) -> list[float]:
    """The *steps* times the powers of ten, within the bounds."""
    powers = range(floor(log10(lowest)), ceil(log10(highest)) + 1)
    return [step * 10.0**power for power in powers for step in steps if lowest <= step * 10.0**power <= highest]


def place_apart(wanted: Sequence[float]) -> list[float]:
    """
    Places close to the *wanted* ones, which are in order, but `LABEL_GAP` apart.

    Those that would overlap become a block around their mean (pool adjacent violators).
    """
    blocks: list[list[float]] = []  # of places, each less the gaps before it
    for index, place in enumerate(wanted):
        blocks.append([place - index * LABEL_GAP])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    means = [fmean(block) for block in blocks for _ in block]
    return [mean + index * LABEL_GAP for index, mean in enumerate(means)]
