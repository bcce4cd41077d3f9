"""
Dumps: made, listed, restored, fetched from another machine, committed to git.

dumping.py and restoring.py do it, remote.py over ssh; archives.py knows the files, places.py where a database is,
programs.py pg_dump and the like.
"""

from .dumping import dump_database, list_dumps
from .remote import commit_dumps_to_git, sync_from
from .restoring import restore_database

__all__ = ["commit_dumps_to_git", "dump_database", "list_dumps", "restore_database", "sync_from"]
