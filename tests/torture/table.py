"""The table of faults: what is done to the package, and what it promises to do then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from .killed import kill_again_and_again
from .outcome import Outcome, Plan


class Fault(NamedTuple):
    """A row: its name, the promise, what the full run is, the function, and how many seconds it may take."""

    name: str
    fault: str
    promise: str
    full: str
    run: Callable[[Plan], Awaitable[Outcome]]
    limit: float


FAULTS = (
    Fault(
        "killed",
        "the server is killed with -9 again and again under concurrent writes and ingestion",
        "what was acknowledged is there, once; what is unknown is resolved or raised as `OutcomeUnknownError`; nothing "
        "else reaches a caller within the deadline",
        "100,000 acknowledged writes, 100 kills",
        kill_again_and_again,
        600,
    ),
)
