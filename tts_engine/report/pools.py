"""Recorded samples of a problem, arranged for subsampling: who was right, who agrees with whom, what each one cost.

A pool is what one arm (a policy with a verifier) drew for one problem, under any number of seeds: N solutions, and for
each different text the chains of judgements it got. Every smaller configuration is a subset of it (subsample.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts_engine.errors import DataError
from tts_engine.formats.answers import group_answers
from tts_engine.report.sharing import Cost, known_units, of_first_chain, paid_for_all
from tts_engine.report.summary import is_right
from tts_engine.types import Aggregation, Judged, Outcome, Usage, Verdict

Array = NDArray[np.float64]
UNITS = ("tokens", "flops", "seconds", "dollars", "chars")
"""What cost is measured in: as in budgets (seconds are those of the calls, added up), and characters written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A policy with a verifier, under a name.

    Attributes:
        verifier: None where solutions were not judged.
        aggregation: how the scores of the steps become one value.
        config: the engine's configuration that would draw such samples; None where it is not known.
        each: judgements that one recorded chain stands for: more than 1 where only their common value is known.
        vocabularies: sizes of the models' vocabularies, as far as they are known: tokens of different vocabularies do
            not add up.
    """

    name: str
    policy: str = ""
    verifier: str | None = None
    aggregation: Aggregation = "product"
    each: int = 1
    config: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)
    vocabularies: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One problem's samples: N solutions with T different texts.

    Attributes:
        right: [N] whether the answer is right.
        answer: [N] number of the answer's class; -1 where there is no answer.
        text: [N] number of the text; solutions with equal texts are judged, and paid for, once.
        generate: [N, units] what each solution cost, without `once`; nan where it was not recorded.
        once: [2, units] what a run pays once: the prompt that its solutions share, and that its judgements share.
        chains: for each text, [chains, steps] the scores of its steps, nan where a chain did not get or was invalid.
        verify: [prefixes, 2, units] what the first chain took to judge the last step of each prefix, without `once`,
            and what each of the others did, on average. A prefix that several solutions begin with is judged, and
            paid for, once.
        paths: for each text, the numbers of its judged prefixes.
        sure: [N] the policy's own confidence, exp(mean logprob); nan where it was not recorded.
        depth: K, the chains that a solution was judged by; 0 where none was. A text has more of them where it was drawn
            under several seeds, and fewer where judgements failed.
    """

    problem: str
    level: str = ""
    right: NDArray[np.bool_]
    answer: NDArray[np.int64]
    text: NDArray[np.int64]
    generate: Array
    once: Array
    chains: tuple[Array, ...]
    verify: Array
    paths: tuple[NDArray[np.int64], ...]
    sure: Array
    depth: int

    @property
    def size(self) -> int:
        """N."""
        return len(self.right)

    def part(self, chosen: Sequence[int]) -> Pool:
        """The pool of some of the solutions."""
        index = np.asarray(chosen, dtype=np.int64)
        texts, renumbered = np.unique(self.text[index], return_inverse=True)
        return Pool(
            problem=self.problem,
            level=self.level,
            right=self.right[index],
            answer=self.answer[index],
            text=renumbered,
            generate=self.generate[index],
            once=self.once,
            chains=tuple(self.chains[text] for text in texts),
            verify=self.verify,
            paths=tuple(self.paths[text] for text in texts),
            sure=self.sure[index],
            depth=self.depth,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One recorded solution, in plain values.

    Attributes:
        answer: None where it has none.
        right: the verdict; None where nobody knows.
        chains: scores of the steps by each chain (None: invalid); empty where it was not judged.
        generate: cost by unit, unknown ones left out.
        verify: the same of all chains together, for each judged step; or one for all steps, where no more is known.
        first: of these, the first chain's; empty where it is not known.
        shared: of `generate`, and of `first`, what this one computed for all samples of its run (sharing.py).
        prefixes: a name for each step and all before it; empty stands for the whole text.
    """

    text: str
    answer: str | None
    right: bool | None
    chains: Sequence[Sequence[float | None]] = ()
    generate: Mapping[str, float] = field(default_factory=dict)
    verify: Sequence[Mapping[str, float]] = ()
    first: Sequence[Mapping[str, float]] = ()
    shared: Sequence[Mapping[str, float]] = ({}, {})
    prefixes: Sequence[str] = ()
    sure: float = math.nan


def make_pool(problem: str, samples: Sequence[Sample], level: str = "") -> Pool:
    """Arrange samples of one problem; equal texts share their chains and a grader says which answers are the same.

    Raises:
        DataError: a sample without a verdict.
    """
    if not samples or any(sample.right is None for sample in samples):
        raise DataError(
            f"the samples of problem {problem} have no verdicts; give recordings that say which answers are right,"
            " or the problems' answers"
        )
    classes = np.full(len(samples), -1, dtype=np.int64)
    for number, group in enumerate(group_answers([sample.answer for sample in samples])):
        classes[group] = number
    numbers = {text: i for i, text in enumerate(dict.fromkeys(sample.text for sample in samples))}
    judged = [[s for s in samples if s.text == text and s.chains] for text in numbers]
    costs, paths = _prefixes(judged)
    return Pool(
        problem=problem,
        level=level,
        right=np.array([bool(sample.right) for sample in samples]),
        answer=classes,
        text=np.array([numbers[sample.text] for sample in samples]),
        generate=np.array([units(sample.generate) - _share(sample, 0) for sample in samples]),
        once=np.array([_once(samples, role) for role in (0, 1)]),
        chains=tuple(chain_array([chain for s in group for chain in s.chains]) for group in judged),
        verify=costs,
        paths=paths,
        sure=np.array([sample.sure for sample in samples]),
        depth=max(len(sample.chains) for sample in samples),
    )


def chain_array(chains: Sequence[Sequence[float | None]]) -> Array:
    """[chains, steps], nan where a chain did not get or gave no score."""
    array = np.full((len(chains), max(map(len, chains), default=0)), np.nan)
    for row, chain in zip(array, chains, strict=True):
        row[: len(chain)] = [np.nan if score is None else score for score in chain]
    return array


def chain_values(chains: Array, taken: Array, aggregation: Aggregation) -> Array:
    """[draws] the value by the chains that each row of `taken` [draws, chains] marks, as `verdicts.make_verdict`.

    A step's score is the mean over the chains that scored it; the value ends before the first step that none did.
    """
    if not chains.size:
        return np.full(len(taken), np.nan)
    known = ~np.isnan(chains)
    count = taken @ known
    reached = np.logical_and.accumulate(count > 0, axis=1)
    scores = (taken @ np.where(known, chains, 0.0)) / np.maximum(count, 1)
    steps = reached.sum(axis=1)
    found = _AGGREGATE[aggregation](np.where(reached, scores, np.nan), steps)
    return np.where(steps > 0, found, np.nan)


def _last(scores: Array, steps: NDArray[np.int64]) -> Array:
    last: Array = scores[np.arange(len(scores)), np.maximum(steps - 1, 0)]
    return last


_AGGREGATE: Mapping[str, Callable[[Array, NDArray[np.int64]], Array]] = MappingProxyType({
    "last": _last,
    "mean": lambda scores, steps: np.nansum(scores, axis=1) / np.maximum(steps, 1),
    "min": lambda scores, steps: np.fmin.reduce(scores, axis=1),
    "product": lambda scores, steps: np.nanprod(scores, axis=1),
})  # fmt: skip


def _prefixes(texts: Sequence[Sequence[Sample]]) -> tuple[Array, tuple[NDArray[np.int64], ...]]:
    """Mean cost of the first chain and of another at each judged prefix, and the prefixes of each text, from the judged
    samples of it."""
    costs: dict[str, list[Array]] = {}
    named: list[dict[str, None]] = []
    for samples in texts:
        named.append({})
        for sample in samples:
            names = sample.prefixes[: len(sample.verify)] or [f"text: {sample.text}"]
            for name, found in zip(names, _by_chain(sample), strict=True):
                costs.setdefault(name, []).append(found)
                named[-1][name] = None
    places = {name: place for place, name in enumerate(costs)}
    means = np.array([np.mean(found, axis=0) for found in costs.values()]).reshape(len(costs), 2, len(UNITS))
    return means, tuple(np.array([places[name] for name in names], dtype=np.int64) for names in named)


def _by_chain(sample: Sample) -> list[Array]:
    """For each step, [2, units]: what the first chain took, without what it computed for all, and the others' mean."""
    found = []
    for step, both in enumerate(sample.verify or [{}]):
        total, others = units(both), len(sample.chains) - 1
        if not sample.first:
            first = total / len(sample.chains)
        else:  # the first chain may have ended before
            first = units(sample.first[step]) if step < len(sample.first) else total * 0.0
        rest = (total - first) / others if others else first
        found.append(np.array([first - (_share(sample, 1) if step == 0 and sample.first else 0.0), rest]))
    return found


def _share(sample: Sample, role: int) -> Array:
    """[units] what a sample computed for all others of its run."""
    return np.nan_to_num(units(sample.shared[role]))


def _once(samples: Sequence[Sample], role: int) -> Array:
    """[units] mean over the runs in which one sample paid for all."""
    paid = [_share(sample, role) for sample in samples if sample.shared[role]]
    return np.mean(paid, axis=0) if paid else np.zeros(len(UNITS))


def units(cost: Mapping[str, float]) -> Array:
    """[units] a cost, nan where it is unknown."""
    return np.array([cost.get(unit, np.nan) for unit in UNITS])


def reproducible(outcomes: Iterable[Outcome], aggregation: Aggregation) -> bool:
    """Whether every verdict's value follows from its samples; if not (the value was calibrated, or is no function of
    step scores), fewer samples than were taken cannot be evaluated."""
    verdicts = [judged.verdict for outcome in outcomes for judged in outcome.candidates if judged.verdict]
    return all(_follows(verdict, aggregation) for verdict in verdicts)


def _follows(verdict: Verdict, aggregation: Aggregation) -> bool:
    chains = chain_array([[turn.score for turn in chain] for chain in verdict.samples])
    if verdict.value is None:
        return not chains.size or bool(np.isnan(chains[:, 0]).all())
    return math.isclose(chain_values(chains, np.ones((1, len(chains))), aggregation)[0], verdict.value, abs_tol=1e-9)


def samples_of(outcome: Outcome, *, single: bool = False) -> list[Sample]:
    """The solutions of an outcome of independent whole samples; equal texts keep the chains of the first.

    Args:
        single: a verdict's value is taken as the score of its only chain.

    Raises:
        DataError: there is no reference to grade by.
    """
    if outcome.problem.answer is None:
        raise DataError(f"problem {outcome.problem.id} has no reference answer, so nothing can be compared; add it")
    found: list[Sample] = []
    verdicts: dict[int, Verdict] = {}
    seen: set[str] = set()
    for place, judged in enumerate(outcome.candidates):
        text = judged.candidate.text
        if judged.verdict and text not in seen:
            verdicts[place] = judged.verdict
        right = bool(is_right(judged.candidate.answer, outcome.problem.answer))
        found.append(_sample(judged, verdicts.get(place), right, single))
        seen.add(text)
    return _with_shares(found, outcome, verdicts)


def _with_shares(samples: list[Sample], outcome: Outcome, verdicts: Mapping[int, Verdict]) -> list[Sample]:
    """The samples with what one of them computed for all."""
    candidates = [judged.candidate for judged in outcome.candidates]
    beginnings: dict[str, int] = {}
    for place in verdicts:
        if samples[place].first:
            beginnings.setdefault(candidates[place].steps[0].text, place)
    payers = list(beginnings.values())
    drawn = paid_for_all([candidate.usage for candidate in candidates])
    judging = paid_for_all([verdicts[place].samples[0][0].usage for place in payers])
    shared: dict[int, list[Cost]] = {}
    if drawn:
        shared.setdefault(drawn[0], [{}, {}])[0] = drawn[1]
    if judging:
        shared.setdefault(payers[judging[0]], [{}, {}])[1] = judging[1]
    return [replace(sample, shared=shared.get(i, sample.shared)) for i, sample in enumerate(samples)]


def _sample(judged: Judged, verdict: Verdict | None, right: bool, single: bool) -> Sample:
    candidate = judged.candidate
    chains: Sequence[Sequence[float | None]] = ()
    first: Sequence[Cost] = ()
    if verdict is not None:
        chains = [[verdict.value]] if single else [[turn.score for turn in chain] for chain in verdict.samples]
        first = () if single else of_first_chain(verdict)
    costs = _by_step(verdict) if verdict else []
    texts = [step.text for step in candidate.steps]
    names = [_name(texts[: i + 1]) for i in range(len(costs))]
    told = sum(turn.usage.tokens for chain in verdict.samples for turn in chain) if verdict else 0
    if verdict and told != verdict.usage.tokens:
        costs, first, names = [known_units(verdict.usage, 0)], (), []  # the judgements do not tell what each took
    return Sample(
        text=candidate.text,
        answer=candidate.answer,
        right=right,
        chains=chains,
        generate=known_units(candidate.usage, len(candidate.text)),
        verify=costs,
        first=first,
        prefixes=names,
        sure=math.exp(candidate.mean_logprob),
    )


def _by_step(verdict: Verdict) -> list[dict[str, float]]:
    """Cost of each step's judgements, all chains together."""
    depth = max(map(len, verdict.samples), default=0)
    turns = [[chain[i] for chain in verdict.samples if len(chain) > i] for i in range(depth)]
    return [
        known_units(sum((turn.usage for turn in step), Usage()), sum(len(turn.rationale) for turn in step))
        for step in turns
    ]


def _name(steps: Sequence[str]) -> str:
    return hashlib.blake2b("\x1e".join(steps).encode(), digest_size=8).hexdigest()
