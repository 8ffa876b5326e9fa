#!/usr/bin/env bash
# Kills a small training pipeline at random moments, over and over: the parent, a child, or both. In the end the store must
# be sound, and the outputs those of a run that was never interrupted. CI runs a smaller number of kills as a test.
#   tests/kill_many.sh [KILLS, default 200] [PATH TO sepia]
set -euo pipefail
cd "$(dirname "$0")/.."
kills="${1:-200}"
sepia="$(realpath "${2:-${CARGO_TARGET_DIR:-target}/release/sepia}")"
repository="$PWD"
folder="$(mktemp -d)"
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
head -c 60000 "$repository/manifests/data/austen/persuasion.txt" > text.txt
cat > pipeline.toml <<'M'
[stages.corpus]
kind = "text-dataset"
files = ["text.txt"]
tokenizer = { kind = "byte" }
[stages.train]
kind = "pretrain"
inputs = { data = "corpus" }
model = { d_model = 16, n_layer = 1, n_head = 2 }
seq_len = 16
batch_size = 4
max_steps = 4000
checkpoint_every = 1
lr = 0.003
[stages.evaluate]
kind = "evaluate"
inputs = { model = "train", data = "corpus" }
[stages.ranks]
kind = "rank-analysis"
inputs = { model = "train" }
M
outputs() { "$sepia" show --format json "$@" | python3 -c 'import json,sys; print(sorted((n["node"], o["port"], o["object"]["digest"]) for n in json.load(sys.stdin)["nodes"] for o in n["record"]["outputs"]))'; }
"$sepia" run pipeline.toml --store whole -q
expected="$(outputs --store whole)"
done_runs=0
for i in $(seq "$kills"); do
  "$sepia" run pipeline.toml --store killed -q & parent=$!
  # Up to 2.5 s: before, between and after checkpoints, which come every second.
  moment=$((RANDOM % 2500))
  sleep "$(printf '%d.%03d' $((moment / 1000)) $((moment % 1000)))"
  children="$(cat /proc/$parent/task/*/children 2>/dev/null || true)"
  case $((RANDOM % 3)) in
    0) kill -9 "$parent" 2>/dev/null || true ;;
    1) [ -z "$children" ] || kill -9 $children 2>/dev/null || true ;;
    2) kill -9 "$parent" $children 2>/dev/null || true ;;
  esac
  if wait "$parent" 2>/dev/null; then
    # It got to the end: start again from nothing, so that every kill hits something.
    done_runs=$((done_runs + 1))
    [ "$(outputs --store killed)" = "$expected" ] || { echo "kill $i: other outputs"; exit 1; }
    "$sepia" cache verify --store killed >/dev/null || { echo "kill $i: a corrupt store"; exit 1; }
    chmod -R u+w killed; rm -rf killed
  fi
done
"$sepia" run pipeline.toml --store killed -q
[ "$(outputs --store killed)" = "$expected" ] || { echo "other outputs"; exit 1; }
"$sepia" cache verify --store killed
echo "$kills kills, $done_runs runs reached the end in between, 0 corrupt stores, all outputs identical"
