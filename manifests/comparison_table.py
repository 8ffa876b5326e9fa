"""The table of `comparison.toml`, as Markdown.

    sepia results --format json --store manifests/.sepia | python3 manifests/comparison_table.py

For each method the best point of `tune*` and `rest*` on the validation split (seed 0), and the perplexity on the test split
of the models that were trained there with other seeds. Says so where `rest*` or `final*` was not run at the best point.
"""

import json
import re
import statistics
import sys

ORDER = ["full", "fira", "galore", "relora, warm start", "relora", "lora", "low-rank"]


def method_of(node, params):
    if "relora-warm" in node:
        return "relora, warm start"
    return params.get("method", {}).get("name")


def main():
    tuned, rest, final, tested = {}, {}, {}, {}
    for record in json.load(sys.stdin):
        node, params, results = record["node"], record["params"], record["results"]
        stage = node.split("[")[0]
        point = (params.get("lr"), params.get("lr_rest"))
        if stage in ("tune", "tune-relora", "tune-relora-warm"):
            tuned.setdefault(method_of(node, params), {})[point] = float(results["val_perplexity"])
        elif stage in ("rest", "rest-relora", "rest-relora-warm"):
            rest.setdefault(method_of(node, params), {})[point] = float(results["val_perplexity"])
        elif stage in ("final", "final-relora", "final-relora-warm"):
            final[method_of(node, params)] = point
        elif stage.startswith("test"):
            label = re.search(r"\[([^,\]]+)", node).group(1)
            name = {"test-relora": "relora", "test-relora-warm": "relora, warm start"}.get(stage, label)
            seed = int(re.search(r"seed=(\d+)", node).group(1))
            tested.setdefault(name, {})[seed] = float(results["perplexity"])
    print("| method | lr | lr_rest | tuning, best and worst of the points | test perplexity by seed | mean | sd |")
    print("|---|--:|--:|--:|---|--:|--:|")
    for name in ORDER:
        grid = tuned.get(name, {})
        if not grid:
            continue
        lr = min(grid, key=grid.get)[0]
        for point in rest.get(name, {}):
            if point[0] != lr:
                print(f"{name}: rest* ran at lr {point[0]}, but {lr} is the best of tune*", file=sys.stderr)
        grid = grid | rest.get(name, {})
        best = min(grid, key=grid.get)
        seeds = tested.get(name, {})
        values = [value for _, value in sorted(seeds.items())]
        mean = f"{statistics.mean(values):.2f}" if values else ""
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        each = " ".join(f"{value:.2f}" for value in values)
        span = f"{grid[best]:.2f} to {max(grid.values()):.2f} of {len(grid)}"
        print(f"| {name} | {best[0]} | {best[1]} | {span} | {each} | {mean} | {spread} |")
        if final.get(name, best) != best:
            print(f"{name}: final* ran at {final[name]}, but {best} is the best point", file=sys.stderr)


main()
