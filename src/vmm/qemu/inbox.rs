//! The receiving side of a QMP connection: bytes in, whole JSON messages out. No I/O of its own.

use std::io;

use serde_json::Value;

/// The longest line that is taken, in bytes. QEMU's longest answers (its schema, many disks) stay under a tenth of it.
const MAX_LINE_BYTES: usize = 16 << 20;
/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 << 10;

/// Bytes that were read and not yet taken as messages.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Everything before has been taken.
    start: usize,
    /// No line ends before.
    scanned: usize,
}

impl Inbox {
    /// Lets `read` add bytes, as [`io::Read::read`] does.
    ///
    /// # Errors
    /// What `read` fails with.
    pub fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        self.bytes.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        let length = self.bytes.len();
        self.bytes.resize(length + READ_BYTES, 0);
        let result = read(self.bytes.get_mut(length..).unwrap_or_default());
        self.bytes
            .truncate(length + result.as_ref().copied().unwrap_or(0));
        result
    }

    /// The next whole message, if one is there.
    ///
    /// # Errors
    /// What is wrong with the line, in words.
    pub fn next_message(&mut self) -> Result<Option<Value>, String> {
        loop {
            let unseen = self.bytes.get(self.scanned..).unwrap_or_default();
            let Some(end) = unseen.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.bytes.len();
                if self.scanned - self.start > MAX_LINE_BYTES {
                    return Err(format!("it is longer than {MAX_LINE_BYTES} bytes"));
                }
                return Ok(None);
            };
            let end = self.scanned + end;
            let line = self.bytes.get(self.start..end).unwrap_or_default();
            let line = line.trim_ascii();
            self.start = end + 1;
            self.scanned = end + 1;
            if !line.is_empty() {
                return serde_json::from_slice(line)
                    .map(Some)
                    .map_err(|error| format!("it is no JSON: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(inbox: &mut Inbox, bytes: &[u8]) {
        for piece in bytes.chunks(READ_BYTES) {
            let read = inbox.fill(|buffer| {
                buffer[..piece.len()].copy_from_slice(piece);
                Ok(piece.len())
            });
            assert_eq!(read.unwrap(), piece.len());
        }
    }

    #[test]
    fn messages_come_out_whole_however_they_came_in() {
        let mut inbox = Inbox::default();
        put(&mut inbox, b"{\"a\"");
        assert_eq!(inbox.next_message().unwrap(), None);
        put(&mut inbox, b": 1}\r\n\r\n{\"b\": 2}\n{\"c\"");
        assert_eq!(inbox.next_message().unwrap(), Some(json!({"a": 1})));
        assert_eq!(inbox.next_message().unwrap(), Some(json!({"b": 2})));
        assert_eq!(inbox.next_message().unwrap(), None);
        put(&mut inbox, b": 3}\n");
        assert_eq!(inbox.next_message().unwrap(), Some(json!({"c": 3})));
    }

    #[test]
    fn a_failed_read_adds_nothing() {
        let mut inbox = Inbox::default();
        put(&mut inbox, b"{}");
        let failed = inbox.fill(|buffer| {
            buffer.fill(b'x');
            Err(io::ErrorKind::WouldBlock.into())
        });
        assert!(failed.is_err());
        put(&mut inbox, b"\n");
        assert_eq!(inbox.next_message().unwrap(), Some(json!({})));
    }

    #[test]
    fn a_line_that_never_ends_is_refused() {
        let mut inbox = Inbox::default();
        put(&mut inbox, &vec![b'['; MAX_LINE_BYTES + 1]);
        assert!(inbox.next_message().unwrap_err().contains("longer than"));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let mut inbox = Inbox::default();
        put(&mut inbox, b"QEMU 7.2.22 monitor\n");
        assert!(inbox.next_message().unwrap_err().contains("no JSON"));
    }
}
