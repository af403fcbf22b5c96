//! The stages of one capture, each a type that is the only way to the next, so that they can't be taken out of order.
//!
//! A stage that is dropped undoes nothing: after a failure at any point the connection is free again for [`Vmm::resume`]
//! and [`Vmm::discard`](super::Vmm::discard).
//!
//! [`Vmm::resume`]: super::Vmm::resume

use std::fmt::Debug;
use std::time::Duration;

use super::{Deadline, Outlook, VmmError};

/// What a driver does in each stage.
pub(super) trait Stages: Debug {
    fn other_target(&self) -> Result<Option<u64>, VmmError> {
        Ok(None)
    }
    fn worse(&self) -> Option<Outlook> {
        None
    }
    fn write_out(&mut self) -> Result<(), VmmError>;
    fn pause(&mut self) -> Result<(), VmmError>;
    fn save(&mut self, deadline: Deadline) -> Result<(), VmmError>;
    fn resume(&mut self) -> Result<(), VmmError>;
    fn finish(&mut self) -> Result<Saved, VmmError>;
}

/// What a finished save can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// How long the guest was paused, by the VMM's own account where it keeps one.
    pub pause: Duration,
    /// What made the pause longer than it had to be, in words for the user.
    pub warnings: Vec<String>,
}

/// Everything slow or fallible is done; the guest runs.
#[derive(Debug)]
pub struct Prepared<'v>(Box<dyn Stages + 'v>);

/// The guest is paused, because of us.
#[derive(Debug)]
pub struct Paused<'v>(Box<dyn Stages + 'v>);

/// The guest may go on: memory and device state are saved, or protected so that later writes don't reach the snapshot.
#[derive(Debug)]
pub struct Secured<'v>(Box<dyn Stages + 'v>);

/// The guest runs again.
#[derive(Debug)]
pub struct Resumed<'v>(Box<dyn Stages + 'v>);

impl<'v> Prepared<'v> {
    pub(super) fn new(stages: impl Stages + 'v) -> Self {
        Self(Box::new(stages))
    }

    /// The file system, by its device number, that this save fills besides that of the plan's directory.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn other_target(&self) -> Result<Option<u64>, VmmError> {
        self.0.other_target()
    }

    /// What is foreseen now, where the preparation showed that it will go worse than
    /// [`Vmm::outlook`](super::Vmm::outlook) said.
    pub fn worse(&self) -> Option<Outlook> {
        self.0.worse()
    }

    /// Writes out what the pause would have to wait for. The guest runs, and this may take long; call it right before
    /// [`Prepared::pause`].
    ///
    /// # Errors
    /// [`VmmError::File`] when a disk fails.
    pub fn write_out(&mut self) -> Result<(), VmmError> {
        self.0.write_out()
    }

    /// Stops the guest and returns when it is paused, with its requests to disks drained if its disks settle
    /// [`DisksSettle::ByPause`](super::DisksSettle::ByPause).
    ///
    /// # Errors
    /// [`VmmError::PausedByOthers`] when it turns out that somebody else had stopped it; anything else when it does not
    /// stop in time, so that it may still stop because of us.
    pub fn pause(mut self) -> Result<Paused<'v>, VmmError> {
        self.0.pause()?;
        Ok(Paused(self.0))
    }
}

impl<'v> Paused<'v> {
    /// Gets memory and device state (and the disks of the plan) to the point from which the guest may go on.
    ///
    /// # Errors
    /// When the VMM refuses or `deadline` passes; the guest is still paused, except where the VMM resumed it itself.
    pub fn save(mut self, deadline: Deadline) -> Result<Secured<'v>, VmmError> {
        self.0.save(deadline)?;
        Ok(Secured(self.0))
    }
}

impl<'v> Secured<'v> {
    /// Lets the guest go on: see [`Vmm::resume`](super::Vmm::resume).
    ///
    /// # Errors
    /// When the guest may still be paused.
    pub fn resume(mut self) -> Result<Resumed<'v>, VmmError> {
        self.0.resume()?;
        Ok(Resumed(self.0))
    }
}

impl Resumed<'_> {
    /// Waits until everything that goes on behind the running guest is complete, and leaves nothing in the VMM. The
    /// files are complete, not yet synced.
    ///
    /// # Errors
    /// When the saved state or a disk copy is not whole.
    pub fn finish(mut self) -> Result<Saved, VmmError> {
        self.0.finish()
    }
}
