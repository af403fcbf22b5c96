#!/usr/bin/env bash
# A throw-away copy of this machine: the root directory under an overlay in memory, in name spaces of its own, without
# a network. Whatever a command changes in it is gone when the command ends; the machine itself is never written to.
#
#   throwaway-root.sh run     SHARED COMMAND…   runs COMMAND in it
#   throwaway-root.sh systemd SHARED COMMAND…   boots systemd in it and runs COMMAND below it
#
# SHARED is the one directory that both can write to. With NETWORK=shared in the environment, the network is the
# machine's, for a server that a test runs. The exit code is that of COMMAND; 77 says that this machine can't do it (not
# root, no overlay, no cgroup v2, …), with the reason on stderr. Needs root and util-linux.
set -euo pipefail

cannot() {
  echo "throwaway-root: $*" >&2
  exit 77
}

# Outside: a cgroup of our own, so that systemd sees none of the machine's, then the name spaces.
outside() {
  [ "$(id -u)" = 0 ] || cannot "needs root"
  base=$(mktemp -d)
  trap 'rmdir "$base"' EXIT
  if [ "$1" = systemd ]; then
    [ -x /lib/systemd/systemd ] || cannot "needs systemd (Debian package systemd)"
    fs=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
    [ -n "$fs" ] || cannot "needs cgroup v2"
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    group="${fs}${own%/}/throwaway-root-$$"
    mkdir "$group" 2>/dev/null || cannot "can't make a control group in ${fs}${own}"
    trap 'leave "$group" "${fs}${own}"; rmdir "$base"' EXIT
    echo $$ >"$group/cgroup.procs" || cannot "can't enter a control group"
  fi
  network=--net
  [ "${NETWORK-}" != shared ] || network=
  code=0
  # shellcheck disable=SC2086 # one flag or none
  unshare --mount --pid --fork --cgroup --uts --ipc $network --kill-child --propagation private \
    bash "$0" inside "$base" "$@" || code=$?
  return "$code"
}

# Removes the cgroups that systemd left, deepest first; a process that ends just now is waited for.
leave() {
  echo $$ >"$2/cgroup.procs"
  tries=0
  while [ -d "$1" ] && [ $tries -lt 50 ]; do
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    tries=$((tries + 1))
  done
}

inside() {
  base=$1 mode=$2 shared=$3
  shift 3
  mount -t tmpfs -o mode=0755,size=2g tmpfs "$base" || cannot "can't mount a tmpfs"
  mkdir "$base/upper" "$base/work" "$base/root"
  root=$base/root
  mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$root" ||
    cannot "can't mount an overlay over the root directory"

  mount -t proc proc "$root/proc"
  mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
  for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
  done
  # Where systemd's own words go when something is wrong with it.
  : >"$root/dev/console"
  mkdir "$root/dev/shm" "$root/dev/pts"
  ln -s /proc/self/fd "$root/dev/fd"
  mount -t tmpfs tmpfs "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  mount -t tmpfs -o mode=0755 tmpfs "$root/run"
  mkdir "$root/run/lock"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t tmpfs -o mode=0755 tmpfs "$root/sys/fs/cgroup"
  if [ "$mode" = systemd ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" || cannot "can't mount a cgroup file system"
  fi
  # The kernel is the machine's: nothing here may tune it.
  mount --bind "$root/proc/sys" "$root/proc/sys"
  mount -o remount,bind,ro "$root/proc/sys"

  # The project, read only, also where it is a mount of its own or lies below /tmp.
  project=$(cd "$(dirname "$0")/../.." && pwd)
  mkdir -p "$root$project" "$root$shared" "$root/machine"
  mount --bind "$project" "$root$project"
  mount -o remount,bind,ro "$root$project"
  mount --bind "$shared" "$root$shared"

  cd "$root"
  pivot_root . machine
  umount -l /machine
  rmdir /machine
  cd /
  if [ "$mode" = systemd ]; then
    boot "$shared" "$@"
  fi
  exec "$@"
}

# Nothing of what the machine itself starts at boot is started: only the journal and COMMAND, whose exit code becomes
# that of systemd.
boot() {
  shared=$1
  shift
  : >/etc/fstab
  # As systemd makes it where it is not in a container: services see mounts, such as that of their credentials.
  mount --make-rshared /
  rm -rf /etc/systemd/system /usr/lib/systemd/system/*.wants /var/lib/systemd/timers /var/log/journal
  mkdir -p /etc/systemd/system
  echo 00000000000000000000000000c0ffee >/etc/machine-id
  cat >/etc/systemd/system/throwaway.target <<UNIT
[Unit]
Requires=basic.target throwaway.service systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service
After=basic.target systemd-journald.service
AllowIsolate=yes
UNIT
  {
    echo 'set --'
    for argument in "$@"; do
      printf "set -- \"\$@\" '%s'\n" "$(printf %s "$argument" | sed "s/'/'\\\\''/g")"
    done
    # shellcheck disable=SC2016 # meant for the other shell
    echo '"$@"; systemctl exit $?'
  } >/run/throwaway-command
  # systemd's own path is a fixed one; a QEMU that was unpacked for the tests is elsewhere.
  qemu=$(command -v qemu-system-x86_64) && qemu=:$(dirname "$qemu") || qemu=
  cat >/etc/systemd/system/throwaway.service <<UNIT
[Service]
Type=exec
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin$qemu
ExecStart=/bin/sh /run/throwaway-command
StandardOutput=file:$shared/stdout
StandardError=file:$shared/stderr
UNIT
  exec env -i container=throwaway /lib/systemd/systemd --unit=throwaway.target \
    --log-target=journal --show-status=no </dev/null
}

case ${1-} in
inside)
  shift
  inside "$@"
  ;;
run | systemd) outside "$@" ;;
*)
  echo "usage: throwaway-root.sh run|systemd HOST_DIR COMMAND…" >&2
  exit 2
  ;;
esac
