"""Spans and metrics of real runs: what they say is what the outcomes say."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from tts_engine.cli.run import main
from tts_engine.errors import ConfigError
from tts_engine.problems import load_problems
from tts_engine.run import Engine
from tts_engine.telemetry import Telemetry, open_telemetry
from tts_engine.types import Outcome, Usage

Points = dict[str, list[tuple[dict[str, Any], float]]]


async def watched(
    config: dict[str, Any], problems: Path, journal: Path | None = None, resume: bool = False
) -> tuple[list[Outcome], InMemorySpanExporter, Points]:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    with Telemetry([spans], [reader]) as telemetry:
        async with Engine.from_config(config, journal=journal, resume=resume) as engine:
            outcomes = [o async for o in engine.run(load_problems(str(problems)), telemetry.on_event)]
        data = reader.get_metrics_data()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    points = {
        metric.name: [
            (dict(p.attributes or {}), getattr(p, "value", getattr(p, "sum", 0.0))) for p in metric.data.data_points
        ]
        for metric in metrics
    }
    return outcomes, spans, points


async def test_metrics_equal_the_ledger(simulated: dict[str, Any], problem_file: Path) -> None:
    outcomes, _, points = await watched(simulated, problem_file)
    counted = Counter({(p["role"], p["kind"]): int(value) for p, value in points["tts.tokens"]})
    for role in ("generate", "verify"):
        spent = sum((outcome.usage[role] for outcome in outcomes), Usage())  # type: ignore[index]
        assert counted[role, "prompt"] == spent.prompt
        assert counted[role, "completion"] == spent.completion
    assert sum(value for _, value in points["tts.calls"]) == sum(outcome.total.calls for outcome in outcomes)
    assert sum(value for _, value in points["tts.problems"]) == len(outcomes)
    assert [value for _, value in points["tts.problems.active"]] == [0]


async def test_every_call_is_a_span_of_its_problem(simulated: dict[str, Any], problem_file: Path) -> None:
    outcomes, exporter, _ = await watched(simulated, problem_file)
    spans = exporter.get_finished_spans()
    problems = {span.context.span_id: span for span in spans if span.name == "solve"}  # type: ignore[union-attr]
    calls = [span for span in spans if span.name != "solve"]
    assert len(problems) == len(outcomes)
    assert len(calls) == sum(outcome.total.calls for outcome in outcomes)
    for span in calls:
        assert span.parent is not None
        parent = problems[span.parent.span_id]
        assert span.attributes is not None
        assert parent.attributes is not None
        assert str(parent.attributes["tts.problem"]) in str(span.attributes["tts.key"])
    tokens = sum(int(span.attributes["gen_ai.usage.output_tokens"]) for span in calls if span.attributes)  # type: ignore[call-overload]
    assert tokens == sum(outcome.total.completion for outcome in outcomes)
    said = json.dumps([dict(span.attributes or {}) for span in spans])
    assert not any(outcome.problem.prompt in said for outcome in outcomes)


async def test_calls_from_the_journal_are_not_timed(
    simulated: dict[str, Any], problem_file: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.sqlite"
    first, _, _ = await watched(simulated, problem_file, journal)
    again, exporter, points = await watched(simulated, problem_file, journal, resume=True)
    assert {o.problem.id: o.answer for o in again} == {o.problem.id: o.answer for o in first}
    assert {p["recalled"] for p, _ in points["tts.calls"]} == {True}
    assert "tts.tokens" not in points
    assert {span.name for span in exporter.get_finished_spans()} == {"solve"}


async def test_the_documented_metrics_are_those_served(simulated: dict[str, Any], problem_file: Path) -> None:
    registry = CollectorRegistry()
    with Telemetry([], [PrometheusMetricReader(registry=registry)]) as telemetry:
        async with Engine.from_config(simulated) as engine:
            async for _ in engine.run(load_problems(str(problem_file)), telemetry.on_event):
                pass
        telemetry._retries.add(1, {"kind": "timeout"})
        telemetry._failures.add(1, {"where": "backend"})
        text = generate_latest(registry).decode()
    served = set(re.findall(r"^# TYPE (tts_\w+)", text, re.MULTILINE))
    page = (Path(__file__).parents[1] / "docs" / "telemetry.md").read_text()
    assert set(re.findall(r"^\| `(tts_\w+)`", page, re.MULTILINE)) == served


def test_prometheus_is_answered_while_it_runs() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        telemetry = open_telemetry(stack, str(port))
        telemetry._failures.add(3, {"where": "backend"})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert re.search(r'^tts_failures(_total)?\{.*where="backend".*\} 3\.0$', text, re.MULTILINE)
        with pytest.raises(ConfigError, match=f"cannot serve metrics at '{port}'"):
            open_telemetry(stack, str(port))
    for wrong in ("nine", "127.0.0.1:99999999"):
        with ExitStack() as stack, pytest.raises(ConfigError, match="cannot serve metrics"):
            open_telemetry(stack, wrong)


def test_the_command_serves_metrics_and_keeps_the_load(
    problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    config = tmp_path / "config.yaml"
    config.write_text("policy: {backend: simulated, model: p}\nverifier: {backend: simulated, model: v, samples: 1}\n")
    out = tmp_path / "run"
    arguments = ["--config", str(config), "--dataset", str(problem_file), "--out", str(out), "--quiet"]
    assert main([*arguments, "--metrics-port", "0", "--n", "4"]) == 0
    load = json.loads((out / "utilisation.json").read_text())
    assert set(load["roles"]) == {"generate", "verify"}
    assert main(["--resume", str(out), "--quiet", "--metrics-port", "bad port"]) == 2
