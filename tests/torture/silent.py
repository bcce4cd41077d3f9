"""A black hole: the server hangs (SIGSTOP), or nothing goes through the line any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import database as db
from database.settings import configure
from tests.proxy import Proxy, proxy_to

from .outcome import Outcome, Plan
from .servers import Server, running_server
from .writers import Writers, proxied

_WAIT = 1.0  # DB_CONNECTION_TIMEOUT
_STATEMENT = 0.7  # DB_COMMAND_TIMEOUT
_OWN = 0.4  # the limits of those that bring their own
_GRACE = 0.25
_TOO_LONG = 20.0  # then it hangs
_SHARED = 40
_POOLS = {"unopened": 1, "empty": 1, "busy": 1, "idle": 3, "held": 1}  # and how many connections each may have

Gate = Callable[[], Awaitable[None]]


class Call(NamedTuple):
    """
    What somebody does while the hole opens: `run(gate, directory)`, which prepares, awaits `gate()` and goes on then.

    *deadline*: seconds that the rest may take.
    """

    name: str
    deadline: float
    run: Callable[[Gate, Path], Awaitable[object]]


async def _connect(gate: Gate, directory: Path) -> None:
    await gate()
    await db.get_connection_pool("unopened")


async def _ping(gate: Gate, directory: Path) -> None:
    await gate()
    assert not await db.ping_postgres(timeout=_OWN)


async def _acquire_new(gate: Gate, directory: Path) -> None:
    pool = await db.get_connection_pool("empty")
    pool.expire_connections()
    await gate()
    async with pool.acquire():
        raise AssertionError("a connection through a black hole")


async def _acquire_busy(gate: Gate, directory: Path) -> None:
    pool = await db.get_connection_pool("busy")
    async with pool.acquire():
        await gate()
        await pool.acquire()


async def _read(gate: Gate, directory: Path) -> None:
    await gate()
    await db.get_document_by_code("c")


async def _list(gate: Gate, directory: Path) -> None:
    await gate()
    await db.get_list_of_documents()


async def _read_together(gate: Gate, directory: Path) -> None:
    await gate()
    results = await asyncio.gather(
        *(db.get_recent_chat_history(f"t{number}") for number in range(_SHARED)),
        return_exceptions=True,
    )
    for result in results:
        if not isinstance(result, db.DatabaseError):
            raise AssertionError(f"one of many was told {result!r}")


async def _write(gate: Gate, directory: Path) -> None:
    await gate()
    await db.save_chat_history(1, "t", "q", "a")


async def _copy(gate: Gate, directory: Path) -> None:
    async with db.get_db_connection() as conn:
        await gate()
        await conn.copy_records_to_table("pair", records=[("t", 1)] * 100_000)


async def _ingest(gate: Gate, directory: Path) -> None:
    await gate()
    await db.ingest_directory(directory)


async def _begin(gate: Gate, directory: Path) -> None:
    await gate()
    async with db.get_db_transaction():
        raise AssertionError("a transaction in a black hole")


async def _transact(gate: Gate, directory: Path) -> None:
    async with db.get_db_transaction() as conn:
        await conn.execute("INSERT INTO pair VALUES ('t', 1)")
        await gate()
        await conn.execute("INSERT INTO pair VALUES ('t', 2)")


async def _commit(gate: Gate, directory: Path) -> None:
    async with db.get_db_transaction() as conn:
        await conn.execute("INSERT INTO pair VALUES ('t', 1)")
        await gate()


async def _run_in_transaction(gate: Gate, directory: Path) -> None:
    await gate()
    await db.run_in_transaction(lambda conn: conn.execute("SELECT 1"))


async def _give_up(gate: Gate, directory: Path) -> None:
    async with db.get_db_transaction() as conn:
        await gate()
        async with asyncio.timeout(_OWN):
            await conn.fetch("SELECT 1")


async def _fail(gate: Gate, directory: Path) -> None:
    async with db.get_db_transaction():
        await gate()
        raise TimeoutError("of the application")


async def _release(gate: Gate, directory: Path) -> None:
    async with db.get_db_connection() as conn:
        await conn.execute("SET work_mem = '1MB'")
        await gate()


async def _health(gate: Gate, directory: Path) -> None:
    await gate()
    assert not (await db.health_report(timeout=_OWN))["connected"]


async def _close_idle(gate: Gate, directory: Path) -> None:
    pool = await db.get_connection_pool("idle")
    async with pool.acquire(), pool.acquire(), pool.acquire():
        pass
    await gate()
    await db.close_connection_pool("idle", timeout=_OWN)


async def _close_busy(gate: Gate, directory: Path) -> None:
    pool = await db.get_connection_pool("held")
    await pool.acquire()
    await gate()
    await db.close_connection_pool("held", timeout=_OWN)


CALLS = (
    Call("connect: get_connection_pool", _WAIT, _connect),
    Call("connect: ping_postgres", _OWN, _ping),
    Call("acquire: a new connection", _WAIT, _acquire_new),
    Call("acquire: none is free", _WAIT, _acquire_busy),
    Call("read: get_document_by_code", _STATEMENT, _read),
    Call("read: get_list_of_documents", _STATEMENT, _list),
    Call(f"read: {_SHARED} that share statements", _WAIT + _STATEMENT, _read_together),
    Call("write: save_chat_history", _STATEMENT, _write),
    Call("COPY: copy_records_to_table", _STATEMENT, _copy),
    Call("COPY: ingest_directory", _STATEMENT, _ingest),
    Call("transaction: its begin", _WAIT + _STATEMENT, _begin),
    Call("transaction: a statement", _STATEMENT, _transact),
    Call("transaction: the end", _STATEMENT, _commit),
    Call("transaction: run_in_transaction", _WAIT + _STATEMENT, _run_in_transaction),
    Call("transaction: asyncio.timeout", _OWN, _give_up),
    Call("transaction: an exception", _STATEMENT, _fail),
    Call("release", 0, _release),
    Call("close: an idle pool", _OWN, _close_idle),
    Call("close: a pool with a connection out", _OWN, _close_busy),
    Call("health: health_report", _OWN, _health),
)


async def open_black_holes(plan: Plan) -> Outcome:
    """All kinds of calls at once, then the hole opens; then every pool is closed in it."""
    outcome = Outcome({"calls": 0})
    longest = dict.fromkeys([call.name for call in CALLS] + ["close: after all that"], 0.0)
    (plan.place / "a.md").write_text("# A\n")
    with running_server() as server:
        configure(server.settings())
        await Writers.make_tables()
        await db.close_connection_pool()
        while int(outcome.figures["calls"]) < plan.times(500, 2 * len(CALLS)):
            async with proxy_to(server.dsn()) as proxy:
                await _open(server, proxy, "SIGSTOP", plan.place, outcome, longest)
                await _open(server, proxy, "silent line", plan.place, outcome, longest)
    outcome.figures |= {f"over its deadline, at most, s: {name}": seconds for name, seconds in longest.items()}
    return outcome


async def _open(
    server: Server, proxy: Proxy, kind: str, directory: Path, outcome: Outcome, longest: dict[str, float]
) -> None:
    loop = asyncio.get_running_loop()
    opened = asyncio.Event()
    ready = asyncio.Semaphore(0)

    async def gate() -> None:
        ready.release()
        await opened.wait()

    async def watch(name: str, deadline: float, call: Awaitable[object]) -> None:
        try:
            await call
        except (db.DatabaseError, TimeoutError):
            pass
        except Exception as exc:
            outcome.breaks(f"{kind}: {name}: {type(exc).__name__}: {exc}")
        over = loop.time() - began - deadline
        outcome.count("calls")
        longest[name] = max(longest[name], over)
        if over > _GRACE:
            outcome.is_late(f"{kind}: {name} took {over:.2f} s longer than {deadline:g} s")

    settings = proxied(
        server, proxy, connection_timeout=_WAIT, command_timeout=_STATEMENT, min_connections=25, max_connections=50
    )
    configure(settings)
    for name, connections in _POOLS.items():
        configure(settings.model_copy(update={"min_connections": 0, "max_connections": connections}), name)
    pool = await db.get_connection_pool()
    while pool.get_idle_size() < 25:
        await asyncio.sleep(0.01)
    began = 0.0
    tasks = [asyncio.create_task(watch(call.name, call.deadline, call.run(gate, directory))) for call in CALLS]
    for _ in CALLS:
        await ready.acquire()
    try:
        server.pause() if kind == "SIGSTOP" else proxy.stall()
        opened.set()
        began = loop.time()
        _, hanging = await asyncio.wait(tasks, timeout=_TOO_LONG)
        for call, task in zip(CALLS, tasks, strict=True):
            if task in hanging:
                outcome.breaks(f"{kind}: {call.name} hangs")
                task.cancel()
        began = loop.time()
        async with asyncio.timeout(_TOO_LONG):
            await watch("close: after all that", _OWN, db.close_connection_pool(timeout=_OWN))
    finally:
        server.resume() if kind == "SIGSTOP" else proxy.resume()
        proxy.cut()
        for name in ("default", *_POOLS):
            configure(None, name)
