#!/usr/bin/env bash
# Measures planning: `sepia plan` and `sepia check` of sweeps of 1,000 and 10,000 cells, of a program and of trainings, and
# `sepia check` of manifests of 1 MB, good and bad.
#   tests/bench_plan.sh [PATH TO sepia]
# Medians of nine runs: user CPU time, which load does not change much, and wall time. The bars are 150 ms of wall time for
# 10,000 cells and 1 s for 1 MB; exit code 1 if one is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
sepia="$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release/sepia}")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
head -n 20000 < <(yes "It is a truth universally acknowledged.") > text.txt
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
missed = []
def timed(arguments, code=0):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(arguments, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    if ended != code:
        sys.exit(f"{' '.join(arguments)} ended with {ended}")
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return wall * 1000, (after.ru_utime - before.ru_utime) * 1000
print(f"{'manifest':<14}{'check user ms':>15}{'wall ms':>9}{'plan user ms':>15}{'wall ms':>9}")
for n in (1000, 10000):
    for kind in ("command", "train"):
        columns = ""
        for command in ("check", "plan"):
            runs = [timed([sepia, command, f"{kind}{n}.toml"]) for _ in range(9)]
            user, wall = (statistics.median(run[at] for run in runs) for at in (1, 0))
            if wall > 150:
                missed.append(f"{command} {kind}{n}: {wall:.0f} ms, at most 150")
            columns += f"{user:>15.1f}{wall:>9.1f}"
        print(f"{kind + str(n):<14}{columns}", flush=True)
stages = lambda more: "".join(f'[stages.s{i}]\nkind = "command"\nargv = ["true"]\n{more}\n' for i in range(15_000))
megabytes = {
    "15,000 stages": (stages("resources.threads = 1"), 0),
    "15,000 wrong wires": (stages('inputs = { a = "nobody" }'), 2),
    "40,000 unknown": ("".join(f"unknown{i} = [1, {{ a = 2 }}]\n" for i in range(40_000)), 2),
    "one long list": ('[stages.a]\nkind = "command"\nargv = [' + '"x", ' * 200_000 + "]\n", 0),
    "brackets": ("[" * 1_000_000, 2),
}
print(f"{'1 MB of':<22}{'check user ms':>15}{'wall ms':>9}")
for name, (text, code) in megabytes.items():
    with open("big.toml", "w") as file:
        file.write(text)
    runs = [timed([sepia, "check", "big.toml"], code) for _ in range(9)]
    user, wall = (statistics.median(run[at] for run in runs) for at in (1, 0))
    print(f"{name:<22}{user:>15.1f}{wall:>9.1f}", flush=True)
    if wall > 1000:
        missed.append(f"1 MB of {name}: {wall:.0f} ms, at most 1,000")
print("all bars held" if not missed else "MISSED: " + "; ".join(missed))
sys.exit(bool(missed))
P
