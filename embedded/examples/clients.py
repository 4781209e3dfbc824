"""confluent-kafka on the embedded broker and registry: `python clients.py KAFKA REGISTRY`.

Needs `pip install 'confluent-kafka[avro,schemaregistry]'`. Produces Avro records with an
idempotent producer, reads them with a group, and checks that each came once and as it was.
"""

import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

SCHEMA = '{"type":"record","name":"R","fields":[{"name":"n","type":"long"},{"name":"s","type":"string"}]}'
COUNT = 5000


def main(kafka: str, registry: str) -> None:
    topic, group = f"t-{uuid.uuid4()}", f"g-{uuid.uuid4()}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, 4, 1, config={"retention.ms": "600000"})])[topic].result(10)

    client = SchemaRegistryClient({"url": registry})
    context = SerializationContext(topic, MessageField.VALUE)
    serialize, deserialize = AvroSerializer(client, SCHEMA), AvroDeserializer(client)

    failures = []
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "compression.type": "zstd"})
    started = time.monotonic()
    for n in range(COUNT):
        value = serialize({"n": n, "s": "x" * 100}, context)
        headers = [("n", str(n))]
        producer.produce(topic, value, key=str(n), headers=headers, on_delivery=lambda e, _: e and failures.append(e))
        producer.poll(0)
    producer.flush(30)
    assert not failures, failures
    produced = time.monotonic() - started

    consumer = Consumer({
        "bootstrap.servers": kafka,
        "group.id": group,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "partition.assignment.strategy": "cooperative-sticky",
    })
    consumer.commit(offsets=[TopicPartition(topic, p, 0) for p in range(4)], asynchronous=False)
    consumer.subscribe([topic])
    seen, started = [], None
    deadline = time.monotonic() + 60
    while len(seen) < COUNT and time.monotonic() < deadline:
        for message in consumer.consume(500, 1.0):
            assert message.error() is None, message.error()
            started = started or time.monotonic()
            value = deserialize(message.value(), context)
            assert message.key() == message.headers()[0][1] == str(value["n"]).encode()
            seen.append(value["n"])
    consumed = time.monotonic() - started
    assert sorted(seen) == list(range(COUNT)), f"{len(seen)} of {COUNT}"
    consumer.commit(asynchronous=False)
    committed = sum(p.offset for p in consumer.committed([TopicPartition(topic, p) for p in range(4)]))
    assert committed == COUNT, committed
    consumer.close()
    print(f"ok: {COUNT} records, produced {COUNT / produced:.0f}/s, consumed {COUNT / consumed:.0f}/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
