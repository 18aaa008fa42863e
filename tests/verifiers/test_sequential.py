"""Votes that stop when they are settled: the same samples as a fixed number, fewer of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tts_engine.calls import Calls
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.compute.stopping import VoteRule
from tts_engine.config import Config
from tts_engine.journal import Journal
from tts_engine.judging import votes
from tts_engine.types import Candidate, Key, Problem, Step, StepJudgement, Verdict
from tts_engine.verifiers.sequential import SequentialJudge
from tts_engine.verifiers.verdicts import make_verdict


@dataclass
class Scripted:
    """Says what the script says: one letter a sample, y, n or ? (unparseable)."""

    script: str
    asked: list[int] = field(default_factory=list)

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        self.asked.append(samples)
        scores = {"y": 0.9, "n": 0.1, "?": None}
        return make_verdict([(StepJudgement(score=scores[c]),) for c in self.script[:samples]], "product")

    def publish(self) -> None: ...

    async def close(self) -> None: ...


def calls() -> Calls:
    journal = Journal.open(None, {}, resume=False)
    return Calls(models={}, journal=journal, scope=Scope.root(Budget()), problem="p")


async def asked_of(script: str, samples: int = 8, rule: VoteRule | None = None) -> tuple[Scripted, Verdict]:
    inner = Scripted(script)
    return inner, await SequentialJudge(rule or VoteRule(error=0.05), inner)(("a",), samples, calls())


async def test_agreement_is_enough_and_doubt_is_followed_up() -> None:
    assert (await asked_of("yyyyyyyy"))[0].asked == [2]
    assert (await asked_of("nnnnnnnn"))[0].asked == [2]
    assert (await asked_of("ynyyyyyy"))[0].asked == [2, 3, 4]
    assert (await asked_of("ynynynyn"))[0].asked[-1] == 8
    assert (await asked_of("yyyyyyyy", rule=VoteRule(error=0.05, test="beta")))[0].asked == [4]


async def test_unparseable_samples_do_not_vote_and_a_shorter_supply_ends_it() -> None:
    inner, verdict = await asked_of("??yyyyyy")
    assert inner.asked[-1] == 4
    assert votes(verdict) == (2, 0)
    inner, verdict = await asked_of("y")  # the money is gone after one sample
    assert inner.asked == [2]
    assert votes(verdict) == (1, 0)


async def test_candidates_go_to_judges_that_look_at_them() -> None:
    problem = Problem(id="p", prompt="?")
    candidate = Candidate(problem=problem, key=Key(0), steps=(Step(text="a"),))
    judge = SequentialJudge(VoteRule(error=0.05), Scripted("nnn"))
    assert votes(await judge.judge(candidate, 8, calls())) == (0, 2)


def test_the_configuration_takes_the_rule() -> None:
    auto = Config.build({"verifier": {"samples": "auto:16:0.02"}})
    assert auto.verifier.samples == 16
    assert auto.verifier.rule == VoteRule(most=16, error=0.02)
    assert Config.build({"verifier": {"samples": 16}}).verifier.rule is None
    assert auto.digest() != Config.build({"verifier": {"samples": 16}}).digest()
    again = Config.build(auto.model_dump(mode="json"))
    assert again == auto
