"""Reward models with heads of their own: tiny random checkpoints in the published forms against plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

from tts_engine.backends.local import LocalBackend
from tts_engine.calls import Calls, Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.errors import DataError
from tts_engine.formats import prm as form
from tts_engine.journal import Journal
from tts_engine.types import Key, Problem
from tts_engine.verifiers import DiscriminativePRM, OutcomeReward

PROBLEM = Problem(id="p", prompt="Tom has 12 apples and buys 30 more. How many?")
STEPS = ("Step 1: now 12+30=42.", "So half of it is 21.", "Answer: 42")
WIDTH = 64


def checkpoint(folder: Path, head: dict[str, Tensor], like: Path) -> Path:
    """A Qwen2 body in fp32 with a head instead of an output layer, as Qwen2.5-Math-PRM ships it: code of its own that
    must not be run, and no `lm_head`. Tokenizer and sizes are those of the language model `like`."""
    tokenizer: Any = AutoTokenizer.from_pretrained(like)
    tokenizer.add_tokens([AddedToken(form.QWEN_MARKER, special=True)])
    torch.manual_seed(3)
    own = Qwen2Config.from_pretrained(like, vocab_size=len(tokenizer), tie_word_embeddings=False)
    body = Qwen2Model(own).float()
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {f"model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights | head, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["Qwen2ForProcessRewardModel"],
        "auto_map": {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_qwen2_rm.py").write_text("raise SystemExit('code of a checkpoint was run')")
    return folder


def random_tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(4)
    return {name.replace("__", "."): torch.randn(shape) / 4 for name, shape in shapes.items()}


QWEN = random_tensors(
    score__0__weight=(WIDTH, WIDTH), score__0__bias=(WIDTH,), score__2__weight=(2, WIDTH), score__2__bias=(2,)
)
TOKENS = random_tensors(score__weight=(2, WIDTH), score__bias=(2,))
VALUE = random_tensors(v_head__summary__weight=(1, WIDTH), v_head__summary__bias=(1,))


def qwen_head(hidden: Tensor) -> Tensor:
    inner = torch.relu(hidden @ QWEN["score.0.weight"].T + QWEN["score.0.bias"])
    return (inner @ QWEN["score.2.weight"].T + QWEN["score.2.bias"]).softmax(-1)[:, 1]


def token_head(hidden: Tensor) -> Tensor:
    return (hidden @ TOKENS["score.weight"].T + TOKENS["score.bias"]).softmax(-1)[:, 1]


def value_head(hidden: Tensor) -> Tensor:
    return (hidden @ VALUE["v_head.summary.weight"].T + VALUE["v_head.summary.bias"]).sigmoid()[:, 0]


def reference(folder: Path, layout: form.Layout, head: Callable[[Tensor], Tensor]) -> list[float]:
    """The score of each step by one forward of the body over the whole, written down as the publishers do it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    if layout == "qwen":
        turns = [{"role": "system", "content": form.QWEN_SYSTEM}, {"role": "user", "content": PROBLEM.prompt}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = encode(text + "<extra_0>".join(STEPS) + "<extra_0>")
        marks = [place for place, token in enumerate(ids) if token == encode("<extra_0>")[0]]
    else:
        ids, marks = encode("<bos>" + PROBLEM.prompt + "\n"), []
        for step in STEPS:
            ids += encode(step) + encode("\n")
            marks.append(len(ids) - 1)
    body = Qwen2Model.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        hidden = body(torch.tensor([ids])).last_hidden_state[0, marks]
    return [float(score) for score in head(hidden)]


async def judged(folder: Path, verifier: Any) -> tuple[list[Any], Calls]:  # noqa: ANN401
    """Verdicts on growing prefixes of the solution, and the desk that paid."""
    async with LocalBackend(folder, name="m", dtype="float32", threads=1) as backend:
        model = Model(backend=backend, cost=CostModel())
        calls = Calls(
            models={"m": model}, journal=Journal.open(None, {}, False), scope=Scope.root(Budget()), problem="p"
        )
        judge = verifier.open(PROBLEM, Key(0))
        return [await judge(STEPS[: n + 1], 1, calls) for n in range(len(STEPS))], calls


@pytest.mark.parametrize(
    ("layout", "begin", "tensors", "head"),
    [
        ("qwen", "", QWEN, qwen_head),
        ("qwen", "", TOKENS, token_head),
        ("lines", "<bos>", VALUE, value_head),
    ],
    ids=["Qwen2.5-Math-PRM", "token classification", "value head"],
)
async def test_scores_are_those_of_a_plain_forward(
    tmp_path: Path,
    qwen: Path,
    layout: form.Layout,
    begin: str,
    tensors: dict[str, Tensor],
    head: Callable[[Tensor], Tensor],
) -> None:
    folder = checkpoint(tmp_path, tensors, qwen)
    verifier = DiscriminativePRM(model="m", layout=layout, begin=begin, aggregation="min")
    verdicts, calls = await judged(folder, verifier)
    expected = reference(folder, layout, head)
    assert len(set(expected)) == len(STEPS)
    for reach, verdict in enumerate(verdicts, start=1):
        assert verdict.step_scores == pytest.approx(expected[:reach], abs=1e-4)
    assert verdicts[-1].value == pytest.approx(min(expected), abs=1e-4)
    usage = calls.scope.total
    assert usage.calls == len(STEPS)  # every step is judged once, however the prefix grows
    assert usage.cached > 0


async def test_an_outcome_reward_reads_the_end(tmp_path: Path, qwen: Path) -> None:
    folder = checkpoint(tmp_path, VALUE, qwen)
    verdicts, _ = await judged(folder, OutcomeReward(model="m", layout="lines", begin="<bos>"))
    expected = reference(folder, "lines", value_head)
    assert [verdict.value for verdict in verdicts] == pytest.approx(expected, abs=1e-4)


async def test_a_head_of_another_kind_is_refused(tmp_path: Path, qwen: Path) -> None:
    folder = checkpoint(tmp_path, random_tensors(score__weight=(5, WIDTH)), qwen)
    with pytest.raises(DataError, match="5 classes"):
        await judged(folder, DiscriminativePRM(model="m"))
