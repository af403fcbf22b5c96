//! Which schedule a reference on the command line means.
//!
//! Schedules outlive instances and servers go away, so a schedule can be named by its id, or by a unique prefix of it,
//! without any engine; only names need one.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use anyhow::Context as _;

use super::Context;
use super::failure::Refused;
use crate::engine::{Engine, EngineError};
use crate::error::in_words;
use crate::instance::{InstanceId, InstanceRef, ResolveError, resolve};

/// The schedules and, once a reference needs them, the names that the engine knows.
pub struct Targets<'a> {
    context: &'a Context<'a>,
    ids: Vec<InstanceId>,
    instances: OnceCell<Result<Vec<InstanceRef>, EngineError>>,
}

impl<'a> Targets<'a> {
    /// Reads which schedules there are.
    ///
    /// # Errors
    /// When their directory can't be read.
    pub fn read(context: &'a Context<'a>) -> anyhow::Result<Self> {
        let (ids, _) = context.store.ids()?;
        Ok(Self {
            context,
            ids,
            instances: OnceCell::new(),
        })
    }

    /// The schedule that `reference` means: by exact id, else by its instance's name, else by a unique prefix of an id.
    ///
    /// # Errors
    /// When nothing or more than one schedule matches, and when that can't be told because the engine, which knows the
    /// names, can't be used.
    pub fn find(&self, reference: &str) -> anyhow::Result<InstanceRef> {
        if let Some(id) = self.ids.iter().find(|id| id.as_str() == reference) {
            return Ok(nameless(id));
        }
        match self.instances() {
            Ok(instances) => self.find_by_name_or_prefix(reference, instances),
            Err(error) => {
                let candidates: Vec<InstanceRef> = self.ids.iter().map(nameless).collect();
                match resolve(reference, &candidates) {
                    Ok(found) => {
                        log::warn!(
                            "taking {reference:?} as the start of id {}: names can't be looked up: {}",
                            found.id,
                            in_words(error)
                        );
                        Ok(found.clone())
                    }
                    Err(ambiguous @ ResolveError::Ambiguous { .. }) => Err(ambiguous.into()),
                    Err(ResolveError::NotFound(_)) => Err(anyhow::anyhow!(in_words(error)).context(
                        format!("no schedule's id starts with {reference:?}, and names can't be looked up"),
                    )),
                }
            }
        }
    }

    /// The schedules that `references` mean; `None`, which stands for all, when there are no references.
    ///
    /// # Errors
    /// As [`Targets::find`], for the first reference that fails.
    pub fn only(&self, references: &[String]) -> anyhow::Result<Option<BTreeSet<InstanceId>>> {
        if references.is_empty() {
            return Ok(None);
        }
        references
            .iter()
            .map(|reference| self.find(reference).map(|found| found.id))
            .collect::<anyhow::Result<_>>()
            .map(Some)
    }

    fn instances(&self) -> Result<&[InstanceRef], &EngineError> {
        self.instances
            .get_or_init(|| (self.context.ports)()?.engine.instances())
            .as_deref()
    }

    fn find_by_name_or_prefix(
        &self,
        reference: &str,
        instances: &[InstanceRef],
    ) -> anyhow::Result<InstanceRef> {
        let named = |id: &InstanceId| {
            instances
                .iter()
                .find(|instance| instance.id == *id)
                .cloned()
                .unwrap_or_else(|| nameless(id))
        };
        let candidates: Vec<InstanceRef> = self.ids.iter().map(named).collect();
        match resolve(reference, &candidates) {
            Ok(found) => Ok(found.clone()),
            Err(ambiguous @ ResolveError::Ambiguous { .. }) => Err(ambiguous.into()),
            Err(ResolveError::NotFound(_)) => {
                Err(Refused::NotFound(match resolve(reference, instances) {
                    Ok(instance) => format!(
                        "instance {instance} has no schedule; give it one with `hypeman-snap set`"
                    ),
                    Err(_) => format!(
                        "no schedule's instance has the id, the name or the id prefix {reference:?}"
                    ),
                })
                .into())
            }
        }
    }
}

/// The instance that `reference` means among those that exist.
///
/// # Errors
/// When the engine can't say which there are, and when nothing or several match.
pub fn existing(engine: &dyn Engine, reference: &str) -> anyhow::Result<InstanceRef> {
    let instances = engine.instances().context("can't look the instance up")?;
    Ok(resolve(reference, &instances)?.clone())
}

fn nameless(id: &InstanceId) -> InstanceRef {
    InstanceRef {
        id: id.clone(),
        name: String::new(),
    }
}
