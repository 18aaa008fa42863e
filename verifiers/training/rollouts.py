"""Solutions sampled from a policy checkpoint, through the project's own backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tts_engine.backends.local import LocalBackend
from tts_engine.formats import policy
from tts_engine.types import Finish, Key, Request, Role, Sampling

SAMPLING = Sampling(temperature=1.0, max_tokens=160)


def sample_solutions(
    checkpoint: Path, problems: Sequence[str], per_problem: int, *, seed: int, device: str = "auto", threads: int = 1
) -> list[list[tuple[str, ...]]]:
    """Steps of `per_problem` solutions to each problem at temperature 1; those that were cut off are left out."""
    return asyncio.run(_sample(checkpoint, problems, per_problem, seed, device, threads))


async def _sample(
    checkpoint: Path, problems: Sequence[str], per_problem: int, seed: int, device: str, threads: int
) -> list[list[tuple[str, ...]]]:
    async with LocalBackend(checkpoint, name="policy", device=device, threads=threads) as backend:

        async def solve(problem: str, number: int) -> tuple[str, ...] | None:
            key = Key(seed, ("rollout", problem, number))
            request = Request(
                role=Role.GENERATE, model="policy", prompt=policy.solve_prompt(problem), sampling=SAMPLING, key=key
            )
            completion = await backend.complete(request)
            return policy.split_steps(completion.text) if completion.finish is Finish.EOS else None

        async def solve_all(problem: str) -> list[tuple[str, ...]]:
            solutions = await asyncio.gather(*(solve(problem, number) for number in range(per_problem)))
            return [steps for steps in solutions if steps is not None]

        return await asyncio.gather(*(solve_all(problem) for problem in problems))
