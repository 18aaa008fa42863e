"""Training itself: it learns, it repeats, its batches are whole; checkpoints load with transformers' own classes."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from tts_engine.verifiers.training import model as checkpoints
from tts_engine.verifiers.training import policy_data, vocabulary
from tts_engine.verifiers.training.embedded import vocabulary_texts
from tts_engine.verifiers.training.encode import IGNORE, Document
from tts_engine.verifiers.training.muon import Muon, orthogonalised
from tts_engine.verifiers.training.sft import ROUND, Schedule, batches, loss_of, train

SCHEDULE = Schedule(tokens=20 * 1024, batch=1024, rate=8e-3)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return vocabulary.train(vocabulary_texts(seed=1, count=200))


def trained(tokenizer: PreTrainedTokenizerFast, seed: int, log: Path | None = None) -> LlamaForCausalLM:
    model = checkpoints.new_model(tokenizer, seed)
    train(model, policy_data.documents(tokenizer, seed), SCHEDULE, seed=seed, pad=0, log=log, every=5)
    return model


def test_twenty_batches_lower_the_loss_and_repeat_exactly(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model, again = trained(tokenizer, 0, tmp_path / "log.jsonl"), trained(tokenizer, 0)
    ids, targets = next(batches(policy_data.documents(tokenizer, 9), 2048, 0, random.Random(0)))
    fresh = checkpoints.new_model(tokenizer, 0)
    assert loss_of(model, ids, targets).item() < 0.8 * loss_of(fresh, ids, targets).item()
    states = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["seed"] == 0
    assert lines[-1]["tokens"] >= SCHEDULE.tokens
    assert lines[-1]["loss"] < lines[1]["loss"]


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_muon_is_torchs_in_bfloat16_and_near_it_in_float32(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    slopes = [torch.randn(shape, generator=generator) for _ in range(4)]

    def walked(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> torch.Tensor:
        parameter = nn.Parameter(start.clone())
        optimizer = make([parameter])
        for slope in slopes:
            parameter.grad = slope.clone()
            optimizer.step()
        return parameter.detach()

    theirs = walked(lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.0, adjust_lr_fn="original"))
    assert torch.equal(walked(lambda p: Muon(p, 0.02, dtype=torch.bfloat16)), theirs)
    assert torch.allclose(walked(lambda p: Muon(p, 0.02, dtype=torch.float32)), theirs, atol=2e-3)


def test_muon_makes_singular_values_alike() -> None:
    found = orthogonalised(torch.randn(12, 40, generator=torch.Generator().manual_seed(1)), torch.float32)
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.min() <= values.max() < 1.5


def test_another_seed_gives_another_model(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (checkpoints.new_model(tokenizer, seed).lm_head.weight for seed in (0, 1))
    assert not torch.equal(first, second)


def test_the_rate_rises_holds_and_falls() -> None:
    schedule = Schedule(tokens=1000, rate=1.0, decay=0.7, warmup=0.1)
    assert schedule.rate_at(0) < 0.02
    assert schedule.rate_at(200) == 1.0
    assert schedule.rate_at(650) == pytest.approx(0.5)
    assert schedule.rate_at(1000) == 0.0


def test_batches_hold_every_document_once_within_their_size() -> None:
    rng = random.Random(0)
    documents = [Document((i + 5,) * rng.randint(3, 90), (IGNORE,) * 3) for i in range(200)]
    documents = [Document(d.ids, (IGNORE,) * (len(d.ids) - 1) + (d.ids[0],)) for d in documents]
    seen: list[int] = []
    for ids, targets in batches(iter(documents), 512, 0, random.Random(1)):
        assert ids.shape == targets.shape
        assert ids.numel() <= 512
        assert ids.shape[1] % ROUND == 0
        assert bool((targets[ids == 0] == IGNORE).all())
        seen += [int(row[0]) for row in ids]
    assert sorted(seen) == [i + 5 for i in range(200)]


def test_padding_does_not_change_the_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    model = checkpoints.new_model(tokenizer, 0)
    document = next(policy_data.documents(tokenizer, 4))
    ids, targets = torch.tensor([document.ids]), torch.tensor([document.targets])
    padded = [torch.nn.functional.pad(t, (0, 7), value=v) for t, v in ((ids, 0), (targets, IGNORE))]
    assert loss_of(model, ids, targets).item() == pytest.approx(loss_of(model, *padded).item(), abs=1e-3)


def test_a_saved_checkpoint_loads_with_transformers_own_classes(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = trained(tokenizer, 0)
    for _ in range(2):  # the second replaces the first
        checkpoints.save(model, tokenizer, tmp_path / "policy", form="policy", version=1, seed=0)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    again = AutoTokenizer.from_pretrained(tmp_path / "policy")
    ids = torch.tensor([again.encode("Ann has 3 pens.")])
    assert isinstance(loaded, LlamaForCausalLM)
    with torch.inference_mode():
        difference = (loaded(ids).logits - model(ids).logits).abs().max()
    assert difference < 0.1  # bfloat16
    assert loaded.generation_config.eos_token_id == again.eos_token_id == again.convert_tokens_to_ids("<|end|>")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert json.loads((tmp_path / "policy" / "tts_format.json").read_text())["format"] == "policy"


def test_attention_of_training_is_that_of_transformers(tokenizer: PreTrainedTokenizerFast) -> None:
    model = checkpoints.new_model(tokenizer, 0)
    document = list(itertools.islice(policy_data.documents(tokenizer, 4), 3))[-1]
    ids = torch.tensor([document.ids])
    with torch.inference_mode():
        ours = model(ids).logits
        model.set_attn_implementation("sdpa")
        assert torch.allclose(ours, model(ids).logits, atol=1e-4)
