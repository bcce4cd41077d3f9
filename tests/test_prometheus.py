"""Metrics for Prometheus: its own parser reads them, and they say what was done."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

import database as db
from database.contrib.prometheus import DatabaseCollector, metrics_router
from database.settings import Settings, configure

from .running import client_of


@pytest.fixture
async def measured(database: Settings) -> None:
    """The default database with the query log on, and nothing measured yet."""
    await db.close_connection_pool()
    configure(database.model_copy(update={"query_log": "on"}))
    db.reset_query_stats()


def values(text: str) -> dict[tuple[str, str], float]:
    """The samples, by their name and the statement or the database that they are about."""
    return {
        (sample.name, sample.labels.get("statement") or sample.labels.get("database", "")): sample.value
        for family in read_text(text)
        for sample in family.samples
        if sample.name != "database_query_seconds_bucket"
    }


@pytest.mark.usefixtures("measured")
async def test_the_route_tells_of_pools_and_statements() -> None:
    """In the format of Prometheus, and in that of OpenMetrics for those who ask; no value of a statement is in it."""
    async with db.get_db_connection() as conn:
        for _ in range(3):
            await conn.fetch("SELECT generate_series(1, $1), 'secret'", 5)
    app = FastAPI()
    app.include_router(metrics_router())
    async with client_of(app) as client:
        answer = await client.get("/metrics")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
        found = values(answer.text)
        statement = "SELECT generate_series(?, $1), ?"
        assert found["database_statement_total", statement] == 3
        assert found["database_statement_rows_total", statement] == 15
        assert found["database_statement_errors_total", statement] == 0
        assert 0 < found["database_statement_seconds_total", statement] < 60
        assert found["database_query_seconds_count", "default"] == 3
        assert found["database_pool_requests_total", "default"] >= 1
        assert found["database_pool_max_size", "default"] == 10
        assert "secret" not in answer.text
        buckets = [
            sample.value
            for family in read_text(answer.text)
            for sample in family.samples
            if sample.name == "database_query_seconds_bucket" and sample.labels["database"] == "default"
        ]
        assert buckets == sorted(buckets) and buckets[-1] == 3

        modern = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        families = read_openmetrics(modern.text)  # type: ignore[no-untyped-call]  # its types are incomplete
        assert {family.name for family in families} >= {"database_statement", "database_pool_idle"}


@pytest.mark.usefixtures("measured")
async def test_the_number_of_labels_is_bounded() -> None:
    """Those that took most time are told, however many there were."""
    async with db.get_db_connection() as conn:
        for number in range(20):
            await conn.execute(f"SELECT 1 AS column{number}")
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(statements=7))
    text = generate_latest(registry).decode()
    assert text.count("database_statement_total{") == 7
    assert values(text)["database_query_seconds_count", "default"] == 20


@pytest.mark.usefixtures("measured")
async def test_it_can_be_asked_from_another_thread() -> None:
    """As prometheus-client's own server does."""
    await db.execute_with_retry("SELECT 1")
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(generate_latest(registry)))
    thread.start()
    thread.join(20)
    assert b'database_pool_idle{database="default"}' in answers[0]


async def test_timed_functions_are_counters() -> None:
    """Those of time_query."""
    db.reset_query_stats()

    @db.time_query
    def work() -> None:
        pass

    work()
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    assert 'work"} 1.0' in generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("prometheus", "prometheus_client", "prometheus"), ("opentelemetry", "opentelemetry", "otel")],
)
def test_without_its_extra_the_error_names_it(module: str, missing: str, extra: str) -> None:
    """The pip command stands in it."""
    program = f"import sys; sys.modules[{missing!r}] = None; import database.contrib.{module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert f"pip install 'pgdatabase[{extra}]'" in done.stderr.splitlines()[-1]
