"""`python -m benchmarks.search`: measure, print the tables, write JSON and the plot."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

import database as db

from ..command_line import folder, names_from, positive, show_progress
from ..environment import describe_environment
from ..report import describe_machine, make_console
from ..server import file_system_of, make_workspace, read_settings, run_server
from ..systems import clean_environment
from .collection import CollectionError, read_collection
from .plan import WORKS, Plan
from .plot import draw_plot
from .quality import measure_quality
from .report import render_plan, render_tables
from .results import Results
from .speed import measure_speed
from .unspaced import measure_unspaced

_DISTRIBUTIONS = {"ours": ("pgdatabase", "asyncpg"), "bm25s": ("bm25s", "numpy", "PyStemmer")}
_EPILOG = f"""
works: {", ".join(WORKS)}

A collection is a directory or a tar archive in the layout of BEIR: corpus.jsonl, queries.jsonl, and qrels.tsv or
qrels/test.tsv. Without --collection, quality is measured on a small one that is made up.

Everything happens on an embedded PostgreSQL in a temporary directory, which is deleted at the end, also after Ctrl-C.
Whatever DATABASE_URL and the like say is not used. docs/benchmarks.md explains every figure.
"""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description="How good the answers of search are, and how fast, beside bm25s, ts_rank and RUM.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a smaller collection and fewer queries: under two minutes")
    add("--only", type=names_from(WORKS), default=WORKS, metavar="WORK,…", help="only these works")
    add(
        "--collection",
        type=Path,
        action="append",
        metavar="PATH",
        help="judge the answers on this one; may be repeated",
    )
    add(
        "--sections",
        type=_sizes,
        metavar="N,…",
        help="sizes of the generated collections (200000,1000000; quick 30000)",
    )
    add("--rounds", type=positive(int), metavar="N", help="rounds of each measure (default: 3)")
    add("--queries", type=positive(int), metavar="N", help="queries of each kind in a round (default: 40, quick 20)")
    add("--unspaced", type=positive(int), metavar="N", help="sections without spaces (default: 5,000, quick 1,000)")
    add("--written", type=positive(int), metavar="N", help="sections that are added in a round (5,000, quick 2,000)")
    add("--directory", type=folder, metavar="PATH", help="where the server's data is for the time (a disk, not memory)")
    add("--json", type=Path, metavar="PATH", help="write every round, the versions and the medians to PATH")
    add("--svg", type=Path, metavar="PATH", help="draw quality and times into PATH")
    options = parser.parse_args(arguments)
    try:
        for path in options.collection or ():
            read_collection(path)
    except CollectionError as exc:
        parser.error(str(exc))
    return options


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The plan of the mode, with what the options change."""
    make = Plan.quick if arguments.quick else Plan.full
    collections = tuple(path.expanduser().resolve() for path in arguments.collection or ())
    return make(arguments.only).with_options(
        sizes=arguments.sections,
        rounds=arguments.rounds,
        queries=arguments.queries,
        certified=arguments.queries and min(arguments.queries, 20),
        unspaced=arguments.unspaced,
        unspaced_words=arguments.unspaced and min(arguments.unspaced, 100 if arguments.quick else 200),
        written=arguments.written,
        collections=collections,
    )


async def run(plan: Plan, directory: Path | None, console: Console) -> Results:
    """Measure, with the progress on *console*."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with make_workspace(directory) as workspace, chdir(workspace), show_progress(console) as progress:
        try:  # no .env there
            return await _run_in(workspace, plan, console, progress)
        finally:
            db.configure(None)


async def _run_in(workspace: Path, plan: Plan, console: Console, progress: Callable[[str], None]) -> Results:
    progress("starting a server")
    async with run_server(workspace / "server") as server:
        settings = await read_settings(server)
        environment = describe_environment(settings, file_system_of(workspace), _DISTRIBUTIONS)
        console.print()
        console.print(render_plan(plan, describe_machine(environment)))
        console.print()
        results = Results(environment, {**asdict(plan), "collections": [path.name for path in plan.collections]})
        if "quality" in plan.works:
            await measure_quality(plan.collections, server, results, progress)
        if "unspaced" in plan.works:
            await measure_unspaced(plan, server, results, progress)
        if "speed" in plan.works:
            await measure_speed(plan, server, workspace, results, progress)
        progress("done")
        return results


def main(arguments: list[str]) -> int:
    """Exit code 1 where an answer was wrong."""
    options = parse_arguments(arguments)
    plan = make_plan(options)
    console = make_console()
    for name in os.environ.keys() - clean_environment().keys():
        del os.environ[name]
    try:
        results = asyncio.run(run(plan, options.directory, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; the server has stopped and its data is deleted")
        return 130
    console.print()
    console.print(render_tables(results))
    if options.json:
        results.write(options.json)
    if options.svg:
        options.svg.write_text(draw_plot(results), encoding="utf-8")
    return 1 if results.failures else 0


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(int)(size) for size in text.split(","))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
