//! Files of which no more is read than they may have, however long they grow meanwhile.

use std::io::{self, Read};

/// Most files here are smaller, and are read at once then.
const SMALL: usize = 4096;

/// All of `file`.
///
/// # Errors
/// `FileTooLarge` when it has more than `max_bytes`; else what reading it says.
pub fn read(file: impl Read, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(SMALL);
    let read = file
        .take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read <= max_bytes) {
        return Ok(bytes);
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is larger than {} KiB", max_bytes / 1024),
    ))
}

/// All of `file` as text.
///
/// # Errors
/// As [`read`], and `InvalidData` when it is not UTF-8.
pub fn read_text(file: impl Read, max_bytes: u64) -> io::Result<String> {
    String::from_utf8(read(file, max_bytes)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_refused_beyond_it() {
        assert_eq!(read(&b"1234"[..], 4).unwrap(), b"1234");
        let endless = read(io::repeat(0), 1 << 20).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(endless.to_string(), "it is larger than 1024 KiB");
        let text = read_text(&b"\xff"[..], 4).unwrap_err();
        assert_eq!(text.kind(), io::ErrorKind::InvalidData);
    }
}
