"""The path to a GPU, walked where there is none: with a driver that interprets the kernels on the processor.

Called by tests/gpu/emulated.sh. What it shows: that what is written for GPUs computes what the CPU computes, through the
same calls, kernels and instructions as on an H100, and what people see when something of a GPU is missing or full. What it
cannot show is how fast a GPU is, and that NVIDIA's compiler and hardware do with a kernel what its text says.
"""

import argparse
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

from verdicts import Verdicts, metrics

TRAIN = """
device = "cuda"

[stages.corpus]
kind = "text-dataset"
files = ["{text}"]
tokenizer = {{ kind = "byte" }}

[stages.train]
kind = "train"
inputs = {{ data = "corpus" }}
model = {{ d_model = 16, n_layer = 1, n_head = 1 }}
seq_len = 8
batch_size = 2
max_steps = 2
log_every = 1
{more}
"""
# Text enough to train and validate on.
BYTES = 4000


class Emulated(Verdicts):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.work = pathlib.Path(args.work)
        self.text = self.work / "text.txt"
        source = next(pathlib.Path(args.data).glob("*.txt"))
        self.text.write_bytes(source.read_bytes()[:BYTES])

    def environment(self, **more):
        environment = {**os.environ, "LD_LIBRARY_PATH": self.args.emulator, "CUDA_PATH": self.args.toolkit}
        for name in ("CUDA_VISIBLE_DEVICES", "SEPIA_CUBLAS"):
            environment.pop(name, None)
        environment.update(more)
        return {name: value for name, value in environment.items() if value is not None}

    def sepia(self, *words, **more):
        return subprocess.run([self.args.sepia, *words], capture_output=True, text=True, cwd=self.work,
                              env=self.environment(**more))

    def manifest(self, name, more):
        path = self.work / f"{name}.toml"
        path.write_text(TRAIN.format(text=self.text, more=more))
        return str(path)

    def rows(self, query):
        with sqlite3.connect(f"file:{self.work}/store/results.db?mode=ro", uri=True) as database:
            return database.execute(query).fetchall()

    def listed(self):
        """GPUs are listed, and what CUDA_VISIBLE_DEVICES leaves of them."""
        done = self.sepia("devices", "--format", "json", EMULATED_GPUS="3", CUDA_VISIBLE_DEVICES="2,0")
        listed = json.loads(done.stdout)
        uuids = [gpu["uuid"][-1] for gpu in listed["gpus"]]
        self.judge("GPUs are listed in the order of CUDA_VISIBLE_DEVICES", uuids == ["2", "0"], done.stdout.count("uuid"))
        self.judge("and what can compute on them", listed["cuda_built"] and listed["math_library"], listed["math_library"])

    def nothing_to_compile_with(self):
        """A driver alone does not do."""
        missing = dict(CUDA_PATH=None, CUDA_HOME=None, VIRTUAL_ENV=None, CONDA_PREFIX=None, PATH="/nothing")
        path = self.manifest("missing", 'method = { name = "full" }')
        done = self.sepia("run", path, "--store", "none", **missing)
        if json.loads(self.sepia("devices", "--format", "json", **missing).stdout)["math_library"]:
            print("          this machine has a toolkit in a usual place: not shown what happens without")
            return
        good = done.returncode == 2 and "run::no-gpu" in done.stderr and "nvidia-cuda-nvcc" in done.stderr
        self.judge("without CUDA's math library nothing is begun", good, f"exit {done.returncode}")

    def several(self):
        """Cells of a sweep take a GPU each, and share the store's kernels."""
        path = self.manifest("sweep", 'method = { name = "full" }\nmatrix = { lr = [1e-3, 2e-3, 3e-3] }\nresources = { threads = 1 }')
        done = self.sepia("run", path, "--store", "store", "--jobs", "2", EMULATED_GPUS="2")
        last = done.stderr.strip().splitlines()[-1].strip()
        self.judge("a sweep on two GPUs", done.returncode == 0, last if done.returncode == 0 else done.stderr)
        memory = self.rows("SELECT value FROM metrics WHERE name = 'peak_device_memory_bytes'")
        good = len(memory) == 3 and all(value > 500 << 20 for (value,) in memory)
        self.judge("device memory is recorded", good, memory)
        again = self.sepia("run", path, "--store", "store", "--jobs", "2", "--force", "train", EMULATED_GPUS="2")
        last = again.stderr.strip().splitlines()[-1].strip()
        self.judge("and again with their kernels", again.returncode == 0, last if again.returncode == 0 else again.stderr)

    def full(self):
        """Memory that is too small is told with the estimate."""
        path = self.manifest("full", 'method = { name = "full" }\nlr = 5e-3')
        done = self.sepia("run", path, "--store", "store", EMULATED_MEMORY=str(3 << 20))
        words = ["the GPU's memory is full", "was estimated to need", "the Emulated H100 has 3.0 MiB", "help: "]
        good = done.returncode == 1 and all(word in done.stderr for word in words)
        self.judge("too little memory is told", good, f"exit {done.returncode}")

    def multiplied(self):
        """cuBLAS multiplies all matrices where it is, and where it is asked for it must be usable."""
        path = self.manifest("cublas", 'method = { name = "galore", rank = 4, update_proj_gap = 2 }')
        self.sepia("run", path, "--store", "store", "--force", "train", "--device", "cpu")
        wanted, log = metrics(self.work / "store", "loss"), self.work / "cublas.log"
        shutil.rmtree(self.work / "store/cache/kernels", ignore_errors=True)
        done = self.sepia("run", path, "--store", "store", "--force", "train", EMULATED_LOG=str(log))
        found = metrics(self.work / "store", "loss")
        apart = max((abs(a - b) / a for a, b in zip(wanted, found)), default=1)
        good = done.returncode == 0 and len(found) == len(wanted) and apart < 1e-5
        self.judge("cuBLAS: loss as on the CPU", good, f"{apart:.1e}")
        lines = [line.split() for line in log.read_text().splitlines()]
        products = sum(int(line[2]) for line in lines if line[1] == "ran" and line[-1].startswith("cublas"))
        others = sum(line[1] == "load" and "matmul" in line[-1] for line in lines)
        self.judge("cuBLAS: all products are its", products > 0 and others == 0, f"{products}, and {others} kernels for others")
        done = self.sepia("run", path, "--store", "store", "--force", "train", SEPIA_CUBLAS="/nowhere/libcublas.so.12")
        words = ["SEPIA_CUBLAS names a cuBLAS that cannot be used", "/nowhere/libcublas.so.12", "SEPIA_CUBLAS=off"]
        good = done.returncode == 1 and all(word in done.stderr for word in words)
        self.judge("cuBLAS: a wrong place is told", good, f"exit {done.returncode}")

    def any_choice(self):
        """Whatever kernels are chosen, without cuBLAS, the losses are the CPU's."""
        path = self.manifest("choice", 'method = { name = "galore", rank = 4, update_proj_gap = 2 }')
        self.sepia("run", path, "--store", "store", "--force", "train", "--device", "cpu")
        wanted = metrics(self.work / "store", "loss")
        for choice in range(self.args.choices):
            shutil.rmtree(self.work / "store/cache/kernels", ignore_errors=True)
            done = self.sepia("run", path, "--store", "store", "--force", "train", EMULATED_CHOICE=str(choice),
                              SEPIA_CUBLAS="off")
            found = metrics(self.work / "store", "loss")
            apart = max((abs(a - b) / a for a, b in zip(wanted, found)), default=1)
            good = done.returncode == 0 and len(found) == len(wanted) and apart < 1e-5
            self.judge(f"kernels by lot {choice}: loss as on the CPU", good, f"{apart:.1e}")

    def checks(self):
        """What a real GPU is checked with."""
        script = pathlib.Path(__file__).parent / "checks.py"
        command = [sys.executable, str(script), "--sepia", self.args.sepia, "--work", str(self.work), "--data", str(self.text),
                   "--tiny", "--presets", "60m", "--python", "", "--resume-updates", "12"]
        done = subprocess.run(command, env=self.environment())
        self.judge("the checks for GPUs", done.returncode == 0, f"exit {done.returncode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sepia", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--emulator", required=True, help="the folder of the emulated libraries")
    parser.add_argument("--toolkit", required=True, help="the folder that holds nvvm/libdevice")
    parser.add_argument("--choices", type=int, default=2, help="how often kernels are chosen by lot")
    emulated = Emulated(parser.parse_args())
    for part in ("listed", "nothing_to_compile_with", "several", "full", "multiplied", "any_choice", "checks"):
        getattr(emulated, part)()
    sys.exit(emulated.exit_status())


main()
