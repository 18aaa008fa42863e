"""The whole pipeline through its commands, on the embedded models and on simulated ones."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tts_engine.backends.arithmetic import Task
from tts_engine.cli.train import main
from tts_engine.cli.training import load_settings, stages
from tts_engine.types import Key
from tts_engine.verifiers.training import rolling
from tts_engine.verifiers.training.labels import exact_labels
from tts_engine.verifiers.training.manifest import Folder

ORDER = ("problems", "sample", "rollouts", "label", "rationales", "filter", "refinements", "fit", "prm", "eval")
TINY: dict[str, Any] = {
    "seed": 3,
    "problems": {"source": "stories", "limit": 6},
    "sample": {"per_problem": 8, "keep": 2},
    "rollouts": {"k": 8, "stop": "rpe"},
    "label": {"method": "rpe"},
    "rationales": {"teacher": "procedural"},
    "filter": {},
    "refinements": {},
    "fit": {"tokens": 4096},
    "prm": {"tokens": 4096},
    "eval": {"limit": 2, "n": 2},
}


def write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    config = write(folder / "tiny.yaml", TINY)
    assert main(["genprm", "--config", str(config), "--out", str(folder / "out")]) == 0
    return folder


def test_one_command_leaves_every_stage_with_its_manifest(made: Path) -> None:
    folder = Folder(made / "out")
    assert all(folder.facts(name)["identity"]["seed"] == 3 for name in ORDER)
    assert not list((made / "out").glob(".*"))
    card = json.loads((made / "out" / "genprm" / "tts_format.json").read_text())
    assert (card["format"], card["params"]["generation_prompt"]) == ("genprm", True)
    assert {record["model"] for record in folder.read("eval")} == {"genprm", "prm"}
    assert all(0 <= record["weighted"]["value"] <= 1 for record in folder.read("eval"))


def test_labels_end_at_the_first_bad_step_and_agree_mostly_with_the_checker(made: Path) -> None:
    folder = Folder(made / "out")
    exact = exact_labels(folder.read("problems"), folder.read("sample"))
    labels = {record["id"]: tuple(record["labels"]) for record in folder.read("label")}
    assert labels.keys() == exact.keys()
    assert all(all(found[:-1]) for found in labels.values())
    assert sum(labels[name] == exact[name] for name in labels) > len(labels) / 2


def test_conversations_hold_executed_checks_that_agree_with_their_judgements(made: Path) -> None:
    for record in Folder(made / "out").read("filter"):
        turns = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
        assert turns
        for turn in turns:
            assert ("True\n```" in turn) == ("\\boxed{Yes}" in turn)


def test_a_second_command_finds_everything_done(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.stat().st_mtime_ns for path in (made / "out").iterdir()}
    assert main(["genprm", "--config", str(made / "tiny.yaml"), "--out", str(made / "out")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (made / "out").iterdir()} == files
    assert "kept" in capsys.readouterr().err


def test_interrupted_rollouts_go_on_and_end_in_the_same_file(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(made, tmp_path)
    arguments = ["rollouts", "--config", str(made / "tiny.yaml"), "--out", str(tmp_path)]
    original, calls = rolling.roll, []

    async def interrupted(*args: Any) -> Any:  # noqa: ANN401
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return await original(*args)

    monkeypatch.setattr(rolling, "roll", interrupted)
    assert main([*arguments, "--set", "concurrency=1"]) == 130
    assert not (tmp_path / "rollouts.jsonl").exists()
    assert len((tmp_path / ".rollouts.partial.jsonl").read_text().splitlines()) == 3
    monkeypatch.setattr(rolling, "roll", original)
    assert main(arguments) == 0
    assert (tmp_path / "rollouts.jsonl").read_bytes() == (made / "out" / "rollouts.jsonl").read_bytes()


def copied(made: Path, tmp_path: Path) -> Folder:
    for name in ("problems", "sample"):
        for path in (made / "out").glob(f"{name}*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return Folder(tmp_path)


def test_rollouts_of_another_folder_are_not_paid_again(made: Path, tmp_path: Path) -> None:
    counts, calls = {}, {}
    for name, given in {"drawn": {}, "reused": {"reuse": str(made / "out")}}.items():
        (tmp_path / name).mkdir()
        folder = copied(made, tmp_path / name)
        config = write(tmp_path / "c.yaml", {**TINY, "rollouts": {"k": 8, "stop": "rpe", "threshold": 0.5} | given})
        assert main(["rollouts", "--config", str(config), "--out", str(folder.path)]) == 0
        counts[name] = [(entry["id"], entry["counts"]) for entry in folder.read("rollouts")]
        calls[name] = folder.facts("rollouts")["usage"]["calls"]
    assert counts["reused"] == counts["drawn"]
    assert calls["reused"] < calls["drawn"] / 2


def test_rollouts_of_another_completer_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(made, tmp_path)
    changed = {"k": 8, "reuse": str(made / "out"), "model": {"temperature": 0.3}}
    config = write(tmp_path / "c.yaml", {**TINY, "rollouts": changed})
    assert main(["rollouts", "--config", str(config), "--out", str(tmp_path)]) == 2
    assert "cannot be reused here: sampling.temperature: 0.7 there, 0.3 now" in capsys.readouterr().err


@pytest.fixture
def simulated(tmp_path: Path) -> dict[str, Any]:
    """A pipeline for any problems: simulated policy, completer and sampled teacher."""
    task = {"error_rate": 0.25}
    found = [Task(**task).problem(Key(5, (i,)), steps=3) for i in range(8)]  # type: ignore[arg-type]
    lines = [json.dumps({"id": f"p{i}", "problem": p.prompt, "answer": p.answer}) for i, p in enumerate(found)]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    model = {"backend": "simulated", "model": "m", "options": {"task": task}, "max_tokens": 400}
    return {
        "problems": {"source": str(tmp_path / "problems.jsonl")},
        "sample": {"model": model, "per_problem": 16},
        "rollouts": {"model": model, "k": 16, "stop": "zero"},
        "label": {"method": "rpe"},
        "rationales": {"teacher": "sampled", "model": model, "attempts": 3},
        "filter": {"balance": None},
        "refinements": {},
    }


def run(settings: dict[str, Any], tmp_path: Path, out: str = "out") -> int:
    return main(["genprm", "--config", str(write(tmp_path / "c.yaml", settings)), "--out", str(tmp_path / out)])


def test_any_backend_and_a_sampled_teacher_serve(simulated: dict[str, Any], tmp_path: Path) -> None:
    assert run(simulated, tmp_path) == 0
    folder = Folder(tmp_path / "out")
    counts = folder.facts("filter")["counts"]
    labels = {record["id"]: record["labels"] for record in folder.read("label")}
    for record in folder.read("filter"):
        said = ["\\boxed{Yes}" in m["content"] for m in record["messages"] if m["role"] == "assistant"]
        assert said == labels[record["id"]]  # consensus
    assert sum(counts["kept"].values()) == len(folder.read("filter")) > 0
    assert folder.facts("rationales")["usage"]["tokens"] > 0
    assert folder.facts("rollouts")["models"]["completer"]


@pytest.mark.parametrize(
    ("stop", "method", "fits"),
    [
        ("never", "soft", True),
        ("right", "hard", True),
        ("halves", "omega", True),
        ("right", "rpe", False),
        ("rpe", "soft", False),
    ],
)
def test_labels_need_the_rollouts_they_were_made_for(
    stop: str, method: str, fits: bool, simulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {name: simulated[name] for name in ("problems", "sample", "rollouts")}
    settings |= {"rollouts": {**simulated["rollouts"], "stop": stop}, "label": {"method": method}}
    assert run(settings, tmp_path) == (0 if fits else 2)
    if fits:
        assert all(len(record["labels"]) for record in Folder(tmp_path / "out").read("label"))
    else:
        assert "labels need rollouts with stop:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smaple": {}}, "did you mean 'sample'"),
        ({"sample": {"n": 3}}, "stage sample has no parameter 'n'"),
        ({"label": {"method": "magic"}}, "stage label: method='magic' is wrong"),
        ({"label": {"threshold": 0.5}, "rollouts": {"stop": "rpe"}}, "give both stages the same threshold"),
        ({"seed": -1}, "seed=-1 is wrong"),
        ({"filter": 3}, "the section filter must hold keys"),
        ({"rationales": {"teacher": "procedural"}}, "no story of the embedded domain"),
        ({"rationales": {"teacher": "sampled", "params": {"rounds": 3}}}, "rationales.params: "),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    change: dict[str, Any],
    message: str,
    simulated: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rollouts = simulated["rollouts"] | change.pop("rollouts", {})
    assert run({**simulated, "rollouts": rollouts, **change}, tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_changed_settings_are_refused_until_the_stage_is_made_again(
    simulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {name: simulated[name] for name in ("problems", "sample")}
    assert run(settings, tmp_path) == 0
    settings["sample"]["per_problem"] = 12
    assert run(settings, tmp_path) == 2
    assert "per_problem: 16 there, 12 now" in capsys.readouterr().err
    again = ["sample", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"), "--again"]
    assert main(again) == 0


def test_a_backend_that_fails_costs_problems_and_many_failures_the_stage(
    simulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {name: simulated[name] for name in ("problems", "sample", "rollouts")}
    model = simulated["rollouts"]["model"]
    failing = {**model, "options": {**model["options"], "failure_rate": 0.05}}
    assert run({**settings, "rollouts": {**simulated["rollouts"], "model": failing}}, tmp_path) == 1
    assert "problems failed, such as: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "rollouts.jsonl").exists()


def test_rollouts_share_prefixes_and_do_not_depend_on_how_many_problems_run_at_once(
    simulated: dict[str, Any], tmp_path: Path
) -> None:
    settings = {name: simulated[name] for name in ("problems", "sample", "rollouts")}
    assert run({**settings, "concurrency": 1}, tmp_path, "one") == 0
    assert run({**settings, "concurrency": 8}, tmp_path, "many") == 0
    one, many = ((tmp_path / name / "rollouts.jsonl").read_bytes() for name in ("one", "many"))
    assert one == many
    for record in Folder(tmp_path / "one").read("rollouts"):
        prefixes = [tuple(node["prefix"]) for node in record["nodes"]]
        assert len(set(prefixes)) == len(prefixes)
        assert all(len(node["draws"]) <= 16 for node in record["nodes"])


def test_a_draw_is_made_once_whoever_asks() -> None:
    made: list[int] = []

    class Counting(rolling.Draws):
        async def _draw(self, prefix: tuple[str, ...], number: int) -> bool:
            made.append(number)
            return number % 2 == 0

    async def ask() -> tuple[list[bool], list[bool]]:
        draws = Counting(backend=None, name="", problem={}, sampling=None, key=Key(0))  # type: ignore[arg-type]
        first, second = await asyncio.gather(draws.first(("a",), 3), draws.first(("a",), 5))
        return first, second

    first, second = asyncio.run(ask())
    assert second[:3] == first == [True, False, True]
    assert sorted(made) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs").glob("train-*.yaml")), ids=lambda p: p.stem
)
def test_the_shipped_configurations_are_sound(path: Path) -> None:
    assert {"problems", "sample", "rollouts", "label", "rationales", "filter"} <= load_settings(path, [], stages())[
        "stages"
    ].keys()
