"""Text to tokens and back, for one tokenizer: cached prompt encoding, the bytes of each token, stop strings."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tts_engine.errors import BackendError, ContextExceeded
from tts_engine.types import Message, Prompt, Request

_V = TypeVar("_V")


class Recent(Generic[_V]):
    """The results of a function for the last `size` arguments."""

    def __init__(self, make: Callable[[Any], _V], size: int) -> None:
        self._make, self._size = make, size
        self._known: OrderedDict[Hashable, _V] = OrderedDict()

    def __call__(self, key: Hashable) -> _V:
        """The function's result, computed at most once while it is remembered."""
        value = self._known.get(key)
        if value is None:
            value = self._known[key] = self._make(key)
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return value


class Encoder:
    """Encodes prompts; conversations that grow turn by turn cost only their new turn.

    The text is the chat template's rendering (the contents joined by blank lines, after the tokenizer's own beginning,
    when there is no template; without any message that beginning alone); each continuation segment is encoded on its
    own. Text between added tokens is encoded by itself and remembered, where the tokenizer gives the same tokens that
    way (byte-level BPE).
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - transformers' tokenizers share no typed base
        self._tokenizer = tokenizer
        self._separators = _separators(tokenizer)
        self._pure = _pure(tokenizer) if self._separators else None
        self._conversations = Recent(self._conversation, 4096)
        self._pieces = Recent(self._piece, 16384)
        self._segments = Recent(self._split, 16384)

    def prompt(self, prompt: Prompt) -> list[int]:
        """All tokens of a prompt."""
        ids = list(self._conversations((prompt.messages, prompt.generation_prompt)))
        for segment in prompt.continuation:
            ids += self._segments(segment)
        return ids

    def request(self, request: Request, model: str, context: int) -> list[int]:
        """All tokens of a request's prompt, checked.

        Args:
            model: its name in messages; `context`: most tokens of prompt and completion.

        Raises:
            ContextExceeded: the prompt leaves no room for one token.
            BackendError: there is nothing to continue, or nothing is asked for.
        """
        if request.sampling.max_tokens < 1:
            raise BackendError(f"max_tokens is {request.sampling.max_tokens}: ask for at least one token")
        tokens = self.prompt(request.prompt)
        if len(tokens) >= context:
            raise ContextExceeded(
                f"the prompt has {len(tokens)} tokens; {model} takes {context} of prompt and completion"
            )
        if not tokens:
            raise BackendError("the prompt is empty: nothing to continue")
        return tokens

    def watched(self, texts: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
        """Watched strings with the token of each; `BackendError` where one is not one token."""
        pairs = []
        for text in texts:
            ids = self._piece(text)
            if len(ids) != 1:
                found = f"{len(ids)} tokens in this model's vocabulary"
                raise BackendError(f"cannot watch {text!r}: it is {found}, not one")
            pairs.append((text, int(ids[0])))
        return tuple(pairs)

    def _conversation(self, key: tuple[tuple[Message, ...], bool]) -> list[int]:
        messages, generation_prompt = key
        if not messages:  # plain text to continue
            return self._ids("")
        if not self._tokenizer.chat_template:
            text = "\n\n".join(message.content for message in messages)
            return self._ids(text)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt)
        except Exception as error:
            raise BackendError(f"the model's chat template rejects the conversation: {error}") from error
        return self._split(text)

    def _split(self, text: str) -> list[int]:
        if self._separators is None:
            return self._piece(text)
        ids: list[int] = []
        for piece in self._separators.split(text):
            if piece:
                ids += self._pieces(piece)
        return ids

    def _piece(self, text: str) -> list[int]:
        if self._pure is not None:
            return list(self._pure.encode(text, add_special_tokens=False).ids)
        return self._ids(text, add_special_tokens=False)

    def _ids(self, text: str, **options: bool) -> list[int]:
        """Tokens of a text; one that is too long is refused by `request`, without transformers' own warning."""
        return list(self._tokenizer(text, verbose=False, **options)["input_ids"])


def _separators(tokenizer: Any) -> re.Pattern[str] | None:  # noqa: ANN401
    """A pattern that cuts text at added tokens; None where cutting could change the tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = json.loads(backend.to_str())
    added = [token for token in parts["added_tokens"] if token["content"]]
    plain = not any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added)
    if parts["normalizer"] or not plain or not added or not _byte_level(parts) or _prefixes_space(parts):
        return None
    # The longest first, as the tokenizer itself matches.
    contents = sorted((token["content"] for token in added), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, contents)) + ")")


def _pure(tokenizer: Any) -> Any:  # noqa: ANN401
    """The tokenizer below transformers' own layer, which takes longer than the encoding; it encodes whole texts."""
    pure = tokenizer.backend_tokenizer
    pure.no_truncation()
    pure.no_padding()
    return pure


def _byte_level(parts: dict[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps(parts["decoder"])


def _prefixes_space(parts: dict[str, Any]) -> bool:
    return '"add_prefix_space": true' in json.dumps(parts["pre_tokenizer"])


def token_bytes(tokenizer: Any) -> list[bytes]:  # noqa: ANN401
    """What each token adds to a completion, as UTF-8 (a token may hold part of a character).

    Special tokens (end of turn, padding, chat tags) add nothing; other added tokens add their text.
    """
    size = len(tokenizer)
    names = tokenizer.convert_ids_to_tokens(list(range(size)))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = backend is not None and _byte_level(json.loads(backend.to_str()))
    alphabet = {character: byte for byte, character in _byte_alphabet().items()}
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids)
    pieces = []
    for token, name in enumerate(names):
        if token in special or name is None or (token in added and added[token].special):
            pieces.append(b"")
        elif token in added:
            pieces.append(added[token].content.encode())
        elif byte_level:
            pieces.append(bytes(alphabet[character] for character in name))
        else:
            pieces.append(_plain_bytes(name))
    return pieces


def _plain_bytes(name: str) -> bytes:
    """SentencePiece conventions: `▁` is a space, `<0x0A>` a byte."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", name):
        return bytes([int(name[3:5], 16)])
    return name.replace("▁", " ").encode()


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in alphabet)
    return alphabet | {byte: chr(256 + i) for i, byte in enumerate(others)}


class Stops:
    """The stop strings of a request, compiled for one vocabulary.

    `hot[token]` says whether the token can complete one of them; only then is text looked at.
    """

    def __init__(self, stops: tuple[str, ...], pieces: Sequence[bytes], vocabulary: int) -> None:
        if "" in stops:
            raise BackendError("an empty stop string would end every completion at once: leave it out")
        self._stops = [(stop, stop.encode()) for stop in stops]
        self._reach = max((len(data) for _, data in self._stops), default=0)
        self._pieces = pieces
        last = {data[-1] for _, data in self._stops}
        self.hot: npt.NDArray[np.bool_] = np.zeros(vocabulary, bool)
        if last:
            self.hot[: len(pieces)] = [not last.isdisjoint(piece) for piece in pieces]

    def find(self, tokens: Sequence[int]) -> tuple[str, int] | None:
        """The stop string that the last token completes and how many bytes from the end of the text it begins."""
        piece = self._pieces[tokens[-1]]
        tail, i = piece, len(tokens) - 2
        while i >= 0 and len(tail) < len(piece) + self._reach:
            tail = self._pieces[tokens[i]] + tail
            i -= 1
        old = len(tail) - len(piece)
        hits = []
        for stop, data in self._stops:
            at = tail.find(data, max(0, old - len(data) + 1))
            if at >= 0:
                hits.append((at + len(data), -len(data), stop, at))
        if not hits:
            return None
        _, _, stop, at = min(hits)
        return stop, len(tail) - at
