//! The hypeman engine and the fake server of the other tests, both held against the API's own description
//! (`contract/hypeman-openapi.yaml`) by Prism, which npm provides. Without npm this is skipped, visibly.

#![cfg(test)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::json;
use support::cli::{Host, Said, now, said};
use support::fake_hypeman::{FakeHypeman, Fault, KEY};
use support::wait::{wait_for, wait_until};

/// The version that the tests were written with.
const PRISM: &str = "@stoplight/prism-cli@5.14.2";
/// The instance of the description's examples.
const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

/// A running Prism; dropping it ends it.
struct Prism {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Prism {
    /// Starts `prism ARGS -p 0 CONTRACT UPSTREAM`, or gives nothing where there is none.
    fn start(host: &Host, mode: &[&str], upstream: Option<&str>) -> Option<Self> {
        let program = program()?;
        let contract =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/hypeman-openapi.yaml");
        let log = host.dir().join("prism.log");
        let child = Command::new(program)
            .args(mode)
            .args(["--host", "127.0.0.1", "--port", "0"])
            .arg(contract)
            .args(upstream)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut prism = Self {
            child,
            url: String::new(),
            log,
        };
        prism.url = wait_for("Prism listens", || prism.listening_at(), || prism.log());
        Some(prism)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn listening_at(&self) -> Option<String> {
        let log = self.log();
        let (_, url) = log.split_once("Prism is listening on ")?;
        // The line may not be whole yet.
        url.split_once('\n').map(|(url, _)| url.trim().to_owned())
    }

    /// Runs the tool with Prism as its server.
    fn run(&self, host: &Host, args: &[&str]) -> Said {
        let mut command = host.command();
        command
            .env("HYPEMAN_BASE_URL", &self.url)
            .env("HYPEMAN_API_KEY", KEY)
            .args(args);
        said(&mut command)
    }
}

impl Drop for Prism {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of Prism, installed once below the build directory.
fn program() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(install).clone()
}

fn install() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prism-5.14.2");
    let program = target.join("node_modules/.bin/prism");
    if program.exists() {
        return Some(program);
    }
    // Installed beside its place and renamed, so that what is there is whole.
    let staging = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let npm = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
        .arg("--prefix")
        .arg(staging.path())
        .arg(PRISM)
        .stdin(Stdio::null())
        .output();
    match npm {
        Ok(output) if output.status.success() => {
            // Another test may have been faster; its copy is as good.
            if let Err(error) = fs::rename(staging.path(), &target) {
                assert!(program.exists(), "{error}");
            }
            Some(program)
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            skipped(&format!("npm can't install {PRISM}: {}", said.trim()))
        }
        Err(error) => skipped(&format!("npm can't be started: {error}")),
    }
}

/// Says why these tests are skipped, past the capturing of their output.
fn skipped<T>(why: &str) -> Option<T> {
    let why = why.replace('\n', " ");
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: the hypeman contract tests: {why}"
    );
    None
}

fn host() -> Host {
    Host::new(env!("CARGO_BIN_EXE_hypeman-snap"))
}

#[test]
fn every_request_is_as_described_and_every_example_is_understood() {
    let host = host();
    let Some(prism) = Prism::start(&host, &["mock"], None) else {
        return;
    };
    // Prism answers a request that breaks the description with 400 or 422, and a fitting one with the example.
    prism
        .run(
            &host,
            &["set", "web-a", "--interval", "1h", "--max-count", "2"],
        )
        .exits(0)
        .complains(&["schedule of its own", "24h0m0s"]);
    // The example's name is the one that is asked for: an answer about another snapshot would not be believed.
    let mut schedule = host.schedule(ID);
    let at = now().to_rfc3339();
    schedule["attempt"] = json!({
        "run_at": at, "snapshot_name": "before-deploy", "tries": 1, "started_at": at,
    });
    host.write_schedule(ID, schedule.to_string());
    let report = prism
        .run(&host, &["run-due", "--force", "-o", "json"])
        .exits(0);
    let report = report.json();
    assert_eq!(report["results"][0]["instance_id"], ID);
    assert_eq!(
        report["results"][0]["snapshot_id"],
        "s8p1n4f6y0u3e2j7g9l5o1xv"
    );
    let shown = prism
        .run(&host, &["snapshots", "-o", "json"])
        .exits(0)
        .is_content()
        .json();
    let shown = &shown.as_array().unwrap()[0];
    assert_eq!(shown["name"], "before-deploy");
    assert_eq!(shown["kind"], "Standby");
    assert_eq!(shown["size_bytes"], 12_884_901_888_u64);
    assert_eq!(shown["tags"], json!({"team": "infra"}));
}

#[test]
fn the_tool_and_the_fake_server_speak_to_each_other_as_described() {
    let host = host();
    let server = FakeHypeman::start();
    server.world().set_state(ID, "Running");
    // With --errors, a request or an answer that breaks the description becomes an error.
    let Some(prism) = Prism::start(&host, &["proxy", "--errors"], Some(&server.url())) else {
        return;
    };
    let set = [
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "1",
        "--metadata",
        "a b=c:/+@",
    ];
    prism.run(&host, &set).exits(0).is_content();
    let run = ["run-due", "--force", "-o", "json"];
    let first = prism.run(&host, &run).exits(0).is_content().json();
    assert_eq!(first["results"][0]["snapshot_id"], "snap001");
    let second = prism.run(&host, &run).exits(0).is_content().json();
    assert_eq!(second["results"][0]["pruned"], json!(["snap001"]));

    // A lost answer: the snapshot is looked for by its source and its name.
    let post = format!("POST /instances/{ID}/snapshots");
    server.world().fail(&post, Fault::LoseAnswer);
    let third = prism.run(&host, &run).exits(0).json();
    assert_eq!(third["results"][0]["snapshot_id"], "snap003");
    assert_eq!(server.world().snapshots.len(), 1);

    server.world().set_state(ID, "Stopped");
    let restore = ["restore", ID, "snap003", "--start", "-o", "json"];
    let restored = prism.run(&host, &restore).exits(0).is_content().json();
    assert_eq!(restored["started"], true, "{restored}");

    server.world().instances.clear();
    let gone = prism.run(&host, &run).exits(0).json();
    assert_eq!(gone["results"][0]["outcome"], "pruned");
    wait_until("the last request is logged", || {
        prism.log().matches("Request received").count() >= server.world().requests.len()
    });
    assert!(!prism.log().contains("iolation"), "{}", prism.log());
}
