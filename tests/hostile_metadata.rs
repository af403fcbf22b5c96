//! The files of a guest's directory are the guest's word: what is in them costs neither the tool's memory nor the other
//! guests their snapshots.

#![cfg(test)]

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::cli::Host;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
/// What the tool may take, in KiB: as much as it takes anyway, and a multiple of what such a file is long.
const LIMIT_KIB: u32 = 64 << 10;

#[test]
fn metadata_of_very_many_values_takes_no_memory() {
    for unit in ["{\"\":0}", "[[[]]]", "0", "\"\""] {
        let host = Host::new(TOOL);
        for id in ["bad", "good"] {
            host.add_instance(id, id);
            host.run(&["set", id, "--interval", "1h", "--max-count", "3"])
                .exits(0);
        }
        let path = host.data_dir().join("guests/bad/metadata.json");
        let mut metadata = fs::read_to_string(&path).unwrap();
        metadata.truncate(metadata.trim_end().len() - 1);
        let times = ((1 << 20) - metadata.len() - 20) / (unit.len() + 1);
        let junk = vec![unit; times].join(",");
        fs::write(&path, format!("{metadata},\"Junk\":[{junk}]}}")).unwrap();

        let tool = host.std_command();
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                &format!("ulimit -d {LIMIT_KIB} && exec \"$@\""),
                "sh",
                TOOL,
            ])
            .args(tool.get_args())
            .args(["-o", "json", "run-due", "--force"]);
        for (name, value) in tool.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{unit}: {stderr}");
        assert!(stderr.contains("more values"), "{unit}: {stderr}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let good = &report["results"][1];
        assert_eq!(good["outcome"], "snapshotted", "{unit}: {report}");
    }
}
