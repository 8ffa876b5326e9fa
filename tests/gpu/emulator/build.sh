#!/usr/bin/env bash
# Builds libcuda.so.1, libnvidia-ml.so.1 and libcublas.so.12 that emulate NVIDIA GPUs on the processor. `build.sh FOLDER`; a process sees them
# by `LD_LIBRARY_PATH=FOLDER`.
set -euo pipefail
out="${1:?the folder to build in}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
cd "$(dirname "$0")"
flags=(-std=c++17 -O3 -march=native -fno-strict-aliasing -ffp-contract=off -fno-math-errno -shared -fPIC -fvisibility=default -Wall -Wextra)
g++ "${flags[@]}" -o "$out/libcuda.so.1" driver.cpp opcodes.cpp &
g++ "${flags[@]}" -o "$out/libnvidia-ml.so.1" nvml.cpp -ldl
wait $!
ln -sf libcuda.so.1 "$out/libcuda.so"
g++ "${flags[@]}" -o "$out/libcublas.so.12" cublas.cpp -L"$out" -l:libcuda.so.1 -Wl,-rpath,'$ORIGIN'
