"""What only a GPU can tell: that training on it agrees with the CPU, resumes bit for bit, and how fast it is.

Called by tests/gpu.sh. Prints one table; the exit status is 1 when a check failed. Speed is reported, never judged here.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tarfile
import time

from verdicts import Verdicts, metrics

SEQ_LEN = 256
# Windows at once that fit an 80 GB GPU in bf16, by preset, and how many of an update, of which 512 are published (GaLore,
# appendix C.1): what a method does once an update counts as much here as it does there.
BATCH = {"60m": 256, "130m": 128, "350m": 64, "1b": 32}
WINDOWS = 512
# Updates between two bases: as published, and where they are timed.
GAP, TIMED_GAP = 200, 4
METHODS = {
    "full": '{ name = "full" }',
    "galore": '{ name = "galore", rank = RANK, update_proj_gap = GAP }',
    "fira": '{ name = "fira", rank = RANK, update_proj_gap = GAP }',
    # Masks of dropout differ between CPU and GPU, and ranks of merges are found on the host.
    "relora": '{ name = "relora", rank = RANK, dropout = 0.0, record_rank = false }',
}
# Ranks of the published tables: a quarter of d_model (GaLore, table 2).
RANK = {"60m": 128, "130m": 256, "350m": 256, "1b": 512}
# Weights and optimiser state in bf16, as in the public code of GaLore: with `dtype = "bf16"`.
NARROW = 'weights_dtype = "bf16"\nstate_dtype = "bf16"\n'
EIGHT = '{ name = "galore", rank = RANK, update_proj_gap = GAP, optimizer = "adam8bit" }'
# What is measured besides: program, method, and what is written beside it.
NARROW_ROWS = [
    ("sepia full, bf16 weights", METHODS["full"], NARROW),
    ("sepia galore, bf16 weights", METHODS["galore"], NARROW),
    ("sepia galore, bf16 weights, 8-bit moments", EIGHT, NARROW),
]
# Weights and states of the 1B model under GaLore as published (table 2).
PUBLISHED_1B = 4.38e9
# Of the host, beside the GPU.
THREADS = min(8, os.cpu_count() or 1)
# Sizes of a trial run of this script, which measures nothing.
TINY = "{ d_model = 32, n_layer = 2, n_head = 2 }"


def method_of(body, rank, gap=GAP):
    """A method of a manifest."""
    return body.replace("RANK", str(rank)).replace("GAP", str(gap))


class Checks(Verdicts):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.kernels = None
        if args.kernels and args.only != "compile":
            self.kernels = pathlib.Path(args.work) / "kernels"
            with tarfile.open(args.kernels) as archive:
                archive.extractall(self.kernels, filter="data")
        # What is printed below a table of speeds.
        self.remarks = []

    def find_cublas(self):
        """Sepia finds cuBLAS where it usually is; here it may be among the packages of the interpreter that has PyTorch."""
        if "SEPIA_CUBLAS" in os.environ or not self.args.python:
            return
        look = "import glob, sys; print(*(f for p in sys.path for f in glob.glob(p + '/nvidia/*/lib/libcublas.so.1[23]')))"
        found = subprocess.run([self.args.python, "-c", look], capture_output=True, text=True).stdout.split()
        if found:
            os.environ["SEPIA_CUBLAS"] = found[0]

    def sepia(self, *words, check=True):
        done = subprocess.run([self.args.sepia, *words], capture_output=True, text=True, cwd=self.args.work)
        if check and done.returncode != 0:
            sys.exit(f"sepia {' '.join(words)} failed with {done.returncode}:\n{done.stderr}")
        return done

    def manifest(self, name, train, device, dtype="f32"):
        data = pathlib.Path(self.args.data).resolve()
        path = pathlib.Path(self.args.work) / f"{name}.toml"
        path.write_text(f'''
[stages.corpus]
kind = "text-dataset"
files = ["{data}"]
tokenizer = {'{ kind = "byte" }' if self.args.tiny else '{ kind = "bpe", vocab_size = 1024 }'}

[stages.train]
kind = "train"
inputs = {{ data = "corpus" }}
device = "{device}"
dtype = "{dtype}"
resources = {{ threads = {THREADS} }}
{train}
''')
        return path

    def digest(self, store):
        database = sqlite3.connect(f"file:{store}/results.db?mode=ro", uri=True)
        (digest,) = database.execute(
            """SELECT digest FROM artifacts WHERE port = 'model' AND execution =
               (SELECT execution FROM executions WHERE node = 'train' AND outcome = 'done'
                ORDER BY started_at DESC LIMIT 1)"""
        ).fetchone()
        return digest

    def store(self, name, fresh=False):
        """The path of a store. Before its first use it gets the kernels of the last one, unless it shall be `fresh`: they
        are tuned for each store, which takes minutes, and two stores can be compared bit for bit only with the same ones."""
        path = pathlib.Path(self.args.work) / name
        known = self.kernels and self.kernels / "cache/kernels"
        if not fresh and not path.exists() and known and known.exists():
            shutil.copytree(known, path / "cache/kernels", symlinks=True)
        self.kernels = path
        return str(path)

    def published(self, preset, windows):
        """A model at its published size, in batches that fit, of so many windows an update."""
        sizes = f"seq_len = {SEQ_LEN}\nbatch_size = {BATCH[preset]}\ngrad_accum = {windows // BATCH[preset]}"
        return f'model = {{ preset = "{preset}", vocab_size = 32000 }}\n{sizes}\n'

    def model(self):
        """The model, windows and their length of the checks that are not about speed."""
        model = TINY if self.args.tiny else '{ preset = "9m" }'
        seq, batch = (16, 2) if self.args.tiny else (64, 8)
        return f"model = {model}\nseq_len = {seq}\nbatch_size = {batch}\n"

    def correctness(self):
        """The loss curves of CPU and GPU agree: at first to rounding, later as far as chaos lets them."""
        steps = 6 if self.args.tiny else 60
        for method in METHODS:
            body = method_of(METHODS[method], 8 if self.args.tiny else 32)
            train = f'''
{self.model()}
method = {body}
max_steps = {steps}
log_every = 1
'''
            losses = []
            for device in ("cpu", self.args.device):
                path = self.manifest(f"same-{method}", train, device)
                self.sepia("run", str(path), "--store", self.store("same"), "--force", "train")
                losses.append(metrics(self.store("same"), "loss"))
            pairs = list(zip(*losses))
            first = max(abs(a - b) / a for a, b in pairs[:5])
            whole = max(abs(a - b) / a for a, b in pairs)
            good = len(pairs) == steps and first < 1e-3 and whole < 2e-2
            self.judge(f"{method}: loss on the GPU as on the CPU", good, f"{first:.1e} in 5 steps, {whole:.1e} in {steps}")
        self.half_precision()

    def half_precision(self):
        """Weights and state in bf16, and the loss scale of f16, at a size that a CPU computes in 16 bits."""
        galore = method_of(METHODS["galore"], 8, gap=5)
        for dtype, method, more in (("bf16", galore, NARROW), ("f16", METHODS["full"], "")):
            sizes = f"model = {TINY}\nseq_len = 16\nbatch_size = 4\n"
            train = f"{sizes}{more}method = {method}\nmax_steps = 12\nlog_every = 1\n"
            losses = []
            for device in ("cpu", self.args.device):
                path = self.manifest(f"same-{dtype}", train, device, dtype)
                self.sepia("run", str(path), "--store", self.store("same"), "--force", "train")
                losses.append(metrics(self.store("same"), "loss"))
            apart = max(abs(a - b) / a for a, b in zip(*losses))
            good = len(losses[0]) == len(losses[1]) == 12 and apart < 3e-2
            self.judge(f"{dtype}: loss on the GPU as on the CPU", good, f"{apart:.1e} in 12 steps")

    def resume(self):
        """Stopped in the middle and run again, training ends in the same bytes."""
        rank = 8 if self.args.tiny else 32
        for dtype, more in (("f32", ""), ("bf16", NARROW), ("f16", "")):
            self.resume_in(dtype, f'''
{self.model()}{more}
method = {{ name = "fira", rank = {rank}, update_proj_gap = {max(1, self.args.resume_updates // 12)} }}
max_steps = {self.args.resume_updates}
''')

    def resume_in(self, dtype, train):
        path = self.manifest(f"resume-{dtype}", train, self.args.device, dtype)
        one = self.store(f"whole-{dtype}")
        self.sepia("run", str(path), "--store", one)
        whole = self.digest(one)
        self.sepia("run", str(path), "--store", one, "--force", "train")
        self.judge(f"{dtype}: two runs give the same bytes", self.digest(one) == whole, whole[:16])
        two = self.store(f"parts-{dtype}")
        self.sepia("run", str(path), "corpus", "--store", two)
        child = subprocess.Popen(
            [self.args.sepia, "run", str(path), "--store", two, "--format", "json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.args.work,
        )
        for line in child.stdout:
            event = json.loads(line)
            if "progress" in json.dumps(event).lower() and '"done": 0' not in line:
                child.send_signal(signal.SIGINT)
                break
        child.stdout.read()
        child.wait()
        self.judge(f"{dtype}: the run was stopped in the middle", child.returncode == 130, f"exit {child.returncode}")
        self.sepia("run", str(path), "--store", two)
        self.judge(f"{dtype}: a resumed run gives the same bytes", self.digest(two) == whole, whole[:16])

    def start_up(self):
        """Seconds of a child that trains one step: the first pays for the kernels, the second finds them."""
        train = f'{self.model()}method = {{ name = "full" }}\nmax_steps = 1\n'
        path = self.manifest("start-up", train, self.args.device)
        took, inside = [], []
        store = self.store("start", fresh=True)
        for _ in range(2):
            begin = time.perf_counter()
            self.sepia("run", str(path), "--store", store, "--force", "train")
            took.append(time.perf_counter() - begin)
            inside += metrics(store, "startup_seconds")
        print(f"          a child that trains one step: {took[0]:.1f} s at first, {took[1]:.1f} s with kernels cached")
        if inside:
            spent = ", ".join(f"{seconds:.1f} s" for seconds in inside)
            print(f"          of which until the end of the first update: {spent}")

    def speed(self):
        """A table of each model, whose rows are printed as they are measured: what is there when time runs out is not lost."""
        if not self.args.tiny:
            print(f"\n{WINDOWS} windows of {SEQ_LEN} tokens an update, new bases every {GAP} updates:")
        number = 0
        for preset in self.args.presets.split(","):
            print("\n| model | program | tokens/s | against PyTorch eager | peak device memory | optimizer state |")
            print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
            eager = None
            for mode in ("eager", "compile") if self.args.python else ():
                found = self.pytorch(preset, mode)
                eager = found[0] if mode == "eager" else eager
                self.row(preset, f"pytorch {mode}", found, eager)
            named = [(f"sepia {method}", body, "") for method, body in METHODS.items()]
            for program, body, more in named + (NARROW_ROWS if self.args.dtype == "bf16" else []):
                self.row(preset, program, self.measured(preset, number, body, more), eager)
                number += 1
            print("\n".join(["", *self.remarks]), flush=True)
            self.remarks.clear()

    def row(self, preset, program, measured, eager):
        rate, memory, state = measured
        ratio = f"{rate / eager:.2f}x" if rate and eager else "-"
        gib = lambda value: f"{value[0] / 2**30:.2f} GiB" if value else "-"
        rate = f"{rate:,.0f}" if rate else "failed"
        print(f"| {preset} | {program} | {rate} | {ratio} | {gib(memory)} | {gib(state)} |", flush=True)

    def compile(self):
        """Compiles what trainings with AdamW need, and packs it for a machine whose time is short: see tests/gpu.sh."""
        for preset in self.args.presets.split(","):
            for number, more in enumerate(("", NARROW)):
                model = self.published(preset, 2 * BATCH[preset])
                train = f'{model}{more}method = {METHODS["full"]}\nmax_steps = 1'
                path = self.manifest(f"compile-{preset}-{number}", train, self.args.device, self.args.dtype)
                self.sepia("run", str(path), "--store", self.store("compile"))
        kernels = (self.kernels / "cache/kernels/current").resolve()
        database = sqlite3.connect(kernels / "default.db", isolation_level=None)
        # How fast they are, and so which are chosen, the other machine finds out.
        database.execute("DELETE FROM entries WHERE namespace NOT LIKE 'cuda/%'")
        database.execute("VACUUM")
        database.execute("PRAGMA journal_mode = DELETE")
        database.close()
        with tarfile.open(self.args.kernels, "w:xz", preset=2) as archive:
            archive.add(kernels / "default.db", "cache/kernels/1/default.db")
            link = tarfile.TarInfo("cache/kernels/current")
            link.type, link.linkname = tarfile.SYMTYPE, "1"
            archive.addfile(link)

    def measured(self, preset, number, body, more):
        """Tokens per second, peak device memory and optimiser state of some updates.

        New bases are made often, so that some are measured, and counted as often as is published."""
        tokens = 2 * 16 if self.args.tiny else WINDOWS * SEQ_LEN
        train = f'''
{self.model() if self.args.tiny else self.published(preset, WINDOWS)}
{more}method = {method_of(body, 8 if self.args.tiny else RANK[preset], gap=TIMED_GAP)}
max_steps = {self.args.steps}
log_every = 1
'''
        path, store = self.manifest(f"speed-{preset}-{number}", train, self.args.device, self.args.dtype), self.store("speed")
        # There is no store yet where kernels have been put, and none is needed.
        planned = json.loads(self.sepia("plan", str(path), "--store", "none", "--format", "json").stdout)
        estimate = next(node["estimate"] for node in planned["nodes"] if node["node"] == "train")
        done = self.sepia("run", str(path), "--store", store, check=False)
        # Seven models of 1B parameters do not fit a small disk, and nobody asks for them. Kernels are asked for.
        kernels = pathlib.Path(store) / "cache/kernels"
        for file in pathlib.Path(store).rglob("*"):
            if file.is_file() and kernels not in file.parents and file.stat().st_size > 1 << 28:
                file.unlink()
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            return None, None, None
        seconds = [tokens / rate for rate in metrics(store, "tokens_per_second")]
        # The first updates pay for kernels that are tuned and compiled, and so does the first new basis after the first one.
        renews = lambda update: "update_proj_gap" in body and update % TIMED_GAP == 0
        plain = statistics.median(time for update, time in enumerate(seconds) if update > 1 and not renews(update))
        rate = tokens / plain
        if "update_proj_gap" in body:
            renewed = [time for update, time in enumerate(seconds) if update > TIMED_GAP and renews(update)]
            extra = max(statistics.median(renewed) - plain, 0)
            self.remarks.append(f"          {path.stem}: {extra:.3f} s for new bases of all matrices, {plain:.3f} s for an update")
            rate = tokens / (plain + extra / GAP)
        memory, (state,) = metrics(store, "peak_device_memory_bytes"), metrics(store, "optimizer_state_bytes")
        predicted = estimate["optimizer_state_bytes"]
        same = f"{state:,.0f} of {predicted:,} bytes"
        self.remarks.append(self.verdict(f"{path.stem}: optimiser state as predicted", state == predicted, same))
        if more == NARROW and preset == "1b" and "galore" in body:
            both = 2 * estimate["parameters"] + state
            self.remarks.append(f"          {path.stem}: weights and states {both / 1e9:.2f} GB, where {PUBLISHED_1B / 1e9:.2f} are published")
        return rate, memory, [state]

    def pytorch(self, preset, mode):
        script = pathlib.Path(__file__).parents[2] / "stages/benches/pytorch_llama.py"
        batch, seq, vocab = (2, 16, 256) if self.args.tiny else (BATCH[preset], SEQ_LEN, 32000)
        command = [self.args.python, str(script), "--device", self.args.device, "--dtype", self.args.dtype, "--json",
                   "--preset", "9m" if self.args.tiny else preset, "--batch", str(batch), "--seq", str(seq),
                   "--vocab", str(vocab), "--steps", "6", "--accum", str(1 if self.args.tiny else WINDOWS // batch)]
        done = subprocess.run(command + (["--compile"] if mode == "compile" else []), capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stderr[-2000:], file=sys.stderr)
            return None, None, None
        found = json.loads(done.stdout.splitlines()[-1])
        return found["tokens_per_second"], [found["peak_memory_bytes"]], [found["optimizer_state_bytes"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sepia", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", default="cuda", help="`cpu` tries this script out where there is no GPU")
    parser.add_argument("--only", choices=["correctness", "resume", "start_up", "speed", "compile"])
    parser.add_argument("--kernels", help="what `--only compile` writes, and the others begin with")
    parser.add_argument("--presets", default="60m,130m,350m,1b")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has PyTorch; empty leaves PyTorch out")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: shows that this script runs to its end")
    parser.add_argument("--steps", type=int, default=3 * TIMED_GAP + 1, help="updates of which the speed is measured")
    parser.add_argument("--resume-updates", type=int, default=600, help="of a run that is stopped in its middle")
    checks = Checks(parser.parse_args())
    listed = json.loads(checks.sepia("devices", "--format", "json").stdout)
    if checks.args.device != "cpu" and not (listed["gpus"] and listed["cuda_built"]):
        sys.exit(checks.sepia("devices").stdout)
    name = listed["gpus"][0]["name"] if listed["gpus"] else "no GPU"
    version = checks.sepia("--version").stdout.strip()
    checks.find_cublas()
    print(f"{name}, driver {listed['driver']}, {datetime.date.today()}, {version}, on {checks.args.device}")
    for part in [checks.args.only] if checks.args.only else ["correctness", "resume", "start_up", "speed"]:
        getattr(checks, part)()
    sys.exit(checks.exit_status())


main()
