#!/usr/bin/env bash
# Measures the engine against the bars that it is held to, and says which it meets.
#   tests/bench_engine.sh [PATH TO sepia] [CASE ...]      cases: trivial, cutoff, large, many; default: all
# Medians of several runs; exit code 1 if a bar is missed. Run it on an idle machine (it prints the load), in a folder on
# the disk that matters (TMPDIR). Chains are compared with a loop of the shell, fan-outs with as many programs at once as
# sepia starts. What a commit costs is measured on tmpfs, since a disk takes longer to write 1 GiB than anything else here.
# Stores are removed only at the end, and a case begins a minute after anything was: ext4 without a journal takes the longer to
# make a file the more were removed in the last minute, which nobody does to a store that is in use.
# Results belong in BENCHMARKS.md, with machine and date.
# What the parts of the store cost, one by one: cargo bench -p sepia-cache.
set -euo pipefail
cd "$(dirname "$0")/.."
sepia="$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release/sepia}")"
folder="$(mktemp -d)"
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
python3 - "$sepia" "${@:2}" <<'P'
import os, shutil, statistics, subprocess, sys, tempfile, time

sepia, cases = sys.argv[1], sys.argv[2:] or ["trivial", "cutoff", "large", "many"]
missed = []
jobs = os.cpu_count()
median = statistics.median

def stage(name, needs, text):
    wire = f'inputs = {{ x = "{needs}" }}\n' if needs else ""
    return f'[stages.{name}]\nkind = "command"\n{wire}argv = ["sh", "-c", "echo {text} > o"]\noutputs = {{ o = "o" }}\n\n'

def manifest(shape, n):
    if shape == "chain":
        text = "".join(stage(f"s{i}", f"s{i-1}" if i else "", f"chain {n} {i}") for i in range(n))
    elif shape == "fan":
        text = "".join(stage(f"s{i}", "s0" if i else "", f"fan {n} {i}") for i in range(n))
    else:
        text = stage("s0", "", f"sweep {n}") + (
            '[stages.cell]\nkind = "command"\ninputs = { x = "s0" }\nargv = ["sh", "-c", "echo ${params.i} > o"]\n'
            f'outputs = {{ o = "o" }}\nparams = {{ i = 0 }}\nmatrix = {{ "params.i" = {{ from = 1, to = {n-1}, step = 1 }} }}\n')
    with open(f"{shape}{n}.toml", "w") as file:
        file.write(text)

def timed(arguments):
    "Wall and CPU seconds, with those of all children, and the peak memory of the largest process in MiB."
    start = time.perf_counter()
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read().decode()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {child.returncode}\n{said}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024

def bar(what, value, limit, unit, floor=False):
    good = value >= limit if floor else value <= limit
    if not good:
        missed.append(what)
    print(f"{'held' if good else 'MISSED':>8}  {what}: {value:.3g} {unit} ({'at least' if floor else 'at most'} {limit:g})", flush=True)

removed = 0.0

def drop(*folders):
    "Removes what a case left."
    global removed
    for folder in filter(os.path.exists, folders):
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        shutil.rmtree(folder)
        removed = time.monotonic()

def settle():
    if removed:
        time.sleep(max(0.0, removed + 61 - time.monotonic()))

def loop(n, at_once):
    "The same programs without an engine: one after the other as a chain must, or as many at once as sepia runs of a fan-out."
    if at_once == 1:
        return timed(["bash", "-c", f'for i in $(seq {n}); do sh -c "echo $i > o"; done'])
    return timed(["bash", "-c", f"seq {n} | xargs -P {at_once} -I @ sh -c 'echo @ > o'"])

def trivial():
    print(f"{'case':<12}{'cold s':>9}{'stages/s':>10}{'x bash':>8}{'cpu ms/stage':>14}{'beyond spawn':>14}{'no-op ms':>10}{'cpu':>7}{'plan ms':>9}{'MiB':>6}")
    beyond, stores = {}, []
    for n in (100, 1000, 5000):
        bare = {at_once: [loop(n, at_once) for _ in range(3)] for at_once in (1, jobs)}
        for shape in ("chain", "fan", "sweep"):
            loops = bare[1 if shape == "chain" else jobs]
            bash, spawn = median(l[0] for l in loops), median(l[1] for l in loops) / n
            name, store = f"{shape}{n}", f".store-{shape}{n}"
            manifest(shape, n)
            run = [sepia, "run", f"{name}.toml", "--store", store, "-j", str(jobs)]
            wall, cpu, _ = timed(run)
            again = [timed(run) for _ in range(9)]
            plan = median(timed([sepia, "plan", f"{name}.toml", "--store", store])[0] for _ in range(9)) * 1000
            noop, noop_cpu, memory = (median(a[i] for a in again) for i in range(3))
            beyond[name] = (cpu / n - spawn) * 1000
            print(f"{name:<12}{wall:>9.2f}{n / wall:>10.0f}{wall / bash:>8.2f}{cpu / n * 1000:>14.2f}{beyond[name]:>14.2f}"
                  f"{noop * 1000:>10.1f}{noop_cpu * 1000:>7.1f}{plan:>9.1f}{memory:>6.0f}", flush=True)
            if n >= 1000:
                bar(f"{name}, cold, against the same programs started by the shell", wall / bash, 3, "x")
                bar(f"{name}, engine CPU beyond the spawn", beyond[name], 0.5, "ms a stage")
            if n == 5000:
                bar(f"{name}, nothing to do", noop * 1000, 50, "ms")
                bar(f"{name}, nothing to do, memory", memory, 100, "MiB")
                bar(f"{name}, plan", plan, 50, "ms")
            if name == "fan1000":
                bar("fan1000, trivial stages a second", n / wall, 1000, "stages/s", floor=True)
            if name == "chain1000":
                bar("chain1000, a dependency step", wall / n * 1000, 5, "ms")
            stores.append(store)
    bar("engine CPU beyond the spawn, 5,000 against 1,000 (fan-out)", beyond["fan5000"] - beyond["fan1000"], 0.15, "ms a stage more")
    # What a run costs once (a store is made, the binary is hashed) is most of what 100 stages seem to cost.
    each = (1000 * beyond["fan1000"] - 100 * beyond["fan100"]) / 900
    print(f"fan-out: {each:.2f} ms for each further stage from 100 to 1,000, {100 * beyond['fan100'] - 100 * each:.0f} ms for a run")
    bar("engine CPU beyond the spawn of each further stage, 100 to 1,000 (fan-out)", each, 0.5, "ms a stage")
    drop(*stores)

def cutoff():
    manifest("chain", 1000)
    timed([sepia, "run", "chain1000.toml", "--store", ".store"])
    with open("chain1000.toml") as file:
        text = file.read().replace("echo chain 1000 0 > o", "echo chain 1000 0 > o # edited", 1)
    with open("chain1000.toml", "w") as file:
        file.write(text)
    said = subprocess.run([sepia, "run", "chain1000.toml", "--store", ".store"], capture_output=True, text=True, check=True).stderr
    ran = int(said.split("Finished ")[-1].split()[0])
    bar("root of a chain of 1,000 edited to the same output: stages that ran", ran, 1, "stages")
    drop(".store")

def produced(script, folder):
    "What a program costs by itself, synced, and as a stage of a store in `folder`: medians of five, in seconds."
    with open("m.toml", "w") as file:
        file.write(f'[stages.s]\nkind = "command"\nargv = ["sh", "-c", "{script}"]\noutputs = {{ o = "o" }}\n')
    bare, full, made = [], [], []
    for i in range(5):
        store, alone = os.path.join(folder, f".store{i}"), os.path.join(folder, f"alone{i}")
        os.mkdir(alone)
        os.sync()
        bare.append(timed(["sh", "-c", f"cd {alone}; {script}; sync -f o"])[0])
        os.sync()
        full.append(timed([sepia, "run", "m.toml", "--store", store])[0])
        # On a disk it is left for the end, in memory there is not room for all.
        if folder.startswith("/dev/shm"):
            drop(store, alone)
        else:
            made += [store, alone]
    drop(*made)
    return median(bare), median(full)

def committed(script, folder, hashing):
    """Seconds from the end of a stage's program to the end of the run, and of hashing its output in the store once more.
    Not the difference to what the program takes by itself: making 1 GiB takes 0.5 to 1.3 s, depending on the memory it gets."""
    ended, store = os.path.join(folder, "ended"), os.path.join(folder, ".store")
    with open("m.toml", "w") as file:
        file.write(f'[stages.s]\nkind = "command"\nargv = ["sh", "-c", "{script}; date +%s%N > {ended}"]\noutputs = {{ o = "o" }}\n')
    os.sync()
    timed([sepia, "run", "m.toml", "--store", store])
    took = time.time() - int(open(ended).read()) / 1e9
    objects = (os.path.join(at, name) for at, _, names in os.walk(os.path.join(store, "objects")) for name in names)
    hashed = hashing(max(objects, key=os.path.getsize)) if hashing else 0
    drop(store)
    return took, hashed

def in_memory():
    "A folder that no disk is behind, so that what is measured is the engine: removed with the process's other files."
    return tempfile.mkdtemp(dir="/dev/shm", prefix="sepia-bench-")

def hasher():
    "One pass of blake3 over a file with all threads: b3sum, else the same algorithm called from Python."
    if shutil.which("b3sum"):
        return "b3sum", lambda path: timed(["b3sum", path])[0]
    try:
        import blake3
    except ImportError:
        return None, None
    def hashing(path):
        start = time.perf_counter()
        blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(path)
        return time.perf_counter() - start
    return "blake3 (Python, all threads, mmap)", hashing

def large():
    memory = in_memory()
    source = os.path.join(memory, "source")
    subprocess.run(["sh", "-c", f"head -c 1073741824 /dev/urandom > {source}"], check=True)
    name, hashing = hasher()
    commits, hashes = zip(*(committed(f"cp {source} o", memory, hashing) for _ in range(9)))
    commit = median(commits)
    print(f"1 GiB, store on tmpfs: {commit:.2f} s from the end of the program to the end of the run; the aim is 0.25 s")
    if name:
        print(f"       {name} takes {median(hashes):.2f} s of the same file")
        bar(f"1 GiB committed, against {name}", commit / median(hashes), 1.3, "x")
    else:
        print("       neither b3sum (cargo install b3sum) nor blake3 for Python (pip install blake3): not compared")
    shutil.copyfile(source, "o")
    shutil.rmtree(memory)
    # A file that changed a moment ago is hashed again, since its clock may be too coarse to tell.
    time.sleep(2.5)
    with open("reader.toml", "w") as file:
        file.write('[stages.reader]\nkind = "command"\ndata = { big = "o" }\nargv = ["true", "${data.big}"]\n')
    timed([sepia, "run", "reader.toml", "--store", ".store"])
    again = median(timed([sepia, "run", "reader.toml", "--store", ".store"])[0] for _ in range(9)) * 1000
    bar("1 GiB of unchanged input, nothing to do", again, 50, "ms")
    drop(".store")
    os.remove("o")

def many():
    script = "mkdir o; cd o; seq 10000 | split -l 1 -a 4 -; cd .."
    for where, place in (("on tmpfs", in_memory()), ("on the disk", os.getcwd())):
        bare, full = produced(script, place)
        print(f"10,000 files, store {where}: made and synced in {bare:.2f} s, as a stage in {full:.2f} s")
        bar(f"10,000 small files, store {where}, beyond making and syncing them", full - bare, 0.3, "s")
        if where == "on tmpfs":
            shutil.rmtree(place)

print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {subprocess.run([sepia, '--version'], capture_output=True, text=True).stdout.strip()}")
for case in cases:
    settle()
    {"trivial": trivial, "cutoff": cutoff, "large": large, "many": many}[case]()
print("all bars held" if not missed else f"missed: {len(missed)}")
sys.exit(bool(missed))
P
