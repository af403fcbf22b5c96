//! Every exit code of the tool, and nothing else.
//!
//! The numbers are documented in the manual and in the README; they are part of the interface. `check` speaks another
//! language than the rest: that of monitoring plugins, whose numbers overlap with the tool's own.

use std::process::ExitCode;

/// How a command ended, as the shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for is done.
    Done,
    /// At least one instance failed, or something unexpected happened.
    Failed,
    /// The command line or a value on it is not valid; nothing was changed.
    Usage,
    /// The schedule or the instance that was named does not exist.
    NotFound,
    /// Another run held the instance's lock for longer than `--lock-timeout`.
    Locked,
    /// `check` only: a newest snapshot is older than it should be, or something else wants a look.
    Warning,
    /// `check` only: a newest snapshot is far too old.
    Critical,
    /// `check` only: it can't be told, which includes a command line that is not valid.
    Unknown,
}

impl Exit {
    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed | Self::Warning => 1,
            Self::Usage | Self::Critical => 2,
            Self::NotFound | Self::Unknown => 3,
            Self::Locked => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
