//! Instances: ids, states, hypervisors, and how a reference on the command line finds one. Pure: no I/O, no clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest instance id that is accepted, in bytes: with `.lock` or `.json` behind it, it must still be a file name.
const ID_MAX_BYTES: usize = 200;

/// An instance's id: one plain path component, so that it can name files under the state and data directories.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

/// Why a string is no instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instance id {id:?} {rule}")]
pub struct InvalidInstanceId {
    id: String,
    rule: &'static str,
}

impl InstanceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = InvalidInstanceId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        let rule = if id.is_empty() {
            "is empty"
        } else if id.len() > ID_MAX_BYTES {
            "is longer than 200 bytes"
        } else if id.starts_with('.') {
            "starts with a dot, but must be a plain file name"
        } else if id.starts_with('-') {
            "starts with a dash, but must not look like a flag"
        } else if id.contains('/') || id.contains('\\') {
            "contains a path separator, but must be one path component"
        } else if id.chars().any(|c| c.is_control() || c.is_whitespace()) {
            "contains white space or a control character"
        } else {
            return Ok(Self(id.to_owned()));
        };
        Err(InvalidInstanceId {
            id: id.to_owned(),
            rule,
        })
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidInstanceId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        id.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An instance's state, as hypeman names it (contract, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Configured, its VMM has not started the guest.
    Created,
    /// The VMM runs, the guest has not reported that it is ready.
    Initializing,
    /// The guest runs.
    Running,
    /// The guest's processors are stopped and its VMM is there.
    Paused,
    /// The guest has shut down and its VMM is still there.
    Shutdown,
    /// No VMM, no saved state.
    Stopped,
    /// No VMM, but saved memory and device state in the guest directory.
    Standby,
    /// The VMM's socket is there and nobody answers as expected.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "Created",
            Self::Initializing => "Initializing",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Shutdown => "Shutdown",
            Self::Stopped => "Stopped",
            Self::Standby => "Standby",
            Self::Unknown => "Unknown",
        })
    }
}

/// The VMM that runs an instance, spelled as in hypeman's files (contract, section 3). That of macOS, `vz`, is none of
/// them: this tool runs on Linux.
#[expect(
    clippy::enum_variant_names,
    reason = "Cloud Hypervisor is a product's name"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypervisor {
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
    /// QEMU with its `microvm` machine.
    QemuMicrovm,
}

/// Why a string names no hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hypervisor {0:?} is none of cloud-hypervisor, firecracker, qemu, qemu-microvm")]
pub struct UnknownHypervisor(String);

impl Hypervisor {
    /// All that there are.
    pub const ALL: [Self; 4] = [
        Self::CloudHypervisor,
        Self::Firecracker,
        Self::Qemu,
        Self::QemuMicrovm,
    ];

    /// The name in hypeman's files and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
            Self::QemuMicrovm => "qemu-microvm",
        }
    }
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Hypervisor {
    type Err = UnknownHypervisor;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|hypervisor| hypervisor.as_str() == name)
            .ok_or_else(|| UnknownHypervisor(name.to_owned()))
    }
}

/// What is known of an instance without asking its VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    /// Its id.
    pub id: InstanceId,
    /// Its name; not always unique.
    pub name: String,
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_full(&self.name, self.id.as_str()))
    }
}

/// `name (id)`, or the id alone where there is no other name.
pub fn in_full(name: &str, id: &str) -> String {
    if name.is_empty() || name == id {
        id.to_owned()
    } else {
        format!("{name} ({id})")
    }
}

/// An instance and its state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// Its state when the engine looked.
    pub state: State,
    /// What the engine can say about that state, such as why it is unknown.
    pub state_note: Option<String>,
}

/// Whether an instance is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence<I, E> {
    /// It is, and this is known of it.
    Here(I),
    /// It positively is not.
    Gone,
    /// That can't be told, and why: it may be there.
    Unknown(E),
}

impl<I, E> Presence<I, E> {
    /// Whether it positively is not there.
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }

    /// What is known of it; `None` when it is gone.
    ///
    /// # Errors
    /// Why it can't be told whether it is there.
    pub fn found(self) -> Result<Option<I>, E> {
        match self {
            Self::Here(instance) => Ok(Some(instance)),
            Self::Gone => Ok(None),
            Self::Unknown(error) => Err(error),
        }
    }
}

impl<I, E> From<Result<Option<I>, E>> for Presence<I, E> {
    fn from(found: Result<Option<I>, E>) -> Self {
        match found {
            Ok(Some(instance)) => Self::Here(instance),
            Ok(None) => Self::Gone,
            Err(error) => Self::Unknown(error),
        }
    }
}

/// Why a reference names no single instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nothing matches.
    #[error("no instance has the id, the name or the id prefix {0:?}")]
    NotFound(String),
    /// Several match: listed as `name (id)`.
    #[error("{reference:?} is ambiguous: it matches {}", matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// The instances that match, each as `name (id)`.
        matches: Vec<String>,
    },
}

/// Finds the instance that `reference` means: an exact id, else an exact name, else a unique prefix of an id.
///
/// # Errors
/// When nothing matches, or when the first rule that matches anything matches several.
pub fn resolve<'a>(
    reference: &str,
    candidates: &'a [InstanceRef],
) -> Result<&'a InstanceRef, ResolveError> {
    let names = |it: &'a InstanceRef| (it.id.as_str(), it.name.as_str());
    match matching(reference, candidates, names).as_slice() {
        [] => Err(ResolveError::NotFound(reference.to_owned())),
        [one] => Ok(one),
        several => Err(ResolveError::Ambiguous {
            reference: reference.to_owned(),
            matches: several.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// What `reference` means among candidates with an id and a name each: those with that id, else those with that name,
/// else those whose id begins so.
pub fn matching<'a, T>(
    reference: &str,
    candidates: &'a [T],
    names: impl Fn(&'a T) -> (&'a str, &'a str),
) -> Vec<&'a T> {
    if reference.is_empty() {
        return Vec::new();
    }
    let rules: [fn(&str, &str, &str) -> bool; 3] = [
        |reference, id, _| id == reference,
        |reference, _, name| name == reference,
        |reference, id, _| id.starts_with(reference),
    ];
    rules
        .into_iter()
        .map(|rule| {
            let is_meant = |it: &&'a T| {
                let (id, name) = names(it);
                rule(reference, id, name)
            };
            candidates.iter().filter(is_meant).collect::<Vec<_>>()
        })
        .find(|matches| !matches.is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(pairs: &[(&str, &str)]) -> Vec<InstanceRef> {
        pairs
            .iter()
            .map(|(id, name)| InstanceRef {
                id: id.parse().unwrap(),
                name: (*name).to_owned(),
            })
            .collect()
    }

    #[test]
    fn id_wins_over_name_and_name_over_prefix() {
        let all = instances(&[("abc", "web"), ("web", "other"), ("webber", "abc")]);
        assert_eq!(resolve("web", &all).unwrap().id.as_str(), "web");
        assert_eq!(resolve("abc", &all).unwrap().id.as_str(), "abc");
        assert_eq!(resolve("other", &all).unwrap().id.as_str(), "web");
        assert_eq!(resolve("webb", &all).unwrap().id.as_str(), "webber");
    }

    #[test]
    fn ambiguous_reference_lists_its_matches() {
        let all = instances(&[("abc1", "web"), ("abc2", "web")]);
        let by_name = resolve("web", &all).unwrap_err().to_string();
        let by_prefix = resolve("abc", &all).unwrap_err().to_string();
        for message in [by_name, by_prefix] {
            assert!(
                message.contains("web (abc1)") && message.contains("web (abc2)"),
                "{message}"
            );
        }
    }

    #[test]
    fn empty_reference_matches_nothing() {
        let all = instances(&[("abc", "")]);
        assert!(matches!(resolve("", &all), Err(ResolveError::NotFound(_))));
    }

    #[test]
    fn ids_are_one_plain_path_component() {
        for bad in [
            "", ".", "..", ".x", "a/b", "/a", "a\\b", "-x", "a b", "a\nb", "a\0b",
        ] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(201).parse::<InstanceId>().is_err());
        for good in ["mk3v9t0xq2r7w5d8h1c6b4za", "web-1", "a.b_c", "ä"] {
            assert!(good.parse::<InstanceId>().is_ok(), "{good:?}");
        }
    }
}
