"""The checkpoints and problem sets in the package."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tts_engine.formats import genprm, policy, prm
from tts_engine.verifiers.training.collection import new_story
from tts_engine.verifiers.training.domain import first_error, gold_steps, held_out
from tts_engine.verifiers.training.embedded import load_recipe
from tts_engine.verifiers.training.encode import labelled_pieces
from tts_engine.verifiers.training.manifest import digest
from tts_engine.verifiers.training.problem_sets import SETS, read_set
from tts_engine.verifiers.training.vocabulary import literals

ASSETS = Path(str(files("tts_engine") / "assets"))
VERSIONS = {"policy": policy.FORMAT_VERSION, "genprm": genprm.FORMAT_VERSION, "prm": prm.FORMAT_VERSION}


@pytest.mark.parametrize("name", VERSIONS)
def test_a_checkpoint_loads_and_speaks_the_format_of_this_version(name: str) -> None:
    folder = ASSETS / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    card = json.loads((folder / "tts_format.json").read_text())
    assert (card["format"], card["version"]) == (name, VERSIONS[name])
    assert model.dtype is torch.bfloat16
    assert model.config.max_position_embeddings == 1024
    assert model.config.vocab_size >= len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert all(len(tokenizer.encode(literal, add_special_tokens=False)) == 1 for literal in literals())


def test_checkpoints_are_small() -> None:
    sizes = [sum(f.stat().st_size for f in (ASSETS / name).iterdir()) for name in VERSIONS]
    assert max(sizes) < 15e6
    assert sum(sizes) < 25e6


def test_the_sets_are_held_out_of_everything_that_was_trained_on() -> None:
    stories = [story for name in SETS for story in read_set(ASSETS / "problems" / f"{name}.jsonl")]
    texts = {story.text for story in stories}
    assert len(texts) == len(stories) == sum(SETS.values())
    assert all(held_out(text) for text in texts)
    assert all(first_error(story, gold_steps(story)) is None for story in stories)
    assert not texts & {new_story(0, number).text for number in range(500)}


def test_the_recipe_gives_both_verifiers_the_same_compute() -> None:
    recipe = load_recipe()["verifiers"]
    assert recipe["fit"] == recipe["prm"]
    cards = [json.loads((ASSETS / name / "tts_format.json").read_text()) for name in ("genprm", "prm")]
    assert {card["tokens"] for card in cards} == {recipe["fit"]["tokens"]}


def test_the_genprm_was_taught_labels_from_rollouts() -> None:
    assert load_recipe()["verifiers"]["label"] == {"method": "rpe", "threshold": 0.8}
    made = json.loads((ASSETS / "logs" / "verifiers.json").read_text())
    assert made["rollouts"]["counts"]["rollouts"] > 10_000
    assert made["fit"]["counts"]["documents"] <= sum(made["filter"]["counts"]["kept"].values())
    weights = ASSETS / "genprm" / "model.safetensors"
    assert made["fit"]["digest"] == digest(weights)
    assert made["prm"]["digest"] == digest(ASSETS / "prm" / "model.safetensors")


def preferred(stories: int) -> int:
    """In how many stories the PRM prefers the right first step to one with a digit too many."""
    folder = ASSETS / "prm"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    good, bad = (tokenizer.convert_tokens_to_ids(sign) for sign in (prm.GOOD, prm.BAD))

    def margin(text: str) -> float:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(ids).logits[0, -1]
        return float(logits[good] - logits[bad])

    count = 0
    for story in read_set(ASSETS / "problems" / "arith-dev.jsonl")[:stories]:
        step = gold_steps(story)[0]
        text = "".join(piece.text for piece in labelled_pieces(tokenizer, story.text, [step], [True]))
        count += margin(text) > margin(text.replace(step, f"{step[:-1]}7."))
    return count


@pytest.mark.xfail(strict=True, reason="the PRM of equal compute prefers 15: MODEL_CARD.md")
def test_the_prm_prefers_right_steps() -> None:
    assert preferred(20) >= 16


def test_the_prm_prefers_right_steps_more_often_than_not() -> None:
    assert preferred(100) >= 60
