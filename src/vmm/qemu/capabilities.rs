//! QEMU's migration capabilities: switches that somebody may have left on and that change what a save is. Only
//! [`BACKGROUND`] is wanted for one; the others are off while it goes on, and then as they were.

use serde::Deserialize;
use serde_json::json;

use super::super::bounded::AtMost;
use super::super::{Tuning, VmmError};
use super::qmp::Qmp;

/// Saves memory while the guest runs, by write protection of its pages.
const BACKGROUND: &str = "background-snapshot";
/// Reports the steps of a migration, and changes none.
const EVENTS: &str = "events";
/// More than any QEMU knows (24 in 10.0).
const MAX: usize = 256;

/// An entry of `query-migrate-capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Capability {
    capability: String,
    state: bool,
}

/// How all capabilities stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capabilities(AtMost<MAX, Capability>);

impl Capabilities {
    /// How they stand now.
    ///
    /// # Errors
    /// When QEMU can't be asked.
    pub fn look(qmp: &mut Qmp) -> Result<Self, VmmError> {
        qmp.query("query-migrate-capabilities", &json!({}))
            .map(Self)
    }

    /// The names of those that are on.
    pub fn on(&self) -> Vec<String> {
        let on = self.0.iter().filter(|one| one.state);
        on.map(|one| one.capability.clone()).collect()
    }

    /// Whether memory is saved behind the running guest; `None` where QEMU does not know how (before 6.0).
    pub fn background(&self) -> Option<bool> {
        self.state(BACKGROUND)
    }

    /// Those that are on and spoil a snapshot, or may.
    fn foreign(&self) -> Vec<String> {
        let mut on = self.on();
        on.retain(|name| ![EVENTS, BACKGROUND].contains(&name.as_str()));
        on
    }

    fn state(&self, name: &str) -> Option<bool> {
        let one = self.0.iter().find(|one| one.capability == name)?;
        Some(one.state)
    }

    /// What must be set so that those are on that were on in `before`, and memory is saved in the background if it was
    /// then. What else was switched on since is somebody else's.
    fn way_back(&self, before: &Tuning) -> Vec<(String, bool)> {
        let was_on = |name: &str| before.capabilities.iter().any(|one| one == name);
        let changed = self.0.iter().filter(|one| {
            let was_on = was_on(&one.capability);
            one.state != was_on && (was_on || one.capability == BACKGROUND)
        });
        changed
            .map(|one| (one.capability.clone(), !one.state))
            .collect()
    }
}

/// Switches everything off that would spoil a snapshot: with `x-ignore-shared` shared memory is not in it, with
/// `compress` a plain restore dies on it, with `x-colo` or `postcopy-ram` the guest hangs.
///
/// # Errors
/// [`VmmError::Unsupported`] when QEMU leaves some on, with their names.
pub(super) fn switch_off_foreign(qmp: &mut Qmp, now: &Capabilities) -> Result<(), VmmError> {
    let foreign = now.foreign();
    if foreign.is_empty() {
        return Ok(());
    }
    let off: Vec<(String, bool)> = foreign.into_iter().map(|name| (name, false)).collect();
    let refusal = match set(qmp, &off) {
        Ok(()) => None,
        Err(VmmError::Refused { message, .. }) => Some(message),
        Err(error) => return Err(error),
    };
    let left = Capabilities::look(qmp)?.foreign();
    if left.is_empty() {
        return Ok(());
    }
    Err(VmmError::Unsupported(format!(
        "QEMU's migration capabilities {} are on, with which a snapshot is not whole, and it does not switch them off{}; \
         switch them off with migrate-set-capabilities",
        left.join(", "),
        refusal
            .map(|refusal| format!(" ({refusal})"))
            .unwrap_or_default()
    )))
}

/// Switches the save behind the running guest on or off.
///
/// # Errors
/// [`VmmError::Refused`] when the kernel or the guest's memory does not allow it, or while a migration goes on.
pub(super) fn set_background(qmp: &mut Qmp, is_on: bool) -> Result<(), VmmError> {
    set(qmp, &[(BACKGROUND.to_owned(), is_on)])
}

/// Puts all back to how it was in `before`.
///
/// # Errors
/// What QEMU refuses.
pub(super) fn put_back(qmp: &mut Qmp, before: &Tuning) -> Result<(), VmmError> {
    let way_back = Capabilities::look(qmp)?.way_back(before);
    if way_back.is_empty() {
        return Ok(());
    }
    set(qmp, &way_back)
}

fn set(qmp: &mut Qmp, states: &[(String, bool)]) -> Result<(), VmmError> {
    let states: Vec<_> = states
        .iter()
        .map(|(name, state)| json!({"capability": name, "state": state}))
        .collect();
    qmp.execute("migrate-set-capabilities", &json!({"capabilities": states}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(all: &[(&str, bool)]) -> Capabilities {
        let all = all.iter();
        let all = all.map(|(name, state)| json!({"capability": name, "state": state}));
        Capabilities(serde_json::from_value(all.collect()).unwrap())
    }

    #[test]
    fn what_neither_reports_nor_is_ours_is_foreign() {
        let all = capabilities(&[
            ("events", true),
            ("background-snapshot", true),
            ("x-colo", true),
            ("multifd", false),
            ("what-comes-next", true),
        ]);
        assert_eq!(all.foreign(), ["x-colo", "what-comes-next"]);
        assert_eq!(all.background(), Some(true));
        assert_eq!(capabilities(&[]).background(), None);
    }

    #[test]
    fn the_way_back_leaves_alone_what_somebody_else_switched_on_meanwhile() {
        let before = Tuning {
            capabilities: vec!["x-colo".to_owned(), "events".to_owned()],
            bandwidth: None,
        };
        let now = capabilities(&[
            ("events", true),
            ("background-snapshot", true),
            ("x-colo", false),
            ("multifd", true),
        ]);
        let expected = [
            ("background-snapshot".to_owned(), false),
            ("x-colo".to_owned(), true),
        ];
        assert_eq!(now.way_back(&before), expected);
    }
}
