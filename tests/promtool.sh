#!/usr/bin/env bash
# Checks the alerts of infra/compose and their own tests with Prometheus's promtool: the one on this
# machine, else the one of Debian's package, unpacked into the cache outside the tree.
set -euo pipefail
cd "$(dirname "$0")/../infra/compose/prometheus"

cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
promtool=$(command -v promtool || echo "$cache/prometheus/usr/bin/promtool")
if [ ! -x "$promtool" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    # Unpacked, not installed: the package would start a server.
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    if [ "$(id -u)" = 0 ]; then apt-get update -qq >&2 || true; fi
    if (cd "$download" && apt-get download -qq prometheus >&2); then
        mkdir -p "$cache"
        dpkg-deb -x "$download"/prometheus_*.deb "$download/prometheus"
        rm -rf "$cache/prometheus"
        mv "$download/prometheus" "$cache/prometheus"
    fi
fi
if [ ! -x "$promtool" ]; then
    echo "the alerts were not checked: promtool is not here, and its package can not be reached"
    exit 0
fi
"$promtool" check config --syntax-only prometheus.yaml
"$promtool" check rules alerts.yaml
"$promtool" test rules alerts.test.yaml
