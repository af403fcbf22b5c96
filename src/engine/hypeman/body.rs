//! The body of an answer, read within bounds: whole where it is short, record by record where it is a list, so that a
//! list takes no more memory than what is kept of it. Knows JSON's arrays, and nothing of what their records mean.

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use serde::Deserializer as _;
use serde::de::{self, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::answer;
use super::fault::{Fault, TooLong};

/// A body that comes in.
pub(super) struct Body<R> {
    reader: BufReader<Limited<R>>,
    /// The limit of its request, for messages.
    timeout: Duration,
}

impl<R: Read> Body<R> {
    /// What `reader` gives, which must not be more than `max_bytes`.
    pub(super) fn new(reader: R, max_bytes: u64, timeout: Duration) -> Self {
        Self {
            reader: BufReader::new(Limited {
                reader,
                max_bytes,
                left: max_bytes,
            }),
            timeout,
        }
    }

    /// Some of its first bytes.
    ///
    /// # Errors
    /// When it breaks off.
    pub(super) fn start(&mut self) -> Result<&[u8], Fault> {
        let timeout = self.timeout;
        self.reader
            .fill_buf()
            .map_err(|cause| answer::body_fault(&cause, timeout))
    }

    /// All of it.
    ///
    /// # Errors
    /// When it breaks off or is too long.
    pub(super) fn whole(mut self) -> Result<Vec<u8>, Fault> {
        let mut whole = Vec::new();
        self.reader
            .read_to_end(&mut whole)
            .map_err(|cause| answer::body_fault(&cause, self.timeout))?;
        Ok(whole)
    }

    /// Gives each element of the JSON array that it is to `take`, as JSON; `null` is an empty array, as Go writes it.
    ///
    /// # Errors
    /// When it breaks off, is too long or no array, and what `take` refuses.
    pub(super) fn each(self, take: &mut dyn FnMut(&str) -> Result<(), Fault>) -> Result<(), Fault> {
        let timeout = self.timeout;
        let mut refused = None;
        let mut json = serde_json::Deserializer::from_reader(self.reader);
        let records = Records {
            take,
            refused: &mut refused,
        };
        let read = json.deserialize_any(records).and_then(|()| json.end());
        read.map_err(|error| match refused {
            Some(fault) => fault,
            None if error.is_io() => answer::body_fault(&error.into(), timeout),
            None => Fault::Garbled(answer::clean(&error.to_string(), None)),
        })
    }
}

/// A reader that ends with an error behind so many bytes.
struct Limited<R> {
    reader: R,
    max_bytes: u64,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        match u64::try_from(read)
            .ok()
            .and_then(|read| self.left.checked_sub(read))
        {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => Err(io::Error::other(TooLong {
                max_bytes: self.max_bytes,
            })),
        }
    }
}

/// The elements of an array, one at a time.
struct Records<'a> {
    take: &'a mut dyn FnMut(&str) -> Result<(), Fault>,
    /// Why `take` had enough: a fault does not fit through the parser.
    refused: &'a mut Option<Fault>,
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        while let Some(record) = records.next_element::<Box<RawValue>>()? {
            if let Err(fault) = (self.take)(record.get()) {
                *self.refused = Some(fault);
                return Err(de::Error::custom("enough"));
            }
        }
        Ok(())
    }
}
