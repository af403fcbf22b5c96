//! A directory of the user who runs the tool, for everything that the tool must leave alone: each time that something in
//! it is opened, read, made or changed is seen.

use std::fs::{self, Permissions};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tempfile::TempDir;

/// What the secret files hold.
pub const SECRET: &str = "nobody but root may read this";

/// The directory. It holds `secret` (0600), `open` (0644), `fifo`, and `deep/secret`.
#[derive(Debug)]
pub struct Canary {
    dir: TempDir,
    seen: OwnedFd,
}

impl Canary {
    /// Makes it and begins to watch it.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("canary-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .expect("a directory for the canary");
        fs::create_dir(dir.path().join("deep")).expect("a directory in the canary");
        for (name, mode) in [("secret", 0o600), ("open", 0o644), ("deep/secret", 0o600)] {
            let path = dir.path().join(name);
            fs::write(&path, SECRET).expect("a file of the canary");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        }
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a FIFO in the canary");
        let seen = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("inotify");
        for name in ["", "deep"] {
            inotify::add_watch(&seen, dir.path().join(name), WatchFlags::ALL_EVENTS)
                .expect("a watch of the canary");
        }
        Self { dir, seen }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The file of that name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Nobody has touched anything in it.
    ///
    /// # Panics
    /// When somebody has.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut events = inotify::Reader::new(&self.seen, &mut buffer);
        let mut seen = Vec::new();
        let closing = ReadFlags::CLOSE_WRITE | ReadFlags::CLOSE_NOWRITE;
        while let Ok(event) = events.next() {
            // A child that another test was just starting when the file was written closes its copy of it later. Whoever
            // opens it shows by that.
            if seen.is_empty() && closing.contains(event.events()) {
                continue;
            }
            seen.push(format!("{:?} {:?}", event.file_name(), event.events()));
        }
        assert_eq!(seen, Vec::<String>::new(), "{}", self.path().display());
    }
}

impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}
