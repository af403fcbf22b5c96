//! The pause of a guest of a VMM with an HTTP API: how long it was, and how long its end may take.

use std::time::{Duration, Instant};

use crate::vmm::{Deadline, VmmError};

/// Measures the pause of one capture.
#[derive(Debug)]
pub struct PauseClock {
    since: Option<Instant>,
    length: Duration,
    resume_limit: Duration,
}

impl PauseClock {
    /// None yet; the resume may take `limit`, like every request.
    pub const fn new(limit: Duration) -> Self {
        Self {
            since: None,
            length: Duration::ZERO,
            resume_limit: limit,
        }
    }

    /// The pause is about to be asked for.
    pub fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The pause began then.
    pub fn began(&mut self, at: Instant) {
        self.since = Some(at);
    }

    /// The guest runs again.
    pub fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.length = since.elapsed();
        }
    }

    /// From the request for the pause to the answer to the resume; zero before there was one.
    pub const fn length(&self) -> Duration {
        self.length
    }

    /// How long to wait for the answer to a resume.
    pub const fn resume_limit(&self) -> Duration {
        self.resume_limit
    }

    /// Takes note of how a save ended that had until `deadline`.
    ///
    /// A save that takes too long goes on in the VMM, which answers one request at a time and forgets a request whose
    /// sender has hung up. So the resume must wait behind the save: it gets as long again as the save had.
    ///
    /// # Errors
    /// [`VmmError::PauseTooLong`] for a save that was not answered in time, and what else went wrong with it.
    pub fn saved(
        &mut self,
        answer: Result<Vec<u8>, VmmError>,
        deadline: Deadline,
    ) -> Result<(), VmmError> {
        match answer {
            Ok(_) => Ok(()),
            Err(VmmError::TimedOut { .. }) => {
                self.resume_limit = self.resume_limit.max(deadline.limit());
                Err(VmmError::PauseTooLong {
                    limit: deadline.limit(),
                    goes_on: true,
                })
            }
            Err(error) => Err(error),
        }
    }
}
