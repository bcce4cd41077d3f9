"""The page that shows the last report."""

from __future__ import annotations

import os
import platform
import re
import textwrap
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from database.embedded.binaries import find_binaries

from .table import FAULTS

_BEGIN, _END = "<!-- begin of the report -->", "<!-- end of the report -->"


def describe_machine() -> str:
    """On what it runs, and how busy that is."""
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return (
        f"{os.cpu_count()} cores (load at the start {load}), {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, asyncpg {version('asyncpg')}, PostgreSQL {find_binaries().version}"
    )


def write_report(page: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the report in *page*."""
    text = page.read_text(encoding="utf-8")
    report = "\n".join(render(results))
    pattern = re.escape(_BEGIN) + ".*" + re.escape(_END)
    page.write_text(re.sub(pattern, lambda _: f"{_BEGIN}\n{report}\n{_END}", text, flags=re.DOTALL), encoding="utf-8")


def render(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The lines of the report."""
    yield ""
    yield "| Fault | Full run | Run | Kept? |"
    yield "|---|---|---|---|"
    for fault in FAULTS:
        result = results.get(fault.name)
        if result is None:
            yield f"| [{fault.name}](#{fault.name}) | {fault.full} | not run yet | not shown |"
        else:
            kept = "**no**" if result["broken"] else "**late**" if result["late"] else "yes"
            run = "all" if fault.tests else f"{result['share']:.0%}"
            yield f"| [{fault.name}](#{fault.name}) | {fault.full} | {run} | {kept} |"
    for fault in FAULTS:
        yield ""
        yield f"### {fault.name}"
        yield ""
        yield _wrap(f"{fault.fault[0].upper()}{fault.fault[1:]}. Promise: {fault.promise}.")
        result = results.get(fault.name)
        if result is not None:
            yield ""
            yield _wrap(f"`{result['command']}`, {result['day']}, {result['seconds']:.0f} s. {result['machine']}.")
            yield ""
            yield from (f"- {name}: {_number(value)}" for name, value in result["figures"].items())
            yield from (f"- not kept: {line}" for line in result["broken"])
            yield from (f"- too late: {line}" for line in result["late"])
    yield ""


def _wrap(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _number(value: float | str) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if isinstance(value, float) else value
