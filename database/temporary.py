"""Tables and rows for the time of a block: made before it, and gone after it, however it ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from .connect_db import Connection, get_db_transaction

log = logging.getLogger("database")

T = TypeVar("T")


def temporary_schema(
    create: Callable[[Connection], Awaitable[T]],
    drop: Callable[[Connection], Awaitable[Any]],
    *,
    conn: Connection | None = None,
) -> AbstractAsyncContextManager[T]:
    """
    For the time of a block, what `await create(conn)` makes and returns; at its end, `await drop(conn)`.

    Each runs in a transaction of its own, so that every connection sees what was made; with *conn*, in a savepoint of
    its transaction. *drop* runs also where the block fails or is cancelled, and not where *create* fails, which leaves
    nothing. If both the block and *drop* fail, the error of the block is raised and the other one is logged.
    """
    return _around(create, drop, conn)


def temporary_data(
    setup: Callable[[Connection], Awaitable[T]],
    cleanup: Callable[[Connection], Awaitable[Any]],
    *,
    conn: Connection | None = None,
) -> AbstractAsyncContextManager[T]:
    """The same as `temporary_schema`, for rows: what `await setup(conn)` stores and returns, and `cleanup(conn)`."""
    return _around(setup, cleanup, conn)


@asynccontextmanager
async def _around(
    make: Callable[[Connection], Awaitable[T]], unmake: Callable[[Connection], Awaitable[Any]], conn: Connection | None
) -> AsyncIterator[T]:
    async with get_db_transaction(conn=conn) as c:
        made = await make(c)
    try:
        yield made
    except BaseException:
        try:
            await _unmake(unmake, conn)
        except Exception as exc:
            # inside of a transaction that the block has spoilt, the rollback takes along what was made
            log.warning("what a block has made for itself was not cleaned up: %s", exc)
        raise
    await _unmake(unmake, conn)


async def _unmake(unmake: Callable[[Connection], Awaitable[Any]], conn: Connection | None) -> None:
    async with get_db_transaction(conn=conn) as c:
        await unmake(c)
