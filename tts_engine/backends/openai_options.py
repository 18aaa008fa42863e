"""The options of the `openai` backend, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tts_engine.backends.openai_http import Endpoint, Patience
from tts_engine.backends.openai_wire import OpenTurn
from tts_engine.errors import ConfigError

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(BaseModel):
    """How an endpoint is reached and spoken to; docs/endpoints.md says more.

    Attributes:
        url: base of the API; $OPENAI_BASE_URL by default.
        served: name of the model there; the model's own name by default.
        api: `auto` takes completions where a tokenizer is known, else chat.
        dialect: kind of server; `auto` goes by what the server says of itself.
        tokenizer: folder (or `embedded:NAME`, or hub name) whose tokenizer and template make the prompts.
        context: most tokens of prompt and completion, for a server that does not say.
        open_turn, stops, logprobs, extra, drop: as in `Wire`; `auto` goes by the dialect.
        key_env, key_header, headers, concurrency, rate: as in `Endpoint`.
        timeout, stall, tries, silence, pause: as in `Patience`.
        priorities: send the priority of each call (vLLM with `--scheduling-policy priority`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    url: str | None = None
    served: str | None = None
    api: Literal["auto", "completions", "chat"] = "auto"
    dialect: Literal["auto", "vllm", "sglang", "llamacpp", "openai", "plain"] = "auto"
    tokenizer: str | None = None
    context: Annotated[int, Field(ge=2)] | None = None
    open_turn: OpenTurn | None = None
    stops: Literal["auto", "server", "client"] = "auto"
    logprobs: Literal["always", "needed", "text"] = "always"
    priorities: bool = False
    extra: dict[str, Any] = {}
    drop: list[str] = []
    key_env: str = "OPENAI_API_KEY"
    key_header: str = "Authorization"
    headers: dict[str, str] = {}
    concurrency: Annotated[int, Field(ge=1)] = 64
    rate: Annotated[int, Field(ge=1)] | None = None
    timeout: Seconds = 900.0
    stall: Seconds = 120.0
    tries: Annotated[int, Field(ge=1)] = 8
    silence: Seconds = 300.0
    pause: Seconds = 1.0

    def endpoint(self) -> Endpoint:
        """The server, not yet connected to.

        Raises:
            ConfigError: no URL, or one that is none.
        """
        url = self.url or os.environ.get("OPENAI_BASE_URL")
        if not url:
            raise ConfigError("the openai backend needs options.url, such as http://localhost:8000/v1")
        return Endpoint(
            url,
            key_env=self.key_env,
            key_header=self.key_header,
            headers=self.headers,
            concurrency=self.concurrency,
            rate=self.rate,
            patience=Patience(
                timeout=self.timeout, stall=self.stall, tries=self.tries, silence=self.silence, pause=self.pause
            ),
        )


def read_options(given: Mapping[str, Any]) -> Options:
    """Checked options.

    Raises:
        ConfigError: an unknown one, or a value that makes no sense; values are not shown, one may be a key.
    """
    try:
        options = Options.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(Options.model_fields)
            raise ConfigError(
                f"backend openai has no option {name!r}: use one of {known}; keys come from the environment (key_env)"
            ) from None
        raise ConfigError(f"options of backend openai: {name}: {first['msg'].removeprefix('Input ')}") from None
    secret = {name.lower() for name in options.headers} & {"authorization", "api-key", "x-api-key", "cookie"}
    if secret:
        raise ConfigError(f"options.headers must hold no {secret.pop()}: put the key into the environment (key_env)")
    return options
