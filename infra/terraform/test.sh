#!/usr/bin/env bash
# Applies the Terraform module to a real Kafka and checks that a second plan finds nothing to do,
# then takes a customer in as ../kafka/README.md says and checks again. `millrace topics check` with
# the same prefix is expected to agree afterwards; the topics stay for it.
#
# usage: infra/terraform/test.sh BOOTSTRAP_SERVERS [PREFIX] [REPLICATION_FACTOR]
#   PREFIX               of topics and groups, dot included; default "tf."
#   REPLICATION_FACTOR   default 1
#   The brokers need an authorizer, for the ACLs: `cargo run -p millrace-stack -- up --only kafka
#   --user admin:secret` starts one; use its plain listener.
# needs: terraform, and go to build the provider (once, into the cache of tests/stack/fetch.sh)
set -euo pipefail

fail() {
  echo "terraform test: $*" >&2
  exit 1
}

[ $# -ge 1 ] || fail "usage: $0 BOOTSTRAP_SERVERS [PREFIX] [REPLICATION_FACTOR]"
bootstrap=$1
prefix=${2:-tf.}
replicas=${3:-1}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}

# The provider, from its source as a Go module, so that no provider registry is needed.
module=github.com/Mongey/terraform-provider-kafka
version=0.13.1
provider=$cache/parts/terraform-provider-kafka-$version

command -v terraform >/dev/null || fail "terraform is not installed: install Terraform 1.5 or newer"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ ! -x "$provider/terraform-provider-kafka" ]; then
  command -v go >/dev/null || fail "go is not installed: install Go 1.24 or newer to build the provider"
  source_dir=$(go mod download -json "$module@v$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  [ -n "$source_dir" ] || fail "the Go module $module@v$version could not be fetched: check GOPROXY"
  # The module cache is read-only; Go wants to build in a folder of its own.
  cp -R "$source_dir" "$scratch/source"
  chmod -R u+w "$scratch/source"
  (cd "$scratch/source" && go build -o "$scratch/terraform-provider-kafka" .)
  mkdir -p "$provider"
  mv "$scratch/terraform-provider-kafka" "$provider/"
fi

cat >"$scratch/terraform.rc" <<EOF
provider_installation {
  dev_overrides {
    "Mongey/kafka" = "$provider"
  }
}
EOF
export TF_CLI_CONFIG_FILE=$scratch/terraform.rc
export TF_DATA_DIR=$scratch/data
export TF_IN_AUTOMATION=1
export TF_VAR_bootstrap_servers=$bootstrap
export TF_VAR_topic_prefix=$prefix
export TF_VAR_group_prefix=$prefix
export TF_VAR_replication_factor=$replicas
export TF_VAR_tls=false

tf() {
  local command=$1
  shift
  terraform -chdir="$here" "$command" "$@" >"$scratch/log" 2>&1
}

must() {
  tf "$@" || {
    tail -n 40 "$scratch/log" >&2
    fail "terraform $1 failed; its last lines are above"
  }
}

# Exit 0: nothing to do; 2: there is a difference; else an error.
plan_finds() {
  local expected=$1 found=0
  tf plan -input=false -detailed-exitcode -state="$scratch/state" || found=$?
  [ "$found" = "$expected" ] || {
    tail -n 60 "$scratch/log" >&2
    fail "$2 (terraform plan ended with $found, expected $expected; 0 is no difference, 2 is one)"
  }
}

apply() {
  # One after the other: the provider shares a client that fails with "broker not connected" when two find it unconnected.
  must apply -input=false -auto-approve -parallelism=1 -state="$scratch/state"
  grep -E '^Apply complete' <(sed 's/\x1b\[[0-9;]*m//g' "$scratch/log") || true
}

terraform -chdir="$here" fmt -check -recursive -diff >&2 || fail "run terraform fmt -recursive infra/terraform"
must get
must validate
echo "terraform: formatted and valid"

apply
plan_finds 0 "the cluster is not what was just applied"
echo "terraform: a second plan finds nothing to do"

# A customer who produces to Kafka itself, taken in by data alone.
cp -R "$here/../kafka" "$scratch/kafka"
export TF_VAR_data_dir=$scratch/kafka
sed -i 's|"customers": \[\]|"customers": [{ "principal": "acme", "request_topics": ["requests.acme"], "reply_topics": ["outcomes.acme"], "group_prefixes": ["acme"] }]|' \
  "$scratch/kafka/acls.json"
sed -i 's|^  "topics": \[$|&\n    { "name": "requests.acme", "partitions": 12, "configs": {}, "groups": ["prompt-builder.batch"] },\n    { "name": "outcomes.acme", "partitions": 12, "configs": {}, "groups": [] },|' \
  "$scratch/kafka/topics.json"
plan_finds 2 "a customer in the data made no difference"
apply
plan_finds 0 "the cluster is not what was applied with a customer"
echo "terraform: a customer was taken in by data alone"
