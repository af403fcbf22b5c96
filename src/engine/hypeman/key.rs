//! The API key: where it comes from, and the type that keeps it out of logs, errors and debug prints.
//!
//! Talks to no server.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use log::{debug, warn};

use super::config;
use crate::engine::EngineError;

/// The environment variable that holds the key itself.
const KEY_VARIABLE: &str = "HYPEMAN_API_KEY";
/// The environment variable that names a file with the key.
const KEY_FILE_VARIABLE: &str = "HYPEMAN_API_KEY_FILE";
/// The name of the systemd credential (`LoadCredential=hypeman-api-key:…`).
const CREDENTIAL: &str = "hypeman-api-key";
/// A text that is shown nowhere: both `Debug` and `Display` print `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret without white space around it; `None` when nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The text itself, for the one header that carries it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret replaced: what a server sends may quote the key it was sent.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[redacted]")
    }

    /// Whether it can stand in an HTTP header: visible ASCII characters only.
    fn is_header_value(&self) -> bool {
        self.0.chars().all(|c| c.is_ascii_graphic())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Where the key may come from. The first that is set wins, in the order of the fields.
#[derive(Debug, Clone, Default)]
pub struct KeySource {
    /// The key itself.
    pub key: Option<Secret>,
    /// A file that holds the key and nothing else.
    pub key_file: Option<PathBuf>,
    /// The directory of systemd's credentials for this unit.
    pub credentials_directory: Option<PathBuf>,
    /// hypeman's own `cli.yaml`.
    pub cli_config: Option<PathBuf>,
}

impl KeySource {
    /// The places that the user's settings name. `variable` looks up what is set and not empty (contract, section 1).
    pub fn named_by(variable: impl Fn(&'static str) -> Option<OsString>) -> Self {
        Self {
            key: variable(KEY_VARIABLE).and_then(|key| Secret::new(&key.to_string_lossy())),
            key_file: variable(KEY_FILE_VARIABLE).map(PathBuf::from),
            credentials_directory: variable("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            cli_config: config::cli_config(),
        }
    }

    /// The key of the first source that has one; `None` when none has. Warns about a key file that everybody can read.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when a file that was named on purpose can't be read or holds no key, and when the
    /// key can't be sent. The message names the source, never the key.
    pub fn load(&self) -> Result<Option<Secret>, EngineError> {
        let Some(Found { key, origin, file }) = self.find_usable()? else {
            return Ok(None);
        };
        if let Some(file) = file.filter(|file| is_exposed(file)) {
            warn!(
                "{0} holds the API key and every user can read it: chmod 600 {0}",
                file.display()
            );
        }
        debug!("the API key comes from {origin}");
        Ok(Some(key))
    }

    /// Where the key comes from; `None` when there is none.
    ///
    /// # Errors
    /// As [`KeySource::load`].
    pub(super) fn origin(&self) -> Result<Option<String>, EngineError> {
        Ok(self.find_usable()?.map(|found| found.origin))
    }

    /// The key and its source, if it can be sent.
    fn find_usable(&self) -> Result<Option<Found>, EngineError> {
        match self.find()? {
            Some(Found { key, origin, .. }) if !key.is_header_value() => {
                Err(EngineError::unavailable(format!(
                    "the API key from {origin} can't be sent: it contains white space, a line break or another \
                     character that is not visible ASCII; it must be the token alone"
                )))
            }
            found => Ok(found),
        }
    }

    /// The key and its source.
    fn find(&self) -> Result<Option<Found>, EngineError> {
        if let Some(key) = &self.key {
            return Ok(Some(Found {
                key: key.clone(),
                origin: KEY_VARIABLE.to_owned(),
                file: None,
            }));
        }
        if let Some(path) = &self.key_file {
            let origin = format!("{} ({KEY_FILE_VARIABLE})", path.display());
            let key = read_key(path).map_err(|cause| unreadable(&origin, cause))?;
            return Ok(Some(Found::in_file(key, origin, path)));
        }
        if let Some(directory) = &self.credentials_directory {
            let path = directory.join(CREDENTIAL);
            let origin = format!("{} (systemd credential)", path.display());
            match read_key(&path) {
                Ok(key) => return Ok(Some(Found::in_file(key, origin, &path))),
                // The unit has credentials, only not this one.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(unreadable(&origin, cause)),
            }
        }
        let Some(path) = &self.cli_config else {
            return Ok(None);
        };
        let Some(key) = config::text(path, "api_key").and_then(|key| Secret::new(&key)) else {
            return Ok(None);
        };
        Ok(Some(Found::in_file(key, path.display().to_string(), path)))
    }
}

/// A key that was found.
struct Found {
    key: Secret,
    /// The name of its source.
    origin: String,
    /// The file that holds it, if one does.
    file: Option<PathBuf>,
}

impl Found {
    fn in_file(key: Secret, origin: String, file: &Path) -> Self {
        Self {
            key,
            origin,
            file: Some(file.to_owned()),
        }
    }
}

/// The key in a file that holds nothing else.
fn read_key(path: &Path) -> io::Result<Secret> {
    Secret::new(&config::read_small(path)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is empty"))
}

fn unreadable(origin: &str, cause: io::Error) -> EngineError {
    EngineError::Unavailable {
        message: format!(
            "can't read the API key from {origin}: make it a file that holds the token alone and that this user can read"
        ),
        source: Some(cause.into()),
    }
}

/// Whether every user of the host can read the file. A group may be meant to, so its bits are not looked at.
fn is_exposed(path: &Path) -> bool {
    const OTHERS_READ: u32 = 0o004;
    path.metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & OTHERS_READ != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files, readable by their owner only.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        directory
    }

    fn loaded(source: &KeySource) -> Option<String> {
        source
            .load()
            .unwrap()
            .map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_source_that_is_set_wins() {
        let directory = directory(&[
            ("key", " from-file \n"),
            (CREDENTIAL, "from-credential\n"),
            ("cli.yaml", "base_url: http://x\napi_key: from-cli\n"),
        ]);
        let path = directory.path();
        let mut source = KeySource {
            key: Secret::new("from-variable"),
            key_file: Some(path.join("key")),
            credentials_directory: Some(path.to_owned()),
            cli_config: Some(path.join("cli.yaml")),
        };
        assert_eq!(loaded(&source).as_deref(), Some("from-variable"));
        source.key = None;
        assert_eq!(loaded(&source).as_deref(), Some("from-file"));
        source.key_file = None;
        assert_eq!(loaded(&source).as_deref(), Some("from-credential"));
        source.credentials_directory = Some(path.join("of-another-unit"));
        assert_eq!(loaded(&source).as_deref(), Some("from-cli"));
        source.cli_config = None;
        assert_eq!(loaded(&source), None);
    }

    #[test]
    fn a_key_file_that_was_named_must_hold_a_key() {
        let large = "x".repeat(70_000);
        let directory = directory(&[("empty", " \n"), ("large", &large)]);
        for (name, why) in [
            ("missing", "No such file"),
            ("empty", "is empty"),
            ("large", "larger than 64 KiB"),
            (".", "directory"),
        ] {
            let path = directory.path().join(name);
            let source = KeySource {
                key_file: Some(path.clone()),
                ..KeySource::default()
            };
            let error = source.load().unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(why), "{name}: {cause}");
            let message = error.to_string();
            assert!(message.contains(&*path.to_string_lossy()), "{message}");
            assert!(message.contains(KEY_FILE_VARIABLE), "{message}");
        }
    }

    #[test]
    fn a_key_that_fits_no_header_is_refused_and_not_shown() {
        for key in ["sekrit\ntoken", "sekrit token", "sekrit\u{7}", "sekrit-ü"] {
            let source = KeySource {
                key: Secret::new(key),
                ..KeySource::default()
            };
            let error = source.load().unwrap_err();
            let shown = format!("{error} {error:?} {source:?}");
            assert!(shown.contains(KEY_VARIABLE), "{shown}");
            assert!(!shown.contains("sekrit"), "{shown}");
        }
    }
}
