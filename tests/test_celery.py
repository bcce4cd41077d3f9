"""Tasks in Celery: real workers on a broker of files, and the same tasks run eagerly, or called."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery.exceptions import SoftTimeLimitExceeded, WorkerLostError

import database as db
from database import Connection
from database.contrib.celery import close_worker_pools, run_async, with_db_connection
from database.settings import Settings
from database.testing.databases import TestRun

from . import celery_tasks as tasks
from .conftest import run_blocking_query
from .running import run_program

ROOT = Path(__file__).parent.parent
POOLS = {"prefork": 2, "threads": 4, "solo": 1}
_CREATE = "CREATE TABLE done (name text, process integer NOT NULL, backend integer, PRIMARY KEY (name))"
_OTHERS = """
    SELECT pid, state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Worker:
    """A `celery worker` in a process of its own, with a database of its own."""

    def __init__(self, pool: str, directory: Path, settings: Settings) -> None:
        self.pool = pool
        self.directory = directory
        self.url = settings.dsn
        self.log = directory / "log"
        self.client = tasks.make_app(directory)
        for name in ("queue", "results", "control"):
            (directory / name).mkdir()
        run_blocking_query(self.url, _CREATE)
        command = [sys.executable, "-m", "celery", "-A", "tests.celery_tasks", "worker", "-l", "info"]
        options = [f"--pool={pool}", f"--concurrency={POOLS[pool]}", "--without-gossip", "--without-mingle"]
        environment = {
            **os.environ,
            "CELERY_TEST_DIRECTORY": str(directory),
            "DATABASE_URL": self.url,
            "DB_MIN_CONNECTIONS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error,ignore:You're running the worker with superuser",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options, "--without-heartbeat"], cwd=directory, env=environment, stdout=log, stderr=log
            )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def wait_for_log(self, words: str) -> None:
        self.wait_for(lambda: words in self.log.read_text())

    def start(self, task: Any, *args: Any, **kwargs: Any) -> Any:
        """The result to come of a task that this worker runs."""
        return self.client.send_task(task.name, args, kwargs)

    def run(self, task: Any, *args: Any, **kwargs: Any) -> Any:
        """What the task returns; raises what it raises."""
        try:
            return self.start(task, *args, **kwargs).get(timeout=60, interval=0.02)
        except Exception as exc:
            exc.add_note(self.log.read_text()[-5000:])
            raise

    def rows(self, name: str) -> list[str]:
        """What was committed under names that begin with *name*."""
        found = run_blocking_query(self.url, f"SELECT name FROM done WHERE name LIKE '{name}%' ORDER BY name")
        return [row["name"] for row in found]

    def backends(self) -> list[Any]:
        """The connections to its database: pid and state."""
        return run_blocking_query(self.url, _OTHERS)

    def children(self) -> set[int]:
        """The processes of its pool."""
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def kill(self) -> None:
        """Whatever became of the test, nothing stays."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)


of_the_workers = pytest.mark.xdist_group("celery_workers")  # in one process of the suite, which starts them once


@pytest.fixture(scope="module")
def workers(
    tmp_path_factory: pytest.TempPathFactory, server_url: str, database_run: TestRun, database_template: str
) -> Iterator[dict[str, Worker]]:
    """A worker of each kind, for all tests."""
    databases = {pool: database_run.create(database_template) for pool in POOLS}
    started = {pool: Worker(pool, tmp_path_factory.mktemp(pool), databases[pool]) for pool in POOLS}
    try:
        for worker in started.values():
            worker.wait_for_log(" ready.")
        yield started
    finally:
        for pool, worker in started.items():
            worker.kill()
            database_run.drop(databases[pool])


@pytest.fixture(params=POOLS)
def worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """Each of them."""
    return workers[request.param]


@of_the_workers
def test_it_commits(worker: Worker) -> None:
    """Async functions, plain ones, a method; `conn` first or last, by keyword or not."""
    assert worker.run(tasks.store, "commit a") == "commit a"
    assert worker.run(tasks.store_first, "commit b", again=2) == "commit b"
    assert worker.run(tasks.store_plainly, "commit c") == "commit c"
    assert worker.run(tasks.store_by_returning, "commit d") == "commit d"
    assert worker.run(tasks.store_by_method, "commit e") == "by a method"
    assert worker.rows("commit") == [
        "commit a", "commit b 0", "commit b 1", "commit c", "commit d", "commit e by a method",
    ]  # fmt: skip


@of_the_workers
def test_it_rolls_back(worker: Worker) -> None:
    """What a failed task has done is undone, and its error is the task's."""
    with pytest.raises(ValueError, match="undone a"):
        worker.run(tasks.store, "undone a", fail=True)
    with pytest.raises(db.DatabaseError, match="22012"):
        worker.run(tasks.store_plainly, "undone b", fail=True)
    assert worker.rows("undone") == []


@of_the_workers
def test_what_a_task_calls(worker: Worker) -> None:
    """A decorated function has a transaction of its own, or is part of ours; and is plain for who is plain."""
    assert worker.run(tasks.store_with_helpers, "calls a", False) == ["calls a alone", "calls a with us"]
    with pytest.raises(ValueError, match="calls b"):
        worker.run(tasks.store_with_helpers, "calls b", True)
    assert worker.run(tasks.store_without, "calls c") == ["calls c", True]
    assert worker.rows("calls") == ["calls a alone", "calls a with us", "calls b alone", "calls c"]


@of_the_workers
def test_a_retry_rolls_back(worker: Worker) -> None:
    """Only the attempt that succeeds leaves something; the request is that of the task, before and after waiting."""
    result = worker.start(tasks.store_at_third_attempt, "retry a")
    assert result.get(timeout=60) == [result.id, result.id, 2]
    assert worker.rows("retry a") == ["retry a 2"]
    assert worker.run(tasks.store_unless_there, "retry b") == 1
    assert worker.rows("retry b") == ["retry b 1"]


@of_the_workers
def test_connections_are_those_of_a_process(worker: Worker) -> None:
    """Each process has its own, and what the parent has opened before the fork is the parent's."""
    running = [worker.start(tasks.who, 0.2) for _ in range(6)]
    seen = [each.get(timeout=60) for each in running]
    assert all(request_is_ours for _, _, request_is_ours in seen)
    by_process = {process: {backend for each, backend, _ in seen if each == process} for process, _, _ in seen}
    assert len(by_process) == (2 if worker.pool == "prefork" else 1)
    backends = [backend for backends in by_process.values() for backend in backends]
    assert len(backends) == len(set(backends))
    assert len(backends) >= (4 if worker.pool == "threads" else 1)
    of_the_parent = int((worker.directory / "backend_of_the_parent").read_text())
    assert of_the_parent in [row["pid"] for row in worker.backends()]
    assert of_the_parent not in backends or worker.pool != "prefork"


@of_the_workers
def test_a_soft_time_limit(workers: dict[str, Worker]) -> None:
    """The task is rolled back, and its process and its connection go on. Celery has them in the prefork pool alone."""
    worker = workers["prefork"]
    children = worker.children()
    for task in (tasks.store_too_slowly, tasks.store_too_slowly_plainly):
        with pytest.raises(SoftTimeLimitExceeded):
            worker.run(task, "slow")
        assert worker.rows("slow") == []
        worker.wait_for(lambda: {row["state"] for row in worker.backends()} == {"idle"})
    assert worker.run(tasks.store, "after") == "after"
    assert worker.children() == children


@of_the_workers
def test_a_killed_process(workers: dict[str, Worker]) -> None:
    """The server undoes what it has done, and its successor has connections of its own."""
    worker = workers["prefork"]
    with pytest.raises(WorkerLostError):
        worker.run(tasks.die, "killed a")
    assert worker.run(tasks.store, "killed b") == "killed b"
    assert worker.rows("killed") == ["killed b"]


@of_the_workers
def test_a_shutdown_leaves_nothing_open(workers: dict[str, Worker]) -> None:
    """The last one: tasks under way are finished, the workers end well, and their connections are gone."""
    finishing = {pool: worker.start(tasks.store_plainly, "end", seconds=0.5) for pool, worker in workers.items()}
    for pool, worker in workers.items():
        worker.wait_for_log(finishing[pool].id)
        worker.process.terminate()
    for pool, worker in workers.items():
        assert worker.process.wait(60) == 0, worker.log.read_text()
        assert worker.rows("end") == ["end"]
        assert "Traceback" not in worker.log.read_text().rpartition(finishing[pool].id)[2]
        deadline = time.monotonic() + 60  # the server notices a moment later
        while worker.backends() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert worker.backends() == []


# --- without a worker


@pytest.fixture
def eager(database_in_sync_test: Settings) -> Iterator[Settings]:
    """Tasks run where they are sent from, in a database of the test's own."""
    run_blocking_query(database_in_sync_test.dsn, _CREATE)
    tasks.app.conf.update(task_always_eager=True)
    yield database_in_sync_test
    tasks.app.conf.update(task_always_eager=False)
    close_worker_pools()


def names(settings: Settings) -> list[str]:
    return [row["name"] for row in run_blocking_query(settings.dsn, "SELECT name FROM done ORDER BY name")]


def test_eager_tasks(eager: Settings) -> None:
    """As in a worker: results, rollbacks, retries, arguments checked before anything is sent."""
    assert tasks.store.delay("a").get() == "a"
    assert tasks.store_first.delay("b", 1).get() == "b"
    assert tasks.store_by_method.delay("c").get() == "by a method"
    with pytest.raises(ValueError, match=r"^d$"):
        tasks.store.delay("d", fail=True).get()
    assert tasks.store_unless_there.delay("e").get() == 1
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        tasks.store_first.delay(again=1)
    assert names(eager) == ["a", "b 0", "c by a method", "e 1"]


async def test_eager_tasks_in_a_running_loop(eager: Settings) -> None:
    """In an application, or under pytest-asyncio: they run in the background, while the loop stands still."""
    assert tasks.store.delay("a").get() == "a"
    assert tasks.store_plainly.delay("b").get() == "b"
    assert tasks.store_without.delay("c").get() == ["c", True]
    assert await db.repository.count("done") == 3
    await db.close_connection_pool()


def test_an_eager_task_inside_of_another(eager: Settings) -> None:
    """The inner one does not wait for the event loop that waits for it."""
    assert tasks.store_and_run.delay("a").get() == "a inside"
    assert names(eager) == ["a", "a inside"]


async def test_eager_tasks_in_the_transaction_of_a_test(db_transaction: Connection) -> None:
    """What they do is seen by the test, and undone with it."""
    await db_transaction.execute(_CREATE)
    assert tasks.store.apply(("a",)).get() == "a"
    assert tasks.store.apply(("b",), {"fail": True}).failed()
    assert [row["name"] for row in await db_transaction.fetch("SELECT name FROM done")] == ["a"]
    close_worker_pools()


async def test_called_without_celery(eager: Settings) -> None:
    """In an event loop, an async function is still one; a transaction of the caller's is used."""
    assert await tasks.helper("a") == "a"
    assert await tasks.store("b") == "b"
    with pytest.raises(ZeroDivisionError):
        async with db.get_db_transaction() as conn:
            await tasks.helper("c", conn=conn)
            await tasks.store_first(conn=conn, name="d", again=1)
            assert await conn.fetchval("SELECT count(*) FROM done") == 4
            raise ZeroDivisionError
    assert await asyncio.to_thread(tasks.helper, "e") == "e"
    assert await asyncio.to_thread(names, eager) == ["a", "b", "e"]
    await db.close_connection_pool()


async def test_methods_and_several_databases(eager: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method keeps its `self`; a class method its class; *name* says which database."""
    monkeypatch.setenv("OTHER_DATABASE_URL", eager.dsn)

    class Service:
        @with_db_connection
        async def with_self(self, conn: Connection, number: int) -> tuple[object, int]:
            return self, await conn.fetchval("SELECT $1 + 1", number)

        @classmethod
        @with_db_connection(name="other")
        async def with_class(cls, number: int, *, conn: Connection) -> tuple[object, int]:
            return cls, await conn.fetchval("SELECT $1 + 1", number)

    service = Service()
    assert await service.with_self(1) == (service, 2)
    assert not db.is_pool_active("other")
    assert await service.with_class(2) == (Service, 3)
    assert db.is_pool_active("other")
    await db.close_connection_pool()


def test_what_cannot_be_decorated() -> None:
    """The error says what to write."""
    with pytest.raises(TypeError, match="a parameter named conn"):

        @with_db_connection
        async def without(connection: Connection) -> None:
            pass

    with pytest.raises(TypeError, match="would go on after its transaction"):

        @with_db_connection
        async def rows(conn: Connection) -> AsyncIterator[int]:
            yield 1

    for task in (tasks.store, tasks.store_first):
        with pytest.raises(TypeError, match=r"write @app\.task above it"):
            with_db_connection(task)


class LimitError(Exception):
    """What a signal raises."""


@pytest.fixture
def limited() -> Iterator[Callable[[float], None]]:
    """Has `LimitError` raised in this thread after so many seconds, as Celery does it."""

    def strike(*_: object) -> None:
        raise LimitError

    before = signal.signal(signal.SIGUSR1, strike)  # SIGALRM is that of pytest-timeout
    timers: list[threading.Timer] = []

    def limit(seconds: float) -> None:
        timers.append(threading.Timer(seconds, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)))
        timers[-1].start()

    yield limit
    for timer in timers:
        timer.cancel()
        timer.join()
    signal.signal(signal.SIGUSR1, before)


def test_an_interruption(eager: Settings, limited: Callable[[float], None]) -> None:
    """It cancels a task's body, which may still do something about it; it is too late for one that has returned."""
    seen: list[str] = []

    @tasks.app.task
    @with_db_connection
    async def store(name: str, how: str, *, conn: Connection) -> str:
        await tasks.note(name, conn)
        if how == "blocks":
            time.sleep(0.5)
            return name
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(how)
            if how == "fails":
                raise ValueError(name) from None
            if how == "goes on":
                return name
            raise
        return "not cancelled"

    limited(0.3)
    with pytest.raises(LimitError):
        store("a", "is cancelled")
    limited(0.3)
    with pytest.raises(ValueError, match="b"):
        store("b", "fails")
    limited(0.3)
    assert store("c", "goes on") == "c"
    limited(0.3)
    assert store("d", "blocks") == "d"
    assert seen == ["is cancelled", "fails", "goes on"]
    assert names(eager) == ["c", "d"]


def test_an_interruption_of_what_a_task_waits_for(eager: Settings, limited: Callable[[float], None]) -> None:
    """It ends the task, also where that has ended meanwhile: the limit would be lost, and the task go on."""
    seen: list[str] = []

    async def end_well() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def end_badly() -> None:
        await end_well()
        raise ValueError

    @with_db_connection
    async def store_alone(name: str, *, conn: Connection) -> None:
        await tasks.note(name, conn)
        await end_well()

    @tasks.app.task
    @with_db_connection
    def store_in_parts(name: str, conn: Connection) -> None:
        run_async(tasks.note(name, conn))
        limited(0.3)
        store_alone("alone") if name == "a" else run_async(end_well() if name == "b" else end_badly())
        seen.append(name)

    for name in ("a", "b", "c"):
        with pytest.raises(LimitError):
            store_in_parts(name)
    assert (seen, names(eager)) == ([], ["alone"])


def test_an_interruption_before_the_beginning(limited: Callable[[float], None]) -> None:
    """What the event loop has not come to yet is not begun any more, and there is no warning of that."""
    is_blocked, may_go_on = threading.Event(), threading.Event()

    async def block() -> None:
        is_blocked.set()
        may_go_on.wait(60)

    with ThreadPoolExecutor() as threads:
        blocking = threads.submit(run_async, block())
        is_blocked.wait(60)
        limited(0.1)
        threading.Timer(0.5, may_go_on.set).start()
        with pytest.raises(LimitError):
            run_async(asyncio.sleep(60))
        blocking.result(60)
    gc.collect()  # a coroutine that nobody has awaited would warn here
    close_worker_pools()


def test_an_end_that_comes_while_others_wait() -> None:
    """Who waits for a body that does not let itself be cancelled does not wait for ever."""
    is_running = threading.Event()

    async def go_on() -> None:
        is_running.set()
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(run_async, go_on())
        is_running.wait(60)
        close_worker_pools()
        with pytest.raises(CancelledError):
            waiting.result(60)


def test_a_body_that_ends_otherwise(eager: Settings) -> None:
    """What would end an event loop does not end that of the tasks, and a cancellation is an error like others."""

    async def leave() -> None:
        raise SystemExit(7)

    async def have_a_task_leave() -> None:
        await asyncio.create_task(leave())

    async def cancel() -> None:
        raise asyncio.CancelledError

    for leaving in (leave(), have_a_task_leave()):
        with pytest.raises(SystemExit):
            run_async(leaving)
    with pytest.raises(CancelledError):
        run_async(cancel())
    assert tasks.helper("a") == "a"
    close_worker_pools()
    assert tasks.helper("b") == "b"
    assert names(eager) == ["a", "b"]


def test_a_forked_child(eager: Settings) -> None:
    """It has an event loop and a pool of its own, whatever its parent had, and leaves that alone."""
    assert tasks.helper("parent") == "parent"
    mine = run_async(tasks.backend())
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            assert tasks.helper("child") == "child"
            assert run_async(tasks.backend()) != mine
            close_worker_pools()
            status = 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run_async(tasks.backend()) == mine
    assert names(eager) == ["child", "parent"]


def test_an_interpreter_that_ends_closes_the_pools(eager: Settings, tmp_path: Path) -> None:
    """Quietly."""
    code = "from tests.celery_tasks import helper; print(helper('a'))"
    printed = run_program(code, tmp_path, DATABASE_URL=eager.dsn, PYTHONPATH=str(ROOT)).stdout
    assert printed == "a\n"


def test_without_the_extra_the_error_names_it() -> None:
    """The pip command stands in it."""
    program = "import sys; sys.modules['celery'] = None; import database.contrib.celery"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'pgdatabase[celery]'" in done.stderr.splitlines()[-1]
