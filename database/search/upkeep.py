"""A statement of the upkeep of the search."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..connect_db import Connection, perform
from ..exceptions import DocumentError

T = TypeVar("T")


async def run(
    doing: str, work: Callable[[Connection], Awaitable[T]], conn: Connection | None = None, *, changes: bool = False
) -> T:
    """As `perform`: what is repeated although it was done is done once more, which does no harm to anything here."""
    return await perform(work, conn=conn, kind=DocumentError, doing=doing, changes=changes, repeatable=True)
