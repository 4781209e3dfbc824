#!/usr/bin/env python3
"""Compares the shape of a real model server's answers with the simulated provider's.

For each of several requests, right and wrong ones, both servers are asked and the fields of their
answers compared. It prints every difference, and fails where the simulation is not honest: where
it lacks a field that the real server sends and OpenAI documents, where a status differs, or where
an answer's own numbers do not add up.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request

# What OpenAI documents, with [] for list items. Other fields are the real server's own.
DOCUMENTED = {
    "id", "object", "created", "model", "system_fingerprint", "service_tier",
    "choices", "choices[].index", "choices[].finish_reason", "choices[].logprobs",
    "choices[].message", "choices[].message.role", "choices[].message.content",
    "choices[].message.refusal", "choices[].message.annotations", "choices[].message.tool_calls",
    "choices[].delta", "choices[].delta.role", "choices[].delta.content",
    "choices[].delta.refusal", "choices[].delta.tool_calls",
    "usage", "usage.prompt_tokens", "usage.completion_tokens", "usage.total_tokens",
    "usage.prompt_tokens_details", "usage.prompt_tokens_details.cached_tokens",
    "usage.prompt_tokens_details.audio_tokens",
    "usage.completion_tokens_details", "usage.completion_tokens_details.reasoning_tokens",
    "usage.completion_tokens_details.audio_tokens",
    "usage.completion_tokens_details.accepted_prediction_tokens",
    "usage.completion_tokens_details.rejected_prediction_tokens",
    "error", "error.message", "error.type", "error.param", "error.code",
    "data", "data[].id", "data[].object", "data[].created", "data[].owned_by",
}  # fmt: skip


def fields(value, at=""):
    """Every path in a JSON value with the type found there."""
    found = {}
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{at}.{name}" if at else name
            found.setdefault(path, set()).add(type(inner).__name__)
            for path, types in fields(inner, path).items():
                found.setdefault(path, set()).update(types)
    elif isinstance(value, list):
        for inner in value:
            for path, types in fields(inner, f"{at}[]").items():
                found.setdefault(path, set()).update(types)
    return found


def ask(base, path, body):
    """Status, content type and body; `body` is None for a GET, or raw bytes."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.headers.get_content_type(), refusal.read().decode()


def events(text):
    """The JSON of a stream's chunks; the stream must be well formed and end with [DONE]."""
    lines = [block for block in text.split("\n\n") if block.strip()]
    if any(not line.strip().startswith("data: ") for line in lines):
        raise ValueError("an event does not begin with 'data: '")
    if lines[-1].strip() != "data: [DONE]":
        raise ValueError("the stream does not end with [DONE]")
    return [json.loads(line.strip()[len("data: ") :]) for line in lines[:-1]]


def roles(chunks):
    """A stream's chunks by what they are for."""
    return {
        "first chunk": chunks[0],
        "content chunk": chunks[1],
        "finish chunk": next(c for c in chunks if c["choices"] and c["choices"][0]["finish_reason"]),
        "usage chunk": chunks[-1],
    }


class Report:
    def __init__(self):
        self.dishonest = 0

    def note(self, text):
        print(f"    {text}")

    def fail(self, text):
        self.dishonest += 1
        print(f"  ! {text}")

    def shapes(self, name, real, simulated):
        print(f"{name}: {len(real)} fields real, {len(simulated)} simulated")
        for path in sorted(real.keys() | simulated.keys()):
            if path not in simulated:
                if path in DOCUMENTED:
                    self.fail(f"{path}: the simulation lacks it")
                else:
                    self.note(f"{path}: the real server's own")
            elif path not in real:
                self.note(f"{path}: only simulated" + ("" if path in DOCUMENTED else ", and not documented"))
            elif real[path] != simulated[path]:
                kinds = f"real {'/'.join(sorted(real[path]))}, simulated {'/'.join(sorted(simulated[path]))}"
                self.note(f"{path}: {kinds}")

    def sums(self, name, answer):
        usage = answer.get("usage") or {}
        parts = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        if parts == 0 or usage.get("total_tokens") != parts:
            self.fail(f"{name}: usage does not add up: {usage}")


def chat(model, **more):
    return {"model": model, "messages": [{"role": "user", "content": "What is a river?"}], **more}


def cases(model):
    chats = "/chat/completions"
    usage = {"include_usage": True}
    yield "an answer", chats, chat(model, max_tokens=12)
    yield "an answer with a seed and unknown fields", chats, chat(model, max_tokens=6, seed=1, next_year=True)
    yield "a stream", chats, chat(model, max_tokens=12, stream=True)
    yield "a stream with usage", chats, chat(model, max_tokens=12, stream=True, stream_options=usage)
    yield "no messages", chats, {"model": model}
    yield "messages that are no list", chats, {"model": model, "messages": "hi"}
    yield "a body that is no JSON", chats, b"{bad"
    yield "an address that does not exist", "/nothing", {}
    yield "the models", "/models", None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", required=True, help="base URL of the real server")
    parser.add_argument("--simulated", required=True, help="base URL of the simulated provider")
    parser.add_argument("--real-model", default="gemma-3-270m")
    parser.add_argument("--simulated-model", default="sim-small")
    options = parser.parse_args()

    report = Report()
    pairs = zip(cases(options.real_model), cases(options.simulated_model), strict=True)
    for (name, path, real_body), (_, _, simulated_body) in pairs:
        real = ask(options.real, path, real_body)
        simulated = ask(options.simulated, path, simulated_body)
        if real[:2] != simulated[:2]:
            report.fail(f"{name}: real {real[0]} {real[1]}, simulated {simulated[0]} {simulated[1]}")
        if real[1] != "text/event-stream":
            real_json, simulated_json = json.loads(real[2]), json.loads(simulated[2])
            report.shapes(name, fields(real_json), fields(simulated_json))
            if "usage" in real_json:
                report.sums(f"{name}, real", real_json)
                report.sums(f"{name}, simulated", simulated_json)
            continue
        real_roles, simulated_roles = roles(events(real[2])), roles(events(simulated[2]))
        for role in real_roles:
            if role == "usage chunk" and "stream_options" not in real_body:
                continue
            report.shapes(f"{name}, {role}", fields(real_roles[role]), fields(simulated_roles[role]))
        if "stream_options" in real_body:
            report.sums(f"{name}, real", real_roles["usage chunk"])
            report.sums(f"{name}, simulated", simulated_roles["usage chunk"])

    verdict = "the simulation keeps up" if report.dishonest == 0 else f"{report.dishonest} points to mend"
    print(verdict)
    sys.exit(1 if report.dishonest else 0)


if __name__ == "__main__":
    main()
