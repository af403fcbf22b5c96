//! Retention as a user meets it: keep rules that select what restic selects, reasons, and the most that one run removes.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, LocalResult, TimeDelta, TimeZone, Timelike, Utc};
use serde_json::{Value, json};
use support::cli::{Host, now};
use support::skip::skipped;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const WEB_A: (&str, &str) = (ID, "web-a");
const HOUR: Duration = Duration::from_secs(3600);
const ZONE: &str = "Europe/Berlin";

fn host_with_hourly_snapshots(count: u32, declaration: &[&str]) -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let set = ["set", "web-a", "--interval", "1h"];
    host.run(&[&set, declaration].concat()).exits(0);
    for hours in 0..count {
        host.add_snapshot(&format!("s{hours:02}"), WEB_A, hours * HOUR, true);
    }
    host
}

#[test]
fn one_run_removes_at_most_half_and_force_the_rest() {
    let host = host_with_hourly_snapshots(30, &["--max-count", "1"]);
    let foreseen = host
        .run(&["prune", "--dry-run", "-o", "json"])
        .exits(0)
        .json();
    let foreseen = &foreseen["results"][0];
    assert_eq!(foreseen["pruned"].as_array().unwrap().len(), 15);
    assert_eq!(foreseen["held_back"].as_array().unwrap().len(), 14);
    let said = host.run(&["prune"]).exits(0).stdout;
    assert_eq!(
        said,
        format!(
            "{ID}: pruned 15, 14 more wait for the next run: one run removes at most half of them; \
             `hypeman-snap prune --force {ID}` removes them now\n"
        )
    );
    assert_eq!(host.snapshots().len(), 15);
    // A run that somebody forces is a run like others.
    let forced = host
        .run(&["run-due", "--force", "--instance", ID, "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(forced["results"][0]["pruned"].as_array().unwrap().len(), 8);
    assert_eq!(
        forced["results"][0]["held_back"].as_array().unwrap().len(),
        7
    );
    let said = host.run(&["prune", "--force", ID]).exits(0).stdout;
    assert_eq!(said, format!("{ID}: pruned 7\n"));
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn a_dry_run_says_of_each_snapshot_why_it_stays_or_goes() {
    let rules = ["--keep-last", "2", "--max-age", "90m", "--min-keep", "1"];
    let host = host_with_hourly_snapshots(3, &rules);
    let json = host
        .run(&["prune", "--dry-run", "-o", "json"])
        .exits(0)
        .json();
    let judged: Vec<Value> = json["results"][0]["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let first = &it["reasons"][0];
            json!([it["id"], it["keep"], first])
        })
        .collect();
    assert_eq!(
        judged,
        [
            json!(["s00", true, "newest"]),
            json!(["s01", true, "last"]),
            json!(["s02", false, "no keep rule wants it"]),
        ]
    );
    let all = host.run(&["snapshots", "web-a", "-v"]).exits(0).stdout;
    assert!(
        all.contains("goes: no keep rule wants it, 2h old, 1h 30m allowed"),
        "{all}"
    );
    let strongest = host.run(&["snapshots", "web-a"]).exits(0).stdout;
    assert!(
        strongest.contains("goes: no keep rule wants it\n"),
        "{strongest}"
    );
}

/// Numbers that look random, the same ones for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        // Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Some hours, days and years that have snapshots, and many that have none.
fn history(numbers: &mut Numbers, count: usize) -> Vec<DateTime<Utc>> {
    let zone: chrono_tz::Tz = ZONE.parse().unwrap();
    let now = now().with_nanosecond(0).unwrap();
    let mut times = BTreeSet::new();
    while times.len() < count {
        let most_minutes =
            [3 * 60, 3 * 1440, 40 * 1440, 900 * 1440][usize::try_from(numbers.below(4)).unwrap()];
        let ago = TimeDelta::minutes(i64::try_from(5 + numbers.below(most_minutes)).unwrap());
        let time = now - ago;
        // restic is given local times, of which some are two.
        let local = time.with_timezone(&zone).naive_local();
        if matches!(zone.from_local_datetime(&local), LocalResult::Single(_)) {
            times.insert(time);
        }
    }
    times.into_iter().collect()
}

struct Restic {
    program: PathBuf,
    dir: tempfile::TempDir,
}

impl Restic {
    fn create() -> Option<Self> {
        let unpacked =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/unpacked/restic/usr/bin/restic");
        let program = [unpacked, PathBuf::from("restic")]
            .into_iter()
            .find(|program| {
                let version = Command::new(program).arg("version").output().ok();
                let version = version.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
                let minor = version.as_deref().and_then(|it| {
                    it.strip_prefix("restic 0.")?
                        .split('.')
                        .next()?
                        .parse()
                        .ok()
                });
                minor.is_some_and(|minor: u32| minor >= 17)
            });
        let Some(program) = program else {
            skipped(
                "keep rules beside restic's: restic 0.17 or newer; ./contrib/test.sh unpacks one into target/unpacked",
            );
            return None;
        };
        let restic = Self {
            program,
            dir: tempfile::tempdir().unwrap(),
        };
        restic.run(&["init"]);
        Some(restic)
    }

    fn run(&self, args: &[&str]) -> String {
        let output = Command::new(&self.program)
            .args(["--no-cache", "--quiet"])
            .args(args)
            .env("RESTIC_REPOSITORY", self.dir.path().join("repository"))
            .env("RESTIC_PASSWORD", "sesame")
            .env("TZ", ZONE)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn back_up(&self, times: &[DateTime<Utc>]) {
        let zone: chrono_tz::Tz = ZONE.parse().unwrap();
        let file = self.dir.path().join("file");
        fs::write(&file, "x").unwrap();
        std::thread::scope(|scope| {
            for half in times.chunks(times.len().div_ceil(2)) {
                let file = file.to_str().unwrap();
                scope.spawn(move || {
                    for time in half {
                        let local = time.with_timezone(&zone).format("%F %T").to_string();
                        self.run(&["backup", "--host", "h", "--time", &local, file]);
                    }
                });
            }
        });
    }

    fn keeps(&self, rules: &[String]) -> BTreeSet<DateTime<Utc>> {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let said = self.run(&[&["forget", "--dry-run", "--json"], rules.as_slice()].concat());
        let groups: Value = serde_json::from_str(&said).unwrap();
        groups[0]["keep"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["time"].as_str().unwrap().parse().unwrap())
            .collect()
    }
}

fn some_rules(numbers: &mut Numbers) -> Vec<String> {
    let names = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];
    let mut rules: Vec<String> = names
        .into_iter()
        .filter_map(|name| {
            let count = 1 + numbers.below(9);
            (numbers.below(3) == 0).then(|| format!("--keep-{name}={count}"))
        })
        .collect();
    if rules.is_empty() || numbers.below(4) == 0 {
        rules.push(format!("--keep-within={}h", 1 + numbers.below(2000)));
    }
    rules
}

#[test]
fn keep_rules_select_what_restic_selects() {
    let Some(restic) = Restic::create() else {
        return;
    };
    let seed = u64::try_from(now().timestamp_micros()).unwrap();
    let mut numbers = Numbers(seed);
    let times = history(&mut numbers, 32);
    restic.back_up(&times);

    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    for (n, time) in times.iter().enumerate() {
        let id = format!("s{n}");
        host.add_snapshot(&id, WEB_A, HOUR, true);
        let path = host
            .data_dir()
            .join("snapshots")
            .join(&id)
            .join("snapshot.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["snapshot"]["created_at"] = json!(time);
        fs::write(&path, record.to_string()).unwrap();
    }
    for _ in 0..16 {
        let rules = some_rules(&mut numbers);
        let mut set = vec!["set", "web-a", "--interval", "1h"];
        set.extend(rules.iter().map(String::as_str));
        let goes_by_zone =
            |rule: &String| !rule.starts_with("--keep-last") && !rule.starts_with("--keep-within");
        if rules.iter().any(goes_by_zone) {
            set.extend(["--timezone", ZONE]);
        }
        host.run(&set).exits(0);
        let judged = host
            .run(&["prune", "--dry-run", "-o", "json"])
            .exits(0)
            .json();
        let ours: BTreeSet<DateTime<Utc>> = judged["results"][0]["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|it| it["keep"] == true)
            .map(|it| it["created_at"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(
            ours,
            restic.keeps(&rules),
            "{rules:?} of {times:?} (seed {seed})"
        );
    }
}
