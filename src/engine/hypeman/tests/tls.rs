//! Trust: the system's CAs and the file that `--ca-file` names.

use support::fake_tls;

use super::*;

/// An engine for a server whose certificate is for `name`, which trusts that server's CA if `trusts` says so.
fn tls_engine(name: &str, trusts: bool) -> (FakeHypeman, Hypeman, tempfile::TempDir) {
    let (config, ca) = fake_tls::server(name);
    let server = FakeHypeman::start_tls(config);
    server.world().set_state(ID, "Running");
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(&server.url());
    if trusts {
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, ca).unwrap();
        settings.ca_file = Some(file);
    }
    (server, engine_with(settings), directory)
}

#[test]
fn a_server_of_a_ca_of_ones_own_is_trusted_with_its_file() {
    let (server, engine, _directory) = tls_engine("127.0.0.1", true);
    assert!(engine.find(&id(ID)).found().unwrap().is_some());
    assert!(create(&engine, State::Running).is_ok());
    assert_eq!(server.world().snapshots.len(), 1);
}

#[test]
fn a_server_of_an_unknown_ca_gets_no_request() {
    let (server, engine, _directory) = tls_engine("127.0.0.1", false);
    let error = engine.find(&id(ID)).found().unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("UnknownIssuer") && message.contains("--ca-file"),
        "{message}"
    );
    assert!(server.world().requests.is_empty());
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let (server, engine, _directory) = tls_engine("hypeman.example", true);
    let message = engine.list().unwrap_err().to_string();
    assert!(message.contains("for another name"), "{message}");
    assert!(server.world().requests.is_empty());
}

#[test]
fn a_server_without_tls_is_told_apart() {
    let server = server();
    let mut settings = settings(&server.url().replace("http://", "https://"));
    let (_, ca) = fake_tls::server("127.0.0.1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    settings.ca_file = Some(file);
    let message = engine_with(settings).list().unwrap_err().to_string();
    assert!(message.contains("speak TLS"), "{message}");
}

#[test]
fn a_ca_file_must_hold_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    for (content, why) in [
        (None, "can't be read"),
        (Some(""), "holds no certificate"),
        (Some("hello"), "holds no certificate"),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "",
        ),
    ] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let mut settings = settings("https://127.0.0.1:1");
        settings.ca_file = Some(file.clone());
        let message = engine_with(settings).list().unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
        assert!(!message.contains("can't be reached"), "{message}");
    }
}
