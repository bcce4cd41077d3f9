"""asyncpg's pool without the statement that it sends whenever a connection is given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from ..address import Address
from ..operations import POOL_SIZE, Operations
from .with_asyncpg import operations_of


# As with_asyncpg.py, and `reset` does nothing, which spares a round trip a call. What is given up: session settings,
# advisory locks and LISTENs of one user are there for the next one. The statements here leave none of them.
@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Operations]:
    """Point reads and chat inserts; the reset weighs little in all else."""
    pool = asyncpg.create_pool(address.uri, min_size=POOL_SIZE, max_size=POOL_SIZE, reset=_leave_as_it_is)
    async with pool:
        operations = operations_of(pool)
        yield Operations(read_document=operations.read_document, save_turn=operations.save_turn)


async def _leave_as_it_is(connection: asyncpg.Connection[Any]) -> None:
    """For `create_pool`."""
