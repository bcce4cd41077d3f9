"""The table of faults: what is done to the package, and what it promises to do then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from .answers import swallow_answers_to_commit
from .killed import kill_again_and_again
from .outcome import Outcome, Plan
from .promoted import promote_again_and_again
from .silent import open_black_holes


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
    Fault(
        "promoted",
        "a standby is promoted under load, with both hosts in the URL; the old primary comes back read-only",
        "writes go on at the new one; connections to the old one are replaced on 25006, 57P01 and 57P02",
        "20 promotions with a synchronous standby: 0 lost, 0 twice, back within 1 s of the promotion",
        promote_again_and_again,
        420,
    ),
    Fault(
        "answers",
        "the answer to COMMIT is swallowed, COMMIT never arrives, or the server crashes in between",
        "resolved, or `OutcomeUnknownError`; never repeated blindly",
        "2,000 swallowed",
        swallow_answers_to_commit,
        420,
    ),
    Fault(
        "silent",
        "a black hole (SIGSTOP of the server, a silent line) opens under every kind of call",
        "every call ends within its deadline and 250 ms",
        "500 calls",
        open_black_holes,
        240,
    ),
)
