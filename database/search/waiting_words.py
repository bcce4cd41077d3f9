"""
The words of new sections that wait to be merged into the index.

PostgreSQL puts them into a list first (https://www.postgresql.org/docs/current/gin-implementation.html#GIN-FAST-UPDATE),
through which every search goes, and whoever makes it too long has to merge it. An ingestion lets it grow longer and
leaves the merging to the background, once for all.
"""

from __future__ import annotations

from .upkeep import run

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
