//! The hypeman server as an engine, over its HTTP API.
//!
//! Only the contract's own "not found" means that something is gone; whatever else a server, a proxy or a login page
//! answers is an error. Nothing is kept on this host, so there is nothing to recover and nothing to sweep.

mod answer;
mod base_url;
mod body;
mod client;
mod config;
mod create;
mod examine;
mod fault;
mod key;
mod lists;
mod presence;
mod restore;
mod wire;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::warn;
use reqwest::Method;

use self::base_url::BaseUrl;
use self::client::{Client, Pace, Request};
pub use self::config::cli_base_url;
use self::fault::{Concern, Fault};
pub use self::key::KeySource;
use self::lists::{Instances, Snapshots};
pub use self::presence::{Addresses, ServerPresence};
use self::wire::{WireInstance, WireSchedule};
use super::{CreateRequest, Created, Diagnose, Engine, EngineError, Listing, Presence, Recovery};
use crate::finding::Finding;
use crate::http;
use crate::instance::{Instance, InstanceId, InstanceRef};
use crate::snapshot::{Kind, SnapshotId};

/// Where the server is when nothing says otherwise (contract, section 1).
pub const DEFAULT_BASE_URL: &str = "http://localhost:8080";
/// How long any request but a creation may take, when nothing says otherwise.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the engine is built from.
#[derive(Debug, Clone)]
pub struct HypemanSetup {
    /// The server's address; a path prefix is kept.
    pub base_url: String,
    /// Where the API key may come from.
    pub key: KeySource,
    /// A PEM file with CA certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether plain http may leave this host.
    pub insecure_http: bool,
    /// The limit of any request but a creation.
    pub request_timeout: Duration,
    /// The limit of a creation, from the request until its outcome is clear.
    pub create_timeout: Duration,
}

/// The engine of one hypeman server.
#[derive(Debug)]
pub struct Hypeman {
    base: BaseUrl,
    key: KeySource,
    ca_file: Option<PathBuf>,
    request_timeout: Duration,
    create_timeout: Duration,
    pace: Pace,
    /// Built with the first request, because a minute in which nothing is due needs none.
    client: Mutex<Option<Arc<Client>>>,
}

impl Hypeman {
    /// Checks the settings. Reads no file and opens no connection.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the base URL can't be used.
    pub fn new(settings: HypemanSetup) -> Result<Self, EngineError> {
        Ok(Self {
            base: BaseUrl::parse(&settings.base_url, settings.insecure_http)?,
            key: settings.key,
            ca_file: settings.ca_file,
            request_timeout: settings.request_timeout,
            create_timeout: settings.create_timeout,
            pace: Pace::default(),
            client: Mutex::new(None),
        })
    }

    fn client(&self) -> Result<Arc<Client>, EngineError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client.as_ref() {
            return Ok(Arc::clone(client));
        }
        let roots = self
            .ca_file
            .as_deref()
            .map_or(Ok(Vec::new()), http::read_roots)
            .map_err(EngineError::unavailable)?;
        let built = Arc::new(Client::build(
            self.base.clone(),
            self.key.load()?,
            roots,
            self.pace.clone(),
        )?);
        *client = Some(Arc::clone(&built));
        Ok(built)
    }

    fn get<'a>(&self, path: &'a [&'a str]) -> Request<'a> {
        Request::new(Method::GET, path, self.request_timeout)
    }

    /// The instances, and a line for each that can't be understood.
    fn list_instances(&self, client: &Client) -> Result<(Vec<InstanceRef>, Vec<String>), Fault> {
        client
            .fetch_list(self.get(&["instances"]), Instances::take)
            .map(Instances::into_parts)
    }

    /// The instance with this id. The server takes names and prefixes too, so that what it finds may be another one.
    fn look_up(&self, client: &Client, id: &InstanceId) -> Result<Option<Instance>, Fault> {
        match client.fetch_for::<WireInstance>(&self.get(&["instances", id.as_str()])) {
            Ok(found) => {
                if found.id == id.as_str() {
                    return found.into_instance().map(Some);
                }
                // The server looks for ids before names and prefixes: it has another instance that is called like
                // this id or begins with it, and none whose id it is.
                Ok(None)
            }
            // Likewise: an exact id is never ambiguous.
            Err(fault) if fault.is_not_found() || fault.is_ambiguous() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn server_error(&self, client: &Client, fault: Fault, task: &str) -> EngineError {
        fault.into_error(
            task,
            Concern::Server,
            &self.base.to_string(),
            client.has_key(),
        )
    }

    fn instance_error(&self, client: &Client, fault: Fault, task: &str) -> EngineError {
        fault.into_error(
            task,
            Concern::Instance,
            &self.base.to_string(),
            client.has_key(),
        )
    }
}

impl Engine for Hypeman {
    fn instances(&self) -> Result<Vec<InstanceRef>, EngineError> {
        let client = self.client()?;
        let (instances, left_out) = self
            .list_instances(&client)
            .map_err(|fault| self.server_error(&client, fault, "list the instances"))?;
        for line in left_out {
            warn!("{}", client.redact(&line));
        }
        Ok(instances)
    }

    fn find(&self, id: &InstanceId) -> Presence {
        let found = self.client().and_then(|client| {
            let error = |fault| self.instance_error(&client, fault, &format!("read instance {id}"));
            self.look_up(&client, id).map_err(error)
        });
        found.into()
    }

    fn create(&self, request: &CreateRequest<'_>) -> Result<Created, EngineError> {
        if request.max_pause.is_some() && request.kind == Kind::Standby {
            return Err(EngineError::instance(
                "not taken: how long a hypeman server would pause the guest can't be foreseen, and --max-pause is set; \
                 `set` the schedule without it",
            ));
        }
        let client = self.client()?;
        create::Creation::new(self, &client, request).run()
    }

    fn list(&self) -> Result<Listing, EngineError> {
        let client = self.client()?;
        let error = |fault| self.server_error(&client, fault, "list the snapshots");
        let list = client.fetch_list(self.get(&["snapshots"]), Snapshots::take);
        let mut listing = list.map_err(error)?.into_listing();
        for problem in &mut listing.problems {
            *problem = client.redact(problem);
        }
        Ok(listing)
    }

    fn delete(&self, id: &SnapshotId) -> Result<(), EngineError> {
        let client = self.client()?;
        let path = ["snapshots", id.as_str()];
        match client.fetch(&Request::new(Method::DELETE, &path, self.request_timeout)) {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_not_found() => Ok(()),
            Err(fault) => {
                Err(self.instance_error(&client, fault, &format!("delete snapshot {id}")))
            }
        }
    }
}

impl Recovery for Hypeman {}

impl Diagnose for Hypeman {
    fn examine(&self, _is_busy: &(dyn Fn(&InstanceId) -> bool + Sync)) -> Vec<Finding> {
        examine::findings(self)
    }

    fn second_scheduler(&self, id: &InstanceId) -> Result<Option<String>, EngineError> {
        let client = self.client()?;
        let task = format!("ask whether the server itself has a schedule for instance {id}");
        let path = ["instances", id.as_str(), "snapshot-schedule"];
        match client.fetch_for::<WireSchedule>(&self.get(&path)) {
            Ok(theirs) => {
                // The id may be another instance's name, as in `look_up`.
                Ok((theirs.instance_id == id.as_str()).then(|| {
                    format!(
                        "the hypeman server at {} has a schedule of its own for instance {id}, every {}: two schedulers \
                         snapshot the same VM: remove one of the two",
                        self.base, answer::clean(&theirs.interval, None)
                    )
                }))
            }
            // Servers without a scheduler have no such route.
            Err(fault)
                if fault.is_not_found() || fault.is_ambiguous() || fault.is_no_such_route() =>
            {
                Ok(None)
            }
            Err(fault) => Err(self.instance_error(&client, fault, &task)),
        }
    }
}
