"""The process: engine, gateway and HTTP server, from start to drain."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tts_engine import loop
from tts_engine.errors import ConfigError, DataError
from tts_engine.garbage import collected_rarely
from tts_engine.run import Engine
from tts_engine.serve.accounts import Accounts
from tts_engine.serve.app import Gateway, make_app
from tts_engine.serve.logs import LOG, say, to_stderr
from tts_engine.serve.settings import GatewayConfig, ServeConfig

SAVE_EVERY = 10.0
"""Seconds after which what the keys have spent is written down."""


def check(settings: ServeConfig) -> None:
    """Refuse to be reached from elsewhere by anyone.

    Raises:
        ConfigError: that is what the settings say.
    """
    if not settings.local and settings.keys is None and not settings.open:
        raise ConfigError(
            f"{settings.host} can be reached from other machines: make keys with `tts-serve keys add` and give --keys"
            " (or --open, to let anyone use it)"
        )
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise ConfigError("TLS needs both serve.tls_certificate and serve.tls_key")


async def serve(config: GatewayConfig, started: Callable[[str], None]) -> None:
    """Run the gateway until a signal stops it.

    Args:
        started: is told the address when requests are taken.

    Raises:
        UsageError: the configuration makes no sense, or the address is taken.
    """
    settings = config.serve
    check(settings)
    to_stderr()
    async with Engine(config, keep=False, verifiers=settings.verifiers) as engine:
        accounts = Accounts(engine.ledger, *_files(settings))
        gateway = Gateway(engine, settings, accounts)
        server = Server(gateway, uvicorn_config(gateway))
        saving = asyncio.create_task(_save(accounts))
        try:
            with collected_rarely():
                await server.run_until_stopped(started)
        finally:
            saving.cancel()
            accounts.save()
    say("stopped", tokens=engine.ledger.total.tokens)


def uvicorn_config(gateway: Gateway) -> uvicorn.Config:
    """How the HTTP server is set up."""
    settings = gateway.settings

    class Protocol(Impatient):
        header_seconds = settings.header_seconds

    return uvicorn.Config(
        make_app(gateway),
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.drain)),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


class Server(uvicorn.Server):
    """uvicorn that drains: after a signal it takes nothing new, and ends with what is under way."""

    def __init__(self, gateway: Gateway, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def run_until_stopped(self, started: Callable[[str], None]) -> None:
        """Serve; a second signal ends it at once.

        Raises:
            DataError: the address cannot be listened to.
        """
        settings = self._gateway.settings
        try:
            sockets = [self.config.bind_socket()]
        except SystemExit:
            raise DataError(f"cannot listen on {settings.host} port {settings.port}: choose another --port") from None
        sockets[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each answer's body waits 40 ms for an ACK
        scheme = "https" if settings.tls_certificate else "http"
        host, port = sockets[0].getsockname()[:2]
        serving = asyncio.create_task(self.serve(sockets))
        while not self.started and not serving.done():
            await asyncio.sleep(0.01)
        if self.started:
            started(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        await serving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a second signal means now."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = self._gateway.door.draining = True


class Impatient(HttpToolsProtocol):
    """Closes connections on which no whole header arrives in time: those half open, and those of very slow clients."""

    header_seconds = 10.0
    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401  # as the base class has it
        super().connection_made(transport)
        self._alarm = self.loop.call_later(self.header_seconds, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._alarm is None:
            self._alarm = self.loop.call_later(self.header_seconds, self._too_slow)

    def on_headers_complete(self) -> None:
        self._quiet()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._quiet()
        super().connection_lost(exc)

    def _quiet(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _too_slow(self) -> None:
        self._alarm = None
        self.transport.close()


def _files(settings: ServeConfig) -> tuple[Path | None, Path | None]:
    """Where keys and what they have spent are kept."""
    if settings.keys is None:
        return None, None
    path = Path(settings.keys).expanduser()
    return path, Path(settings.usage).expanduser() if settings.usage else path.with_suffix(".usage.json")


async def _save(accounts: Accounts) -> None:
    while True:
        await asyncio.sleep(SAVE_EVERY)
        try:
            accounts.save()
        except DataError:
            LOG.exception("usage not saved")


def run(config: GatewayConfig) -> int:
    """The gateway, from a terminal."""

    def started(address: str) -> None:
        sys.stdout.write(f"tts-serve: listening on {address} (Ctrl-C stops)\n")
        sys.stdout.flush()

    loop.run(serve(config, started))
    return 0
