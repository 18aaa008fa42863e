"""What the documents show, to be run as it stands there."""

from __future__ import annotations

import re


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language in a Markdown text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)
