//! HTTP clients for servers on the network: what all of them have in common, in one place. Sends nothing itself.
//!
//! Clients follow no redirects and repeat nothing: whoever asks decides about both.

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::ClientBuilder;
use reqwest::{Certificate, Url};

/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a foreign text goes into a message, in characters.
const TEXT_MAX_CHARS: usize = 300;

/// The start of a client for the server at `address`: this tool's name, TLS by the system's roots and `extra_roots`,
/// and no proxy on the way to this very host.
pub fn client(address: &Url, extra_roots: Vec<Certificate>) -> ClientBuilder {
    // The error only says that the process has a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = ClientBuilder::new()
        .user_agent(concat!("hypeman-snap/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(None);
    let builder = if is_plain(address) {
        // Reading the system's certificates takes time, and fails where there are none.
        builder.tls_certs_only(std::iter::empty())
    } else {
        builder.tls_certs_merge(extra_roots)
    };
    if is_loopback(address) {
        // HTTP_PROXY would carry what is secret off this host in plain text.
        builder.no_proxy()
    } else {
        builder
    }
}

/// Whether requests to this address go out without TLS.
pub fn is_plain(address: &Url) -> bool {
    address.scheme() == "http"
}

/// Whether the address is on this host, so that nothing leaves it: `localhost` or a loopback address.
pub fn is_loopback(address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The certificates of a PEM file.
///
/// # Errors
/// A sentence that names the file, when it can't be read or holds no certificates.
pub fn read_roots(path: &Path) -> Result<Vec<Certificate>, String> {
    let bad = |why: &str| {
        format!(
            "CA file {} (--ca-file) {why}: it must hold PEM certificates",
            path.display()
        )
    };
    let pem = std::fs::read(path).map_err(|cause| bad(&format!("can't be read: {cause}")))?;
    let roots = Certificate::from_pem_bundle(&pem)
        .map_err(|cause| bad(&format!("can't be used: {}", root_cause(&cause))))?;
    if roots.is_empty() {
        return Err(bad("holds no certificate"));
    }
    Ok(roots)
}

/// The innermost cause: the outer ones only say that a request failed, and to which address, which may be secret.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    one_line(&cause.to_string())
}

/// A foreign text on one line, without control characters, and not too long.
pub fn one_line(text: &str) -> String {
    let words: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(TEXT_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_becomes_one_line_of_limited_length() {
        assert_eq!(one_line("a\x1b[2J b\r\n\0 c\u{9b}31m"), "a [2J b c 31m");
        let long = one_line(&"ä".repeat(5000));
        assert_eq!(long.chars().count(), TEXT_MAX_CHARS + 1);
    }

    #[test]
    fn only_this_host_is_loopback() {
        let is_loopback = |text: &str| is_loopback(&Url::parse(text).unwrap());
        for here in ["http://localhost:1", "http://127.9.8.7/", "http://[::1]/x"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in [
            "http://127.0.0.1.example",
            "http://0.0.0.0",
            "http://10.0.0.1",
        ] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
