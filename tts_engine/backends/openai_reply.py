"""Reading the stream of an OpenAI-compatible server: text, tokens, logprobs, how it ended, what it took."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tts_engine.backends.openai_wire import Wire, unrepeated, wants_logprobs
from tts_engine.errors import BackendError, ConfigError
from tts_engine.types import Completion, Finish, Request, Sampling, TokenLogprob, Usage

CERTAIN, IMPOSSIBLE = 0.0, -30.0
"""Logprobs of a watched word that stands in the text, and of its rivals, where a server gives no logprobs."""


class Reply:
    """What has arrived of one answer. `add` takes it in chunk by chunk; `completion` says what it amounts to."""

    def __init__(self, wire: Wire, request: Request) -> None:
        self._wire = wire
        self._request = request
        self._stops = () if wire.server_stops else request.sampling.stop
        self._reach = max(map(len, self._stops), default=1)
        self._echo = "".join(request.prompt.continuation) if wire.dialect.echoes and wire.api == "chat" else ""
        self._text = ""
        self._tokens: list[TokenLogprob] = []
        self._chunks = 0
        self._finish: str | None = None
        self._matched: str | None = None
        self._told = False
        self._usage: Mapping[str, Any] = {}
        self._found: tuple[int, str] | None = None

    @property
    def complete(self) -> bool:
        """Whether it came to an end, by itself or at a stop string."""
        return self._finish is not None or self._found is not None

    @property
    def seen(self) -> int:
        """Tokens generated so far, as far as the stream shows."""
        return max(len(self._tokens), int(self._usage.get("completion_tokens") or 0) or self._chunks)

    def add(self, chunk: Mapping[str, Any]) -> bool:
        """Take a chunk in; True once a stop string has appeared and nothing more is wanted.

        Raises:
            BackendError: the server's content filter cut the answer off.
        """
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._add_choice(choice)
        if "__verbose" in chunk:
            self._told = True
            self._note_stop((chunk["__verbose"] or {}).get("stopping_word"))
        return self._found is not None

    def completion(self, prompt: int, seconds: float) -> Completion:
        """The answer.

        Args:
            prompt: tokens of the prompt, for a server that did not say.
            seconds: how long it took.

        Raises:
            ConfigError: the server withheld what the request needs: logprobs, or which stop string it met.
        """
        text, finish, stop = self._ending()
        tokens = self._kept(len(text))
        if stop is not None and self._request.sampling.include_stop:
            text += stop
        if self._wire.open_turn == "ask" and self._wire.api == "chat":
            text = unrepeated(text, "".join(self._request.prompt.continuation))
        number = len(tokens) if self._found and tokens else self.seen
        return Completion(
            text=text,
            tokens=number,
            finish=finish,
            stop=stop,
            logprobs=self._logprobs(tokens, text),
            mean_logprob=math.fsum(token.logprob for token in tokens) / len(tokens) if tokens else math.nan,
            usage=self.usage(prompt, number, seconds),
        )

    def usage(self, prompt: int, delivered: int, seconds: float) -> Usage:
        """What the call took; generated tokens beyond those `delivered` are cancelled ones."""
        prompt = int(self._usage.get("prompt_tokens") or prompt)
        details = self._usage.get("prompt_tokens_details") or {}
        return Usage(
            prompt=prompt,
            cached=min(int(details.get("cached_tokens") or 0), prompt),
            completion=delivered,
            cancelled=max(0, self.seen - delivered),
            seconds=seconds,
            calls=1,
        )

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        said = choice.get("delta") or choice.get("message") or {}
        text = self._unechoed(choice.get("text") or said.get("content") or "")
        self._tokens += read_logprobs(choice.get("logprobs"), self._request.sampling)
        self._chunks += bool(text or said.get("reasoning_content"))
        old, self._text = len(self._text), self._text + text
        if self._stops and text and not self._found:
            self._found = first_stop(self._text, self._stops, max(0, old - self._reach))
        self._finish = choice.get("finish_reason") or self._finish
        if self._finish == "content_filter":
            raise BackendError(f"the content filter of {self._wire.name}'s server cut the answer off")
        self._note_stop(choice.get("stop_reason") or choice.get("matched_stop"))

    def _unechoed(self, text: str) -> str:
        """A piece of text, the first one without the open turn. Pieces are tokens: none holds a turn by itself."""
        if text and self._echo:
            text, self._echo = text.removeprefix(self._echo), ""
        return text

    def _note_stop(self, matched: object) -> None:
        if isinstance(matched, str) and matched:
            self._matched = matched

    def _ending(self) -> tuple[str, Finish, str | None]:
        """The text without its stop string, how it ended, and the stop string."""
        if self._found:
            start, stop = self._found
            return self._text[:start], Finish.STOP, stop
        if self._finish == "length":
            return self._text, Finish.LENGTH, None
        if self._matched is not None:
            return self._text.removesuffix(self._matched), Finish.STOP, self._matched
        if self._wire.server_stops and self._request.sampling.stop and self._mute:
            raise ConfigError(
                f"the server of {self._wire.name} does not say which stop string it met: set options.stops to client"
            )
        return self._text, Finish.EOS, None

    @property
    def _mute(self) -> bool:
        """llama.cpp's server names the stop string only where it takes the key `verbose`."""
        return "verbose" in self._wire.dialect.neutral and not self._told

    def _kept(self, length: int) -> list[TokenLogprob]:
        """The tokens up to and with the stop string."""
        if not self._found:
            return self._tokens
        end, kept = length + len(self._found[1]), 0
        for number, token in enumerate(self._tokens, start=1):
            kept += len(token.text)
            if kept >= end:
                return self._tokens[:number]
        return self._tokens

    def _logprobs(self, tokens: Sequence[TokenLogprob], text: str) -> tuple[TokenLogprob, ...]:
        sampling = self._request.sampling
        if not wants_logprobs(sampling):
            return ()
        if self._wire.logprobs == "text" and sampling.watch:
            return tuple(certain_tokens(text, sampling.watch))
        if not tokens and self.seen:
            raise ConfigError(
                f"the server of {self._wire.name} gives no logprobs, which its verifier needs: use another server or"
                " verifier (judge needs none), or set options.logprobs to text to count its words as certain"
            )
        return tuple(tokens)


def read_logprobs(data: Any, sampling: Sampling) -> list[TokenLogprob]:  # noqa: ANN401  # JSON
    """Logprobs in either form: chat's list of tokens, or the parallel lists of completions."""
    if not data:
        return []
    wanted = wants_logprobs(sampling)
    if isinstance(content := data.get("content"), list):
        rows = [(entry["token"], entry["logprob"], _alternatives(entry) if wanted else {}) for entry in content]
    else:
        texts, values = data.get("tokens") or (), data.get("token_logprobs") or ()
        rows = list(zip(texts, values, data.get("top_logprobs") or [{}] * len(texts), strict=True))
    if not wanted:
        return [TokenLogprob(text=text, logprob=CERTAIN if value is None else value) for text, value, _ in rows]
    return [_token(text, CERTAIN if value is None else value, top or {}, sampling) for text, value, top in rows]


def _alternatives(entry: Mapping[str, Any]) -> dict[str, float]:
    return {top["token"]: top["logprob"] for top in entry.get("top_logprobs") or ()}


def _token(text: str, logprob: float, top: Mapping[str, float], sampling: Sampling) -> TokenLogprob:
    """A watched word that is not among the alternatives takes the smallest logprob among them, an upper bound of
    its own (upstream GenPRM's rule)."""
    if not sampling.watch:
        return TokenLogprob(text=text, logprob=logprob, alternatives=dict(top))
    known = {text: logprob, **top}
    floor = min(known.values())
    watched = {word: known.get(word, floor) for word in sampling.watch}
    return TokenLogprob(text=text, logprob=logprob, alternatives=watched | (dict(top) if sampling.logprobs else {}))


def certain_tokens(text: str, watch: Sequence[str]) -> Iterator[TokenLogprob]:
    """A text cut at watched words, each of which counts as certain: votes of 0 or 1 where there are no logprobs.

    >>> [token.alternatives["Yes"] for token in certain_tokens("{Yes}", ("Yes", "No")) if token.text == "Yes"]
    [0.0]
    """
    for piece in re.split("(" + "|".join(map(re.escape, watch)) + ")", text):
        if piece:
            yield TokenLogprob(
                text=piece,
                logprob=CERTAIN,
                alternatives={word: CERTAIN if word == piece else IMPOSSIBLE for word in watch},
            )


def first_stop(text: str, stops: Sequence[str], start: int) -> tuple[int, str] | None:
    """Where the stop string that ends first begins, and which one it is; looked for from `start` on."""
    hits = [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop, start)) >= 0]
    return min(hits)[1:] if hits else None
