#!/usr/bin/env python3
"""Counts the instructions that a record costs in codec, stage core and ledger, and holds them against
tests/instructions.json:  tests/instructions.py [--write]

Each test named there runs twice under callgrind, with few and with many records; the difference, divided by
the difference in records, is what one costs. No clock is involved, so a busy machine counts the same. More than
the tolerance above the baseline is an error; as far below it is one too, so that the baseline stays true:
--write takes the new counts. Another compiler makes other code: then the tolerance is doubled.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "tests" / "instructions.json"
FEW, MANY = 500, 2500
TOLERANCE = 0.10
CARGO = ["cargo", "test", "--release", "--ignore-rust-version", "--locked", "--workspace", "--lib", "--bins",
         "--tests", "--test", "cql_contract", "--no-run", "--message-format=json"]


def binaries():
    """Path of every test binary, by package and target."""
    # As ./check builds: other optimisation, other counts.
    env = {**os.environ, "CARGO_PROFILE_RELEASE_LTO": "off"}
    out = subprocess.run(CARGO, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                         text=True)
    found = {}
    for line in out.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            package = Path(message["manifest_path"]).parent.name
            found[package, message["target"]["name"]] = message["executable"]
    return found


def count(binary, test, records):
    """Instructions of the whole process."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
               binary, "--exact", test, "--test-threads=1"]
    ran = subprocess.run(command, env={**os.environ, "MILLRACE_RECORDS": str(records)}, capture_output=True, text=True)
    if ran.returncode != 0 or "1 passed" not in ran.stdout:
        sys.exit(f"{test} did not pass under callgrind:\n{ran.stdout}{ran.stderr}")
    return int(re.search(r"Collected : (\d+)", ran.stderr).group(1))


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed: install it (Debian's package `valgrind`)")
    baseline = json.loads(BASELINE.read_text())
    compiler = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    tolerance = TOLERANCE if compiler == baseline["compiler"] else 2 * TOLERANCE
    found, broken = binaries(), []
    for name, entry in baseline["counts"].items():
        package, target, test = name.split(" ")
        binary = found.get((package, target)) or sys.exit(f"there is no test binary {target} of {package}")
        each = (count(binary, test, MANY) - count(binary, test, FEW)) // (MANY - FEW)
        change = each / entry - 1 if entry else 0
        print(f"{name}: {each} instructions a record, {change:+.1%} from the baseline", flush=True)
        if abs(change) > tolerance:
            broken.append(name)
        baseline["counts"][name] = each
    if "--write" in sys.argv:
        baseline["compiler"] = compiler
        BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")
    elif broken:
        sys.exit(f"beyond the tolerance of {tolerance:.0%}: {', '.join(broken)}; "
                 "if that is meant, tests/instructions.py --write takes it as the new baseline")


if __name__ == "__main__":
    main()
