#!/usr/bin/env bash
# Builds the Debian package: ./contrib/package.sh [ARGUMENTS OF cargo deb]
# It ends up in target/debian; the last line of output is its path. cargo-deb, when it is missing, is built once, below
# the build directory. Pages and completions are those in the repository, which a test holds against the command line.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib/deps.sh
source "$TOP/contrib/lib/deps.sh"
cd "$TOP"

ensure build package
find_cargo_deb || {
  say "installing cargo-deb below target/tools"
  cargo install --locked --root "$TOP/target/tools" --version "$CARGO_DEB_VERSION" cargo-deb
  find_cargo_deb
}
cargo deb --package hypeman-snap "$@"
