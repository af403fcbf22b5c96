//! Reading what came back: transport errors, redirects, refusals, HTML pages.
//!
//! Whatever a server sends is hostile text until [`clean`] has been over it.

use std::error::Error;
use std::io;
use std::time::Duration;

use chrono::DateTime;
use reqwest::Url;
use reqwest::blocking::Response;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use rustix::io::Errno;
use rustls::CertificateError;
use serde::Deserialize;

use super::fault::{Fault, Refusal, TooLong};
use super::key::Secret;
use crate::http::{one_line, root_cause};

/// The remedy of a handshake that breaks.
const NO_TLS: &str = "does the server speak TLS at this port?";

/// The contract's error body (contract, section 2).
#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    #[serde(default)]
    message: String,
}

/// What became of a request that has no answer.
pub(super) fn transport_fault(error: &reqwest::Error, limit: Duration) -> Fault {
    if error.is_connect() {
        if let Some(cause) = tls_cause(error) {
            return Fault::Untrusted(cause);
        }
        let cause = if error.is_timeout() {
            "no connection in time".to_owned()
        } else {
            root_cause(error)
        };
        return Fault::Unreachable {
            cause,
            is_forbidden: is_forbidden(error),
        };
    }
    if error.is_timeout() {
        return Fault::TimedOut(limit);
    }
    if error.is_builder() {
        return Fault::Unreachable {
            cause: root_cause(error),
            is_forbidden: false,
        };
    }
    Fault::Lost(root_cause(error))
}

/// What became of an answer whose body could not be read to its end.
pub(super) fn body_fault(error: &io::Error, limit: Duration) -> Fault {
    if let Some(too_long) = error.get_ref().and_then(|it| it.downcast_ref::<TooLong>()) {
        return Fault::Garbled(too_long.to_string());
    }
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<reqwest::Error>());
    match inner {
        Some(inner) if inner.is_timeout() => Fault::TimedOut(limit),
        Some(inner) => Fault::Lost(root_cause(inner)),
        None => Fault::Lost(error.to_string()),
    }
}

/// Whether the kernel refused the connection in the name of this host's own rules, such as a unit's IPAddressDeny=.
fn is_forbidden(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let errno = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
            .map(Errno::from_raw_os_error);
        if matches!(
            errno,
            Some(Errno::PERM | Errno::ACCESS | Errno::AFNOSUPPORT)
        ) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Why the TLS handshake failed, if that is why there is no connection.
fn tls_cause(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(describe_tls(tls));
    }
    let io = error.downcast_ref::<io::Error>();
    // An I/O error's `source` leaves out the very error that it wraps.
    let wrapped = io.and_then(io::Error::get_ref);
    let within = match wrapped {
        Some(wrapped) => tls_cause(wrapped),
        None => error.source().and_then(tls_cause),
    };
    within.or_else(|| {
        // While there is no connection, only a handshake can end too early.
        io.filter(|io| io.kind() == io::ErrorKind::UnexpectedEof)
            .map(|io| format!("{io}: {NO_TLS}"))
    })
}

fn describe_tls(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "foreign enums that grow; only three cases have a remedy of their own"
    )]
    let remedy = match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no CA that this host trusts has signed the server's certificate: name the CA's file with --ca-file"
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "the server's certificate is for another name: use the name that it was issued for in the base URL"
        }
        Tls::InvalidCertificate(_) => "renew the server's certificate, or check both hosts' clocks",
        _ => NO_TLS,
    };
    format!("{}: {remedy}", clean(&error.to_string(), None))
}

/// The fault of an answer that points elsewhere.
pub(super) fn redirect(response: &Response) -> Fault {
    let location = header(response.headers(), &LOCATION).unwrap_or_default();
    let target = response
        .url()
        .join(location)
        .or_else(|_| Url::parse(location));
    let host = target
        .ok()
        .filter(|_| !location.is_empty())
        .and_then(|url| url.host_str().map(|host| clean(host, None)))
        .unwrap_or_else(|| "nowhere".to_owned());
    Fault::Redirected {
        status: response.status(),
        host,
    }
}

/// The fault of an answer that says no.
pub(super) fn refusal(response: &Response, body: &[u8], key: Option<&Secret>) -> Fault {
    let (code, message) = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => (Some(clean(&error.code, key)), clean(&error.message, key)),
        Err(_) if is_html(response.headers(), body) => (None, "an HTML page".to_owned()),
        // The server's middleware writes messages into JSON without escaping them (contract, section 2).
        Err(_) => (None, clean(&String::from_utf8_lossy(body), key)),
    };
    Fault::Refused(Refusal {
        status: response.status(),
        code,
        message,
        retry_after: retry_after(response.headers()),
    })
}

/// Whether an answer is a web page, by what it says of itself or by its first character.
pub(super) fn is_html(headers: &HeaderMap, start: &[u8]) -> bool {
    let says_so = header(headers, &CONTENT_TYPE).is_some_and(|value| {
        let value = value.trim_start().to_ascii_lowercase();
        value.starts_with("text/html") || value.starts_with("application/xhtml")
    });
    says_so || start.trim_ascii_start().starts_with(b"<")
}

/// A server's text on one line, without control characters, without the key, and not too long.
pub(super) fn clean(text: &str, key: Option<&Secret>) -> String {
    key.map_or_else(|| one_line(text), |key| one_line(&key.redact(text)))
}

/// The wait that `Retry-After` asks for: seconds, or a date, which is read against the answer's own `Date` so that
/// differing clocks do no harm.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked = header(headers, &RETRY_AFTER)?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(asked).ok()?;
    let sent = DateTime::parse_from_rfc2822(header(headers, &DATE)?.trim()).ok()?;
    (until - sent).to_std().ok()
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_text_is_cleaned_of_control_characters_length_and_key() {
        let key = Secret::new("sekrit-token").unwrap();
        let cleaned = clean("bad\x1b[2J token\r\n\0 sekrit-token \u{9b}31m", Some(&key));
        assert_eq!(cleaned, "bad [2J token [redacted] 31m");
    }

    #[test]
    fn what_this_hosts_own_rules_forbid_is_told_apart() {
        let of = |errno: Errno| is_forbidden(&io::Error::from(errno));
        assert!(of(Errno::PERM) && of(Errno::ACCESS) && of(Errno::AFNOSUPPORT));
        assert!(!of(Errno::CONNREFUSED) && !of(Errno::HOSTUNREACH));
        assert!(!is_forbidden(&io::Error::other("closed")));
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let wait = |pairs: &[(HeaderName, &str)]| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap()))
                .collect();
            retry_after(&headers)
        };
        assert_eq!(wait(&[(RETRY_AFTER, "7")]), Some(Duration::from_secs(7)));
        let date = (DATE, "Wed, 21 Oct 2026 07:28:00 GMT");
        let later = (RETRY_AFTER, "Wed, 21 Oct 2026 07:28:12 GMT");
        let earlier = (RETRY_AFTER, "Wed, 21 Oct 2026 07:27:00 GMT");
        assert_eq!(
            wait(&[later.clone(), date.clone()]),
            Some(Duration::from_secs(12))
        );
        assert_eq!(wait(&[earlier, date.clone()]), None);
        assert_eq!(wait(&[later]), None);
        assert_eq!(wait(&[(RETRY_AFTER, "soon"), date]), None);
        assert_eq!(wait(&[]), None);
    }
}
