"""
FastAPI: the pool's lifespan, a connection or a transaction for a request, health endpoints, failures as 503.

    app = FastAPI(lifespan=database_lifespan)
    app.include_router(health_router())
    install_error_handlers(app)

A dependency's connection is the request's until its function returns, and is taken back before the response is sent:
background tasks, streamed responses and WebSockets, and functions that wait long for something else (the answer of a
model), take one for themselves, with `get_db_connection()`, where they need it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from ..connect_db import database_lifespan, get_db_connection, get_db_transaction, health_report
from ..exceptions import (
    ChatHistoryError,
    DatabaseError,
    DatabaseNotAvailableError,
    DocumentError,
    PoolTimeoutError,
    reason,
)

try:
    from fastapi import APIRouter, Depends, Request
    from fastapi.responses import JSONResponse
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
except ModuleNotFoundError as exc:
    raise ImportError("database.contrib.fastapi needs FastAPI: pip install 'pgdatabase[fastapi]'") from exc

if TYPE_CHECKING:
    from ..connect_db import Connection
else:
    Connection = Any  # FastAPI evaluates annotations; asyncpg's types are generic for type checkers only

__all__ = [
    "ConnectionDep",
    "TransactionDep",
    "database_lifespan",
    "health_router",
    "install_error_handlers",
    "open_connection",
    "open_transaction",
]

log = logging.getLogger("database")

_RETRY_AFTER = {"Retry-After": "1"}  # seconds; a failover or a restart takes about that
_NO_STORE = {"Cache-Control": "no-store"}


async def open_connection() -> AsyncIterator[Connection]:
    """
    The dependency of `ConnectionDep`; the key for `app.dependency_overrides`.

    For a further database write the same with its name in the call. A parameter would be read from the query string.
    """
    async with get_db_connection() as conn:
        yield conn


async def open_transaction() -> AsyncIterator[Connection]:
    """The dependency of `TransactionDep`; the key for `app.dependency_overrides`."""
    async with get_db_transaction() as conn:
        yield conn


# scope="function" ends a dependency before the response is sent; by default FastAPI ends it afterwards, when the client
# has its 200 already (https://fastapi.tiangolo.com/tutorial/dependencies/dependencies-with-yield/#dependency-scope).
ConnectionDep: TypeAlias = Annotated[Connection, Depends(open_connection, scope="function")]
"""
A connection for a path operation: `async def read(conn: ConnectionDep)`. Each statement commits by itself.

Dependencies with `yield` that use it must have `scope="function"` themselves. A path operation that asks for this and
for `TransactionDep` holds two connections at once.
"""

TransactionDep: TypeAlias = Annotated[Connection, Depends(open_transaction, scope="function")]
"""
A connection in a transaction: `async def store(conn: TransactionDep)`; pass it on with `conn=`.

Committed **before** the response is sent, so a client that has its 200 finds what it stored, and a commit that fails
is an error to the client, too. Any exception, `HTTPException` as well, rolls back; a response that is *returned*
commits, whatever its status. The same transaction for all who ask for it in one request.
"""


def health_router(name: str = "default", *, timeout: float = 2.0) -> APIRouter:
    """
    A router with `/livez`, `/readyz` and `/health` for the database *name*; each answers within about *timeout* s.

    - `/livez`: 200 as long as the process answers. Never touches the database: restarting the application mends none.
    - `/readyz`: 200 if a connection of the pool, got in turn as a request gets it, answers in time; else 503. A busy
      pool is ready; one whose connections do not come back is not, as a request would fare no better than the probe.
    - `/health`: `health_report()`, which goes around a busy pool; 503 where it is "unhealthy".

    No answer holds a secret. `/health` names the server, user and database: where strangers may not see that,
    `include_router(health_router(), dependencies=[Depends(only_admins)])`.
    """
    router = APIRouter(tags=["health"])
    unavailable: dict[int | str, dict[str, Any]] = {503: {"description": "The database does not answer in time"}}

    @router.get("/livez")
    async def livez() -> JSONResponse:
        """Whether the process is alive."""
        return JSONResponse({"status": "alive"}, headers=_NO_STORE)

    @router.get("/readyz", responses=unavailable)
    async def readyz() -> JSONResponse:
        """Whether requests can be served."""
        if await _can_serve(name, timeout):
            return JSONResponse({"status": "ready"}, headers=_NO_STORE)
        return JSONResponse({"status": "unavailable"}, 503, headers=_NO_STORE | _RETRY_AFTER)

    @router.get("/health", responses=unavailable)
    async def health() -> JSONResponse:
        """The state of the database and of the connection pool."""
        report = await health_report(name, timeout=timeout)
        return JSONResponse(report, 503 if report["status"] == "unhealthy" else 200, headers=_NO_STORE)

    return router


async def _can_serve(name: str, timeout: float) -> bool:
    """Ask as a request would. A question that hangs is left behind: on a silent network its cancellation takes long."""
    asking = asyncio.ensure_future(_ask(name))
    try:
        done, _ = await asyncio.wait({asking}, timeout=timeout)
    finally:
        asking.cancel()
    why = asking.result() if done else f"no connection of the pool answered within {timeout:.3g} s"
    if why is not None:
        log.warning("not ready: %s", why)
    return why is None


async def _ask(name: str) -> str | None:
    """Why the database *name* does not answer through its pool, None where it does."""
    try:
        async with get_db_connection(name) as conn:
            await conn.execute("SELECT 1")
    except Exception as exc:
        return reason(exc)
    return None


def _clients_mistake(exc: DatabaseError) -> int | None:
    """The HTTP status where the client has sent what cannot be stored; None where it is no fault of the client."""
    if not isinstance(exc, DocumentError | ChatHistoryError):
        return None
    if exc.sqlstate == "23505":
        return 409
    refused_here = exc.sqlstate is None and not isinstance(exc.original_error, OSError)
    return 422 if refused_here or (exc.sqlstate or "").startswith("22") else None


def install_error_handlers(app: Starlette) -> None:
    """
    Answer 503 with `Retry-After` where the call that failed certainly stored nothing and may succeed later.

    That is `DatabaseNotAvailableError`, `PoolTimeoutError` and what else is `retryable` (a serialization failure). The
    cause goes to the log, not to the client. Documents and messages that cannot be stored as the client sent them (a
    NUL character, too large) are answered with 422, a code that is taken with 409, and the reason. Other errors stay
    what they are, a 500: after `OutcomeUnknownError` in particular a client must not be told to try again.
    """

    async def answer(connection: HTTPConnection, exc: DatabaseError) -> JSONResponse:
        if not isinstance(connection, Request):  # a WebSocket cannot be answered with a status
            raise exc
        if exc.retryable or isinstance(exc, DatabaseNotAvailableError | PoolTimeoutError):
            log.warning("503 for %s %s: %s", connection.method, connection.url.path, exc)
            return JSONResponse({"detail": "The database is not available; try again."}, 503, headers=_RETRY_AFTER)
        if status := _clients_mistake(exc):
            return JSONResponse({"detail": str(exc)}, status)
        raise exc

    app.add_exception_handler(DatabaseError, answer)  # type: ignore[arg-type]  # Starlette's signature says Exception
