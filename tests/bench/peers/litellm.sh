#!/usr/bin/env bash
# Sets up LiteLLM's proxy, which `millrace bench gateway` races, in the cache outside the tree. Prints its command.
# Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"

cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
environment=$cache/litellm
stamp=$environment/.requirements
if ! cmp -s requirements.txt "$stamp"; then
    mkdir -p "$cache"
    { python3 -m venv --clear "$environment" >&2 &&
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt >&2; } || {
        echo "litellm: pip could not install tests/bench/peers/requirements.txt; check python3-venv and the network" >&2
        exit 1
    }
    cp requirements.txt "$stamp"
fi
echo "$environment/bin/litellm"
