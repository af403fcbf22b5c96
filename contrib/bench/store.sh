#!/usr/bin/env bash
# Measures commands on a store with many snapshots: ./contrib/bench/store.sh [SNAPSHOTS…] (default: 10000 and 100000, of 100 VMs).
# Prints a Markdown table; see store.py.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

ensure build bench
say "building (release)"
(cd "$TOP" && cargo build --release --locked --quiet)
exec python3 "$TOP/contrib/bench/store.py" --tool "$(release_binary)" "$@"
