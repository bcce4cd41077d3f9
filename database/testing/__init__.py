"""
Testing what is built on the package: transactions that are undone, seed data, copies, mock rows, test modes.

The fixtures of the pytest plugin stand in pytest_pgdatabase.py. See docs/testing.md.
"""

from .isolation import create_savepoint, rollback_to_savepoint, rolled_back, with_transaction
from .mock_rows import generate_related_rows, generate_row, generate_rows, insert_mock_rows
from .modes import get_active_e2e_tests, in_test_mode
from .records import clone_project, clone_prompt_template, clone_record
from .seed_data import cleanup_non_protected, load_seed_data

__all__ = [
    "cleanup_non_protected",
    "clone_project",
    "clone_prompt_template",
    "clone_record",
    "create_savepoint",
    "generate_related_rows",
    "generate_row",
    "generate_rows",
    "get_active_e2e_tests",
    "in_test_mode",
    "insert_mock_rows",
    "load_seed_data",
    "rollback_to_savepoint",
    "rolled_back",
    "with_transaction",
]
