#!/usr/bin/env bash
# Shows the whole tool on a throw-away VM: ./contrib/quickstart.sh [--no-build]
#
# Installs what is missing, builds, boots a small VM whose guest counts in RAM and on its disk, gives it a schedule,
# snapshots it while it runs, ends it, brings it back from the snapshot, prunes, and cleans up: also on Ctrl-C and errors.
# Everything happens in one temporary directory (under TMPDIR, else /tmp); nothing else on the machine changes.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

readonly INSTANCE=quickstart
readonly RAM_MIB=256
# Where the guest keeps its counter on the disk, in bytes (tests/support/guest/counter.c).
readonly COUNTER_AT=1048576

ensure build vm

# --no-build: with the binary that is there.
if [[ ${1-} != --no-build ]]; then
  say "building (release)"
  (cd "$TOP" && cargo build --release --locked --quiet)
fi
PATH="$(dirname "$(release_binary)"):$PATH"

work=$(mktemp -d "${TMPDIR:-/tmp}/hypeman-snap.XXXXXX")
vms=()

# Ends the VMs that this script started, by process id.
stop_vms() {
  local vm
  for vm in "${vms[@]}"; do
    kill "$vm" 2>/dev/null || true
    # One that the tool started is not a child of this shell.
    wait "$vm" 2>/dev/null || while kill -0 "$vm" 2>/dev/null; do sleep 0.05; done
  done
  vms=()
}

clean_up() {
  trap '' INT TERM HUP
  stop_vms
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

export HYPEMAN_SNAP_STATE_DIR=$work/state HYPEMAN_SNAP_DATA_DIR=$work/data HYPEMAN_SNAP_ENGINE=local
mkdir "$work/vm"
"$TOP/tests/support/guest/build.sh" "$work/guest.elf"

# start_vm DIR ACCELERATOR ARGUMENTS…: a VM with disk, serial output and messages in DIR; its pid goes to $vm. In a
# session of its own, so that Ctrl-C interrupts this script, and not the VM in the middle of a snapshot.
start_vm() {
  local dir=$1 accelerator=$2
  shift 2
  setsid qemu-system-x86_64 -nodefaults -no-user-config -display none -machine pc -accel "$accelerator" -m "$RAM_MIB" \
    -kernel "$work/guest.elf" \
    -blockdev "file,node-name=file,filename=$dir/disk.raw" -blockdev raw,node-name=disk,file=file \
    -device ide-hd,drive=disk -chardev "file,id=serial,path=$dir/serial" -serial chardev:serial "$@" \
    2>"$dir/messages" &
  vm=$!
  vms+=("$vm")
}

# counter DIR: what the guest printed last; 0 when nothing yet.
counter() {
  local last
  last=$(sed -n 's/^tick \([0-9]*\)\r\{0,1\}$/\1/p' "$1/serial" 2>/dev/null | tail -n 1)
  echo "${last:-0}"
}

# wait_beyond DIR N SECONDS: the guest counts beyond N in that time.
wait_beyond() {
  local deadline=$((SECONDS + $3))
  until [[ $(counter "$1") -gt $2 ]]; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# A /dev/kvm that can be opened need not run a guest (nested virtualisation): what boots is taken.
boot() {
  local accelerator seconds
  for accelerator in kvm tcg; do
    [[ $accelerator == tcg || -w /dev/kvm ]] || continue
    seconds=$([[ $accelerator == kvm ]] && echo 3 || echo 30)
    rm -f "$work/vm"/*
    truncate --size 64M "$work/vm/disk.raw"
    start_vm "$work/vm" "$accelerator" -qmp "unix:$work/vm/qmp.sock,server=on,wait=off"
    if wait_beyond "$work/vm" 0 "$seconds"; then
      accel=$accelerator
      return
    fi
    stop_vms
    [[ $accelerator == tcg ]] || say "/dev/kvm runs no guest here: taking software emulation"
  done
  cat "$work/vm/messages" >&2
  die "the throw-away VM did not boot in QEMU"
}

# show COMMAND…: prints the command as one would type it, and runs it.
show() {
  printf '\n$ %s\n' "${*//$work/\$DIR}"
  "$@"
}

say "booting a VM of $RAM_MIB MiB whose guest counts"
boot
printf 'It runs (accelerator: %s) and has counted to %s.\n' "$accel" "$(counter "$work/vm")"

show hypeman-snap register "$INSTANCE" --hypervisor qemu --socket "$work/vm/qmp.sock" --disk "$work/vm/disk.raw"
show hypeman-snap set "$INSTANCE" --interval 1h --max-count 2

before=$(counter "$work/vm")
# Not due for an hour: --force takes a snapshot now.
show hypeman-snap run-due --instance "$INSTANCE" --force
after=$(counter "$work/vm")
# A second of counting, so that the next snapshot has another second in its name.
wait_beyond "$work/vm" $((after + 220)) 30 || die "the guest does not go on after its snapshot"
printf 'The guest counted from %s to %s meanwhile, and is at %s now.\n' "$before" "$after" "$(counter "$work/vm")"

printf '\n$ hypeman-snap run-due --instance %s --force --output json\n' "$INSTANCE"
hypeman-snap run-due --instance "$INSTANCE" --force --output json | tee "$work/result.json"
pause=$(sed -n 's/^.*"pause_ms": *\([0-9.]*\).*$/\1/p' "$work/result.json")
snapshot=$(sed -n 's/^.*"snapshot_id": *"\([^"]*\)".*$/\1/p' "$work/result.json")
[[ -n $pause && -n $snapshot ]] || die "the run took no snapshot"
printf 'The guest was paused for %s ms.\n' "$pause"

show hypeman-snap list
show hypeman-snap snapshots
show hypeman-snap verify --read

say "the VM is lost, and comes back from snapshot $snapshot"
last=$(counter "$work/vm")
# Where a QEMU that was only unpacked finds its libraries: the tool starts it without its wrapper.
libraries=$(tr '\0' '\n' <"/proc/$vm/environ" | sed -n 's/^LD_LIBRARY_PATH=//p')
[[ -z $libraries ]] || export LD_LIBRARY_PATH=$libraries
stop_vms
rm "$work/vm/serial"
show hypeman-snap restore "$INSTANCE" latest --start | tee "$work/restored.txt"
vm=$(sed -n 's/^started it: process \([0-9]*\),.*/\1/p' "$work/restored.txt")
[[ -n $vm ]] || die "the VM did not come back"
vms+=("$vm")
saved=$(od --address-radix=n --format=u8 --skip-bytes="$COUNTER_AT" --read-bytes=8 \
  "$HYPEMAN_SNAP_DATA_DIR/snapshots/$snapshot"/guest/disks/*disk.raw | tr -d ' ')
wait_beyond "$work/vm" $((saved + 20)) 30 || die "the restored VM does not count beyond $saved"
# What the guest says when its RAM and its disk are of different instants.
if grep TORN "$work/vm/serial" >&2; then
  die "RAM and disk of the snapshot are of different instants"
fi
printf 'It was lost at %s. The disk in the snapshot says %s; the restored guest goes on from there and is at %s.\n' \
  "$last" "$saved" "$(counter "$work/vm")"
printf 'RAM and disk agree.\n'

show hypeman-snap set "$INSTANCE" --interval 1h --max-count 1
show hypeman-snap prune "$INSTANCE"
show hypeman-snap snapshots

printf '\nAll of it works here. The guest runs, and is at %s.\n' "$(counter "$work/vm")"
say "cleaning up"
