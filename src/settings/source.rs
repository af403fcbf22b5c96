//! Where values come from that no flag gives: the environment, and for root also the host's settings file. Reads that
//! file and looks who could have written it; changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::InvalidSettings;
use crate::fs::{bounded, trust};

/// The settings of this host, for root: `NAME=value` lines as systemd reads them (systemd.exec(5), `EnvironmentFile=`).
pub const HOST_FILE: &str = "/etc/default/hypeman-snap";
/// More than anybody writes by hand; another file under that name must not be read whole.
const HOST_FILE_MAX_BYTES: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The flag.
    Flag(&'static str),
    /// The environment variable.
    Variable(&'static str),
    /// The name in the host's settings file.
    HostFile(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::HostFile(name) => write!(f, "{name} in {HOST_FILE}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What the settings are made from besides the flags.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// What the host's settings file holds; nothing for others than root.
    pub host_file: BTreeMap<String, String>,
    /// Whether the user is root.
    pub is_root: bool,
}

impl Surroundings<'_> {
    /// The value that goes by this name, and where it is from. An empty one counts as unset.
    pub fn find(&self, name: &'static str) -> Option<(Origin, OsString)> {
        let in_environment = (self.variable)(name).map(|value| (Origin::Variable(name), value));
        let in_file = self.host_file.get(name);
        in_environment
            .filter(|(_, value)| !value.is_empty())
            .or_else(|| in_file.map(|value| (Origin::HostFile(name), value.into())))
            .filter(|(_, value)| !value.is_empty())
    }

    /// The same as text.
    pub(super) fn text(
        &self,
        name: &'static str,
    ) -> Result<Option<(Origin, String)>, InvalidSettings> {
        let Some((origin, value)) = self.find(name) else {
            return Ok(None);
        };
        match value.into_string() {
            Ok(value) => Ok(Some((origin, value))),
            Err(value) => Err(InvalidSettings::value(
                origin,
                value.to_string_lossy(),
                "must be UTF-8",
            )),
        }
    }

    /// A path from a flag or a variable, made absolute: it ends up in files that others read from other directories.
    pub(super) fn path(
        &self,
        given: Option<&Path>,
        flag: &'static str,
        variable: &'static str,
    ) -> Result<Option<(Origin, PathBuf)>, InvalidSettings> {
        let (origin, value) = match given {
            Some(path) if path.as_os_str().is_empty() => {
                return Err(InvalidSettings::empty(Origin::Flag(flag)));
            }
            Some(path) => (Origin::Flag(flag), path.to_owned()),
            None => match self.find(variable) {
                Some((origin, value)) => (origin, PathBuf::from(value)),
                None => return Ok(None),
            },
        };
        match std::path::absolute(&value) {
            Ok(path) => Ok(Some((origin, path))),
            Err(error) => Err(InvalidSettings::value(
                origin,
                value.display(),
                format!("can't be made absolute: {error}"),
            )),
        }
    }
}

/// What the host's settings file at `path` holds; nothing where there is none.
///
/// # Errors
/// When it can't be read, when others than root and this user could have written it, and when a line is not `NAME=value`.
pub fn host_file(path: &Path) -> Result<BTreeMap<String, String>, InvalidSettings> {
    let refused = |rule: String| InvalidSettings::HostFile {
        path: path.to_owned(),
        line: None,
        rule,
    };
    let read =
        std::fs::File::open(path).and_then(|file| bounded::read_text(file, HOST_FILE_MAX_BYTES));
    let text = match read {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(refused(format!("can't be read: {error}"))),
    };
    let distrust =
        trust::distrust(path).map_err(|error| refused(format!("can't be looked at: {error}")))?;
    if let Some(distrust) = distrust {
        return Err(refused(format!(
            "others than root can change it: {} {}; let nobody but root write there",
            distrust.place.display(),
            distrust.why
        )));
    }
    parse(&text).map_err(|(line, rule)| InvalidSettings::HostFile {
        path: path.to_owned(),
        line: Some(line),
        rule: rule.to_owned(),
    })
}

/// The names and values of `NAME=value` lines; the last one of a name counts. A refusal says which line it begins in.
fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, &'static str)> {
    let mut values = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = 1 + text[..text.len() - rest.len()].matches('\n').count();
        let (first, behind) = rest.split_once('\n').unwrap_or((rest, ""));
        let statement = first.trim_start();
        if statement.is_empty() || statement.starts_with(['#', ';']) {
            rest = behind;
            continue;
        }
        let (name, _) = first
            .split_once('=')
            .ok_or((line, "must be NAME=value, or begin with # as a comment"))?;
        let value = &rest[name.len() + 1..];
        let name = name.trim();
        if !is_name(name) {
            return Err((
                line,
                "must begin with a name of letters, digits and underscores, without `export`",
            ));
        }
        let (value, behind) = value_of(value).ok_or((line, "has a quote that is not closed"))?;
        values.insert(name.to_owned(), value);
        rest = behind;
    }
    Ok(values)
}

fn is_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

/// The value that `text` begins with, and what follows its line; `None` when a quote stays open. A backslash takes the
/// next character as it is, in double quotes only those that a shell would, and joins a line to the next one.
fn value_of(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    // How much of `value` is more than blanks at its end, which don't count outside quotes.
    let mut kept = 0;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\n') => {
                value.truncate(kept);
                return Some((value, &text[at + 1..]));
            }
            (None, ' ' | '\t' | '\r') if value.is_empty() => continue,
            (None, ' ' | '\t' | '\r') => {
                value.push(c);
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => match chars.next() {
                None | Some((_, '\n')) => {}
                Some((_, c)) => {
                    if quote.is_some() && !"\"\\`$".contains(c) {
                        value.push('\\');
                    }
                    value.push(c);
                }
            },
            (_, c) => value.push(c),
        }
        kept = value.len();
    }
    value.truncate(kept);
    quote.is_none().then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read_as_systemd_reads_them() {
        for (text, expected) in [
            ("", vec![]),
            ("# A=1\n ; B=2\n\n", vec![]),
            ("A=1\nB=2", vec![("A", "1"), ("B", "2")]),
            ("A=1\nA=2\n", vec![("A", "2")]),
            ("A=\n", vec![("A", "")]),
            ("  A = a b  \t\n", vec![("A", "a b")]),
            ("A=a # b\n", vec![("A", "a # b")]),
            ("A=x=y\r\n", vec![("A", "x=y")]),
            ("A=\"a # b \"  \n", vec![("A", "a # b ")]),
            ("A='$x \\ \"'\n", vec![("A", "$x \\ \"")]),
            (r#"A="\"\\\$\`\a""#, vec![("A", "\"\\$`\\a")]),
            ("A=\\ a\\\\\n", vec![("A", " a\\")]),
            ("A=a\\\nb\nB=2\n", vec![("A", "ab"), ("B", "2")]),
            ("A=\"a\nb\"\nB=2\n", vec![("A", "a\nb"), ("B", "2")]),
            ("A=a'b'\"c\"\n", vec![("A", "abc")]),
            ("ä=1", vec![("", "line 1 begin with a name")]),
            ("A=1\nexport B=2\n", vec![("", "line 2 `export`")]),
            ("A='\n'\n\nnothing\n", vec![("", "line 4 NAME=value")]),
            ("A=1\nB=\"2\n\n", vec![("", "line 2 not closed")]),
            ("=1", vec![("", "line 1 begin with a name")]),
        ] {
            match (parse(text), expected.as_slice()) {
                (Err((line, rule)), [("", refusal)]) => {
                    let (at, part) = refusal.split_at("line 1".len());
                    assert_eq!(at, format!("line {line}"), "{text:?}");
                    assert!(rule.contains(part.trim()), "{text:?}: {rule}");
                }
                (parsed, _) => {
                    let expected = expected.iter().map(|(a, b)| (a.to_string(), b.to_string()));
                    assert_eq!(parsed, Ok(expected.collect()), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_others_can_change_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        assert_eq!(host_file(&file).unwrap(), BTreeMap::new());
        std::fs::write(&file, "A=1\nB\n").unwrap();
        let error = host_file(&file).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{} line 2: ", file.display())),
            "{error}"
        );
        std::fs::write(&file, "A=1\n").unwrap();
        assert_eq!(host_file(&file).unwrap().len(), 1);
        std::fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        let error = host_file(&file).unwrap_err().to_string();
        assert!(error.contains("has mode 0664"), "{error}");
        let error = host_file(dir.path()).unwrap_err().to_string();
        assert!(error.contains("can't be read"), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_is_quoted_comes_back(value in "[^\r]*") {
            let quoted: String = value
                .chars()
                .flat_map(|c| "\"\\`$".contains(c).then_some('\\').into_iter().chain([c]))
                .collect();
            let parsed = parse(&format!("A=\"{quoted}\"\n"));
            prop_assert_eq!(parsed, Ok(BTreeMap::from([("A".to_owned(), value)])));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
