//! What an examination found out: one line for each thing that was looked at. Plain data; looks at nothing itself.

use std::fmt;

/// How it is with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Snapshots are still taken, but somebody should look at it.
    Warning,
    /// Snapshots are not taken, or a guest may suffer, until somebody does something.
    Broken,
}

impl Status {
    /// The word for it, in tables and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was asked, such as `free space`; the same word on every host.
    pub check: &'static str,
    /// What it was asked of: a path, an instance's id, a URL.
    pub subject: String,
    /// The answer.
    pub status: Status,
    /// The answer in words.
    pub detail: String,
    /// What to do about it; `None` where there is nothing to do, or nothing is known to help.
    pub remedy: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn ok(check: &'static str, subject: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self {
            check,
            subject: subject.to_string(),
            status: Status::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    /// Something that somebody should look at.
    pub fn warning(
        check: &'static str,
        subject: impl fmt::Display,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(check, subject, detail)
        }
    }

    /// Something that keeps snapshots from being taken.
    pub fn broken(
        check: &'static str,
        subject: impl fmt::Display,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Broken,
            ..Self::warning(check, subject, detail, remedy)
        }
    }
}
