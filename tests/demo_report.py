"""Holds the demo's last line against what the demo promises. Reads it from standard input."""

import json
import sys

report = json.loads(sys.stdin.read())
needed = {"requests", "outcomes", "provider_calls", "ledger_calls", "entries_sum", "rollups_sum", "wall_seconds"}
missing = needed - report.keys()
assert not missing, f"missing keys: {missing}"
assert sum(report["outcomes"].values()) == report["requests"], report
assert report["provider_calls"] == report["ledger_calls"] >= report["requests"], report
assert report["entries_sum"] == report["rollups_sum"] > 0, report
assert report["wall_seconds"] < 60, report
print(json.dumps(report))
