#!/usr/bin/env bash
# Fetches the servers that the real-stack tests start: Apache Kafka, Apache Cassandra and the
# Apicurio schema registry, by Maven, into a cache outside the tree. Safe to run again and to run
# twice at once: a part is built in a scratch folder and moved into place when it is complete.
#
# usage: tests/stack/fetch.sh [kafka] [cassandra] [apicurio]     (no name: all three)
# cache: ${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}/parts/<part>-<version>/
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
parts=$cache/parts
# Written last: a copy of the pom, so that a changed pom is fetched again.
stamp=.complete

fail() {
  echo "fetch: $*" >&2
  exit 1
}

# The part's version is the version of its pom, written there and nowhere else.
version_of() {
  sed -n 's:^  <version>\(.*\)</version>$:\1:p' "$here/maven/$1/pom.xml" | head -n 1
}

is_complete() {
  cmp -s "$here/maven/$1/pom.xml" "$2/$stamp"
}

# Maven with its own target folder, so that nothing is ever written into the source tree.
maven() {
  local part=$1 scratch=$2
  shift 2
  if ! mvn -q -B -f "$here/maven/$part/pom.xml" "$@" >"$scratch/maven.log" 2>&1; then
    tail -n 15 "$scratch/maven.log" >&2
    fail "Maven could not fetch $part; its last lines are above. Check the network or ~/.m2/settings.xml and run this again"
  fi
  rm -f "$scratch/maven.log"
}

fetch_part() {
  local part=$1 version target scratch
  version=$(version_of "$part")
  [ -n "$version" ] || fail "no <version> in $here/maven/$part/pom.xml"
  target=$parts/$part-$version
  if is_complete "$part" "$target"; then
    echo "$part $version: present in $target"
    return
  fi
  command -v java >/dev/null || fail "java is not installed: install JDK 17 (Debian: apt-get install openjdk-17-jdk-headless)"
  command -v mvn >/dev/null || fail "mvn is not installed: install Maven (Debian: apt-get install maven)"

  mkdir -p "$parts"
  scratch=$(mktemp -d "$parts/.$part-XXXXXX")
  # shellcheck disable=SC2064  # the path of this part, now
  trap "rm -rf '$scratch'" EXIT
  case $part in
    apicurio)
      maven "$part" "$scratch" dependency:copy-dependencies \
        -DoutputDirectory="$scratch/archive"
      tar -xzf "$scratch"/archive/*.tar.gz -C "$scratch"
      rm -r "$scratch/archive"
      ;;
    *)
      maven "$part" "$scratch" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$scratch/libs"
      ;;
  esac
  chmod 755 "$scratch"
  cp "$here/maven/$part/pom.xml" "$scratch/$stamp"
  # Whoever comes second finds the folder there and drops its own copy.
  if ! is_complete "$part" "$target"; then
    rm -rf "$target"
    mv -T "$scratch" "$target" 2>/dev/null || is_complete "$part" "$target" || fail "cannot move $part into $target"
  fi
  rm -rf "$scratch"
  trap - EXIT
  echo "$part $version: fetched into $target"
}

[ $# -gt 0 ] || set -- kafka cassandra apicurio
for part in "$@"; do
  [ -f "$here/maven/$part/pom.xml" ] || fail "no part called $part: choose from kafka, cassandra, apicurio"
  fetch_part "$part"
done
