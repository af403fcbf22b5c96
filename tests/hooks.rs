//! Hooks: what runs around a snapshot, what it is told, and what its failure means. Whatever happens, what a pre-hook
//! did can be undone by the post-hook.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::cli::{Host, Said, said};
use support::wait::wait_until;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

/// A host whose `web-a`, a stopped instance, has hooks.
struct Scene {
    host: Host,
}

impl Scene {
    /// `hooks` are flags and values of `set`; `LOG` and `DIR` in them are paths.
    fn new(hooks: &[&str]) -> Self {
        let scene = Self {
            host: Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap")),
        };
        scene.set(hooks).exits(0);
        scene
    }

    fn set(&self, hooks: &[&str]) -> Said {
        let dir = self.host.dir().to_str().unwrap();
        let log = self.log();
        let hooks: Vec<String> = hooks
            .iter()
            .map(|hook| {
                hook.replace("LOG", log.to_str().unwrap())
                    .replace("DIR", dir)
            })
            .collect();
        let hooks: Vec<&str> = hooks.iter().map(String::as_str).collect();
        let set = ["set", "web-a", "--interval", "1h", "--max-count", "3"];
        self.host.run(&[&set[..], &hooks].concat())
    }

    fn log(&self) -> PathBuf {
        self.host.dir().join("log")
    }

    /// What the hooks wrote to `LOG`.
    fn logged(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn force(&self, code: i32) -> (Said, Value) {
        let said = self
            .host
            .run(&["-o", "json", "run-due", "--force"])
            .exits(code);
        let result = said.json()["results"][0].clone();
        (said, result)
    }

    fn schedule(&self) -> Value {
        self.host.schedule(ID)
    }

    /// Starts a run and waits until its hooks have written `line`.
    fn start_until(&self, line: &str) -> Child {
        let mut command = self.host.std_command();
        command
            .args(["run-due", "--force"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let tool = command.spawn().unwrap();
        wait_until(line, || self.logged().iter().any(|logged| logged == line));
        tool
    }
}

#[test]
fn hooks_run_around_the_snapshot_and_are_told_about_it() {
    let script =
        "sh -c 'env | grep ^HYPEMAN_ | grep -v -e _DI[R]= -e _RUN= | sort >> LOG; pwd >> LOG'";
    let scene = Scene::new(&[
        "--pre-hook",
        script,
        "--post-hook",
        script,
        "--failure-hook",
        script,
    ]);
    let mut command = scene.host.command();
    let said = said(
        command
            .args(["-o", "json", "run-due", "--force"])
            .env("HYPEMAN_API_KEY", "secret")
            .env("HYPEMAN_API_KEY_FILE", "/secret")
            .env("HYPEMAN_SNAP_HEARTBEAT_URL", "")
            // Left over from whoever started the tool.
            .env("HYPEMAN_SNAP_OUTCOME", "failed")
            .env("HYPEMAN_SNAP_ERROR", "stale"),
    )
    .exits(0)
    .is_content();
    let result = &said.json()["results"][0];
    let (name, id) = (&result["snapshot_name"], &result["snapshot_id"]);
    let (name, id) = (name.as_str().unwrap(), id.as_str().unwrap());
    let expected = format!(
        "HYPEMAN_SNAP_HOOK=pre
HYPEMAN_SNAP_INSTANCE_ID={ID}
HYPEMAN_SNAP_INSTANCE_NAME=web-a
HYPEMAN_SNAP_KIND=Stopped
HYPEMAN_SNAP_SNAPSHOT_NAME={name}
/
HYPEMAN_SNAP_HOOK=post
HYPEMAN_SNAP_INSTANCE_ID={ID}
HYPEMAN_SNAP_INSTANCE_NAME=web-a
HYPEMAN_SNAP_KIND=Stopped
HYPEMAN_SNAP_OUTCOME=snapshotted
HYPEMAN_SNAP_SNAPSHOT_ID={id}
HYPEMAN_SNAP_SNAPSHOT_NAME={name}
/"
    );
    // The order of `sort` is a matter of the locale, that of the hooks is not.
    let sorted = |text: &str| {
        let mut hooks: Vec<Vec<&str>> = text
            .split_inclusive("\n/")
            .map(|hook| hook.trim().lines().collect())
            .collect();
        hooks.iter_mut().for_each(|hook| hook.sort_unstable());
        format!("{hooks:#?}")
    };
    assert_eq!(sorted(&scene.logged().join("\n")), sorted(&expected));
    let hooks = result["hooks"].as_array().unwrap();
    assert_eq!(hooks.len(), 2, "{hooks:?}");
    assert_eq!(hooks[0]["hook"], "pre");
    assert_eq!(hooks[0]["command"][0], "sh");
    assert_eq!(hooks[1]["error"], Value::Null);
}

#[test]
fn failing_pre_hook_stops_the_run_and_the_others_still_run() {
    let scene = Scene::new(&[
        "--pre-hook",
        "sh -c 'echo frozen; echo no thaw expected; exit 3'",
        "--post-hook",
        "sh -c 'echo post $HYPEMAN_SNAP_OUTCOME >> LOG'",
        "--failure-hook",
        "sh -c 'echo failure $HYPEMAN_SNAP_OUTCOME: $HYPEMAN_SNAP_ERROR >> LOG'",
    ]);
    let error = "the pre-hook sh failed with exit code 3: no thaw expected";
    let (said, result) = scene.force(1);
    said.complains(&[
        &format!("{ID}: pre-hook: frozen"),
        &format!("error: {ID}: {error}"),
    ]);
    assert_eq!(result["outcome"], "failed");
    assert_eq!(result["error"], error);
    assert_eq!(
        scene.logged(),
        ["post failed".to_owned(), format!("failure failed: {error}")]
    );
    assert_eq!(scene.host.snapshots(), Vec::<String>::new());
    let schedule = scene.schedule();
    assert_eq!(schedule["last_error"], error);
    assert_eq!(schedule["consecutive_failures"], 1);
    assert!(schedule["retry_at"].is_string() && schedule["attempt"].is_null());
}

#[test]
fn failing_post_hook_is_an_error_and_the_snapshot_stays_good() {
    let scene = Scene::new(&[
        "--post-hook",
        "false",
        "--failure-hook",
        "sh -c 'echo $HYPEMAN_SNAP_OUTCOME, $HYPEMAN_SNAP_ERROR >> LOG'",
    ]);
    let (said, result) = scene.force(1);
    said.complains(&["the post-hook false failed with exit code 1"]);
    assert_eq!(result["outcome"], "snapshotted");
    assert_eq!(
        scene.logged(),
        ["snapshotted, the post-hook false failed with exit code 1"]
    );
    assert_eq!(scene.host.snapshots().len(), 1);
    let schedule = scene.schedule();
    assert_eq!(schedule["last_snapshot_id"], result["snapshot_id"]);
    assert!(schedule["last_error"].is_null() && schedule["retry_at"].is_null());
}

#[test]
fn failed_snapshot_is_told_to_the_post_hook_and_the_failure_hook() {
    let script = "sh -c 'echo $HYPEMAN_SNAP_HOOK $HYPEMAN_SNAP_KIND $HYPEMAN_SNAP_ERROR >> LOG'";
    let scene = Scene::new(&["--post-hook", script, "--failure-hook", script]);
    let metadata = scene
        .host
        .data_dir()
        .join(format!("guests/{ID}/metadata.json"));
    let text = fs::read_to_string(&metadata).unwrap();
    let mut with_volume: Value = serde_json::from_str(&text).unwrap();
    with_volume["Volumes"] = json!([
        {"VolumeID": "v", "MountPath": "/d", "Readonly": false, "Overlay": false, "OverlaySize": 0}
    ]);
    fs::write(&metadata, with_volume.to_string()).unwrap();
    let (_, result) = scene.force(1);
    let error = result["error"].as_str().unwrap();
    assert_eq!(
        scene.logged(),
        [
            format!("post Stopped {error}"),
            format!("failure Stopped {error}")
        ]
    );
}

#[test]
fn failing_failure_hook_is_a_note() {
    let scene = Scene::new(&["--pre-hook", "false", "--failure-hook", "/bin/false"]);
    let (said, result) = scene.force(1);
    said.complains(&["warning: ", "the failure-hook /bin/false failed"]);
    assert_eq!(
        result["error"],
        "the pre-hook false failed with exit code 1"
    );
    assert_eq!(
        result["notes"],
        json!(["the failure-hook /bin/false failed with exit code 1"])
    );
}

#[test]
fn program_that_is_not_there_is_a_warning_first_and_a_failure_then() {
    let scene = Scene::new(&[]);
    scene
        .set(&["--pre-hook", "/does/not/exist now"])
        .exits(0)
        .complains(&["warning: --pre-hook \"/does/not/exist\"", "no such program"]);
    let (said, _) = scene.force(1);
    said.complains(&["the pre-hook /does/not/exist could not be started: No such file"]);
    let file = scene.log().with_file_name("hook");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    scene
        .set(&["--pre-hook", file.to_str().unwrap()])
        .exits(0)
        .complains(&["can't be executed", "`chmod +x` it"]);
}

#[test]
fn hook_that_takes_too_long_is_ended_with_its_children() {
    let scene = Scene::new(&[
        "--pre-hook",
        "sh -c 'sleep 3600 & echo $! >> LOG; wait'",
        "--hook-timeout",
        "1s",
    ]);
    let began = Instant::now();
    let (_, result) = scene.force(1);
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(
        result["error"],
        "the pre-hook sh did not end within 1s and was ended"
    );
    let child = scene.logged()[0].parse().unwrap();
    wait_until("the child is gone", || is_dead(child));
}

/// Whether the process is no more, or only waits to be reaped.
fn is_dead(id: i32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).map_or(true, |stat| {
        stat.rsplit(')').next().unwrap().starts_with(" Z")
    })
}

#[test]
fn tool_that_is_asked_to_stop_ends_the_pre_hook_and_lets_the_post_hook_undo() {
    let scene = Scene::new(&[
        "--pre-hook",
        "sh -c 'echo $$ > DIR/pid; echo frozen >> LOG; exec sleep 3600'",
        "--post-hook",
        "sh -c 'sleep 0.3; echo thawed $HYPEMAN_SNAP_OUTCOME: $HYPEMAN_SNAP_ERROR >> LOG'",
        "--failure-hook",
        "sh -c 'echo failure >> LOG'",
    ]);
    let mut tool = scene.start_until("frozen");
    kill_process(Pid::from_child(&tool), Signal::TERM).unwrap();
    assert_eq!(tool.wait().unwrap().code(), Some(1));
    let thawed = "thawed interrupted: interrupted by a signal";
    assert_eq!(scene.logged(), ["frozen", thawed]);
    let hook = fs::read_to_string(scene.host.dir().join("pid")).unwrap();
    assert!(is_dead(hook.trim().parse().unwrap()));
    assert_eq!(scene.host.snapshots(), Vec::<String>::new());
}

#[test]
fn run_that_a_signal_ends_has_not_failed_and_is_taken_up_by_the_next_run() {
    let scene = Scene::new(&[
        "--pre-hook",
        "sh -c 'echo pre >> LOG; [ -e DIR/go ] || exec sleep 3600'",
        "--post-hook",
        "sh -c 'echo post $HYPEMAN_SNAP_OUTCOME >> LOG'",
        "--failure-hook",
        "sh -c 'echo failure >> LOG'",
    ]);
    let next_run_at = scene.schedule()["next_run_at"].clone();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        fs::write(scene.log(), "").unwrap();
        let mut command = scene.host.std_command();
        let tool = command
            .args(["-o", "json", "run-due", "--force"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("pre", || scene.logged() == ["pre"]);
        kill_process(Pid::from_child(&tool), signal).unwrap();
        let output = tool.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains(&format!(
                "interrupted by a signal: {ID} left to the next run"
            )),
            "{said}"
        );
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let result = &report["results"][0];
        assert_eq!(result["outcome"], "interrupted");
        assert!(result["error"].is_null(), "{result}");
        assert_eq!(scene.logged(), ["pre", "post interrupted"]);
        let schedule = scene.schedule();
        assert_eq!(schedule["next_run_at"], next_run_at);
        for absent in [
            "last_error",
            "retry_at",
            "consecutive_failures",
            "total_failures",
        ] {
            assert!(schedule[absent].is_null(), "{absent}: {schedule}");
        }
    }
    let attempt = scene.schedule()["attempt"]["snapshot_name"].clone();
    fs::write(scene.host.dir().join("go"), "").unwrap();
    let said = scene.host.run(&["-o", "json", "run-due"]).exits(0);
    let result = &said.json()["results"][0];
    assert_eq!(result["outcome"], "snapshotted");
    assert_eq!(result["snapshot_name"], attempt, "the attempt is the same");
    assert!(scene.schedule()["attempt"].is_null());
}

#[test]
fn post_hook_of_a_run_that_was_killed_is_made_up_for() {
    let scene = Scene::new(&[
        "--pre-hook",
        "sh -c 'echo pre >> LOG'",
        "--post-hook",
        "sh -c 'echo $$ > DIR/pid; echo post >> LOG; [ -e DIR/go ] || exec sleep 3600'",
    ]);
    let mut tool = scene.start_until("post");
    tool.kill().unwrap();
    tool.wait().unwrap();
    // Nobody was left to end the hook.
    let hook = fs::read_to_string(scene.host.dir().join("pid")).unwrap();
    let hook = Pid::from_raw(hook.trim().parse().unwrap()).unwrap();
    kill_process(hook, Signal::KILL).unwrap();
    fs::write(scene.host.dir().join("go"), "").unwrap();
    let (_, result) = scene.force(0);
    assert_eq!(result["outcome"], "snapshotted");
    assert_eq!(scene.logged(), ["pre", "post", "post"]);
    assert_eq!(scene.host.snapshots().len(), 1);
}

#[test]
fn dry_run_says_which_hooks_would_run_and_runs_none() {
    let scene = Scene::new(&[
        "--pre-hook",
        "sh -c 'echo pre >> LOG'",
        "--post-hook",
        "touch 'DIR/a b'",
        "--failure-hook",
        "/bin/false",
    ]);
    let before = scene.host.state();
    let said = scene
        .host
        .run(&["run-due", "--force", "--dry-run"])
        .exits(0)
        .is_content();
    let dir = scene.host.dir().to_str().unwrap();
    for part in [
        format!("would first run sh -c 'echo pre >> {dir}/log', "),
        format!("would then run touch '{dir}/a b', "),
        "on failure would run /bin/false\n".to_owned(),
    ] {
        assert!(said.stdout.contains(&part), "{part} {said:?}");
    }
    assert_eq!(scene.logged(), Vec::<String>::new());
    assert_eq!(scene.host.state(), before);
    let json = scene
        .host
        .run(&["-o", "json", "run-due", "--force", "--dry-run"])
        .json();
    assert_eq!(
        json["results"][0]["hooks"][2],
        json!({"hook": "failure", "command": ["/bin/false"], "duration_ms": null, "error": null})
    );
}

#[test]
fn schedule_file_that_others_can_write_runs_no_hooks_and_no_snapshot() {
    let scene = Scene::new(&["--pre-hook", "sh -c 'echo pre >> LOG'"]);
    let path = scene.host.schedule_path(ID);
    let refused = |part: &str| {
        let before = scene.host.state();
        for arguments in [
            &["run-due", "--force"][..],
            &["run-due", "--force", "--dry-run"],
        ] {
            scene.host.run(arguments).exits(1).complains(&[
                path.to_str().unwrap(),
                part,
                "its hooks are not run",
            ]);
        }
        assert_eq!(scene.host.state(), before);
        assert_eq!(scene.logged(), Vec::<String>::new());
        assert_eq!(scene.host.snapshots(), Vec::<String>::new());
    };
    for mode in [0o620, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        refused(&format!("has mode 0{mode:o}"));
        scene.host.run(&["prune"]).exits(0);
        scene.host.run(&["get", "web-a"]).exits(0);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(65534), None).unwrap();
        refused("belongs to user 65534");
        chown(&path, Some(0), None).unwrap();
    }
    scene.force(0);
    assert_eq!(scene.logged(), ["pre"]);
}

#[test]
fn hooks_are_declared_like_everything_else() {
    let scene = Scene::new(&[]);
    let hooks = [
        "--pre-hook",
        "fsfreeze -f '/srv/a b'",
        "--failure-hook",
        "/bin/false",
        "--hook-timeout",
        "90s",
    ];
    let said = scene.set(&hooks).exits(0);
    assert!(
        said.stdout
            .contains("pre-hook: none → fsfreeze -f '/srv/a b', failure-hook: none → /bin/false, hook-timeout: 1m → 1m 30s"),
        "{said:?}"
    );
    assert_eq!(
        scene.schedule()["hooks"],
        json!({
            "pre": ["fsfreeze", "-f", "/srv/a b"],
            "failure": ["/bin/false"],
            "timeout": "1m30s",
        })
    );
    let same = [
        "--failure-hook",
        " /bin/false",
        "--pre-hook",
        r"fsfreeze  -f /srv/a\ b",
        "--hook-timeout",
        "1m30s",
    ];
    let said = scene.set(&same).exits(0);
    assert!(said.stdout.starts_with("unchanged "), "{said:?}");
    let get = scene.host.run(&["get", "web-a"]).exits(0);
    for line in [
        "pre-hook      fsfreeze -f '/srv/a b'\n",
        "failure-hook  /bin/false\n",
        "hook timeout  1m 30s\n",
    ] {
        assert!(get.stdout.contains(line), "{line} {get:?}");
    }
    scene.set(&[]).exits(0);
    assert_eq!(scene.schedule().get("hooks"), None);
    for bad in [
        &["--pre-hook", "a | b"][..],
        &["--post-hook", "bin/a"],
        &["--hook-timeout", "5s"],
        &["--pre-hook", "true", "--hook-timeout", "-5s"],
    ] {
        let before = scene.host.state();
        let flag = bad[bad.len() - 2];
        scene.set(bad).exits(2).complains(&[flag]);
        assert_eq!(scene.host.state(), before);
    }
}

#[test]
fn output_of_good_hooks_is_for_the_curious() {
    let scene = Scene::new(&["--pre-hook", "sh -c 'echo one; echo two >&2'"]);
    scene
        .host
        .run(&["run-due", "--force"])
        .exits(0)
        .is_content();
    scene
        .host
        .run(&["-v", "run-due", "--force"])
        .exits(0)
        .complains(&[
            &format!("hypeman-snap: {ID}: pre-hook: one\n"),
            &format!("hypeman-snap: {ID}: pre-hook: two\n"),
        ]);
}

#[test]
fn hooks_are_not_for_prune_nor_for_an_instance_that_is_gone() {
    let script = "sh -c 'echo $HYPEMAN_SNAP_HOOK >> LOG'";
    let scene = Scene::new(&[
        "--pre-hook",
        script,
        "--post-hook",
        script,
        "--failure-hook",
        script,
    ]);
    scene.host.run(&["prune"]).exits(0);
    scene.host.run(&["run-due"]).exits(0);
    scene.host.remove_instance(ID);
    scene.force(0);
    assert_eq!(scene.logged(), Vec::<String>::new());
}

#[test]
fn names_and_errors_of_others_are_plain_text_for_hooks() {
    let script = "sh -c 'printf \"%s|%s\\n\" \"$HYPEMAN_SNAP_INSTANCE_NAME\" \"$HYPEMAN_SNAP_ERROR\" >> LOG'";
    let scene = Scene::new(&[
        "--pre-hook",
        "sh -c 'printf \"\\033[2Jgone\"; exit 1'",
        "--failure-hook",
        script,
    ]);
    scene
        .host
        .add_instance(ID, "we\u{1b}[31mb\nroot: ok\u{202e}");
    scene.force(1);
    assert_eq!(
        scene.logged(),
        [
            "we\u{fffd}[31mb root: ok\u{fffd}|the pre-hook sh failed with exit code 1: \u{fffd}[2Jgone"
        ]
    );
}

#[test]
fn program_that_others_can_write_is_not_run_as_root() {
    if !rustix::process::geteuid().is_root() {
        support::skip::skipped("programs that others can write: needs root");
        return;
    }
    let scene = Scene::new(&[]);
    let dir = scene.host.dir().join("hooks");
    fs::create_dir(&dir).unwrap();
    let program = dir.join("hook");
    fs::write(&program, "#!/bin/sh\necho ran >> $(dirname $0)/../log\n").unwrap();
    let mode = |path: &PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&program, 0o755);
    mode(&dir, 0o755);
    let hooks = [
        "--pre-hook",
        "DIR/hooks/hook",
        "--post-hook",
        "DIR/hooks/hook",
    ];
    scene.set(&hooks).exits(0).is_content();
    scene.force(0);
    assert_eq!(scene.logged(), ["ran", "ran"]);
    fs::write(scene.log(), "").unwrap();

    let refused = |place: &PathBuf| {
        let place = place.display().to_string();
        let parts = ["is not run as root", place.as_str(), "chmod go-w"];
        scene.set(&hooks).exits(0).complains(&parts);
        let (said, result) = scene.force(1);
        said.complains(&parts);
        assert_eq!(result["outcome"], "failed");
        assert!(
            scene
                .host
                .run(&["doctor"])
                .stdout
                .contains("is not run as root")
        );
        assert_eq!(scene.logged(), [""; 0], "neither of the two");
    };
    mode(&program, 0o775);
    refused(&program);
    mode(&program, 0o755);
    mode(&dir, 0o777);
    refused(&dir);
    mode(&dir, 0o755);
    chown(&program, Some(12345), None).unwrap();
    refused(&program);
    chown(&program, Some(0), None).unwrap();

    // A link leads where its target is.
    let elsewhere = scene.host.dir().join("elsewhere");
    fs::rename(&program, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &program).unwrap();
    mode(&elsewhere, 0o757);
    refused(&elsewhere);
    mode(&elsewhere, 0o755);
    scene.force(0);
}
