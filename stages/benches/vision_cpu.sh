#!/bin/sh
# A training step of classifiers on the CPU against PyTorch eager, the same networks on the same machine, in turns. Installs
# CPU PyTorch into a folder of its own.
#
#   stages/benches/vision_cpu.sh [THREADS] [STEPS] [ROUNDS]
set -eu
cd "$(dirname "$0")/../.."
threads=${1:-1} steps=${2:-8} rounds=${3:-3}
venv=${PYTORCH_VENV:-target/pytorch-venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch numpy
fi
# As `sepia` starts its stages: freed pages are kept for the next step.
export MIMALLOC_PURGE_DELAY=-1 RAYON_NUM_THREADS="$threads"
cargo bench --quiet -p sepia-stages --bench vision_step --no-run
round=1
while [ "$round" -le "$rounds" ]; do
    echo "round $round of $rounds"
    for name in lenet resnet-20 vgg-16; do
        cargo bench --quiet -p sepia-stages --bench vision_step -- 64 "$steps" "$name"
        "$venv/bin/python" stages/benches/pytorch_vision.py --threads "$threads" --steps "$steps" "$name"
    done
    round=$((round + 1))
done
