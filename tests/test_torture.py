"""Every fault of the table, a few times: no promise is broken. `make torture` has the full figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.outcome import Plan
from tests.torture.table import FAULTS, Fault

_SHARE = 0.01


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_what_is_promised_for_a_fault_is_kept(fault: Fault, tmp_path: Path) -> None:
    """But for how long things take, which only a machine of one's own can tell."""
    outcome = await fault.run(Plan(_SHARE, tmp_path))
    assert not outcome.broken
