//! What `doctor` asks of a hypeman server: whether it is well, and whether it takes the key. Two requests that change
//! nothing; the key's source is named, the key never.

use std::time::Instant;

use super::Hypeman;
use super::fault::Fault;
use super::wire;
use crate::engine::EngineError;
use crate::error::in_words;
use crate::finding::Finding;
use crate::http;

const SERVER: &str = "server";
const KEY: &str = "API key";

const CORRECT_KEY: &str = "put a valid key where it is looked for: HYPEMAN_API_KEY, the file that HYPEMAN_API_KEY_FILE \
                           names, the systemd credential hypeman-api-key, or ~/.config/hypeman/cli.yaml";
const CORRECT_URL: &str =
    "correct --base-url: what answers there is no hypeman API, so nothing is known of the key";

/// How it is with the server of `engine`.
pub(super) fn findings(engine: &Hypeman) -> Vec<Finding> {
    let origin = match engine.key.origin() {
        Ok(origin) => origin.unwrap_or_else(|| "none".to_owned()),
        // There is no request without the key.
        Err(error) => {
            return vec![Finding::broken(
                KEY,
                "unusable",
                in_words(&error),
                "correct it, or name another file",
            )];
        }
    };
    let health = match health(engine) {
        Ok(health) => health,
        // Then nothing is known of the key, and asking would only take time.
        Err(error) => {
            return vec![
                Finding::broken(
                    SERVER,
                    &engine.base,
                    in_words(&error),
                    "start the server, or correct --base-url",
                ),
                Finding::warning(
                    KEY,
                    origin,
                    "not tried, because the server does not answer as it should",
                    "look again when it does",
                ),
            ];
        }
    };
    let server = if http::is_plain(engine.base.url()) && !http::is_loopback(engine.base.url()) {
        Finding::warning(
            SERVER,
            &engine.base,
            format!("{health}, but the API key travels unencrypted"),
            "use https",
        )
    } else {
        Finding::ok(SERVER, &engine.base, health)
    };
    vec![server, key(engine, origin)]
}

/// `GET /health`, in words.
fn health(engine: &Hypeman) -> Result<String, EngineError> {
    let client = engine.client()?;
    let began = Instant::now();
    let error = |fault| engine.server_error(&client, fault, "ask whether the server is well");
    let answer = client.fetch(&engine.get(&["health"])).map_err(error)?;
    if !wire::is_well(&answer.body) {
        let how = "it does not say that all is well".to_owned();
        return Err(error(Fault::Garbled(how)));
    }
    let took = began.elapsed().as_millis();
    Ok(match answer.server {
        Some(name) => format!("{name} is well and answered within {took} ms"),
        None => format!("is well and answered within {took} ms"),
    })
}

/// The key from `origin`, by a request that needs it.
fn key(engine: &Hypeman, origin: String) -> Finding {
    let client = match engine.client() {
        Ok(client) => client,
        Err(error) => return Finding::broken(KEY, origin, in_words(&error), CORRECT_KEY),
    };
    match engine.list_instances(&client) {
        Ok((instances, _)) => {
            let shown = instances.len();
            let plural = if shown == 1 { "" } else { "s" };
            let detail = format!("the server accepts it and shows {shown} instance{plural}");
            Finding::ok(KEY, origin, detail)
        }
        Err(fault) => {
            let remedy = if fault.is_about_key() {
                CORRECT_KEY
            } else if fault.is_foreign() {
                CORRECT_URL
            } else {
                "look at the server's log; the key was neither taken nor refused"
            };
            let error = engine.server_error(&client, fault, "list the instances");
            Finding::broken(KEY, origin, in_words(&error), remedy)
        }
    }
}
