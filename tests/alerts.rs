//! `contrib/prometheus`: promtool accepts the alert rules, and runs them on the metrics that the tool really writes.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::cli::{Host, Said, now, said};
use support::skip::skipped;
use support::throwaway::text;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/prometheus/hypeman-snap.rules.yml")
}

/// Runs promtool; nothing where there is none.
fn promtool(args: &[&str], file: &Path) -> Option<()> {
    let Ok(output) = Command::new("promtool").args(args).arg(file).output() else {
        skipped("the alert rules: no promtool, which is in the Debian package prometheus");
        return None;
    };
    assert!(output.status.success(), "{}", text(&output));
    Some(())
}

/// An alert that is expected: its name, how grave it is, and the labels of the instance that it is about, if any.
type Alert = (&'static str, &'static str, &'static str);

const HOST: &str = "";
const WEB_A: &str = r#", instance_id="mk3v9t0xq2r7w5d8h1c6b4za", name="web-a""#;
const WEB_B: &str = r#", instance_id="mk3w0000000000000000000b", name="web-b""#;
/// Nobody knows its name any more.
const WEB_A_GONE: &str = r#", instance_id="mk3v9t0xq2r7w5d8h1c6b4za""#;

/// A host whose metrics file is fed to the rules as a scrape each minute, unchanged, as node-exporter does when nothing
/// writes it any more.
struct Scraped {
    host: Host,
}

impl Scraped {
    fn new() -> Self {
        let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
        for id in [ID, OTHER_ID] {
            host.run(&["set", id, "--interval", "1h", "--max-count", "2"])
                .exits(0);
        }
        Self { host }
    }

    fn run_due(&self, args: &[&str]) -> Said {
        let mut command = self.host.command();
        command
            .args(["run-due", "--metrics-file"])
            .arg(self.host.dir().join("it.prom"))
            .args(args);
        said(&mut command)
    }

    /// The samples as promtool takes them. Its clock starts at 0, and Prometheus adds where it scraped.
    fn series(&self, minutes: u32) -> Vec<Value> {
        let now = now().timestamp() as f64;
        let metrics = fs::read_to_string(self.host.dir().join("it.prom")).unwrap();
        metrics
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let is_time = series.contains("_timestamp_");
                let value = value.parse::<f64>().unwrap() - if is_time { now } else { 0.0 };
                let series = match series.split_once('{') {
                    Some((name, labels)) => format!("{name}{{instance=\"host1\",{labels}"),
                    None => format!("{series}{{instance=\"host1\"}}"),
                };
                json!({"series": series, "values": format!("{value}+0x{minutes}")})
            })
            .collect()
    }

    /// Lets promtool hold what fires after so many minutes without a further run against `expected`, which are all.
    fn fires(&self, minutes: u32, expected: &[Alert]) {
        let samples: Vec<Value> = expected
            .iter()
            .map(|(alert, severity, about)| {
                let labels = format!(
                    "ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", instance=\"host1\", severity=\"{severity}\"{about}}}"
                );
                json!({"labels": labels, "value": 1})
            })
            .collect();
        let tests = json!({
            "rule_files": [rules()],
            "evaluation_interval": "1m",
            "tests": [{
                "interval": "1m",
                "input_series": self.series(minutes),
                "promql_expr_test": [{
                    "expr": "ALERTS{alertstate=\"firing\"}",
                    "eval_time": format!("{minutes}m"),
                    "exp_samples": samples,
                }],
            }],
        });
        let file = self.host.dir().join("tests.yml");
        fs::write(&file, tests.to_string()).unwrap();
        promtool(&["test", "rules"], &file);
    }
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules"], &rules());
}

#[test]
fn alerts_tell_what_is_wrong() {
    let scraped = Scraped::new();
    let host = &scraped.host;
    // Set, and not yet run: nothing to complain of.
    scraped.run_due(&[]).exits(0);
    scraped.fires(14, &[]);
    scraped.run_due(&["--force"]).exits(0);
    scraped.fires(14, &[]);
    // Nothing runs any more: first that shows, then the snapshots get too old.
    let stopped = ("HypemanSnapNotRunning", "critical", HOST);
    scraped.fires(30, &[stopped]);
    let too_old = |id| ("HypemanSnapTooOld", "warning", id);
    scraped.fires(90, &[stopped, too_old(WEB_A), too_old(WEB_B)]);

    // One fails. A single time is no alert.
    let guests = host.data_dir().join("guests");
    let set = ["set", OTHER_ID, "--interval", "1h", "--max-count", "2"];
    host.run(&[&set[..], &["--pre-hook", "/bin/false"]].concat())
        .exits(0);
    scraped.run_due(&["--force"]).exits(1);
    scraped.fires(14, &[]);
    scraped.run_due(&["--force"]).exits(1);
    let failing = ("HypemanSnapFailing", "warning", WEB_B);
    scraped.fires(14, &[failing]);

    // The other one is gone, and its snapshots with it; a file is no schedule.
    fs::remove_dir_all(guests.join(ID)).unwrap();
    host.write_schedule("broken", "{");
    scraped.run_due(&["--force"]).exits(1);
    scraped.fires(
        14,
        &[failing, ("HypemanSnapUnreadableSchedule", "warning", HOST)],
    );
    scraped.fires(
        61,
        &[
            stopped,
            failing,
            ("HypemanSnapUnreadableSchedule", "warning", HOST),
            ("HypemanSnapInstanceMissing", "warning", WEB_A_GONE),
        ],
    );
}

#[test]
fn alert_tells_of_retention_that_fails() {
    let scraped = Scraped::new();
    let host = &scraped.host;
    host.add_snapshot("old", (ID, "web-a"), Duration::from_secs(7200), true);
    scraped.run_due(&["--force"]).exits(0);
    scraped.fires(14, &[]);
    let _held = host.obstruct_deletion("old");
    scraped.run_due(&["--force"]).exits(1);
    scraped.fires(14, &[("HypemanSnapRetentionFailing", "warning", WEB_A)]);
}

#[test]
fn alert_tells_of_snapshots_that_lost_something() {
    let scraped = Scraped::new();
    scraped.run_due(&["--force"]).exits(0);
    scraped.run_due(&["--force"]).exits(0);
    let disk = scraped
        .host
        .snapshots()
        .into_iter()
        .map(|id| scraped.host.data_dir().join("snapshots").join(id))
        .find(|snapshot| {
            let record = fs::read_to_string(snapshot.join("snapshot.json")).unwrap();
            record.contains(OTHER_ID)
        })
        .unwrap()
        .join("guest/overlay.raw");
    fs::remove_file(disk).unwrap();
    // What is in the store is looked at again when a run did something.
    scraped.run_due(&["--force", "--instance", ID]).exits(0);
    scraped.fires(14, &[("HypemanSnapUnusableSnapshots", "warning", WEB_B)]);
}

#[test]
fn alerts_tell_of_a_store_that_is_empty_or_out_of_reach() {
    let scraped = Scraped::new();
    scraped.run_due(&["--force"]).exits(0);
    let data = scraped.host.data_dir();
    let snapshots = data.join("snapshots");
    for snapshot in fs::read_dir(&snapshots).unwrap() {
        fs::remove_dir_all(snapshot.unwrap().path()).unwrap();
    }
    // Written anew when a schedule was.
    scraped
        .host
        .run(&["set", ID, "--interval", "2h", "--max-count", "2"])
        .exits(0);
    scraped.run_due(&[]).exits(0);
    let none = |id| ("HypemanSnapNoSnapshot", "critical", id);
    scraped.fires(9, &[]);
    scraped.fires(10, &[none(WEB_A), none(WEB_B)]);

    fs::rename(&data, scraped.host.dir().join("elsewhere")).unwrap();
    scraped.run_due(&["--force"]).exits(1);
    scraped.fires(14, &[("HypemanSnapEngineDown", "critical", HOST)]);
}
