//! QEMU's command line for a throw-away copy of a guest that may run beside it: of the recorded one only what is known to
//! reach nothing but the guest itself. Networks lead nowhere, what the guest says goes into files, nothing is shown, and a
//! file is written only where it is a copy. Everything else is refused by its name. Pure.

mod block;
mod known;
mod value;

use std::path::{Path, PathBuf};

use super::qemu::{chardevs_of_monitors, has_descriptor, option};
use super::{IsSame, Moved, Unlaunchable};
use block::Blocks;
use value::Value;

/// What QEMU gives a guest that asks for no amount, in MiB (qemu(1), `-m`).
const DEFAULT_MIB: u64 = 128;

/// What is to be started.
#[derive(Clone, Copy)]
pub struct Copied<'a> {
    /// The directory of its own files.
    pub own: &'a Path,
    /// Where its monitor is made.
    pub monitor: &'a Path,
    /// Where its disks are.
    pub disks: &'a [Moved],
    /// Whether a path as it was typed means the disk that was at the other one.
    pub is_same: IsSame<'a>,
    /// Whether each of them is a qcow2 image of what changes, over the snapshot's own file, which is passed as a descriptor:
    /// see [`fd_of`].
    pub has_overlays: bool,
    /// Whether it goes on from memory, which it reads from its standard input.
    pub has_memory: bool,
    /// A number that no other guest's vsock has.
    pub cid: u32,
}

/// The number of the descriptor that QEMU has the snapshot's file of a disk by, counted from 0. It is the number of a set
/// of descriptors, too.
pub const fn fd_of(disk: usize) -> usize {
    // The first three are standard input and output.
    3 + disk
}

/// What an image refers to for unchanged data, if that is the file of such a descriptor.
pub fn backing_of(disk: usize) -> String {
    format!("/dev/fdset/{}", fd_of(disk))
}

/// How it is started.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// The command line, without the program's name.
    pub arguments: Vec<String>,
    /// The files that the guest's words go to.
    pub consoles: Vec<PathBuf>,
    /// Taps that it expects, in a network of its own.
    pub taps: Vec<Tap>,
    /// How much memory the guest has, in bytes.
    pub memory_bytes: u64,
}

/// A tap interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// Whether it has several queues.
    pub is_multi_queue: bool,
}

/// The command line of a copy that may run beside the guest that it was recorded of.
///
/// # Errors
/// When something in it is not known to be harmless.
pub fn arguments(recorded: &[String], copied: &Copied<'_>) -> Result<Started, Unlaunchable> {
    let Some((_, recorded)) = recorded.split_first() else {
        return Err(Unlaunchable::NoCommandLine);
    };
    let mut made = Making {
        copied,
        blocks: Blocks::new(copied.disks, copied.is_same, copied.has_overlays),
        monitors: chardevs_of_monitors(recorded),
        started: Started::default(),
        refused: Vec::new(),
        dropped: Vec::new(),
        backends: 0,
        serials: 0,
        has_defaults: true,
    };
    let mut words = recorded.iter();
    while let Some(word) = words.next() {
        let Some(name) = option(word) else {
            made.disk("hda", word, word);
            continue;
        };
        if known::ALONE.contains(&name) {
            made.has_defaults &= name != "nodefaults";
            made.started.arguments.push(word.clone());
        } else if !known::ALONE_DROPPED.contains(&name) {
            match words.next() {
                Some(value) => made.option(name, word, value),
                None => made.refused.push(word.clone()),
            }
        }
    }
    made.finish()
}

struct Making<'a> {
    copied: &'a Copied<'a>,
    blocks: Blocks<'a>,
    monitors: Vec<String>,
    started: Started,
    refused: Vec<String>,
    /// The ids of objects that went.
    dropped: Vec<String>,
    /// The memory of all memory backends, in bytes.
    backends: u64,
    serials: usize,
    has_defaults: bool,
}

impl Making<'_> {
    fn push(&mut self, option: &str, value: String) {
        self.started.arguments.push(format!("-{option}"));
        self.started.arguments.push(value);
    }

    fn refuse(&mut self, word: &str, value: &str) {
        self.refused.push(format!("{word} {value}"));
    }

    fn option(&mut self, name: &str, word: &str, value: &str) {
        match name {
            "m" => {
                let size = Value::parse(value, "size");
                let bytes = size.get("size").and_then(|size| bytes(&size, 20));
                self.started.memory_bytes = bytes.unwrap_or(DEFAULT_MIB << 20);
                self.push(name, value.to_owned());
            }
            "chardev" => self.chardev(word, value),
            "serial" | "parallel" | "debugcon" => self.line(name, word, value),
            "netdev" | "nic" | "net" => self.network(name, word, value),
            "device" => self.device(word, value),
            "object" => self.object(word, value),
            "drive" | "blockdev" => {
                let made = if name == "drive" {
                    self.blocks.drive(value)
                } else {
                    self.blocks.blockdev(value)
                };
                match made {
                    Ok(made) => self.push(name, made),
                    Err(why) => self.refused.push(format!("{word} {value} ({why})")),
                }
            }
            "audiodev" => {
                let id = Value::parse(value, "driver").get("id").unwrap_or_default();
                self.push(name, format!("none,id={}", id.replace(',', ",,")));
            }
            "spice" => {
                let socket = self.copied.own.join("spice.sock").display().to_string();
                let socket = socket.replace(',', ",,");
                self.push(name, format!("unix=on,addr={socket},disable-ticketing=on"));
            }
            "usbdevice" if ["tablet", "mouse", "keyboard"].contains(&value) => {
                self.push(name, value.to_owned());
            }
            _ if known::DISKS.contains(&name) => self.disk(name, word, value),
            _ if known::DROPPED.contains(&name) => {}
            _ if known::KEPT.contains(&name) && !has_descriptor(value) => {
                self.push(name, value.to_owned());
            }
            _ => self.refuse(word, value),
        }
    }

    /// A disk that is the whole value.
    fn disk(&mut self, name: &str, word: &str, value: &str) {
        match self.blocks.now(value) {
            Some(now) => self.push(name, now),
            None => self
                .refused
                .push(format!("{word} {value} (it is not in the snapshot)")),
        }
    }

    /// A new file for what the guest says.
    fn console(&mut self) -> String {
        let number = self.started.consoles.len();
        let path = self.copied.own.join(format!("console-{number}.log"));
        let text = path.display().to_string().replace(',', ",,");
        self.started.consoles.push(path);
        text
    }

    fn chardev(&mut self, word: &str, value: &str) {
        let Some(id) = Value::parse(value, "backend").get("id") else {
            return self.refuse(word, value);
        };
        if self.monitors.contains(&id) {
            return;
        }
        let path = self.console();
        self.push(
            "chardev",
            format!("file,id={},path={path}", id.replace(',', ",,")),
        );
    }

    /// A serial line and its like.
    fn line(&mut self, name: &str, word: &str, value: &str) {
        self.serials += usize::from(name == "serial");
        let kind = value.split([':', ',']).next().unwrap_or_default();
        match kind {
            "none" | "null" => self.push(name, value.to_owned()),
            "chardev" => {
                let id = value.split_once(':').map_or("", |(_, id)| id);
                if self.monitors.iter().any(|it| it == id) {
                    // It was shared with a monitor.
                    let path = self.console();
                    self.push(name, format!("file:{path}"));
                } else {
                    self.push(name, value.to_owned());
                }
            }
            "braille" | "msmouse" | "wctablet" => self.refuse(word, value),
            _ => {
                let path = self.console();
                self.push(name, format!("file:{path}"));
            }
        }
    }

    fn network(&mut self, name: &str, word: &str, value: &str) {
        let mut parts = Value::parse(value, "type");
        let kind = parts.get("type").unwrap_or_default();
        match kind.as_str() {
            "none" => {}
            "nic" if name == "net" && !has_descriptor(value) => {}
            "user" => {
                parts.keep(|key| known::USER_NET_KEYS.contains(&key));
                parts.set("restrict", "on");
            }
            "tap" | "bridge" => {
                let queues = queues(&parts);
                parts.keep(|key| known::NET_KEYS.contains(&key) && key != "queues");
                let tap = Tap {
                    name: format!("rehearsal{}", self.started.taps.len()),
                    is_multi_queue: queues > 1,
                };
                parts.set("type", "tap");
                parts.set("ifname", &tap.name);
                parts.set("script", "no");
                parts.set("downscript", "no");
                if tap.is_multi_queue {
                    parts.set("queues", &queues.to_string());
                }
                self.started.taps.push(tap);
            }
            // They lead nowhere from a hub with one port.
            "hubport" | "socket" | "stream" | "dgram" | "l2tpv3" | "vde" if name == "netdev" => {
                parts.keep(|key| key == "id" || key == "type");
                parts.set("type", "hubport");
                let hub = 1000 + self.started.arguments.len();
                parts.set("hubid", &hub.to_string());
            }
            _ => return self.refuse(word, value),
        }
        self.push(name, parts.text("type"));
    }

    fn device(&mut self, word: &str, value: &str) {
        let mut parts = Value::parse(value, "driver");
        let driver = parts.get("driver").unwrap_or_default();
        if !known::is_device(&driver) || has_descriptor(value) {
            return self.refuse(word, value);
        }
        if driver.starts_with("vhost-vsock") {
            parts.set("guest-cid", &self.copied.cid.to_string());
        }
        // A machine with such a line of its own has none by default.
        self.serials += usize::from(driver == "isa-serial");
        self.push("device", parts.text("driver"));
    }

    fn object(&mut self, word: &str, value: &str) {
        let mut parts = Value::parse(value, "qom-type");
        let kind = parts.get("qom-type").unwrap_or_default();
        let id = parts.get("id").unwrap_or_default();
        if known::OBJECTS_DROPPED.contains(&kind.as_str()) {
            self.dropped.push(id);
            return;
        }
        if kind.starts_with("memory-backend-") {
            let size = parts.get("size").and_then(|size| bytes(&size, 0));
            self.backends = self.backends.saturating_add(size.unwrap_or(0));
        }
        match kind.as_str() {
            "memory-backend-file" | "memory-backend-memfd" => {
                parts.keep(|key| known::MEMORY_KEYS.contains(&key));
                parts.set("qom-type", "memory-backend-ram");
            }
            "rng-random" => {
                parts.keep(|key| key == "qom-type" || key == "id");
                parts.set("qom-type", "rng-builtin");
            }
            _ if known::OBJECTS.contains(&kind.as_str()) && !has_descriptor(value) => {}
            _ => return self.refuse(word, value),
        }
        self.push("object", parts.text("qom-type"));
    }

    fn finish(mut self) -> Result<Started, Unlaunchable> {
        if self.has_defaults && self.serials == 0 {
            // Such a machine has a serial line anyway.
            let path = self.console();
            self.push("serial", format!("file:{path}"));
        }
        let uses = |word: &String, id: &String| {
            let ends = |rest: &str| rest.is_empty() || rest.starts_with(',');
            let in_fields = word
                .match_indices(&format!("={id}"))
                .any(|(at, found)| word.get(at + found.len()..).is_some_and(ends));
            in_fields || word.contains(&format!("\"{id}\""))
        };
        let ids = self.dropped.iter().filter(|id| !id.is_empty());
        let used = ids.filter(|id| self.started.arguments.iter().any(|word| uses(word, id)));
        let used: Vec<String> = used.map(|id| format!("the secret {id}")).collect();
        self.refused.extend(used);
        if !self.refused.is_empty() {
            return Err(Unlaunchable::Unknown(self.refused));
        }
        let unformatted = self.blocks.unformatted();
        if !unformatted.is_empty() {
            return Err(Unlaunchable::Unknown(unformatted));
        }
        self.blocks.finish()?;
        let mut started = self.started;
        if self.copied.has_overlays {
            for disk in 0..self.copied.disks.len() {
                let fd = fd_of(disk);
                started.arguments.push("-add-fd".to_owned());
                started.arguments.push(format!("fd={fd},set={fd}"));
            }
        }
        started.memory_bytes = started
            .memory_bytes
            .max(DEFAULT_MIB << 20)
            .max(self.backends);
        let monitor = self.copied.monitor.display().to_string().replace(',', ",,");
        let end = ["-display", "none", "-monitor", "none", "-qmp"];
        started.arguments.extend(end.map(str::to_owned));
        started
            .arguments
            .push(format!("unix:{monitor},server=on,wait=off"));
        started.arguments.push("-S".to_owned());
        if self.copied.has_memory {
            started
                .arguments
                .extend(["-incoming", "defer"].map(str::to_owned));
        }
        Ok(started)
    }
}

/// How many queues a network backend has.
fn queues(parts: &Value) -> usize {
    let count = parts.get("queues").and_then(|text| text.parse().ok());
    let passed = parts.get("fds").map(|fds| fds.split(':').count());
    count.or(passed).unwrap_or(1)
}

/// A size as QEMU takes it, whose number alone has the unit 2 to the power of `unit`.
fn bytes(text: &str, unit: u32) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let shift = match text.get(digits.len()..)?.chars().next() {
        None => unit,
        Some('b' | 'B') => 0,
        Some('k' | 'K') => 10,
        Some('m' | 'M') => 20,
        Some('g' | 'G') => 30,
        Some('t' | 'T') => 40,
        Some(_) => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests;
