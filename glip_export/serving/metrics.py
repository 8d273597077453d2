"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("glip_requests", "Answers by status", ["path", "code"], registry=self.registry)
        self.errors = Counter("glip_errors", "Requests refused or failed, by error", ["error"], registry=self.registry)
        self.seconds = Histogram(
            "glip_stage_seconds",
            "Time of a request in each stage: upload, prepare, queue, image, text, head, total",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "glip_batch_pictures",
            "Pictures taken from the queue at once",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.pictures = Counter(
            "glip_pictures",
            "Pictures answered, and whether the server held them",
            ["cached"],
            registry=self.registry,
        )
        self.gone = Counter("glip_clients_gone", "Requests whose client hung up", registry=self.registry)
        self.dropped = Counter("glip_dropped", "Pictures dropped before their run was over", registry=self.registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def observe(self, seconds: Mapping[str, float]) -> None:
        """Adds a request's seconds by stage."""
        for stage, value in seconds.items():
            self.seconds.labels(stage).observe(value)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
