#!/bin/sh
# Peak memory of the whole training process, by method: `sepia run` trains each in a process of its own, which records the
# most it held (VmHWM).
#
#   stages/benches/memory.sh [SEPIA]
set -eu
cd "$(dirname "$0")/../.."
sepia=${1:-target/release/sepia}
[ -x "$sepia" ] || cargo build --release --quiet
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
"$sepia" run stages/benches/memory.toml --store "$store" -j 2 >&2
"$sepia" results train --store "$store" --format json | python3 -c '
import json, sys
rows = {record["node"]: record["results"] for record in json.load(sys.stdin)}
full = float(rows["train[full,per_layer=false]"]["peak_memory_bytes"])
print("{:<36} {:>9} {:>7} {:>10}".format("run", "peak MiB", "x full", "state MiB"))
for node, results in sorted(rows.items()):
    peak, state = (float(results[name]) for name in ("peak_memory_bytes", "optimizer_state_bytes"))
    print(f"{node:<36} {peak / 2**20:>9.1f} {peak / full:>7.3f} {state / 2**20:>10.1f}")
'
