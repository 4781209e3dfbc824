"""Asks for embeddings with OpenAI's own library, unmodified: only the base URL is ours.

  python openai_embeddings.py --base-url http://127.0.0.1:8080/v1 --key sk-…

Fails with the first thing that is not as the library's users know it from OpenAI.
"""

import argparse

import openai

MODEL = "sim-embed"


def refused(client: openai.OpenAI, code: str, **fields) -> None:
    try:
        client.embeddings.create(**{"model": MODEL, "input": "a", **fields})
    except (openai.BadRequestError, openai.NotFoundError) as error:
        assert error.code == code, error
    else:
        raise AssertionError(f"{fields} was answered")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", required=True)
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.base_url, api_key=args.key, max_retries=0, timeout=60)

    # The library asks for base64 where the caller names no format, and decodes it.
    texts = ["The tide comes in.", "The tide goes out.", "Invoices are due in May."]
    answer = client.embeddings.create(model=MODEL, input=texts)
    assert [item.index for item in answer.data] == [0, 1, 2] and answer.usage.prompt_tokens > 0, answer
    vectors = [item.embedding for item in answer.data]
    assert all(len(vector) == 384 for vector in vectors)
    close, far = (sum(a * b for a, b in zip(vectors[0], other)) for other in vectors[1:])
    assert close > far, (close, far)

    plain = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="float").data[0].embedding
    assert all(abs(a - b) < 1e-6 for a, b in zip(plain, vectors[0]))
    short = client.embeddings.create(model=MODEL, input=texts[0], dimensions=16).data[0].embedding
    assert len(short) == 16, short
    # Tokens, as frameworks send them that cut texts themselves.
    tokens = client.embeddings.create(model=MODEL, input=[[791, 12468], [374]])
    assert len(tokens.data) == 2, tokens

    keyed = {"extra_headers": {"Idempotency-Key": "embed-once"}}
    first, again = (client.embeddings.create(model=MODEL, input="Only once", **keyed) for _ in range(2))
    assert first == again

    refused(client, "invalid_value", input="")
    refused(client, "model_not_supported", model="sim-small")
    refused(client, "too_many_inputs", input=["a"] * 2000, encoding_format="float")
    print("as OpenAI does")


if __name__ == "__main__":
    main()
