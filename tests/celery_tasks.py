"""
The application of test_celery.py: tasks as users write them. Its broker and its results are files.

Rows of `done` say what was committed, by which process and through which backend of the server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from celery import Celery, Task, current_task, shared_task
from celery.signals import worker_init
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

import database as db
from database import Connection
from database.contrib.celery import run_async, with_db_connection

DIRECTORY = os.environ.get("CELERY_TEST_DIRECTORY")  # a worker's
INSERT = "INSERT INTO done (name, process, backend) VALUES ($1, $2, pg_backend_pid())"


class Channel(filesystem.Channel):
    """As Kombu's, but a message is there when it is whole: that one may be read when it is empty yet."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # its stubs disagree
        path = Path(self.data_folder_out) / f"{time.time_ns()}_{uuid.uuid4()}.{queue}.msg"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(dumps(payload).encode())
        unfinished.rename(path)


class Transport(filesystem.Transport):
    """Of such channels; `files://` in the URL of a broker."""

    Channel = Channel


TRANSPORT_ALIASES["files"] = f"{__name__}:Transport"


def make_app(directory: Path, *, is_current: bool = False) -> Celery:
    """An application whose broker and results are files in *directory*."""
    results = directory.joinpath("results").absolute().as_uri()
    app = Celery("celery_tasks", broker="files://", backend=results, set_as_current=is_current)
    app.conf.update(
        broker_transport_options={
            "data_folder_in": str(directory / "queue"),
            "data_folder_out": str(directory / "queue"),
            "control_folder": str(directory / "control"),
            "polling_interval": 0.02,
        },
        worker_prefetch_multiplier=1,
        worker_lost_wait=0.1,
    )
    return app


app = make_app(Path(DIRECTORY), is_current=True) if DIRECTORY else Celery("celery_tasks", backend="cache+memory://")


@worker_init.connect  # type: ignore[untyped-decorator,unused-ignore]
def use_the_database_before_the_fork(**_: Any) -> None:
    """A pool in the parent, which no child must touch."""
    assert DIRECTORY is not None
    Path(DIRECTORY, "backend_of_the_parent").write_text(str(run_async(backend())))


async def backend() -> int:
    async with db.get_db_connection() as conn:
        return int(await conn.fetchval("SELECT pg_backend_pid()"))


async def note(name: str, conn: Connection) -> None:
    await conn.execute(INSERT, name, os.getpid())


@app.task
@with_db_connection
async def store(name: str, *, fail: bool = False, conn: Connection) -> str:
    await note(name, conn)
    if fail:
        raise ValueError(name)
    return name


@shared_task
@with_db_connection
async def store_first(conn: Connection, name: str, again: int) -> str:
    """As the decorator's first users wrote it."""
    for number in range(again):
        await note(f"{name} {number}", conn)
    return name


@app.task
@with_db_connection
def store_plainly(name: str, conn: Connection, seconds: float = 0, fail: bool = False) -> str:
    run_async(conn.execute(INSERT, name, os.getpid()))
    time.sleep(seconds)
    if fail:
        run_async(conn.execute("SELECT 1 / 0"))
    return name


@app.task
@with_db_connection
def store_by_returning(name: str, conn: Connection) -> Any:
    """What it returns is awaited."""
    return conn.fetchval(INSERT + " RETURNING name", name, os.getpid())


class StoreByMethod(Task):  # type: ignore[type-arg]  # Celery 5.5 has none
    name = "celery_tasks.store_by_method"
    suffix = "by a method"

    @with_db_connection
    async def run(self, name: str, *, conn: Connection) -> str:
        await note(f"{name} {self.suffix}", conn)
        return self.suffix


store_by_method = app.register_task(StoreByMethod())


@with_db_connection
async def helper(name: str, *, conn: Connection) -> str:
    await note(name, conn)
    return name


@app.task
@with_db_connection
async def store_with_helpers(name: str, fail: bool, *, conn: Connection) -> list[str]:
    """One in a transaction of its own, one in ours."""
    stored = [await helper(f"{name} alone"), await helper(f"{name} with us", conn=conn)]
    if fail:
        raise ValueError(name)
    return stored


@app.task
def store_without(name: str) -> Any:
    """A plain task: `helper` is a plain function here."""
    return [helper(name), run_async(db.health_check())]


@app.task(bind=True, max_retries=3)
@with_db_connection
async def store_at_third_attempt(self: Any, name: str, *, conn: Connection) -> list[Any]:
    await note(f"{name} {self.request.retries}", conn)
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return [self.request.id, current_task.request.id, self.request.retries]


@app.task(autoretry_for=(db.DatabaseError,), dont_autoretry_for=(db.OutcomeUnknownError,), default_retry_delay=0)
@with_db_connection
def store_unless_there(name: str, conn: Connection) -> int:
    """Fails at the first attempt, by an error that the driver raises."""
    retries = int(current_task.request.retries)
    run_async(conn.execute(INSERT, f"{name} {retries}", os.getpid() if retries else None))
    return retries


@app.task(bind=True)
@with_db_connection
async def who(self: Any, seconds: float, *, conn: Connection) -> list[Any]:
    """Process, backend, and whether the request is ours before and after others have run."""
    before = self.request.id
    backend = await conn.fetchval("SELECT pg_backend_pid() FROM pg_sleep($1)", seconds)
    return [os.getpid(), backend, before == self.request.id == current_task.request.id]


@app.task(soft_time_limit=1)
@with_db_connection
async def store_too_slowly(name: str, *, conn: Connection) -> None:
    await note(name, conn)
    await conn.execute("SELECT pg_sleep(60)")


@app.task(soft_time_limit=1)
@with_db_connection
def store_too_slowly_plainly(name: str, conn: Connection) -> None:
    run_async(conn.execute(INSERT, name, os.getpid()))
    time.sleep(60)


@app.task
@with_db_connection
async def die(name: str, *, conn: Connection) -> None:
    await note(name, conn)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
@with_db_connection
async def store_and_run(name: str, *, conn: Connection) -> str:
    """In eager mode, the inner task runs while this one stands still."""
    await note(name, conn)
    return str(store.delay(f"{name} inside").get(disable_sync_subtasks=False))
