//! QEMU's background jobs: how they stand, waiting for one, cancelling and dismissing.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::super::{Deadline, VmmError};
use super::qmp::Qmp;

/// Time between two looks at a job that is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// An entry of `query-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Job {
    /// Its id.
    pub id: String,
    /// QEMU's word for how it stands.
    pub status: String,
    /// How far it is, in a unit of its own.
    #[serde(default)]
    pub current_progress: u64,
    /// Why it failed.
    pub error: Option<String>,
}

impl Job {
    /// Whether it has ended, well or not, and waits to be dismissed.
    pub fn is_concluded(&self) -> bool {
        self.status == "concluded"
    }

    /// Whether it goes on and may be cancelled; on its way to the end it can't be.
    fn is_cancellable(&self) -> bool {
        ["created", "running", "paused", "ready", "standby"].contains(&self.status.as_str())
    }
}

/// All jobs whose id begins with `prefix`.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn list(qmp: &mut Qmp, prefix: &str) -> Result<Vec<Job>, VmmError> {
    let jobs: Vec<Job> = qmp.query("query-jobs", &json!({}))?;
    Ok(jobs
        .into_iter()
        .filter(|job| job.id.starts_with(prefix))
        .collect())
}

/// Waits until the job `id` has ended well; `false` when `deadline` passed first.
///
/// # Errors
/// [`VmmError::Refused`] with the job's own error, naming `what`.
pub(super) fn conclude(
    qmp: &mut Qmp,
    id: &str,
    what: &str,
    deadline: Deadline,
) -> Result<bool, VmmError> {
    loop {
        let job = list(qmp, id)?.into_iter().find(|job| job.id == id);
        match job {
            Some(job) if !job.is_concluded() => {}
            Some(Job { error: None, .. }) => return Ok(true),
            other => return Err(failed(what, other)),
        }
        if deadline.has_passed() {
            return Ok(false);
        }
        qmp.listen(LOOK)?;
    }
}

/// The error of a job that did `what` and did not end well.
pub(super) fn failed(what: &str, job: Option<Job>) -> VmmError {
    VmmError::Refused {
        request: what.to_owned(),
        message: job.map_or_else(
            || "its job is gone".to_owned(),
            |job| {
                job.error
                    .unwrap_or_else(|| "its job was cancelled".to_owned())
            },
        ),
    }
}

/// Removes the ended job `id`.
///
/// # Errors
/// When QEMU refuses.
pub(super) fn dismiss(qmp: &mut Qmp, id: &str) -> Result<(), VmmError> {
    qmp.execute("job-dismiss", &json!({"id": id}))
}

/// Cancels and dismisses all jobs whose id begins with `prefix`; returns whether there were any.
///
/// # Errors
/// When one has not ended within the time of a request.
pub(super) fn remove(qmp: &mut Qmp, prefix: &str) -> Result<bool, VmmError> {
    let deadline = Deadline::after(qmp.limit());
    let mut had_any = false;
    loop {
        let jobs = list(qmp, prefix)?;
        if jobs.is_empty() {
            return Ok(had_any);
        }
        had_any = true;
        for job in &jobs {
            let command = if job.is_concluded() {
                "job-dismiss"
            } else if job.is_cancellable() {
                "job-cancel"
            } else {
                continue;
            };
            match qmp.execute(command, &json!({"id": &job.id})) {
                // It moved on since it was listed: the next look tells.
                Ok(()) | Err(VmmError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if deadline.has_passed() {
            return Err(qmp.timed_out("job-cancel with an end of the job", deadline.limit()));
        }
        qmp.listen(LOOK)?;
    }
}
