"""What the server counts, for Prometheus: in a registry of its own, so that two servers in one process stay apart."""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonant.serve.answering.answerer import AnswererStats

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Requests by route and status, how long they took, how long the first words took, and how much was heard."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sonant_requests", "Requests answered, by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "sonant_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "sonant_first_token_seconds",
            "From a question, decoded, to the first words of its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.heard = Counter("sonant_heard_seconds", "Seconds of audio decoded.", registry=self.registry)
        self.sessions = Gauge("sonant_sessions", "Realtime sessions that are open.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, stats: Callable[[], AnswererStats], *, restarts: Callable[[], int]) -> None:
        """Also shows what an answerer does, and how often a decoder was restarted, as of when the metrics are read."""
        self.registry.register(_Watched(stats, restarts))

    def text(self) -> bytes:
        """Returns all of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Watched:
    """The numbers of an answerer and of a decoder: what goes up and down is a gauge, the rest counts."""

    def __init__(self, stats: Callable[[], AnswererStats], restarts: Callable[[], int]) -> None:
        self._stats, self._restarts = stats, restarts

    def collect(self) -> Iterator[Metric]:
        """Yields one metric for each number."""
        stats = self._stats()
        yield GaugeMetricFamily("sonant_rows", "Answers being written or said.", value=stats.rows)
        yield GaugeMetricFamily("sonant_waiting", "Questions whose turn has not come.", value=stats.waiting)
        answers = CounterMetricFamily("sonant_answers", "Questions by what became of them.", labels=["outcome"])
        for outcome in ("accepted", "finished", "failed", "cancelled", "refused"):
            answers.add_metric([outcome], getattr(stats, outcome))
        yield answers
        tokens = CounterMetricFamily("sonant_tokens", "Tokens read and written.", labels=["kind"])
        tokens.add_metric(["prompt"], stats.prompt_tokens)
        tokens.add_metric(["completion"], stats.completion_tokens)
        yield tokens
        what = "Times that the process that decodes was started anew: a recording ended it, or it ended by itself."
        yield CounterMetricFamily("sonant_decoder_restarts", what, value=self._restarts())


class Measured:
    """Counts and times every HTTP request under the template of its route: addresses that clients invent are one."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)
