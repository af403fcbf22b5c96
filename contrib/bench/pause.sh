#!/usr/bin/env bash
# Measures how long a guest is paused for a snapshot: ./contrib/bench/pause.sh [--runs N] [--sizes RAM:DISK,…] [--methods M,…] [--dir DIR]
# Prints Markdown tables; see pause.py for what is measured on QEMU, and pause_api.py for Cloud Hypervisor and Firecracker,
# which are measured where HYPEMAN_SNAP_TEST_CLOUD_HYPERVISOR or HYPEMAN_SNAP_TEST_FIRECRACKER names their binary.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

ensure build vm bench

say "building (release)"
(cd "$TOP" && cargo build --release --locked --quiet)
guest=$(mktemp)
micro=$(mktemp)
trap 'rm -f "$guest" "$micro"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
"$TOP/tests/support/guest/build.sh" "$guest"
python3 "$TOP/contrib/bench/pause.py" --tool "$(release_binary)" --guest "$guest" "$@"

cc -nostdlib -static -no-pie -Wl,-N,-Ttext=0x100000,-e,start64,--build-id=none -Wl,--no-warn-rwx-segments \
  -o "$micro" "$TOP/tests/support/guest/micro.S"
for hypervisor in cloud-hypervisor firecracker; do
  variable=HYPEMAN_SNAP_TEST_$(tr a-z- A-Z_ <<<"$hypervisor")
  [[ -n ${!variable:-} ]] || continue
  python3 "$TOP/contrib/bench/pause_api.py" --tool "$(release_binary)" --hypervisor "$hypervisor" --vmm "${!variable}" \
    --guest "$micro" "$@"
done
