//! A terminal for one of a command's streams: a pseudo-terminal of 100 columns, and everything that was shown on it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::thread::JoinHandle;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal. What is written to it is read at once, so that no writer waits.
#[derive(Debug)]
pub struct Terminal {
    end: File,
    reader: JoinHandle<Vec<u8>>,
}

impl Terminal {
    /// A terminal that nobody uses yet.
    ///
    /// # Panics
    /// When the machine has no pseudo-terminals.
    pub fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("the right to use it");
        unlockpt(&master).expect("its other end");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let end = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())))
            .expect("its other end");
        let size = Winsize {
            ws_row: 30,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&end, size).expect("a size");
        let reader = std::thread::spawn(move || {
            let mut shown = Vec::new();
            // It ends with an error (EIO) once nobody holds the other end any more.
            let _ = File::from(master).read_to_end(&mut shown);
            shown
        });
        Self { end, reader }
    }

    /// The end that a command gets.
    ///
    /// # Panics
    /// When there are too many open files.
    pub fn stream(&self) -> Stdio {
        self.end
            .try_clone()
            .expect("another handle of the terminal")
            .into()
    }

    /// Everything that was shown, line ends as they were written. The commands that use it have ended, and are dropped.
    ///
    /// # Panics
    /// When it is no text.
    pub fn shown(self) -> String {
        drop(self.end);
        let shown = self.reader.join().expect("what was shown");
        String::from_utf8(shown)
            .expect("text")
            .replace("\r\n", "\n")
    }
}
