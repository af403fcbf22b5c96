//! How Go writes single values: durations, times and what is not set.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serializer};

use crate::schedule::{duration, is_go_zero};

/// An optional text, of which Go writes the empty one for "not set".
pub(super) fn empty_as_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// An optional time, of which Go writes the zero one for "not set".
pub(super) fn zero_time_as_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(Option::<DateTime<Utc>>::deserialize(deserializer)?.filter(|time| !is_go_zero(*time)))
}

/// A value for which Go writes `null` when it is a nil map.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A duration: a string in Go's form, or in any other that [`duration::parse`] reads.
struct Text;

impl Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"1h30m0s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        duration::parse(text).map_err(E::custom)
    }
}

pub(super) mod go {
    use super::{Deserializer, Duration, Serializer, Text, duration};

    pub fn serialize<S: Serializer>(d: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&duration::format_go(*d))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_str(Text)
    }
}

/// A duration that may be missing: absent, `null`, empty and zero all mean that there is none.
pub(super) mod go_optional {
    use super::{Deserialize, Deserializer, Duration, Error, Serializer, duration};

    pub fn serialize<S: Serializer>(d: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => super::go::serialize(d, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
        let parsed = text.map(|text| duration::parse(&text).map_err(D::Error::custom));
        Ok(parsed.transpose()?.filter(|d| !d.is_zero()))
    }
}

/// A duration that may be missing, and zero is one.
pub(super) mod go_or_absent {
    use super::{Deserialize, Deserializer, Duration, Error, Serializer, duration};

    pub fn serialize<S: Serializer>(d: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        super::go_optional::serialize(d, to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let parsed = text.map(|text| duration::parse(&text).map_err(D::Error::custom));
        parsed.transpose()
    }
}

/// A value that may be missing, as its own text.
pub(super) mod text_or_absent {
    use std::fmt::Display;
    use std::str::FromStr;

    use super::{Deserialize, Deserializer, Error, Serializer};

    pub fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}
