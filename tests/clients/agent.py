"""Runs agents of an agent framework (Pydantic AI), unmodified: only the base URL is ours.

  python agent.py --base-url http://127.0.0.1:8080/v1 --key sk-… [--api responses]
"""

import argparse
import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

APIS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}


class Harbour(BaseModel):
    """A harbour and how much of it there is."""

    name: str
    berths: int


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--api", choices=APIS, default="chat")
    args = parser.parse_args()
    provider = OpenAIProvider(base_url=args.base_url, api_key=args.key)
    model = APIS[args.api]("sim-small", provider=provider)

    # The framework makes a tool of the type, and asks again until its arguments fit.
    found = await Agent(model, output_type=Harbour).run("Which harbour is the largest?")
    assert isinstance(found.output, Harbour), found
    assert found.usage().output_tokens > 0, found.usage()

    # A conversation, whose first part goes along with the second question.
    agent = Agent(model, instructions="Answer briefly.")
    first = await agent.run("Describe the tides")
    second = await agent.run("And the currents?", message_history=first.all_messages())
    assert first.output and second.output and second.usage().input_tokens > first.usage().input_tokens

    pieces = []
    async with agent.run_stream("Describe the tides") as streamed:
        async for piece in streamed.stream_text(delta=True):
            pieces.append(piece)
    assert len(pieces) > 1 and "".join(pieces) == first.output, (pieces, first.output)
    print("answered")


if __name__ == "__main__":
    asyncio.run(main())
