#!/usr/bin/env bash
# Builds the test guest: ./build.sh OUTPUT
# Needs only what cargo needs to link anyway: a C compiler that drives binutils' ld.
set -euo pipefail
if [[ $# -ne 1 ]]; then
  echo "usage: $0 OUTPUT" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "${CC:-cc}" -m32 -march=i686 -mgeneral-regs-only -O2 -std=gnu11 -Wall -Wextra -Werror \
  -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables \
  -fno-tree-loop-distribute-patterns -fcf-protection=none \
  -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
  -Wl,-T,"$here/counter.ld" -o "$1" "$here/counter.c"
