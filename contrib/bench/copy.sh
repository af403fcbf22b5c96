#!/usr/bin/env bash
# Measures the copy of a disk: ./contrib/bench/copy.sh [--runs N] [--size GIB] [--dir DIR]
# A snapshot of a VM that is off against cp(1) and sync(1) of the same disk. Prints a Markdown table; see copy.py.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

ensure build bench
say "building (release)"
(cd "$TOP" && cargo build --release --locked --quiet)
exec python3 "$TOP/contrib/bench/copy.py" --tool "$(release_binary)" "$@"
