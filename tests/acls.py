#!/usr/bin/env python3
"""Grants what infra/kafka/acls.json says, as the Terraform module does, for tests whose services are one user each.

usage: acls.py BOOTSTRAP_SERVERS TOPIC_PREFIX GROUP_PREFIX [--customers JSON]
  JSON is what acls.json has under `customers`, but with the names of topics and groups as on the broker. The
  prompt builder reads their request topics and, like the result sink, writes their reply topics.
needs: confluent-kafka (tests/clients.sh); the caller must be allowed to alter ACLs
"""

import argparse
import json
import pathlib

from confluent_kafka.admin import (
    AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType,
)

DATA = pathlib.Path(__file__).parent.parent / "infra/kafka/acls.json"


def allow(principal, kind, name, pattern, operation):
    return AclBinding(kind, name, pattern, f"User:{principal}", "*", operation, AclPermissionType.ALLOW)


def bindings(arguments):
    customers = json.loads(arguments.customers)
    request_topics = [topic for customer in customers for topic in customer["request_topics"]]
    reply_topics = [topic for customer in customers for topic in customer["reply_topics"]]
    for customer in customers:
        principal = customer["principal"]
        for topic in customer["request_topics"]:
            yield allow(principal, ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, AclOperation.WRITE)
        for topic in customer["reply_topics"]:
            yield allow(principal, ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, AclOperation.READ)
        for group in customer["group_prefixes"]:
            yield allow(principal, ResourceType.GROUP, group, ResourcePatternType.PREFIXED, AclOperation.READ)
    for service in json.loads(DATA.read_text())["services"]:
        principal = service["principal"]
        read = [arguments.topic_prefix + topic for topic in service["read"]]
        write = [arguments.topic_prefix + topic for topic in service["write"]]
        if principal == "millrace-prompt-builder":
            read += request_topics
        if principal in ("millrace-prompt-builder", "millrace-result-sink"):
            write += reply_topics
        for topics, operation in ((read, AclOperation.READ), (write, AclOperation.WRITE)):
            for topic in topics:
                yield allow(principal, ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, operation)
        for topic in service.get("watch_topics", []):
            name = arguments.topic_prefix + topic
            yield allow(principal, ResourceType.TOPIC, name, ResourcePatternType.LITERAL, AclOperation.DESCRIBE)
        for group in service.get("watch_groups", []):
            name = arguments.group_prefix + group
            yield allow(principal, ResourceType.GROUP, name, ResourcePatternType.PREFIXED, AclOperation.DESCRIBE)
        for group in service["group_prefixes"]:
            name = arguments.group_prefix + group
            yield allow(principal, ResourceType.GROUP, name, ResourcePatternType.PREFIXED, AclOperation.READ)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bootstrap_servers")
    parser.add_argument("topic_prefix")
    parser.add_argument("group_prefix")
    parser.add_argument("--customers", default="[]")
    arguments = parser.parse_args()
    admin = AdminClient({"bootstrap.servers": arguments.bootstrap_servers})
    granted = admin.create_acls(list(bindings(arguments)), request_timeout=20)
    for grant in granted.values():
        grant.result()
    print(f"{len(granted)} grants")


if __name__ == "__main__":
    main()
