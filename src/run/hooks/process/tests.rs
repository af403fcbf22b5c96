//! Facts about a hook's process, with real ones.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

const FOREVER: Duration = Duration::from_secs(3600);

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

fn run_for(command: &mut Command, timeout: Duration) -> Ended {
    run(
        command,
        &Limits {
            timeout,
            stopped_since: &|| None,
            stop_grace: Duration::ZERO,
            end_grace: END_GRACE,
        },
    )
}

fn output_of(script: &str) -> Vec<String> {
    let ended = run_for(&mut sh(script), FOREVER);
    assert_eq!(ended.failure, None, "{:?}", ended.output);
    ended.output
}

/// Whether the process whose id `file` holds is no more, or only waits to be reaped.
fn is_dead(file: &Path) -> bool {
    let id = fs::read_to_string(file).unwrap();
    fs::read_to_string(format!("/proc/{}/stat", id.trim())).map_or(true, |stat| {
        stat.rsplit(')').next().unwrap().starts_with(" Z")
    })
}

#[track_caller]
fn dies(file: &Path) {
    let began = Instant::now();
    while !is_dead(file) {
        assert!(began.elapsed() < FOREVER / 60, "it lives on");
        thread::sleep(SLICE);
    }
}

#[test]
fn both_outputs_are_kept_in_their_order_and_stdin_is_empty() {
    assert_eq!(
        output_of("echo one; echo two >&2; echo; cat; printf three"),
        ["one", "two", "three"]
    );
}

#[test]
fn of_much_output_the_end_is_kept() {
    let lines = output_of("i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done");
    assert!(lines[0].contains("left out"), "{}", lines[0]);
    assert_eq!(lines.last().unwrap(), "line 29999");
    let kept: usize = lines[1..].iter().map(|line| line.len() + 1).sum();
    assert!(
        kept <= OUTPUT_MAX_BYTES && kept > OUTPUT_MAX_BYTES - 20,
        "{kept}"
    );
}

#[test]
fn what_is_no_text_does_no_harm() {
    assert_eq!(output_of(r"printf 'a\377b\n'"), ["a\u{fffd}b"]);
}

#[test]
fn failures_say_how_it_ended() {
    for (script, failure) in [
        ("exit 3", "failed with exit code 3"),
        ("kill -9 $$", "was killed by signal 9"),
    ] {
        let ended = run_for(&mut sh(script), FOREVER);
        assert_eq!(ended.failure.as_deref(), Some(failure));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hook");
    fs::write(&file, "exit 0\n").unwrap();
    for (mode, says) in [(0o644, "`chmod +x` it"), (0o755, "no `#!/…`")] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let ended = run_for(&mut Command::new(&file), FOREVER);
        let failure = ended.failure.unwrap();
        assert!(
            failure.starts_with("can't be executed: ") && failure.contains(says),
            "{failure}"
        );
    }
    let ended = run_for(&mut Command::new("/does/not/exist"), FOREVER);
    let failure = ended.failure.unwrap();
    assert!(
        failure.starts_with("could not be started: No such file"),
        "{failure}"
    );
}

#[test]
fn a_time_out_ends_the_hook_and_its_children_even_if_they_won_t() {
    let dir = tempfile::tempdir().unwrap();
    let ids = ["parent", "child", "grandchild"].map(|name| dir.path().join(name));
    // The child does not listen to SIGTERM; the grandchild has lost its parent.
    let script = "echo $$ > parent; \
        sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 0.1; done' & \
        sh -c 'sh -c \"echo \\$\\$ > grandchild; exec sleep 3600\" &'; \
        while [ ! -s child ] || [ ! -s grandchild ]; do sleep 0.01; done; \
        echo ready; wait";
    // Long enough for three shells to start on a busy machine.
    let timeout = Duration::from_secs(5);
    let began = Instant::now();
    let ended = run_for(sh(script).current_dir(dir.path()), timeout);
    assert_eq!(
        ended.failure.as_deref(),
        Some("did not end within 5s and was ended")
    );
    assert_eq!(ended.output, ["ready"]);
    assert!(began.elapsed() >= timeout);
    for id in &ids {
        dies(id);
    }
}

#[test]
fn a_hook_that_ignores_the_polite_signal_is_killed() {
    let script = "trap '' TERM; while :; do sleep 0.1; done";
    let began = Instant::now();
    let ended = run_for(&mut sh(script), Duration::from_millis(200));
    assert!(ended.failure.unwrap().ends_with("and was ended"));
    assert!(began.elapsed() >= END_GRACE);
}

#[test]
fn a_hook_may_clean_up_when_it_is_told_to_end() {
    let script = "trap 'echo thawed; exit 0' TERM; echo frozen; while :; do sleep 0.05; done";
    let ended = run_for(&mut sh(script), Duration::from_secs(2));
    // A shell may also say that its child was ended.
    let ends = (ended.output.first(), ended.output.last());
    assert_eq!(
        ends,
        (Some(&"frozen".to_owned()), Some(&"thawed".to_owned()))
    );
    assert!(ended.failure.is_some());
}

#[test]
fn a_stop_ends_it_after_its_grace() {
    let began = Instant::now();
    let stopped = |stop_grace, script: &str| {
        run(
            &mut sh(script),
            &Limits {
                timeout: FOREVER,
                stopped_since: &|| Some(began),
                stop_grace,
                end_grace: Duration::from_millis(300),
            },
        )
    };
    let ended = stopped(Duration::ZERO, "exec sleep 3600");
    assert_eq!(
        ended.failure.as_deref(),
        Some("was interrupted by a signal to hypeman-snap and was ended")
    );
    let began = Instant::now();
    let ended = stopped(Duration::ZERO, "trap '' TERM; while :; do sleep 0.1; done");
    assert!(ended.failure.unwrap().ends_with("and was ended"));
    assert!(began.elapsed() < END_GRACE);
    let ended = stopped(FOREVER, "echo undone");
    assert_eq!(
        (ended.failure, ended.output),
        (None, vec!["undone".to_owned()])
    );
}

#[test]
fn a_child_that_stays_behind_does_not_hold_the_run_up() {
    let dir = tempfile::tempdir().unwrap();
    let script = "sleep 3600 & echo $! > child";
    let ended = run_for(sh(script).current_dir(dir.path()), FOREVER);
    assert_eq!(ended.failure, None);
    let id = fs::read_to_string(dir.path().join("child")).unwrap();
    let id = Pid::from_raw(id.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(id, Signal::KILL).unwrap();
}

#[test]
fn a_child_that_left_the_group_ends_with_a_hook_that_takes_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!(
        "setsid sh -c 'trap \"\" TERM; echo $$ >{0}; while :; do sleep 1; done' & while [ ! -s {0} ]; do sleep 0.01; done; sleep 1000",
        pid.display()
    );
    let ended = run_for(&mut sh(&script), Duration::from_secs(1));
    assert!(ended.failure.unwrap().contains("was ended"));
    dies(&pid);
}
