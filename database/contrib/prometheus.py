"""
Prometheus: what the pools do, and the query log where it is on, as metrics.

    app.include_router(metrics_router())                                    # GET /metrics
    prometheus_client.REGISTRY.register(DatabaseCollector())                # into a registry of your own
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..metrics.statistics import all_names, functions, statistics_of
from ..registry import all_pools

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    raise ImportError(
        "database.contrib.prometheus needs prometheus-client: pip install 'pgdatabase[prometheus]'"
    ) from exc

if TYPE_CHECKING:
    from fastapi import APIRouter

__all__ = ["DatabaseCollector", "metrics_router"]

_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
_LONGEST = 200  # characters of a statement in a label
_GAUGES = {
    "idle": "Open connections that nobody uses.",
    "in_use": "Connections that are in use.",
    "waiting": "Callers that wait for a connection.",
    "max_size": "Connections at the most.",
}
_COUNTERS = {
    "requests": "Connections that were asked for.",
    "waits": "Requests that had to wait.",
    "wait_seconds": "Seconds that they waited, all together.",
    "timeouts": "Requests that got none in time.",
    "connects": "Connections that were made.",
}
_OF_STATEMENTS = {
    "count": ("database_statement", "How often it was sent."),
    "calls": ("database_statement_calls", "Calls of functions that it carried."),
    "errors": ("database_statement_errors", "How often it failed."),
    "rows": ("database_statement_rows", "Rows that it returned or changed."),
    "total_ms": ("database_statement_seconds", "Seconds that it took."),
}


class DatabaseCollector(Collector):
    """
    Metrics of all databases of this process, each with its name as the label `database`.

    Of the pools: `database_pool_idle`, `…_in_use`, `…_waiting`, `…_max_size`, `…_requests_total`, `…_waits_total`,
    `…_wait_seconds_total`, `…_timeouts_total`, `…_connects_total`; event loops that have pools of one name add up.
    Of the query log: the histogram `database_query_seconds`, and for the *statements* that took most time, labelled by
    `id` and the masked `statement`, `database_statement_total`, `…_calls_total`, `…_errors_total`, `…_rows_total`,
    `…_seconds_total`; for functions `database_function_total`, `…_errors_total`, `…_seconds_total`.
    """

    def __init__(self, *, statements: int = 50) -> None:
        self._most = statements

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now; called by prometheus-client, from any thread."""
        yield from _of_pools()
        yield from self._of_statements()
        yield from _of_functions()

    def _of_statements(self) -> Iterable[Metric]:
        times = HistogramMetricFamily("database_query_seconds", "How long statements took.", labels=["database"])
        families = {
            key: CounterMetricFamily(name, text, labels=["database", "id", "statement"])
            for key, (name, text) in _OF_STATEMENTS.items()
        }
        for name in all_names():
            counts, total = statistics_of(name).counts_up_to(_BOUNDS)
            edges = [*map(str, _BOUNDS), "+Inf"]
            times.add_metric([name], list(zip(edges, counts, strict=True)), sum_value=total)
            for each in statistics_of(name).snapshot()["statements"][: self._most]:
                text = each["statement"]
                labels = [name, hashlib.sha256(text.encode()).hexdigest()[:8], text[:_LONGEST]]
                for key, family in families.items():
                    family.add_metric(labels, each[key] / 1000 if key == "total_ms" else each[key])
        yield times
        yield from families.values()


def _of_pools() -> Iterable[Metric]:
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for pool in all_pools():
        for key, value in pool.get_stats().items():
            sums[pool.name][key] += value
    for key, text in _GAUGES.items():
        gauge = GaugeMetricFamily(f"database_pool_{key}", text, labels=["database"])
        for name, stats in sums.items():
            gauge.add_metric([name], stats[key])
        yield gauge
    for key, text in _COUNTERS.items():
        counter = CounterMetricFamily(f"database_pool_{key}", text, labels=["database"])
        for name, stats in sums.items():
            counter.add_metric([name], stats[key])
        yield counter


def _of_functions() -> Iterable[Metric]:
    timed = functions().snapshot()
    for key, suffix, text in (
        ("count", "", "How often it was called."),
        ("errors", "_errors", "How often it failed."),
        ("total_ms", "_seconds", "Seconds that it took."),
    ):
        counter = CounterMetricFamily(f"database_function{suffix}", text, labels=["function"])
        for each in timed:
            counter.add_metric([each["function"]], each[key] / 1000 if key == "total_ms" else each[key])
        yield counter


def metrics_router(*, statements: int = 50, registry: CollectorRegistry | None = None) -> APIRouter:
    """
    A FastAPI router with `GET /metrics`: those of `DatabaseCollector`, or those of *registry* if given.

    The texts of statements are in it, without values: where strangers may not see them, `include_router(
    metrics_router(), dependencies=[Depends(only_admins)])`.
    """
    try:
        from fastapi import APIRouter, Request, Response
    except ModuleNotFoundError as exc:
        raise ImportError("metrics_router() needs FastAPI: pip install 'pgdatabase[fastapi]'") from exc

    if registry is None:
        registry = CollectorRegistry()
        registry.register(DatabaseCollector(statements=statements))
    router = APIRouter(tags=["metrics"])

    async def metrics(request: Request) -> Response:
        """What Prometheus scrapes."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        text: Any = encode(registry)
        return Response(text, media_type=None, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    # annotations are texts here, and FastAPI would not find these names
    metrics.__annotations__ = {"request": Request, "return": Response}
    router.add_api_route("/metrics", metrics, methods=["GET"], response_class=Response, response_model=None)
    return router
