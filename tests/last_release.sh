#!/usr/bin/env bash
# Builds the `millrace` of the last release (the commit in tests/last_release) from this repository's own
# history, and prints its path:  tests/last_release.sh
#
# It is built in a copy of the target directory, for its dependencies; its own crates are built anew there,
# because cargo would take those of another checkout for them, and without optimisation: nobody measures it.
# Without that commit nothing is printed.
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(git rev-parse --verify --quiet "$(cat tests/last_release)^{commit}") || {
    echo "the last release was not built: the history here does not hold commit $(cat tests/last_release)" >&2
    exit 0
}
folder=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}/releases/$commit
if [ ! -x "$folder/millrace" ]; then
    rm -rf "$folder"
    mkdir -p "$folder/source"
    git archive "$commit" | tar -x -C "$folder/source"
    find "$folder/source" -type f -exec touch {} +
    mkdir -p "$folder/target/release"
    for part in .fingerprint build deps; do
        if [ -e "target/release/$part" ]; then cp -a "target/release/$part" "$folder/target/release/"; fi
    done
    # The profile of today's tree, or none of its dependencies would fit.
    plain=()
    for package in $(sed -n 's/^name = "\(millrace[a-z-]*\)"$/\1/p' "$folder"/source/{*,tests/*}/Cargo.toml | sort -u); do
        plain+=(--config "profile.release.package.$package.opt-level=0")
    done
    while read -r package level; do
        plain+=(--config "profile.release.package.$package.opt-level=$level")
    done < <(sed -n '/^\[profile\.release\.package\./ { s/.*package\.\(.*\)\]/\1/; N; s/\nopt-level = / /p }' Cargo.toml | grep -v '^millrace')
    (cd "$folder/source" && cargo build --release --ignore-rust-version --locked --workspace --bin millrace --target-dir ../target "${plain[@]}" >&2)
    mv "$folder/target/release/millrace" "$folder/millrace"
    rm -rf "$folder/source" "$folder/target"
fi
echo "$folder/millrace"
