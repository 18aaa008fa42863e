"""LangChain through the endpoint: a chat model whose answers are searched for.

tts-serve &
python examples/langchain_endpoint.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI


def main(endpoint: str) -> None:
    """A chain of a prompt, a search and a parser."""
    model = ChatOpenAI(
        model="beam/embedded:policy",
        base_url=endpoint,
        api_key="none",  # type: ignore[arg-type]  # LangChain makes it a secret
        seed=1,
        extra_body={"tts": {"n": 8, "verifier_samples": 2, "budget": "tokens=50k"}},
    )
    prompt = ChatPromptTemplate.from_messages([("user", "{name} starts with 12 pens. {name} buys 4 boxes of 7 pens. "
                                                "How many pens has {name} in the end?")])  # fmt: skip
    print((prompt | model | StrOutputParser()).invoke({"name": "Ann"}))
    reply = model.invoke(prompt.invoke({"name": "Zoe"}))
    print("tokens:", reply.response_metadata["token_usage"]["total_tokens"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1")
