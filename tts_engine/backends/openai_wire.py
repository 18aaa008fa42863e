"""What is said to an OpenAI-compatible server and what its answers mean: pure functions, no network.

Servers differ in what they take beyond the common API and in what they tell; a `Dialect` says how. Nothing that was
asked for is dropped in silence: what a server cannot be told is a `ConfigError` that names the fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from tts_engine.errors import ConfigError
from tts_engine.types import Message, Prompt, Request, Sampling

Api = Literal["completions", "chat"]
OpenTurn = Literal["continue", "prefix", "assistant", "ask"]
Body = dict[str, Any]

GO_ON = (
    "Your last message breaks off in the middle. Go on from exactly where it breaks off: do not repeat anything and do"
    " not comment."
)
"""What `open_turn: ask` says to a server that cannot continue a turn."""
MOST_ALTERNATIVES = 20
"""Alternatives asked for where a verifier watches for words (the published protocol's number; OpenAI's limit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A kind of server.

    Attributes:
        token_ids: completions take the prompt as token ids.
        tells_stop: it names the stop string that ended a completion; else stop strings are looked for here.
        open_turn: how its chat API is asked to continue an open turn; None where that is not known.
        echoes: its chat API may say the open turn again, at once, before it goes on.
        top_k: it knows `top_k`.
        limit: what chat calls the most tokens.
        neutral: switches off sampling that the server would add on its own account.
        text: what completions take besides a prompt that is text with its template.
    """

    token_ids: bool = False
    tells_stop: bool = False
    open_turn: OpenTurn | None = None
    echoes: bool = False
    top_k: bool = True
    limit: str = "max_tokens"
    neutral: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)


_PLAIN_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "vllm": Dialect(
            token_ids=True,
            tells_stop=True,
            open_turn="continue",
            neutral=_PLAIN_SAMPLING,
            text={"add_special_tokens": False},
        ),
        "sglang": Dialect(token_ids=True, tells_stop=True, open_turn="continue", neutral=_PLAIN_SAMPLING),
        "llamacpp": Dialect(
            token_ids=True,
            tells_stop=True,
            open_turn="assistant",
            echoes=True,
            neutral={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "verbose": True},  # verbose names the stop
        ),
        "openai": Dialect(open_turn="ask", top_k=False, limit="max_completion_tokens"),
        "plain": Dialect(),
    }
)
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "system": "openai", "openai": "openai"}


def dialect_of(owner: str) -> str:
    """The dialect that `owned_by` in a server's list of models stands for.

    >>> dialect_of("vllm"), dialect_of("openai-internal"), dialect_of("me")
    ('vllm', 'openai', 'plain')
    """
    return _OWNERS.get(owner.partition("-")[0], "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How one model of one server is spoken to.

    Attributes:
        name, served: name of the model in the engine and at the server.
        api: which of the two APIs.
        open_turn: as in `Dialect`, None where it is not known.
        server_stops: stop strings are sent; else they are looked for in the stream, which is then cut off.
        logprobs: `always` asks for them (so that every completion has a mean logprob), `needed` where the request wants
            some, `text` never: watched words count as certain where they stand in the text.
        extra: further keys of every call; `drop`: keys that are left out.
    """

    name: str
    served: str
    api: Api
    dialect: Dialect
    open_turn: OpenTurn | None
    server_stops: bool
    logprobs: Literal["always", "needed", "text"] = "always"
    extra: Mapping[str, Any] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()

    def asks_logprobs(self, sampling: Sampling) -> bool:
        """Whether logprobs go over the wire."""
        return self.logprobs == "always" or (self.logprobs == "needed" and wants_logprobs(sampling))


def wants_logprobs(sampling: Sampling) -> bool:
    """Whether the caller cannot do without logprobs."""
    return bool(sampling.watch) or sampling.logprobs > 0


def completions_body(wire: Wire, request: Request, prompt: str | list[int]) -> Body:
    """The JSON of a call of `/completions`.

    Args:
        prompt: rendered with the model's template, as text or as token ids.

    Raises:
        ConfigError: the server cannot be told what is wanted.
    """
    body = _common(wire, request, "max_tokens") | {"prompt": prompt}
    if isinstance(prompt, str):
        body |= wire.dialect.text
    if wire.asks_logprobs(request.sampling):
        body["logprobs"] = _alternatives(request.sampling)
    return _finished(wire, body)


def chat_body(wire: Wire, request: Request) -> Body:
    """The JSON of a call of `/chat/completions`; raises as `completions_body` does."""
    messages, how = chat_messages(wire, request.prompt)
    body = _common(wire, request, wire.dialect.limit) | {"messages": messages} | how
    if wire.asks_logprobs(request.sampling):
        body |= {"logprobs": True, "top_logprobs": _alternatives(request.sampling)}
    return _finished(wire, body)


def chat_messages(wire: Wire, prompt: Prompt) -> tuple[list[dict[str, Any]], Body]:
    """A prompt as chat messages, its open turn last, and the keys that have the server continue that turn."""
    if not prompt.generation_prompt:
        raise ConfigError(
            f"chat cannot leave out the assistant's tag, as this prompt for {wire.name} wants: set options.tokenizer to"
            " use completions, or the verifier's generation_prompt to true"
        )
    turns: list[dict[str, Any]] = [_turn(message) for message in prompt.messages]
    begun = "".join(prompt.continuation)
    if not begun:
        return turns, {}
    last: dict[str, Any] = {"role": "assistant", "content": begun}
    match wire.open_turn:
        case "continue":
            return [*turns, last], {"continue_final_message": True, "add_generation_prompt": False}
        case "prefix":
            return [*turns, last | {"prefix": True}], {}
        case "assistant":
            return [*turns, last], {}
        case "ask":
            return [*turns, last, {"role": "user", "content": GO_ON}], {}
    raise ConfigError(
        f"nobody knows how the server of {wire.name} continues an open turn: set options.open_turn to continue, prefix,"
        " assistant or ask (docs/endpoints.md), or options.tokenizer to use completions"
    )


def unrepeated(text: str, begun: str) -> str:
    """An answer to `GO_ON` without what it repeats of the open turn: the whole of it, or its last line.

    >>> unrepeated("Step 2: 4 + 4 = 8.", "Step 1: 2 + 2 = 4.\\nStep 2: ")
    '4 + 4 = 8.'
    """
    for head in (begun, begun.rpartition("\n")[2]):
        if head.strip() and text.startswith(head.rstrip()):
            return text[len(head.rstrip()) :].lstrip(" ")
    return text


def _common(wire: Wire, request: Request, limit: str) -> Body:
    sampling = request.sampling
    body: Body = {
        "model": wire.served,
        limit: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.key.int() >> 33,  # 31 bits: what every server takes
        "stream": True,
        "stream_options": {"include_usage": True},
        **wire.dialect.neutral,
    }
    if sampling.top_k:
        if not wire.dialect.top_k:
            raise ConfigError(
                f"the server of {wire.name} takes no top_k: set top_k of the policy or the verifier to 0, or"
                " options.dialect if it is another server than it seems"
            )
        body["top_k"] = sampling.top_k
    if sampling.stop and wire.server_stops:
        body["stop"] = list(sampling.stop)
    return body


def _finished(wire: Wire, body: Body) -> Body:
    return {key: value for key, value in (body | dict(wire.extra)).items() if key not in wire.drop}


def _alternatives(sampling: Sampling) -> int:
    return MOST_ALTERNATIVES if sampling.watch else max(1, sampling.logprobs)


def _turn(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content}
