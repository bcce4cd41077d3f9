"""The FastAPI integration, through real HTTP: uvicorn in a thread, httpx, a real server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Response, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import SecretStr
from starlette.types import Message, Receive, Scope, Send

import database as db
from database import embedded
from database.contrib.fastapi import (
    ConnectionDep,
    TransactionDep,
    database_lifespan,
    health_router,
    install_error_handlers,
    open_transaction,
)
from database.settings import Settings, configure
from tests.running import client_of

_STORE = "INSERT INTO note (text) VALUES ($1)"
_LOCK = 4711


def make_app() -> FastAPI:
    app = FastAPI(lifespan=database_lifespan)
    app.include_router(health_router(timeout=1))
    install_error_handlers(app)
    return app


@asynccontextmanager
async def on_demand(app: FastAPI) -> AsyncIterator[None]:
    """The pool is opened by the first who needs it, and closed at the end."""
    yield
    await db.close_connection_pool(timeout=1)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until *condition* is true, 15 seconds at the most."""
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(0.01)


async def execute(*statements: str) -> None:
    async with db.get_db_connection() as conn:
        for statement in statements:
            await conn.execute(statement)


async def stored() -> list[str]:
    """What the table `note` holds, as another connection sees it."""
    async with db.get_db_connection() as conn:
        return [row["text"] for row in await conn.fetch("SELECT text FROM note ORDER BY text")]


@pytest.fixture
async def notes(database: Settings) -> Settings:
    """A database with a table `note`, whose texts must be unique when a transaction commits."""
    await execute("CREATE TABLE note (text text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    return database


# --- lifespan


@asynccontextmanager
async def nested(app: FastAPI) -> AsyncIterator[None]:
    async with database_lifespan():
        await db.init_document_table()
        yield


@pytest.mark.parametrize("lifespan", [database_lifespan, nested])
async def test_lifespan_opens_and_closes_the_pool(database: Settings, lifespan: Any) -> None:
    """The pool is open before the first request and no connection is left after the last; also inside a lifespan."""
    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def is_active() -> bool:
        return db.is_pool_active()

    async def all_are_gone() -> bool:
        async with db.get_db_connection() as conn:
            others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"
            return bool(await conn.fetchval(others, conn.get_server_pid()) == 0)

    async with client_of(app) as client:
        assert (await client.get("/")).json() is True
        assert not await all_are_gone()
    await until(all_are_gone)


# --- transactions


async def test_commit_comes_before_the_response(notes: Settings) -> None:
    """Who has a 200 sees what it stored at once, also when the commit takes its time."""
    await execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    app = make_app()

    @app.post("/")
    async def store(conn: TransactionDep) -> None:
        await conn.execute(_STORE, "x")

    async with client_of(app) as client:
        assert (await client.post("/")).status_code == 200
        assert await stored() == ["x"]


async def test_any_exception_rolls_back(notes: Settings) -> None:
    """An HTTPException, an error, a refused statement and an answer that does not fit its model all store nothing."""
    app = make_app()

    @app.post("/http")
    async def http(conn: TransactionDep) -> None:
        await conn.execute(_STORE, "http")
        raise HTTPException(418, "no coffee")

    @app.post("/error")
    async def error(conn: TransactionDep) -> None:
        await conn.execute(_STORE, "error")
        raise RuntimeError("boom")

    @app.post("/statement")
    async def statement(conn: TransactionDep) -> None:
        await conn.execute(_STORE, "statement")
        await conn.execute("SELECT 1 / 0")

    @app.post("/model", response_model=int)
    async def model(conn: TransactionDep) -> Any:
        await conn.execute(_STORE, "model")
        return "not a number"

    async with client_of(app) as client:
        response = await client.post("/http")
        assert (response.status_code, response.json()) == (418, {"detail": "no coffee"})
        for path in ("/error", "/statement", "/model"):
            assert (await client.post(path)).status_code == 500
        assert await stored() == []


async def test_a_returned_response_commits(notes: Settings) -> None:
    """Only an exception rolls back: a response that is returned commits, whatever its status."""
    app = make_app()

    @app.post("/")
    async def store(conn: TransactionDep) -> JSONResponse:
        await conn.execute(_STORE, "x")
        return JSONResponse({}, 400)

    async with client_of(app) as client:
        assert (await client.post("/")).status_code == 400
        assert await stored() == ["x"]


async def test_a_commit_that_fails_is_no_success(notes: Settings) -> None:
    """A constraint that is checked at COMMIT, and an error swallowed before it, give the client a 500, not a 200."""
    app = make_app()

    @app.post("/constraint")
    async def constraint(conn: TransactionDep) -> None:
        await conn.executemany(_STORE, [("twice",), ("twice",)])

    @app.post("/swallowed")
    async def swallowed(conn: TransactionDep) -> None:
        await conn.execute(_STORE, "lost")
        with suppress(Exception):  # that is the mistake
            await conn.execute("SELECT 1 / 0")

    async with client_of(app) as client:
        assert (await client.post("/constraint")).status_code == 500
        assert (await client.post("/swallowed")).status_code == 500
        assert await stored() == []


async def audit(conn: TransactionDep) -> AsyncIterator[None]:
    await conn.execute(_STORE, "audit")
    yield


async def test_one_request_has_one_transaction(notes: Settings) -> None:
    """A dependency and the path operation that ask for the transaction get the same one, and fail or succeed as one."""
    app = make_app()

    @app.post("/", dependencies=[Depends(audit, scope="function")])
    async def store(conn: TransactionDep, fail: bool) -> None:
        await conn.execute(_STORE, "store")
        if fail:
            raise HTTPException(409)

    async with client_of(app) as client:
        assert (await client.post("/", params={"fail": True})).status_code == 409
        assert await stored() == []
        assert (await client.post("/", params={"fail": False})).status_code == 200
        assert await stored() == ["audit", "store"]


async def test_connection_commits_each_statement(notes: Settings) -> None:
    """ConnectionDep is no transaction, and what one request sets is not there for the next."""
    app = make_app()

    @app.post("/")
    async def store(conn: ConnectionDep) -> None:
        await conn.execute(_STORE, "kept")
        await conn.execute("SET search_path = nowhere")
        raise HTTPException(409)

    async with client_of(app) as client:
        assert (await client.post("/")).status_code == 409
        assert await stored() == ["kept"]
        assert (await client.post("/")).status_code == 500  # "kept" is there already: note was found


async def test_functions_take_part_with_conn(notes: Settings) -> None:
    """`conn=` brings the package's functions into the request's transaction."""
    app = make_app()

    @app.post("/")
    async def store(conn: TransactionDep) -> None:
        await db.insert_document("A", "a", "text", conn=conn)
        raise HTTPException(409)

    async with client_of(app) as client:
        assert (await client.post("/")).status_code == 409
        assert await db.get_document_count() == 0


async def test_dependency_can_be_overridden(notes: Settings) -> None:
    """`app.dependency_overrides` replaces the transaction, as a test of an application wants it."""
    app = make_app()

    async def rolled_back() -> AsyncIterator[db.Connection]:
        async with db.get_db_connection() as conn:
            transaction = conn.transaction()
            await transaction.start()
            yield conn
            await transaction.rollback()

    @app.post("/")
    async def store(conn: TransactionDep) -> int:
        await conn.execute(_STORE, "x")
        return int(await conn.fetchval("SELECT count(*) FROM note"))

    app.dependency_overrides[open_transaction] = rolled_back
    async with client_of(app) as client:
        assert (await client.post("/")).json() == 1
        assert await stored() == []


# --- errors


async def test_what_may_be_tried_again_is_503(database: Settings) -> None:
    """A serialization failure gives 503 with Retry-After and no details; an unknown outcome gives 500."""
    app = make_app()

    @app.post("/collision")
    async def collision(conn: TransactionDep) -> None:
        await conn.execute("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")

    @app.post("/unknown")
    async def unknown() -> None:
        raise db.OutcomeUnknownError("cannot tell")

    async with client_of(app) as client:
        response = await client.post("/collision")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert response.json() == {"detail": "The database is not available; try again."}
        response = await client.post("/unknown")
        assert response.status_code == 500
        assert "Retry-After" not in response.headers


async def test_what_cannot_be_stored_is_the_clients_mistake(database: Settings) -> None:
    """A NUL character or an empty code gives 422, a code that is taken 409, each with the reason."""
    app = make_app()

    @app.post("/documents")
    async def store(code: str, text: str) -> str:
        return str((await db.insert_document("A", code, text))["code"])

    async with client_of(app) as client:
        for arguments, status, reason in (
            ({"code": "a", "text": "fine"}, 200, ""),
            ({"code": "a", "text": "again"}, 409, "there is one under this code already"),
            ({"code": "b", "text": "a NUL: \0"}, 422, "a text holds a NUL character"),
            ({"code": "", "text": "t"}, 422, "the code of a document must not be empty"),
        ):
            response = await client.post("/documents", params=arguments)
            assert response.status_code == status
            assert reason in response.text


async def test_error_in_a_websocket() -> None:
    """A WebSocket's error stays what it is: there is no status to answer with."""
    app = FastAPI()
    install_error_handlers(app)

    @app.websocket("/")
    async def talk(websocket: WebSocket) -> None:
        raise db.PoolTimeoutError("no connection became free")

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None: ...

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(db.PoolTimeoutError):
        await app(scope, receive, send)


async def test_server_down(tmp_path: Path, server_url: str) -> None:
    """While the server is down, all that needs it gives 503 in bounded time, /livez 200; afterwards all is well."""
    directory = tmp_path / "server"
    url = SecretStr(await embedded.start(directory))
    configure(Settings(database_url=url, min_connections=0, connection_timeout=1))
    app = make_app()

    @app.get("/count")
    async def count() -> int:
        return await db.get_document_count()

    @app.get("/transaction")
    async def transaction(conn: TransactionDep) -> int:
        return int(await conn.fetchval("SELECT 1"))

    try:
        await db.init_document_table()
        await db.close_connection_pool()
        async with client_of(app) as client:
            for path in ("/livez", "/readyz", "/health", "/count", "/transaction"):
                assert (await client.get(path)).status_code == 200, path

            await embedded.stop(directory)
            for path in ("/count", "/transaction"):
                response = await client.get(path, timeout=10)
                assert (response.status_code, response.headers["Retry-After"]) == (503, "1"), path
            ready = await client.get("/readyz", timeout=10)
            assert (ready.status_code, ready.json()) == (503, {"status": "unavailable"})
            health = await client.get("/health", timeout=10)
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            assert (await client.get("/livez")).status_code == 200

            await embedded.start(directory)
            assert (await client.get("/count")).status_code == 200
            assert (await client.get("/transaction")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
    finally:
        configure(None)
        await embedded.stop(directory)


# --- health


async def test_health_of_a_healthy_database(database: Settings) -> None:
    """/livez and /readyz say so in a word, /health is the report; none of them may be kept in a cache."""
    async with client_of(make_app()) as client:
        live, ready, health = [await client.get(path) for path in ("/livez", "/readyz", "/health")]
        assert (live.status_code, live.json()) == (200, {"status": "alive"})
        assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
        assert health.status_code == 200
        assert health.json()["status"] == "healthy"
        assert health.json().keys() == (await db.health_report()).keys()
        assert {response.headers["Cache-Control"] for response in (live, ready, health)} == {"no-store"}


async def test_no_password_in_health(database: Settings) -> None:
    """No endpoint tells the password, whether the server can be reached or not."""
    good = urlsplit(database.dsn)
    password = unquote(good.password or "Open%25Sesame")
    hosts = good.netloc.rpartition("@")[2]
    known = good._replace(netloc=f"{good.username}:{quote(password, safe='')}@{hosts}").geturl()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening: connections are refused
        refused = f"postgresql://somebody:{quote(password, safe='')}@127.0.0.1:{unused.getsockname()[1]}/nothing"
        for url, status in ((known, 200), (refused, 503)):
            configure(Settings(database_url=SecretStr(url), min_connections=0, connection_timeout=1))
            app = FastAPI(lifespan=on_demand)  # with database_lifespan the second would not start
            app.include_router(health_router(timeout=1))
            async with client_of(app) as client:
                for path in ("/livez", "/readyz", "/health"):
                    response = await client.get(path)
                    assert response.status_code == (200 if path == "/livez" else status)
                    assert password not in response.text
                    assert quote(password, safe="") not in response.text


async def test_silent_server(database: Settings) -> None:
    """A server that accepts connections and says nothing makes no probe wait much longer than its timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x?sslmode=disable"
        configure(Settings(database_url=SecretStr(url)))
        app = FastAPI(lifespan=on_demand)
        app.include_router(health_router(timeout=0.2))
        async with client_of(app) as client:
            for path in ("/readyz", "/health"):
                assert (await client.get(path, timeout=5)).status_code == 503


async def test_pool_whose_connections_do_not_come_back(database: Settings) -> None:
    """A pool exhausted beyond the probe's patience is alive and healthy, but not ready; given back, it is ready."""
    configure(database.model_copy(update={"max_connections": 2}))
    app = make_app()

    @app.post("/wait")
    async def wait(conn: ConnectionDep) -> None:
        await conn.execute("SELECT pg_advisory_lock_shared($1)", _LOCK)

    async with client_of(app) as client, db.get_db_connection() as conn:
        await conn.execute("SELECT pg_advisory_lock($1)", _LOCK)
        requests = [asyncio.create_task(client.post("/wait")) for _ in range(2)]
        await until(lambda: _in_use(client, 2))
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/health")).status_code == 200
        await conn.execute("SELECT pg_advisory_unlock($1)", _LOCK)
        assert [response.status_code for response in await asyncio.gather(*requests)] == [200, 200]
        assert (await client.get("/readyz")).status_code == 200


async def _in_use(client: httpx.AsyncClient, count: int) -> bool:
    return bool((await client.get("/health")).json()["pool"]["in_use"] == count)


# --- many clients, and clients that leave


async def test_100_concurrent_requests(notes: Settings) -> None:
    """A hundred requests at once share the pool's ten connections; each is stored once, and all are given back."""
    app = make_app()

    @app.post("/{text}")
    async def store(text: str, conn: TransactionDep) -> None:
        await conn.execute(_STORE, text)

    async with client_of(app) as client:
        responses = await asyncio.gather(*(client.post(f"/{number:03}") for number in range(100)))
        assert {response.status_code for response in responses} == {200}
        assert await stored() == [f"{number:03}" for number in range(100)]
        assert await _in_use(client, 0)


async def test_clients_that_leave_mid_request(notes: Settings) -> None:
    """More disconnects than the pool has connections, while the statement runs, and each connection comes back."""
    app = make_app()

    @app.post("/{text}")
    async def store(text: str, conn: TransactionDep) -> None:
        await conn.execute("SELECT pg_advisory_xact_lock_shared($1)", _LOCK)
        await conn.execute(_STORE, text)

    async with client_of(app) as client, db.get_db_connection() as conn:
        for each in range(3):
            await conn.execute("SELECT pg_advisory_lock($1)", _LOCK)
            leaving = [await _send(client.base_url, "POST", f"/{each}{number}") for number in range(4)]
            await until(lambda: _in_use(client, 4))
            for writer in leaving:
                writer.transport.abort()
            await conn.execute("SELECT pg_advisory_unlock($1)", _LOCK)
            await until(lambda: _in_use(client, 0))
        assert (await client.post("/stayed")).status_code == 200
        # uvicorn lets a request that nobody waits for finish
        assert await stored() == [*(f"{each}{number}" for each in range(3) for number in range(4)), "stayed"]


async def in_cancel_scope(work: Awaitable[None], timeout: float) -> None:
    """As `asyncio.wait_for`, but each `await` of the cleaning up is cancelled, too."""
    with anyio.fail_after(timeout):
        await work


@pytest.mark.parametrize("within", [asyncio.wait_for, in_cancel_scope])
async def test_requests_that_are_cancelled(notes: Settings, within: Callable[..., Awaitable[None]]) -> None:
    """A request that is cancelled in the middle of its statement leaves nothing stored and no connection out."""
    app = make_app()

    @app.post("/")
    async def store(conn: TransactionDep) -> None:
        await conn.execute(_STORE, "x")
        await conn.execute("SELECT pg_advisory_xact_lock_shared($1)", _LOCK)

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await app(scope, receive, send)
            return
        try:
            await within(app(scope, receive, send), timeout=0.2)
        except TimeoutError:
            await Response(status_code=504)(scope, receive, send)

    async with client_of(impatient) as client, db.get_db_connection() as conn:
        await conn.execute("SELECT pg_advisory_lock($1)", _LOCK)
        responses = await asyncio.gather(*(client.post("/") for _ in range(20)))
        assert {response.status_code for response in responses} == {504}
        await until(lambda: _in_use(client, 0))
        assert await stored() == []
        await conn.execute("SELECT pg_advisory_unlock($1)", _LOCK)
        assert (await client.get("/readyz")).status_code == 200


async def test_clients_that_leave_a_stream(database: Settings) -> None:
    """A stream that is cut off in the middle gives its connection back."""
    app = make_app()

    async def rows() -> AsyncIterator[str]:
        async with db.get_db_transaction() as conn:
            async for row in conn.cursor("SELECT repeat('x', 100000) AS text FROM generate_series(1, 100000)"):
                yield row["text"]

    @app.get("/rows")
    async def stream() -> StreamingResponse:
        return StreamingResponse(rows())

    async with client_of(app) as client:
        for _ in range(3):
            async with client.stream("GET", "/rows") as response:
                assert response.status_code == 200
                await anext(response.aiter_raw())
        await until(lambda: _in_use(client, 0))


async def _send(url: httpx.URL, method: str, path: str) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 0\r\n\r\n".encode())
    await writer.drain()
    return writer


# --- without FastAPI


def test_without_fastapi() -> None:
    """Importing the module without FastAPI says what to install."""
    program = "import sys; sys.modules['fastapi'] = None; import database.contrib.fastapi"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert run.stderr.splitlines()[-1] == (
        "ImportError: database.contrib.fastapi needs FastAPI: pip install 'pgdatabase[fastapi]'"
    )
