#!/bin/sh
# Measures `sepia results` on a database of 10,000 executions with 1,000,000 measurements.
#
#   tests/bench_results.sh PROGRAM [FOLDER]
#
# PROGRAM is a release build of sepia. Prints the size of the database and, for each question, the best processor time
# (user + system) and the best wall time of five runs. Needs python3. The bars: 300 ms, 150 MB.
set -eu
program=$(realpath "$1")
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
cd "$folder"
if [ ! -d .sepia ]; then
    cat > m.toml <<'TOML'
[stages.one]
kind = "command"
argv = ["sh", "-c", "echo x > $0", "${outputs.out}"]
outputs = { out = "out" }
TOML
    "$program" --quiet run m.toml
    python3 - <<'PYTHON'
import hashlib, json, random, sqlite3
random.seed(0)
db = sqlite3.connect(".sepia/results.db")
db.execute("PRAGMA synchronous=OFF")
hexes = lambda *text: hashlib.sha256(repr(text).encode()).hexdigest()
names = {}
def name(text):
    if text not in names:
        db.execute("INSERT OR IGNORE INTO names (text) VALUES (?)", (text,))
        names[text], = db.execute("SELECT name FROM names WHERE text = ?", (text,)).fetchone()
    return names[text]
methods = ["full", "lora", "relora", "galore", "fira", "flora", "low-rank", "cuttlefish"]
provenance = json.dumps({"host": "h" * 20, "cpu": "c" * 40, "os": "o" * 60, "git": {"commit": "0" * 40, "dirty": False},
                         "sepia_version": "0.1.0", "sepia_binary": "0" * 64, "threads": 2, "log": "l" * 80})
execution, = db.execute("SELECT max(execution) FROM executions").fetchone()
def add(kind, node, run, seed, params, inputs, series, figures):
    global execution
    execution += 1
    key = hexes("key", execution)
    db.execute("INSERT INTO executions VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", (execution, hexes("record", execution), key, run,
        node, kind, 1, "done", 1764000000000 + execution * 1000, 12.5, 20.25, 1 << 28, seed, None))
    nested = json.dumps(params)
    db.execute("INSERT INTO execution_details VALUES (?,?,?,?,?)", (execution, 1, nested, nested, provenance))
    db.execute("INSERT INTO artifacts VALUES (?,?,?,?,?,?)", (execution, "model", hexes("out", execution), "file", 4096, 1))
    db.executemany("INSERT INTO inputs VALUES (?,?,?,?,?)", [(execution, port, 0, hexes("in", of), of) for port, of in inputs])
    db.executemany("INSERT INTO param_values VALUES (?,?,?)", [(execution, name(k), v) for k, v in params.items()])
    for metric, values in series.items():
        n = name(metric)
        db.executemany("INSERT INTO metric_points VALUES (?,?,?,?)", [(execution, n, s, v) for s, v in enumerate(values)])
        db.execute("INSERT INTO metric_ends VALUES (?,?,?,?,?,?,?)", (execution, n, len(values), values[-1], min(values), max(values), 0))
    for metric, value in figures.items():
        n = name(metric)
        db.execute("INSERT INTO metric_points VALUES (?,?,?,?)", (execution, n, -1, value))
        db.execute("INSERT INTO metric_ends VALUES (?,?,?,?,?,?,?)", (execution, n, 1, value, value, value, 1))
    return key
# 5,000 trainings with an evaluation each: 8 methods x 125 learning rates x 5 seeds.
for method in methods:
    for cell in range(125):
        for seed in range(5):
            lr = 0.0001 * (cell + 1)
            node = f"[method={method},lr={lr:.4f},seed={seed}]"
            params = {f"model.p{i}": i for i in range(20)} | {"lr": lr, "method.name": method, "method.rank": 8 * (1 + cell % 4),
                "max_steps": 400, "batch_size": 8, "weight_decay": 0.1, "schedule.kind": "cosine"}
            base = 3 + methods.index(method) / 10 + random.random() / 10
            curve = lambda: [base + 5 / (step + 1) + random.random() / 20 for step in range(96)]
            train = add("train", "train" + node, f"run{cell:04}", seed, params, [], {"loss": curve(), "grad_norm": curve()},
                {"val_loss": base, "parameters": 1e6})
            add("evaluate", "evaluate" + node, f"run{cell:04}", 0, {"batch_size": 8}, [("model", train)], {},
                {"val_loss": base, "perplexity": 2.718 ** base, "accuracy": 1 / base, "parameters": 1e6})
db.commit()
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
PYTHON
fi
python3 - "$program" <<'PYTHON'
import os, resource, sqlite3, subprocess, sys, time
db = sqlite3.connect(".sepia/results.db")
count = lambda table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
print(f"{count('executions'):,} executions, {count('metric_points'):,} measurements, {os.path.getsize('.sepia/results.db') / 1e6:.0f} MB")
db.close()
questions = [
    ["results", "evaluate", "--where", "method = galore and lr < 0.01", "--group", "method,lr", "--sort", "val_loss"],
    ["results", "evaluate", "--group", "method,rank"],
    ["results", "train", "--where", "rank in (8, 16) and val_loss < 3.2", "--sort", "val_loss", "--limit", "20"],
    ["results", "--where", "method = galore and lr < 0.01", "--columns", "node,lr,val_loss", "--format", "csv"],
    ["results", "train", "--limit", "50"],
]
for question in questions:
    cpu, wall = [], []
    for _ in range(5):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([sys.argv[1], *question], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.monotonic() - start)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"{min(cpu) * 1000:6.0f} ms cpu {min(wall) * 1000:6.0f} ms wall  {' '.join(question)}")
PYTHON
