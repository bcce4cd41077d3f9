"""
OpenTelemetry: a span for each call of the package's functions, and for each statement that is sent.

    instrument()        # before `from database import …` of single names; `import database as db` may come before

With the semantic conventions for databases (https://opentelemetry.io/docs/specs/semconv/db/). No span holds a
parameter, and none the words of the server, which may quote a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

from .. import repository
from ..exceptions import DatabaseError
from ..pool import Pool
from ..registry import open_pool

try:
    from opentelemetry import trace
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
except ModuleNotFoundError as exc:
    raise ImportError("database.contrib.opentelemetry needs OpenTelemetry: pip install 'pgdatabase[otel]'") from exc

__all__ = ["instrument", "uninstrument"]

_TABLES = {"database.document": "document", "database.chat_history": "chat_history"}  # of whose functions
_NOT_ABOUT_DATA = frozenset({
    "close_connection_pool", "get_connection_pool", "get_pool_stats", "register_init_callback",
})  # fmt: skip
_originals: list[tuple[Any, str, Any]] = []
_statements: list[AsyncPGInstrumentor] = []
_attributes: WeakKeyDictionary[Pool, dict[str, str | int]] = WeakKeyDictionary()


def instrument(tracer_provider: TracerProvider | None = None, *, statements: bool = True) -> None:
    """
    Make spans from now on, with *tracer_provider*, by default the global one; nothing where that is done already.

    A span is called `get_document_by_code document` and has `db.system.name`, `db.operation.name`, `db.namespace`,
    `db.collection.name`, `server.address` and `server.port` where they are known, after a failure `error.type` and
    `db.response.status_code` (the SQLSTATE). With *statements*, opentelemetry-instrumentation-asyncpg adds a span for
    each statement; one that several calls share belongs to none of their traces. Names that a module has imported from
    the package before stay as they are.
    """
    if _originals:
        return
    import database

    tracer = trace.get_tracer("database", database.__version__, tracer_provider)
    kind = SpanKind.INTERNAL if statements else SpanKind.CLIENT
    for module, names in ((database, database.__all__), (repository, repository.__all__)):
        for name in names:
            function = getattr(module, name)
            if inspect.iscoroutinefunction(function) and name not in _NOT_ABOUT_DATA:
                _originals.append((module, name, function))
                setattr(module, name, _traced(function, tracer, kind, is_about_a_table=module is repository))
    if statements:
        instrumentor = AsyncPGInstrumentor()  # type: ignore[no-untyped-call]  # it has no types
        _statements.append(instrumentor)
        instrumentor.instrument(tracer_provider=_Wordless(tracer_provider or trace.get_tracer_provider()))


def uninstrument() -> None:
    """Make no more spans; nothing where none are made."""
    while _originals:
        setattr(*_originals.pop())
    while _statements:
        _statements.pop().uninstrument()


def _traced(
    function: Callable[..., Any], tracer: trace.Tracer, kind: SpanKind, *, is_about_a_table: bool
) -> Callable[..., Any]:
    operation = function.__name__
    own_table = _TABLES.get(inspect.unwrap(function).__module__)

    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        table = own_table
        if is_about_a_table:
            first = args[0] if args else kwargs.get("table")
            table = first if isinstance(first, str) and operation != "execute_raw" else None
        attributes = {"db.system.name": "postgresql", "db.operation.name": operation, **_where()}
        if table is not None:
            attributes["db.collection.name"] = table
        name = operation if table is None else f"{operation} {table}"
        with tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return await function(*args, **kwargs)
            except BaseException as exc:
                span.set_attribute("error.type", type(exc).__qualname__)
                if isinstance(exc, DatabaseError) and exc.sqlstate is not None:
                    span.set_attribute("db.response.status_code", exc.sqlstate)
                span.set_status(Status(StatusCode.ERROR))
                raise

    return call


def _where() -> dict[str, str | int]:
    """What is known of the server of the default pool."""
    pool = open_pool()
    if pool is None:
        return {}
    known = _attributes.get(pool)
    if known is None:
        known = _attributes[pool] = _read_url(pool.redacted_url)
    return known


def _read_url(address: str) -> dict[str, str | int]:
    url = urlsplit(address)
    query = dict(part.partition("=")[::2] for part in url.query.split("&"))
    hosts = url.netloc.rpartition("@")[2] or unquote(query.get("host", ""))
    attributes: dict[str, str | int] = {}
    if url.path[1:]:
        attributes["db.namespace"] = unquote(url.path[1:])
    if hosts and "," not in hosts:  # of several, the pool's connections may lead to any
        host, _, port = (hosts, "", "") if hosts.startswith("/") else hosts.partition(":")
        attributes["server.address"] = host
        if port or query.get("port"):
            attributes["server.port"] = int(port or query["port"])
    return attributes


class _Wordless(TracerProvider):
    """Another provider's tracers, whose spans do not record what an exception says: it may quote a row."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        return _WordlessTracer(self._provider.get_tracer(*args, **kwargs))


class _WordlessTracer:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        options = {"record_exception": False, "set_status_on_exception": False}
        return self._tracer.start_as_current_span(*args, **kwargs | options)
