"""Clean-up that is not cut short: what has to end before the next thing may begin."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, which goes on to its end where the caller is cancelled; the cancellation follows then."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        task.exception()  # has been seen
        raise asyncio.CancelledError
    return task.result()
