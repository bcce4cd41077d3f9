"""The table of faults: what is done to the package, and what it promises to do then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from .answers import swallow_answers_to_commit
from .cancelled import cancel_at_any_moment
from .exhausted import wait_in_line
from .killed import kill_again_and_again
from .long_run import call_a_million_times
from .outcome import Outcome, Plan
from .promoted import promote_again_and_again
from .restarted import come_back_after_an_outage, restart_under_an_idle_pool
from .silent import open_black_holes


class Fault(NamedTuple):
    """
    A row: its name, the promise, what the full run is, and how many seconds it may take.

    *run* it is, or *tests*, patterns of names, where it is one of those that time and number tell nothing more about.
    """

    name: str
    fault: str
    promise: str
    full: str
    run: Callable[[Plan], Awaitable[Outcome]] | None
    limit: float
    tests: tuple[str, ...] = ()


FAULTS = (
    Fault(
        "killed",
        "the server is killed with -9 again and again under concurrent writes and ingestion",
        "what was acknowledged is there, once; what is unknown is resolved or raised as `OutcomeUnknownError`; nothing "
        "else reaches a caller within the deadline",
        "100,000 acknowledged writes, 100 kills",
        kill_again_and_again,
        900,
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
        600,
    ),
    Fault(
        "swallowed",
        "an error is swallowed inside of a transaction",
        "leaving the block raises, and nothing was acknowledged",
        "every kind of block and savepoint",
        None,
        180,
        tests=("tests/test_transaction.py::test_a_swallowed_error_does_not_pass_for_a_commit",),
    ),
    Fault(
        "silent",
        "a black hole (SIGSTOP of the server, a silent line) opens under every kind of call",
        "every call ends within its deadline and 250 ms",
        "500 calls",
        open_black_holes,
        240,
    ),
    Fault(
        "restarts",
        "the server is restarted under an idle pool",
        "callers see no error",
        "200 restarts, 10 kinds of calls after each",
        restart_under_an_idle_pool,
        300,
    ),
    Fault(
        "outages",
        "the server comes back after an outage, and callers wait for it",
        "first success within 250 ms, no thundering herd",
        "p99 of 50 outages",
        come_back_after_an_outage,
        300,
    ),
    Fault(
        "cancelled",
        "tasks are cancelled at any moment, in every public function",
        "no connection leaked, no cancellation lost, no backend idle in transaction, other callers unharmed",
        "200,000 cancellations",
        cancel_at_any_moment,
        900,
    ),
    Fault(
        "exhausted",
        "more callers than connections",
        "first come, first served; `PoolTimeoutError` at the deadline; `DB_MAX_WAITING` refuses at once; health "
        "answers",
        "10,000 waiters",
        wait_in_line,
        180,
    ),
    Fault(
        "processes",
        "fork, a second event loop, the end of the interpreter with an open pool",
        "a pool of one's own, or a clear error; the exit never hangs",
        "each",
        None,
        180,
        tests=(
            "tests/test_pool.py::test_every_event_loop_has_its_own_pool",
            "tests/test_pool.py::test_a_forked_child_has_its_own_pool",
            "tests/test_pool.py::test_the_interpreter_exits_with_an_open_pool",
            "tests/test_pool.py::test_pools_of_ended_loops_are_forgotten",
            "tests/test_batching.py::test_nobody_hangs_when_the_program_ends_in_the_middle",
        ),
    ),
    Fault(
        "answered",
        "deadlock, serialization failure (also at COMMIT), lock and statement timeout, too many connections, server "
        "starting, disk full, read-only standby, idle-in-transaction kill, DDL under running statements",
        "sorted as documented; the whole closure is repeated where that is right, with jitter",
        "each",
        None,
        300,
        tests=(
            "tests/test_failures.py",
            "tests/test_exceptions.py",
            "tests/test_transaction.py::test_a_closure_runs_again_after_a_deadlock",
            "tests/test_transaction.py::test_a_closure_runs_again_after_a_serialization_failure",
        ),
    ),
    Fault(
        "long",
        "a long run of mixed calls",
        "memory, connections, prepared statements and tasks do not grow",
        "1,000,000 calls",
        call_a_million_times,
        900,
    ),
)
