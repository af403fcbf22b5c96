# shellcheck shell=bash
# Installs what a script needs and what is missing, on Debian 12 and 13. Sourced by the scripts of contrib/, which set
# TOP to the repository and call `ensure GROUP…`. Where nothing is missing, nothing is run and no root is needed.
#
# To add a need: one row in needs(), and a there_… function where "the command exists" does not say enough.

: "${TOP:?}"

# Lowest Rust that builds the tool, from the one place that declares it.
msrv() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$TOP/Cargo.toml"; }

# group | what | the command that sees whether it is there | Debian packages; `a,b` is the first of them that will do
#
# build: the tool · vm: a test VM · test: what test.sh runs besides · bench: the measurements · lint: rustfmt and
# clippy, which only some toolchains have · package: the Debian package
needs() {
  cat <<'TABLE'
build | a C compiler    | there_compiler             | gcc libc6-dev
build | CA certificates | there_certificates         | ca-certificates
build | cargo           | there_cargo                | cargo,cargo-web
vm    | a C compiler    | there_compiler             | gcc libc6-dev
vm    | QEMU            | there_qemu                 | qemu-system-x86
test  | ext4            | there mkfs.ext4            | e2fsprogs
test  | qemu-img        | there qemu-img             | qemu-utils
test  | XFS             | there mkfs.xfs             | xfsprogs
test  | btrfs           | there mkfs.btrfs           | btrfs-progs
test  | mount           | there mount                | mount
test  | cron            | there cron                 | cron
test  | jq              | there jq                   | jq
test  | mandoc          | there mandoc               | mandoc
test  | shellcheck      | there shellcheck           | shellcheck
test  | strace          | there strace               | strace
test  | lintian         | there lintian              | lintian
test  | man             | there man                  | man-db
test  | zsh             | there zsh                  | zsh
test  | fish            | there fish                 | fish
test  | restic          | there restic               | restic
test  | borg            | there borg                 | borgbackup
test  | rclone          | there rclone               | rclone
test  | rsync           | there rsync                | rsync
test  | systemd         | there systemd-analyze      | systemd
test  | a Prometheus parser | there_prometheus_parser | python3-prometheus-client
test  | python3 venv    | there_venv                 | python3-venv
test  | python3-apt     | there_python3_apt          | python3-apt
package | dpkg-shlibdeps | there dpkg-shlibdeps      | dpkg-dev
bench | python3         | there python3              | python3
bench | XFS             | there mkfs.xfs             | xfsprogs
lint  | rustfmt         | there_cargo_command fmt    | rustfmt,rustfmt-web
lint  | clippy          | there_cargo_command clippy | rust-clippy,rust-web-clippy
TABLE
}

say() { printf '==> %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# mkfs.xfs, cron and their like are not on every user's path.
there() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

there_certificates() { [[ -s /etc/ssl/certs/ca-certificates.crt ]]; }

there_compiler() { printf 'int main(void) { return 0; }\n' | cc -x c - -o /dev/null 2>/dev/null; }

there_cargo() { [[ -n $(version_of cargo) ]] && at_least "$(version_of rustc)" "$(msrv)"; }

there_qemu() { find_qemu; qemu-system-x86_64 --version >/dev/null 2>&1; }

there_prometheus_parser() { there promtool || /usr/bin/python3 -c 'import prometheus_client' 2>/dev/null; }

there_python3_apt() { /usr/bin/python3 -c 'import apt' 2>/dev/null; }

there_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

there_cargo_command() { cargo "$1" --version >/dev/null 2>&1; }

# The version of a program that prints `name 1.2.3 …`; nothing when it does not run.
version_of() { "$1" --version 2>/dev/null | awk 'NR == 1 { print $2 }'; }

# at_least 1.96.0 1.85
at_least() { [[ -n $1 && $(printf '%s\n%s\n' "$1" "$2" | sort --version-sort | head -n 1) == "$2" ]]; }

# The version that apt would install of a package, and its upstream part; nothing when there is none.
candidate() { apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }
candidate_upstream() { candidate "$1" | sed 's/^[0-9]*://; s/[-+~].*//'; }

# Makes a cargo that is new enough the one that runs: rustup's, which only login shells have on their path, or Debian's
# behind an older one.
find_cargo() {
  local dir
  there_cargo && return
  for dir in "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/bin; do
    [[ -x $dir/cargo ]] || continue
    if at_least "$(version_of "$dir/rustc")" "$(msrv)"; then
      export PATH="$dir:$PATH"
      return
    fi
  done
}

# first_that_will_do PACKAGE…: cargo has to be new enough; rustfmt and clippy have to belong to the very compiler that
# runs, which is so only when that is Debian's.
first_that_will_do() {
  local package version
  for package in "$@"; do
    version=$(candidate_upstream "$package")
    if [[ $package == cargo* ]]; then
      at_least "$version" "$(msrv)" || continue
    else
      [[ $(command -v rustc) == /usr/bin/rustc && $version == "$(version_of rustc)" ]] || continue
    fi
    printf '%s\n' "$package"
    return
  done
  return 1
}

as_root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi; }

# Without a terminal sudo cannot ask for a password.
can_be_root() {
  [[ $EUID -eq 0 ]] || { command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; }
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --quiet=2 --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

status() { dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null; }

# install_packages PACKAGE…. Nothing that is installed is ever replaced by an older version. Debian 12's own cargo makes
# room for cargo-web.
install_packages() {
  local removed package rest=()
  apt_install --no-remove "$@" 2>/dev/null && return
  if [[ " $* " == *" $QEMU_PACKAGE "* ]] && unpack_qemu; then
    for package in "$@"; do
      [[ $package == "$QEMU_PACKAGE" ]] || rest+=("$package")
    done
    [[ ${#rest[@]} -gt 0 ]] || return 0
    set -- "${rest[@]}"
  fi
  removed=$(apt-get install --simulate --no-install-recommends "$@" 2>/dev/null | awk '$1 == "Remv" { print $2 }' | paste -sd' ')
  [[ -z $removed ]] || say "removing what is in the way: $removed"
  apt_install "$@"
}

# unpack DIRECTORY PACKAGE…: what is in Debian packages, without installing them. No root is needed.
unpack() {
  local to=$1 work result=0
  shift
  work=$(mktemp -d) && mkdir -p "$to"
  # apt's own user writes there.
  chmod 755 "$work"
  (
    cd "$work" && apt-get download --quiet=2 "$@" 2>/dev/null || exit 1
    for deb in *.deb; do dpkg-deb --extract "$deb" "$to" || exit 1; done
  ) || result=1
  rm -rf "$work"
  return "$result"
}

readonly QEMU_PACKAGE=qemu-system-x86

# A QEMU of our own, for hosts where a qemu-utils of another release (backports) keeps apt from installing Debian's
# qemu-system-x86 beside it. QEMU finds its firmware relative to its program; its libraries it has to be told.
unpack_qemu() {
  local to=$TOP/target/qemu utils installed packages
  utils=$(candidate "$QEMU_PACKAGE")
  installed=$(dpkg-query --show --showformat='${Version}' qemu-utils 2>/dev/null) || return 1
  [[ $(status qemu-utils) == installed && $installed != "$utils" && $(apt-cache madison qemu-utils) == *" $utils "* ]] || return 1
  # What apt would put in place of it, if it were asked to. It is not.
  packages=$(apt-get install --simulate --no-install-recommends --allow-downgrades "qemu-utils=$utils" "$QEMU_PACKAGE" 2>/dev/null |
    sed -n '/^Inst qemu-utils /d; s/^Inst \([^ ]*\) [^(]*(\([^ ]*\) .*/\1=\2/p')
  [[ -n $packages ]] || return 1
  say "qemu-utils $installed keeps apt from installing $QEMU_PACKAGE $utils." \
    "It stays as it is: QEMU is unpacked into ${to#"$TOP"/}, for these scripts alone."
  say "(To have it installed instead: apt-get install --allow-downgrades qemu-utils=$utils $QEMU_PACKAGE)"
  # shellcheck disable=SC2086 # words
  unpack "$to" $packages || return 1
  mkdir -p "$to/bin"
  cat >"$to/bin/qemu-system-x86_64" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
for lib in "$here"/usr/lib/*-linux-gnu "$here"/lib/*-linux-gnu; do
  LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH
exec "$here/usr/bin/qemu-system-x86_64" "$@"
WRAPPER
  chmod 755 "$to/bin/qemu-system-x86_64"
}

# Makes that QEMU the one that runs, unless the host has one.
find_qemu() {
  there qemu-system-x86_64 || [[ ! -x $TOP/target/qemu/bin/qemu-system-x86_64 ]] || export PATH="$PATH:$TOP/target/qemu/bin"
}

# missing GROUP…: a line `what|packages` for each row of these groups that is not there.
missing() {
  local group what check packages
  while IFS='|' read -r group what check packages; do
    [[ " $* " == *" $group "* ]] || continue
    # A command with its words, from the table above.
    # shellcheck disable=SC2086
    $check || printf '%s|%s\n' "$what" "$packages"
  done < <(needs | sed 's/ *| */|/g') | sort --unique
}

# ensure GROUP…: returns when all of it is there; else ends the script with a message that says what to do.
ensure() {
  local lacking what packages all=() some
  find_cargo
  find_qemu
  lacking=$(missing "$@")
  [[ -n $lacking ]] || return 0
  what=$(cut -d'|' -f1 <<<"$lacking" | paste -sd, | sed 's/,/, /g')
  command -v apt-get >/dev/null || die "missing: $what. Only on Debian does this script install it"
  if can_be_root; then
    say "missing: $what"
    as_root apt-get update --quiet=2 >&2 || say "apt-get update failed; going on with the package lists that are there"
  fi
  while IFS='|' read -r what packages; do
    if [[ $packages == *,* ]]; then
      IFS=, read -ra some <<<"$packages"
      packages=$(first_that_will_do "${some[@]}") || die "$what: Debian has none that will do. $(hint "$what")"
    fi
    read -ra some <<<"$packages"
    all+=("${some[@]}")
  done <<<"$lacking"
  can_be_root || die "missing, and no root to install it. Run: sudo apt-get install --no-install-recommends ${all[*]}"
  say "installing ${all[*]}"
  install_packages "${all[@]}" || die "apt-get could not install ${all[*]}"
  hash -r
  find_cargo
  find_qemu
  lacking=$(missing "$@")
  [[ -z $lacking ]] || die "installed, but still not working: $(cut -d'|' -f1 <<<"$lacking" | paste -sd,)"
}

hint() {
  case $1 in
  cargo) printf 'Rust %s or newer is needed: the package cargo of Debian 13, cargo-web of Debian 12, or https://rustup.rs' "$(msrv)" ;;
  *) printf 'This one runs: %s (%s); with rustup: rustup component add %s' "$(command -v rustc)" "$(version_of rustc)" "$1" ;;
  esac
}

# Where `cargo build --release` leaves the tool.
release_binary() {
  (cd "$TOP" && cargo metadata --format-version 1 --no-deps --locked) |
    sed 's|.*"target_directory":"\([^"]*\)".*|\1/release/hypeman-snap|'
}

# Programs for the tests whose packages would start a server on this machine: unpacked below the build directory.
ensure_unpacked() {
  local to=$TOP/target/unpacked packages
  export PATH="$PATH:$to/prometheus/usr/bin"
  if ! there promtool; then
    say "unpacking promtool into ${to#"$TOP"/}"
    unpack "$to/prometheus" prometheus || return 1
    rm -f "$to/prometheus/usr/bin/prometheus"
  fi
  there libvirtd || [[ -x $to/libvirt/usr/sbin/libvirtd ]] || unpack_missing libvirt libvirt-daemon-system libvirt-clients || return 1
  [[ -x $to/dma/usr/sbin/dma ]] || unpack_missing dma dma || return 1
  [[ -x $to/restic/usr/bin/restic ]] || unpack_restic "$to/restic"
}

# A restic whose keep rules ours are compared with: 0.17 or newer, which Debian has from 13 on.
unpack_restic() {
  local work uri options=() result=0
  say "unpacking restic into target/unpacked"
  if at_least "$(candidate_upstream restic)" 0.17; then
    unpack "$1" restic
    return
  fi
  # shellcheck disable=SC2016 # apt's own variables
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1) && [[ -n $uri ]] || return 1
  work=$(mktemp -d) && mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$1" && chmod -R 755 "$work"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$uri" >"$work/sources.list"
  options=(-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists"
    -o Dir::Cache="$work/cache" --quiet=2)
  (
    cd "$work" && apt-get "${options[@]}" update && apt-get "${options[@]}" download restic &&
      dpkg-deb --extract restic_*.deb "$1"
  ) >/dev/null 2>&1 || result=1
  rm -rf "$work"
  return "$result"
}

# unpack_missing NAME PACKAGE…: what apt would install, below target/unpacked/NAME; not what it would bring to another version,
# which is there.
unpack_missing() {
  local name=$1 packages
  shift
  say "unpacking $name into target/unpacked"
  packages=$(apt-get install --simulate --no-install-recommends "$@" 2>/dev/null | sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p')
  # shellcheck disable=SC2086 # words
  [[ -n $packages ]] && unpack "$TOP/target/unpacked/$name" $packages
}

# What computes Debian cron's times, for the tests of calendars, below the build directory.
ensure_cronsim() {
  local venv=$TOP/target/cronsim
  [[ -d $venv ]] && "$venv/bin/python" -c 'import cronsim' 2>/dev/null && return
  say "installing cronsim into ${venv#"$TOP"/}"
  python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check cronsim tzdata
}

# Ansible for the tests of contrib/ansible, below the build directory: Debian 12's own is too old for ansible-lint.
ensure_ansible() {
  local venv=$TOP/target/ansible
  [[ -x $venv/bin/ansible-playbook && -x $venv/bin/ansible-lint ]] && return
  say "installing ansible-core and ansible-lint into ${venv#"$TOP"/}"
  python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check ansible-core ansible-lint
}
