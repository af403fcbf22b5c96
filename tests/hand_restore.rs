//! The restore by hand that hypeman-snap(5) shows, typed as it stands there, on a real QEMU: the guest goes on, and the
//! snapshot is what it was.

#![cfg(test)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};
use support::cli::Host;
use support::disk::DiskFormat;
use support::manual::{Example, examples};
use support::qemu::{TestVm, VmOptions};
use support::wait::{wait_for, wait_until};

/// A shell in which the example runs; its group of processes ends with it.
struct Shell {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Shell {
    fn start(script: &str) -> Self {
        let mut child = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut stdout, hears) = (child.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut some) {
                let text = String::from_utf8_lossy(&some[..count]);
                hears.lock().unwrap().push_str(&text);
            }
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Types a line at QEMU's prompt, again and again until the answer is as shown.
    fn type_line(&mut self, line: &str, shown: &[String]) {
        let mut stdin = self.child.stdin.take().unwrap();
        wait_for(
            line,
            || {
                let before = self.said().len();
                writeln!(stdin, "{line}").unwrap();
                wait_until("QEMU's prompt", || {
                    self.said()[before..].contains("\n(qemu) ")
                });
                let said = self.said()[before..].replace('\r', "");
                // The first line is QEMU's echo of what is typed.
                let answer: Vec<&str> = said
                    .lines()
                    .skip(1)
                    .filter(|line| !line.starts_with("(qemu) "))
                    .collect();
                (answer == shown).then_some(())
            },
            || self.said(),
        );
        self.child.stdin = Some(stdin);
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The one example of the page that restores.
fn example() -> Example {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/hypeman-snap.5"))
        .unwrap();
    let mut restores: Vec<Example> = examples(&page)
        .into_iter()
        .filter(|it| it.needs.as_deref() == Some("a snapshot of a running VM"))
        .collect();
    assert_eq!(restores.len(), 1, "{restores:?}");
    restores.remove(0)
}

/// Every file below `dir` with its content.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut all, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => all.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn restore_by_hand_works_as_the_manual_shows_it() {
    let host = Host::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    let options = VmOptions::new(host.dir());
    let disk = host.dir().join("db.raw");
    options.disk_format.create(&disk, options.disk_mib);
    let vm = TestVm::boot_from(&options, std::slice::from_ref(&disk));
    let socket = vm.socket().to_str().unwrap();
    let disk = disk.to_str().unwrap();
    host.run(&[
        "register",
        "db",
        "--hypervisor",
        "qemu",
        "--socket",
        socket,
        "--disk",
        disk,
    ])
    .exits(0);
    host.run(&["set", "db", "--interval", "1h", "--max-count", "2"])
        .exits(0);
    vm.wait_ticks_beyond(100);
    host.run(&["run-due", "--force"]).exits(0);
    vm.kill();
    let [snapshot] = &host.snapshots()[..] else {
        panic!("{:?}", host.snapshots());
    };
    let stored = host.data_dir().join("snapshots").join(snapshot);
    let before = content(&stored);
    let saved = DiskFormat::Raw.counter(&stored.join("guest/disks/0-db.raw"));
    assert!(saved > 100, "the disk holds {saved}");

    let example = example();
    let serial = host.dir().join("serial");
    let mut others = options.command_line();
    others.extend([
        "-chardev".to_owned(),
        format!("file,id=serial,path={}", serial.display()),
        "-chardev".to_owned(),
        "null,id=commands".to_owned(),
    ]);
    let others: Vec<String> = others.iter().map(|word| format!("'{word}'")).collect();
    let script = example
        .script
        .replace("SNAPSHOT", snapshot)
        .replace(" ... ", &format!(" {} ", others.join(" ")))
        .replace("/var/lib/hypeman", host.data_dir().to_str().unwrap())
        .replace("/srv/vms", host.dir().to_str().unwrap());
    let mut shell = Shell::start(&script);
    wait_until("QEMU's prompt", || shell.said().contains("(qemu) "));
    assert_eq!(
        fs::read_to_string(&serial).unwrap(),
        "",
        "it runs before cont"
    );
    for (line, answer) in &example.prompted {
        shell.type_line(line, answer);
    }
    let ticks = || -> Vec<u64> {
        let said = fs::read_to_string(&serial).unwrap();
        assert!(!said.contains("TORN"), "{said}");
        said.lines()
            .filter_map(|line| line.strip_prefix("tick ")?.trim().parse().ok())
            .collect()
    };
    wait_until("the restored guest", || {
        ticks().last().is_some_and(|last| *last > saved + 100)
    });
    assert!(ticks()[0] <= saved + 20, "{:?} after {saved}", ticks());
    let copy = host.dir().join("db-restored.raw");
    wait_until("writing to the copied disk", || {
        DiskFormat::Raw.counter(&copy) > saved
    });
    drop(shell);
    assert!(before == content(&stored), "the stored snapshot changed");
}
