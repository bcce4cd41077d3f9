"""What an ingestion leaves to the background: it makes searches faster, and nothing has to wait for it to be found."""

from __future__ import annotations

import asyncio
import logging

from ..connect_db import Pool, get_connection_pool
from ..exceptions import DatabaseError
from ..registry import work_in_background
from .waiting_words import merge_waiting_words
from .word_lists import MANY_SECTIONS, count_sections, refresh_lists

log = logging.getLogger("database")

_PATIENCE = 2.0  # seconds in which other writers end, else the lists are left for the next time


async def refresh_soon() -> None:
    """
    Merge new words into the index and bring the lists of common words up to date.

    In the background, for some seconds at most; the pool does not close before. The lists of a large collection are
    waited for. Nothing is done in a test's transaction, whose end does not wait.
    """
    pool = await get_connection_pool()
    if pool.source is not None:
        return
    are_many = await count_sections() >= MANY_SECTIONS
    refreshing = pool.companions.setdefault(_Refreshing, _Refreshing(pool))
    assert isinstance(refreshing, _Refreshing)  # noqa: S101 (nothing else has that key)
    refreshing.begin()
    if are_many:
        await refresh_lists()


class _Refreshing:
    """One refresh at a time for a pool, and another one for whoever asks for it meanwhile."""

    queued = 0

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False

    @property
    def is_idle(self) -> bool:
        return self._task is None or self._task.done()

    def begin(self) -> None:
        self._is_wanted = True
        if self.is_idle:
            self._task = work_in_background(self._pool, self._refresh())

    async def finish(self, timeout: float) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout)
            self._task.cancel()

    async def _refresh(self) -> None:
        while self._is_wanted:
            self._is_wanted = False
            try:
                await merge_waiting_words()
                if await count_sections() < MANY_SECTIONS:
                    await refresh_lists(patience=_PATIENCE)
            except DatabaseError as exc:  # what was stored is stored, and found
                log.warning("new words are found, but not yet as fast as they could be: %s", exc)
