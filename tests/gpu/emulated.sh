#!/usr/bin/env bash
# Walks the path to a GPU where there is none, with a driver that interprets the kernels on the processor (emulator/).
# Takes about half an hour, and as long again to build. For whoever changes what is computed on a GPU.
#
#   tests/gpu/emulated.sh             builds with `--features cuda`
#   tests/gpu/emulated.sh FILE        takes a binary that was built elsewhere
#
# Arguments after the binary go to tests/gpu/emulated.py. Needs g++ and, where there is no CUDA toolkit, PyPI for its math
# library. With LD_LIBRARY_PATH as it is set here, the tests of stages run so, too:
#   SEPIA_TEST_CUDA=1 cargo test --release -p sepia-stages --features cuda
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

case "${1:-}" in
"" | --*)
  cargo build --release --locked --features cuda
  sepia="$target/release/sepia"
  ;;
*)
  sepia="$1"
  shift
  ;;
esac
cp "$sepia" "$work/sepia"

tests/gpu/emulator/build.sh "$work/emulator"

toolkit="${CUDA_PATH:-/usr/local/cuda}"
if ! [ -e "$toolkit/nvvm/libdevice/libdevice.10.bc" ]; then
  python3 -m pip -q --disable-pip-version-check install --no-deps --target "$work/packages" nvidia-cuda-nvcc-cu12==12.9.86
  toolkit="$work/packages/nvidia/cuda_nvcc"
fi

python3 tests/gpu/emulated.py --sepia "$work/sepia" --work "$work" --data manifests/data/austen \
  --emulator "$work/emulator" --toolkit "$toolkit" "$@"
