#!/usr/bin/env bash
# Calls the compiler, and has the engine and the target tell libFuzzer which code is reached.
case " $* " in
  *" --crate-name sepia_engine "* | *" --crate-name manifest "*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing ;;
  *) exec "$@" ;;
esac
