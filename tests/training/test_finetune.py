"""Fine-tuning through the command: it learns, resumes to the bit, goes through adapters and processes, and says no."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState, TrainingArguments

from tts_engine.backends.embedded import embedded_path
from tts_engine.backends.factory import checkpoint_params
from tts_engine.cli.train import main
from tts_engine.formats import genprm, prm
from tts_engine.verifiers.training import model as checkpoints
from tts_engine.verifiers.training import verifier_data
from tts_engine.verifiers.training.domain import first_error
from tts_engine.verifiers.training.embedded import GENPRM_PARAMS
from tts_engine.verifiers.training.finetune import CHECKPOINTS, finished_checkpoint
from tts_engine.verifiers.training.watch import Watch, read_log

SETTINGS = {
    "precision": "fp32",
    "max_length": 512,
    "batch": 8,
    "max_steps": 4,
    "every": 2,
    "rate": 5e-3,
    "held_out": 0.1,
}


def conversation(rng: random.Random, number: int) -> dict[str, Any]:
    attempt = verifier_data.synthetic(rng)
    steps = attempt.steps
    error = first_error(attempt.story, steps)
    texts: list[str] = []
    for index in range(len(steps) if error is None else error + 1):
        turn = verifier_data.turn_of(rng, attempt.story, steps, index)
        parts = genprm.turn_segments(index, turn.analysis, turn.code, turn.output, turn.judgement)
        texts.append("".join(part.text for part in parts))
    messages = genprm.conversation(attempt.story.text, steps[: len(texts)], tuple(texts[:-1]))
    lines = [{"role": m.role, "content": m.content, "train": m.role == "assistant"} for m in messages]
    return {"id": f"c{number}", "messages": [*lines, {"role": "assistant", "content": texts[-1], "train": True}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "conversations.jsonl"
    rng = random.Random(3)
    path.write_text("".join(json.dumps(conversation(rng, i)) + "\n" for i in range(60)))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the embedded shape that has learnt nothing."""
    path = tmp_path_factory.mktemp("base") / "model"
    tokenizer = AutoTokenizer.from_pretrained(embedded_path("embedded:genprm"))
    card = {"form": "genprm", "version": genprm.FORMAT_VERSION, "params": GENPRM_PARAMS}
    checkpoints.save(checkpoints.new_model(tokenizer, 0), tokenizer, path, **card)
    return path


def sft(model: str | Path, data: Path, *arguments: str | Path, **settings: object) -> int:
    changes = [f"--set={key}={json.dumps(value)}" for key, value in (SETTINGS | settings).items()]
    return main(["sft", "--model", str(model), "--data", str(data), *map(str, arguments), *changes])


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / CHECKPOINTS / f"checkpoint-{step}" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """A run from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert sft(base, data, "--out", out) == 0
    return out


def interrupt_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the step after `step`, the first time it is reached."""
    original = Watch.on_step_begin

    def press(
        self: Watch, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        if state.global_step == step and not self.interrupted:
            signal.raise_signal(signal.SIGINT)
        original(self, args, state, control, **more)

    patch.setattr(Watch, "on_step_begin", press)


def test_training_lowers_the_losses_and_leaves_a_checkpoint_for_every_backend(whole: Path) -> None:
    log = read_log(whole / "log.jsonl")
    losses = [line["loss"] for line in log if "loss" in line]
    held_out = [line["held_out_loss"] for line in log if "held_out_loss" in line]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4]
    assert len(held_out) == 3  # before training, and every two steps
    assert losses[-1] < 0.8 * losses[0]
    assert held_out[-1] < held_out[1] < held_out[0]
    card = json.loads((whole / "model" / "tts_format.json").read_text())
    assert (card["format"], card["version"]) == ("genprm", genprm.FORMAT_VERSION)
    assert checkpoint_params(str(whole / "model"), "genprm", genprm.FORMAT_VERSION) == GENPRM_PARAMS
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    assert model.dtype == torch.bfloat16  # as it came
    report = (whole / "report.md").read_text()
    assert "held-out loss" in report
    assert (whole / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_held_out_loss_is_the_mean_over_its_tokens(whole: Path, base: Path, data: Path) -> None:
    from tts_engine.verifiers.training.encode import IGNORE
    from tts_engine.verifiers.training.prepare import prepare
    from tts_engine.verifiers.training.recipe import read_recipe

    prepared = prepare(str(base), data, read_recipe(None, SETTINGS), tokenizer=None, count=1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    total, count = 0.0, 0
    assert prepared.held_out is not None
    with torch.no_grad():
        for row in (prepared.held_out[i] for i in range(len(prepared.held_out))):
            logits = model(
                input_ids=row["input_ids"][None], position_ids=row["position_ids"][None], use_cache=False
            ).logits[0]
            total += torch.nn.functional.cross_entropy(logits, row["labels"], reduction="sum").item()
            count += int((row["labels"] != IGNORE).sum())
    assert read_log(whole / "log.jsonl")[0]["held_out_loss"] == pytest.approx(total / count, rel=1e-5)


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    whole: Path,
    base: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        assert sft(base, data, "--out", out) == 130
    assert "--resume" in capsys.readouterr().err
    assert finished_checkpoint(out) == out / CHECKPOINTS / "checkpoint-3"
    half = out / CHECKPOINTS / "checkpoint-9"  # as a killed process leaves it
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"")
    assert sft(base, data, "--out", out, "--resume") == 0
    assert same(weights(out, 4), weights(whole, 4))
    assert not same(weights(out, 4), weights(out, 3))
    moments = [torch.load(run / CHECKPOINTS / "checkpoint-4" / "optimizer.pt")["state"] for run in (out, whole)]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])
    logs = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(r / "log.jsonl")] for r in (out, whole)
    ]
    assert logs[0] == logs[1]
    assert (out / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_adapters_are_trained_alone_and_merged(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert sft(base, data, "--out", out, method="lora", **{"lora.rank": 4, "precision": "bf16"}) == 0
    plan = json.loads((out / "run.json").read_text())["plan"]
    assert 0 < plan["trained"] < 0.1 * plan["parameters"]
    adapters = load_file(out / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in adapters.values()) == plan["trained"]
    base = load_file(base / "model.safetensors")
    merged = load_file(out / "model" / "model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed
    assert all("proj" in name for name in changed)
    log = read_log(out / "log.jsonl")
    assert log[-1]["held_out_loss"] < log[0]["held_out_loss"]


def test_checkpointing_and_accumulation_change_nothing_but_rounding(
    whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert sft(base, data, "--out", out, gradient_checkpointing=True, rows=2, held_out=0.1) == 0
    for name, value in weights(out, 4).items():
        assert torch.allclose(value, weights(whole, 4)[name], atol=2e-3), name


def test_early_stopping_keeps_the_best(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert sft(base, data, "--out", out, rate=0.3, patience=1, max_steps=20, schedule="constant") == 0
    held_out = [
        (line["step"], line["held_out_loss"]) for line in read_log(out / "log.jsonl") if "held_out_loss" in line
    ]
    assert held_out[-1][0] < 20
    assert held_out[-1][1] > held_out[-2][1]


def test_two_processes_take_the_steps_of_one(whole: Path, base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "-m", "tts_engine.cli.train"]
    command = [sys.executable, *launch, "sft", "--model", base, "--data", data, "--out", out, *changes]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = read_log(out / "log.jsonl"), read_log(whole / "log.jsonl")
    for name in ("loss", "held_out_loss"):
        ours, theirs = ([line[name] for line in log if name in line] for log in (first, second))
        assert ours == pytest.approx(theirs, rel=0.02)


def test_a_full_disk_loses_nothing(
    whole: Path, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of more than 1 MB cannot be written for a while: what is saved in part is not taken for a checkpoint."""
    out = tmp_path / "run"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        assert sft(base, data, "--out", out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "make room, then go on with --resume" in capsys.readouterr().err
    assert sft(base, data, "--out", out, "--resume") == 0
    assert same(weights(out, 4), weights(whole, 4))
    shutil.rmtree(out / "model")  # as if the disk had been full at the very end
    assert sft(base, data, "--out", out, "--resume") == 0
    assert (out / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_a_discriminative_prm_is_trained_by_the_same_command(tmp_path: Path) -> None:
    """Taught that every step is bad, it comes to expect that."""
    pairs = [(a, a % 7 + 11) for a in range(20, 60)]
    lines = [
        {"id": a, "problem": f"{a} + {b}?", "steps": [f"Step 1: {a}+{b}={a + b}."], "labels": [0]} for a, b in pairs
    ]
    (tmp_path / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert sft("embedded:prm", tmp_path / "steps.jsonl", "--out", tmp_path / "run", format="prm", rate=1e-3) == 0
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert log[-1]["held_out_loss"] < 0.8 * log[0]["held_out_loss"]
    assert checkpoint_params(str(tmp_path / "run" / "model"), "prm", prm.FORMAT_VERSION) == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is no training example"),
        ('{"id": "a", "messages": [{"role": "user", "content": "x"}]}', "none of the 1 examples"),
        ('{"id": "a", "messages": [{"role": "robot", "content": "x"}]}', "a role is one of system, user, assistant"),
        ('{"id": "a", "messages": [{"role": "assistant", "content": "x"}]}', "begins with what the model is asked"),
        ('{"id": "a", "problem": "x", "steps": ["y"], "labels": [1]}', "format=genprm cannot learn"),
        ('{"id": "a", "problem": "x", "steps": ["y"]}', "it lacks 'labels'"),
        ("", "is empty"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_one_sentence(
    tmp_path: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.jsonl").write_text(line)
    assert sft("embedded:genprm", tmp_path / "data.jsonl", "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_format_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft("embedded:policy", data, "--out", tmp_path / "run") == 2
    assert "was trained on format policy 1, not genprm 1" in capsys.readouterr().err


def test_a_folder_is_used_for_one_run_only(
    whole: Path, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, settings, message in [
        (["--out", whole], {}, "is not empty"),
        (["--out", whole, "--resume"], {"rate": 1e-4}, "was begun with another rate"),
        (["--out", whole, "--resume"], {}, "is finished"),
        (["--out", tmp_path / "none", "--resume"], {}, "holds no run to go on with"),
    ]:
        assert sft(base, data, *arguments, **settings) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "speed=3"], "unknown key speed"),
        (["--set", "rate=-1"], "the recipe's rate=-1 makes no sense"),
        (["--set", "rate"], "has no value"),
        (["--recipe", "nowhere.yaml"], "is no recipe"),
        (["--model", "nowhere"], "no config.json"),
        (["--set", "attention=magic"], "cannot load the model"),
        (["--set", "method=lora", "--set", "lora.targets=[nothing]"], "fits no module"),
        (["--resume", "--dry-run"], "leave --resume out"),
        (["--devices", "2"], "only plan"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(
    data: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sft", "--model", "embedded:genprm", "--data", str(data), "--out", str(tmp_path / "run"), *arguments]
    assert main(given) == 2
    assert message in capsys.readouterr().err
