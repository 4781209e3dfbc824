"""Asks for responses with OpenAI's own library, unmodified: only the base URL is ours.

  python openai_responses.py --base-url http://127.0.0.1:8080/v1 --key sk-… --other-url http://127.0.0.1:8081/v1

Fails with the first thing that is not as the library's users know it from OpenAI.
"""

import argparse
import json
import time

import openai

MODEL = "sim-small"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
              "additionalProperties": False}
WEATHER = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}


def until_ended(client: openai.OpenAI, response):
    for _ in range(300):
        if response.status not in ("queued", "in_progress"):
            return response
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    raise AssertionError(response)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--other-url", required=True, help="another replica")
    parser.add_argument("--slow", required=True, help="words that make the provider wait")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.base_url, api_key=args.key, max_retries=0, timeout=60)
    other = client.with_options(base_url=args.other_url)
    create = client.responses.create

    whole = create(model=MODEL, input="Describe the tides", metadata={"team": "a"})
    assert whole.status == "completed" and whole.output_text and whole.metadata == {"team": "a"}, whole
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens > 0, whole
    assert other.responses.retrieve(whole.id).output_text == whole.output_text

    # In pieces, put together by the library as it does.
    with client.responses.stream(model=MODEL, input="Describe the tides") as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert final.output_text == "".join(deltas) == whole.output_text and len(deltas) > 2, events
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"], events
    numbers = [event.sequence_number for event in create(model=MODEL, input="Count me", stream=True)]
    assert numbers == sorted(set(numbers)), numbers

    # Left in the middle, and read on at another replica: nothing twice, nothing missing.
    seen, last, left = "", None, create(model=MODEL, input="Describe the rain", stream=True)
    for event in left:
        last = event.sequence_number
        if event.type == "response.created":
            name = event.response.id
        if event.type == "response.output_text.delta":
            seen += event.delta
            break
    left.close()
    on = list(other.responses.retrieve(name, stream=True, starting_after=last))
    seen += "".join(event.delta for event in on if event.type == "response.output_text.delta")
    assert on[-1].type == "response.completed" and seen == on[-1].response.output_text, (seen, on)
    assert all(event.sequence_number > last for event in on), on
    again = list(client.responses.retrieve(name, stream=True))
    assert again[0].type == "response.created" and again[-1].response == on[-1].response

    # A tool is called, and its output goes on from the call.
    called = create(model=MODEL, input="How is the weather?", tools=[WEATHER], tool_choice="required")
    call = called.output[0]
    assert call.type == "function_call" and json.loads(call.arguments).keys() == {"city"}, called
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    told = other.responses.create(model=MODEL, input=[output], previous_response_id=called.id)
    assert told.output_text and told.previous_response_id == called.id, told
    items = client.responses.input_items.list(told.id, order="asc").data
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"], items
    third = create(model=MODEL, input="And tomorrow?", previous_response_id=told.id)
    assert third.usage.input_tokens > told.usage.input_tokens > called.usage.input_tokens - 50, third

    parsed = create(model=MODEL, input="Which city?",
                    text={"format": {"type": "json_schema", "name": "city", "schema": PARAMETERS, "strict": True}})
    assert json.loads(parsed.output_text).keys() == {"city"}, parsed
    short = create(model=MODEL, input="Describe the tides", max_output_tokens=16)
    assert short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens", short

    # In the background: asked for, and cancelled.
    queued = create(model=MODEL, input="Take your time", background=True)
    assert queued.status == "queued" and queued.background, queued
    ended = until_ended(other, queued)
    assert ended.status == "completed" and ended.background and ended.output_text, ended
    slow = create(model=MODEL, input=args.slow, background=True)
    client.responses.cancel(slow.id)
    assert until_ended(client, slow).status == "cancelled"

    keyed = {"extra_headers": {"Idempotency-Key": "respond-once"}}
    first, same = (create(model=MODEL, input="Only once", **keyed) for _ in range(2))
    assert first == same

    client.responses.delete(whole.id)
    for wrong, code in [
        (lambda: client.responses.retrieve(whole.id), "not_found"),
        (lambda: client.responses.retrieve("resp_1"), "not_found"),
        (lambda: client.responses.retrieve(create(model=MODEL, input="x", store=False).id), "not_found"),
        (lambda: create(model=MODEL, input="x", previous_response_id=whole.id), "previous_response_not_found"),
        (lambda: create(model="no-such-model", input="x"), "model_not_found"),
        (lambda: create(model=MODEL, input=[]), "empty_array"),
        (lambda: create(model=MODEL, input="x", background=True, store=False), "invalid_value"),
        (lambda: list(other.responses.retrieve(name, stream=True, starting_after=3)), "invalid_value"),
    ]:
        try:
            wrong()
        except (openai.BadRequestError, openai.NotFoundError) as error:
            assert error.code == code, error
        else:
            raise AssertionError(f"{code} was expected")
    print("as OpenAI does")


if __name__ == "__main__":
    main()
