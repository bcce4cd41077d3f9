"""
Random interleavings of calls that share statements, against a model of the two tables.

Calls are made, cancelled, and disturbed: by killed connections, by locks of another client, by a pool that is closed.
Then it is asked whether there is an order of all calls, one after the other and none before it was made or after it was
answered, that explains every answer and what is stored in the end (linearizability: Herlihy and Wing, 1990).
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import database as db
from database import Settings
from database.settings import configure

from .conftest import direct_dsn

State = str | tuple[str, ...] | None
UNANSWERED = object()
REFUSED = object()

CODES = ("a", "b", "c")
THREADS = ("t", "u")
TEXTS = ("short", "longer than the others " * 4)


@dataclass(eq=False)
class Call:
    """A call, when it was made and answered, and its answer; *may_be_repeated*: a connection was killed meanwhile."""

    action: str
    text: str
    made: int
    task: asyncio.Task[Any] | None = None
    answered: float = float("inf")
    answer: Any = UNANSWERED
    may_be_repeated: bool = False
    is_ghost: bool = field(default=False)

    @property
    def is_optional(self) -> bool:
        return self.is_ghost or self.answer is UNANSWERED

    def ghost(self) -> Call:
        """The same call as it may have been done before its connection was killed and it was repeated."""
        return Call(self.action, self.text, self.made, answered=self.answered, is_ghost=True)


def apply(state: State, call: Call) -> tuple[State, set[Any]]:
    """What the table holds after *call*, and the answers that are right."""
    match call.action:
        case "insert":
            return (call.text, {"stored"}) if state is None else (state, {"conflict"})
        case "upsert":
            right = "inserted" if state is None else "unchanged" if state == call.text else "updated"
            # a repetition may find that the first attempt was done
            return call.text, {right, "unchanged"} if call.may_be_repeated else {right}
        case "update":
            return (None, {False}) if state is None else (call.text, {True})
        case "delete":
            return None, {state is not None}
        case "get":
            return state, {state}
        case "save":
            assert isinstance(state, tuple)
            return (state if call.text in state else (*state, call.text)), {"saved"}
        case "recent":
            return state, {state}
        case "forget":
            assert isinstance(state, tuple)
            return tuple(text for text in state if text != call.text), {call.text in state}
    raise AssertionError(call.action)


def is_explained(calls: Iterable[Call], before: State, after: State) -> bool:
    """True where some order of *calls* leads from *before* to *after* and gives each its answer."""
    calls = [call for call in calls if call.answer is not REFUSED]
    changing = ("insert", "upsert", "update", "save")
    calls += [call.ghost() for call in calls if call.may_be_repeated and call.action in changing]
    tried: set[tuple[frozenset[int], State]] = set()

    def search(left: frozenset[int], state: State) -> bool:
        if state == after and all(calls[n].is_optional for n in left):
            return True
        if (left, state) in tried:
            return False
        tried.add((left, state))
        first_answer = min((calls[n].answered for n in left if not calls[n].is_optional), default=float("inf"))
        for n in left:
            if calls[n].made > first_answer:
                continue  # somebody was answered before it was made
            new, right = apply(state, calls[n])
            if (calls[n].is_optional or calls[n].answer in right) and search(left - {n}, new):
                return True
        return False

    return search(frozenset(range(len(calls))), before)


class Tables(RuleBasedStateMachine):
    """The tables, with every call that was made since they were last looked at."""

    def __init__(self, database: Settings) -> None:
        super().__init__()
        self.database = database
        self.loop = asyncio.new_event_loop()
        self.prefix = uuid.uuid4().hex
        self.states: dict[str, State] = {**dict.fromkeys(CODES), **dict.fromkeys(THREADS, ())}
        self.calls: dict[str, list[Call]] = {key: [] for key in self.states}
        self.clock = itertools.count()
        self.names = itertools.count()
        self.saved: dict[str, tuple[str, str]] = {}  # thread and id by question
        self.was_closed = False
        self.client: asyncpg.Connection[asyncpg.Record] = self.run(asyncpg.connect(direct_dsn(database)))
        self.lock: Any = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize(rows=st.sampled_from([1, 2, 3, 256]), size=st.sampled_from([1, 100, 2**20]))
    def limits(self, rows: int, size: int) -> None:
        """Statements of different sizes."""
        configure(self.database.model_copy(update={"batch_max_rows": rows, "batch_max_bytes": size}))

    # -- calls

    @rule(calls=st.lists(st.tuples(
        st.sampled_from(("insert", "upsert", "update", "delete", "get")), st.sampled_from(CODES), st.sampled_from(TEXTS)
    ), min_size=1, max_size=5))  # fmt: skip
    def documents(self, calls: list[tuple[str, str, str]]) -> None:
        """Calls about documents."""
        for action, code, text in calls:
            self.make(action, code, text)

    @rule(calls=st.lists(st.tuples(
        st.sampled_from(("save", "save", "recent", "forget")), st.sampled_from(THREADS), st.integers(min_value=0)
    ), min_size=1, max_size=5))  # fmt: skip
    def messages(self, calls: list[tuple[str, str, int]]) -> None:
        """Calls about threads."""
        for action, thread, which in calls:
            saved = [text for text, (of, _) in self.saved.items() if of == self.prefix + thread]
            if action != "forget":
                self.make(action, thread, f"question {next(self.names)}")
            elif saved:
                self.make(action, thread, saved[which % len(saved)])

    def make(self, action: str, key: str, text: str) -> None:
        """Make a call. No more than a few about one key, for the sake of the search for an order."""
        if len(self.calls[key]) >= 8:
            self.settle()
        call = Call(action, text, next(self.clock))
        call.task = self.loop.create_task(self.perform(call, self.prefix + key))
        self.calls[key].append(call)

    async def perform(self, call: Call, key: str) -> None:
        """Note the answer and when it came."""
        try:
            call.answer = await self.ask(call, key)
        except db.DocumentError as exc:
            assert exc.sqlstate == "23505"
            call.answer = "conflict"
        except db.OutcomeUnknownError:
            assert call.may_be_repeated or self.was_closed
        except db.ConnectionPoolError as exc:
            assert self.was_closed, exc
            call.answer = REFUSED
        call.answered = next(self.clock)

    async def ask(self, call: Call, key: str) -> Any:
        """What the package answers, in the words of the model."""
        match call.action:
            case "insert":
                await db.insert_document("n", key, call.text)
                return "stored"
            case "upsert":
                return (await db.upsert_document("n", key, call.text))["status"]
            case "update":
                return await db.update_document_content(key, call.text)
            case "delete":
                return await db.delete_document(key)
            case "get":
                document = await db.get_document_by_code(key)
                return document and document["content"]
            case "save":
                self.saved[call.text] = key, await db.save_chat_history(1, key, call.text, "a")
                return "saved"
            case "recent":
                messages = await db.get_recent_chat_history(key, limit=1000)
                return tuple(message["question"] for message in reversed(messages))
            case "forget":
                return await db.delete_chat_message(self.saved[call.text][1])

    def pending(self) -> list[Call]:
        """The calls without an answer."""
        return [call for call in itertools.chain(*self.calls.values()) if call.task and not call.task.done()]

    # -- what happens meanwhile

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.001, 0.005]), times=st.integers(1, 5))
    def wait(self, seconds: float, times: int) -> None:
        """Let things go on for a moment."""

        async def a_moment() -> None:
            for _ in range(times):
                await asyncio.sleep(seconds)

        self.run(a_moment())

    @rule(which=st.integers(min_value=0))
    def cancel(self, which: int) -> None:
        """One of the callers gives up."""
        pending = self.pending()
        if pending:
            call = pending[which % len(pending)]
            assert call.task is not None
            call.task.cancel()

    @rule()
    def kill(self) -> None:
        """The server ends all connections, at whatever they are."""
        for call in self.pending():
            call.may_be_repeated = True
        self.run(self.end_backends())
        for call in self.pending():
            call.may_be_repeated = True

    async def end_backends(self) -> None:
        """Also see to it that this process has heard of it: only calls that are under way can be concerned."""
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        await self.client.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {others}")
        await asyncio.sleep(0.001)

    @precondition(lambda self: self.lock is None)
    @rule(key=st.sampled_from(CODES + THREADS))
    def hold(self, key: str) -> None:
        """Another client locks a document or a thread."""

        async def lock() -> None:
            self.lock = self.client.transaction()
            await self.lock.start()
            await self.client.execute("SELECT FROM document WHERE code = $1 FOR UPDATE", self.prefix + key)
            await self.client.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", self.prefix + key)

        self.run(lock())

    @rule()
    def let_go(self) -> None:
        """The other client commits."""
        if self.lock is not None:
            self.run(self.lock.commit())
            self.lock = None

    @rule(seconds=st.sampled_from([0.05, 10.0]))
    def close(self, seconds: float) -> None:
        """The pool is closed; the next call opens another one. Calls that were made before are finished, given time."""
        if self.lock is not None or seconds < 1:
            self.was_closed = True
            seconds = 0.05
        self.run(db.get_connection_pool())
        self.run(db.close_connection_pool(timeout=seconds))

    # -- the question

    @rule()
    def settle(self) -> None:
        """Every call is answered, and there is an order that explains what is stored."""
        self.let_go()
        self.run(self.all_answered())
        self.run(self.all_done())
        for key, calls in self.calls.items():
            after = self.run(self.stored(key))
            assert is_explained(calls, self.states[key], after), (key, self.states[key], calls, after)
            self.states[key] = after
            calls.clear()
        self.was_closed = False

    async def all_answered(self) -> None:
        tasks = [call.task for call in itertools.chain(*self.calls.values()) if call.task]
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def all_done(self) -> None:
        """Also what nobody waits for any longer: the statements of callers who gave up, of pools that were closed."""
        pool = await db.get_connection_pool()
        busy = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
        )
        while pool.get_stats()["in_use"] or await self.client.fetchval(busy):
            await asyncio.sleep(0.002)

    async def stored(self, key: str) -> State:
        """What is in the table, as another client sees it."""
        if key in CODES:
            content = await self.client.fetchval("SELECT content FROM document WHERE code = $1", self.prefix + key)
            return None if content is None else str(content)
        rows = await self.client.fetch(
            "SELECT question FROM chat_history WHERE thread_id = $1 ORDER BY position", self.prefix + key
        )
        return tuple(row["question"] for row in rows)

    def teardown(self) -> None:
        """The last look; then nothing is left behind."""
        try:
            self.settle()
        finally:
            self.run(db.close_connection_pool(timeout=1))
            self.run(self.client.close(timeout=5))
            assert not asyncio.all_tasks(self.loop)
            self.loop.close()


def test_any_interleaving_can_be_explained_by_an_order(database_in_sync_test: Settings) -> None:
    """Shared statements, cancelled callers, lost connections, locks and all: as if each call came by itself."""
    run_state_machine_as_test(
        lambda: Tables(database_in_sync_test),  # type: ignore[arg-type]  # any callable that makes one
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_the_search_for_an_order_finds_a_wrong_answer() -> None:
    """The test can fail: a lost write, a write out of nowhere, and an answer that comes too late are not explained."""

    def write(text: str, made: int, answered: int) -> Call:
        return Call("upsert", text, made, answered=answered, answer="inserted" if made == 0 else "updated")

    assert is_explained([write("x", 0, 1)], None, "x")
    assert not is_explained([write("x", 0, 1)], None, None)
    assert not is_explained([], None, "x")
    assert is_explained([write("x", 0, 3), write("y", 1, 2)], None, "y")
    assert not is_explained([write("x", 0, 1), write("y", 2, 3)], None, "x")
    stale = Call("get", "", 4, answered=5, answer="x")
    assert not is_explained([write("x", 0, 1), write("y", 2, 3), stale], None, "y")
    given_up = Call("delete", "", 2)
    assert is_explained([write("x", 0, 1), given_up], None, None)
    assert is_explained([write("x", 0, 1), given_up], None, "x")
