#!/usr/bin/env bash
# Holds the running API against its own description with Schemathesis: every operation with valid and invalid
# requests, one by one and in the sequences that its links allow. The pipeline is `millrace up`: all of it is real but
# for the embedded servers and the simulated provider.
#   tests/api.sh [SEED]       which requests are made up; 1 when left out
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

# A request that is taken back keeps its outcome, so what DELETE leaves can still be read.
[checks]
use_after_free.enabled = false

# 422 is a key that another request had before.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429", "5xx"]

# How many tokens and vectors a model has room for, and that 1.0 is no integer, can not be said in a schema.
[[operations]]
include-path = ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "422", "429", "5xx"]
# What is passed on is judged by the provider, which a client that comes back later hears of later.
checks.negative_data_rejection.enabled = false

# Nor which files there are, or that a batch has ended.
[[operations]]
include-path = ["/v1/files", "/v1/batches", "/v1/batches/{id}/cancel"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "422", "429", "5xx"]
# Which numbers are of an answer, and whether it is finished, can not be said in a schema.
[[operations]]
include-path = ["/v1/responses/{id}", "/v1/requests/{id}"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "422", "429", "499", "5xx"]

# Which models, plans, users and hosts there are, and that 1.0 is no integer, neither.
[[operations]]
include-path = ["/admin/v1/plans/{plan}", "/admin/v1/tenants/{tenant}", "/admin/v1/tenants/{tenant}/users/{user}", "/admin/v1/tenants/{tenant}/keys", "/admin/v1/tenants/{tenant}/keys/{key_id}", "/admin/v1/tenants/{tenant}/keys/{key_id}/rotate", "/admin/v1/tenants/{tenant}/webhooks", "/admin/v1/tenants/{tenant}/webhooks/{webhook_id}", "/admin/v1/tenants/{tenant}/webhooks/{webhook_id}/rotate"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "412", "429", "5xx"]

# A user that the tenant has.
[parameters]
"header.X-Millrace-User" = "ada"
END
# It keeps what it found where it is called.
cd "$folder"
"$(dirname "$python")/schemathesis" run "$http/openapi.json" \
    --continue-on-failure --max-examples 30 --seed "${1:-1}" --warnings off --no-color
