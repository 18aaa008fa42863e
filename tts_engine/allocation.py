"""What an allocation needs to know of a pair of models: beliefs and prices, and the file they are kept in.

It is fitted on recorded problems by `benchmarks/allocator.py --fit`; the embedded models' comes with the package.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tts_engine.compute.allocator import Beliefs
from tts_engine.errors import DataError, first_line

EMBEDDED, GENERIC = "embedded", "generic"
"""Names of allocations that need no file: of the embedded models, and of models nothing is known of."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Chance = Annotated[float, Field(gt=0, lt=1)]
Pair = tuple[Positive, Positive]


class Allocation(BaseModel):
    """Beliefs (compute/allocator.py) and prices (compute/pricing.py) for a policy and its verifier.

    Attributes:
        solution_tokens: mean tokens of a solution: costs are counted in solutions.
        curve: prices, falling, each with the mean cost of a problem at it.
        source: what it was fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    solve: Pair
    spread: Positive
    right: Pair
    wrong: Pair
    accept: Positive
    reject: Positive
    edges: tuple[float, ...] = ()
    sure_right: tuple[Positive, ...] = ()
    sure_wrong: tuple[Positive, ...] = ()
    trust: Annotated[float, Field(ge=0, le=1)] = 1.0
    turn: Positive = 1.2
    passes_right: tuple[Chance, ...] = ()
    passes_wrong: tuple[Chance, ...] = ()
    solution_tokens: Positive
    curve: Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=2)]
    source: str = ""

    @classmethod
    def of(cls, beliefs: Beliefs, **facts: Any) -> Allocation:  # noqa: ANN401  # the other fields
        """An allocation with these beliefs."""
        return cls(**asdict(beliefs), **facts)

    @property
    def beliefs(self) -> Beliefs:
        """The allocator's parameters."""
        return Beliefs(**{name: getattr(self, name) for name in Beliefs.__dataclass_fields__})

    def save(self, path: Path) -> None:
        """Write the file that `load` reads."""
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


@lru_cache
def load_allocation(name: str) -> Allocation:
    """`embedded`, `generic`, or a file.

    Raises:
        DataError: there is no such file, or it is none of an allocation.
    """
    try:
        if name in (EMBEDDED, GENERIC):
            text = (files("tts_engine") / "assets" / f"allocation-{name}.json").read_text(encoding="utf-8")
        else:
            text = Path(name).read_text(encoding="utf-8")
        return Allocation.model_validate(json.loads(text))
    except OSError as error:
        raise DataError(f"cannot read {name} ({error.strerror}); fit it with benchmarks/allocator.py --fit") from None
    except (ValueError, ValidationError) as error:
        raise DataError(f"{name} is no allocation ({first_line(error)}); fit it anew") from None
