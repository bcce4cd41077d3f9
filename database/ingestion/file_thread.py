"""The thread of an ingestion: everything that blocks on files happens in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from types import TracebackType
from typing import ParamSpec, Protocol, TypeVar


class _Closable(Protocol):
    def close(self) -> object: ...


P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=_Closable)


class FileThread:
    """
    One thread that does all the reading of an ingestion, and in the end closes what it has opened.

    The closing waits for its turn in the thread. So a cancelled ingestion waits for nothing, and a batch that is being
    read at that moment goes on with its own descriptors, not with whatever has got their numbers since.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="database-ingestion")
        self._opened = ExitStack()

    async def __aenter__(self) -> FileThread:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        closed = self._executor.submit(self._opened.close)
        self._executor.shutdown(wait=False)
        if kind is None:
            await asyncio.wrap_future(closed)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of *work*, called in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))

    async def open(self, work: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> C:
        """As `run`; the result is closed when the thread ends."""
        return await self.run(lambda: self._opened.enter_context(closing(work(*args, **kwargs))))
