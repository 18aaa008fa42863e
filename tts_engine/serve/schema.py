"""What requests look like: OpenAI's fields, and `tts` beside them. Every field is honoured or refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=1)]


def _characters(text: str) -> str:
    """Half of a surrogate pair is no text; no tokenizer takes it."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair; send valid Unicode")
    return text


Words = Annotated[str, AfterValidator(_characters)]
Text = Annotated[Words, Field(min_length=1)]
Stops = Annotated[list[Text], Field(max_length=4)]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI's protocol that the gateway does not have, with the values that ask for nothing (besides null)."""


class Strict(BaseModel):
    """No silent conversion of types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Part(Strict):
    """A piece of a message's content; only text is understood."""

    type: Literal["text"]
    text: Words


class ChatMessage(Strict):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Words | list[Part]

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Limits(Strict):
    """A budget for one request, both models; any subset of the units."""

    tokens: Annotated[int, Field(gt=0)] | None = None
    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    dollars: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Options(BaseModel):
    """How to search; further keys are parameters of the strategy.

    Attributes:
        strategy, verifier: by name.
        verifier_samples: judgements of each candidate.
        n: candidates.
        budget: `tokens=20k,seconds=30` or its parts; for the whole request.
        seed: the same as the request's `seed`.
        return_tree: send the search tree (when streaming, node by node as it grows).
        progress: tell how far the search is, when streaming.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    strategy: str | None = None
    verifier: str | None = None
    verifier_samples: Count | str | None = None
    n: Count | None = None
    budget: str | Limits | None = None
    seed: Seed | None = None
    return_tree: bool = False
    progress: bool = True


class StreamOptions(Strict):
    """`include_usage` sends the usage in a last chunk without choices."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Common(BaseModel):
    """What both kinds of completion take."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    model: Text
    n: Count | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: Text | Stops | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    tts: Options | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:  # noqa: ANN401  # whatever the client sent
        """Refuse what would otherwise be ignored."""
        if not isinstance(data, dict):
            return data
        for name in data.keys() - cls.model_fields.keys():
            if name not in NEUTRAL:
                shown = name[:64].encode("ascii", "backslashreplace").decode()
                raise PydanticCustomError("unknown_parameter", "unknown parameter {name}", {"name": repr(shown)})
            if data[name] is not None and data[name] not in NEUTRAL[name]:
                raise PydanticCustomError(
                    "unsupported_parameter", "{name} is not supported; leave it out", {"name": name}
                )
        return data

    @field_validator("stream_options")
    @classmethod
    def _streaming(cls, value: StreamOptions | None, info: Any) -> StreamOptions | None:  # noqa: ANN401
        if value is not None and not info.data.get("stream"):
            raise ValueError("goes with stream=true only")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Common):
    """`/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens of one solution."""
        given = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(given, default=None)


class CompletionRequest(Common):
    """`/v1/completions`: one text."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]

    @property
    def limit(self) -> int | None:
        """The most tokens of one solution."""
        return self.max_tokens

    @property
    def text(self) -> str:
        """The text."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class VerifyRequest(Strict):
    """`/v1/verify`: what the verifier says of the steps of a solution."""

    problem: Text
    steps: Annotated[list[Text], Field(min_length=1)]
    verifier: str | None = None
    samples: Count | None = Field(None, validation_alias=AliasChoices("samples", "verifier_samples"))
    seed: Seed | None = None
    budget: str | Limits | None = None


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorDetail
