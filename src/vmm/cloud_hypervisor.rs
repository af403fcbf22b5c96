//! Cloud Hypervisor over its HTTP API.

use std::path::Path;

use super::{Deadline, Disk, Process, SavePlan, Saved, Timeouts, Vmm, VmmError, VmmState};

/// Holds the driver's place: none of these can exist.
#[derive(Debug)]
pub enum CloudHypervisor {}

impl CloudHypervisor {
    /// Connects to the VMM behind `socket`.
    ///
    /// # Errors
    /// Always: there is no driver.
    pub fn connect(_socket: &Path, _timeouts: Timeouts) -> Result<Self, VmmError> {
        Err(VmmError::Unsupported("there is no driver".to_owned()))
    }
}

impl Vmm for CloudHypervisor {
    fn state(&mut self) -> Result<VmmState, VmmError> {
        match *self {}
    }

    fn version(&mut self) -> Result<String, VmmError> {
        match *self {}
    }

    fn process(&self) -> Option<Process> {
        match *self {}
    }

    fn disks(&mut self) -> Result<Vec<Disk>, VmmError> {
        match *self {}
    }

    fn copies_disks(&self) -> bool {
        match *self {}
    }

    fn prepare(&mut self, _plan: &SavePlan) -> Result<(), VmmError> {
        match *self {}
    }

    fn pause(&mut self) -> Result<(), VmmError> {
        match *self {}
    }

    fn save(&mut self, _deadline: Deadline) -> Result<(), VmmError> {
        match *self {}
    }

    fn resume(&mut self) -> Result<(), VmmError> {
        match *self {}
    }

    fn finish(&mut self) -> Result<Saved, VmmError> {
        match *self {}
    }

    fn discard(&mut self, _save_may_have_begun: bool) -> Result<(), VmmError> {
        match *self {}
    }
}
