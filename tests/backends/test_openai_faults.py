"""Whole runs over endpoints that fail, hang, die and come back: nothing paid for is lost or counted twice."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers.running import Running
from tts_engine.cli.run import main
from tts_engine.config import Config
from tts_engine.errors import ConfigError, EndpointDown
from tts_engine.problems import load_problems
from tts_engine.run import Engine, Event, OnEvent
from tts_engine.types import Outcome, Usage

FAST = {"pause": 0.02, "stall": 0.4, "tries": 15}
SIMULATED = ("--backend", "simulated", "--models", "policy", "verifier")


def settings(server: Running, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    model = {"backend": "openai", "options": {"url": server.url, **FAST, **options}}
    return {
        "policy": model | {"model": "policy"},
        "verifier": model | {"model": "verifier", "samples": 2, "params": {"generation_prompt": True}},
        "strategy": {"name": "best-of-n", "n": 4},
    }


async def solve(
    config: dict[str, Any],
    problems: Path,
    on_event: OnEvent | None = None,
    **more: Any,  # noqa: ANN401  # the engine's
) -> tuple[list[Outcome], Engine]:
    async with Engine.from_config(config, **more) as engine:
        return [outcome async for outcome in engine.run(load_problems(str(problems)), on_event)], engine


def total(outcomes: list[Outcome]) -> Usage:
    return sum((outcome.total for outcome in outcomes), Usage())


def journalled(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return int(database.execute("SELECT count(*) FROM calls").fetchone()[0])


async def test_a_run_over_a_bad_endpoint_ends_and_counts_right(problem_file: Path, tmp_path: Path) -> None:
    """30 % of the calls fail, 5 % hang, 5 % break off midway."""
    journal = tmp_path / "journal.sqlite"
    with Running(*SIMULATED, "--fail", "0.3", "--hang", "0.05", "--cut", "0.05") as server:
        outcomes, engine = await solve(settings(server), problem_file, journal=journal)
        served = Counter(server.stats())
    assert len(outcomes) == 6
    assert not [failure for outcome in outcomes for failure in outcome.failures]
    spent = total(outcomes)
    assert (spent.calls, spent.completion) == (served["answered"] + served["cut"], served["completion"])
    assert (spent.cancelled, journalled(journal)) == (served["cut tokens"], served["answered"])
    retries = sum((Counter(outcome.retries) for outcome in outcomes), Counter[str]())
    told = {"timeout": served["hung"], "broken off": served["cut"]}
    told |= {kind: served[kind] for kind in ("HTTP 429", "HTTP 500", "HTTP 503")}
    assert retries == Counter(told)
    assert sum(retries.values()) > 20
    counted = engine.counters()
    assert sum(model["cancelled"] for model in counted.values()) == served["cut tokens"]


async def test_an_endpoint_that_dies_and_comes_back_is_waited_for(problem_file: Path) -> None:
    with Running(*SIMULATED) as server:
        calls = 0

        def on_event(event: Event) -> None:
            nonlocal calls
            calls += event.kind == "call"
            if event.kind == "call" and calls == 10:
                server.kill()
                threading.Thread(target=lambda: (time.sleep(0.5), server.start())).start()

        outcomes, _ = await solve(settings(server), problem_file, on_event)
        answered = server.stats()["answered"]  # since it came back
    assert len(outcomes) == 6
    assert not [failure for outcome in outcomes for failure in outcome.failures]
    retries = sum((Counter(outcome.retries) for outcome in outcomes), Counter[str]())
    assert retries["unreachable"] > 0
    assert 0 < answered <= total(outcomes).calls - 10


async def test_an_endpoint_that_stays_dead_ends_the_run_which_can_be_resumed(
    problem_file: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.sqlite"
    with Running(*SIMULATED) as whole:
        expected, _ = await solve(settings(whole), problem_file)
    server = Running(*SIMULATED, "--pace", "0.002").start()
    config = settings(server, silence=0.5) | {"run": {"concurrency": 1}}  # much is left to do after the first problem

    def on_event(event: Event) -> None:
        if event.kind == "problem_done":
            server.kill()

    with pytest.raises(EndpointDown, match="--resume"):
        await solve(config, problem_file, on_event, journal=journal)
    before = journalled(journal)
    assert before > 0
    with server:
        outcomes, _ = await solve(config, problem_file, journal=journal, resume=True)
        assert server.stats()["answered"] == journalled(journal) - before
    answers = {outcome.problem.id: (outcome.answer, outcome.total.completion) for outcome in outcomes}
    assert answers == {outcome.problem.id: (outcome.answer, outcome.total.completion) for outcome in expected}


def test_the_command_ends_in_a_sentence_and_resumes(
    problem_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Running(*SIMULATED, "--pace", "0.002").start()
    out = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(Config.build(settings(server, silence=0.5)).to_yaml())
    arguments = ["--config", str(config), "--dataset", str(problem_file), "--out", str(out), "--quiet", "--no-baseline"]

    def kill_midway() -> None:
        while server.stats().get("answered", 0) < 30:
            time.sleep(0.02)
        server.kill()

    killer = threading.Thread(target=kill_midway)
    killer.start()
    code = main(arguments)
    killer.join()
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith(f"tts-run: the endpoint {server.url} has answered nothing for ")
    assert said.count("\n") == 1  # no traceback, nothing about tasks
    before = journalled(out / "journal.sqlite")
    assert before > 0
    with Running(*SIMULATED, "--fail", "0.2") as back:  # on another port
        urls = [f"{role}.options.url={back.url}" for role in ("policy", "verifier")]
        assert main(["--resume", str(out), "--quiet", "--set", urls[0], "--set", urls[1]]) == 0
        served = back.stats()
    assert served["answered"] == journalled(out / "journal.sqlite") - before
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["problems"], summary["complete"]) == (6, True)
    told = {kind: number for kind, number in served.items() if kind.startswith("HTTP")}
    assert told
    assert summary["retries"] == told
    each = [json.loads(line)["retries"] for line in (out / "outcomes.jsonl").read_text().splitlines()]
    assert sum(map(Counter, each), Counter[str]()) == Counter(told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "http://127.0.0.1:9/v1"}, "cannot reach http://127.0.0.1:9/v1"),
        ({"key_env": "WRONG_KEY"}, "refuses the key (401: Incorrect API key provided: [key]): put a valid one into"),
        ({"served": "gpt-9"}, "has no model 'gpt-9': name it as the server does (policy, verifier)"),
    ],
)
def test_a_bad_start_is_one_sentence_and_leaves_nothing(
    change: dict[str, Any],
    words: str,
    problem_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RIGHT_KEY", "sk-right")
    monkeypatch.setenv("WRONG_KEY", "sk-wrong-1234")
    out, path = tmp_path / "run", tmp_path / "config.yaml"
    with Running(*SIMULATED, "--key", "sk-right") as server:
        config = settings(server, **{"key_env": "RIGHT_KEY", **change})
        path.write_text(Config.build(config).to_yaml())
        code = main(["--config", str(path), "--dataset", str(problem_file), "--out", str(out), "--quiet"])
    said = capsys.readouterr().err
    assert (code, out.exists()) == (2, False)
    assert words in said
    assert "sk-" not in said
    assert said.count("\n") == 1


async def test_a_verifier_that_reads_logprobs_says_that_there_are_none(problem_file: Path) -> None:
    with Running(*SIMULATED, "--no-logprobs") as server:
        with pytest.raises(ConfigError, match=r"gives no logprobs.*options\.logprobs to text"):
            await solve(settings(server), problem_file)
        outcomes, _ = await solve(settings(server, logprobs="text"), problem_file)
    votes = {
        said.score
        for outcome in outcomes
        for judged in outcome.candidates
        if judged.verdict
        for sample in judged.verdict.samples
        for said in sample
    }
    assert all(vote is not None and min(vote, 1 - vote) < 1e-6 for vote in votes)
    assert len({round(vote) for vote in votes if vote is not None}) == 2


async def test_a_budget_holds_over_a_bad_endpoint(problem_file: Path) -> None:
    with Running(*SIMULATED, "--fail", "0.2", "--cut", "0.2") as server:
        config = settings(server) | {"budget": {"per_problem": {"tokens": 9000}}}
        outcomes, _ = await solve(config, problem_file)
    assert all(0 < outcome.total.tokens <= 9000 for outcome in outcomes)
