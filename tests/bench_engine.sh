#!/usr/bin/env bash
# Measures the engine: what a run costs when nothing is to do, and what a trivial stage costs when everything is.
#   tests/bench_engine.sh [PATH TO sepia]
# Medians of several runs of wall time; run it on an idle machine. Results belong in BENCHMARKS.md, with machine and date.
set -euo pipefail
cd "$(dirname "$0")/.."
sepia="$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release/sepia}")"
folder="$(mktemp -d)"
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
python3 - <<'P'
def stage(name, needs, text):
    wire = f'inputs = {{ x = "{needs}" }}\n' if needs else ""
    return f'[stages.{name}]\nkind = "command"\n{wire}argv = ["sh", "-c", "echo {text} > o"]\noutputs = {{ o = "o" }}\n\n'
for n in (100, 1000, 5000):
    with open(f"chain{n}.toml", "w") as f:
        f.writelines(stage(f"s{i}", f"s{i-1}" if i else "", f"chain {n} {i}") for i in range(n))
    with open(f"fan{n}.toml", "w") as f:
        f.writelines(stage(f"s{i}", "s0" if i else "", f"fan {n} {i}") for i in range(n))
    with open(f"sweep{n}.toml", "w") as f:
        f.write(stage("s0", "", f"sweep {n}"))
        f.write('[stages.cell]\nkind = "command"\ninputs = { x = "s0" }\nargv = ["sh", "-c", "echo ${params.i} > o"]\n'
                f'outputs = {{ o = "o" }}\nparams = {{ i = 0 }}\nmatrix = {{ "params.i" = {{ from = 1, to = {n-1}, step = 1 }} }}\n')
P
python3 - "$sepia" <<'P'
import os, resource, statistics, subprocess, sys, time
sepia = sys.argv[1]
def timed(arguments):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
def memory(arguments):
    code = "import resource,subprocess,sys; subprocess.run(sys.argv[1:],stdout=-3,stderr=-3); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True).stdout) / 1024
def loop(n):
    return timed(["bash", "-c", f"for i in $(seq {n}); do sh -c \"echo $i > o\"; done"])
print(f"{'case':<12}{'cold s':>9}{'cpu s':>8}{'ms/stage':>10}{'x bash':>8}{'no-op ms':>10}{'no-op cpu ms':>14}{'plan ms':>9}{'MiB':>6}")
for n in (100, 1000, 5000):
    bash = statistics.median(loop(n)[0] for _ in range(3))
    for shape in ("chain", "fan", "sweep"):
        manifest = f"{shape}{n}.toml"
        store = f".store-{shape}{n}"
        run = [sepia, "run", manifest, "--store", store]
        wall, cpu = timed(run)
        again = [timed(run) for _ in range(9)]
        plan = [timed([sepia, "plan", manifest, "--store", store])[0] for _ in range(9)]
        median = lambda values: statistics.median(values) * 1000
        print(f"{shape + str(n):<12}{wall:>9.2f}{cpu:>8.2f}{wall / n * 1000:>10.2f}{wall / bash:>8.2f}"
              f"{median(w for w, _ in again):>10.1f}{median(c for _, c in again):>14.1f}{median(plan):>9.1f}{memory(run):>6.0f}", flush=True)
# Early cutoff: the root of a chain of 1,000 is edited so that its output stays the same.
text = open("chain1000.toml").read().replace("echo chain 1000 0 > o", "echo chain 1000 0 > o # edited", 1)
open("edited.toml", "w").write(text)
out = subprocess.run([sepia, "run", "edited.toml", "--store", ".store-chain1000"], capture_output=True, text=True).stderr
print("root of chain1000 edited, same output:", out.strip().splitlines()[-1].strip())
# One large output and many small ones, beyond what producing them costs.
open("big.toml", "w").write('[stages.big]\nkind = "command"\nargv = ["sh", "-c", "head -c 1073741824 /dev/zero > o"]\noutputs = { o = "o" }\n')
open("many.toml", "w").write('[stages.many]\nkind = "command"\nargv = ["sh", "-c", "mkdir o; cd o; seq 10000 | split -l 1 -a 4 -"]\noutputs = { o = "o" }\n')
for name, bare in (("big", "head -c 1073741824 /dev/zero > o"), ("many", "rm -rf o; mkdir o; cd o; seq 10000 | split -l 1 -a 4 -")):
    base = statistics.median(timed(["sh", "-c", bare])[0] for _ in range(3))
    full = statistics.median(timed([sepia, "run", f"{name}.toml", "--force", name, "--store", f".store-{name}"])[0] for _ in range(3))
    print(f"{name}: produced in {base:.2f} s, as a stage {full:.2f} s, so {full - base:.2f} s to commit")
P
