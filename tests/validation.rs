//! The rules for schedules, through the command line: what breaks one is named by flag, value and rule, and nothing is
//! written.

#![cfg(test)]

use support::cli::{Host, said};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

#[test]
fn values_that_break_a_rule_are_refused_by_flag_value_and_rule() {
    let long_key = format!("{}=v", "k".repeat(129));
    let long_value = format!("k={}", "v".repeat(257));
    let long_prefix = "p".repeat(48);
    let count = ["--max-count", "1"];
    let cases: Vec<(Vec<&str>, Vec<&str>)> = vec![
        (
            vec!["--interval", "59s"],
            vec!["--interval \"59s\"", "at least 1m"],
        ),
        (
            vec!["--interval", "0"],
            vec!["--interval \"0\"", "at least 1m"],
        ),
        (
            vec!["--interval", "-1h"],
            vec!["--interval \"-1h\"", "negative"],
        ),
        (vec!["--interval", "often"], vec!["--interval \"often\""]),
        (vec!["--interval", ""], vec!["--interval \"\""]),
        (vec!["--interval", "60"], vec!["--interval \"60\"", "unit"]),
        (
            vec!["--interval", "99999999999999999999d"],
            vec!["--interval \"99999999999999999999d\""],
        ),
        (
            vec!["--interval", "1h", "--max-age", "-1h"],
            vec!["--max-age \"-1h\"", "negative"],
        ),
        (
            vec!["--interval", "1h", "--max-age", "old"],
            vec!["--max-age \"old\""],
        ),
        (
            vec!["--interval", "1h", "--name-prefix", ""],
            vec!["--name-prefix \"\"", "1 to 47"],
        ),
        (
            vec!["--interval", "1h", "--name-prefix", &long_prefix],
            vec!["--name-prefix", "1 to 47"],
        ),
        (
            vec!["--interval", "1h", "--name-prefix", "Nightly"],
            vec!["--name-prefix \"Nightly\"", "lower-case"],
        ),
        (
            vec!["--interval", "1h", "--name-prefix", "-night"],
            vec!["--name-prefix \"-night\"", "dash"],
        ),
        (
            vec!["--interval", "1h", "--name-prefix", "night-"],
            vec!["--name-prefix \"night-\"", "dash"],
        ),
        (
            vec!["--interval", "1h", "--name-prefix", "../x"],
            vec!["--name-prefix \"../x\""],
        ),
        (
            vec!["--interval", "1h", "--metadata", "team"],
            vec!["--metadata \"team\""],
        ),
        (
            vec!["--interval", "1h", "--metadata", "=x"],
            vec!["--metadata \"=x\"", "1 to 128"],
        ),
        (
            vec!["--interval", "1h", "--metadata", &long_key],
            vec!["--metadata", "1 to 128"],
        ),
        (
            vec!["--interval", "1h", "--metadata", &long_value],
            vec!["--metadata", "256"],
        ),
        (
            vec!["--interval", "1h", "--metadata", "k=a;b"],
            vec!["--metadata \"k=a;b\"", "letters"],
        ),
        (
            vec!["--interval", "1h", "--metadata", "k=1", "--metadata", "k=2"],
            vec!["--metadata", "\"k"],
        ),
        (
            vec!["--interval", "1h", "--metadata", "hypeman.scheduled=false"],
            vec!["--metadata \"hypeman.scheduled=false\""],
        ),
        (
            vec![
                "--interval",
                "1h",
                "--metadata",
                "hypeman.schedule_instance_id=x",
            ],
            vec!["--metadata \"hypeman.schedule_instance_id=x\""],
        ),
    ];
    let host = host();
    for (arguments, expected) in cases {
        host.run(&[&["set", ID][..], &arguments, &count].concat())
            .exits(2)
            .complains(&expected);
    }
    for (arguments, expected) in [
        (&["--max-count", "-1"][..], "--max-count \"-1\""),
        (&["--max-count", "0"], "--max-count"),
        (&["--max-count", "0", "--max-age", "0s"], "--max-age"),
        (&["--max-count", "many"], "--max-count"),
        (&["--max-count", "99999999999999999999"], "--max-count"),
        (&[], "--max-count"),
    ] {
        host.run(&[&["set", ID, "--interval", "1h"][..], arguments].concat())
            .exits(2)
            .complains(&[expected]);
    }
    host.run(&["set", ID, "--max-count", "1"])
        .exits(2)
        .complains(&["--interval"]);
    assert!(!host.state_dir().exists(), "nothing may be written");
}

#[test]
fn at_most_48_metadata_entries_leave_room_for_the_markers() {
    let host = host();
    let set = |entries: usize| {
        let mut command = host.command();
        command.args(["set", ID, "--interval", "1h", "--max-count", "1"]);
        for entry in 0..entries {
            command.arg("--metadata").arg(format!("k{entry}=v"));
        }
        said(&mut command)
    };
    set(49).exits(2).complains(&["--metadata", "48"]);
    assert!(!host.state_dir().exists());
    set(48).exits(0);
}
