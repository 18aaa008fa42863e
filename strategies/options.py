"""Types of the strategies' keyword parameters: their annotations are the schema that configurations are checked with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""A number of candidates, samples or steps."""

Select = Literal["weighted", "best", "majority"]
"""How the answer is chosen among finished candidates (selection.py)."""
