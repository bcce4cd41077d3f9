"""
Testing what is built on the package: transactions that are undone, seed data, mock rows, test modes.

The fixtures of the pytest plugin stand in pytest_pgdatabase.py. See docs/testing.md.
"""

from .isolation import create_savepoint, rollback_to_savepoint, rolled_back, with_transaction

__all__ = ["create_savepoint", "rollback_to_savepoint", "rolled_back", "with_transaction"]
