#!/usr/bin/env bash
# Measures how long a guest is paused for a snapshot: ./contrib/bench/pause.sh [--runs N] [--sizes RAM:DISK,…] [--methods M,…] [--dir DIR]
# Prints a Markdown table; see pause.py for what is measured.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

ensure build vm bench

say "building (release)"
(cd "$TOP" && cargo build --release --locked --quiet)
guest=$(mktemp)
trap 'rm -f "$guest"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
"$TOP/tests/support/guest/build.sh" "$guest"
python3 "$TOP/contrib/bench/pause.py" --tool "$(release_binary)" --guest "$guest" "$@"
