"""Any chat model as judge: it critiques the solution and boxes the first wrong paragraph, or a grade."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from tts_engine.calls import Calls
from tts_engine.formats import critic as form
from tts_engine.types import Finish, Key, Problem, Prompt, Request, Role, Sampling, StepJudgement
from tts_engine.verifiers.prefix import Opinion, PrefixJudge

TASKS = {"index": form.INDEX_TASK, "grade": form.GRADE_TASK}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatJudge:
    """The verifier.

    Attributes:
        model: name of the verifier model in the engine.
        sampling: temperature and the like.
        ask: `index` asks for the first wrong paragraph (ProcessBench's critic prompt; a sample's value is 1 where it
            finds none, else 0), `grade` for a grade of the whole from 0 to 10.
        tokens: bound of one critique, in tokens; one that is cut off is unparseable.
    """

    model: str
    sampling: Sampling
    ask: Literal["index", "grade"] = "index"
    tokens: Annotated[int, Field(ge=1)] = 2048

    @property
    def cost_ratio(self) -> float:
        return 2.0

    def open(self, problem: Problem, key: Key) -> PrefixJudge:
        async def read(steps: tuple[str, ...], key: Key, calls: Calls) -> Opinion:
            return await self._critique(problem, steps, key, calls)

        return PrefixJudge(read, key)

    async def _critique(self, problem: Problem, steps: tuple[str, ...], key: Key, calls: Calls) -> Opinion:
        request = Request(
            role=Role.VERIFY,
            model=self.model,
            prompt=Prompt(messages=form.messages(problem.prompt, steps, TASKS[self.ask])),
            sampling=replace(self.sampling, max_tokens=self.tokens),
            key=key,
        )
        completion = await calls.complete(request)
        text = completion.text if completion.finish is not Finish.LENGTH else ""
        value, located = self._read(text, len(steps))
        said = StepJudgement(score=value, rationale=completion.text, analysis=text.strip(), usage=completion.usage)
        return Opinion(value=value, said=said, steps=located)

    def _read(self, text: str, steps: int) -> tuple[float | None, tuple[bool, ...]]:
        """Value and step verdicts of a critique."""
        if self.ask == "grade":
            return form.grade_of(text), ()
        index = form.index_of(text, steps)
        if index is None:
            return None, ()
        return (1.0, (True,) * steps) if index < 0 else (0.0, (*(True,) * index, False))
