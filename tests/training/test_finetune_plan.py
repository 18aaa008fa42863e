"""Packing, the estimate of what a run takes, and the recipes that come with the repository."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from tts_engine.backends.embedded import embedded_path
from tts_engine.backends.shapes import shape_of
from tts_engine.cli.train import main
from tts_engine.compute.cost import call_flops
from tts_engine.verifiers.training.encode import IGNORE
from tts_engine.verifiers.training.estimate import PROBES, expected, make_plan, measure, saved_bytes, weigh
from tts_engine.verifiers.training.finetune import summed_loss, token_loss
from tts_engine.verifiers.training.masks import Sample
from tts_engine.verifiers.training.packing import Collator, Rows, blind, pack, shares
from tts_engine.verifiers.training.recipe import Recipe, parse_change, read_recipe

CONFIGS = Path(__file__).parents[2] / "configs"
QWEN = {"hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 131072}
SHAPES = {  # config.json of DeepSeek-R1-Distill-Qwen, of which GenPRM is made
    "1.5b": Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, **QWEN,
    ),
    "7b": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, **QWEN,
    ),
}  # fmt: skip


def sample(length: int, group: str = "g", seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 500, length).astype(np.int32)
    targets = np.append(ids[1:], IGNORE).astype(np.int32)
    targets[: length // 2] = IGNORE
    return Sample(f"{group}-{seed}", group, ids, targets)


def small(kind: str = "llama") -> Any:  # noqa: ANN401 - a model class of transformers
    torch.manual_seed(0)
    if kind == "gpt2":
        config: Any = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=256)
    else:
        config = LlamaConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.config.use_cache = False
    return model


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40))
def test_packing_places_every_document_once_and_wastes_less_than_half(lengths: list[int]) -> None:
    rows = pack(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    fills = [sum(lengths[i] for i in row) for row in rows]
    assert all(fill <= 50 for fill in fills)
    assert sum(fill * 2 <= 50 for fill in fills) <= 1  # two such rows would have been one
    assert rows == pack(lengths, 50)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_documents_have_the_logits_that_they_have_alone(kind: str) -> None:
    model = small(kind)
    samples = [sample(n, seed=n) for n in (13, 29, 17, 22)]
    rows = Rows(samples, 64, packing=True)
    batch = Collator(model, pad=0)([rows[i] for i in range(len(rows))])
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
        alone = {len(s.ids): model(input_ids=torch.from_numpy(s.ids)[None].long()).logits[0] for s in samples}
    for row, logits in enumerate(packed):
        starts = [int(i) for i in (batch["position_ids"][row] == 0).nonzero()]
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            own = logits[start:end]
            if len(own) in alone:
                assert torch.allclose(own, alone[len(own)], atol=1e-5)
    assert sum(len(rows[i]["input_ids"]) for i in range(len(rows))) == 81
    assert blind(model, 512)


def test_a_model_that_mixes_packed_documents_is_found_out() -> None:
    model = small()
    model.config.use_cache = True  # then transformers takes a row for one document
    assert not blind(model, 512)


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_is_that_of_the_documents_one_by_one(packing: bool) -> None:
    model = small()
    samples = [sample(n, seed=n) for n in (13, 29, 17, 22)]
    rows = Rows(samples, 64, packing=packing)
    batch = Collator(model, pad=0)([rows[i] for i in range(len(rows))])
    labels = batch.pop("labels")
    total, count = 0.0, 0
    with torch.no_grad():
        outputs = model(**batch)
        assert outputs.logits.shape[1] == len(batch["logits_to_keep"]) < labels.shape[1]
        for one in samples:
            logits = model(input_ids=torch.from_numpy(one.ids)[None].long()).logits[0]
            total += summed_loss(logits, torch.from_numpy(one.targets).long()).item()
            count += one.learnt
    assert token_loss(outputs, labels).item() == pytest.approx(total / count, rel=1e-5)
    assert token_loss(outputs, labels, 2 * count).item() == pytest.approx(total / count / 2, rel=1e-5)


def test_the_summed_loss_is_cross_entropy_with_its_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2500, 11, requires_grad=True)  # three slices
    targets = torch.randint(0, 11, (2500,))
    targets[::3] = IGNORE
    theirs = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    (expected_gradient,) = torch.autograd.grad(theirs, logits)
    ours = summed_loss(logits, targets)
    (gradient,) = torch.autograd.grad(ours, logits)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)


def test_problems_are_on_one_side_of_the_split() -> None:
    samples = [sample(5, f"problem {i % 20}", i) for i in range(100)]
    train, held_out = shares(samples, 0.2, seed=0)
    assert len(train) + len(held_out) == 100
    assert len(held_out) == 20
    assert not {s.group for s in train} & {s.group for s in held_out}
    assert shares(samples, 0.0, seed=0) == (samples, [])
    assert shares(samples[:1], 0.5, seed=0) == (samples[:1], [])


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("bf16", [True, False])
def test_saved_bytes_are_those_of_a_real_forward_pass(method: str, bf16: bool) -> None:
    """The estimate, made without numbers, is the count of a model with numbers, at a length that was not probed."""
    from tts_engine.verifiers.training.adapters import with_adapters

    recipe = read_recipe(None, {"method": method, "lora.rank": 4})
    config = small().config
    dtype = torch.bfloat16 if method == "lora" and bf16 else torch.float32

    def made(device: str) -> Any:  # noqa: ANN401
        with torch.device(device), pytest.warns() if method == "lora" else torch.enable_grad():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            return with_adapters(model, recipe) if method == "lora" else model

    copies, linear, square = saved_bytes(made("meta"), bf16=bf16)
    tokens = 2 * PROBES[-1]
    positions = torch.cat([torch.arange(300), torch.arange(tokens - 300)])[None]
    found = weigh(made("cpu").train(), tokens, bf16=bf16, positions=positions)
    assert found == pytest.approx(copies + linear * tokens + square * tokens**2, rel=0.001)
    assert square > 0  # the mask of packed documents


def test_the_estimate_of_a_step_is_the_memory_that_it_takes() -> None:
    """Peak of torch's allocations over one real optimizer step, against the sum of the estimate's parts."""
    recipe = Recipe(held_out=0, max_length=512, packing=False, batch=1, precision="fp32")
    samples = [sample(480, seed=1)]
    rows = Rows(samples, 512, packing=False)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(embedded_path("embedded:genprm"), dtype=torch.float32).train()
    model.config.use_cache = False
    plan = make_plan(model.config, recipe, measure(samples, rows), devices=1, bf16=False)
    batch = Collator(model, pad=0)([rows[0]])
    labels = batch.pop("labels")
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        token_loss(model(**batch), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    estimate = plan.memory.activations + plan.memory.logits + plan.memory.gradients
    assert plan.memory.weights == 4 * plan.parameters
    assert plan.memory.gradients + plan.memory.optimizer == 12 * plan.trained
    assert peak == pytest.approx(estimate, rel=0.25)


def test_flops_are_three_forward_passes_and_the_head_at_the_learnt_tokens() -> None:
    config = small().config
    samples = [sample(n, seed=n) for n in (13, 29)]
    load = measure(samples, Rows(samples, 64, packing=True))
    shape = shape_of(config, 0)
    forward = call_flops(shape, 13, 0) + call_flops(shape, 29, 0) + 2 * 32 * 512 * load.learnt
    recipes = {"full": 3, "lora": 2}
    for method, factor in recipes.items():
        recipe = read_recipe(None, {"method": method, "epochs": 2, "batch": 2})
        plan = make_plan(config, recipe, load, devices=1, bf16=False)
        assert plan.steps == 2
        assert plan.flops == pytest.approx(2 * factor * forward)


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_published_recipes_are_planned_from_a_config_alone(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SHAPES[size].save_pretrained(tmp_path)
    recipe = CONFIGS / f"genprm-{size}-sft.yaml"
    assert main(["sft", "--model", str(tmp_path), "--recipe", str(recipe), "--dry-run", "--devices", "8"]) == 0
    shown = capsys.readouterr().out
    assert f"parameters {'1.78G' if size == '1.5b' else '7.62G'}" in " ".join(shown.split())
    settled = read_recipe(recipe, {})
    assert (settled.rate, settled.batch) == (2e-6, 64)  # as published for GenPRM
    load = expected(settled)
    plan = make_plan(SHAPES[size], settled, load, devices=8, bf16=True)
    assert plan.step_rows * load.documents / load.rows == pytest.approx(64, rel=0.15)
    assert plan.memory.weights == pytest.approx(4 * plan.parameters / 8)
    assert plan.memory.total < 80 * 2**30


def test_a_dry_run_builds_the_batches_with_another_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SHAPES["1.5b"].save_pretrained(tmp_path)
    rng = random.Random(0)
    lines = [
        {"id": i, "messages": [{"role": "user", "content": f"{rng.random()}?"}, {"role": "assistant", "content": "1."}]}
        for i in range(20)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = ["sft", "--model", str(tmp_path), "--data", str(tmp_path / "data.jsonl"), "--dry-run"]
    assert main([*asked, "--set", "format=chat"]) == 2
    assert "has no tokenizer" in capsys.readouterr().err
    assert main([*asked, "--set", "format=chat", "--tokenizer", "embedded:genprm"]) == 0
    assert "documents 19" in " ".join(capsys.readouterr().out.split())


def test_a_recipe_survives_being_written(tmp_path: Path) -> None:
    recipe = read_recipe(
        None, dict(parse_change(text) for text in ("rate=1e-5", "lora.targets=[q_proj]", "patience=2"))
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert read_recipe(tmp_path / "recipe.yaml", {}) == recipe
    assert recipe.digest() != Recipe().digest()
