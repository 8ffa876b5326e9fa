#!/bin/sh
# Training throughput on the CPU: `pretrain` against PyTorch eager, the same small LLaMA on the same machine, one after
# the other and again, since a busy machine favours whoever runs at the quieter moment. Installs CPU PyTorch into a
# folder of its own.
#
#   stages/benches/train_cpu.sh [THREADS] [STEPS] [ROUNDS]
set -eu
cd "$(dirname "$0")/../.."
threads=${1:-2} steps=${2:-25} rounds=${3:-3}
venv=${PYTORCH_VENV:-target/pytorch-venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch numpy
fi
# As `sepia` starts its stages: freed pages are kept for the next step.
export MIMALLOC_PURGE_DELAY=-1
cargo bench --quiet -p sepia-stages --bench train_step --no-run
round=1
while [ "$round" -le "$rounds" ]; do
    echo "round $round of $rounds"
    cargo bench --quiet -p sepia-stages --bench train_step -- "$threads" "$steps"
    "$venv/bin/python" stages/benches/pytorch_llama.py --threads "$threads" --steps "$steps"
    round=$((round + 1))
done
