"""Verifies and parses a webhook with OpenAI's own library, as its users do.

  python openai_webhook.py WEBHOOK.json SECRET…

The file has `headers` and `body`, as they were received. Every secret must verify it, and no other.
"""

import json
import sys

import openai


def main() -> None:
    path, *secrets = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        received = json.load(file)
    client = openai.OpenAI(api_key="not used")
    for secret in secrets:
        event = client.webhooks.unwrap(received["body"], received["headers"], secret=secret)
    for wrong in ("whsec_" + "A" * 43 + "=", secrets[0]):
        body = received["body"] if wrong != secrets[0] else received["body"].replace("completed", "cancelled")
        try:
            client.webhooks.unwrap(body, received["headers"], secret=wrong)
        except openai.InvalidWebhookSignatureError:
            continue
        raise SystemExit("a forged webhook was taken for a real one")
    print(json.dumps({"class": type(event).__name__, "type": event.type, "id": event.id, "data_id": event.data.id}))


if __name__ == "__main__":
    main()
