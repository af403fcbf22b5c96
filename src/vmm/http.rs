//! HTTP on a VMM's unix socket: one request, one answer, each with a deadline and a look at the watch while it is waited
//! for, however slowly its bytes come. What the requests mean is the drivers' business; this file owns the connection and
//! turns every way it can fail into a [`VmmError`].

use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use log::debug;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::{self, Runtime};

use crate::interrupt::{Deadline, Over, Watch};
use crate::vmm::address::Address;
use crate::vmm::launch;
use crate::vmm::peer::Peer;
use crate::vmm::{Timeouts, VmmError};

/// The largest answer that is read, in bytes; the longest seen is a few kilobytes.
const ANSWER_MAX_BYTES: usize = 4 << 20;

/// The largest error that is taken apart, in bytes.
const ERROR_MAX_BYTES: usize = 64 << 10;

/// Longest wait between two looks at the watch.
const SLICE: Duration = Duration::from_millis(50);

/// The longest text that a VMM's error adds to ours, in characters.
const MESSAGE_MAX_CHARS: usize = 600;

/// Both VMMs answer one request at a time.
const BUSY: &str = "it hangs, or is busy with a save that somebody else asked for";

/// The control socket of a VMM that speaks HTTP. Each request has a connection of its own: a kept one would take one of
/// the few that the VMM accepts, and would hide that the VMM was restarted.
#[derive(Debug)]
pub struct HttpSocket {
    socket: PathBuf,
    address: Address,
    // Does nothing but wait, in the thread that asks.
    runtime: Runtime,
    limit: Duration,
    watch: Watch,
    heeds_interrupts: bool,
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
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(unreachable)?;
        Ok(Self {
            socket: socket.to_owned(),
            address,
            runtime,
            limit: timeouts.request,
            watch: timeouts.watch,
            heeds_interrupts: true,
            peer,
        })
    }

    /// From now on this is what ends every wait.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// From now on a signal, or the end of the instance's time, ends a wait only after a while: what must be done to put
    /// the guest right is done.
    pub fn ignore_interrupts(&mut self) {
        self.heeds_interrupts = false;
    }

    /// From now on a signal ends a wait at once again.
    pub fn heed_interrupts(&mut self) {
        self.heeds_interrupts = true;
    }

    fn check(&self) -> Result<(), Over> {
        if self.heeds_interrupts {
            self.watch.check()
        } else {
            self.watch.check_cleanup()
        }
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
        let body = self.call(&Method::GET, path, None, self.limit)?;
        serde_json::from_slice(&body).map_err(|error| VmmError::Protocol {
            request: format!("GET {path}"),
            detail: error.to_string(),
        })
    }

    /// Sends a request that changes something, and is answered within `limit`.
    ///
    /// # Errors
    /// As [`HttpSocket::call`].
    pub fn ask(&self, request: &launch::Request, limit: Duration) -> Result<(), VmmError> {
        let method = match request.method {
            launch::Method::Put => Method::PUT,
            launch::Method::Patch => Method::PATCH,
        };
        self.call(&method, &request.path, request.body.as_ref(), limit)
            .map(drop)
    }

    /// Sends one request and returns the body of its answer, which came within `limit`.
    ///
    /// # Errors
    /// When there is no answer in time, or one that is no success. The VMM may carry the request out all the same.
    pub fn call(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Vec<u8>, VmmError> {
        let request = format!("{method} {path}");
        let limit = if self.heeds_interrupts {
            limit
        } else {
            self.watch.patience(limit)
        };
        let start = Instant::now();
        let (status, answer) =
            self.wait_for(&request, method, path, body, Deadline::after(limit))?;
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

    /// Sends a request and waits for the end of its answer. Given up, its connection is closed.
    fn wait_for(
        &self,
        request: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> Result<(StatusCode, Vec<u8>), VmmError> {
        self.runtime.block_on(async {
            let mut exchange = pin!(self.exchange(request, method, path, body));
            loop {
                self.check()?;
                let slice = deadline.remaining().min(SLICE);
                match tokio::time::timeout(slice, exchange.as_mut()).await {
                    Ok(answered) => return answered,
                    Err(_) if deadline.has_passed() => {
                        return Err(self.timed_out(request, deadline.limit()));
                    }
                    Err(_) => {}
                }
            }
        })
    }

    async fn exchange(
        &self,
        request: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>), VmmError> {
        let unreachable = |source| VmmError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        let failed = |error: hyper::Error| self.failed(request, &error);
        let stream = UnixStream::connect(self.address.path())
            .await
            .map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(ACCEPT, "*/*");
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            builder = builder.header(CONTENT_TYPE, "application/json");
            bytes = body.to_string().into();
        }
        let message = builder
            .body(Full::new(bytes))
            .map_err(|error| unreachable(io::Error::other(error)))?;
        let answer = async move {
            let response = sender.send_request(message).await.map_err(failed)?;
            let status = response.status();
            let mut body = response.into_body();
            let mut answer = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(failed)?;
                let piece = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
                if answer.len() + piece.len() > ANSWER_MAX_BYTES {
                    return Err(VmmError::Protocol {
                        request: request.to_owned(),
                        detail: format!("it is longer than {ANSWER_MAX_BYTES} bytes"),
                    });
                }
                answer.extend_from_slice(piece);
            }
            Ok((status, answer))
        };
        // The connection moves the bytes, and lives no longer than the wait for the answer: a request that is given up
        // closes it.
        let (mut answer, mut connection) = (pin!(answer), pin!(connection));
        let mut is_open = true;
        poll_fn(|context| {
            // What goes wrong there is told by the answer as well.
            is_open = is_open && connection.as_mut().poll(context).is_pending();
            answer.as_mut().poll(context)
        })
        .await
    }

    /// What it means that `error` came instead of an answer.
    fn failed(&self, request: &str, error: &hyper::Error) -> VmmError {
        // The innermost cause is the one that says something: an error of the socket, or of the HTTP parser.
        let mut cause: &(dyn std::error::Error + 'static) = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let is_closed = cause.is::<io::Error>()
            || error.is_incomplete_message()
            || error.is_closed()
            || error.is_canceled();
        if is_closed {
            return self.closed(request);
        }
        VmmError::Protocol {
            request: request.to_owned(),
            detail: cause.to_string(),
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

/// The error of a Firecracker.
#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    fault_message: String,
}

/// The VMM's own words in an error's body: Cloud Hypervisor sends an array of strings, outermost first, Firecracker an
/// object with a `fault_message`; anything else is taken as it is.
fn message(status: u16, body: &[u8]) -> String {
    let body = body.get(..ERROR_MAX_BYTES).unwrap_or(body);
    let text = if let Ok(causes) = serde_json::from_slice::<Vec<String>>(body) {
        let causes: Vec<_> = causes.iter().map(|cause| first_paragraph(cause)).collect();
        causes.join(": ")
    } else if let Ok(fault) = serde_json::from_slice::<Fault>(body) {
        first_paragraph(&fault.fault_message).to_owned()
    } else {
        String::from_utf8_lossy(body).into_owned()
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
