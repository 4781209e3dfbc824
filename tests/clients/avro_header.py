"""Publishes a request as Confluent's serializers do that name the schema in the header `__value_schema_id`.

With --guid the serializer is Confluent's own, which names a schema by its GUID: that takes a registry that gives
one out. Without, the header holds the schema's id, which Confluent's deserializers read just as well.
"""

import argparse
import json
import pathlib
import struct

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext


def header_id_serializer(payload, context, schema_id):
    context.headers.append(("__value_schema_id", struct.pack(">bI", 0, schema_id.id)))
    return payload


parser = argparse.ArgumentParser(description=__doc__)
for name in ("bootstrap", "registry", "topic", "schema", "prompt", "reply-topic"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--guid", action="store_true")
args = parser.parse_args()

conf = {"schema.id.serializer": header_schema_id_serializer if args.guid else header_id_serializer}
schema = pathlib.Path(args.schema).read_text()
serialize = AvroSerializer(SchemaRegistryClient({"url": args.registry}), schema, conf=conf)
body = {"model": "sim-small", "messages": [{"role": "user", "content": args.prompt}]}
request = {"body": json.dumps(body).encode(), "labels": {"origin": "header"}}
headers = [("reply-topic", args.reply_topic.encode())]
value = serialize(request, SerializationContext(args.topic, MessageField.VALUE, headers))
assert value[0] != 0 and [name for name, _ in headers] == ["reply-topic", "__value_schema_id"], headers

failures = []
producer = Producer({"bootstrap.servers": args.bootstrap})
producer.produce(args.topic, value=value, headers=headers, on_delivery=lambda error, _: failures.append(error) if error else None)
if producer.flush(30) or failures:
    raise SystemExit(f"not published: {failures or 'no answer from the broker in 30 s'}")
