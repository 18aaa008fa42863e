"""Prompts for an endpoint made here, with the model's own tokenizer and chat template; and token counts without one."""

from __future__ import annotations

import math
from pathlib import Path
from threading import Lock
from typing import Any

from tts_engine.backends.base import ModelShape
from tts_engine.backends.embedded import folder_of
from tts_engine.backends.local_text import Encoder
from tts_engine.backends.shapes import count_parameters, shape_of
from tts_engine.errors import DataError, first_line
from tts_engine.types import Prompt

TEMPLATE_TOKENS, TURN_TOKENS = 256, 16
"""Tokens that an unknown template may add: once, and for each message."""
FIRST_GUESS = 0.25
"""Tokens a byte of text, before a server has counted any."""
LOADING = Lock()
"""Several backends start at once, each in a thread, and transformers fails where two threads import from it first."""


class Tokens:
    """A model's tokenizer: prompts as token ids or as text. `shape` has its sizes where a config.json lies beside it.

    Args:
        name: folder, `embedded:NAME`, or the name of a model in the hub.

    Raises:
        DataError: there is no tokenizer.
    """

    def __init__(self, name: str) -> None:
        folder = folder_of(name)
        with LOADING:
            self._tokenizer, self.shape = _load(folder, name)
        self._encoder = Encoder(self._tokenizer)

    def ids(self, prompt: Prompt) -> list[int]:
        """Template and continuation, segment by segment."""
        return self._encoder.prompt(prompt)

    def text(self, prompt: Prompt) -> str:
        """The same as text, without the token that servers themselves put before every text."""
        text: str = self._tokenizer.decode(self.ids(prompt), clean_up_tokenization_spaces=False)
        return text.removeprefix(self._tokenizer.bos_token or "")


def _load(folder: Path, name: str) -> tuple[Any, ModelShape | None]:
    """Tokenizer and sizes."""
    from transformers import AutoConfig, AutoTokenizer  # seconds, and not needed for chat

    where = str(folder) if folder.is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        if not (folder / "config.json").is_file():
            return tokenizer, None
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        return tokenizer, shape_of(config, count_parameters(folder))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(
            f"cannot load the tokenizer {name!r} ({first_line(error)}): give the folder of the model"
        ) from error


class Counter:
    """Tokens of prompts: exact with a tokenizer, else bounded by their bytes and guessed from what servers counted."""

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens
        self._counted, self._bytes = 0, 0

    def bound(self, prompt: Prompt) -> int:
        """At most so many: no token is shorter than a byte."""
        if self._tokens is not None:
            return len(self._tokens.ids(prompt))
        return _bytes(prompt) + TEMPLATE_TOKENS + TURN_TOKENS * len(prompt.messages)

    def guess(self, prompt: Prompt) -> int:
        """Probably so many."""
        if self._tokens is not None:
            return len(self._tokens.ids(prompt))
        share = self._counted / self._bytes if self._bytes else FIRST_GUESS
        return min(math.ceil(_bytes(prompt) * share), self.bound(prompt))

    def learn(self, prompt: Prompt, tokens: int) -> None:
        """A server counted `tokens`."""
        self._counted += tokens
        self._bytes += _bytes(prompt)


def _bytes(prompt: Prompt) -> int:
    parts = [message.content for message in prompt.messages] + list(prompt.continuation)
    return sum(len(part.encode()) for part in parts)
