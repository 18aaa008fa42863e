"""The recipe of a fine-tuning run: a flat YAML file, checked when it is read. No torch is needed to read one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tts_engine.errors import ConfigError

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Lora(Section):
    """Low-rank adapters (2106.09685); the defaults are ThinkPRM's."""

    rank: Count = 32
    alpha: Count = 16
    dropout: Share = 0.0
    targets: str | list[str] = "all-linear"
    """Names of modules, or every linear layer but the head."""


class Expected(Section):
    """What a dry run assumes of the data when there is none yet."""

    conversations: Count
    tokens: Count
    """Tokens of a conversation on average."""
    learnt: Count
    """Those among them that carry the loss."""


class Recipe(Section):
    """Everything that decides what is learnt, in the order in which it is used."""

    format: Literal["genprm", "policy", "prm", "chat"] = "genprm"
    """What the data is and the model will speak; `chat` learns whole answers in no format of ours."""
    generation_prompt: bool | None = None
    """Whether the assistant tag stands before the verifier's turn; by default what the model's card says, else yes."""
    learn_output: bool = False
    """Whether the loss falls on the injected output of executed code too."""
    learn_forced: bool = False
    """Whether it falls on the prefixes that inference forces too."""
    turns: Literal["joined", "separate"] = "joined"
    """`joined` learns all turns of a conversation in one pass where the chat template allows it; `separate` gives each
    turn a document of its own, with its history tokenized as inference does, at several times the cost."""
    held_out: Share = 0.02
    """Share of the data, by problem, that is kept back for the held-out loss; 0 for none, and no early stopping."""

    method: Literal["full", "lora"] = "full"
    lora: Lora = Lora()
    max_length: Count = 8192
    """Longest document in tokens; a longer one is skipped and counted, never cut."""
    packing: bool = True
    """Several documents in one row of `max_length` tokens, blind to one another."""
    rows: Count = 1
    """Rows of a forward pass on each device."""
    batch: Count = 64
    """Documents of an optimizer step (with packing: on average)."""

    epochs: Positive = 1.0
    max_steps: Count | None = None
    """Optimizer steps at most; overrides `epochs`."""
    rate: Positive = 2e-6
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    """Share of the steps over which the rate rises from 0."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.95)

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`bf16` multiplies in bfloat16 and keeps trained weights and the optimizer in fp32; `auto`: bf16 on a GPU."""
    attention: str = "sdpa"
    """The attention of transformers: sdpa, eager, flash_attention_2, ..."""
    gradient_checkpointing: bool = False

    every: Count = 50
    """Optimizer steps between two checkpoints, each with a held-out loss."""
    patience: Count | None = None
    """Held-out losses in a row without a better one before training stops; None never stops early."""
    keep: Count = 2
    """Checkpoints that are kept."""
    seed: int = 0
    expected: Expected | None = None

    def digest(self) -> str:
        """16 hex digits that change with any value."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()

    def to_yaml(self) -> str:
        """The recipe with every value written out."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False)


def read_recipe(path: Path | None, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of a YAML file (or the defaults) with some keys changed.

    Args:
        changes: values by key; `lora.rank` reaches into a section.

    Raises:
        ConfigError: the file cannot be read, or a key or value makes no sense.
    """
    data = _read(path) if path else {}
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        place = data.setdefault(section, {}) if section else data
        if not isinstance(place, dict):
            raise ConfigError(f"{section} is no section of the recipe: give {section}={value!r} by itself")
        place[key] = value
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def parse_change(text: str) -> tuple[str, Any]:
    """`rate=1e-5` as a key and a YAML value (1e-5 counts as a number).

    >>> parse_change("rate=1e-5"), parse_change("lora.targets=[q_proj]")
    (('rate', 1e-05), ('lora.targets', ['q_proj']))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text!r} has no value: write KEY=VALUE, such as rate=1e-5")
    try:
        return name.strip(), float(value) if "e" in value.lower() else yaml.safe_load(value)
    except ValueError:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text!r} has a value that cannot be read: quote it as in YAML") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise ConfigError(f"{path} is no recipe ({reason}): give a YAML file like configs/genprm-7b-sft.yaml") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is no recipe: it should hold keys and values, like configs/genprm-7b-sft.yaml")
    return data


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"the recipe has an unknown key {name}: use one of {', '.join(Recipe.model_fields)}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"the recipe's {name}={first['input']!r} makes no sense: {message}"
