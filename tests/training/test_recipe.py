"""`tts-train embedded`: the whole recipe in miniature, and what it says to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tts_engine.cli.train import main
from tts_engine.verifiers.training.embedded import ROLLOUTS, load_recipe, read_rollouts

TINY = """\
vocabulary: {stories: 200}
policy: {tokens: 8192, rate: 0.008}
rollouts: {stories: 6, per_story: 2}
genprm: {tokens: 8192, rate: 0.005}
prm: {tokens: 8192, rate: 0.005}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "tiny.yaml").write_text(TINY)
    arguments = ["embedded", "--out", str(folder / "out"), "--recipe", str(folder / "tiny.yaml"), "--device", "cpu"]
    for stage in ("problems", "tokenizer", "policy", "rollouts", "genprm", "prm"):
        assert main([*arguments, "--stage", stage]) == 0
    return folder / "out"


def test_every_stage_leaves_its_part(made: Path) -> None:
    for name in ("policy", "genprm", "prm"):
        card = json.loads((made / name / "tts_format.json").read_text())
        assert card["format"] == name
        assert card["seed"] == 0
        assert (made / "logs" / f"{name}.jsonl").is_file()
    assert (made / "problems" / "arith-test.jsonl").is_file()


def test_a_stage_gives_the_same_files_again(made: Path, tmp_path: Path) -> None:
    weights = made / "prm" / "model.safetensors"
    before = weights.read_bytes()
    (tmp_path / "tiny.yaml").write_text(TINY)
    arguments = ["embedded", "--out", str(made), "--recipe", str(tmp_path / "tiny.yaml"), "--device", "cpu"]
    assert main([*arguments, "--stage", "prm"]) == 0
    assert weights.read_bytes() == before


def test_rollouts_of_another_seed_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"number": i, "id": "arith-1-0", "steps": ["Step 1: 1+1=2."]}) for i in range(3)]
    for name in ("tokenizer",):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / ROLLOUTS).write_text("\n".join(lines))
    assert main(["embedded", "--out", str(tmp_path), "--stage", "genprm"]) == 2
    assert "other stories" in capsys.readouterr().err
    assert all(attempt.steps for attempt in read_rollouts(made / ROLLOUTS, seed=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "0"], "above 0"),
        (["--stage", "genprm"], "earlier stages"),
        (["--recipe", "nowhere.yaml"], "no recipe"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embedded", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_recipe_with_other_keys_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text(TINY.replace("stories: 6", "storys: 6"))
    assert main(["embedded", "--out", str(tmp_path / "o"), "--recipe", str(tmp_path / "bad.yaml")]) == 2
    assert "sections and keys" in capsys.readouterr().err


def test_the_packages_recipe_is_complete() -> None:
    assert set(load_recipe()) == {"vocabulary", "policy", "rollouts", "genprm", "prm"}
