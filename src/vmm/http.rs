//! HTTP on a VMM's unix socket: one request, one answer, each with a deadline. What the requests mean is the drivers'
//! business; this file owns the connection and turns every way it can fail into a [`VmmError`].

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::debug;
use reqwest::Method;
use reqwest::blocking::{Client, Response};
use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::interrupt::Watch;
use crate::vmm::peer::{Address, Peer};
use crate::vmm::{Timeouts, VmmError};

/// The largest answer that is read, in bytes; the longest seen is a few kilobytes.
const ANSWER_MAX_BYTES: u64 = 4 << 20;

/// The longest text that a VMM's error adds to ours, in characters.
const MESSAGE_MAX_CHARS: usize = 600;

/// Both VMMs answer one request at a time.
const BUSY: &str = "it hangs, or is busy with a save that somebody else asked for";

/// The control socket of a VMM that speaks HTTP. Each request has a connection of its own: a kept one would take one of
/// the few that the VMM accepts, and would hide that the VMM was restarted.
#[derive(Debug)]
pub struct HttpSocket {
    socket: PathBuf,
    // The client connects to its path.
    _address: Address,
    client: Client,
    limit: Duration,
    watch: Watch,
    peer: Option<Peer>,
}

impl HttpSocket {
    /// Connects to see who listens at `socket`.
    ///
    /// # Errors
    /// [`VmmError::Unreachable`] when nobody does.
    pub fn connect(socket: &Path, timeouts: Timeouts) -> Result<Self, VmmError> {
        let unreachable = |source| VmmError::Unreachable {
            socket: socket.to_owned(),
            source,
        };
        let address = Address::of(socket).map_err(unreachable)?;
        let peer = Peer::at(&address).map_err(unreachable)?;
        let client =
            client(address.path()).map_err(|error| unreachable(io::Error::other(error)))?;
        Ok(Self {
            socket: socket.to_owned(),
            _address: address,
            client,
            limit: timeouts.request,
            watch: timeouts.watch,
            peer,
        })
    }

    /// From now on this is what ends every wait.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who listened when this was made.
    pub const fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// The limit of an ordinary request.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// Asks for what stands at `path`, within the limit of an ordinary request.
    ///
    /// # Errors
    /// When there is no answer, an error, or something else than a `T`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, VmmError> {
        let body = self.call(Method::GET, path, None, self.limit)?;
        serde_json::from_slice(&body).map_err(|error| VmmError::Protocol {
            request: format!("GET {path}"),
            detail: error.to_string(),
        })
    }

    /// Sends one request and returns the body of its answer, which came within `limit`.
    ///
    /// # Errors
    /// When there is no answer in time, or one that is no success. The VMM may carry the request out all the same.
    pub fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Vec<u8>, VmmError> {
        self.watch.check_cleanup()?;
        let request = format!("{method} {path}");
        let start = Instant::now();
        let mut builder = self
            .client
            .request(method, format!("http://localhost{path}"))
            .timeout(limit);
        if let Some(body) = body {
            builder = builder.json(body);
        }
        let answered = builder
            .send()
            .map_err(|error| self.failed(&request, limit, &error));
        let (status, answer) = answered.and_then(|response| {
            let status = response.status();
            Ok((status, self.read(&request, limit, response)?))
        })?;
        debug!(
            "{}: {request} -> {} in {:.1} ms",
            self.socket.display(),
            status.as_u16(),
            start.elapsed().as_secs_f64() * 1e3
        );
        if status.is_success() {
            Ok(answer)
        } else {
            Err(VmmError::Refused {
                request,
                message: message(status.as_u16(), &answer),
            })
        }
    }

    fn read(
        &self,
        request: &str,
        limit: Duration,
        response: Response,
    ) -> Result<Vec<u8>, VmmError> {
        let mut answer = Vec::new();
        response
            .take(ANSWER_MAX_BYTES + 1)
            .read_to_end(&mut answer)
            .map_err(|error| match error.downcast::<reqwest::Error>() {
                Ok(error) => self.failed(request, limit, &error),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    self.timed_out(request, limit)
                }
                Err(_) => self.closed(request),
            })?;
        if answer.len() as u64 > ANSWER_MAX_BYTES {
            return Err(VmmError::Protocol {
                request: request.to_owned(),
                detail: format!("it is longer than {ANSWER_MAX_BYTES} bytes"),
            });
        }
        Ok(answer)
    }

    /// What it means that `error` came instead of an answer.
    fn failed(&self, request: &str, limit: Duration, error: &reqwest::Error) -> VmmError {
        if error.is_timeout() {
            return self.timed_out(request, limit);
        }
        // The innermost cause is the one that says something: an error of the socket, or of the HTTP parser.
        let mut cause: &(dyn std::error::Error + 'static) = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let io_kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if error.is_connect() {
            return VmmError::Unreachable {
                socket: self.socket.clone(),
                source: io_kind
                    .map_or_else(|| io::Error::other(cause.to_string()), io::Error::from),
            };
        }
        let detail = cause.to_string();
        // hyper tells an end in the middle of an answer from nonsense by its text alone.
        if io_kind.is_some() || detail.contains("closed") || detail.contains("end of file") {
            return self.closed(request);
        }
        VmmError::Protocol {
            request: request.to_owned(),
            detail,
        }
    }

    fn timed_out(&self, request: &str, limit: Duration) -> VmmError {
        VmmError::TimedOut {
            socket: self.socket.clone(),
            request: request.to_owned(),
            limit,
            hint: Some(BUSY),
        }
    }

    fn closed(&self, request: &str) -> VmmError {
        VmmError::Closed {
            socket: self.socket.clone(),
            request: request.to_owned(),
        }
    }
}

/// A client for one socket. It never speaks TLS, so it loads no certificates, which costs more than all the rest.
fn client(address: &Path) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(Client::builder()
        .unix_socket(address)
        .tls_backend_preconfigured(tls)
        .http1_only()
        .no_proxy()
        .redirect(Policy::none())
        .pool_max_idle_per_host(0)
        .build()?)
}

/// The VMM's own words in an error's body: Cloud Hypervisor sends an array of strings, outermost first, Firecracker an
/// object with a `fault_message`; anything else is taken as it is.
fn message(status: u16, body: &[u8]) -> String {
    let text = match serde_json::from_slice(body) {
        Ok(Value::Array(causes)) => {
            let causes = causes.iter().filter_map(Value::as_str).map(first_paragraph);
            causes.collect::<Vec<_>>().join(": ")
        }
        Ok(Value::Object(fault)) => fault
            .get("fault_message")
            .and_then(Value::as_str)
            .map(|message| first_paragraph(message).to_owned())
            .unwrap_or_default(),
        Ok(_) | Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if one_line.is_empty() {
        return format!("HTTP status {status} without a reason");
    }
    let mut short: String = one_line.chars().take(MESSAGE_MAX_CHARS).collect();
    if short.len() < one_line.len() {
        short.push('…');
    }
    short
}

/// Cloud Hypervisor puts a stack backtrace behind its message when its environment asks for one.
fn first_paragraph(text: &str) -> &str {
    text.split("\n\n").next().unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_the_vmm_said() {
        let cases: [(&str, &str); 6] = [
            (
                r#"["Error from API","The VM could not be paused","VM is not running"]"#,
                "Error from API: The VM could not be paused: VM is not running",
            ),
            (
                r#"["Could not get vCPU state GetNestedState(Invalid argument (os error 22)\n\nStack backtrace:\n   0: x"]"#,
                "Could not get vCPU state GetNestedState(Invalid argument (os error 22)",
            ),
            (
                r#"{"fault_message":"Create snapshot error: no\nspace"}"#,
                "Create snapshot error: no space",
            ),
            ("plain words", "plain words"),
            ("", "HTTP status 500 without a reason"),
            ("{}", "HTTP status 500 without a reason"),
        ];
        for (body, expected) in cases {
            assert_eq!(message(500, body.as_bytes()), expected);
        }
    }

    #[test]
    fn an_error_of_any_length_becomes_a_short_line() {
        let long = message(500, "ä".repeat(10_000).as_bytes());
        assert_eq!(long.chars().count(), MESSAGE_MAX_CHARS + 1);
    }
}
