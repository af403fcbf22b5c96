//! How many values a JSON text holds, counted without keeping any: a short text can take two hundred times its length in
//! memory once it is parsed.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// More values than this are no metadata: a server's own file holds some hundred.
const VALUES_MAX: usize = 20_000;

/// Whether the JSON text `bytes` holds more values than anything that is read here; `false` too for what is no JSON.
pub(super) fn is_too_rich(bytes: &[u8]) -> bool {
    let mut left = VALUES_MAX;
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let _ = Counter { left: &mut left }.deserialize(&mut text);
    left == 0
}

/// Counts the values of what it is given, down to none that are left.
struct Counter<'a> {
    left: &'a mut usize,
}

impl Counter<'_> {
    fn one<E: Error>(&mut self) -> Result<(), E> {
        *self.left -= 1;
        if *self.left == 0 {
            return Err(E::custom("too many values"));
        }
        Ok(())
    }

    fn again(&mut self) -> Counter<'_> {
        Counter { left: self.left }
    }
}

impl<'de> DeserializeSeed<'de> for Counter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counter<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.one()
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.one()
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.one()
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.one()
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.one()
    }

    fn visit_str<E: Error>(mut self, _: &str) -> Result<(), E> {
        self.one()
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.one()?;
        while list.next_element_seed(self.again())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.one()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(self.again())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeated(unit: &str, times: usize) -> String {
        format!("[{}]", vec![unit; times].join(","))
    }

    #[test]
    fn what_holds_few_values_passes_whatever_they_are() {
        let all = r#"{"a": [1, -1, 1.5, 1e400, "x", "\u00e4", true, null, {}, []], "b": {"c": {"d": "e"}}}"#;
        for text in [all, "{", "", "[1,", "\"\\ud800\"", &"[".repeat(1 << 20)] {
            assert!(!is_too_rich(text.as_bytes()), "{text:.20}");
        }
        let long = format!("[\"{}\"]", "x".repeat(1 << 20));
        assert!(!is_too_rich(long.as_bytes()));
        assert!(!is_too_rich(repeated("0", VALUES_MAX - 2).as_bytes()));
    }

    #[test]
    fn what_holds_very_many_does_not_wherever_they_are() {
        for unit in ["0", "{}", "[[[]]]", r#"{"":0}"#, "\"\"", "null"] {
            assert!(is_too_rich(repeated(unit, VALUES_MAX).as_bytes()), "{unit}");
        }
        let keys: Vec<String> = (0..VALUES_MAX).map(|key| format!("\"{key}\":0")).collect();
        assert!(is_too_rich(format!("{{{}}}", keys.join(",")).as_bytes()));
    }
}
