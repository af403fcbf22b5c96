//! The port to whoever can tell whether the snapshots on this host are what they were.

use chrono::{DateTime, Utc};

use crate::engine::EngineError;
use crate::snapshot::{Snapshot, Verified};

/// Looks at snapshots.
pub trait Verifier: Send + Sync {
    /// Compares the snapshot with what is known of it: its files, their lengths and what they are; and where it `reads`,
    /// every byte of them. The verdict is kept with the snapshot.
    ///
    /// # Errors
    /// When the store can't be used, the verdict can't be kept, or this process is asked to stop.
    fn verify(
        &self,
        snapshot: &Snapshot,
        reads: bool,
        now: DateTime<Utc>,
    ) -> Result<Verified, EngineError>;
}
