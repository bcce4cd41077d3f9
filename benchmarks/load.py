"""Callers that work at the same time, each with one call under way."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

# called with the number of the caller; returns when the answer is there and was checked
Call = Callable[[int], Awaitable[None]]


class Measure(NamedTuple):
    """How many calls were answered, and the seconds from the first call to the last answer."""

    operations: int
    seconds: float


async def run_callers(call: Call, callers: int, seconds: float) -> Measure:
    """
    Let *callers* tasks make one call after the other, and no new one after *seconds*.

    What is under way then is waited for and counted, in operations and in time: nobody gains by answers that are late.
    A call that fails ends it all and raises.
    """
    answered = 0
    clock = time.perf_counter

    async def work(caller: int) -> None:
        nonlocal answered
        while True:
            await call(caller)
            answered += 1
            if clock() >= end:
                return

    gc.collect()
    began = clock()
    end = began + seconds
    async with asyncio.TaskGroup() as group:
        for caller in range(callers):
            group.create_task(work(caller))
    return Measure(answered, clock() - began)


async def run_once(call: Call) -> Measure:
    """One call."""
    gc.collect()
    began = time.perf_counter()
    await call(0)
    return Measure(1, time.perf_counter() - began)
