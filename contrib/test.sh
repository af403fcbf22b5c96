#!/usr/bin/env bash
# Runs every check and every test, after installing what is missing: ./contrib/test.sh [ARGUMENTS OF cargo test]
# All checks run, also after one failed; the summary at the end says what failed and what could not run here.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"
cd "$TOP"
export CLIPPY_CONF_DIR="$TOP/.ci"

summary=()
failed=0

# check NAME COMMAND…
check() {
  local name=$1
  shift
  say "$name"
  if "$@"; then
    summary+=("ok       $name")
  else
    summary+=("FAILED   $name")
    failed=1
  fi
}

# skip NAME WHY
skip() { summary+=("skipped  $1: $2"); }

# cargo_check NAME SUBCOMMAND COMMAND…: a check that only some toolchains have.
cargo_check() {
  local name=$1 subcommand=$2
  shift 2
  if there_cargo_command "$subcommand"; then
    check "$name" "$@"
  else
    skip "$name" "no cargo $subcommand for $(rustc --version)"
  fi
}

# Called by name only, which some versions of shellcheck take for dead code (SC2317, SC2329).
shell_scripts() {
  grep --recursive --null --files-with-matches --exclude='*.rs' '^#!.*bash\|^#!/bin/sh$\|^# shellcheck shell=' contrib .ci tests |
    xargs --null shellcheck --external-sources --exclude=SC2317,SC2329
}

# What a test could not do here goes to stderr as a line `SKIPPED: …`, past the capturing of its output.
tests() {
  cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log"
}

# real_vmm NAME VARIABLE TEST_FILE: whether the tests on a real VMM ran, by what cargo test printed for their file.
real_vmm() {
  local binary=${!2:-} result
  result=$(awk -v file="tests/$3.rs" '$1 == "Running" { mine = $2 == file } mine && /^test result:/ { print $4 " passed, " $6 " failed" }' "$log")
  if [[ -z $binary ]]; then
    skip "tests on a real $1" "set $2 to its binary"
  elif [[ -z $result ]]; then
    skip "tests on a real $1" "$binary is there, but the tests were not run"
  else
    summary+=("ran      tests on a real $1: $result ($binary)")
  fi
}

ensure build vm test
(ensure lint) || say "going on without"
(ensure_ansible) || say "going on without Ansible"
(ensure_cronsim) || say "going on without cronsim"
ensure_unpacked || say "going on without promtool, libvirt, dma or a new restic"

log=$(mktemp)
trap 'rm -f "$log"' EXIT

cargo_check "formatting" fmt cargo fmt --all --check
cargo_check "clippy" clippy cargo clippy --locked --workspace --all-targets -- --deny warnings
check "shell scripts" shell_scripts
check "tests" tests "$@"
real_vmm Firecracker HYPEMAN_SNAP_TEST_FIRECRACKER firecracker
real_vmm "Cloud Hypervisor" HYPEMAN_SNAP_TEST_CLOUD_HYPERVISOR cloud_hypervisor
while read -r line; do
  skip "in the tests" "$line"
done < <(sed -n 's/^.*SKIPPED: //p' "$log" | sort --unique)

passed=$(awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 } END { printf "%d passed, %d failed, %d ignored", passed, failed, ignored }' "$log")
printf '\n--- summary: %s\n' "$passed"
printf '%s\n' "${summary[@]}"
exit "$failed"
