//! Requests to the server: one attempt with its deadline, and repeats where repeating is safe.
//!
//! Knows HTTP and nothing of instances. Logs method, path, status and time, never headers or bodies.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use log::debug;
use reqwest::blocking::Response;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, SERVER};
use reqwest::{Certificate, Method, StatusCode};
use serde::de::DeserializeOwned;

use super::answer;
use super::base_url::BaseUrl;
use super::body::Body;
use super::fault::Fault;
use super::key::Secret;
use super::wire;
use crate::engine::EngineError;
use crate::{http, interrupt};

/// What one instance or one snapshot can't need.
const ANSWER_MAX_BYTES: u64 = 1024 * 1024;
/// Some 100,000 snapshots; more is no answer of this API.
const LIST_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// What is read of an answer that says no.
const REFUSAL_MAX_BYTES: u64 = 64 * 1024;
/// How often a wait looks whether the process was asked to stop.
const NAP: Duration = Duration::from_millis(50);

/// How patient the engine is. One set of values for production; tests use shorter ones.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// The wait before the first repeat of a request; it doubles from then on, with some jitter.
    pub(super) repeat_after: Duration,
    /// How often a request is repeated.
    pub(super) repeats: usize,
    /// The longest that one request's waits may add up to, whatever the server asks for.
    pub(super) repeat_within: Duration,
    /// How long requests fail at once after one that the server left without any answer, so that a run over many
    /// instances does not wait for a dead server once per instance.
    pub(super) silence: Duration,
    /// The wait before the second look for a snapshot whose creation had no clear answer; it doubles from then on.
    pub(super) look_after: Duration,
    /// The longest wait between two looks.
    pub(super) look_at_least_every: Duration,
    /// How long an instance must look untouched before such a snapshot counts as not made.
    pub(super) untouched_for: Duration,
    /// How long looks may fail, one after the other, before such a snapshot's fate counts as unclear.
    pub(super) blind: Duration,
    /// How long the server may take to wake an instance; its own limit is 60 s (contract, section 3).
    pub(super) wake_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            repeat_after: Duration::from_millis(250),
            repeats: 3,
            repeat_within: Duration::from_secs(30),
            silence: Duration::from_secs(15),
            look_after: Duration::from_millis(500),
            look_at_least_every: Duration::from_secs(10),
            untouched_for: Duration::from_secs(30),
            blind: Duration::from_secs(60),
            wake_timeout: Duration::from_secs(90),
        }
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// The path below the base URL, unescaped.
    pub(super) path: &'a [&'a str],
    /// The query, unescaped.
    pub(super) query: &'a [(&'a str, &'a str)],
    /// A JSON body.
    pub(super) body: Option<Vec<u8>>,
    /// The limit from the connection to the end of the answer.
    pub(super) timeout: Duration,
    /// A longer answer is an error.
    pub(super) answer_max_bytes: u64,
}

impl<'a> Request<'a> {
    /// A request without query and body.
    pub(super) fn new(method: Method, path: &'a [&'a str], timeout: Duration) -> Self {
        Self {
            method,
            path,
            query: &[],
            body: None,
            timeout,
            answer_max_bytes: ANSWER_MAX_BYTES,
        }
    }
}

/// An answer that says success and is no HTML page.
#[derive(Debug)]
pub(super) struct Answer {
    /// The body, whole.
    pub(super) body: Vec<u8>,
    /// The `Server` header, cleaned.
    pub(super) server: Option<String>,
}

/// What is made of the headers and the body of such an answer.
type Reader<'a, T> = dyn Fn(&HeaderMap, Body<Response>) -> Result<T, Fault> + 'a;

/// A client for one server.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::blocking::Client,
    base: BaseUrl,
    key: Option<Secret>,
    pace: Pace,
    /// When a request was last left without any answer, and how.
    silent: Mutex<Option<(Instant, String)>>,
}

impl Client {
    /// Prepares a client; opens no connection.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when there are no trusted certificates, or no thread for the client.
    pub(super) fn build(
        base: BaseUrl,
        key: Option<Secret>,
        extra_roots: Vec<Certificate>,
        pace: Pace,
    ) -> Result<Self, EngineError> {
        let builder = http::client(base.url(), extra_roots);
        let builder = if http::is_plain(base.url()) {
            // The key may go to the server in the clear, as the user said, and to nobody else.
            builder.no_proxy()
        } else {
            // A proxy of the environment gets a CONNECT; what goes through it is encrypted.
            builder
        };
        let http = builder
            // A creation is silent for minutes; without this, a NAT on the way forgets the connection.
            .tcp_keepalive(Duration::from_secs(30))
            // A POST on a kept connection that the server has just closed would have an unclear outcome.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|cause| EngineError::Unavailable {
                message: format!(
                    "can't prepare a connection to the hypeman server at {base}: {}: are the system's CA certificates \
                     installed (package ca-certificates)?",
                    http::root_cause(&cause)
                ),
                source: None,
            })?;
        Ok(Self {
            http,
            base,
            key,
            pace,
            silent: Mutex::new(None),
        })
    }

    /// The server's address, for messages.
    pub(super) fn base(&self) -> String {
        self.base.to_string()
    }

    /// `text`, which may quote the server, without the key.
    pub(super) fn redact(&self, text: &str) -> String {
        self.key
            .as_ref()
            .map_or_else(|| text.to_owned(), |key| key.redact(text))
    }

    /// Whether requests carry a key.
    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Sends a request that may be repeated without harm, and repeats it while that may help.
    ///
    /// Waits as long as the server asks for (`Retry-After`), but all waits together stay within the pace's limit.
    /// Right after a request that had no answer at all, fails without trying.
    ///
    /// # Errors
    /// The last attempt's fault.
    pub(super) fn fetch(&self, request: &Request<'_>) -> Result<Answer, Fault> {
        self.fetch_as(request, &|headers, body| self.answer(headers, body))
    }

    /// As [`Client::fetch`], for what the answer says.
    ///
    /// # Errors
    /// The last attempt's fault; [`Fault::Garbled`] when the answer has another form.
    pub(super) fn fetch_for<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, Fault> {
        self.fetch_as(request, &|_, body| wire::parse(&body.whole()?))
    }

    /// As [`Client::fetch`] for a list, whose records are given to `take` one after the other. What was taken starts
    /// anew, as `T::default()`, when the request is repeated.
    ///
    /// # Errors
    /// The last attempt's fault, which may be one of `take`.
    pub(super) fn fetch_list<T: Default>(
        &self,
        request: Request<'_>,
        take: impl Fn(&mut T, &str) -> Result<(), Fault>,
    ) -> Result<T, Fault> {
        let request = Request {
            answer_max_bytes: LIST_MAX_BYTES,
            ..request
        };
        self.fetch_as(&request, &|_, body| {
            let mut taken = T::default();
            body.each(&mut |record| take(&mut taken, record))?;
            Ok(taken)
        })
    }

    fn fetch_as<T>(&self, request: &Request<'_>, read: &Reader<'_, T>) -> Result<T, Fault> {
        if let Some((at, how)) = self.silent().as_ref() {
            if at.elapsed() < self.pace.silence {
                return Err(Fault::Silent(how.clone()));
            }
        }
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(self.pace.repeat_after)
            .with_max_times(self.pace.repeats)
            .with_jitter()
            .build();
        let mut waited = Duration::ZERO;
        loop {
            let fault = match self.send_as(request, read) {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let delay = delays
                .next()
                .filter(|_| fault.is_passing())
                .map(|delay| fault.retry_after().map_or(delay, |asked| asked.max(delay)))
                .filter(|delay| waited + *delay <= self.pace.repeat_within);
            let Some(delay) = delay else {
                if let Some(how) = fault.silence(&self.base()) {
                    *self.silent() = Some((Instant::now(), how));
                }
                return Err(fault);
            };
            debug!(
                "{} {} is repeated in {} ms",
                request.method,
                self.path(request),
                delay.as_millis()
            );
            if !pause(delay) {
                return Err(Fault::Interrupted);
            }
            waited += delay;
        }
    }

    /// Sends a request once.
    ///
    /// # Errors
    /// When there is no answer that says success in the contract's form.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer, Fault> {
        self.send_as(request, &|headers, body| self.answer(headers, body))
    }

    /// As [`Client::send`], for what the answer says.
    ///
    /// # Errors
    /// As [`Client::send`]; [`Fault::Garbled`] when the answer has another form.
    pub(super) fn send_for<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, Fault> {
        self.send_as(request, &|_, body| wire::parse(&body.whole()?))
    }

    fn send_as<T>(&self, request: &Request<'_>, read: &Reader<'_, T>) -> Result<T, Fault> {
        let began = Instant::now();
        let result = self
            .exchange(request, read)
            .map_err(|fault| fault.redacted(self.key.as_ref()));
        let outcome = match &result {
            Ok((status, _)) => status.to_string(),
            Err(Fault::Refused(refusal)) => refusal.status.to_string(),
            Err(fault) => fault.detail(&self.base(), self.has_key()),
        };
        debug!(
            "{} {}: {outcome} after {} ms",
            request.method,
            self.path(request),
            began.elapsed().as_millis()
        );
        if matches!(result, Ok(_) | Err(Fault::Refused(_))) {
            *self.silent() = None;
        }
        result.map(|(_, answer)| answer)
    }

    fn exchange<T>(
        &self,
        request: &Request<'_>,
        read: &Reader<'_, T>,
    ) -> Result<(StatusCode, T), Fault> {
        let url = self.base.endpoint(request.path, request.query);
        let mut builder = self
            .http
            .request(request.method.clone(), url)
            .timeout(request.timeout)
            .header(ACCEPT, "application/json");
        if let Some(key) = &self.key {
            // The key was checked when it was loaded, so this can't fail; if it did, the server would say 401.
            if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", key.expose())) {
                value.set_sensitive(true);
                builder = builder.header(AUTHORIZATION, value);
            }
        }
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let mut response = builder
            .send()
            .map_err(|cause| answer::transport_fault(&cause, request.timeout))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(answer::redirect(&response));
        }
        if !status.is_success() {
            // What could be read of it is enough: the status has been said.
            let mut body = Vec::new();
            let _ = response
                .by_ref()
                .take(REFUSAL_MAX_BYTES)
                .read_to_end(&mut body);
            return Err(answer::refusal(&response, &body, self.key.as_ref()));
        }
        let headers = response.headers().clone();
        let mut body = Body::new(response, request.answer_max_bytes, request.timeout);
        if answer::is_html(&headers, body.start()?) {
            return Err(Fault::Page(status));
        }
        Ok((status, read(&headers, body)?))
    }

    fn answer(&self, headers: &HeaderMap, body: Body<Response>) -> Result<Answer, Fault> {
        Ok(Answer {
            body: body.whole()?,
            server: headers
                .get(SERVER)
                .and_then(|value| value.to_str().ok())
                .map(|value| answer::clean(value, self.key.as_ref())),
        })
    }

    fn path(&self, request: &Request<'_>) -> String {
        self.base
            .endpoint(request.path, request.query)
            .path()
            .to_owned()
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, Option<(Instant, String)>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits; `false` when the process was asked to stop meanwhile.
pub(super) fn pause(duration: Duration) -> bool {
    let until = Instant::now() + duration;
    loop {
        if interrupt::requested() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(NAP));
    }
}
