//! The hypeman engine's secrets: where the API key comes from, that it is shown nowhere, and whom it is sent to.

#![cfg(test)]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, mpsc};

use serde_json::json;
use support::cli::{Host, Said, now, said};
use support::fake_hypeman::{Answer, FakeHypeman, Fault, KEY, World};
use support::fake_tls;
use support::wait::wait_until;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

fn host() -> Host {
    Host::new(env!("CARGO_BIN_EXE_hypeman-snap"))
}

fn server() -> FakeHypeman {
    let server = FakeHypeman::start();
    server.world().set_state(ID, "Running");
    server
}

/// Writes a file below the host's home directory that only its owner can read.
fn write(host: &Host, name: &str, content: &str) -> PathBuf {
    let path = host.dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// `set` with everything said that can be said on stderr, so that the server is asked for something.
fn set(host: &Host, server: &FakeHypeman, environment: &[(&str, &str)]) -> Said {
    let mut command = host.command();
    command
        .env("HYPEMAN_BASE_URL", server.url())
        .envs(environment.iter().copied())
        .args(["set", ID, "--interval", "1h", "--max-count", "2", "-vvv"]);
    said(&mut command)
}

fn assert_silent(said: &Said) {
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(!all.contains(KEY), "{all}");
    assert!(!all.to_ascii_lowercase().contains("bearer"), "{all}");
}

#[test]
fn the_key_comes_from_four_places_and_is_shown_from_none() {
    let host = host();
    let key_file = write(&host, "key", &format!("{KEY}\n"));
    let key_file = key_file.to_str().unwrap();
    let credential = write(&host, "credentials/hypeman-api-key", KEY);
    let credentials = credential.parent().unwrap().to_str().unwrap();
    let bad_credentials = host.dir().join("other-credentials");
    fs::create_dir(&bad_credentials).unwrap();
    let places: [(&[(&str, &str)], &str); 4] = [
        (
            &[
                ("HYPEMAN_API_KEY", KEY),
                ("HYPEMAN_API_KEY_FILE", "/nonexistent"),
            ],
            "HYPEMAN_API_KEY",
        ),
        (
            &[("HYPEMAN_API_KEY", ""), ("HYPEMAN_API_KEY_FILE", key_file)],
            key_file,
        ),
        (
            &[
                ("HYPEMAN_API_KEY_FILE", ""),
                ("CREDENTIALS_DIRECTORY", credentials),
            ],
            "systemd credential",
        ),
        (
            &[("CREDENTIALS_DIRECTORY", bad_credentials.to_str().unwrap())],
            "cli.yaml",
        ),
    ];
    write(
        &host,
        ".config/hypeman/cli.yaml",
        &format!("api_key: {KEY}\n"),
    );
    for (environment, origin) in places {
        let server = server();
        let said = set(&host, &server, environment).exits(0);
        assert_silent(&said);
        said.complains(&[
            "the API key comes from ",
            origin,
            "GET /instances: 200 OK after",
        ]);
        let sent = server.world().requests[0].authorization.clone();
        assert_eq!(sent, Some(format!("Bearer {KEY}")), "{origin}");
    }
}

#[test]
fn a_server_that_quotes_the_key_in_an_error_does_not_show_it() {
    let (host, server) = (host(), server());
    let answer = Answer::error(401, "Unauthorized", &format!("no such token: Bearer {KEY}"));
    server.world().fail("GET /instances", answer);
    let mut command = host.command();
    command
        .env("HYPEMAN_BASE_URL", server.url())
        .env("HYPEMAN_API_KEY", KEY)
        .args(["set", ID, "--interval", "1h", "--max-count", "2", "-vvv"]);
    let said = said(&mut command).exits(1).complains(&["[redacted]"]);
    assert!(!said.stderr.contains(KEY), "{}", said.stderr);
}

#[test]
fn a_key_with_a_line_break_is_refused_and_not_shown() {
    let (host, server) = (host(), server());
    let broken = KEY.replace('-', "\n");
    let said = set(&host, &server, &[("HYPEMAN_API_KEY", &broken)])
        .exits(1)
        .complains(&["HYPEMAN_API_KEY", "line break"]);
    assert!(!said.stderr.contains("sekrit"), "{}", said.stderr);
    assert!(server.world().requests.is_empty());
}

#[test]
fn a_key_file_that_everybody_can_read_is_warned_about() {
    let (host, server) = (host(), server());
    let path = write(&host, "key", KEY);
    let file = path.to_str().unwrap();
    let quiet = set(&host, &server, &[("HYPEMAN_API_KEY_FILE", file)]).exits(0);
    assert!(!quiet.stderr.contains("chmod"), "{}", quiet.stderr);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    set(&host, &server, &[("HYPEMAN_API_KEY_FILE", file)])
        .exits(0)
        .complains(&["warning: ", "every user can read", "chmod 600"]);
}

#[test]
fn the_servers_address_may_come_from_hypemans_own_configuration() {
    let (host, server) = (host(), server());
    let config = format!("base_url: {}\napi_key: {KEY}\n", server.url());
    write(&host, ".config/hypeman/cli.yaml", &config);
    let args = ["set", ID, "--interval", "1h", "--max-count", "2"];
    host.run(&[&["--engine", "hypeman"], &args[..]].concat())
        .exits(0);
    assert!(!server.world().requests.is_empty());
    // What is named elsewhere wins.
    let other = FakeHypeman::start();
    let url = other.url();
    host.run(&[&["--base-url", &url], &args[..]].concat())
        .exits(3);
    assert!(!other.world().requests.is_empty());
}

#[test]
fn a_server_with_a_ca_of_its_own_is_trusted_with_its_file() {
    let host = host();
    let (config, ca) = fake_tls::server("127.0.0.1");
    let server = FakeHypeman::start_tls(config);
    server.world().set_state(ID, "Running");
    let environment = [("HYPEMAN_API_KEY", KEY)];
    let said = set(&host, &server, &environment)
        .exits(1)
        .complains(&["--ca-file"]);
    assert_silent(&said);
    assert!(server.world().requests.is_empty());

    let file = write(&host, "ca.pem", &ca);
    let file = [
        ("HYPEMAN_API_KEY", KEY),
        ("HYPEMAN_SNAP_CA_FILE", file.to_str().unwrap()),
    ];
    assert_silent(&set(&host, &server, &file).exits(0));
}

#[test]
fn a_proxy_of_the_environment_does_not_see_what_goes_to_this_host() {
    let (host, server, proxy) = (host(), server(), FakeHypeman::start());
    let url = proxy.url();
    let environment = [
        ("HYPEMAN_API_KEY", KEY),
        ("HTTP_PROXY", &*url),
        ("http_proxy", &*url),
        ("ALL_PROXY", &*url),
    ];
    set(&host, &server, &environment).exits(0);
    assert!(proxy.world().requests.is_empty());
}

/// What a proxy was sent: what it was asked for, and what was to go through it.
#[derive(Default)]
struct Seen {
    heads: Vec<String>,
    through: Vec<u8>,
}

/// A proxy that connects everybody with `target`, whatever is asked for, and its URL.
fn start_proxy(target: &str) -> (String, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (target, for_thread) = (target.to_owned(), Arc::clone(&seen));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // A client that hangs up early is the client's matter.
            let _ = connect_through(client.unwrap(), &target, &for_thread);
        }
    });
    (url, seen)
}

fn connect_through(mut client: TcpStream, target: &str, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    seen.lock().unwrap().heads.push(head);
    let mut server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let mut answers = server.try_clone()?;
    std::thread::spawn(move || io::copy(&mut answers, &mut client));
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = reader.read(&mut piece) {
        seen.lock()
            .unwrap()
            .through
            .extend_from_slice(&piece[..read]);
        server.write_all(&piece[..read])?;
    }
    Ok(())
}

#[test]
fn a_key_that_may_travel_in_the_clear_is_shown_to_no_proxy() {
    let (host, proxy) = (host(), FakeHypeman::start());
    let mut command = host.command();
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(variable, proxy.url());
    }
    command.env("HYPEMAN_API_KEY", KEY).args([
        "--insecure-http",
        "--base-url",
        "http://hypeman.invalid",
        "snapshots",
    ]);
    said(&mut command)
        .exits(1)
        .complains(&["can't be reached", "hypeman.invalid"]);
    assert!(proxy.world().requests.is_empty());
}

#[test]
fn a_proxy_on_the_way_to_https_sees_nothing_but_where_it_goes() {
    let host = host();
    let (config, ca) = fake_tls::server("hypeman.example");
    let ca = write(&host, "ca.pem", &ca);
    let server = FakeHypeman::start_tls(config);
    let target = server.url().replace("https://", "");
    for variable in ["HTTPS_PROXY", "ALL_PROXY"] {
        let (proxy, seen) = start_proxy(&target);
        let mut command = host.command();
        command
            .env(variable, &proxy)
            .env("HYPEMAN_API_KEY", KEY)
            .env("HYPEMAN_SNAP_CA_FILE", &ca)
            .args(["--base-url", "https://hypeman.example", "snapshots"]);
        let said = said(&mut command).exits(0);
        let seen = seen.lock().unwrap();
        for head in &seen.heads {
            assert!(
                head.starts_with("CONNECT hypeman.example:443 HTTP/1.1\r\n"),
                "{head}"
            );
            assert!(!head.contains(KEY), "{head}");
        }
        let through = String::from_utf8_lossy(&seen.through);
        assert!(!through.is_empty() && !through.contains(KEY));
        assert!(!through.contains("Bearer") && !through.contains("/snapshots"));
        assert_silent(&said);
        let world = server.world();
        let sent = world.requests.last().unwrap().authorization.clone();
        assert_eq!(sent, Some(format!("Bearer {KEY}")), "{variable}");
    }
}

#[test]
fn a_run_that_is_asked_to_stop_waits_for_the_snapshot_that_it_asked_for() {
    let (host, server) = (host(), server());
    let schedule = json!({
        "instance_id": ID, "interval": "1h0m0s", "retention": {"max_count": 1},
        "next_run_at": now().to_rfc3339(), "created_at": now().to_rfc3339(),
        "updated_at": now().to_rfc3339(),
        "attempt": {
            "run_at": now().to_rfc3339(), "snapshot_name": "made", "tries": 1,
            "started_at": now().to_rfc3339(),
        },
    });
    host.write_schedule(ID, schedule.to_string());
    let (has_begun, begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let copy = move |world: &mut World| {
        has_begun.send(()).unwrap();
        let _ = may_go_on.recv();
        let tags = json!({"hypeman.scheduled": "true", "hypeman.schedule_instance_id": ID});
        world.make_snapshot(ID, "Standby", "made", &tags);
    };
    let made = json!({
        "id": "snap001", "name": "made", "kind": "Standby", "source_instance_id": ID,
        "source_instance_name": "", "source_hypervisor": "qemu", "size_bytes": 1,
        "created_at": now().to_rfc3339(),
        "tags": {"hypeman.scheduled": "true", "hypeman.schedule_instance_id": ID},
    });
    let post = format!("POST /instances/{ID}/snapshots");
    let answer = Fault::after(copy, Answer::json(201, &made));
    server.world().fail(&post, answer);

    let run = host
        .std_command()
        .env("HYPEMAN_BASE_URL", server.url())
        .env("HYPEMAN_API_KEY", KEY)
        .arg("run-due")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    begun.recv().unwrap();
    let id = run.id();
    let pid = rustix::process::Pid::from_raw(id.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_until("the signal is taken", || {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        status.contains("ShdPnd:\t0000000000000000")
    });
    go_on.send(()).unwrap();
    run.wait_with_output().unwrap();
    assert_eq!(host.schedule(ID)["last_snapshot_id"], "snap001");
    assert_eq!(server.world().lines("POST ").len(), 1);
}

#[test]
fn a_server_that_is_not_trusted_is_told_once() {
    let host = host();
    let (config, _) = fake_tls::server("127.0.0.1");
    let server = FakeHypeman::start_tls(config);
    let said = host
        .run(&["--base-url", &server.url(), "snapshots"])
        .exits(1)
        .complains(&["--ca-file"]);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
}
