"""Code out of documents, and applications, run as their users run them."""

from __future__ import annotations

import ast
import inspect
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

import database as db


async def run_block(code: str, **names: Any) -> dict[str, Any]:
    """All names after *code* has run, `await` allowed at its top, with the package's names and *names* known to it."""
    namespace = {"__name__": "block", **{name: getattr(db, name) for name in db.__all__}, **names}
    result = eval(compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
    if inspect.isawaitable(result):
        await result
    return namespace


def run_program(code: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *code* from a file in *directory*, there, in a Python of its own; it must succeed without a warning."""
    (directory / "program.py").write_text(code)
    program = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert program.returncode == 0, program.stderr
    return program


@contextmanager
def serve(app: Any) -> Iterator[str]:
    """The URL of *app* under uvicorn, in a thread, on a free port of the loopback interface."""
    # listening from here on, so that no request comes too early
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        config = uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=10)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "uvicorn did not stop"


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of *app*, served as `serve` does."""
    # uvicorn closes a connection after a 500, and a client that keeps connections may find that out too late
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
    with serve(app) as url:
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            yield client
