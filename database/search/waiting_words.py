"""
The words of new sections that wait to be merged into the index.

PostgreSQL puts them into a list first (https://www.postgresql.org/docs/current/gin-implementation.html#GIN-FAST-UPDATE),
through which every search goes, and whoever makes it too long has to merge it. An ingestion lets it grow longer and
leaves the merging to the background, once for all.
"""

from __future__ import annotations

import asyncio
import logging

from ..connect_db import get_connection_pool
from ..exceptions import DatabaseError
from .upkeep import run

log = logging.getLogger("database")

# In a transaction that stores many sections; 4 MB by default. A search goes through so much in some 50 ms.
LET_THEM_WAIT = "SET LOCAL gin_pending_list_limit = '16MB'"
# Without a privilege that needs the owner's rights, autovacuum does it within a minute.
_MERGE = """
    SELECT gin_clean_pending_list(oid)
      FROM pg_class
     WHERE oid = to_regclass('document_section_search_index') AND pg_has_role(relowner, 'USAGE')
"""


async def merge_waiting_words() -> None:
    """Merge them now; nobody is kept from reading or writing meanwhile."""
    await run("merge new words into the index", lambda c: c.execute(_MERGE), changes=True)


async def merge_waiting_words_soon() -> None:
    """Have them merged in the background, which takes some seconds at most; the pool does not close before."""
    pool = await get_connection_pool()
    merging = pool.companions.setdefault(_Merging, _Merging())
    assert isinstance(merging, _Merging)  # noqa: S101 (nothing else has that key)
    merging.begin()


class _Merging:
    """One merge at a time for a pool."""

    queued = 0

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._task is None or self._task.done()

    def begin(self) -> None:
        if self.is_idle:
            self._task = asyncio.create_task(_merge())

    async def finish(self, timeout: float) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout)
            self._task.cancel()


async def _merge() -> None:
    try:
        await merge_waiting_words()
    except DatabaseError as exc:  # autovacuum will do it
        log.info("new words are not merged into the index yet: %s", exc)
