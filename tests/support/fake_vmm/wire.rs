//! The wire format of the VMMs' APIs: HTTP/1.1 as their server library reads and writes it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::Dialect;

/// Method and path, and the body, of one request; nothing when the sender closes before it is whole.
pub(super) fn read_request(connection: &mut UnixStream) -> Option<(String, Value)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body).ok()?;
    let line = head.split(" HTTP/").next()?.to_owned();
    Some((line, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// Whether the sender has closed its end already.
pub(super) fn has_hung_up(connection: &UnixStream) -> bool {
    let mut watched = [PollFd::new(connection, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut watched, Some(&now)).is_ok_and(|count| count > 0)
        && watched[0].revents().contains(PollFlags::HUP)
}

/// The answer with a status and a body.
pub(super) fn reply(dialect: Dialect, (status, body): &(u16, String)) -> String {
    let server = match dialect {
        Dialect::CloudHypervisor => "Cloud Hypervisor API",
        Dialect::Firecracker => "Firecracker API",
    };
    // Both leave the reason after the status empty.
    let head = format!("HTTP/1.1 {status} \r\nServer: {server}\r\nConnection: keep-alive\r\n");
    if *status == 204 {
        return head + "\r\n";
    }
    format!(
        "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends the answer.
pub(super) fn send(connection: &mut UnixStream, dialect: Dialect, answer: &(u16, String)) {
    // The client may have given up.
    let _ = connection.write_all(reply(dialect, answer).as_bytes());
}
