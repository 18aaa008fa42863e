"""DSPy takes the best of several attempts, by the verifier's word.

tts-serve &
python examples/dspy_reward.py http://127.0.0.1:8000/v1

The attempts come from the gateway's model through DSPy's own client; any other model would do. The reward is GenPRM's
value of the solution, judged in this process.
"""

from __future__ import annotations

import sys
from typing import Any

import dspy

from tts_engine.adapters.dspy import make_reward
from tts_engine.adapters.hosted import Hosted

PROBLEM = "Mia has 28 shells. 2 friends get 13 shells each from Mia. A magician doubles them. How many shells are left?"
ATTEMPTS = 4


class Plain(dspy.Adapter):  # type: ignore[misc]  # DSPy is untyped
    """The question as it is, the reply as it is: the embedded policy knows no other format."""

    def format(self, signature: Any, demos: Any, inputs: dict[str, Any]) -> list[dict[str, str]]:  # noqa: ANN401
        """One user message."""
        return [{"role": "user", "content": inputs["question"]}]

    def parse(self, signature: Any, completion: str) -> dict[str, str]:  # noqa: ANN401
        """The whole reply."""
        return {"solution": completion}


def main(endpoint: str) -> None:
    """Ask once, then take the best of some attempts."""
    one = {"tts": {"n": 1}}
    lm = dspy.LM(
        "openai/self-consistency/embedded:policy",
        api_base=endpoint,
        api_key="none",
        cache=False,
        temperature=1.0,
        max_tokens=256,
        extra_body=one,
    )
    dspy.configure(lm=lm, adapter=Plain())
    writer = dspy.Predict("question -> solution")
    with Hosted() as engine:
        reward = make_reward(engine, samples=2)
        first = writer(question=PROBLEM)
        print(f"one attempt: {reward({'question': PROBLEM}, first):.2f}", first.solution, sep="\n")
        searcher = dspy.BestOfN(module=writer, N=ATTEMPTS, reward_fn=reward, threshold=0.9)
        best = searcher(question=PROBLEM)
        print(f"best of {ATTEMPTS}: {reward({'question': PROBLEM}, best):.2f}", best.solution, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1")
