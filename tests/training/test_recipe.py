"""`tts-train embedded`: the whole recipe in miniature, and what it says to bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tts_engine.cli.train import main
from tts_engine.verifiers.training.embedded import Job, load_recipe, verifier_sections
from tts_engine.verifiers.training.manifest import Folder

# The policy that so few tokens make solves nothing: solutions come from the package's.
TINY = """\
vocabulary: {stories: 200}
policy: {tokens: 8192, rate: 0.008}
verifiers:
  problems: {source: stories, limit: 6}
  sample: {model: {model: "embedded:policy"}, per_problem: 4, keep: 2}
  rollouts: {model: {model: "embedded:policy", temperature: 0.7}, k: 4}
  label: {method: rpe}
  rationales: {teacher: procedural}
  filter: {consensus: false}
  fit: {tokens: 8192, rate: 0.005}
  prm: {tokens: 8192, rate: 0.005}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "tiny.yaml").write_text(TINY)
    arguments = ["embedded", "--out", str(folder / "out"), "--recipe", str(folder / "tiny.yaml"), "--device", "cpu"]
    for stage in ("problems", "tokenizer", "policy", "verifiers"):
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
    shutil.rmtree(made / "prm")
    (made / "verifiers" / "prm.manifest.json").unlink()
    arguments = ["embedded", "--out", str(made), "--recipe", str(tmp_path / "tiny.yaml"), "--device", "cpu"]
    assert main([*arguments, "--stage", "verifiers"]) == 0
    assert weights.read_bytes() == before


def test_the_verifiers_come_from_rollouts(made: Path) -> None:
    folder = Folder(made / "verifiers")
    assert folder.facts("label")["identity"]["params"]["method"] == "rpe"
    assert (made / "genprm" / "model.safetensors").read_bytes() == (
        made / "verifiers" / "genprm" / "model.safetensors"
    ).read_bytes()
    kept = json.loads((made / "logs" / "verifiers.json").read_text())
    assert list(kept) == ["problems", "sample", "rollouts", "label", "rationales", "filter", "fit", "prm"]
    assert kept["rollouts"]["counts"]["rollouts"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "0"], "above 0"),
        (["--stage", "verifiers"], "earlier stages"),
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
    (tmp_path / "bad.yaml").write_text(TINY.replace("vocabulary: {stories", "vocabulary: {storys"))
    assert main(["embedded", "--out", str(tmp_path / "o"), "--recipe", str(tmp_path / "bad.yaml")]) == 2
    assert "sections and keys" in capsys.readouterr().err


def test_the_packages_recipe_is_complete() -> None:
    assert set(load_recipe()) == {"vocabulary", "policy", "verifiers"}


def test_solutions_and_rollouts_come_from_the_policy_that_was_made(tmp_path: Path) -> None:
    sections = verifier_sections(Job(out=tmp_path, seed=0, recipe=load_recipe(), scale=0.01))
    for stage in ("sample", "rollouts"):
        assert sections[stage]["model"]["model"] == str(tmp_path / "policy")
    assert sections["rollouts"]["model"]["temperature"] == 0.7
    assert (sections["problems"]["limit"], sections["fit"]["tokens"]) == (40, 40_000)


def test_a_wrong_value_is_found_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text(TINY.replace("per_problem: 4", "per_problem: 0"))
    assert main(["embedded", "--out", str(tmp_path / "o"), "--recipe", str(tmp_path / "bad.yaml")]) == 2
    assert "per_problem" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
