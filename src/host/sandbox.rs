//! What the service's sandbox leaves of this host's directories (systemd.exec(5), "Sandboxing"): a path that root's shell
//! can write may be one that the service can't. Looks at settings alone, never at the paths.

use std::path::{Path, PathBuf};

/// The settings of a unit that say where it may write and what it sees; `systemctl show` prints them by these names.
pub const PROPERTIES: &str = "LoadState,ProtectSystem,ProtectHome,PrivateTmp,ReadWritePaths,ReadOnlyPaths,\
                              InaccessiblePaths,StateDirectory";

/// What a unit may do with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Write,
    Read,
    Nothing,
}

/// Places and what is left of them; the closest one around a path counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sandbox(Vec<(PathBuf, Leave, String)>);

impl Sandbox {
    /// What `systemctl show` said; `None` when there is no such unit.
    pub fn parse(shown: &str) -> Option<Self> {
        let value = |name: &str| {
            shown
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_default()
        };
        if value("LoadState") != "loaded" {
            return None;
        }
        let mut places = Vec::new();
        let mut add = |leave, setting: &str, paths: &[&str]| {
            places.extend(
                paths
                    .iter()
                    .map(|path| (PathBuf::from(path), leave, setting.to_owned())),
            );
        };
        match value("ProtectSystem") {
            "strict" => {
                add(Leave::Read, "ProtectSystem=strict", &["/"]);
                add(Leave::Write, "", &["/dev", "/proc", "/sys"]);
            }
            "full" => add(
                Leave::Read,
                "ProtectSystem=full",
                &["/usr", "/boot", "/efi", "/etc"],
            ),
            "yes" => add(Leave::Read, "ProtectSystem=yes", &["/usr", "/boot", "/efi"]),
            _ => {}
        }
        let homes = ["/home", "/root", "/run/user"];
        match value("ProtectHome") {
            "read-only" => add(Leave::Read, "ProtectHome=read-only", &homes),
            "yes" => add(Leave::Nothing, "ProtectHome=yes", &homes),
            "tmpfs" => add(Leave::Nothing, "ProtectHome=tmpfs", &homes),
            _ => {}
        }
        if value("PrivateTmp") == "yes" {
            add(Leave::Nothing, "PrivateTmp=yes", &["/tmp", "/var/tmp"]);
        }
        for (name, leave) in [
            ("ReadWritePaths", Leave::Write),
            ("ReadOnlyPaths", Leave::Read),
            ("InaccessiblePaths", Leave::Nothing),
        ] {
            for path in value(name).split_whitespace() {
                add(
                    leave,
                    &format!("{name}="),
                    &[path.trim_start_matches(['-', '+'])],
                );
            }
        }
        for name in value("StateDirectory").split_whitespace() {
            add(Leave::Write, "", &[&format!("/var/lib/{name}")]);
        }
        Some(Self(places))
    }

    /// The setting that keeps the unit from writing below `path`, if one does.
    pub fn forbids_writing(&self, path: &Path) -> Option<&str> {
        self.around(path, |leave| leave != Leave::Write)
    }

    /// The setting that hides `path` from the unit, if one does.
    pub fn hides(&self, path: &Path) -> Option<&str> {
        self.around(path, |leave| leave == Leave::Nothing)
    }

    fn around(&self, path: &Path, is_wanted: fn(Leave) -> bool) -> Option<&str> {
        self.0
            .iter()
            .filter(|(place, ..)| path.starts_with(place))
            .max_by_key(|(place, ..)| place.components().count())
            .filter(|(_, leave, _)| is_wanted(*leave))
            .map(|(.., setting)| setting.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_setting_counts() {
        let sandbox = Sandbox::parse(
            "LoadState=loaded\nProtectSystem=strict\nProtectHome=read-only\nPrivateTmp=yes\nStateDirectory=a b\n\
             ReadWritePaths=-/srv/vms /home/vms\nReadOnlyPaths=\nInaccessiblePaths=/srv/vms/secret\n",
        )
        .unwrap();
        for (path, forbids, hides) in [
            ("/srv/vms", None, None),
            ("/srv/vms/deep", None, None),
            ("/srv/vms2", Some("ProtectSystem=strict"), None),
            (
                "/srv/vms/secret/x",
                Some("InaccessiblePaths="),
                Some("InaccessiblePaths="),
            ),
            ("/var/lib/b/x", None, None),
            ("/home/me", Some("ProtectHome=read-only"), None),
            ("/home/vms/1", None, None),
            ("/tmp/x", Some("PrivateTmp=yes"), Some("PrivateTmp=yes")),
            ("/dev/shm", None, None),
        ] {
            assert_eq!(sandbox.forbids_writing(Path::new(path)), forbids, "{path}");
            assert_eq!(sandbox.hides(Path::new(path)), hides, "{path}");
        }
        assert_eq!(
            Sandbox::parse("LoadState=not-found\nProtectSystem=no\n"),
            None
        );
        let open = Sandbox::parse("LoadState=loaded\nProtectSystem=no\n").unwrap();
        assert_eq!(open.forbids_writing(Path::new("/usr")), None);
    }
}
