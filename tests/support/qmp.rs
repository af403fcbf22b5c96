//! A small QMP client on QEMU's second monitor, with which a test looks at the VM while the tool holds the first one
//! (a monitor serves one client at a time). Not the tool's client, and no fake: it only talks to a real QEMU.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// How long QEMU may take for one reply.
const REPLY: Duration = Duration::from_secs(30);

/// A connection to one monitor, with the events that came over it so far.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    partial: Vec<u8>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// When nobody listens yet, or QEMU does not greet in time.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(REPLY))?;
        stream.set_write_timeout(Some(REPLY))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            partial: Vec::new(),
            events: Vec::new(),
        };
        qmp.read_message()?;
        qmp.command("qmp_capabilities", &json!({}))?
            .map_err(io::Error::other)?;
        Ok(qmp)
    }

    /// Runs one command. The inner error is QEMU's own description.
    ///
    /// # Errors
    /// When the connection breaks or QEMU does not answer in time.
    pub fn command(
        &mut self,
        command: &str,
        arguments: &Value,
    ) -> io::Result<Result<Value, String>> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let message = self.read_message()?;
            if let Some(value) = message.get("return") {
                return Ok(Ok(value.clone()));
            }
            if let Some(error) = message.get("error") {
                return Ok(Err(format!("{command}: {error}")));
            }
            self.events.push(message);
        }
    }

    /// All events since the connection was made, oldest first, as QEMU sent them.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn events(&mut self) -> io::Result<&[Value]> {
        // The reply to any command comes after all events before it.
        self.command("query-name", &json!({}))?
            .map_err(io::Error::other)?;
        Ok(&self.events)
    }

    fn read_message(&mut self) -> io::Result<Value> {
        if self.reader.read_until(b'\n', &mut self.partial)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = std::mem::take(&mut self.partial);
        serde_json::from_slice(&line).map_err(io::Error::other)
    }
}
