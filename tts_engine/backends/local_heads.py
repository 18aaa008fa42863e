"""Heads that judge tokens: released reward models have one in the place of the output layer, under names of its own.

Such a checkpoint is a causal transformer plus a small network from the last hidden state to one number or two classes.
It is built here from its weights alone (none of the code that comes with a checkpoint is run), and put where the output
layer was: its verdict on a token is given as the logits of "+" and "-", so that all that reads a step token reads it.

    score.0, score.2         two layers with a ReLU between: Qwen2.5-Math-PRM, Qwen2.5-Math-RM
    score                    one layer: transformers' token and sequence classification
    v_head.summary           one layer, one number: Skywork-o1-Open-PRM
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tts_engine.errors import DataError
from tts_engine.formats.prm import BAD, GOOD

_NAME = re.compile(r"(?:score|v_head\.summary)(?:\.(\d+))?\.(weight|bias)")
IMPOSSIBLE = -1e4
"""Logit of all other tokens."""


class StepHead(nn.Module):
    """Logits of the two label tokens, all others impossible. Two classes are (bad, good); one number is log odds."""

    def __init__(self, layers: list[tuple[Tensor, Tensor | None]], labels: tuple[int, int], vocabulary: int) -> None:
        """Layers of weight [out, in] and bias [out]; the tokens of good and bad; the size of the logits."""
        super().__init__()
        self._biased = [bias is not None for _, bias in layers]
        for number, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight{number}", weight.float())
            self.register_buffer(f"bias{number}", None if bias is None else bias.float())
        self._labels, self._vocabulary = labels, vocabulary

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., d] to [..., vocabulary], in fp32."""
        found = hidden.float()
        for number in range(len(self._biased)):
            found = torch.relu(found) if number else found
            found = nn.functional.linear(found, self.get_buffer(f"weight{number}"), getattr(self, f"bias{number}"))
        odds = found[..., 1] - found[..., 0] if found.shape[-1] == 2 else found[..., 0]
        logits = torch.full((*odds.shape, self._vocabulary), IMPOSSIBLE, device=odds.device)
        good, bad = self._labels
        logits[..., good], logits[..., bad] = odds, 0.0
        return logits


def head_names(folder: Path) -> list[tuple[str, Path]]:
    """The tensors of a judging head and the files that hold them; empty for an ordinary language model."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found += [(name, path) for name in header if _NAME.fullmatch(name)]
    return found


def step_head(folder: Path, tokenizer: Any, vocabulary: int) -> StepHead | None:  # noqa: ANN401
    """The judging head of a checkpoint; None for an ordinary language model.

    Raises:
        DataError: it has more than two classes, or "+" and "-" are not one token each.
    """
    tensors: dict[tuple[int, str], Tensor] = {}
    for name, path in head_names(folder):
        with safe_open(path, framework="pt") as file:
            match = _NAME.fullmatch(name)
            assert match is not None
            tensors[int(match.group(1) or 0), match.group(2)] = file.get_tensor(name)
    numbers = sorted({number for number, _ in tensors})
    if not numbers:
        return None
    layers = [(tensors[number, "weight"], tensors.get((number, "bias"))) for number in numbers]
    classes = len(layers[-1][0])
    if classes > 2:
        raise DataError(f"{str(folder)!r} sorts tokens into {classes} classes: only (bad, good) or one number is known")
    good, bad = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (GOOD, BAD))
    if len(good) != 1 or len(bad) != 1:
        raise DataError(
            f"{str(folder)!r}: its tokenizer has no single tokens {GOOD!r} and {BAD!r} to name the verdicts by"
        )
    return StepHead(layers, (good[0], bad[0]), vocabulary)
