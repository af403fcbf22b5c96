//! A VMM that its guest has taken over: a process of its own (`vmm.c`), run as an unprivileged user under a VMM's name,
//! that holds open what it claims to, and otherwise does what a script says. The scripts of [`Script::qemu`],
//! [`Script::firecracker`] and [`Script::cloud_hypervisor`] behave well and let a snapshot succeed; a test puts
//! rules in front of theirs.

mod good;
mod script;

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

pub use self::good::drive;
use self::script::line;
pub use self::script::{Act, Script, command};
use super::skip::skipped;
use super::wait::wait_for;

/// The user and the group that hostile VMMs run as: Debian's `nobody` and `nogroup`.
pub const NOBODY: u32 = 65534;

/// Which VMM it pretends to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `qemu-system-x86_64`, over QMP.
    Qemu,
    /// `firecracker`, over HTTP.
    Firecracker,
    /// `cloud-hypervisor`, over HTTP.
    CloudHypervisor,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Qemu, Self::Firecracker, Self::CloudHypervisor];

    /// The word that the tool has for it.
    pub fn hypervisor(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }
}

/// A hostile VMM that runs; it ends when this is dropped, or with the test.
#[derive(Debug)]
pub struct Hostile {
    child: Child,
    orders: ChildStdin,
    place: Place,
}

/// A directory that belongs to `nobody`, for the files of a hostile VMM. Root's other users can reach it.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A new one; nothing where only root can make one, which is said.
    ///
    /// # Panics
    /// When it can't be created.
    pub fn new(what: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped(&format!(
                "{what}: a hostile VMM runs as another user, which only root can start"
            ));
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("hostile-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .expect("a directory for a hostile VMM");
        chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("a directory of nobody's");
        Some(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file of nobody's, without holes, that begins with `start`.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn disk(&self, name: &str, start: &str) -> PathBuf {
        let path = self.dir().join(name);
        let mut bytes = vec![b'.'; 256 << 10];
        bytes[..start.len()].copy_from_slice(start.as_bytes());
        fs::write(&path, bytes).expect("a disk");
        File::open(&path)
            .and_then(|disk| disk.sync_all())
            .expect("a disk that takes up its room");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a disk's mode");
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("a disk of nobody's");
        path
    }
}

impl Hostile {
    /// Starts a VMM whose socket is `s` in `place`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(place: Place, script: &Script) -> Self {
        let dir = place.dir();
        let program = dir.join(script.program.name());
        fs::copy(built(), &program).expect("a copy of the hostile VMM");
        let mut lines = String::new();
        line(&mut lines, &["listen", text(&dir.join("s"))]);
        lines += &script.head;
        lines += &script.first;
        lines += &script.rules;
        fs::write(dir.join("script"), lines).expect("a script");
        let told = File::create(dir.join("told")).expect("a file for what it tells");
        let complaints = told.try_clone().expect("the same file again");
        let mut child = Command::new(&program)
            .arg(dir.join("script"))
            .current_dir(dir)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .uid(NOBODY)
            .gid(NOBODY)
            .stdin(Stdio::piped())
            .stdout(told)
            .stderr(complaints)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let orders = child.stdin.take().expect("its standard input");
        let hostile = Self {
            child,
            orders,
            place,
        };
        hostile.wait_told("ready\t");
        hostile
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.place.dir().join("s")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sets one of its variables to `1`.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tell(&mut self, name: &str) {
        writeln!(self.orders, "{name}").expect("a hostile VMM that listens");
    }

    /// What it told so far, a line each: `request`, `said`, `failed` or `unknown` (a request that no rule is for), a tab,
    /// and the text.
    ///
    /// # Panics
    /// When that can't be read.
    pub fn told(&self) -> Vec<String> {
        let told = fs::read(self.place.dir().join("told")).expect("what it told");
        let told = String::from_utf8_lossy(&told);
        told.lines().map(str::to_owned).collect()
    }

    /// How many requests so far hold `needle`.
    pub fn count(&self, needle: &str) -> usize {
        let told = self.told();
        let requests = told.iter().filter(|line| line.starts_with("request\t"));
        requests.filter(|line| line.contains(needle)).count()
    }

    /// Waits until it has told something that holds `part`.
    ///
    /// # Panics
    /// When that does not come.
    pub fn wait_told(&self, part: &str) {
        let is_told = || self.told().iter().any(|line| line.contains(part));
        wait_for(
            &format!("{part:?} from a hostile VMM"),
            || is_told().then_some(()),
            || self.told().join("\n"),
        );
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The program, built once in each test process.
fn built() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("path of the test");
        let target = test.ancestors().nth(2).expect("the target directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile/vmm.c");
        // Other test processes build it too: each has its own, and the rename makes the last one stand.
        let own = target.join(format!("hostile-{}", std::process::id()));
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = Command::new(compiler)
            .args([
                "-O1",
                "-std=gnu11",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-pthread",
                "-o",
            ])
            .args([&own, &source])
            .output()
            .expect("a C compiler");
        let complaints = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{}: {complaints}", source.display());
        let program = target.join("hostile");
        fs::rename(&own, &program).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        program
    })
}
