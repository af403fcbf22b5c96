//! hypeman's own configuration files: the two values of its command line's, and the port of its server's. A file that is
//! missing or broken counts as empty, as hypeman has it. Talks to no server.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use log::debug;
use saphyr::{LoadableYamlNode, Yaml};

use crate::fs::bounded;

/// The configuration of hypeman's command line, below the home directory (contract, section 1).
const CLI_CONFIG: &str = ".config/hypeman/cli.yaml";
/// The configuration of hypeman's server (contract, section 1).
const SERVER_CONFIG: &str = "/etc/hypeman/config.yaml";
/// The same, below the home directory.
const SERVER_CONFIG_AT_HOME: &str = ".config/hypeman/config.yaml";
/// More than any token or configuration needs: a wrong path, such as a disk image, must not be read whole.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// hypeman's own `cli.yaml` of this user; `None` when the user has no home directory.
pub(super) fn cli_config() -> Option<PathBuf> {
    at_home(CLI_CONFIG)
}

/// The server's address in hypeman's own `cli.yaml`, which wins over the built-in default only (contract, section 1).
pub fn cli_base_url() -> Option<String> {
    text(&cli_config()?, "base_url")
}

/// Where the server's configuration may be; the first file that is there is the one that it reads.
pub(super) fn server_configs() -> Vec<PathBuf> {
    std::env::var_os("CONFIG_PATH")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .into_iter()
        .chain([PathBuf::from(SERVER_CONFIG)])
        .chain(at_home(SERVER_CONFIG_AT_HOME))
        .collect()
}

/// The port in the first of these server configurations that is there; `None` where it names none.
pub(super) fn port(files: &[PathBuf]) -> Option<u16> {
    let file = files.iter().find(|file| file.exists())?;
    text(file, "port")?.parse().ok()
}

/// A non-empty text or a number at the top level of a YAML file.
pub(super) fn text(path: &Path, key: &str) -> Option<String> {
    let text = match read_small(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return None,
        Err(cause) => {
            debug!("{} is ignored: {cause}", path.display());
            return None;
        }
    };
    // The parser's own message is not logged: it may quote the file, and the file holds a key.
    let Ok(documents) = Yaml::load_from_str(&text) else {
        debug!("{} is ignored: it is not valid YAML", path.display());
        return None;
    };
    let value = documents.first()?.as_mapping_get(key)?;
    if let Some(number) = value.as_integer() {
        return Some(number.to_string());
    }
    let value = value.as_str()?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// A text file, refused when it is larger than [`FILE_MAX_BYTES`].
pub(super) fn read_small(path: &Path) -> io::Result<String> {
    bounded::read_text(File::open(path)?, FILE_MAX_BYTES)
}

fn at_home(path: &str) -> Option<PathBuf> {
    directories::BaseDirs::new().map(|dirs| dirs.home_dir().join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        directory
    }

    #[test]
    fn a_config_that_is_missing_or_broken_counts_as_empty() {
        let directory = directory(&[
            ("binary", "\u{0}\u{1}: ["),
            ("list", "- api_key\n- k\n"),
            ("unclosed", "api_key: \"k\nbase_url: {"),
            ("number", "api_key: 5.5\nbase_url: [1]\n"),
            ("blank", "api_key: '  '\nbase_url:\n"),
            ("empty", ""),
        ]);
        for name in [
            "binary", "list", "unclosed", "number", "blank", "empty", "missing", ".",
        ] {
            let path = directory.path().join(name);
            assert_eq!(text(&path, "api_key"), None, "{name}");
            assert_eq!(text(&path, "base_url"), None, "{name}");
        }
    }

    #[test]
    fn a_config_is_read_as_yaml() {
        let directory = directory(&[(
            "cli.yaml",
            "# mine\nbase_url: \"https://h.example:8443/api\" # the new one\nother: {a: [1, 2]}\napi_key: 'eyJ.x-_y'\n",
        )]);
        let path = directory.path().join("cli.yaml");
        assert_eq!(
            text(&path, "base_url").as_deref(),
            Some("https://h.example:8443/api")
        );
        assert_eq!(text(&path, "api_key").as_deref(), Some("eyJ.x-_y"));
    }

    #[test]
    fn the_servers_port_is_that_of_the_first_file_that_is_there() {
        let directory = directory(&[
            ("number", "port: 9001\n"),
            ("text", "data_dir: /x\nport: \"9002\"\n"),
            ("none", "data_dir: /x\n"),
            ("bad", "port: 70000\n"),
        ]);
        let port = |names: &[&str]| {
            let files: Vec<PathBuf> = names
                .iter()
                .map(|name| directory.path().join(name))
                .collect();
            port(&files)
        };
        assert_eq!(port(&["missing", "number", "text"]), Some(9001));
        assert_eq!(port(&["text", "number"]), Some(9002));
        assert_eq!(port(&["none", "number"]), None);
        assert_eq!(port(&["bad"]), None);
        assert_eq!(port(&[]), None);
    }
}
