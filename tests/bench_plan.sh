#!/usr/bin/env bash
# Measures planning: `sepia plan` and `sepia check` of sweeps of 1,000 and 10,000 cells, of a program and of trainings.
#   tests/bench_plan.sh [PATH TO sepia]
# Medians of nine runs: user CPU time, which load does not change much, and wall time. The bar is 150 ms for 10,000 cells.
set -euo pipefail
cd "$(dirname "$0")/.."
sepia="$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release/sepia}")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
yes "It is a truth universally acknowledged." | head -n 20000 > text.txt
for n in 1000 10000; do
  cat > "command$n.toml" <<T
[stages.cell]
kind = "command"
argv = ["echo", "\${params.i}"]
params = { i = 0 }
matrix = { "params.i" = { from = 1, to = $n, step = 1 } }
T
  cat > "train$n.toml" <<T
[stages.corpus]
kind = "text-dataset"
files = ["text.txt"]
[stages.train]
kind = "train"
inputs = { data = "corpus" }
model = { preset = "9m" }
method = { name = "galore", rank = 16 }
max_steps = 100
matrix = { lr = { linspace = [0.001, 0.1, $((n / 10))] }, seed = { count = 10 } }
T
done
python3 - "$sepia" <<'P'
import resource, statistics, subprocess, sys, time
sepia = sys.argv[1]
def timed(arguments):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return wall * 1000, (after.ru_utime - before.ru_utime) * 1000
print(f"{'manifest':<14}{'check user ms':>15}{'wall ms':>9}{'plan user ms':>15}{'wall ms':>9}")
for n in (1000, 10000):
    for kind in ("command", "train"):
        columns = ""
        for command in ("check", "plan"):
            runs = [timed([sepia, command, f"{kind}{n}.toml"]) for _ in range(9)]
            user, wall = (statistics.median(run[at] for run in runs) for at in (1, 0))
            columns += f"{user:>15.1f}{wall:>9.1f}"
        print(f"{kind + str(n):<14}{columns}", flush=True)
P
