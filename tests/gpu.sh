#!/usr/bin/env bash
# The checks and measurements that need an NVIDIA GPU. Needs no internet once the binary is there.
#
#   tests/gpu.sh                    builds with `--features cuda`, then checks and measures
#   tests/gpu.sh FILE               takes a binary that was built elsewhere; FILE.xz is unpacked. So does SEPIA=FILE
#   tests/gpu.sh --pack FILE.xz     builds, strips and packs a binary to be carried to such a machine
#
# Where a GPU is lent by the minute, kernels can be compiled before, which is most of a first run. With the emulated
# driver of tests/gpu/emulated.sh and EMULATED_IDLE=1:
#   tests/gpu.sh FILE --only compile --kernels KERNELS.tar.xz --presets 60m,130m
# and on the machine `tests/gpu.sh FILE.xz --kernels KERNELS.tar.xz`. They are of use to the same binary only.
#
# Arguments after the binary go to tests/gpu/checks.py, such as `--only correctness`, `--presets 60m,130m` or
# `--python FILE`, an interpreter that has PyTorch. `--device cpu --tiny` tries the script out where there is no GPU.
# Copy the table it prints into BENCHMARKS.md, with the GPU's name and the date, which stand above it.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"

if [ "${1:-}" = "--pack" ]; then
  packed="${2:?the file to write}"
  cargo build --release --locked --features cuda
  strip -o "$packed.stripped" "$target/release/sepia"
  xz -2 --threads=0 --stdout "$packed.stripped" >"$packed"
  rm "$packed.stripped"
  ls -l "$packed"
  exit 0
fi

case "${1:-}" in
"" | --*) [ -z "${SEPIA:-}" ] || set -- "$SEPIA" "$@" ;;
esac

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
case "${1:-}" in
"" | --*)
  cargo build --release --locked --features cuda
  cp "$target/release/sepia" "$work/sepia"
  ;;
*.xz)
  xz -dc "$1" >"$work/sepia"
  shift
  ;;
*)
  cp "$1" "$work/sepia"
  shift
  ;;
esac
chmod +x "$work/sepia"
python3 tests/gpu/checks.py --sepia "$work/sepia" --work "$work" --data manifests/data/austen "$@"
