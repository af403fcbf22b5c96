#!/usr/bin/env bash
# Builds the Debian package with Debian's own tools: ./contrib/package.sh [--binary FILE] [--output DIRECTORY]
#
# Without --binary the release build is made first. The package ends up in the output directory, else in target/debian;
# the last line of output is its path. Pages and completions are those in the repository, which a test holds against
# the command line.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"

binary='' output=''
while (($#)); do
  case $1 in
  --binary) binary=$(realpath "${2:?a file}") ;;
  --output) output=$(mkdir -p "${2:?a directory}" && cd "$2" && pwd) ;;
  *) die "unknown argument $1: see the top of this script" ;;
  esac
  shift 2
done
cd "$TOP"

ensure package
if [[ -z $binary ]]; then
  ensure build
  say "building (release)"
  cargo build --release --locked
  binary=$(release_binary)
fi
if [[ -z $output ]]; then
  output=target/debian
  mkdir -p "$output"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
root=$work/root

# put MODE FILE DESTINATION: below the package's root; a destination that ends in / is a directory.
put() {
  local to=$root/$3
  [[ $to != */ ]] || to+=$(basename "$2")
  install -D --mode="$1" "$2" "$to"
}

put 755 "$binary" usr/bin/hypeman-snap
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/bin/hypeman-snap"
put 644 contrib/systemd/hypeman-snap.service usr/lib/systemd/system/
put 644 contrib/systemd/hypeman-snap.timer usr/lib/systemd/system/
put 644 contrib/systemd/hypeman-snap-rehearse.service usr/lib/systemd/system/
put 644 contrib/systemd/hypeman-snap-rehearse.timer usr/lib/systemd/system/
put 644 contrib/default/hypeman-snap etc/default/
put 755 contrib/hooks/mail usr/libexec/hypeman-snap/hooks/
put 755 contrib/hooks/restic usr/libexec/hypeman-snap/hooks/
put 644 contrib/completions/hypeman-snap.bash usr/share/bash-completion/completions/hypeman-snap
put 644 contrib/completions/_hypeman-snap usr/share/zsh/vendor-completions/
put 644 contrib/completions/hypeman-snap.fish usr/share/fish/vendor_completions.d/
put 644 contrib/debian/lintian-overrides usr/share/lintian/overrides/hypeman-snap
doc=usr/share/doc/hypeman-snap
put 644 contrib/debian/copyright $doc/
put 644 contrib/debian/README.Debian $doc/
put 644 contrib/debian/changelog $doc/changelog.Debian
put 644 contrib/CHANGELOG.md $doc/changelog
put 644 contrib/cron.d/hypeman-snap $doc/examples/hypeman-snap.cron
put 644 contrib/prometheus/hypeman-snap.rules.yml $doc/examples/
for page in man/*.[1-9]; do
  put 644 "$page" "usr/share/man/man${page##*.}/"
done
# Without names and times inside, so that the same files make the same package.
gzip -9 --no-name "$root"/$doc/changelog* "$root"/usr/share/man/man?/*

control=$root/DEBIAN
mkdir "$control"
install --mode=755 contrib/debian/{postinst,prerm,postrm} "$control/"
# Every file below /etc is the admin's to change.
(cd "$root" && find etc -type f -printf '/%p\n' | sort) >"$control/conffiles"
(cd "$root" && find usr -type f -print0 | sort --zero-terminated | xargs --null md5sum) >"$control/md5sums"

# dpkg-gencontrol wants a source tree, with the libraries that the program needs by the packages they are in.
mkdir "$work/debian"
cp contrib/debian/control contrib/debian/changelog "$work/debian/"
(
  cd "$work"
  dpkg-shlibdeps -Tdebian/substvars "$root/usr/bin/hypeman-snap"
  dpkg-gencontrol -phypeman-snap -P"$root" -Tdebian/substvars -fdebian/files
)
# The change log's last entry dates the files too.
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog --file contrib/debian/changelog --show-field Timestamp)
export SOURCE_DATE_EPOCH
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --build "$root" "$output" >&2
echo "$output/$(sed -n 's/^\(.*\.deb\) .*$/\1/p' "$work/debian/files")"
