#!/usr/bin/env bash
# Holds the running API against its own description with Schemathesis: every operation with valid and invalid
# requests, one by one and in the sequences that its links allow. The pipeline is `millrace up`: all of it is real but
# for the embedded servers and the simulated provider.
#   tests/api.sh [SECONDS]       how long new requests are made up; 60 when left out
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(tests/clients.sh)
folder=$(mktemp -d)
target/release/millrace up --data-dir "$folder/data" --http-port 0 --kafka-port 0 --json >"$folder/said" 2>"$folder/log" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
for _ in $(seq 600); do
    if grep -q '^{' "$folder/said"; then break; fi
    kill -0 "$pid" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
    sleep 0.1
done
said() { python3 -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$(grep -m 1 '^{' "$folder/said")" "$1"; }
http=$(said http)

cat >"$folder/schemathesis.toml" <<END
[auth.openapi]
key = { bearer = "$(said api_key)" }
admin = { bearer = "$(said admin_key)" }
END
# A request that is taken back keeps its outcome, so what DELETE leaves can still be read.
"$(dirname "$python")/schemathesis" --config-file "$folder/schemathesis.toml" run "$http/openapi.json" \
    --checks all --exclude-checks use_after_free --max-time "${1:-60}" --seed 1 --warnings off --no-color
