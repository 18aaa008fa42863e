"""On a real Ray cluster of two nodes on this machine: the same outcomes, lost workers and nodes, interruption."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.shells import interruptible
from tts_engine import Engine
from tts_engine.config import Config
from tts_engine.errors import ConfigError, DataError
from tts_engine.jobs import Event
from tts_engine.resolving import resolved
from tts_engine.scaleout.cluster import LOOPBACK, Cluster, Hand, Need, loopback
from tts_engine.scaleout.fleet import Fleet
from tts_engine.types import Outcome, Problem, Usage

from .conftest import MakeConfig, plain_outcomes

# Ray leaves sockets and files of its own open.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.timeout(120)]
SLOW = {"clock": "real", "speed": 0.5}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU each."""
    from ray.cluster_utils import Cluster as Nodes

    with loopback():
        nodes = Nodes(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        nodes.add_node(**NODE)
        yield nodes  # within: Ray takes 127.0.0.1 for the machine's other address elsewhere
        nodes.shutdown()


async def run(fleet: Fleet, problems: list[Problem], **options: Any) -> dict[str, Outcome]:  # noqa: ANN401
    return {outcome.problem.id: outcome async for outcome in fleet.run(problems, **options)}


async def ready(fleet: Fleet, workers: int) -> None:
    while len(fleet.workers) < workers:
        await asyncio.sleep(0.05)


def after(calls: int, act: Callable[[], Any]) -> Callable[[Event], None]:
    """Listens to a run, and acts once when so many calls were made."""
    left = iter(range(calls))

    def on_event(event: Event) -> None:
        if event.kind == "call" and next(left, None) == calls - 1:
            act()

    return on_event


def journal_usage(path: Path) -> Usage:
    """What the journal says was computed; no call may stand in it twice."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT key FROM calls GROUP BY role, model, key HAVING count(*) > 1").fetchall() == []
        paid = database.execute(
            "SELECT total(prompt), total(cached), total(completion), count(*) FROM calls"
        ).fetchone()
        lost = database.execute("SELECT total(prompt), total(cached), total(cancelled), count(*) FROM lost").fetchone()
    prompt, cached, completion, calls = map(int, paid)
    lost_prompt, lost_cached, cancelled, broken = map(int, lost)
    return Usage(
        prompt=prompt + lost_prompt,
        cached=cached + lost_cached,
        completion=completion,
        cancelled=cancelled,
        calls=calls + broken,
    )


def counts(usage: Usage) -> tuple[int, ...]:
    return usage.prompt, usage.cached, usage.completion, usage.cancelled, usage.calls


@pytest.mark.parametrize("budget", [{}, {"tokens": 40_000, "per_problem": {"tokens": 3_000}}])
async def test_outcomes_are_those_of_a_run_without_ray(
    cluster: Any,  # noqa: ANN401
    make_config: MakeConfig,
    problems: list[Problem],
    tmp_path: Path,
    budget: dict[str, Any],
) -> None:
    config = make_config(budget=budget)
    reference = await plain_outcomes(config)
    async with Engine(config) as engine:
        plain = {outcome.problem.id: outcome async for outcome in engine.baseline(problems, 4)}
    path = tmp_path / "journal.sqlite"
    async with Fleet(config, cluster.address, journal=path, problems=len(problems)) as fleet:
        await ready(fleet, 2)
        outcomes = await run(fleet, problems)
        assert outcomes == reference
        assert [outcomes[p.id].tree for p in problems] == [reference[p.id].tree for p in problems]
        assert counts(fleet.ledger.total) == counts(journal_usage(path))
        assert fleet.ledger.total.tokens == sum(outcome.total.tokens for outcome in reference.values())
        assert {outcome.problem.id: outcome async for outcome in fleet.baseline(problems, 4)} == plain
        report = fleet.report()
    assert (report["workers"], sum(report["started"].values()), report["lost"]) == (2, 2, [])


async def test_the_embedded_models_give_the_same_answers(cluster: Any) -> None:  # noqa: ANN401
    from tts_engine.problems import load_problems

    problems = load_problems("arith-dev")[:4]
    config = resolved(Config.build({"strategy": {"name": "best-of-n", "n": 4}, "verifier": {"samples": 1}}))
    async with Engine(config) as engine:
        reference = {outcome.problem.id: outcome async for outcome in engine.run(problems)}
    async with Fleet(config, cluster.address, problems=len(problems)) as fleet:
        outcomes = await run(fleet, problems)
    for name, outcome in outcomes.items():
        assert [j.candidate.text for j in outcome.candidates] == [j.candidate.text for j in reference[name].candidates]
        assert outcome.answer == reference[name].answer


async def test_a_killed_worker_loses_nothing_and_nothing_is_counted_twice(
    cluster: Any,  # noqa: ANN401
    make_config: MakeConfig,
    problems: list[Problem],
    tmp_path: Path,
) -> None:
    config = make_config(SLOW, budget={"tokens": 400_000})
    reference = await plain_outcomes(make_config(budget={"tokens": 400_000}))
    path, said = tmp_path / "journal.sqlite", list[str]()
    async with Fleet(config, cluster.address, journal=path, problems=len(problems), say=said.append) as fleet:
        await ready(fleet, 2)
        victim = fleet.workers[0].pid
        outcomes = await run(fleet, problems, on_event=after(100, lambda: os.kill(victim, signal.SIGKILL)))
        report = fleet.report()
        assert counts(fleet.ledger.total) == counts(journal_usage(path))
    assert {name: outcome.answer for name, outcome in outcomes.items()} == {
        name: outcome.answer for name, outcome in reference.items()
    }
    assert outcomes == reference
    assert len(report["lost"]) == 1
    assert report["moved"] >= 1
    assert report["given_up"] == 0
    assert f"process {victim}) was lost" in said[0]


async def test_a_worker_that_does_not_start_is_replaced_and_not_counted_as_lost(
    cluster: Any,  # noqa: ANN401
    make_config: MakeConfig,
    problems: list[Problem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hire, hired, said = Cluster.hire, list[Hand](), list[str]()

    def hire_one_in_vain(self: Cluster, config: Config, need: Need) -> Hand:
        hired.append(hire(self, config, need))
        if len(hired) == 2:
            hired[-1].dismiss()
        return hired[-1]

    monkeypatch.setattr(Cluster, "hire", hire_one_in_vain)
    config = make_config()
    async with Fleet(config, cluster.address, problems=len(problems), say=said.append) as fleet:
        await ready(fleet, 2)
        assert await run(fleet, problems) == await plain_outcomes(config)
        report = fleet.report()
    assert (len(hired), report["lost"], len(report["not_started"]), report["moved"]) == (3, [], 1, 0)
    assert "did not start" in said[0]


async def test_a_whole_node_may_go(
    cluster: Any,  # noqa: ANN401
    make_config: MakeConfig,
    problems: list[Problem],
    tmp_path: Path,
) -> None:
    with loopback():
        node = cluster.add_node(**NODE)
    config = make_config(SLOW)
    path = tmp_path / "journal.sqlite"
    async with Fleet(config, cluster.address, journal=path, problems=len(problems)) as fleet:
        await ready(fleet, 3)
        outcomes = await run(
            fleet, problems, on_event=after(100, lambda: cluster.remove_node(node, allow_graceful=False))
        )
        report = fleet.report()
        assert counts(fleet.ledger.total) == counts(journal_usage(path))
    assert outcomes == await plain_outcomes(make_config())
    assert (len(report["lost"]), report["given_up"]) == (1, 0)
    assert report["moved"] >= 1


async def test_a_problem_that_kills_every_worker_is_given_up_and_the_others_are_solved(
    cluster: Any,  # noqa: ANN401
    make_config: MakeConfig,
    problems: list[Problem],
) -> None:
    config = make_config(SLOW, ray={"workers": 1}, run={"concurrency": 1})
    async with Fleet(config, cluster.address, problems=2) as fleet:

        def on_event(event: Event) -> None:
            if event.kind == "call" and event.problem == problems[0].id:
                for worker in fleet.workers:
                    os.kill(worker.pid, signal.SIGKILL)

        outcomes = await run(fleet, problems[:2], on_event=on_event)
        report = fleet.report()
    poison, other = outcomes[problems[0].id], outcomes[problems[1].id]
    assert poison.stop_reason == "failed: backend"
    assert [failure.error for failure in poison.failures] == ["WorkerLost"]
    assert poison.total.calls > 0
    assert other.stop_reason == "finished"
    assert (len(report["lost"]), report["given_up"]) == (3, 1)


async def test_bad_input_is_one_sentence(
    cluster: Any,  # noqa: ANN401
    make_config: MakeConfig,
    problems: list[Problem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for config, address, words in (
        (make_config(ray={"workers": 3}), cluster.address, "room for 2 workers"),
        (make_config(ray={"gpus_per_worker": 1.0}), cluster.address, "room for 0 workers"),
        (make_config(), "127.0.0.1:9", "no Ray cluster answers"),
        (make_config(), "ray://127.0.0.1:10001", "HOST:PORT"),
    ):
        with pytest.raises(ConfigError, match=words):
            async with Fleet(config, address, problems=5):
                pass
    with pytest.raises(DataError, match="shorten it"):
        async with Fleet(make_config(), cluster.address, problems=1) as fleet:
            await run(fleet, [replace(problems[0], prompt="1 " * 5000)])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ConfigError, match="no Ray cluster answers"):
        Cluster("auto").__enter__()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="tts-engine\\[ray\\]"):
        Cluster("auto").__enter__()


def test_an_interrupted_run_is_resumed(tmp_path: Path, simulated: dict[str, Any], problem_file: Path) -> None:
    slow = [f"--set={role}.options.{key}={value}" for role in ("policy", "verifier") for key, value in SLOW.items()]
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(simulated))
    command = [sys.executable, "-m", "tts_engine.cli.run", "--quiet", "--no-baseline"]
    start = [
        *command,
        "--ray=auto",
        f"--config={config}",
        *slow,
        f"--dataset={problem_file}",
        f"--out={tmp_path / 'run'}",
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", LOOPBACK)}
    environment["RAY_TMPDIR"] = str(tmp_path)  # where no cluster is known: one is started for the run
    running = subprocess.Popen(
        start,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,
    )
    journal = tmp_path / "run" / "journal.sqlite"
    while calls(journal) < 40:
        assert running.poll() is None
        time.sleep(0.05)
    assert reachable_ports(running.pid) == []
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: Ray's processes get it too
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Go on with: tts-run --resume" in errors.replace("\n", " ")
    before = calls(journal)
    again = subprocess.run(
        [*command, "--resume", str(tmp_path / "run")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (again.returncode, again.stderr) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["complete"]
    assert calls(journal) == sum(spent["calls"] for spent in summary["usage"].values()) > before >= 40


def calls(journal: Path) -> int:
    """Finished calls in the file; 0 while it is not there."""
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM calls").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def reachable_ports(root: int) -> list[int]:
    """Ports that a process or one below it listens on, and that other machines can reach."""
    inodes = {link for pid in descendants(root) for link in sockets(pid)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            host, port = fields[1].split(":")
            mine = fields[3] == "0A" and fields[9] in inodes  # 0A: listening
            if mine and not host.endswith("0100007F") and host != "0" * 24 + "01000000":
                found.append(int(port, 16))
    return found


def descendants(root: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return list(family)


def sockets(pid: int) -> list[str]:
    links = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            links.append(target[8:-1])
    return links


async def test_a_run_begun_without_ray_goes_on_with_it(
    cluster: Any,  # noqa: ANN401
    make_config: MakeConfig,
    problems: list[Problem],
    tmp_path: Path,
) -> None:
    path, config = tmp_path / "journal.sqlite", make_config()
    async with Engine(config, journal=path) as engine:
        begun = [outcome async for outcome in engine.run(problems[:4])]
    paid = journal_usage(path)
    async with Fleet(config, cluster.address, journal=path, resume=True, problems=len(problems)) as fleet:
        outcomes = await run(fleet, problems)
        assert counts(fleet.ledger.total) == counts(journal_usage(path))
    assert [outcomes[outcome.problem.id] for outcome in begun] == begun
    assert outcomes == await plain_outcomes(config)
    assert journal_usage(path).calls == sum(outcome.total.calls for outcome in outcomes.values()) > paid.calls
