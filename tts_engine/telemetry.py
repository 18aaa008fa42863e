"""Traces and metrics of a run by OpenTelemetry, and an endpoint for Prometheus (extra `telemetry`, docs/telemetry.md).

A problem is a span, each model call a span below it, with the attributes of OpenTelemetry's conventions for generative
AI. No text of a problem, prompt or completion is exported. Calls that were found in the journal are counted, not timed.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, Status, StatusCode
from prometheus_client import CollectorRegistry, start_http_server

from tts_engine import __version__
from tts_engine.errors import ConfigError
from tts_engine.run import Event
from tts_engine.types import Completion, Outcome, Request

NANO = 10**9
KINDS = ("prompt", "cached", "completion", "cancelled")
"""What tokens are counted by, as in `Usage`."""


class Telemetry:
    """Turns the engine's events into spans and metrics. A context manager; `on_event` is what the engine calls.

    Args:
        exporters, readers: where spans and metrics go.
    """

    def __init__(self, exporters: list[SpanExporter], readers: list[MetricReader]) -> None:
        resource = Resource.create({"service.name": "tts-engine", "service.version": __version__})
        self._traces = TracerProvider(resource=resource)
        for exporter in exporters:
            self._traces.add_span_processor(BatchSpanProcessor(exporter))
        self._metrics = MeterProvider(metric_readers=readers, resource=resource)
        self._tracer = self._traces.get_tracer("tts_engine", __version__)
        meter = self._metrics.get_meter("tts_engine", __version__)
        self._tokens = meter.create_counter("tts.tokens", "{token}", "tokens by role, model and kind")
        self._calls = meter.create_counter("tts.calls", "{call}", "model calls, `recalled` from the journal or not")
        self._duration = meter.create_histogram("tts.call.duration", "s", "time of a model call, retries not included")
        self._dollars = meter.create_counter("tts.dollars", "{USD}", "dollars by role and model")
        self._retries = meter.create_counter("tts.retries", "{try}", "tries of model calls that failed, by kind")
        self._failures = meter.create_counter("tts.failures", "{failure}", "failures by the part they happened in")
        self._active = meter.create_up_down_counter("tts.problems.active", "{problem}", "problems under way")
        self._done = meter.create_counter("tts.problems", "{problem}", "problems that ended, by result")
        self._spans: dict[str, Span] = {}

    def on_event(self, event: Event) -> None:
        """Take one event in."""
        match event.kind:
            case "problem_started":
                self._spans[event.problem] = self._tracer.start_span("solve", attributes={"tts.problem": event.problem})
                self._active.add(1)
            case "call":
                self._call(event.problem, event.data["request"], event.data["completion"])
            case "problem_done":
                self._outcome(event.problem, event.data["outcome"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for span in self._spans.values():
            span.set_status(Status(StatusCode.ERROR, "interrupted"))
            span.end()
        self._traces.shutdown()
        self._metrics.shutdown()

    def _call(self, problem: str, request: Request, completion: Completion) -> None:
        who = {"role": str(request.role), "model": request.model}
        self._calls.add(1, who | {"recalled": completion.recalled})
        for kind in completion.retries:
            self._retries.add(1, who | {"kind": kind})
        if completion.recalled:
            return
        for kind in KINDS:
            self._tokens.add(getattr(completion.usage, kind), who | {"kind": kind})
        self._dollars.add(completion.usage.dollars, who)
        self._duration.record(completion.usage.seconds, who)
        self._call_span(problem, request, completion)

    def _call_span(self, problem: str, request: Request, completion: Completion) -> None:
        end = time.time_ns()
        parent = self._spans.get(problem)
        span = self._tracer.start_span(
            f"{request.role} {request.model}",
            context=trace.set_span_in_context(parent) if parent else None,
            kind=trace.SpanKind.CLIENT,
            start_time=end - round(completion.usage.seconds * NANO),
            attributes=call_attributes(request, completion),
        )
        span.end(end)

    def _outcome(self, problem: str, outcome: Outcome) -> None:
        self._active.add(-1)
        result = {True: "right", False: "wrong", None: "ungraded"}[outcome.correct]
        self._done.add(1, {"result": result})
        for failure in outcome.failures:
            self._failures.add(1, {"where": failure.where, "error": failure.error})
        span = self._spans.pop(problem, None)
        if span is None:
            return
        span.set_attributes({"tts.result": result, "tts.stop_reason": outcome.stop_reason})
        span.set_attributes({"tts.tokens": outcome.total.tokens, "tts.candidates": len(outcome.candidates)})
        if outcome.stop_reason.startswith("failed"):
            span.set_status(Status(StatusCode.ERROR, outcome.stop_reason))
        span.end()


def call_attributes(request: Request, completion: Completion) -> dict[str, Any]:
    """The attributes of a call's span, by OpenTelemetry's names where it has some."""
    return {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": request.model,
        "gen_ai.request.temperature": request.sampling.temperature,
        "gen_ai.request.max_tokens": request.sampling.max_tokens,
        "gen_ai.response.finish_reasons": (str(completion.finish),),
        "gen_ai.usage.input_tokens": completion.usage.prompt,
        "gen_ai.usage.output_tokens": completion.usage.completion,
        "tts.usage.cached_tokens": completion.usage.cached,
        "tts.role": str(request.role),
        "tts.key": str(request.key),
        "tts.retries": completion.retries,
    }


def open_telemetry(stack: ExitStack, address: str | None) -> Telemetry:
    """Telemetry for a run: over OTLP where OTEL_EXPORTER_OTLP_ENDPOINT is set, for Prometheus at `address` if given.

    Args:
        stack: ends it.
        address: `PORT` (on this machine only) or `HOST:PORT`.

    Raises:
        ConfigError: the address is none, or is taken.
    """
    exporters: list[SpanExporter] = []
    readers: list[MetricReader] = []
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporters.append(OTLPSpanExporter())
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if address is not None:
        registry = CollectorRegistry()
        _serve(stack, address, registry)
        readers.append(PrometheusMetricReader(registry=registry))
    return stack.enter_context(Telemetry(exporters, readers))


def _serve(stack: ExitStack, address: str, registry: CollectorRegistry) -> None:
    """Answer Prometheus from a thread."""
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host or "127.0.0.1", registry)
    except (ValueError, OverflowError, OSError) as error:
        reason = getattr(error, "strerror", None) or "give PORT or HOST:PORT"
        raise ConfigError(f"cannot serve metrics at {address!r}: {reason}") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    stack.callback(stop)
