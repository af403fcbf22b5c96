#!/usr/bin/env bash
# Builds the real Linux guest: ./build.sh OUTPUT_DIRECTORY
#
# Debian's cloud kernel, busybox and SQLite come from their packages, which are fetched and unpacked below the directory;
# nothing is installed. What is there already is kept, so a second call takes no time and no network. Leaves
#   vmlinuz     the kernel
#   initramfs   busybox, the writer, the kernel's modules for the disk
#   writer      checks a disk at rest, on the host
# Exits with 77 when the packages can't be had.
set -euo pipefail
if [[ $# -ne 1 ]]; then
  echo "usage: $0 OUTPUT_DIRECTORY" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
cd "$1"
# Several tests at once want the same.
exec 9>lock
flock 9

cannot() {
  echo "$*" >&2
  exit 77
}

# unpack PACKAGE [NAME]: the package's files are in packages/NAME afterwards.
unpack() {
  local package=$1 to=packages/${2:-$1}
  [[ ! -d $to ]] || return 0
  rm -rf fetched unpacked
  mkdir -p fetched packages
  (cd fetched && apt-get download --quiet=2 -o APT::Sandbox::User= "$package" >&2) ||
    cannot "apt-get can't fetch the package $package: run apt-get update, and see that there is a network"
  dpkg-deb --extract fetched/*.deb unpacked
  mv unpacked "$to"
}

for program in apt-get apt-cache dpkg-deb; do
  command -v "$program" >/dev/null || cannot "no $program: the guest is made of Debian's packages"
done
if [[ ! -d packages/linux ]]; then
  # The package linux-image-cloud-amd64 is empty and depends on the newest kernel.
  kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
  [[ -n $kernel ]] || cannot "apt-get knows no linux-image-cloud-amd64: run apt-get update"
  unpack "$kernel" linux
fi
unpack busybox-static
unpack libsqlite3-dev

if [[ $here/writer.c -nt writer ]]; then
  sqlite=$PWD/packages/libsqlite3-dev/usr
  "${CC:-cc}" -O1 -std=gnu11 -Wall -Wextra -Werror -static -I"$sqlite/include" -o writer.new "$here/writer.c" \
    "$(echo "$sqlite"/lib/*/libsqlite3.a)" -lm 2>cc.log || {
    cat cc.log >&2
    exit 1
  }
  mv writer.new writer
fi
if [[ writer -nt initramfs || $here/init -nt initramfs || ${BASH_SOURCE[0]} -nt initramfs ]]; then
  for busybox in packages/busybox-static/{usr/,}bin/busybox; do
    [[ ! -x $busybox ]] || break
  done
  busybox=$PWD/$busybox
  rm -rf root
  mkdir -p root/bin root/dev root/proc root/mnt root/modules
  cp "$busybox" writer root/bin/
  cp "$here/init" root/init
  # All that the disk may need; a kernel has some of them built in.
  find packages/linux -regextype posix-extended \
    -regex '.*/(crc16|libcrc32c|crc32c_generic|mbcache|jbd2|ext4|virtio|virtio_ring|virtio_pci.*|virtio_blk)[.]ko([.]xz)?' |
    while read -r module; do
      case $module in
      *.xz) "$busybox" unxz -c "$module" >"root/modules/$(basename "$module" .xz)" ;;
      *) cp "$module" root/modules/ ;;
      esac
    done
  (cd root && find . | "$busybox" cpio -o -H newc 2>/dev/null) >initramfs.new
  cp packages/linux/boot/vmlinuz-* vmlinuz
  mv initramfs.new initramfs
fi
