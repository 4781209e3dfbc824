#!/usr/bin/env bash
# Sets up other people's clients for the tests: kcat, a Python environment with Confluent's and OpenAI's
# libraries and Schemathesis, and OpenAI's library for Node, in the cache outside the tree. Prints the environment's interpreter. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "clients: $*" >&2
    exit 1
}

if ! command -v kcat >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -qq && apt-get install -y -qq kcat; } >&2 || fail "kcat could not be installed; install it and run this again"
    else
        fail "kcat is not installed (Debian: apt-get install kcat; macOS: brew install kcat)"
    fi
fi

cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
environment=$cache/python
stamp=$environment/.requirements
wanted=$(cat examples/clients/requirements.txt tests/clients/requirements.txt)
if [ "$wanted" != "$(cat "$stamp" 2>/dev/null)" ]; then
    mkdir -p "$cache"
    python3 -m venv --clear "$environment" >&2 || fail "no Python environment: install python3-venv"
    "$environment/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/requirements.txt >&2 ||
        fail "pip could not install tests/clients/requirements.txt; check the network or pip's configuration"
    echo "$wanted" >"$stamp"
fi
# OpenAI's library for Node, beside it.
command -v npm >/dev/null || fail "npm is not installed: install Node.js 20"
packages=$cache/node
if ! cmp -s tests/clients/node/package.json "$packages/package.json"; then
    rm -rf "$packages"
    mkdir -p "$packages"
    cp tests/clients/node/package.json "$packages/package.json"
    (cd "$packages" && npm install --silent --no-audit --no-fund --no-package-lock >&2) ||
        { rm -rf "$packages"; fail "npm could not install what tests/clients/node/package.json names; check the network"; }
fi
echo "$environment/bin/python"
