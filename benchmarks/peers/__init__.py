"""
The systems that are compared, a module each: `connect(address)` gives its `Operations` for as long as the block lasts.

Each is used as its own documentation recommends for speed; the comment above `connect` says what was chosen and why.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import NamedTuple

from ..address import Address
from ..operations import Operations

Connect = Callable[[Address], AbstractAsyncContextManager[Operations]]


class System(NamedTuple):
    """A system in the comparison; *distributions* are what pip calls it, and are named with their versions."""

    name: str
    module: str
    distributions: tuple[str, ...]


OURS = System("ours", "ours", ("pgdatabase",))
ASYNCPG_NO_RESET = System("asyncpg-no-reset", "with_asyncpg_no_reset", ("asyncpg",))
SYSTEMS = {
    system.name: system
    for system in (
        OURS,
        System("asyncpg", "with_asyncpg", ("asyncpg",)),
        ASYNCPG_NO_RESET,
        System("psycopg", "with_psycopg", ("psycopg", "psycopg-binary", "psycopg-pool")),
        System("SQLAlchemy", "with_sqlalchemy", ("SQLAlchemy",)),
        System("psqlpy", "with_psqlpy", ("psqlpy",)),
        System("psycopg-toolkit", "with_psycopg_toolkit", ("psycopg-toolkit",)),
        System("langchain-postgres", "with_langchain_postgres", ("langchain-postgres", "langchain-core")),
    )
}
PGBENCH = "pgbench"  # a program, not a library: see pgbench.py


def load(name: str) -> Connect:
    """The `connect` of the system *name*; raises `ImportError` where it is not installed."""
    connect: Connect = import_module(f"{__name__}.{SYSTEMS[name].module}").connect
    return connect
