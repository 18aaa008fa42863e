"""An agent that speaks the Model Context Protocol: it starts tts-mcp, lists its tools, solves and verifies.

python examples/mcp_client.py
"""

from __future__ import annotations

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters

PROBLEM = "Ann starts with 12 pens. Ann buys 4 boxes of 7 pens. How many pens has Ann in the end?"
WRONG = ["Step 1: packed 4*7=28.", "Step 2: now 12+28=\\boxed{41}."]
SERVER = StdioServerParameters(
    command=sys.executable,
    args=["-m", "tts_engine.cli.mcp", "--set", "budget.per_problem.tokens=50k"],  # or the command tts-mcp
    env=dict(os.environ),
)


async def main() -> None:
    """List the tools, then call both."""
    async with Client(SERVER) as client:
        print("tools:", *(tool.name for tool in (await client.list_tools()).tools))
        solved = await client.call_tool("solve", {"problem": PROBLEM, "strategy": "beam", "n": 8})
        found = solved.structured_content or {}
        print("answer:", found["answer"], "score:", found["score"], "tokens:", found["cost"]["tokens"])
        judged = await client.call_tool("verify", {"problem": PROBLEM, "steps": WRONG, "samples": 2})
        verdict = judged.structured_content or {}
        print("first wrong step of the other solution:", verdict["first_error"], verdict["step_scores"])


if __name__ == "__main__":
    asyncio.run(main())
