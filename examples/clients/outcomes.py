"""Reads outcomes with a plain consumer, decoded through the registry, one JSON object a line.

  python outcomes.py --bootstrap 127.0.0.1:9092 --registry http://127.0.0.1:8081 \
      --topic acme.outcomes --count 1

Of several records with one request id and run the first counts (docs/consuming.md).
"""

import argparse
import json
import time

from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True, help="leave after so many outcomes")
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    args = parser.parse_args()

    deserialize = AvroDeserializer(SchemaRegistryClient({"url": args.registry}))
    consumer = Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": f"{args.topic}-reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([args.topic])
    seen = set()
    until = time.monotonic() + args.timeout
    while len(seen) < args.count:
        if time.monotonic() > until:
            raise SystemExit(f"{len(seen)} of {args.count} outcomes within {args.timeout:.0f} s")
        message = consumer.poll(0.5)
        if message is None or message.error():
            continue
        outcome = deserialize(message.value(), SerializationContext(args.topic, MessageField.VALUE))
        which = (outcome["meta"]["request_id"], outcome["meta"]["run"])
        if which in seen:
            continue
        seen.add(which)
        print(json.dumps(outcome, default=lambda value: value.decode() if isinstance(value, bytes) else str(value)))
    consumer.close()


if __name__ == "__main__":
    main()
