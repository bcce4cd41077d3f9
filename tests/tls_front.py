"""What may stand between a client and the server of a test: with TLS, without, or with malice."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

from .proxy import connect_to

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)

Conduct = Literal["tls", "strips", "stuffs", "errs"]


class Front:
    """
    Answers the client's request for TLS, and hands what comes then on to the server.

    As *conduct* says: it speaks TLS, or pretends that the server cannot ("strips"), or sends an answer of its own
    behind the one that agrees to TLS ("stuffs"), or an error in its place ("errs"). *in_clear* is what it could read
    without TLS, *requests* counts the connections that asked for it.
    """

    def __init__(self, server_url: str, conduct: Conduct, context: ssl.SSLContext | None) -> None:
        self._url = urlsplit(server_url)
        self._context = context
        self.conduct = conduct
        self.in_clear = b""
        self.requests = 0
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's line."""
        self.connections += 1
        line = writer.transport
        try:
            first = await reader.readexactly(8)
            if first == _SSL_REQUEST:
                self.requests += 1
                await self._answer(reader, writer)
            else:
                self.in_clear += first
                await self._pass_on(reader, writer, first)
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()
            line.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.conduct == "tls":
            assert self._context is not None
            writer.write(b"S")
            await writer.start_tls(self._context)
            await self._pass_on(reader, writer, b"")
        elif self.conduct == "strips":
            writer.write(b"N")
            await self._pass_on(reader, writer, b"")
        else:
            writer.write(b"S" + b"R\0\0\0\x08\0\0\0\0" if self.conduct == "stuffs" else b"ESFATAL\0Mforged text\0\0")
            self.in_clear += await reader.read()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        server_reader, server_writer = await connect_to(self._url)
        server_writer.write(first)
        is_clear = writer.get_extra_info("ssl_object") is None

        async def forward() -> None:
            while data := await reader.read(65536):
                if is_clear:
                    self.in_clear += data
                server_writer.write(data)
            server_writer.transport.abort()

        async def back() -> None:
            while data := await server_reader.read(65536):
                writer.write(data)
            writer.transport.abort()

        try:
            await asyncio.gather(forward(), back())
        finally:
            server_writer.transport.abort()


@asynccontextmanager
async def front_of(server_url: str, conduct: Conduct, context: ssl.SSLContext | None = None) -> AsyncIterator[Front]:
    """A front of the server at *server_url* on a free port of loopback, for the time of the block."""
    front = Front(server_url, conduct, context)
    lines: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(front.serve(reader, writer))
        lines.add(task)
        task.add_done_callback(lines.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        for task in list(lines):
            task.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
