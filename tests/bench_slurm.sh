#!/usr/bin/env bash
# Measures what running on Slurm costs, against the bars: overhead per stage over a bare sbatch array of the same length
# under 20 %; 1,000 cached stages submit nothing; at most one Slurm query in 2 s. Needs a cluster (SLURM_CONF), or starts one.
# Usage: bench_slurm.sh SEPIA [CELLS] [SECONDS of each cell]
set -euo pipefail
SEPIA=$(realpath "$1") CELLS=${2:-50} SECONDS_EACH=${3:-2}
HERE=$(cd "$(dirname "$0")" && pwd)
if [ -z "${SLURM_CONF:-}" ]; then
  eval "$("$HERE/services/slurm-up.sh" --nodes 4 --cpus 4 --dir /tmp/sepia-slurm-bench)"
  trap '"$HERE/services/slurm-down.sh" --dir /tmp/sepia-slurm-bench' EXIT
fi
WORK=$(mktemp -d); cd "$WORK"
# Wrappers on PATH count the calls.
mkdir bin
for name in sbatch squeue sacct scontrol scancel; do
  real=$(command -v $name)
  printf '#!/bin/sh\ndate "+%%s.%%N %s" >> %s/calls\nexec %s "$@"\n' $name "$WORK" "$real" > bin/$name; chmod +x bin/$name
done
export PATH="$WORK/bin:$PATH"
now() { date +%s.%N; }

manifest() { # cells, program
  echo '[stages.cell]'; echo 'kind = "command"'; echo "argv = [\"sh\", \"-c\", \"$2\"]"
  echo 'outputs = { out = "out" }'; echo 'params = { n = 0 }'
  echo "matrix = { \"params.n\" = [$(seq -s, 1 "$1")] }"
}

t=$(now)
job=$(sbatch --parsable --array=0-$((CELLS - 1)) -o /dev/null --wrap "sleep $SECONDS_EACH")
until [ -z "$(squeue -h -j "$job")" ]; do sleep 0.1; done
bare=$(echo "$(now) - $t" | bc)

manifest "$CELLS" "sleep $SECONDS_EACH; echo \${params.n} > out" > m.toml
: > calls
t=$(now); "$SEPIA" -q run m.toml --executor slurm; own=$(echo "$(now) - $t" | bc)
closest=$(grep -E 'squeue|sacct|scontrol' calls | awk 'NR > 1 { gap = $1 - last; if (min == "" || gap < min) min = gap } { last = $1 } END { print min == "" ? "-" : min }')
overhead=$(echo "scale=1; 100 * ($own - $bare) / $bare" | bc)
echo "bare array of $CELLS x $SECONDS_EACH s: $bare s; sepia: $own s; overhead $overhead %"
echo "sbatch: $(grep -c sbatch calls) calls; questions: $(grep -cE 'squeue|sacct|scontrol' calls), the closest two $closest s apart"

manifest 1000 'echo ${params.n} > out' > cached.toml
"$SEPIA" -q run cached.toml --executor local
: > calls
t=$(now); "$SEPIA" -q run cached.toml --executor slurm; cached=$(echo "$(now) - $t" | bc)
calls=$(wc -l < calls)
echo "1000 cached stages: $calls calls of Slurm, $cached s"
cd /; rm -rf "$WORK"
missed=0
bar() { [ "$(echo "$2" | bc)" = 1 ] || { echo "MISSED: $1"; missed=1; }; }
bar "overhead under 20 %" "$overhead < 20"
[ "$closest" = - ] || bar "at most one question in 2 s" "$closest >= 2"
bar "1000 cached stages submit nothing" "$calls == 0"
exit $missed
