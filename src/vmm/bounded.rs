//! Lists in a VMM's answers, whose length is the VMM's word: no more entries are taken than anybody has.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// A list of at most `N` entries; a longer one is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtMost<const N: usize, T>(Vec<T>);

impl<const N: usize, T> AtMost<N, T> {
    /// The entries.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<const N: usize, T> Default for AtMost<N, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<const N: usize, T> Deref for AtMost<N, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, const N: usize, T: Deserialize<'de>> Deserialize<'de> for AtMost<N, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

struct Entries<const N: usize, T>(PhantomData<T>);

impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for Entries<N, T> {
    type Value = AtMost<N, T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {N} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if all.len() == N {
                return Err(A::Error::custom(format!(
                    "a list has more than {N} entries, and no VM has so many"
                )));
            }
            all.push(entry);
        }
        Ok(AtMost(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_up_to_its_bound() {
        let read = |text| serde_json::from_str::<AtMost<2, u64>>(text).map(AtMost::into_vec);
        assert_eq!(read("[]").unwrap(), Vec::<u64>::new());
        assert_eq!(read("[1, 2]").unwrap(), [1, 2]);
        let error = read("[1, 2, 3]").unwrap_err().to_string();
        assert!(error.contains("more than 2 entries"), "{error}");
        assert!(read("{}").is_err());
    }
}
