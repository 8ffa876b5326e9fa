#!/usr/bin/env bash
# Sets up Debian's LLVM 22 where burn 0.22's CUDA backend expects the LLVM bundle that it otherwise downloads while it
# builds (crate tracel-llvm-bundler 23.1.0-4), so that `--features cuda` compiles and links where that download is not to
# be had. Does nothing where it is set up already. Needs root for apt-get, on Debian or Ubuntu with llvm-22 packages.
set -euo pipefail
bundle="${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-23.1.0-4"
[ -e "$bundle/.tracel-llvm-installed" ] && [ -x "$bundle/bin/llvm-config" ] && { echo "already set up: $bundle"; exit 0; }
if [ ! -x /usr/lib/llvm-22/bin/llvm-config ]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends llvm-22-dev llvm-22 libpolly-22-dev libzstd-dev libz3-dev libxml2-dev zlib1g-dev >/dev/null
fi
mkdir -p "$bundle/bin"
ln -sfn /usr/lib/llvm-22/include "$bundle/include"
ln -sfn /usr/lib/llvm-22/lib "$bundle/lib"
cat >"$bundle/bin/llvm-config" <<'W'
#!/bin/sh
# Static LLVM, shared system libraries. Debian names libz3 by its path, which the bundler cannot turn into a -l flag.
for last; do :; done
if [ "$last" = "--system-libs" ]; then echo "-lrt -ldl -lm -lz -lzstd -lxml2 -lz3"; exit 0; fi
exec /usr/lib/llvm-22/bin/llvm-config "$@"
W
chmod +x "$bundle/bin/llvm-config"
touch "$bundle/.tracel-llvm-installed"
"$bundle/bin/llvm-config" --link-static --version
