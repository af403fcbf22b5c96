//! The directories in which the disks of this host's VMs live.

use std::path::PathBuf;

use super::{InvalidSettings, Surroundings};

pub(super) const VARIABLE: &str = "HYPEMAN_SNAP_DISK_ROOTS";

/// What the environment names, separated by colons; none means anywhere.
///
/// # Errors
/// When one is not an absolute path.
pub(super) fn roots(around: &Surroundings<'_>) -> Result<Vec<PathBuf>, InvalidSettings> {
    let Some((origin, value)) = around.text(VARIABLE)? else {
        return Ok(Vec::new());
    };
    let named = value.split(':').filter(|root| !root.is_empty());
    let roots: Vec<PathBuf> = named.map(PathBuf::from).collect();
    match roots.iter().find(|root| !root.is_absolute()) {
        Some(root) => Err(InvalidSettings::value(
            origin,
            root.display(),
            "must be an absolute path; several are separated by colons",
        )),
        None => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Result<Vec<PathBuf>, String> {
        let variable = |name: &str| (name == VARIABLE).then(|| value.into());
        let around = Surroundings {
            variable: &variable,
            host_file: std::collections::BTreeMap::new(),
            is_root: true,
        };
        roots(&around).map_err(|error| error.to_string())
    }

    #[test]
    fn roots_are_absolute_and_separated_by_colons() {
        assert_eq!(of(""), Ok(Vec::new()));
        let both = vec![PathBuf::from("/srv/vms"), PathBuf::from("/dev/vg0")];
        assert_eq!(of("/srv/vms:/dev/vg0:"), Ok(both));
        let error = of("/srv:vms").unwrap_err();
        assert!(
            error.contains(VARIABLE) && error.contains("\"vms\""),
            "{error}"
        );
    }
}
