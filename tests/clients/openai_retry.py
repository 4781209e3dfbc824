"""Asks with OpenAI's own library for something that takes longer than the library waits.

  python openai_retry.py --base-url http://127.0.0.1:8080/v1 --key sk-…

Its retries have to get the answer of the first request: whoever runs this counts the provider's calls.
"""

import argparse

import openai

SLOW = [{"role": "user", "content": "Please take your time"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", required=True)
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.base_url, api_key=args.key, max_retries=5, timeout=1.5)

    answer = client.chat.completions.create(model="sim-small", messages=SLOW)
    assert answer.choices[0].message.content, answer

    text = ""
    for chunk in client.chat.completions.create(model="sim-small", messages=SLOW, stream=True):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert text == answer.choices[0].message.content, (text, answer)
    print("once each")


if __name__ == "__main__":
    main()
