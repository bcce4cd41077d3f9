"""`python -m benchmarks`: measure, print the table, write JSON and the plot."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .command_line import file_to_write, folder, names_from, positive, show_progress, write_file
from .ending import RunFailedError, explain_failures, run_until_signal
from .environment import describe_environment
from .peers import PGBENCH, SYSTEMS
from .plan import BY_DEFAULT, WORKS, Plan
from .plot import draw_plot
from .report import make_console, render_head, render_table
from .results import Results
from .rounds import Run, do_all
from .server import file_system_of, make_workspace, read_settings, run_server

_EPILOG = """
works: {works} (tables only if named)
systems: {systems}

Everything happens on an embedded PostgreSQL in a temporary directory, which is deleted at the end, also after Ctrl-C.
Whatever DATABASE_URL and the like say is not used. docs/benchmarks.md explains every line of the table.
"""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="This package side by side with its peers, against one embedded server.",
        epilog=_EPILOG.format(works=", ".join(WORKS), systems=", ".join((*SYSTEMS, PGBENCH))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="smaller tables and shorter measures: under two minutes")
    add("--only", type=names_from(WORKS), default=BY_DEFAULT, metavar="WORK,…", help="only these works")
    add("--systems", type=names_from((*SYSTEMS, PGBENCH)), metavar="NAME,…", help="only these systems; default: all")
    add("--rounds", type=positive(int), metavar="N", help="rounds of each measure (default: 5, quick 3)")
    add("--seconds", type=positive(float), metavar="S", help="length of a measure (default: 1, quick 0.08)")
    add("--documents", type=positive(int), metavar="N", help="rows of the table of documents (200,000; quick 20,000)")
    add("--turns", type=positive(int), metavar="N", help="rows of the chat history (1,000,000; quick 100,000)")
    add("--items", type=positive(int), metavar="N", help="rows of the tables of items (100,000; quick 10,000)")
    add("--corpus", type=folder, metavar="PATH", help="ingest the Markdown files below PATH, not made-up ones")
    add("--directory", type=folder, metavar="PATH", help="where the server's data is for the time (a disk, not memory)")
    add("--json", type=file_to_write, metavar="PATH", help="write every round, the versions and the medians to PATH")
    add("--svg", type=file_to_write, metavar="PATH", help="draw operations per second by callers into PATH")
    options = parser.parse_args(arguments)
    if reason := make_plan(options).why_too_small():
        parser.error(reason)
    return options


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The plan of the mode, with what the options change."""
    make = Plan.quick if arguments.quick else Plan.full
    systems = arguments.systems or (*SYSTEMS, PGBENCH)
    return make(arguments.only, systems).with_options(
        rounds=arguments.rounds,
        memory_rounds=arguments.rounds and min(arguments.rounds, 3),
        seconds=arguments.seconds,
        documents=arguments.documents,
        turns=arguments.turns,
        items=arguments.items,
        corpus=arguments.corpus,
    )


async def run(plan: Plan, directory: Path | None, console: Console, results: Results) -> None:
    """Measure into *results*, with the progress on *console*; raises `RunFailedError` where it cannot go on."""
    with (
        make_workspace(directory) as workspace,
        show_progress(console) as show,
        explain_failures(show, workspace) as progress,
    ):
        await _run_in(workspace, plan, console, results, progress)


async def _run_in(
    workspace: Path, plan: Plan, console: Console, results: Results, progress: Callable[[str], None]
) -> None:
    progress("starting a server")
    async with run_server(workspace / "server") as server:
        settings = await read_settings(server)
        distributions = {name: SYSTEMS[name].distributions for name in plan.systems if name in SYSTEMS}
        results.environment |= describe_environment(settings, file_system_of(workspace), distributions)
        console.print()
        console.print(render_head(plan, results.environment))
        if results.environment["file_system"] == "tmpfs":
            console.print("[yellow]The data is in memory, where fsync costs nothing: --directory says where else.")
        console.print()
        await do_all(Run(plan, server, workspace, results, progress))
        progress("done")


def main(arguments: list[str]) -> int:
    """Exit code 1 where a system gave a wrong answer or none, or the run failed, 130 where a signal ended it."""
    options = parse_arguments(arguments)
    plan = make_plan(options)
    console = make_console()
    results = Results({}, {**asdict(plan), "corpus": str(plan.corpus or "made up")})
    failure = ""
    try:
        run_until_signal(run(plan, options.directory, console, results))
    except asyncio.CancelledError:
        with suppress(OSError):  # there may be no terminal any more
            console.print("interrupted; the server has stopped and its data is deleted")
        return 130
    except (RunFailedError, OSError) as exc:
        failure = str(exc)
    if not failure or results.rounds or results.memory:
        console.print()
        console.print(render_table(plan, results))
    if failure:  # files of an earlier run stay as they are
        console.print(Text(failure, style="red"))
        return 1
    files = ((options.json, results.as_json), (options.svg, lambda: draw_plot(results)))
    unwritten = [failure for path, make in files if path and (failure := write_file(path, make()))]
    for failure in unwritten:
        console.print(Text(failure, style="red"))
    return 1 if results.failures or unwritten else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
