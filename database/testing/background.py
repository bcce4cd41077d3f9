"""
An event loop in a thread of its own, where the connections of tests live.

So a test's transaction does not depend on which event loop the test, its fixtures and the application under test run
in, and outlives all of them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process; the first call starts its thread."""
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="database.testing", daemon=True).start()
        return loop


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, which runs in the background; the calling thread waits for it."""
    return asyncio.run_coroutine_threadsafe(work, background_loop()).result()


async def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, which runs in the background; cancelled with whoever awaits it."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, background_loop()))
