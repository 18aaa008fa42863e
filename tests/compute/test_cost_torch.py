"""The cost model against torch's own FLOP counter, on the embedded models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache

from tts_engine.backends.embedded import embedded_path
from tts_engine.backends.local import LocalBackend
from tts_engine.compute.cost import call_flops


@pytest.mark.parametrize("name", ["policy", "genprm"])
def test_equals_the_flops_that_torch_counts(name: str) -> None:
    """A prompt of 23 tokens, then one more: torch counts the masked half of the prompt's attention too, head and
    attention of the new token as they are."""
    folder = Path(embedded_path(f"embedded:{name}"))
    shape = LocalBackend(folder).info.shape
    assert shape is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    cache, prompt, ids = DynamicCache(), 23, torch.arange(24)[None]

    def counted(tokens: torch.Tensor) -> int:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(input_ids=tokens, cache=cache, use_cache=True, logits_to_keep=1)
        return counter.get_total_flops()

    head, pair = 2 * shape.width * shape.vocabulary, 4 * shape.layers * shape.width
    masked = pair * prompt * (prompt - 1) // 2
    assert counted(ids[:, :prompt]) == call_flops(shape, prompt, 0) + head + masked
    assert counted(ids[:, prompt:]) == call_flops(shape, prompt, 1) - call_flops(shape, prompt, 0) + pair
