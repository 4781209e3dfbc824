"""Streams answers with OpenAI's own library, unmodified: only the base URL is ours.

  python openai_stream.py --base-url http://127.0.0.1:8080/v1 --key sk-… --broken "words of a prompt that breaks"

Fails with the first thing that is not as the library's users know it from OpenAI.
"""

import argparse
import json

import openai


def chunks_of(client: openai.OpenAI, prompt: str, **fields) -> list:
    messages = [{"role": "user", "content": prompt}]
    fields.setdefault("model", "sim-small")
    return list(client.chat.completions.create(messages=messages, stream=True, **fields))


def text_of(chunks: list, index: int = 0) -> str:
    deltas = [c.delta for chunk in chunks for c in chunk.choices if c.index == index]
    return "".join(delta.content or "" for delta in deltas)


def reasons(chunks: list) -> list:
    return [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--broken", required=True, help="words that break the provider's first answer in the middle")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.base_url, api_key=args.key, max_retries=0, timeout=60)

    ask = [{"role": "user", "content": "Describe the tides"}]
    whole = client.chat.completions.create(model="sim-small", messages=ask).choices[0].message.content
    chunks = chunks_of(client, "Describe the tides")
    assert text_of(chunks) == whole, (text_of(chunks), whole)
    assert len(chunks) > 3 and reasons(chunks) == ["stop"], chunks
    assert all(chunk.object == "chat.completion.chunk" and chunk.usage is None for chunk in chunks)

    counted = chunks_of(client, "Count me", stream_options={"include_usage": True})
    assert counted[-1].choices == [] and counted[-1].usage.total_tokens > 0, counted[-1]
    assert all(chunk.usage is None for chunk in counted[:-1])

    both = chunks_of(client, "Say it twice", n=2)
    assert text_of(both, 0) and text_of(both, 1) and reasons(both) == ["stop", "stop"], both

    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    called = chunks_of(client, "How is the weather?", tools=tools, tool_choice="required")
    calls = [t for chunk in called for c in chunk.choices for t in c.delta.tool_calls or []]
    assert json.loads("".join(t.function.arguments or "" for t in calls)).keys() == {"city"}, calls
    assert calls[0].function.name == "weather" and reasons(called) == ["tool_calls"], called

    # The library's own way to put the pieces together.
    with client.chat.completions.stream(model="sim-small", messages=ask) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole, final

    keyed = {"extra_headers": {"Idempotency-Key": "stream-again"}}
    first, again = (text_of(chunks_of(client, "Only once", **keyed)) for _ in range(2))
    assert first and first == again, (first, again)

    try:
        chunks_of(client, "Hello", model="no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    else:
        raise AssertionError("an unknown model was streamed")

    seen = ""
    try:
        for chunk in client.chat.completions.create(
            model="sim-small", stream=True, messages=[{"role": "user", "content": args.broken}]
        ):
            seen += chunk.choices[0].delta.content or ""
            assert not chunk.choices[0].finish_reason, "an answer that was begun anew has no end"
    except openai.APIError as error:
        assert error.code == "stream_interrupted", error
    else:
        raise AssertionError("a stream was put together of two answers")
    assert seen, "nothing was seen before it broke"
    print("as OpenAI does")


if __name__ == "__main__":
    main()
