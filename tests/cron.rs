//! `contrib/cron.d/hypeman-snap` under Debian's cron itself, in a throw-away copy of this machine: it takes snapshots, and
//! it sends mail only when something failed. Cron looks at its tables once a minute, so each test takes up to that.

#![cfg(test)]

use std::fs;
use std::path::Path;

use support::guests::{spoil, write_stopped};
use support::skip::skipped;
use support::throwaway::{Throwaway, text};

/// Brings up cron with nothing but our table and waits until a run is over.
const SCRIPT: &str = r#"
install -m 0755 "$SHARED"/hypeman-snap /usr/local/bin/hypeman-snap
sed "s,MAILS,$SHARED," >/usr/sbin/sendmail <<'END'
#!/bin/sh
cat >"MAILS/mail.$$"
END
chmod 0755 /usr/sbin/sendmail
rm -rf /etc/crontab /etc/cron.d/* /var/spool/cron/crontabs/*
install -m 0644 "$PROJECT/contrib/cron.d/hypeman-snap" /etc/cron.d/hypeman-snap
# Not where the tool would look by itself, so that a run proves that the file was read.
echo "HYPEMAN_SNAP_DATA_DIR=$SHARED/data" >/etc/default/hypeman-snap

state=/var/lib/hypeman-snap/snapshot-schedules
for instance in "$SHARED"/data/guests/*/; do
  hypeman-snap --data-dir "$SHARED"/data set "$(basename "$instance")" --interval 1h --max-count 3
done
# Due since long ago, so that the first minute is enough.
sed -i 's/"next_run_at": "[^"]*"/"next_run_at": "2026-01-01T00:00:00Z"/' "$state"/*.json

cron -f &
cron=$!
for _ in $(seq 900); do
  grep --quiet 2026-01-01T00:00:00Z "$state"/*.json || break
  sleep 0.1
done
# The minute is over when cron has no child any more, with which its mail is out too.
while [ -n "$(cat /proc/$cron/task/*/children)" ]; do sleep 0.1; done
kill "$cron"
"#;

/// Runs the script in a machine with these VMs; nothing where that is not possible.
fn minute_of_cron(prepare: impl Fn(&Path)) -> Option<Throwaway> {
    if !Path::new("/usr/sbin/cron").exists() {
        skipped("cron: install the Debian package cron");
        return None;
    }
    let machine = Throwaway::create();
    machine.share(
        Path::new(env!("CARGO_BIN_EXE_hypeman-snap")),
        "hypeman-snap",
    );
    prepare(&machine.shared().join("data"));
    let output = machine.run(SCRIPT)?;
    assert!(output.status.success(), "{}", text(&output));
    Some(machine)
}

fn mails(machine: &Throwaway) -> Vec<String> {
    fs::read_dir(machine.shared())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_stem().unwrap() == "mail")
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

fn snapshots_of(machine: &Throwaway, instance: &str) -> usize {
    let Ok(entries) = fs::read_dir(machine.shared().join("data/snapshots")) else {
        return 0;
    };
    entries
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("snapshot.json")).ok())
        .filter(|record| {
            let record: serde_json::Value = serde_json::from_str(record).unwrap();
            record["snapshot"]["source_instance_id"] == instance
        })
        .count()
}

#[test]
fn cron_takes_a_due_snapshot_and_sends_no_mail() {
    let Some(machine) = minute_of_cron(|data| {
        write_stopped(data, "web0", "web");
    }) else {
        return;
    };
    assert_eq!(snapshots_of(&machine, "web0"), 1);
    assert_eq!(mails(&machine), Vec::<String>::new());
}

#[test]
fn cron_sends_one_mail_that_names_the_vm_that_failed() {
    let Some(machine) = minute_of_cron(|data| {
        write_stopped(data, "web0", "web");
        spoil(&write_stopped(data, "sick0", "sick"));
    }) else {
        return;
    };
    assert_eq!(
        snapshots_of(&machine, "web0"),
        1,
        "one VM's failure stopped another"
    );
    assert_eq!(snapshots_of(&machine, "sick0"), 0);
    let mails = mails(&machine);
    assert_eq!(mails.len(), 1, "{mails:#?}");
    let (head, body) = mails[0].split_once("\n\n").unwrap();
    assert!(head.contains("To: root"), "{head}");
    assert!(head.contains("hypeman-snap --quiet run-due"), "{head}");
    assert!(body.contains("sick0"), "{body}");
    assert!(!body.contains("web0"), "{body}");
    assert!(body.lines().count() <= 5, "{body}");
}
