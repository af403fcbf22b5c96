//! What can go wrong with one request, what that means for it, and how it is told to the user.
//!
//! Everything a server sends is cleaned of control characters before it gets here, and of the key.

use std::time::Duration;

use reqwest::StatusCode;

use super::key::Secret;
use crate::engine::EngineError;

/// A body is longer than asked for.
#[derive(Debug, thiserror::Error)]
#[error("it is longer than {} KiB", max_bytes / 1024)]
pub(super) struct TooLong {
    pub(super) max_bytes: u64,
}

/// Where a request without a key could get one.
const KEY_PLACES: &str = "HYPEMAN_API_KEY_FILE, HYPEMAN_API_KEY, the systemd credential hypeman-api-key, or api_key in \
                          ~/.config/hypeman/cli.yaml";

/// Why a request has no usable answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// There was no connection, so nothing was sent.
    Unreachable {
        /// Why.
        cause: String,
        /// Whether it is this process that may not connect, so that it says nothing about the server.
        is_forbidden: bool,
    },
    /// The TLS handshake failed, so nothing was sent; the text is the cause, with its remedy.
    Untrusted(String),
    /// The server was silent a moment ago and was not asked again; the text is how it was silent then.
    Silent(String),
    /// No answer in time.
    TimedOut(Duration),
    /// The connection broke before the answer was whole; the text is the cause.
    Lost(String),
    /// The server answered with a redirect, which is never followed: the key must not go elsewhere.
    Redirected {
        /// The status, 300 to 399.
        status: StatusCode,
        /// The host that it points to.
        host: String,
    },
    /// The answer says success and is an HTML page.
    Page(StatusCode),
    /// The answer says success and does not fit the contract; the text says how.
    Garbled(String),
    /// The server said no.
    Refused(Refusal),
    /// The process was asked to stop.
    Interrupted,
}

/// An answer that says no.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The status, 400 and above.
    pub(super) status: StatusCode,
    /// The contract's error code; `None` where the body is not the contract's.
    pub(super) code: Option<String>,
    /// The contract's message, or what else the body says.
    pub(super) message: String,
    /// How long the server asks to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// Whether the contract's error body with this code came.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// `404 Not Found (not_found: no such instance)`
    fn summary(&self) -> String {
        let status = self.status;
        match (&self.code, self.message.as_str()) {
            (Some(code), "") => format!("{status} ({code})"),
            (Some(code), message) => format!("{status} ({code}: {message})"),
            (None, "") => format!("{status} with an empty body"),
            (None, message) => format!("{status} ({message})"),
        }
    }
}

impl Fault {
    /// Whether this is the contract's "not found"; only then is something gone.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if refusal.status == StatusCode::NOT_FOUND && refusal.has_code("not_found"))
    }

    /// Whether the server does not know the path at all.
    pub(super) fn is_no_such_route(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if refusal.code.is_none()
                && matches!(refusal.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED))
    }

    /// Whether the server refused the key, or missed a permission.
    pub(super) fn is_about_key(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
    }

    /// Whether something answered that is not the hypeman API.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::Garbled(_) | Self::Page(_) | Self::Redirected { .. }
        ) || self.is_no_such_route()
    }

    /// Whether the reference matched several instances by name or prefix, so that none has it as its id.
    pub(super) fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if refusal.status == StatusCode::CONFLICT && refusal.has_code("ambiguous"))
    }

    /// Whether a creation was refused for its name, which is then taken: a conflict that is not about the instance's
    /// state (contract, section 2).
    pub(super) fn may_be_taken_name(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if refusal.status == StatusCode::CONFLICT
                && refusal.has_code("conflict")
                && !refusal.message.contains("invalid state transition"))
    }

    /// Whether asking again soon may help. Only for requests that are safe to repeat.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) => true,
            Self::Refused(refusal) => {
                refusal.status == StatusCode::TOO_MANY_REQUESTS
                    || (refusal.status.is_server_error()
                        && refusal.status != StatusCode::NOT_IMPLEMENTED)
            }
            Self::Untrusted(_)
            | Self::Silent(_)
            | Self::TimedOut(_)
            | Self::Redirected { .. }
            | Self::Page(_)
            | Self::Garbled(_)
            | Self::Interrupted => false,
        }
    }

    /// Whether a request that changes something may have been carried out nevertheless.
    pub(super) fn leaves_outcome_open(&self) -> bool {
        match self {
            // A page with a status of success hides what became of the request as well as any other nonsense.
            Self::TimedOut(_) | Self::Lost(_) | Self::Garbled(_) | Self::Page(_) => true,
            Self::Refused(refusal) => match refusal.status {
                // A proxy that lost its patience says nothing about the server behind it.
                StatusCode::REQUEST_TIMEOUT => true,
                StatusCode::NOT_IMPLEMENTED => false,
                status => status.is_server_error(),
            },
            Self::Unreachable { .. }
            | Self::Untrusted(_)
            | Self::Silent(_)
            | Self::Redirected { .. }
            | Self::Interrupted => false,
        }
    }

    /// The same without the key, which the parser's message may quote from the answer.
    pub(super) fn redacted(self, key: Option<&Secret>) -> Self {
        match (self, key) {
            (Self::Garbled(how), Some(key)) => Self::Garbled(key.redact(&how)),
            (fault, _) => fault,
        }
    }

    /// How long the server asks to wait before the next request.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unreachable { .. }
            | Self::Untrusted(_)
            | Self::Silent(_)
            | Self::TimedOut(_)
            | Self::Lost(_)
            | Self::Redirected { .. }
            | Self::Page(_)
            | Self::Garbled(_)
            | Self::Interrupted => None,
        }
    }

    /// Whether the server itself answered in the contract's words, so that it no longer works on the request.
    pub(super) fn is_final_word(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code.is_some())
    }

    /// How the server was silent, if it was: what later requests need not wait for again.
    pub(super) fn silence(&self, base: &str) -> Option<String> {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut(_))
            .then(|| self.detail(base, true))
    }

    /// What happened, and what to do about it.
    pub(super) fn detail(&self, base: &str, has_key: bool) -> String {
        match self {
            Self::Unreachable {
                cause,
                is_forbidden: true,
            } => format!(
                "this process may not connect to the hypeman server at {base}: {cause}: does a firewall or its systemd \
                 unit (IPAddressDeny=, RestrictAddressFamilies=) forbid it?"
            ),
            Self::Unreachable { cause, .. } => format!(
                "the hypeman server at {base} can't be reached: {cause}: is it running, and is the base URL right?"
            ),
            Self::Untrusted(cause) => {
                format!("no TLS connection to the hypeman server at {base}: {cause}")
            }
            Self::Silent(cause) => format!("not asked again so soon after this: {cause}"),
            Self::TimedOut(limit) => format!(
                "the hypeman server at {base} gave no answer within {} s: is it overloaded or stuck?",
                limit.as_secs_f64()
            ),
            Self::Lost(cause) => format!(
                "the connection to the hypeman server at {base} broke before its answer was whole: {cause}"
            ),
            Self::Redirected { status, host } => format!(
                "{base} answered {status}, a redirect to {host}: a login page? redirects are not followed, because the \
                 API key must not go elsewhere: set the base URL to the hypeman API itself"
            ),
            Self::Page(status) => format!(
                "{base} answered {status} with an HTML page: a login page? set the base URL to the hypeman API itself, \
                 path prefix included"
            ),
            Self::Garbled(how) => format!(
                "the answer of {base} is not the hypeman API's: {how}: is the base URL right?"
            ),
            Self::Refused(refusal) => {
                let remedy = refusal.remedy(has_key);
                format!(
                    "the hypeman server at {base} answered {}{remedy}",
                    refusal.summary()
                )
            }
            Self::Interrupted => "interrupted by a signal".to_owned(),
        }
    }

    /// The engine's error for a request that concerns one instance, or the server as a whole. `task` completes
    /// "can't …".
    pub(super) fn into_error(
        self,
        task: &str,
        concern: Concern,
        base: &str,
        has_key: bool,
    ) -> EngineError {
        if matches!(self, Self::Interrupted) {
            return EngineError::Interrupted;
        }
        let message = format!("can't {task}: {}", self.detail(base, has_key));
        // A refusal in the contract's words is about the request, unless the key as a whole is refused.
        let is_about_request = matches!(&self, Self::Refused(refusal)
            if refusal.code.is_some() && refusal.status != StatusCode::UNAUTHORIZED);
        match concern {
            Concern::Instance if is_about_request => EngineError::instance(message),
            Concern::Instance | Concern::Server => EngineError::unavailable(message),
        }
    }
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// One instance or one snapshot: others may fare better.
    Instance,
    /// All of them.
    Server,
}

impl Refusal {
    fn remedy(&self, has_key: bool) -> String {
        match self.status.as_u16() {
            401 if has_key => ": the API key is wrong or has expired".to_owned(),
            401 => format!(": no API key was found: set one of {KEY_PLACES}"),
            403 => ": the API key lacks a permission: it needs instance:read, snapshot:read, snapshot:write and \
                    snapshot:delete, and instance:write to wake an instance"
                .to_owned(),
            404 if self.code.is_none() => {
                ": no hypeman API there: is the base URL right, path prefix included?".to_owned()
            }
            429 => ": it is asked too often: run fewer jobs at once".to_owned(),
            500.. if self.code.is_none() => {
                ": is the hypeman server behind this address healthy?".to_owned()
            }
            500 => ": the server's log says more".to_owned(),
            _ => String::new(),
        }
    }
}
