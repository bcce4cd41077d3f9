"""What the commands seed and mock do."""

from __future__ import annotations

import time
from pathlib import Path

from ..connect_db import get_connection_pool
from ..exceptions import DatabaseError
from ..testing import generate_rows, insert_mock_rows, load_seed_data
from .terminal import Terminal, format_seconds


async def store_seed_data(terminal: Terminal, path: Path, schema: str) -> int:
    """Load the file, and say how many rows of which tables it holds."""
    stored = await load_seed_data(path, schema=schema)
    for table, rows in stored.items():
        terminal.show((f"{rows:,}", "bold"), f" of {table}")
    if not stored:
        terminal.talk("the file names no tables")
    terminal.give(stored)
    return 0


async def store_mock_rows(
    terminal: Terminal, table: str, count: int, schema: str, seed: int | None, *, dry_run: bool
) -> int:
    """Store made-up rows, or only show them."""
    try:
        if dry_run:
            rows = await generate_rows(table, count, schema=schema, seed=seed)
            for row in rows:
                terminal.show(", ".join(f"{name}={value!s}" for name, value in row.items()))
            terminal.give(rows)
            return 0
        await get_connection_pool()
        began = time.perf_counter()
        stored = await insert_mock_rows(table, count, schema=schema, seed=seed)
        seconds = time.perf_counter() - began
    except ImportError as exc:
        raise DatabaseError(str(exc)) from exc
    terminal.show((f"{stored:,}", "bold"), f" rows of {table} in {format_seconds(seconds)}")
    terminal.give({"table": table, "rows": stored})
    return 0
