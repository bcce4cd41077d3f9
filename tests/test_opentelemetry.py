"""Spans: one for each call and each statement, named as the semantic conventions want it, without data."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import database as db
from database import repository
from database.contrib.opentelemetry import instrument, uninstrument

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def provider() -> TracerProvider:
    """A provider whose spans stay in memory."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    return provider


def finished(provider: TracerProvider) -> list[ReadableSpan]:
    (processor,) = provider._active_span_processor._span_processors
    exporter: Any = processor.span_exporter  # type: ignore[attr-defined]
    return list(exporter.get_finished_spans())


@pytest.fixture
def spans(provider: TracerProvider) -> Iterator[TracerProvider]:
    """The provider, and spans of functions and statements made with it."""
    instrument(provider)
    yield provider
    uninstrument()


def everything_in(spans: list[ReadableSpan]) -> str:
    return "\n".join(span.to_json() for span in spans)


async def test_a_call_is_a_span_above_that_of_its_statement(spans: TracerProvider) -> None:
    """Names, attributes and kinds are those of the conventions; no parameter is in them."""
    await db.init_document_table()
    await db.insert_document("Tea", "kitchen/tea", "a secret")
    await db.get_document_by_code("kitchen/tea")
    found = finished(spans)
    (call,) = [span for span in found if span.name == "get_document_by_code document"]
    attributes = dict(call.attributes or {})
    assert call.kind is SpanKind.INTERNAL and call.status.status_code is StatusCode.UNSET
    assert attributes["db.system.name"] == "postgresql"
    assert attributes["db.operation.name"] == "get_document_by_code"
    assert attributes["db.collection.name"] == "document"
    assert str(attributes["db.namespace"]).startswith("test_") and attributes["server.address"]
    assert call.context is not None
    (statement,) = [span for span in found if span.parent and span.parent.span_id == call.context.span_id]
    assert statement.kind is SpanKind.CLIENT and statement.name == "SELECT"
    assert "secret" not in everything_in(found) and "kitchen/tea" not in everything_in(found)


async def test_a_failure_is_told_without_the_servers_words(spans: TracerProvider) -> None:
    """Class and SQLSTATE; not the row that PostgreSQL quotes, in neither of the two spans."""
    await repository.execute_raw("CREATE TABLE item (id text PRIMARY KEY)")
    await repository.insert("item", {"id": "kitchen/secret"})
    with pytest.raises(db.RepositoryError):
        await repository.insert("item", {"id": "kitchen/secret"})
    found = finished(spans)
    failed = [span for span in found if span.status.status_code is StatusCode.ERROR]
    assert {span.kind for span in failed} == {SpanKind.INTERNAL, SpanKind.CLIENT}
    (call,) = [span for span in failed if span.kind is SpanKind.INTERNAL]
    attributes = dict(call.attributes or {})
    assert (attributes["error.type"], attributes["db.response.status_code"]) == ("RepositoryError", "23505")
    assert "kitchen/secret" not in everything_in(found)
    assert not any(span.events for span in found)


async def test_tables_name_their_spans(spans: TracerProvider) -> None:
    """Functions for any table tell which; SQL of one's own is no name."""
    await repository.execute_raw("CREATE TABLE item (id integer PRIMARY KEY)")
    await repository.insert("item", {"id": 5})
    names = [span.name for span in finished(spans)]
    assert "insert item" in names and "execute_raw" in names


async def test_shared_statements_leave_each_call_its_span(spans: TracerProvider) -> None:
    """Fifty calls are fifty spans, under one trace of their caller's; the statements are fewer."""
    await db.get_document_count()
    tracer = spans.get_tracer("test")
    with tracer.start_as_current_span("request") as request:
        await asyncio.gather(*(db.get_document_by_code(f"d{n}") for n in range(50)))
    found = finished(spans)
    calls = [span for span in found if span.name == "get_document_by_code document"]
    assert len(calls) == 50
    assert {span.parent.span_id for span in calls if span.parent} == {request.get_span_context().span_id}


async def test_without_statements_calls_are_client_spans(provider: TracerProvider) -> None:
    """And uninstrument() gives back what was there."""
    before = db.get_document_count, repository.fetch
    instrument(provider, statements=False)
    instrument(provider)  # once is enough
    try:
        await db.get_document_count()
    finally:
        uninstrument()
    assert [(span.name, span.kind) for span in finished(provider)] == [("get_document_count document", SpanKind.CLIENT)]
    assert (db.get_document_count, repository.fetch) == before
    uninstrument()
