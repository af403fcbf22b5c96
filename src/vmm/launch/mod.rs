//! How a VMM is started from a snapshot: command lines and requests, made from what was recorded at capture. Pure.

pub mod cloud_hypervisor;
pub mod firecracker;
pub mod qemu;
pub mod rehearsal;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A disk, where it was and where it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Where the VMM had it.
    pub from: PathBuf,
    /// Where its copy is.
    pub to: PathBuf,
}

/// Whether a path as it was typed means the disk that was at the other one.
pub type IsSame<'a> = &'a dyn Fn(&str, &Path) -> bool;

/// Something that the VMM's API is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How.
    pub method: Method,
    /// For what.
    pub path: String,
    /// With what, if anything.
    pub body: Option<Value>,
}

/// How an API is asked to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Make it so.
    Put,
    /// Change this of it.
    Patch,
}

impl Method {
    /// Its name in HTTP.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

impl Request {
    fn new(method: Method, path: &str, body: Option<Value>) -> Self {
        Self {
            method,
            path: path.to_owned(),
            body,
        }
    }
}

/// Why what was recorded can't start a copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unlaunchable {
    /// It says nothing.
    #[error("its command line was not recorded")]
    NoCommandLine,
    /// What it was given can't be given again.
    #[error("{0:?} hands the VMM an open file of whoever started it, such as libvirt")]
    Descriptor(String),
    /// A disk that nothing names, such as one that was plugged in later.
    #[error("what it was started with does not name the disk {}: it was plugged in later, or is written in a way that is not known", .0.display())]
    UnnamedDisk(PathBuf),
    /// How the guest was configured is not known.
    #[error("how its guest was configured was not recorded")]
    NoConfiguration,
    /// A device that lives in another process.
    #[error("its {0} is served by another process, and a copy would need one of its own")]
    Elsewhere(String),
    /// A path that can't be written where it must be.
    #[error("Cloud Hypervisor can't be given the path {}: it has a comma, a quote or a bracket; name another directory", .0.display())]
    AwkwardPath(PathBuf),
    /// A disk that Firecracker can't be told the new place of.
    #[error("Firecracker can't be told that its {0} is elsewhere now")]
    Immovable(String),
    /// Options that may reach something besides the guest.
    #[error("a copy beside it can't have what reaches beyond the guest, or is not known: {}", .0.join(", "))]
    Unknown(Vec<String>),
    /// Memory that is not loaded from a file.
    #[error("its memory is of huge pages, which Firecracker does not load from a file")]
    HugePages,
}

/// Parts a command line, without its program, into options and what belongs to each, written `--option value` or
/// `--option=value`, as both VMMs with an API take it.
fn options(recorded: &[String]) -> Result<Vec<(&str, Option<&str>)>, Unlaunchable> {
    let Some((_, recorded)) = recorded.split_first() else {
        return Err(Unlaunchable::NoCommandLine);
    };
    let mut options = Vec::new();
    let mut words = recorded.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let whole = word.split_once('=').filter(|_| word.starts_with("--"));
        if let Some((name, value)) = whole {
            options.push((name, Some(value)));
        } else if word.starts_with('-') {
            options.push((word, words.next_if(|next| !next.starts_with('-'))));
        }
        // Anything else is another value of the option before, such as a second disk.
    }
    Ok(options)
}

/// The options that stay, as they were.
fn kept(options: &[(&str, Option<&str>)], names: &[&[&str]]) -> Vec<String> {
    let stays = |name: &str| names.iter().any(|some| some.contains(&name));
    let of = |(name, value): &(&str, Option<&str>)| {
        std::iter::once(*name)
            .chain(*value)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let staying = options.iter().filter(|(name, _)| stays(name));
    staying.flat_map(of).collect()
}

/// Disks that move, and which of them were met.
struct Moves<'a> {
    disks: &'a [Moved],
    is_same: IsSame<'a>,
    met: Vec<bool>,
}

impl<'a> Moves<'a> {
    fn new(disks: &'a [Moved], is_same: IsSame<'a>) -> Self {
        Self {
            disks,
            is_same,
            met: vec![false; disks.len()],
        }
    }

    /// Where the disk is now that is named like this.
    fn now(&mut self, typed: &str) -> Option<String> {
        let at = (self.disks.iter()).position(|disk| (self.is_same)(typed, &disk.from))?;
        if let Some(met) = self.met.get_mut(at) {
            *met = true;
        }
        (self.disks.get(at)).map(|disk| disk.to.display().to_string())
    }

    /// Puts the new place into `value`, if it names a disk that moved.
    fn apply(&mut self, value: &mut Value) {
        if let Some(now) = value.as_str().and_then(|typed| self.now(typed)) {
            *value = Value::String(now);
        }
    }

    /// # Errors
    /// When a disk was not met.
    fn finish(self) -> Result<(), Unlaunchable> {
        let unmet = self.met.iter().zip(self.disks).find(|(met, _)| !**met);
        unmet.map_or(Ok(()), |(_, disk)| {
            Err(Unlaunchable::UnnamedDisk(disk.from.clone()))
        })
    }
}
