"""A server of the Model Context Protocol: the tools `solve` and `verify` over one engine (needs the extra `mcp`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from tts_engine import __version__
from tts_engine.adapters.hosted import judge
from tts_engine.adapters.told import Solved, Verified, solved, verified
from tts_engine.compute.ledger import Scope
from tts_engine.config import Config
from tts_engine.errors import TTSError
from tts_engine.garbage import collected_rarely
from tts_engine.run import Engine, Event
from tts_engine.together import end

Text = Annotated[str, Field(min_length=1, max_length=100_000)]
Width = Annotated[int, Field(ge=1, le=256)]
Samples = Annotated[int, Field(ge=1, le=64)]
Steps = Annotated[list[Text], Field(min_length=1, max_length=256)]
TELL_EVERY = 0.5
"""Seconds between two progress notifications of a call."""
INSTRUCTIONS = """\
`solve` searches for the answer to a problem with a language model and a verifier that checks each step; `verify` checks
a solution that is there already and says which step is wrong first. More candidates and samples cost more; `budget`
bounds it.
"""


class Tools:
    """What the server offers, over a running engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def solve(
        self,
        context: Context[Any],
        problem: Text,
        strategy: str | None = None,
        n: Width | None = None,
        verifier_samples: Samples | None = None,
        budget: str | None = None,
        seed: int | None = None,
    ) -> Solved:
        """Solve a problem by search with a verifier that checks each step.

        Args:
            problem: the question, with all that is needed to answer it.
            strategy: best-of-n, beam, mcts, self-consistency (no verifier), ...
            n: candidate solutions.
            verifier_samples: judgements of each candidate.
            budget: what both models together may take, such as "tokens=20k,seconds=30".
            seed: of all random draws.
        """
        params: dict[str, Any] = {} if n is None else {"n": n}
        ended: set[str] = set()

        def hear(event: Event) -> None:
            if event.kind == "node" and event.data["node"]["done"]:
                ended.add(event.data["node"]["id"])

        with anticipated(), self._engine.ledger.child("call") as scope:
            async with reporting(context, scope, ended):
                outcome = await self._engine.solve(
                    problem,
                    strategy=strategy,
                    verifier_samples=verifier_samples,
                    budget=budget,
                    seed=seed,
                    account=scope,
                    on_event=hear,
                    **params,
                )
            return solved(outcome)

    async def verify(
        self, context: Context[Any], problem: Text, steps: Steps, samples: Samples | None = None
    ) -> Verified:
        """Check a solution that is there already, step by step; tells which step is wrong first.

        Args:
            problem: the question.
            steps: the solution, in order, one text a step.
            samples: judgements; the scores are their means.
        """
        with anticipated(), self._engine.ledger.child("call") as scope:
            async with reporting(context, scope):
                verdict = await judge(self._engine, problem, steps, samples, scope)
            return verified(verdict)


@asynccontextmanager
async def reporting(context: Context[Any], scope: Scope, ended: Collection[str] = ()) -> AsyncIterator[None]:
    """Tell the client, where it asked for that, how far a call is: now and then, and when its work is done.

    Args:
        scope: pays for the call; the progress is the tokens that it has spent (how many it will be nobody knows).
        ended: the candidates that have ended so far.
    """
    told = 0

    async def tell() -> None:
        nonlocal told
        spent = scope.total
        if spent.tokens > told:  # progress must increase
            told = spent.tokens
            candidates = f", {len(ended)} candidates ended" if ended else ""
            await context.report_progress(told, message=f"{told:,} tokens in {spent.calls} calls{candidates}")

    async def ticking() -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            await tell()

    ticker = asyncio.create_task(ticking())
    try:
        yield
    finally:
        await end(ticker)
    await tell()


@contextmanager
def anticipated() -> Iterator[None]:
    """What the engine refuses, or fails at, is told to the model that called; the server goes on."""
    try:
        yield
    except TTSError as error:
        raise ToolError(str(error)) from error


def make_server(engine: Engine) -> MCPServer:
    """The server over a running engine."""
    server = MCPServer("tts-engine", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING")
    tools = Tools(engine)
    server.tool(structured_output=True)(tools.solve)
    server.tool(structured_output=True)(tools.verify)
    return server


async def serve(config: Config) -> None:
    """Serve standard input and output until the client closes them.

    Raises:
        UsageError: the configuration names something that does not exist or fit.
    """
    async with Engine(config, keep=False) as engine:
        with collected_rarely():
            await make_server(engine).run_stdio_async()
