//! The receiving side of a QMP connection: bytes in, whole lines out. No I/O of its own.

use std::io;

/// The longest line that is taken, in bytes. The longest that is asked for tells of all disks: 2 kB each.
const MAX_LINE_BYTES: usize = 1 << 20;
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

    /// The next whole line that is not empty, if one is there.
    ///
    /// # Errors
    /// What is wrong with the line, in words.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, String> {
        loop {
            let unseen = self.bytes.get(self.scanned..).unwrap_or_default();
            let end = unseen.iter().position(|byte| *byte == b'\n');
            let end = self.scanned + end.unwrap_or(unseen.len());
            if end - self.start > MAX_LINE_BYTES {
                return Err(format!("it is longer than {MAX_LINE_BYTES} bytes"));
            }
            if end == self.bytes.len() {
                self.scanned = end;
                return Ok(None);
            }
            let line = self.start..end;
            self.start = end + 1;
            self.scanned = end + 1;
            if self
                .bytes
                .get(line.clone())
                .is_some_and(|line| !line.trim_ascii().is_empty())
            {
                return Ok(self.bytes.get(line).map(<[u8]>::trim_ascii));
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn lines_come_out_whole_however_they_came_in() {
        let mut inbox = Inbox::default();
        put(&mut inbox, b"{\"a\"");
        assert_eq!(inbox.next_line().unwrap(), None);
        put(&mut inbox, b": 1}\r\n\r\n{\"b\": 2}\n{\"c\"");
        assert_eq!(inbox.next_line().unwrap(), Some(&br#"{"a": 1}"#[..]));
        assert_eq!(inbox.next_line().unwrap(), Some(&br#"{"b": 2}"#[..]));
        assert_eq!(inbox.next_line().unwrap(), None);
        put(&mut inbox, b": 3}\n");
        assert_eq!(inbox.next_line().unwrap(), Some(&br#"{"c": 3}"#[..]));
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
        assert_eq!(inbox.next_line().unwrap(), Some(&br#"{}"#[..]));
    }

    #[test]
    fn a_line_that_never_ends_is_refused() {
        let mut inbox = Inbox::default();
        put(&mut inbox, &vec![b'['; MAX_LINE_BYTES + 1]);
        assert!(inbox.next_line().unwrap_err().contains("longer than"));
    }
}
