//! `/etc/default/hypeman-snap`, the settings of the host, which root's commands read by themselves; in a throw-away copy of
//! this machine.

#![cfg(test)]

use std::path::Path;

use support::throwaway::{Throwaway, text};

const SCRIPT: &str = r#"
install -m 0755 "$SHARED/hypeman-snap" /usr/local/bin/hypeman-snap
file=/etc/default/hypeman-snap
mkdir -p /etc/default /srv/data
rm -f "$file"
unset HYPEMAN_BASE_URL
try() {
  local name=$1 code=0
  shift
  "$@" >"$SHARED/$name" 2>&1 || code=$?
  echo "exit $code" >>"$SHARED/$name"
}
printf '%s\n' '# A comment' 'HYPEMAN_SNAP_STATE_DIR="/srv/state"' "HYPEMAN_SNAP_DATA_DIR='/srv/data'" \
  'HYPEMAN_SNAP_MISSING_GRACE=2d' 'HYPEMAN_API_KEY_FILE=/srv/key' >"$file"
try doctor hypeman-snap doctor -o json
try variable env HYPEMAN_SNAP_STATE_DIR=/srv/other hypeman-snap doctor -o json
try flag hypeman-snap --state-dir /srv/flag doctor -o json
mkdir -p /srv/state/snapshot-schedules
try key hypeman-snap --engine hypeman --base-url http://localhost:9 snapshots
try other setpriv --reuid 65534 --clear-groups env HOME=/nonexistent hypeman-snap doctor -o json
echo 'HYPEMAN_SNAP_ENGINE=docker' >"$file"
try value hypeman-snap list
printf 'A=1\n\nexport HYPEMAN_SNAP_ENGINE=local\n' >"$file"
try line hypeman-snap list
try check hypeman-snap check
try completions hypeman-snap completions bash
: >"$file"
chmod 666 "$file"
try writable hypeman-snap list
"#;

#[test]
fn root_reads_the_settings_of_the_host_behind_flags_and_environment() {
    let machine = Throwaway::create();
    machine.share(
        Path::new(env!("CARGO_BIN_EXE_hypeman-snap")),
        "hypeman-snap",
    );
    let Some(output) = machine.run(SCRIPT) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    let says = |name: &str, parts: &[&str]| {
        let said = machine.read(name);
        for part in parts {
            assert!(said.contains(part), "{name}: no {part:?} in {said}");
        }
    };
    says(
        "doctor",
        &[
            "/srv/state (HYPEMAN_SNAP_STATE_DIR in /etc/default/hypeman-snap)",
            "/srv/data (HYPEMAN_SNAP_DATA_DIR in /etc/default/hypeman-snap)",
            "set by HYPEMAN_SNAP_MISSING_GRACE in /etc/default/hypeman-snap",
        ],
    );
    says("variable", &["/srv/other (HYPEMAN_SNAP_STATE_DIR)"]);
    says("flag", &["/srv/flag (--state-dir)"]);
    says("key", &["/srv/key (HYPEMAN_API_KEY_FILE)", "exit 1"]);
    let other = machine.read("other");
    assert!(!other.contains("in /etc/default"), "{other}");
    says(
        "value",
        &[
            "HYPEMAN_SNAP_ENGINE in /etc/default/hypeman-snap \"docker\"",
            "exit 2",
        ],
    );
    let line = "/etc/default/hypeman-snap line 3: must begin with a name";
    says("line", &[line, "`export`", "exit 2"]);
    says("check", &["UNKNOWN", line, "exit 3"]);
    says("completions", &["exit 0"]);
    says(
        "writable",
        &["others than root can change it", "has mode 0666", "exit 2"],
    );
}
