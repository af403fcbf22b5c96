//! Whether a hypeman server runs on this host, for an engine that must then leave running instances to it. One request
//! without a key, at most once per process, and only when somebody wants to know.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use log::{debug, warn};
use reqwest::Method;

use super::base_url::BaseUrl;
use super::client::{Client, Pace, Request};
use super::fault::Fault;
use super::{DEFAULT_BASE_URL, config, wire};
use crate::engine::EngineError;
use crate::error::in_words;
use crate::http;

/// A server on this host answers at once, or is not at work.
const PATIENCE: Duration = Duration::from_secs(1);
/// More is no answer to this question, whoever listens there.
const HEALTH_MAX_BYTES: u64 = 4 * 1024;

/// Where a hypeman server on this host would answer. The first that is set wins, in the order of the fields.
#[derive(Debug, Default)]
pub struct Addresses {
    /// The address that the user named.
    pub base_url: Option<String>,
    /// hypeman's own variable for its server's port.
    port: Option<u16>,
    /// The configuration files of its server.
    server_configs: Vec<PathBuf>,
    /// The configuration of its command line, whose address counts where it is on this host.
    cli_base_url: Option<String>,
}

impl Addresses {
    /// The places that hypeman itself looks at, and before them the address that the user named.
    pub fn of_this_host(base_url: Option<String>) -> Self {
        let port = std::env::var_os("PORT").and_then(|port| port.to_str()?.parse().ok());
        Self {
            base_url,
            port,
            server_configs: config::server_configs(),
            cli_base_url: config::cli_base_url(),
        }
    }

    /// The one address that is asked.
    fn first(&self) -> Result<BaseUrl, EngineError> {
        // No key is sent, so that plain http betrays nothing.
        let parse = |text: &str| BaseUrl::parse(text, true);
        if let Some(named) = &self.base_url {
            return parse(named);
        }
        if let Some(port) = self.port.or_else(|| config::port(&self.server_configs)) {
            return parse(&format!("http://localhost:{port}"));
        }
        let of_cli = self.cli_base_url.as_deref().map(parse);
        match of_cli {
            Some(Ok(base)) if http::is_loopback(base.url()) => Ok(base),
            _ => parse(DEFAULT_BASE_URL),
        }
    }
}

/// A hypeman server on this host, if there is one.
#[derive(Debug)]
pub struct ServerPresence {
    addresses: Addresses,
    ca_file: Option<PathBuf>,
    answer: OnceLock<Result<Option<String>, String>>,
}

impl ServerPresence {
    /// A server at one of these addresses, whose certificate may be signed by a CA of `ca_file`. Asks nobody yet.
    pub fn new(addresses: Addresses, ca_file: Option<PathBuf>) -> Self {
        Self {
            addresses,
            ca_file,
            answer: OnceLock::new(),
        }
    }

    /// The address at which a hypeman server answers; `None` when none does. Asked once.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the address that the user named can't be asked.
    pub fn answers_at(&self) -> Result<Option<&str>, EngineError> {
        self.answer
            .get_or_init(|| self.ask().map_err(|error| in_words(&error)))
            .as_ref()
            .map(Option::as_deref)
            .map_err(|error| {
                EngineError::unavailable(format!(
                    "can't find out whether a hypeman server runs on this host: {error}"
                ))
            })
    }

    fn ask(&self) -> Result<Option<String>, EngineError> {
        let base = self.addresses.first()?;
        let address = base.to_string();
        let roots = match &self.ca_file {
            Some(file) if !http::is_plain(base.url()) => {
                http::read_roots(file).map_err(EngineError::unavailable)?
            }
            Some(_) | None => Vec::new(),
        };
        let client = Client::build(base, None, roots, Pace::default())?;
        let request = Request {
            answer_max_bytes: HEALTH_MAX_BYTES,
            ..Request::new(Method::GET, &["health"], PATIENCE)
        };
        let fault = match client.send(&request) {
            Ok(answer) => {
                return Ok(wire::is_well(&answer.body).then_some(address));
            }
            Err(fault) => fault,
        };
        let detail = fault.detail(&address, false);
        match fault {
            // Somebody is there, or may be, and who it is can't be told.
            Fault::Untrusted(_)
            | Fault::Unreachable {
                is_forbidden: true, ..
            } => Err(EngineError::unavailable(detail)),
            Fault::TimedOut(_) => {
                warn!("taken for no hypeman server, because it is silent: {detail}");
                Ok(None)
            }
            Fault::Unreachable { .. }
            | Fault::Silent(_)
            | Fault::Lost(_)
            | Fault::Redirected { .. }
            | Fault::Page(_)
            | Fault::Garbled(_)
            | Fault::Refused(_)
            | Fault::Interrupted => {
                debug!("no hypeman server on this host: {detail}");
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use support::fake_hypeman::{Answer, FakeHypeman};

    fn at(url: &str) -> ServerPresence {
        let addresses = Addresses {
            base_url: Some(url.to_owned()),
            ..Addresses::default()
        };
        ServerPresence::new(addresses, None)
    }

    #[test]
    fn the_address_is_that_of_the_first_place_that_names_one() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yaml");
        std::fs::write(&config, "port: 9002\n").unwrap();
        let mut addresses = Addresses {
            base_url: Some("http://h.example:9000/api".to_owned()),
            port: Some(9001),
            server_configs: vec![config],
            cli_base_url: Some("http://127.0.0.1:9003".to_owned()),
        };
        let first = |addresses: &Addresses| addresses.first().unwrap().to_string();
        assert_eq!(first(&addresses), "http://h.example:9000/api");
        addresses.base_url = None;
        assert_eq!(first(&addresses), "http://localhost:9001");
        addresses.port = None;
        assert_eq!(first(&addresses), "http://localhost:9002");
        addresses.server_configs.clear();
        assert_eq!(first(&addresses), "http://127.0.0.1:9003");
        // A command line that speaks with another host says nothing of this one.
        addresses.cli_base_url = Some("https://h.example".to_owned());
        assert_eq!(first(&addresses), DEFAULT_BASE_URL);
        addresses.cli_base_url = None;
        assert_eq!(first(&addresses), DEFAULT_BASE_URL);
    }

    #[test]
    fn a_server_that_is_well_is_asked_once_and_without_a_key() {
        let server = FakeHypeman::start();
        let presence = at(&server.url());
        for _ in 0..2 {
            let answers_at = presence.answers_at().unwrap().map(str::to_owned);
            assert_eq!(answers_at, Some(server.url()));
        }
        let world = server.world();
        assert_eq!(world.lines(""), ["GET /health"]);
        assert_eq!(world.requests[0].authorization, None);
    }

    #[test]
    fn other_services_and_closed_ports_are_no_hypeman() {
        for answer in [
            Answer::text(200, "text/html", "<html>ok</html>"),
            Answer::text(200, "text/plain", "ok"),
            Answer::text(200, "application/json", r#"{"status":"UP"}"#),
            Answer::text(200, "application/json", r#"["ok"]"#),
            Answer::text(404, "application/json", r#"{"status":"ok"}"#),
            Answer::text(503, "text/plain", "later"),
            Answer::text(302, "text/plain", "").with("Location", "http://localhost:1/health"),
        ] {
            let server = FakeHypeman::start();
            let shown = format!("{answer:?}");
            server.world().fail("GET /health", answer);
            assert_eq!(at(&server.url()).answers_at().unwrap(), None, "{shown}");
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = format!("http://{}", port.local_addr().unwrap());
        drop(port);
        assert_eq!(at(&closed).answers_at().unwrap(), None);
    }

    #[test]
    fn a_service_that_stays_silent_costs_a_second_and_is_no_hypeman() {
        // Connections wait in its queue.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let began = std::time::Instant::now();
        let presence = at(&format!("http://{}", silent.local_addr().unwrap()));
        assert_eq!(presence.answers_at().unwrap(), None);
        assert!(began.elapsed() < 5 * PATIENCE);
    }

    #[test]
    fn an_address_that_can_not_be_asked_is_an_error() {
        for url in ["nonsense", "ftp://localhost"] {
            let error = at(url).answers_at().unwrap_err().to_string();
            assert!(error.contains("--base-url"), "{error}");
        }
        let (config, _) = support::fake_tls::server("127.0.0.1");
        let server = FakeHypeman::start_tls(config);
        let error = at(&server.url()).answers_at().unwrap_err().to_string();
        assert!(error.contains("--ca-file"), "{error}");
    }
}
