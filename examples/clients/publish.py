"""Publishes one request as Avro with Confluent's own serializer: nothing of Millrace is imported.

  python publish.py --bootstrap 127.0.0.1:9092 --registry http://127.0.0.1:8081 \
      --topic acme.requests --schema ../../schemas/avro/request.avsc --prompt "Say hello"

The topic must be bound to a tenant in Millrace's configuration ([topic_bindings]); the outcome goes
to outcomes.batch, and to --reply-topic as well if the tenant lists it.
"""

import argparse
import json
import pathlib

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--schema", required=True, type=pathlib.Path)
    parser.add_argument("--model", default="sim-small")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--idempotency-key")
    parser.add_argument("--reply-topic")
    args = parser.parse_args()

    registry = SchemaRegistryClient({"url": args.registry})
    serialize = AvroSerializer(registry, args.schema.read_text())
    body = {"model": args.model, "messages": [{"role": "user", "content": args.prompt}]}
    request = {
        "body": json.dumps(body).encode(),
        "idempotency_key": args.idempotency_key,
        "reply_topic": args.reply_topic,
        "labels": {"origin": "confluent-kafka"},
    }

    failures = []
    producer = Producer({"bootstrap.servers": args.bootstrap, "enable.idempotence": True})
    producer.produce(
        args.topic,
        value=serialize(request, SerializationContext(args.topic, MessageField.VALUE)),
        on_delivery=lambda error, _: failures.append(error) if error else None,
    )
    if producer.flush(30) or failures:
        raise SystemExit(f"not published: {failures or 'no answer from the broker in 30 s'}")


if __name__ == "__main__":
    main()
