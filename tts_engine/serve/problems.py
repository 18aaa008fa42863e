"""Errors in OpenAI's shape: a status, and `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from tts_engine.errors import BackendError, BudgetExhausted, ContextExceeded, TTSError, UsageError

TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that gets an error.

    Attributes:
        status: of the response; `code` and `param` as OpenAI's clients read them.
        retry_after: seconds after which it may be tried again.
    """

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """What the client reads."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        if self.code == "insufficient_quota":
            kind = "insufficient_quota"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The response."""
        headers = {} if self.retry_after is None else {"retry-after": str(max(1, math.ceil(self.retry_after)))}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return Answer(self.body, self.status, headers)


class Answer(Response):
    """JSON in ASCII: whatever text comes out of a model or a client can be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401  # any JSON value
        """Not-a-number becomes null: JSON has no word for it."""
        return dumps(content).encode("ascii")


def dumps(content: Any) -> str:  # noqa: ANN401  # any JSON value
    """JSON in ASCII, in one line, without NaN."""
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refusal(error: TTSError) -> Refusal:
    """What a client is told of an error of the engine: all of bad input, little of what goes on inside."""
    if isinstance(error, UsageError):
        return Refusal(400, str(error), "invalid_value")
    if isinstance(error, ContextExceeded):
        return Refusal(400, str(error), "context_length_exceeded")
    if isinstance(error, BudgetExhausted):
        return Refusal(400, "the budget is too small for this request; raise `budget`", "budget_too_small")
    if isinstance(error, BackendError):
        return Refusal(502, "the model failed; try again", "model_failed")
    return Refusal(502, "the request could not be worked on; try again", "failed")


def invalid(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """What is wrong with a request that does not fit its schema: the first thing that was found."""
    error = errors[0]
    where = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    kind = str(error["type"])
    if kind == "json_invalid":
        return Refusal(400, "the body is not valid JSON", "invalid_json")
    message = str(error["msg"]).removeprefix("Value error, ")
    param = ".".join(where) or None
    code = kind if kind in ("unsupported_parameter", "unknown_parameter") else "invalid_value"
    if kind == "missing":
        code, message = "missing_required_parameter", "is missing" if param else "a JSON body is missing"
    if kind == "extra_forbidden":
        code, message = "unknown_parameter", "is not known here; leave it out (/openapi.json has the fields)"
    return Refusal(400, f"{param}: {message}" if param else message, code, param=param)
