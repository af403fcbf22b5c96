#!/usr/bin/env bash
# Gives everything that reads foreign bytes many more cases than the tests do: ./contrib/fuzz.sh [SECONDS]
#
# What is tried: lines of QMP and answers of all VMMs in a whole capture, manifests, records, journals, registrations,
# metadata, schedule files. The properties are those of the suite (see PROPERTIES below). Each is tried for SECONDS (60),
# in rounds with new random numbers; a round that takes longer than ROUND_SECONDS, or more memory than MEMORY_KIB, is a
# failure like any other. A failing case is printed in its smallest form, and the suite tries it again from then on
# (proptest-regressions/).
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

readonly SECONDS_EACH=${1:-60}
readonly ROUND_SECONDS=300
# Of address space, for the test and each program that it starts.
readonly MEMORY_KIB=$((1 << 20))
# Test program and the start of the names of its properties.
readonly PROPERTIES='
hypeman-snap  vmm::foreign_tests::foreign_
hypeman-snap  engine::local::payload::tests::no_
hypeman-snap  store::file::tests::no_bytes_panic
hypeman-snap  store::file::tests::peek_agrees_with_load_on_damaged_files
foreign_files foreign_
'

ensure build
cd "$TOP"
say "building the tests"
# `Executable unittests src/main.rs (target/debug/deps/hypeman_snap-…)`
programs=$(cargo test --locked --no-run --bin hypeman-snap --test foreign_files 2>&1 |
  sed -n 's/^ *Executable .*(\(.*\))$/\1/p')

export MALLOC_ARENA_MAX=2 RUST_BACKTRACE=0

# one_round PROGRAM FILTER
one_round() (
  ulimit -v "$MEMORY_KIB"
  exec timeout --kill-after=5 "$ROUND_SECONDS" "$1" --test-threads=1 "$2"
)

failed=0
while read -r name filter; do
  [[ -n $name ]] || continue
  program=$(grep "/${name//-/_}-" <<<"$programs") || die "no test program $name was built"
  count=$("$program" --list "$filter" | grep -c ': test$') || die "$name has no property $filter"
  say "$name: $filter ($count properties)"
  rounds=0
  began=$SECONDS
  while ((SECONDS - began < SECONDS_EACH)); do
    if ! output=$(one_round "$program" "$filter" 2>&1); then
      printf '%s\n' "$output" >&2
      printf 'FAILED   %s %s after %d rounds\n' "$name" "$filter" "$rounds"
      failed=1
      continue 2
    fi
    rounds=$((rounds + 1))
  done
  printf 'ok       %s %s: %d rounds\n' "$name" "$filter" "$rounds"
done <<<"$PROPERTIES"
exit "$failed"
