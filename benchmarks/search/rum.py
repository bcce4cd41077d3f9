"""A server with RUM, where the system has one: Debian's package postgresql-15-rum puts it beside its PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import database as db

from ..address import Address
from ..server import execute, run_server
from .tables import MAKE_PLAIN

_PLACES = "usr/lib/postgresql/*/lib/rum.so"
_EXTENSION = "CREATE EXTENSION rum"
_INDEX = "CREATE INDEX plain_search_index ON plain USING rum (search rum_tsvector_ops)"


def find_rum() -> Path | None:
    """The programs of the newest PostgreSQL of the system that has RUM; None where none has."""
    found = sorted(Path("/").glob(_PLACES), key=lambda library: int(library.parts[-3]))
    return found[-1].parent.parent / "bin" if found else None


@asynccontextmanager
async def run_rum_server(programs: Path, directory: Path) -> AsyncIterator[Address]:
    """A server of its own with the empty table `plain` and a RUM index, for as long as the block lasts."""
    db.configure(db.Settings(postgres_bin=programs))
    async with run_server(directory) as address:
        db.configure(None)
        await execute(address, _EXTENSION, MAKE_PLAIN, _INDEX)
        yield address
