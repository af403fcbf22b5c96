//! The heartbeat: a request after each run, so that a monitor elsewhere notices failures and silence.
//!
//! Speaks as healthchecks.io expects it (the URL, or the URL with `/fail` behind its path; other services do the same),
//! and as Uptime Kuma's push monitors do (`/api/push/TOKEN?status=up|down&msg=…`). Who knows the URL can send heartbeats,
//! so nothing but its host is ever shown.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use reqwest::{StatusCode, Url};

use crate::{http, interrupt};

/// The limit of one request, from the connection to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The waits before the second and the third attempt.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];
/// What is read of an answer.
const ANSWER_MAX_BYTES: u64 = 1024;

/// Where heartbeats go: a checked URL, which is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Url);

/// What a heartbeat tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Whether all is well.
    pub is_up: bool,
    /// A short line for people, without secrets: it goes to another host.
    pub message: String,
}

impl Target {
    /// Checks a URL.
    ///
    /// # Errors
    /// The rule that it breaks; never the value.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text.trim())
            .map_err(|_| "must be a URL such as https://hc-ping.example/UUID")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must begin with https:// or http://");
        }
        Ok(Self(url))
    }

    /// The URL that says this.
    fn url(&self, beat: &Beat) -> Url {
        let mut url = self.0.clone();
        url.set_fragment(None);
        if self.is_kuma() {
            // The form that Kuma shows for copying has a status and a message already.
            let others: Vec<(String, String)> = url
                .query_pairs()
                .filter(|(key, _)| key != "status" && key != "msg")
                .map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect();
            url.query_pairs_mut()
                .clear()
                .append_pair("status", if beat.is_up { "up" } else { "down" })
                .append_pair("msg", &beat.message)
                .extend_pairs(others);
        } else if !beat.is_up {
            // Fails only for URLs that can't be a base, such as `data:`; `parse` lets none through.
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().push("fail");
            }
        }
        url
    }

    /// Whether the path ends in `/api/push/TOKEN`.
    fn is_kuma(&self) -> bool {
        let segments: Vec<&str> = self
            .0
            .path()
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        matches!(segments.as_slice(), [.., "api", "push", _])
    }

    fn request(&self, client: &Client, beat: &Beat) -> RequestBuilder {
        let url = self.url(beat);
        if beat.is_up || self.is_kuma() {
            client.get(url)
        } else {
            client.post(url).body(beat.message.clone())
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}/…", self.0.scheme())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

/// Why an attempt failed, and whether another one may help.
struct Fault {
    text: String,
    is_passing: bool,
}

/// A heartbeat that did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("the heartbeat to {target} was not taken: {why}")]
pub struct Lost {
    /// Names the host alone: the rest of the URL is secret.
    target: String,
    why: String,
}

/// Sends a heartbeat, in three attempts at most. `ca_file` holds certificates to trust besides the system's.
///
/// # Errors
/// The last attempt's fault.
pub fn send(target: &Target, beat: &Beat, ca_file: Option<&Path>) -> Result<(), Lost> {
    let failed = |why: String| Lost {
        target: target.to_string(),
        why,
    };
    let roots = ca_file
        .map_or(Ok(Vec::new()), http::read_roots)
        .map_err(failed)?;
    let client = http::client(&target.0, roots)
        .timeout(TIMEOUT)
        .build()
        .map_err(|error| failed(http::root_cause(&error.without_url())))?;
    let mut waits = WAITS.iter();
    loop {
        let fault = match attempt(target.request(&client, beat)) {
            Ok(()) => return Ok(()),
            Err(fault) => fault,
        };
        match waits.next() {
            Some(wait) if fault.is_passing && !interrupt::requested() => thread::sleep(*wait),
            Some(_) | None => return Err(failed(fault.text)),
        }
    }
}

fn attempt(request: RequestBuilder) -> Result<(), Fault> {
    let lost = |error: reqwest::Error| Fault {
        text: if error.is_timeout() {
            format!("no answer within {} s", TIMEOUT.as_secs())
        } else {
            // Without its URL, which is secret.
            http::root_cause(&error.without_url())
        },
        is_passing: true,
    };
    let response = request.send().map_err(lost)?;
    let status = response.status();
    if !status.is_success() {
        return Err(Fault {
            text: refused(status),
            is_passing: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
        });
    }
    // healthchecks.io says "OK (not found)" and "OK (rate limited)" with a status that means success.
    let mut body = Vec::new();
    let _ = response.take(ANSWER_MAX_BYTES).read_to_end(&mut body);
    let body = String::from_utf8_lossy(&body);
    match body.trim().strip_prefix("OK (") {
        Some(_) => Err(Fault {
            text: format!("the answer is {:?}", http::one_line(&body)),
            is_passing: false,
        }),
        None => Ok(()),
    }
}

fn refused(status: StatusCode) -> String {
    if status.is_redirection() {
        format!(
            "the answer is HTTP status {status}, which points elsewhere: give the URL that it points to"
        )
    } else {
        format!("the answer is HTTP status {status}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(url: &str) -> [String; 2] {
        let target = Target::parse(url).unwrap();
        [true, false].map(|is_up| {
            let message = "1 & 2".to_owned();
            target.url(&Beat { is_up, message }).to_string()
        })
    }

    #[test]
    fn failures_go_to_fail_behind_the_path() {
        for (url, up, down) in [
            ("https://hc/uuid", "https://hc/uuid", "https://hc/uuid/fail"),
            (
                "https://hc/uuid/",
                "https://hc/uuid/",
                "https://hc/uuid/fail",
            ),
            (
                "https://hc/key/slug?create=1#x",
                "https://hc/key/slug?create=1",
                "https://hc/key/slug/fail?create=1",
            ),
        ] {
            assert_eq!(beats(url), [up, down]);
        }
    }

    #[test]
    fn uptime_kuma_is_told_by_the_query() {
        for (url, ping) in [
            ("http://kuma:3001/api/push/t0k", ""),
            (
                "http://kuma:3001/api/push/t0k?status=up&msg=OK&ping=",
                "&ping=",
            ),
            ("http://kuma:3001/sub/api/push/t0k/?status=down", ""),
        ] {
            let base = url.split('?').next().unwrap();
            assert_eq!(
                beats(url),
                [
                    format!("{base}?status=up&msg=1+%26+2{ping}"),
                    format!("{base}?status=down&msg=1+%26+2{ping}"),
                ]
            );
        }
    }

    #[test]
    fn the_url_is_shown_nowhere() {
        let target = Target::parse("https://user:pass@hc.example:444/se-cret?k=se-cret").unwrap();
        assert_eq!(target.to_string(), "https://hc.example/…");
        assert_eq!(format!("{target:?}"), "Target(https://hc.example/…)");
        for bad in ["se-cret", "ftp://se-cret/", "https://", ""] {
            let rule = Target::parse(bad).unwrap_err();
            assert!(!rule.contains("se-cret"), "{rule}");
        }
    }
}
