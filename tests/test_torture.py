"""Every fault of the table, a few times: no promise is broken. `make torture` has the full figures."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import database as db
from tests.torture.cancelled import callers_in
from tests.torture.outcome import Outcome, Plan, nobody_complains
from tests.torture.table import FAULTS, Fault

_SHARE = 0.003


_RUN = [fault for fault in FAULTS if fault.run is not None]


@pytest.mark.parametrize("fault", _RUN, ids=[fault.name for fault in _RUN])
async def test_what_is_promised_for_a_fault_is_kept(fault: Fault, tmp_path: Path) -> None:
    """But for how long things take, which only a machine of one's own can tell."""
    assert fault.run is not None
    outcome = Outcome()
    with nobody_complains(outcome):
        done = await fault.run(Plan(_SHARE, tmp_path))
    assert not done.broken
    assert not outcome.broken


@pytest.mark.parametrize("test", [test for fault in FAULTS for test in fault.tests])
def test_the_tests_that_the_table_names_exist(test: str) -> None:
    """Where a row of the table is made of tests."""
    file, _, name = test.partition("::")
    assert f"def {name}" in (Path(__file__).parent.parent / file).read_text()


def test_every_public_function_that_waits_is_cancelled() -> None:
    """But for those that open, close or describe the pool itself, run programs, or drop what the others work on."""
    of_the_pool = {"close_connection_pool", "get_pool_stats", "register_init_callback"}
    dropping = {"drop_project_schema", "drop_section_vectors", "rollback"}
    of_programs = {"commit_dumps_to_git", "dump_database", "restore_database", "sync_from"}  # tests/test_backup.py
    waiting = {name for name in db.__all__ if inspect.iscoroutinefunction(getattr(db, name))}
    assert waiting - of_the_pool - of_programs - dropping <= set(callers_in(Path()))
