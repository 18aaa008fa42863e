"""What `tts-serve` is told: the configuration of an engine and a section `serve`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import Field, field_validator

from tts_engine.config import Config, Positive, Section, VerifierConfig

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServeConfig(Section):
    """The gateway itself.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        keys: file of API keys (`tts-serve keys add`); without one, whoever reaches the gateway may use it.
        open: listen to other machines without keys.
        usage: file that keeps what the keys have spent over a restart; beside `keys` by default.
        running: requests worked on at once; `waiting`, `waiting_per_key`: those that may wait, others get a 429.
        deadline: seconds a request may take, waiting included; a search ends with the best it has.
        body_bytes: largest request; `body_seconds`, `header_seconds`: how long a client may take to send it.
        connections: open connections at once.
        drain: seconds that work under way is given after SIGTERM.
        choices, parameter, samples, steps: the largest `n` of a request, number in a strategy's parameters, number of
            verifier samples, and number of steps of a solution that is verified.
        verifiers: further verifiers that a request may name.
        log_content: log problems and answers too.
        tls_certificate, tls_key: PEM files, for https.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    keys: str | None = None
    open: bool = False
    usage: str | None = None
    running: Positive = 16
    waiting: Positive = 512
    waiting_per_key: Positive = 256
    deadline: Seconds = 120.0
    body_bytes: Positive = 2**20
    body_seconds: Seconds = 20.0
    header_seconds: Seconds = 10.0
    connections: Positive = 1024
    drain: Seconds = 30.0
    choices: Positive = 16
    parameter: Positive = 256
    samples: Positive = 64
    steps: Positive = 256
    verifiers: tuple[VerifierConfig, ...] = ()
    log_content: bool = False
    tls_certificate: str | None = None
    tls_key: str | None = None

    @field_validator("verifiers", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:  # noqa: ANN401  # whatever the YAML holds
        """A verifier may be given by its name alone."""
        if isinstance(value, list):
            return tuple({"name": each} if isinstance(each, str) else each for each in value)
        return value

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


class GatewayConfig(Config):
    """The configuration of an engine, with the section `serve`."""

    serve: ServeConfig = ServeConfig()
