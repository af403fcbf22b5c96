#!/usr/bin/env bash
# Mutation testing of the pure modules: ./contrib/mutants.sh [FILE…]
# Changes one thing after another in the files (default: retention, cadence, plan, schedule) and says which changes no unit
# test of those modules notices. Takes some ten seconds for each; what is found is in target/mutants.out.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"
cd "$TOP"

there_cargo_command mutants || die "there is no cargo mutants: cargo install --locked cargo-mutants"

files=("$@")
[[ $# -gt 0 ]] || files=('src/retention/*.rs' 'src/cadence/*.rs' 'src/plan/*.rs' 'src/schedule/*.rs')
arguments=()
for file in "${files[@]}"; do
  arguments+=(--file "$file")
done
# The timed test of all zones says nothing of a change that the others do not.
exec cargo mutants --output target "${arguments[@]}" -- --bin hypeman-snap -- \
  retention:: cadence:: plan:: schedule:: --skip every_zone
