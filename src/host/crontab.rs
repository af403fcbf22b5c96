//! Crontabs that start `run-due`. What can't be read is passed over: a user's crontab is for that user and root only.

use std::fs;
use std::path::{Path, PathBuf};

/// More than anybody writes into a crontab.
const MAX_BYTES: u64 = 1 << 20;
/// The system's own crontab (crontab(5)).
const SYSTEM: &str = "/etc/crontab";
/// Where packages put theirs.
const DIRECTORY: &str = "/etc/cron.d";
/// root's own crontab: on Debian, on Red Hat and on SUSE, on Alpine.
const OF_ROOT: [&str; 4] = [
    "/var/spool/cron/crontabs/root",
    "/var/spool/cron/root",
    "/var/spool/cron/tabs/root",
    "/etc/crontabs/root",
];

/// Every file that may be a crontab on this host.
pub fn of_this_host() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from(SYSTEM)];
    files.extend(in_directory(Path::new(DIRECTORY)));
    files.extend(OF_ROOT.iter().map(PathBuf::from));
    files
}

/// The files of a directory such as `/etc/cron.d` that a cron daemon reads, by name: not what editors and package
/// managers leave beside them.
pub fn in_directory(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| is_read_by_cron(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    files.sort_unstable();
    files
}

fn is_read_by_cron(name: &str) -> bool {
    let leftovers = [".dpkg-", ".rpmsave", ".rpmnew", ".rpmorig"];
    !name.starts_with(['.', '#'])
        && !name.ends_with(['~', ','])
        && !leftovers.iter().any(|mark| name.contains(mark))
}

/// Those of `files` that have a line which starts `hypeman-snap run-due`.
pub fn that_run_due(files: &[PathBuf]) -> Vec<&PathBuf> {
    files
        .iter()
        .filter(|file| {
            // A FIFO among them must not make this wait.
            fs::metadata(file).is_ok_and(|it| it.is_file() && it.len() <= MAX_BYTES)
                && fs::read(file).is_ok_and(|bytes| runs_due(&String::from_utf8_lossy(&bytes)))
        })
        .collect()
}

fn runs_due(crontab: &str) -> bool {
    crontab.lines().map(str::trim_start).any(|line| {
        !line.starts_with('#')
            && line.contains("hypeman-snap")
            && line.contains("run-due")
            && !line.contains("--recover-only")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_starts_run_due_is_found_and_a_comment_is_not() {
        assert!(runs_due(
            "MAILTO=root\n* * * * * root hypeman-snap --quiet run-due\n"
        ));
        assert!(runs_due(
            "  * * * * * /opt/bin/hypeman-snap run-due --jobs 2"
        ));
        for other in [
            "",
            "# * * * * * root hypeman-snap run-due",
            "  #* * * * * root hypeman-snap run-due",
            "0 3 * * * root hypeman-snap prune",
            "0 3 * * * root run-due",
            "@reboot root hypeman-snap run-due --recover-only",
        ] {
            assert!(!runs_due(other), "{other:?}");
        }
    }

    #[test]
    fn only_files_that_cron_reads_count() {
        let directory = tempfile::tempdir().unwrap();
        let line = "* * * * * root hypeman-snap run-due\n";
        for name in [
            "hypeman-snap",
            "hypeman-snap~",
            ".swp",
            "hypeman-snap.dpkg-old",
        ] {
            fs::write(directory.path().join(name), line).unwrap();
        }
        fs::write(directory.path().join("other"), "@daily root true\n").unwrap();
        fs::create_dir(directory.path().join("directory")).unwrap();
        let files = in_directory(directory.path());
        assert_eq!(
            that_run_due(&files),
            [&directory.path().join("hypeman-snap")]
        );
        let missing = directory.path().join("missing");
        assert!(in_directory(&missing).is_empty());
        assert!(that_run_due(&[missing]).is_empty());
    }
}
