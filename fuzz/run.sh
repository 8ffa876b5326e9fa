#!/usr/bin/env bash
# Fuzzes the manifest language on the stable toolchain, without cargo-fuzz.
#   fuzz/run.sh [SECONDS, default 60]
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
RUSTC_WRAPPER="$PWD/instrument.sh" cargo build
mkdir -p corpus/manifest artifacts
exec "$CARGO_TARGET_DIR/debug/manifest" -max_total_time="${1:-60}" -max_len=8192 -timeout=5 -artifact_prefix=artifacts/ \
  corpus/manifest ../manifests ../tests/manifests/invalid
