"""Types of the strategies' keyword parameters: their annotations are the schema of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""A number of candidates, samples or steps."""

Natural = Annotated[int, Field(ge=0)]
"""A number that may be none."""

Widths = Count | list[Count]
"""One width, or one for each level."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, or a difference of scores."""

Confidence = Annotated[float, Field(gt=0, lt=1)]
"""A probability, not 0 and not 1."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A strength."""

Select = Literal["weighted", "best", "majority", "pessimistic"]
"""How the answer is chosen among finished candidates (selection.py)."""
