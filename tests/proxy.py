"""A TCP proxy in front of a PostgreSQL server, that can swallow an answer, stall, and cut the line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import SplitResult, parse_qs, quote, urlsplit


async def connect_to(url: SplitResult) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A line to the server of *url*, which may listen on a unix socket."""
    query = parse_qs(url.query)
    if directory := query.get("host"):
        return await asyncio.open_unix_connection(f"{directory[0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}")
    return await asyncio.open_connection(url.hostname, url.port or 5432)


class Proxy:
    """
    Stands between a client and the server of a test.

    *swallow*, a piece of SQL: what the server answers to the next message that holds it is thrown away, and the line
    is cut once the server has answered and *before_the_cut* has run. *lose*, a piece of SQL: the next message that
    holds it never reaches the server, and the line is cut. After `stall()`, nothing goes through, in either direction.
    While it is *refusing*, new lines are cut at once.
    """

    def __init__(self, server_url: str) -> None:
        self._url = urlsplit(server_url)
        self._lines: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving = asyncio.Event()
        self._moving.set()
        self.swallow: bytes | None = None
        self.before_the_cut: Callable[[], Awaitable[object]] | None = None
        self.lose: bytes | None = None
        self.refusing = False
        self.connections = 0
        self.port = 0

    def stall(self) -> None:
        """Nothing goes through from now on."""
        self._moving.clear()

    def resume(self) -> None:
        """What was held back goes on."""
        self._moving.set()

    def cut(self) -> None:
        """Reset every line."""
        for writer in self._lines:
            writer.transport.abort()

    def url(self, database: str) -> str:
        """The URL of *database* through this proxy."""
        credentials = self._url.netloc.rpartition("@")[0]
        return f"postgresql://{credentials}@127.0.0.1:{self.port}/{quote(database)}?sslmode=disable"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's line."""
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = {writer}
        try:
            server_reader, server_writer = await connect_to(self._url)
            ends.add(server_writer)
            self._lines |= ends
            swallowed = asyncio.Event()
            await asyncio.gather(
                self._forward(reader, server_writer, swallowed), self._answer(server_reader, writer, swallowed)
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in ends:
                each.transport.abort()
                self._lines.discard(each)

    async def _forward(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, swallowed: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            await self._moving.wait()
            if self.lose is not None and self.lose in data:
                self.lose = None
                break
            if self.swallow is not None and self.swallow in data:
                self.swallow = None
                swallowed.set()
            server.write(data)
        server.transport.abort()

    async def _answer(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, swallowed: asyncio.Event
    ) -> None:
        while data := await server.read(65536):
            await self._moving.wait()
            if swallowed.is_set():
                if self.before_the_cut is not None:
                    await self.before_the_cut()
                break
            client.write(data)
        client.transport.abort()

    async def close(self) -> None:
        """End every line."""
        self.resume()
        for task in list(self._tasks):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxy_to(server_url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server at *server_url*, on a free port of loopback, for the time of the block."""
    proxy = Proxy(server_url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
