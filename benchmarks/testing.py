"""
`python -m benchmarks.testing`: what the fixtures for tests cost, and how fast rows are made up.

On an embedded server in a temporary directory. Times are medians, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

import database as db
from database import embedded
from database.settings import configure
from database.testing import insert_mock_rows, rolled_back
from database.testing.databases import TestRun, create_tables, make_it_hurry

_ROWS = """
    CREATE TABLE {name} (
        id       uuid PRIMARY KEY,
        email    varchar(60) UNIQUE NOT NULL,
        name     text NOT NULL,
        age      integer NOT NULL {age},
        born     date,
        joined   timestamptz NOT NULL,
        role     text NOT NULL {role},
        settings jsonb
    )
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testing", description=__doc__)
    parser.add_argument("--repeat", type=int, default=200, help="how often each is measured (200)")
    parser.add_argument("--rows", type=int, default=50_000, help="how many rows are made up (50,000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = Path(directory) / "server"
        url = asyncio.run(embedded.start(server))
        try:
            _measure(url, arguments.repeat, arguments.rows)
        finally:
            asyncio.run(embedded.shut_down(server, force=True))


def _measure(url: str, repeat: int, rows: int) -> None:
    asyncio.run(make_it_hurry(url))
    table = Table("what", "median", "slowest", title="testing", title_justify="left")
    run = TestRun(url)

    async def setup() -> None:
        await create_tables(None)

    began = time.perf_counter()
    template = run.template(setup)
    table.add_row("template, once for a run", _milliseconds(time.perf_counter() - began), "")
    made = []

    def create() -> None:
        made.append(run.create(template))

    _add(table, "fresh_database: made", create, 10)
    _add(table, "fresh_database: dropped", lambda: run.drop(made.pop()), 10)
    settings = run.create(template)
    configure(settings)

    async def insert() -> None:
        await db.insert_document("name", "code", "text")

    def empty() -> None:
        with rolled_back():
            pass

    def inserting() -> None:
        with rolled_back():
            asyncio.run(insert())

    _add(table, "db_transaction: begun and undone", empty, repeat)
    _add(table, "db_transaction: and an insert in a new event loop", inserting, repeat)
    _add(table, "  of that, a new event loop", lambda: asyncio.run(asyncio.sleep(0)), repeat)
    for name, age, role in (("plain", "", ""), ("checked", "CHECK (age >= 18)", "CHECK (role IN ('a', 'b'))")):
        seconds = asyncio.run(_fill(_ROWS.format(name=name, age=age, role=role), name, rows))
        table.add_row(f"insert_mock_rows, {name} table of 8 columns", f"{rows / seconds:,.0f} rows/s", "")
    run.end()
    Console().print(table)


async def _fill(create: str, name: str, rows: int) -> float:
    await db.execute_with_retry(create)
    began = time.perf_counter()
    await insert_mock_rows(name, rows)
    seconds = time.perf_counter() - began
    await db.close_connection_pool()
    return seconds


def _add(table: Table, what: str, work: Callable[[], object], repeat: int) -> None:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    table.add_row(what, _milliseconds(statistics.median(times)), _milliseconds(max(times)))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


if __name__ == "__main__":
    main()
