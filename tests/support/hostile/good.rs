//! The scripts of VMMs that behave well, as far as the tool asks anything of them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Act, Program, Script, command, text};

impl Script {
    /// A QEMU 9.2 with these disks.
    pub fn qemu(disks: &[PathBuf]) -> Self {
        let drives: Vec<Value> = disks.iter().enumerate().map(drive).collect();
        let jobs = (0..disks.len()).map(|number| {
            json!({
                "id": format!("hypeman-snap-copy{number}"), "type": "backup", "status": "concluded",
                "current-progress": 1, "total-progress": 1,
            })
        });
        let jobs = Value::from(jobs.collect::<Vec<_>>()).to_string();
        let capabilities = json!([
            {"capability": "events", "state": false},
            {"capability": "background-snapshot", "state": "%{background}"},
        ]);
        let capabilities = capabilities
            .to_string()
            .replace("\"%{background}\"", "%{background}");
        let nothing = Act::Return(json!({}));
        let mut script = Self::mute(Program::Qemu)
            .greets_as(9, 2)
            .set("state", "running")
            .set("migration", "none")
            .set("background", "false")
            .set("jobs", "[]");
        for disk in disks {
            script = script.hold(disk, true);
        }
        let returns = |script: Self, name: &str, value: Value| {
            script.otherwise(("", ""), &[&command(name)], &[Act::Return(value)])
        };
        for (name, value) in [
            ("query-block", Value::from(drives)),
            ("qom-list", json!([])),
            ("human-monitor-command", json!("")),
            ("query-memdev", json!([])),
            ("query-named-block-nodes", json!([])),
            ("query-fdsets", json!([])),
            (
                "query-migrate-parameters",
                json!({"max-bandwidth": 134_217_728}),
            ),
            ("query-memory-size-summary", json!({"base-memory": 1 << 20})),
            ("add-fd", json!({"fdset-id": 1, "fd": 9})),
        ] {
            script = returns(script, name, value);
        }
        script
            .otherwise(
                ("", ""),
                &[&command("query-status")],
                &[sends(r#"{"return": {"status": "%{state}"}, "id": %{id}}"#)],
            )
            .otherwise(
                ("", ""),
                &[&command("query-jobs")],
                &[sends(r#"{"return": %{jobs}, "id": %{id}}"#)],
            )
            .otherwise(
                ("", ""),
                &[&command("query-migrate")],
                &[sends(
                    r#"{"return": {"status": "%{migration}", "ram": {"normal": 7, "duplicate": 1, "transferred": 99, "remaining": 0}}, "id": %{id}}"#,
                )],
            )
            .otherwise(
                ("", ""),
                &[&command("query-migrate-capabilities")],
                &[sends(&format!(
                    "{{\"return\": {capabilities}, \"id\": %{{id}}}}"
                ))],
            )
            .otherwise(
                ("", ""),
                &[
                    &command("migrate-set-capabilities"),
                    r#""capability":"background-snapshot","state":true"#,
                ],
                &[
                    Act::Set("background".to_owned(), "true".to_owned()),
                    nothing.clone(),
                ],
            )
            .otherwise(
                ("", ""),
                &[&command("migrate-set-capabilities")],
                &[
                    Act::Set("background".to_owned(), "false".to_owned()),
                    nothing.clone(),
                ],
            )
            .otherwise(
                ("", ""),
                &[&command("stop")],
                &[state("paused"), Act::Event("STOP"), nothing.clone()],
            )
            .otherwise(
                ("", ""),
                &[&command("cont")],
                &[state("running"), Act::Event("RESUME"), nothing.clone()],
            )
            .otherwise(
                ("", ""),
                &[&command("transaction")],
                &[Act::Set("jobs".to_owned(), jobs), nothing.clone()],
            )
            .otherwise(
                ("", ""),
                &[&command("job-dismiss")],
                &[
                    Act::Set("jobs".to_owned(), "[]".to_owned()),
                    nothing.clone(),
                ],
            )
            .otherwise(
                ("", ""),
                &[&command("getfd")],
                &[Act::Take("memory"), nothing.clone()],
            )
            .otherwise(
                ("", ""),
                &["\"execute\":\"migrate\""],
                &[
                    Act::Write("memory", 0, "the guest's memory".to_owned()),
                    Act::Drop("memory"),
                    Act::Set("migration".to_owned(), "completed".to_owned()),
                    nothing.clone(),
                ],
            )
            .otherwise(("", ""), &["\"execute\":"], &[nothing])
    }

    /// A Firecracker 1.13 with these disks.
    pub fn firecracker(disks: &[PathBuf]) -> Self {
        let drives: Vec<Value> = disks
            .iter()
            .enumerate()
            .map(|(number, path)| {
                json!({"drive_id": format!("drive{number}"), "path_on_host": path, "is_read_only": false})
            })
            .collect();
        let config = json!({"drives": drives, "machine-config": {"mem_size_mib": 1}});
        let mut script = Self::mute(Program::Firecracker).set("state", "Running");
        for disk in disks {
            script = script.hold(disk, true);
        }
        script
            .http("GET / ", 200, r#"{"state": "%{state}"}"#)
            .http("GET /version ", 200, r#"{"firecracker_version": "1.13.0"}"#)
            .http("GET /vm/config ", 200, &config.to_string())
            .http(
                "{\"sync_snapshot_files\":false}",
                400,
                r#"{"fault_message": "unknown field `sync_snapshot_files`, expected one of `snapshot_type`"}"#,
            )
            .otherwise(
                ("", ""),
                &["PATCH /vm ", "Paused"],
                &[state("Paused"), no_content()],
            )
            .otherwise(
                ("", ""),
                &["PATCH /vm ", "Resumed"],
                &[state("Running"), no_content()],
            )
            .otherwise(
                ("", ""),
                &["PUT /snapshot/create ", "mem_file_path"],
                &[
                    Act::Open("state", "snapshot_path", ""),
                    Act::Write("state", 0, "the devices' state".to_owned()),
                    Act::Drop("state"),
                    Act::Open("memory", "mem_file_path", ""),
                    Act::Write("memory", 0, "the guest's memory".to_owned()),
                    Act::Drop("memory"),
                    no_content(),
                ],
            )
    }

    /// A Cloud Hypervisor 48 with these disks.
    pub fn cloud_hypervisor(disks: &[PathBuf]) -> Self {
        let configs: Vec<Value> = disks
            .iter()
            .enumerate()
            .map(|(number, path)| {
                json!({"id": format!("_disk{number}"), "path": path, "readonly": false, "image_type": "Raw"})
            })
            .collect();
        let config = json!({"memory": {"size": 1 << 20}, "disks": configs});
        let info = format!(
            "{{\"state\": \"%{{state}}\", \"memory_actual_size\": 1048576, \"config\": {config}}}"
        );
        let mut script = Self::mute(Program::CloudHypervisor).set("state", "Running");
        for disk in disks {
            script = script.hold(disk, true);
        }
        let mut save = Vec::new();
        for name in ["config.json", "state.json", "memory-ranges"] {
            save.push(Act::Open(name, "destination_url", name));
            save.push(Act::Write(name, 0, "{\"saved\": true}".to_owned()));
            save.push(Act::Drop(name));
        }
        save.push(no_content());
        script
            .http("GET /api/v1/vm.info ", 200, &info)
            .http("GET /api/v1/vmm.ping ", 200, r#"{"version": "48.0.0"}"#)
            .otherwise(
                ("", ""),
                &["PUT /api/v1/vm.pause "],
                &[state("Paused"), no_content()],
            )
            .otherwise(
                ("", ""),
                &["PUT /api/v1/vm.resume "],
                &[state("Running"), no_content()],
            )
            .otherwise(("", ""), &["PUT /api/v1/vm.snapshot "], &save)
    }

    /// A QEMU of another version.
    #[must_use]
    pub fn greets_as(mut self, major: u32, minor: u32) -> Self {
        let version = json!({"qemu": {"major": major, "minor": minor, "micro": 0}, "package": ""});
        let greeting = json!({"QMP": {"version": version, "capabilities": []}});
        super::script::line(&mut self.head, &["qmp", &format!("{greeting}\r\n")]);
        self
    }

    fn http(self, needle: &str, status: u16, body: &str) -> Self {
        self.otherwise(("", ""), &[needle], &[Act::Http(status, body.to_owned())])
    }
}

/// An entry of `query-block`.
pub fn drive((number, path): (usize, &PathBuf)) -> Value {
    let length = path.metadata().map_or(0, |disk| disk.len());
    json!({
        "device": format!("drive{number}"),
        "inserted": {
            "node-name": format!("node{number}"), "drv": "raw", "ro": false, "file": text(path),
            "image": {
                "filename": text(path), "format": "raw", "virtual-size": length, "actual-size": length,
            },
        },
    })
}

fn state(value: &str) -> Act {
    Act::Set("state".to_owned(), value.to_owned())
}

fn sends(line: &str) -> Act {
    Act::Send(format!("{line}\r\n"))
}

fn no_content() -> Act {
    Act::Http(204, String::new())
}
