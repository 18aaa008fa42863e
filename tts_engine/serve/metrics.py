"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tts_engine.compute.ledger import Scope
from tts_engine.serve.admission import Admission

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
KINDS = ("prompt", "cached", "completion", "cancelled")


class Metrics:
    """The gateway's counters, and what the ledger and the door say when they are asked."""

    def __init__(self, ledger: Scope, door: Admission) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tts_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "tts_request_seconds",
            "Seconds from a request to its end.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.gone = Counter("tts_disconnects", "Clients that left before their answer.", registry=self.registry)
        self.registry.register(_Live(ledger, door))

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)


class _Live:
    def __init__(self, ledger: Scope, door: Admission) -> None:
        self._ledger = ledger
        self._door = door

    def collect(self) -> Iterator[Metric]:
        """Numbers of this moment."""
        yield GaugeMetricFamily("tts_running", "Requests being worked on.", value=self._door.running)
        yield GaugeMetricFamily("tts_waiting", "Requests that wait.", value=self._door.queued)
        tokens = CounterMetricFamily("tts_tokens", "Tokens by role and kind.", labels=("role", "kind"))
        flops = CounterMetricFamily("tts_flops", "Floating point operations by role.", labels=("role",))
        dollars = CounterMetricFamily("tts_dollars", "Dollars by role.", labels=("role",))
        checks = CounterMetricFamily("tts_checks", "Executed checks by role.", labels=("role",))
        for role, usage in self._ledger.spent.items():
            for kind in KINDS:
                tokens.add_metric((role.value, kind), getattr(usage, kind))
            flops.add_metric((role.value,), usage.flops)
            dollars.add_metric((role.value,), usage.dollars)
            checks.add_metric((role.value,), usage.code_runs)
        yield from (tokens, flops, dollars, checks)
