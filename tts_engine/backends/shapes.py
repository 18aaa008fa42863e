"""The sizes of a model, from the files in its folder, without its weights and without torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tts_engine.backends.base import ModelShape


def shape_of(config: Any, parameters: int) -> ModelShape:  # noqa: ANN401 - transformers' config classes differ
    """The sizes the cost model needs."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    mlp = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
    activation = str(getattr(text, "hidden_act", None) or getattr(text, "activation_function", ""))
    return ModelShape(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        mlp=mlp,
        vocabulary=text.vocab_size,
        kv_width=kv_heads * head_dim,
        gated=activation in {"silu", "swish"} or text.model_type.startswith("gemma"),
        parameters=parameters,
    )


def count_parameters(folder: Path) -> int:
    """Number of weights, from the headers of the safetensors files; 0 where there are none."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total
