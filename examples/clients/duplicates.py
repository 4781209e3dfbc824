"""The duplicate rule of docs/consuming.md, exact: prints each outcome's request id once, in log order.

  python duplicates.py --bootstrap 127.0.0.1:9092 --topic outcomes.batch --count 10
  python duplicates.py --check duplicates.txt

For topics whose every record has a `source` of its own: requests, prompts, completions, outcomes, facts.
The windows are kept in memory; keep them with your position, as the page says, when you keep a position.
"""

import argparse
import re
import time

SOURCE = re.compile(r"(?P<place>.+/\d+/\d+)/(?P<offset>\d+) (?P<window>[1-9]\d*) [0-9a-f]{1,16}")


class Duplicates:
    """One for each partition that you read."""

    def __init__(self):
        # By source partition: everything below the floor is a copy; bit n says whether floor + n was seen.
        self.windows: dict[str, tuple[int, int]] = {}

    def is_first(self, header: str | None) -> bool:
        source = SOURCE.fullmatch(header or "")
        if source is None:
            return True
        offset, window = int(source["offset"]), int(source["window"])
        floor, seen = self.windows.get(source["place"], (0, 0))
        risen = max(floor, offset + 1 - window)
        seen >>= min(risen - floor, seen.bit_length())
        if offset < risen:
            is_first = False
        else:
            bit = 1 << (offset - risen)
            is_first = not seen & bit
            seen |= bit
        self.windows[source["place"]] = (risen, seen)
        return is_first


def check(path: str) -> None:
    duplicates, case, count = Duplicates(), "", 0
    for line in open(path, encoding="utf-8"):
        line = line.rstrip("\n")
        if line.startswith("## "):
            duplicates, case = Duplicates(), line[3:]
        elif line and not line.startswith("#"):
            verdict, header = line.split("\t")
            found = "first" if duplicates.is_first(header) else "copy"
            if found != verdict:
                raise SystemExit(f"{case}: `{header}` is {verdict}, not {found}")
            count += 1
    print(f"{count} verdicts agree")


def read(args: argparse.Namespace) -> None:
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": f"{args.topic}-unique-reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([args.topic])
    partitions: dict[int, Duplicates] = {}
    left, until = args.count, time.monotonic() + args.timeout
    while left:
        if time.monotonic() > until:
            raise SystemExit(f"{left} of {args.count} outcomes did not come within {args.timeout:.0f} s")
        message = consumer.poll(0.5)
        if message is None or message.error():
            continue
        headers = {name: value.decode() for name, value in message.headers() or [] if value is not None}
        if partitions.setdefault(message.partition(), Duplicates()).is_first(headers.get("source")):
            print(headers.get("request_id"))
            left -= 1
    consumer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="FILE", help="hold the rule against the cases in this file")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--topic", default="outcomes.batch")
    parser.add_argument("--count", type=int, default=1, help="leave after so many outcomes")
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    args = parser.parse_args()
    if args.check:
        check(args.check)
    else:
        read(args)


if __name__ == "__main__":
    main()
