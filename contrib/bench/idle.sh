#!/usr/bin/env bash
# Measures the idle minute: ./contrib/bench/idle.sh [SCHEDULES…]
# `run-due` with many schedules of which none is due, against `cat` of the same files (default: 1000 and 10000).
# Every second one goes by a calendar. Prints a Markdown table.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

readonly RUNS=30
counts=("$@")
[[ $# -gt 0 ]] || counts=(1000 10000)

ensure build
say "building (release)"
(cd "$TOP" && cargo build --release --locked --quiet)
PATH="$(dirname "$(release_binary)"):$PATH"

work=$(mktemp -d "${TMPDIR:-/tmp}/hypeman-snap.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# make_schedules COUNT STATE_DIR: next run in twelve hours, as of now.
make_schedules() {
  local now next n id calendar
  now=$(date --utc +%FT%TZ)
  next=$(date --utc --date '+12 hours' +%FT%TZ)
  mkdir -p "$2/snapshot-schedules"
  for ((n = 0; n < $1; n++)); do
    printf -v id 'instance%016d' "$n"
    calendar=
    ((n % 2)) && calendar='"calendar": "30 2 * * *", "timezone": "Europe/Berlin",'
    cat >"$2/snapshot-schedules/$id.json" <<JSON
{
  "instance_id": "$id",
  "interval": "24h0m0s", $calendar
  "name_prefix": "nightly",
  "metadata": {
    "team": "infra"
  },
  "retention": {
    "max_count": 7,
    "max_age": "168h0m0s"
  },
  "next_run_at": "$next",
  "created_at": "$now",
  "updated_at": "$now"
}
JSON
  done
}

# milliseconds COMMAND…: median and max of RUNS runs, after one that warms the caches.
milliseconds() {
  local n begin
  "$@" >/dev/null
  for ((n = 0; n < RUNS; n++)); do
    begin=${EPOCHREALTIME/./}
    "$@" >/dev/null
    echo $((${EPOCHREALTIME/./} - begin))
  done | sort --numeric-sort |
    awk '{ all[NR] = $1 / 1000 } END { printf "%.1f (%.1f)", all[int((NR + 1) / 2)], all[NR] }'
}

read_all() { cat "$1"/snapshot-schedules/*.json; }

run_due() { hypeman-snap --engine local --state-dir "$1" --data-dir "$work/data" run-due; }

mkdir -p "$work/data"
hypeman-snap --engine local --state-dir "$work/state" --data-dir "$work/data" \
  register bench --hypervisor qemu --socket "$work/none.sock" --force >/dev/null

printf 'Milliseconds, median (max) of %s, whole processes, warm caches.\n\n' "$RUNS"
printf '| schedules, none due | cat of the files | hypeman-snap run-due |\n| ---: | ---: | ---: |\n'
for count in "${counts[@]}"; do
  say "making $count schedules"
  make_schedules "$count" "$work/state-$count"
  [[ -z $(run_due "$work/state-$count" 2>&1) ]] || die "an idle minute must print nothing"
  printf '| %s | %s | %s |\n' "$count" "$(milliseconds read_all "$work/state-$count")" \
    "$(milliseconds run_due "$work/state-$count")"
done
