"""
Health: what the database and the pool are like right now, told in bounded time however ill they are.

A busy pool does not make the database look dead: the question then goes through a connection of its own.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .exceptions import DatabaseError, DatabaseNotAvailableError, reason
from .pool import Pool, PooledConnection
from .registry import get_pool_stats, open_pool, server_address
from .settings import get_settings

_PROBE = """
    SELECT current_setting('server_version') AS server_version,
           pg_is_in_recovery() AS standby,
           NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off' AS writable
"""


async def health_check(name: str = "default", *, timeout: float = 5.0) -> bool:
    """True where the database *name* answers a query within *timeout* seconds; never raises."""
    return bool((await health_report(name, timeout=timeout))["connected"])


async def health_report(name: str = "default", *, timeout: float = 5.0) -> dict[str, Any]:
    """
    The state of the database *name* within *timeout* seconds; never raises, holds no secret.

    `status`: "healthy", "degraded" (it answers, but callers wait for connections or it cannot be written) or
    "unhealthy"; `connected`; `database_url` without password; `server_version`; `latency_ms` of one round trip;
    `pool`, see `get_pool_stats`; `writable`; `standby`; `embedded`; `error`, None unless unhealthy. What is not known
    is None.
    """
    report: dict[str, Any] = {
        "status": "unhealthy", "connected": False, "database_url": None, "server_version": None, "latency_ms": None,
        "pool": None, "writable": None, "standby": None, "embedded": None, "error": None,
    }  # fmt: skip
    try:
        settings = get_settings(name)
        report["embedded"] = not settings.names_a_server
        report["pool"] = await get_pool_stats(name)
        pool = open_pool(name) or _unopened(name)
        report["database_url"] = pool.redacted_url
        report |= await _bounded(pool, timeout)
        report["database_url"] = pool.redacted_url
    except Exception as exc:
        report["error"] = reason(exc)
        return report
    report["connected"] = True
    saturated = bool(report["pool"]["waiting"]) and not report["pool"]["idle"]
    report["status"] = "healthy" if report["writable"] and not saturated else "degraded"
    return report


async def ping_postgres(name: str = "default", *, timeout: float = 5.0) -> bool:
    """True where a new connection to the database *name* can be made and answers within *timeout* seconds."""
    try:
        await _bounded(_unopened(name), timeout)
    except Exception:
        return False
    return True


def _unopened(name: str) -> Pool:
    settings = get_settings(name)
    return Pool.unopened(settings, lambda: server_address(settings), name=name)


async def _bounded(pool: Pool, timeout: float) -> dict[str, Any]:
    """What `_ask` says, or an error after *timeout*; a task that hangs then is left behind, not awaited."""
    asking = asyncio.ensure_future(_ask(pool, timeout))
    asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # or asyncio complains of the latter
    try:
        done, _ = await asyncio.wait({asking}, timeout=timeout)
    finally:
        asking.cancel()
    if not done:
        raise DatabaseNotAvailableError(f"no answer within {timeout:.3g} s", retryable=True)
    return asking.result()


async def _ask(pool: Pool, timeout: float) -> dict[str, Any]:
    connection, own = await _connection(pool, timeout)
    try:
        began = time.perf_counter()
        row = await connection.fetchrow(_PROBE, timeout=timeout)
        elapsed = time.perf_counter() - began
    except BaseException:
        connection.terminate()
        raise
    finally:
        if own:
            connection.terminate()
        else:
            pool.give_back(connection)
    return {**(row or {}), "latency_ms": round(elapsed * 1000, 3)}


async def _connection(pool: Pool, timeout: float) -> tuple[PooledConnection, bool]:
    """An idle connection of the pool, else a connection of its own (then True)."""
    if pool.get_idle_size():
        try:
            return await pool.borrow(asyncio.get_running_loop().time() + timeout / 2), False
        except DatabaseError:
            pass
    return await pool.connect(timeout), True
