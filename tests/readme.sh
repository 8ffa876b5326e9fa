#!/usr/bin/env bash
# Runs every command of the README that begins with `sepia `, in their order, in a copy of the manifests, with the edits
# that the README makes. Each must end as the README says: well, unless the line ends with "# exit N".
set -euo pipefail
cd "$(dirname "$0")/.."
repository="$PWD"
cargo build --release --locked --quiet
sepia="${CARGO_TARGET_DIR:-$repository/target}/release/sepia"
folder="$(mktemp -d)"
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cp -r manifests "$folder/"
cd "$folder"
# The main job, cold; then the promise of the first page: a second run takes everything from the store.
"$sepia" run manifests/quickstart.toml
"$sepia" run manifests/quickstart.toml 2>&1 | tee second.txt
grep -q "0 ran, 4 cached" second.txt
count=2
while IFS= read -r line; do
  command="${line%%  #*}"
  expected=0
  case "$line" in *"# exit "*) expected="${line##*# exit }"; expected="${expected%% *}" ;; esac
  echo "\$ $command"
  status=0
  case "$command" in
    "sepia "*) bash -c "\"$sepia\" ${command#sepia }" || status=$? ;;
    *) bash -c "$command" || status=$? ;;
  esac
  [ "$status" = "$expected" ] || { echo "exit code $status, expected $expected"; exit 1; }
  count=$((count + 1))
done < <(sed -n 's/^    \$ \(sepia .*\|sed .*\)$/\1/p' "$repository/README.md")
[ "$count" -ge 14 ] || { echo "only $count commands were found in the README"; exit 1; }
echo "README: $count passed, 0 failed"
