"""The peers' side of benchmarks/peers.py, run by an interpreter that has the peer: PEER URL WORK, WORK in JSON.

Each peer is used as its documentation shows. What a peer leaves to its user (the scorer's call, the policy's call) is
written here as fast as the peer allows: calls that it hands over together go out together.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Json = Any
INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
END = "boxed"
WIDTH = 4


class Sync:
    """The server for peers that call one after the other: a connection pool and threads."""

    def __init__(self, url: str) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=512)
        self._client = httpx.Client(base_url=url, timeout=600, limits=limits)
        self._threads = ThreadPoolExecutor(64)

    def say(self, problem: str, steps: Sequence[str], stop: str | None) -> str:
        body = chat(problem, steps, stop)
        return str(self._client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])

    def several(self, problem: str, steps: Sequence[str], stop: str | None, n: int) -> list[str]:
        return list(self._threads.map(lambda _: self.say(problem, steps, stop), range(n)))

    def score(self, problem: str, steps: Sequence[str]) -> list[float]:
        return list(self._client.post("/score", json={"problem": problem, "steps": list(steps)}).json()["scores"])


class Async:
    """The server for peers that leave the calling to an event loop."""

    def __init__(self, url: str) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0))

    async def post(self, path: str, body: Json) -> Json:
        async with self._session.post(path, json=body) as response:
            return await response.json()

    async def say(self, problem: str, steps: Sequence[str], stop: str | None) -> str:
        answer = await self.post("/v1/chat/completions", chat(problem, steps, stop))
        return str(answer["choices"][0]["message"]["content"])

    async def score(self, problem: str, steps: Sequence[str]) -> list[float]:
        return list((await self.post("/score", {"problem": problem, "steps": list(steps)}))["scores"])

    async def close(self) -> None:
        await self._session.close()


def chat(problem: str, steps: Sequence[str], stop: str | None) -> Json:
    messages = [{"role": "user", "content": problem + INSTRUCTION}]
    if steps:
        messages.append({"role": "assistant", "content": "".join(f"{step}\n" for step in steps)})
    return {"model": "policy", "messages": messages, "stop": stop, "continue_final_message": True}


async def its_hub(url: str, work: Json, problems: Sequence[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    from its_hub.api import AbstractOutcomeRewardModel, AbstractProcessRewardModel
    from its_hub.core.algorithms.beam_search import BeamSearch
    from its_hub.core.algorithms.bon import BestOfN
    from its_hub.core.algorithms.self_consistency import SelfConsistency
    from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
    from its_hub.core.lms.step_generation import StepGeneration
    from its_hub.core.orchestrator import LMOrchestrator

    server = Async(url)

    class Steps(AbstractProcessRewardModel):  # type: ignore[misc]
        async def ascore(self, prompt: Json, responses: list[str]) -> list[float]:
            problem = str(prompt).removesuffix(INSTRUCTION)
            scores = await asyncio.gather(*(server.score(problem, text.split("\n")) for text in responses))
            return [each[-1] for each in scores]

        def score(self, prompt: Json, responses: list[str]) -> list[float]:
            raise NotImplementedError

    class Whole(AbstractOutcomeRewardModel):  # type: ignore[misc]
        async def ascore(self, messages: Json, orchestrator: Json = None, **_: Json) -> list[float]:
            texts = [(said[0].content.removesuffix(INSTRUCTION), said[-1].content.split("\n")) for said in messages]
            return [each[-1] for each in await asyncio.gather(*(server.score(*text) for text in texts))]

        def score(self, messages: Json, **_: Json) -> list[float]:
            raise NotImplementedError

    model = OpenAICompatibleLanguageModel(endpoint=f"{url}/v1", api_key="none", model_name="policy")
    algorithm = {
        "beam": lambda: BeamSearch(StepGeneration(max_steps=8, step_token="\n", stop_token=END), Steps(), WIDTH),
        "best-of-n": lambda: BestOfN(Whole(), LMOrchestrator(max_concurrency=-1)),
        "self-consistency": lambda: SelfConsistency(orchestrator=LMOrchestrator(max_concurrency=-1)),
    }[work["algorithm"]]()
    await BestOfN(Whole(), LMOrchestrator(max_concurrency=-1)).ainfer(model, problems[0] + INSTRUCTION, 1)
    started, cpu = time.monotonic(), time.process_time()
    for start in range(0, len(problems), work["at_once"]):
        now = problems[start : start + work["at_once"]]
        await asyncio.gather(*(algorithm.ainfer(model, problem + INSTRUCTION, work["n"]) for problem in now))
    took = time.monotonic() - started, time.process_time() - cpu
    await server.close()
    await model.close()
    return took


async def treequest(
    url: str, work: Json, problems: Sequence[str], algorithm: str = "StandardMCTS"
) -> tuple[float, float]:
    """Up to eight simulations at a time, as ours: the peer hands out a batch, all of it is under way at once.

    Where none of them has reached an answer, the best state is completed, as our search does.
    """
    import treequest as library

    server = Async(url)
    search = library.StandardMCTS(samples_per_action=4) if algorithm == "StandardMCTS" else library.ABMCTSA()

    async def simulate(problem: str, steps: list[str] | None) -> tuple[list[str], float]:
        before = steps or []
        if before and END in before[-1]:
            return before, (await server.score(problem, before))[-1]
        after = [*before, (await server.say(problem, before, "\n")).strip()]
        return after, (await server.score(problem, after))[-1]

    async def solve(problem: str) -> None:
        state, done = search.init_tree(), 0
        while done < work["n"]:
            state, trials = search.ask_batch(state, min(8, work["n"] - done), ["step"])
            nodes = [state.tree.get_node(trial.node_to_expand) for trial in trials]
            results = await asyncio.gather(*(simulate(problem, node.state) for node in nodes))
            for trial, result in zip(trials, results, strict=True):
                state = search.tell(state, trial.trial_id, result)
            done += len(trials)
        ((best, _),) = library.top_k(state, search, 1, ended_first)
        if END not in best[-1]:  # everybody ends with an answer
            await server.say(problem, best, None)

    def ended_first(pairs: Json) -> Json:
        return sorted(pairs, key=lambda pair: (END in pair[0][-1], pair[1]), reverse=True)

    await simulate(problems[0], None)
    started, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*map(solve, problems))
    took = time.monotonic() - started, time.process_time() - cpu
    await server.close()
    return took


def crucible(url: str, work: Json, problems: Sequence[str]) -> tuple[float, float]:
    """Sequential by design; its n samples of a step go out together, and problems run in threads."""
    from crucible.config import RunConfig
    from crucible.domain.types import Compute, Problem, Step, Trace
    from crucible.search.beam import BeamStrategy
    from crucible.search.best_of_n import BestOfNStrategy
    from crucible.search.mcts import MCTSStrategy

    server = Sync(url)

    class Policy:
        name = "policy"

        def sample_full(self, problem: Json, *, n: int, **_: Json) -> list[Json]:
            texts = server.several(problem.prompt, [], None, n)
            return [Trace([Step(line, 12) for line in text.split("\n")], None, Compute()) for text in texts]

        def sample_step(self, problem: Json, prefix: Sequence[Json], *, n: int, **_: Json) -> list[Json]:
            texts = server.several(problem.prompt, [step.text for step in prefix], "\n", n)
            return [Step(text.strip(), 12) for text in texts]

    class Scorer:
        name = "judge"

        def score_steps(self, problem: Json, prefix: Sequence[Json]) -> list[float]:
            return server.score(problem.prompt, [step.text for step in prefix])

    n = work["n"]
    config = RunConfig(n=n, selection="prm", prm="judge", prm_aggregate="last", beam_width=n // WIDTH)
    config.beam_expansions, config.budget_tokens = WIDTH, 10**9
    config.mcts_max_sims = n // WIDTH
    strategy = {"beam": BeamStrategy, "mcts": MCTSStrategy, "best-of-n": BestOfNStrategy}[work["algorithm"]]()
    return threaded(
        problems, lambda text: strategy.search(Problem("p", text), Policy(), None, Scorer(), config), server
    )


def reasoners(url: str, work: Json, problems: Sequence[str]) -> tuple[float, float]:
    """llm-reasoners: a world model and a search configuration; its n actions of a state go out together."""
    from reasoners import SearchConfig, WorldModel
    from reasoners.algorithm import MCTS, BeamSearch

    server = Sync(url)

    class World(WorldModel):  # type: ignore[misc]
        def init_state(self) -> tuple[str, ...]:
            return ()

        def step(self, state: tuple[str, ...], action: str) -> tuple[tuple[str, ...], Json]:
            return (*state, action), {}

        def is_terminal(self, state: tuple[str, ...]) -> bool:
            return bool(state) and END in state[-1]

    class Config(SearchConfig):  # type: ignore[misc]
        def get_actions(self, state: tuple[str, ...]) -> list[str]:
            return [text.strip() for text in server.several(self.example, state, "\n", WIDTH)]

        def fast_reward(self, state: tuple[str, ...], action: str) -> tuple[float, Json]:
            return server.score(self.example, [*state, action])[-1], {}

        def reward(self, state: tuple[str, ...], action: str, **_: Json) -> tuple[float, Json]:
            return server.score(self.example, [*state, action])[-1], {}

    def solve(text: str) -> None:
        world, config = World(), Config()
        config.update_example(text)
        if work["algorithm"] == "mcts":
            MCTS(n_iters=work["n"] // WIDTH, depth_limit=8)(world, config)
        else:
            BeamSearch(beam_size=work["n"] // WIDTH, max_depth=8)(world, config)

    return threaded(problems, solve, server)


def threaded(problems: Sequence[str], solve: Callable[[str], object], server: Sync) -> tuple[float, float]:
    """All problems at once, each in a thread."""
    server.score(problems[0], ["Step 1: 1+1=2."])
    started, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(len(problems)) as pool:
        list(pool.map(solve, problems))
    return time.monotonic() - started, time.process_time() - cpu


def main() -> None:
    warnings.simplefilter("ignore")
    peer, url, work = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    random.seed(work["seed"])
    problems = list(work["texts"])
    if peer == "its_hub":
        seconds, cpu = asyncio.run(its_hub(url, work, problems))
    elif peer.startswith("treequest"):
        seconds, cpu = asyncio.run(treequest(url, work, problems, peer.partition(":")[2] or "StandardMCTS"))
    else:
        seconds, cpu = {"crucible": crucible, "llm-reasoners": reasoners}[peer](url, work, problems)
    print(json.dumps({"seconds": seconds, "cpu": cpu}))


if __name__ == "__main__":
    main()
