//! The server's lists, record by record: what is understood is kept, what is not is told, and neither grows without end,
//! whatever a server sends.

use serde::Deserialize;

use super::answer::clean;
use super::fault::Fault;
use super::wire::{Unfit, WireInstance, WireSnapshot};
use crate::engine::Listing;
use crate::instance::InstanceRef;
use crate::snapshot::{Snapshot, SnapshotId};

/// More than any record of the contract can have.
const RECORD_MAX_BYTES: usize = 1024 * 1024;
/// What all records that are kept may take in memory, roughly: more of them than a list of the greatest length has, unless
/// somebody tries to fill this process's memory.
const KEPT_MAX_BYTES: usize = 192 * 1024 * 1024;
/// What one record takes besides its texts: its fields, the node that holds its tags, what the allocator needs.
const RECORD_BYTES: usize = 1024;
/// What one text in a map takes besides its bytes.
const TEXT_BYTES: usize = 56;
/// Of so many records it is told why they were not understood.
const TOLD_MAX: usize = 100;

/// The list of snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    snapshots: Vec<Snapshot>,
    kept_bytes: usize,
    problems: Problems,
}

/// The list of instances.
#[derive(Debug, Default)]
pub(super) struct Instances {
    instances: Vec<InstanceRef>,
    kept_bytes: usize,
    problems: Problems,
}

/// Records that were not understood.
#[derive(Debug, Default)]
struct Problems {
    told: Vec<String>,
    untold: usize,
}

impl Snapshots {
    /// Adds a record. One that can't be understood becomes a problem, and is never deleted.
    ///
    /// # Errors
    /// [`Fault::Garbled`] when it is more than a server can mean.
    pub(super) fn take(&mut self, record: &str) -> Result<(), Fault> {
        match parse::<WireSnapshot>(record).and_then(WireSnapshot::into_snapshot) {
            Ok(snapshot) => {
                spend(&mut self.kept_bytes, bytes_of(&snapshot))?;
                self.snapshots.push(snapshot);
            }
            Err(why) => self.problems.tell(|| {
                format!(
                    "the server's snapshot {:?} is left alone, its record can't be understood: {}",
                    id_of(record),
                    clean(&why.to_string(), None)
                )
            }),
        }
        Ok(())
    }

    /// The list. An id that stands in it twice names nothing for certain, so that its snapshots are problems as well.
    pub(super) fn into_listing(mut self) -> Listing {
        self.snapshots.sort_by(|a, b| a.id.cmp(&b.id));
        let mut repeated: Vec<SnapshotId> = self
            .snapshots
            .windows(2)
            .filter(|pair| pair[0].id == pair[1].id)
            .map(|pair| pair[0].id.clone())
            .collect();
        repeated.dedup();
        if !repeated.is_empty() {
            self.snapshots
                .retain(|snapshot| repeated.binary_search(&snapshot.id).is_err());
        }
        for id in repeated {
            self.problems.tell(|| {
                format!("the server lists snapshot {id} more than once; it is left alone")
            });
        }
        Listing {
            snapshots: self.snapshots,
            problems: self.problems.into_lines("snapshots"),
        }
    }
}

impl Instances {
    /// Adds a record: its id and name.
    ///
    /// # Errors
    /// [`Fault::Garbled`] when it is more than a server can mean.
    pub(super) fn take(&mut self, record: &str) -> Result<(), Fault> {
        match parse::<WireInstance>(record).and_then(WireInstance::into_ref) {
            Ok(instance) => {
                let texts = instance.id.as_str().len() + instance.name.len();
                spend(&mut self.kept_bytes, 4 * TEXT_BYTES + texts)?;
                self.instances.push(instance);
            }
            // Whether one is gone is asked one by one, so that leaving one out of the list costs only its name.
            Err(why) => self.problems.tell(|| {
                format!(
                    "instance {:?} in the server's list is left out: {}",
                    id_of(record),
                    clean(&why.to_string(), None)
                )
            }),
        }
        Ok(())
    }

    /// The instances, each once, and a line for each that was left out.
    pub(super) fn into_parts(mut self) -> (Vec<InstanceRef>, Vec<String>) {
        self.instances.sort_by(|a, b| a.id.cmp(&b.id));
        self.instances.dedup_by(|a, b| a.id == b.id);
        (self.instances, self.problems.into_lines("instances"))
    }
}

impl Problems {
    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(line());
        } else {
            self.untold += 1;
        }
    }

    fn into_lines(mut self, of: &str) -> Vec<String> {
        if self.untold > 0 {
            self.told.push(format!(
                "{} more {of} of the server's list can't be understood",
                self.untold
            ));
        }
        self.told
    }
}

/// A record in the contract's form.
fn parse<'a, T: Deserialize<'a>>(record: &'a str) -> Result<T, Unfit> {
    if record.len() > RECORD_MAX_BYTES {
        return Err(Unfit::Long(RECORD_MAX_BYTES / 1024));
    }
    Ok(serde_json::from_str(record)?)
}

/// The id of a record of any form, for a message; empty where it has none.
fn id_of(record: &str) -> String {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    parse::<Named>(record).map_or_else(|_| String::new(), |named| clean(&named.id, None))
}

fn spend(kept_bytes: &mut usize, more: usize) -> Result<(), Fault> {
    *kept_bytes = kept_bytes.saturating_add(more);
    if *kept_bytes > KEPT_MAX_BYTES {
        return Err(Fault::Garbled(format!(
            "its list would take more than {} MiB of memory",
            KEPT_MAX_BYTES / 1024 / 1024
        )));
    }
    Ok(())
}

/// What a snapshot takes in memory, roughly.
fn bytes_of(snapshot: &Snapshot) -> usize {
    let texts = [
        snapshot.id.as_str(),
        &snapshot.name,
        &snapshot.source_instance_id,
        &snapshot.source_instance_name,
        &snapshot.source_hypervisor,
    ];
    let tags = snapshot
        .tags
        .iter()
        .map(|(key, value)| 2 * TEXT_BYTES + key.len() + value.len());
    RECORD_BYTES + texts.map(str::len).iter().sum::<usize>() + tags.sum::<usize>()
}
