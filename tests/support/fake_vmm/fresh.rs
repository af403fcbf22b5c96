//! The fake as a program of its own, as a restore starts it: a VMM that has no guest until it is given one. It keeps a list
//! of what it was asked, and does wrong what its script says.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Dialect;
use super::wire::{read_request, send};

/// The variable with the script's directory, for [`serve_if_asked`].
const DIRECTORY: &str = "FRESH_VMM";
/// The variable with the arguments.
const ARGUMENTS: &str = "FRESH_VMM_ARGS";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing.
    Nothing,
    /// This request, as its method and path, is refused.
    Refuses(&'static str),
    /// It ends at this request, without an answer.
    Dies(&'static str),
    /// It says that the guest goes on, which stays paused.
    NeverRuns,
}

/// The program, as a file.
#[derive(Debug)]
pub struct Program {
    directory: PathBuf,
    file: PathBuf,
}

impl Program {
    /// Makes one in `directory`, which is there, of this version. `test` is the name of the test in the same file that
    /// calls [`serve_if_asked`].
    ///
    /// # Panics
    /// When it can't be written.
    pub fn new(
        directory: &Path,
        dialect: Dialect,
        version: &str,
        wrong: Wrong,
        test: &str,
    ) -> Self {
        let (name, said) = match dialect {
            Dialect::CloudHypervisor => ("cloud-hypervisor", "cloud-hypervisor v"),
            Dialect::Firecracker => ("firecracker", "Firecracker v"),
        };
        let wrong = match wrong {
            Wrong::Nothing => String::new(),
            Wrong::Refuses(request) => format!("refuses {request}"),
            Wrong::Dies(request) => format!("dies {request}"),
            Wrong::NeverRuns => "never runs".to_owned(),
        };
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text).expect("the fake's files");
        };
        write("dialect", name);
        write("wrong", &wrong);
        write("format", "v11.2.0\n");
        let us = std::env::current_exe().expect("this test");
        let file = directory.join(name);
        let script = format!(
            "#!/bin/sh\ncd '{0}' || exit\ncase \"$1\" in --version) echo '{said}{version}'; exit ;;\n\
             --snapshot-version) echo v11.2.0; exit ;;\n\
             --describe-snapshot) cat \"$2\" >/dev/null && cat format; exit ;;\nesac\n\
             {DIRECTORY}='{}' {ARGUMENTS}=\"$*\" exec '{}' --exact {test} --nocapture\n",
            directory.display(),
            us.display()
        );
        fs::write(&file, script).expect("the fake's program");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a program");
        Self {
            directory: directory.to_owned(),
            file,
        }
    }

    /// The program.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// From now on it says that saved states have this format, such as `v11.2.0`.
    ///
    /// # Panics
    /// When it can't be told.
    pub fn set_format(&self, format: &str) {
        fs::write(self.directory.join("format"), format).expect("the fake's files");
    }

    /// What it was asked to change, as method, path and body, in this order.
    pub fn asked(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("asked")).unwrap_or_default();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("a request in JSON"))
            .collect()
    }

    /// The process that it was last.
    pub fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.directory.join("pid")).ok()?;
        text.trim().parse().ok()
    }
}

/// Is the VMM, if this process was started as one; never returns then.
///
/// # Panics
/// When it was started in a way that no VMM understands.
pub fn serve_if_asked() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let arguments = std::env::var(ARGUMENTS).expect("arguments");
    let of = |option: &str| {
        let mut words = arguments.split(' ');
        words.find(|word| *word == option)?;
        words.next().map(str::to_owned)
    };
    fs::write(directory.join("pid"), std::process::id().to_string()).expect("a note");
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect("the fake's files");
    let is_firecracker = read("dialect") == "firecracker";
    let (dialect, socket) = if is_firecracker {
        (Dialect::Firecracker, of("--api-sock").expect("a socket"))
    } else {
        let socket = of("--api-socket").expect("a socket");
        let socket = socket.strip_prefix("path=").expect("a path").to_owned();
        (Dialect::CloudHypervisor, socket)
    };
    let mut vmm = Fresh {
        dialect,
        state: "Not started",
        wrong: read("wrong"),
        directory,
    };
    if let Some(source) = of("--restore") {
        vmm.restore(&source);
    }
    let listener =
        UnixListener::bind(&socket).unwrap_or_else(|error| fail(&format!("{socket}: {error}")));
    for connection in listener.incoming() {
        let mut connection = connection.expect("a connection");
        if let Some((line, body)) = read_request(&mut connection) {
            let answer = vmm.answer(&line, &body);
            send(&mut connection, dialect, &answer);
        }
    }
}

struct Fresh {
    dialect: Dialect,
    state: &'static str,
    wrong: String,
    directory: PathBuf,
}

impl Fresh {
    fn restore(&mut self, source: &str) {
        let source = source.strip_prefix("source_url=file://").map(Path::new);
        let source = source.unwrap_or_else(|| fail("no source"));
        let config =
            fs::read(source.join("config.json")).unwrap_or_else(|_| fail("no config.json"));
        let config: Value =
            serde_json::from_slice(&config).unwrap_or_else(|_| fail("no configuration"));
        for disk in config["disks"].as_array().into_iter().flatten() {
            let path = disk["path"].as_str().unwrap_or_default();
            if !Path::new(path).exists() {
                fail(&format!("no disk {path}"));
            }
        }
        self.state = "Paused";
    }

    fn answer(&mut self, line: &str, body: &Value) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap_or((line, ""));
        if method != "GET" {
            let asked = json!({"method": method, "path": path, "body": body});
            let log = self.directory.join("asked");
            let log = OpenOptions::new().create(true).append(true).open(log);
            writeln!(log.expect("a log"), "{asked}").expect("a log");
        }
        if self.wrong.strip_prefix("refuses ") == Some(line) {
            let text = "no such luck";
            return match self.dialect {
                Dialect::CloudHypervisor => (500, json!(["Error from API", text]).to_string()),
                Dialect::Firecracker => (400, json!({ "fault_message": text }).to_string()),
            };
        }
        if self.wrong.strip_prefix("dies ") == Some(line) {
            fail("a fatal error");
        }
        let before = self.state;
        self.state = match line {
            "GET /" | "GET /version" | "GET /api/v1/vmm.ping" => before,
            "GET /api/v1/vm.info" if before != "Not started" => before,
            "GET /api/v1/vm.info" => return (500, json!(["VM is not created"]).to_string()),
            "PUT /snapshot/load" if before == "Not started" => "Paused",
            "PUT /api/v1/vm.create" if before == "Not started" => "Created",
            "PUT /api/v1/vm.boot" if before == "Created" => "Running",
            "PUT /actions" if before == "Not started" => "Running",
            "PUT /api/v1/vm.resume" | "PATCH /vm" if before == "Paused" => match &*self.wrong {
                "never runs" => "Paused",
                _ => "Running",
            },
            _ if line.starts_with("PATCH /drives/") && before == "Paused" => before,
            _ if line.starts_with("PUT /") && before == "Not started" => before,
            _ => return (400, json!({"fault_message": "not now"}).to_string()),
        };
        if method != "GET" {
            return (204, String::new());
        }
        let version = match self.dialect {
            Dialect::CloudHypervisor => "54.0.0",
            Dialect::Firecracker => "1.17.0",
        };
        let body = json!({
            "state": self.state, "config": {}, "version": version, "firecracker_version": version,
        });
        (200, body.to_string())
    }
}

/// Ends as a VMM does that can't go on.
fn fail(why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "fake VMM: {why}");
    std::process::exit(1);
}
