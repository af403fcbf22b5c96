//! The server's address: checked once, then the only way to make a request's URL.
//!
//! Keeps the key off the wire in plain text, and every id inside its path segment. Talks to no server.

use std::fmt;

use reqwest::Url;

use crate::engine::EngineError;
use crate::http;

/// A checked base URL: http or https, a host, no credentials, no query; a path prefix is kept.
#[derive(Debug, Clone)]
pub(super) struct BaseUrl(Url);

impl BaseUrl {
    /// Checks `text`. `insecure_http` allows plain http to hosts that are not this one.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] naming the value and the rule; a value with credentials is not printed.
    pub(super) fn parse(text: &str, insecure_http: bool) -> Result<Self, EngineError> {
        let shown = if text.contains('@') {
            "[redacted]".to_owned()
        } else {
            format!("{text:?}")
        };
        let bad = |rule: &str| {
            EngineError::unavailable(format!(
                "base URL {shown} {rule} (--base-url, HYPEMAN_BASE_URL or base_url in cli.yaml)"
            ))
        };
        let url = Url::parse(text.trim()).map_err(|cause| {
            bad(&format!(
                "is no URL such as https://hypeman.example:8080: {cause}"
            ))
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("must begin with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                "must hold no user name or password; the API key has its own places",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("must have no query and no fragment"));
        }
        let base = Self(url);
        if http::is_plain(base.url()) && !http::is_loopback(base.url()) && !insecure_http {
            return Err(bad(
                "would send the API key in plain text over the network: use https://, or --insecure-http if that is \
                 really meant",
            ));
        }
        Ok(base)
    }

    /// The address itself.
    pub(super) fn url(&self) -> &Url {
        &self.0
    }

    /// The URL below the base with these path segments and this query, each escaped.
    pub(super) fn endpoint(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.0.clone();
        // Fails only for URLs that can't be a base, such as `data:`; `parse` lets none through.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        BaseUrl::parse(text, false).unwrap_err().to_string()
    }

    #[test]
    fn plain_http_goes_to_loopback_hosts_only() {
        for loopback in [
            "http://localhost:8080",
            "http://127.0.0.1",
            "http://127.9.8.7:1/",
            "http://[::1]:8080",
            "https://hypeman.example",
            "https://10.0.0.1:8443",
        ] {
            assert!(BaseUrl::parse(loopback, false).is_ok(), "{loopback}");
        }
        for remote in [
            "http://hypeman.example",
            "http://10.0.0.1:8080",
            "http://127.0.0.1.hypeman.example",
            "http://localhost.hypeman.example",
            "http://[::ffff:127.0.0.1]:8080",
            "http://0.0.0.0:8080",
            "http://[2001:db8::1]",
        ] {
            let message = refusal(remote);
            assert!(
                message.contains("plain text") && message.contains("--insecure-http"),
                "{message}"
            );
            assert!(BaseUrl::parse(remote, true).is_ok(), "{remote}");
        }
    }

    #[test]
    fn unusable_urls_are_refused_by_name_and_rule() {
        for (url, rule) in [
            ("", "is no URL"),
            ("localhost:8080", "must begin with"),
            ("/run/hypeman.sock", "is no URL"),
            ("ftp://127.0.0.1", "must begin with"),
            ("http://", "is no URL"),
            ("https://hypeman.example/?x=1", "no query"),
            ("https://hypeman.example/#x", "no query and no fragment"),
        ] {
            let message = refusal(url);
            assert!(
                message.contains(rule) && message.contains(&format!("{url:?}")),
                "{url}: {message}"
            );
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_printed() {
        for url in [
            "https://admin:hunter2@hypeman.example",
            "https://hunter2@hypeman.example",
            "https://admin:hunter2@:port",
        ] {
            let error = BaseUrl::parse(url, true).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_path_prefix_is_kept_and_segments_are_escaped() {
        for base in [
            "https://h.example/hypeman/v1",
            "https://h.example/hypeman/v1/",
        ] {
            let base = BaseUrl::parse(base, false).unwrap();
            assert_eq!(base.to_string(), "https://h.example/hypeman/v1");
            assert_eq!(
                base.endpoint(&["instances", "a?b#c%2Fd/é"], &[]).as_str(),
                "https://h.example/hypeman/v1/instances/a%3Fb%23c%252Fd%2F%C3%A9"
            );
        }
        let base = BaseUrl::parse("http://127.0.0.1:8080", false).unwrap();
        assert_eq!(
            base.endpoint(&["snapshots"], &[("name", "a b&c"), ("kind", "Standby")])
                .as_str(),
            "http://127.0.0.1:8080/snapshots?name=a+b%26c&kind=Standby"
        );
    }
}
