#!/usr/bin/env bash
# Builds Bento, which `millrace bench bento` races, into the cache outside the tree. Prints its command.
# Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/bento"

cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
command -v go >/dev/null || { echo "bento: go is not installed: install Go 1.24 or newer" >&2; exit 1; }
mkdir -p "$cache/bento"
go build -mod=readonly -o "$cache/bento/bento" . >&2 || {
    echo "bento: the Go module could not be built; check GOPROXY and the network" >&2
    exit 1
}
echo "$cache/bento/bento"
