"""Files and batches by OpenAI's own library, unmodified.

    openai_batch.py BASE_URL KEY OTHER_KEY

Uploads, creates, polls and downloads as OpenAI's guide does, and holds every line of the answer against its request.
"""

import http.client
import json
import sys
import time
import urllib.parse

import openai

base, key, other_key = sys.argv[1:4]
client = openai.OpenAI(base_url=f"{base}/v1", api_key=key)
stranger = openai.OpenAI(base_url=f"{base}/v1", api_key=other_key, max_retries=0)


def lines(*requests):
    return "\n".join(json.dumps(request) for request in requests).encode() + b"\n"


def chat(custom_id, content, **more):
    body = {"model": "sim-small", "messages": [{"role": "user", "content": content}], "max_tokens": 8, **more}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(content, **more):
    return client.files.create(file=("requests.jsonl", content), purpose="batch", **more)


def create(file_id, endpoint="/v1/chat/completions", window="24h", **more):
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window=window, **more)


def wait(batch, seconds=120):
    until = time.monotonic() + seconds
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < until, batch
        time.sleep(0.3)
        batch = client.batches.retrieve(batch.id)
    return batch


def read(file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def refused(error, call):
    try:
        call()
    except error as raised:
        assert raised.body["message"], raised
        return raised
    raise AssertionError(f"not refused by {error}")


# Files.
content = lines(*(chat(f"line {n}", f"Question {n}") for n in range(40)))
file = upload(content, expires_after={"anchor": "created_at", "seconds": 3600})
assert (file.bytes, file.purpose, file.filename) == (len(content), "batch", "requests.jsonl"), file
assert file.expires_at == file.created_at + 3600, file
assert client.files.retrieve(file.id).id == file.id
assert client.files.content(file.id).read() == content
second = client.files.create(file=("notes.txt", b"x" * 1_200_000), purpose="user_data")
assert client.files.content(second.id).read() == b"x" * 1_200_000
listed = [found.id for found in client.files.list(limit=1)]
assert listed[:2] == [second.id, file.id], listed
assert [found.id for found in client.files.list(purpose="user_data")][0] == second.id
for of_a_stranger in (stranger.files.retrieve, stranger.files.delete, stranger.files.content):
    refused(openai.NotFoundError, lambda: of_a_stranger(file.id))
assert client.files.delete(second.id).deleted
refused(openai.NotFoundError, lambda: client.files.retrieve(second.id))
refused(openai.BadRequestError, lambda: client.files.create(file=b"x", purpose="batch_output"))

door = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=30)
door.putrequest("POST", "/v1/files")
form = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": 300 * 1024 * 1024}
for name, value in {"Authorization": f"Bearer {key}", **form}.items():
    door.putheader(name, str(value))
door.endheaders()
answer = door.getresponse()
assert (answer.status, json.load(answer)["error"]["code"]) == (413, "request_too_large")

# A batch from its beginning to its end.
batch = create(file.id, metadata={"job": "nightly"}, output_expires_after={"anchor": "created_at", "seconds": 7200})
assert batch.status == "validating" and batch.metadata == {"job": "nightly"}, batch
done = wait(batch)
assert done.status == "completed" and done.error_file_id is None and done.errors is None, done
assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (40, 40, 0), done
assert done.model == "sim-small" and done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens > 0
assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at, done
answers = read(done.output_file_id)
assert sorted(answer["custom_id"] for answer in answers) == sorted(f"line {n}" for n in range(40)), answers
assert len({answer["id"] for answer in answers}) == 40
assert sum(answer["response"]["body"]["usage"]["total_tokens"] for answer in answers) == done.usage.total_tokens
for answer in answers:
    assert answer["error"] is None and answer["response"]["status_code"] == 200, answer
    assert answer["id"].startswith("batch_req_") and answer["response"]["request_id"].startswith("req_"), answer
    assert answer["response"]["body"]["choices"][0]["message"]["content"], answer
output = client.files.retrieve(done.output_file_id)
assert output.purpose == "batch_output" and output.expires_at is not None, output
assert [found.id for found in client.batches.list(limit=2)][0] == batch.id
refused(openai.NotFoundError, lambda: stranger.batches.retrieve(batch.id))
refused(openai.NotFoundError, lambda: stranger.batches.cancel(batch.id))
refused(openai.BadRequestError, lambda: stranger.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"))
refused(openai.BadRequestError, lambda: client.batches.cancel(batch.id))

# The same key is the same batch.
again = [create(file.id, extra_headers={"Idempotency-Key": f"batch of {file.id}"}).id for _ in range(2)]
assert again[0] == again[1], again
wait(client.batches.retrieve(again[0]))

# Vectors.
vectors = [{"custom_id": f"v{n}", "method": "POST", "url": "/v1/embeddings",
            "body": {"model": "sim-embed", "input": f"text {n}"}} for n in range(3)]
done = wait(create(upload(lines(*vectors)).id, "/v1/embeddings"))
assert done.status == "completed", done
assert all(answer["response"]["body"]["data"][0]["embedding"] for answer in read(done.output_file_id))

# A file of which lines are wrong is refused whole, and each is named.
wrong = content + b"\nno JSON\n" + lines(
    chat("line 1", "the same name"),
    chat("other model", "?", model="nobody"),
    {**chat("other endpoint", "?"), "url": "/v1/embeddings"},
    chat("stream", "?", stream=True),
)
failed = wait(create(upload(wrong).id))
assert failed.status == "failed" and failed.output_file_id is None and failed.failed_at, failed
found = [(error.line, error.code, error.param) for error in failed.errors.data]
assert found == [
    (42, "invalid_json_line", None),
    (43, "duplicate_custom_id", "custom_id"),
    (44, "model_not_found", "body.model"),
    (45, "mismatched_url", "url"),
    (46, "unsupported_parameter", "body.stream"),
], found
assert wait(create(upload(b"\n").id)).errors.data[0].code == "empty_file"

# Cancelled: what was answered is there, and of the rest each line says that it was not.
slow = [chat(f"slow {n}", f"Count {n}", max_tokens=2000) for n in range(300)]
cancelled = wait(client.batches.cancel(create(upload(lines(*slow)).id).id))
assert cancelled.status == "cancelled" and cancelled.cancelling_at and cancelled.cancelled_at, cancelled

print(json.dumps({"batch": batch.id, "cancelled": cancelled.id}))
