//! What strangers may say: real answers and files, changed here and there, or their bytes damaged. A seed makes the same of the
//! same, so that a property test can repeat and shrink.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// `template` with some of its values replaced, left out or repeated. One in `rarity` values is; 0 is none.
pub fn altered(template: &Value, rarity: u32, seed: u64) -> Value {
    Alteration {
        rng: Rng::with_seed(seed),
        rarity,
    }
    .of(template)
}

/// `bytes` with some of them replaced, cut out, repeated or put in.
pub fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..=bytes.len());
        let end = bytes.len().min(at + rng.usize(1..40));
        match rng.u8(..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].repeat(rng.usize(1..20));
                bytes.splice(at..at, again);
            }
            3 => {
                let noise: Vec<u8> = (0..rng.usize(1..20)).map(|_| rng.u8(..)).collect();
                bytes.splice(at..end, noise);
            }
            4 => {
                let deep = vec![b'['; rng.usize(1..3000)];
                bytes.splice(at..at, deep);
            }
            _ => {
                for byte in &mut bytes[at..end] {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
        }
    }
    bytes
}

struct Alteration {
    rng: Rng,
    rarity: u32,
}

impl Alteration {
    fn hits(&mut self) -> bool {
        self.rarity > 0 && self.rng.u32(..self.rarity) == 0
    }

    fn of(&mut self, value: &Value) -> Value {
        if self.hits() {
            return self.stranger();
        }
        match value {
            Value::Array(items) => {
                let mut all: Vec<Value> = items.iter().map(|item| self.of(item)).collect();
                if self.hits() && !all.is_empty() {
                    let times = self.rng.usize(2..400);
                    all = all.iter().cycle().take(times).cloned().collect();
                }
                Value::Array(all)
            }
            Value::Object(fields) => {
                let mut all = Map::new();
                for (name, field) in fields {
                    if !self.hits() {
                        all.insert(name.clone(), self.of(field));
                    }
                }
                Value::Object(all)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }

    /// A value that nobody expects.
    fn stranger(&mut self) -> Value {
        let all = [
            Value::Null,
            json!(true),
            json!(-1),
            json!(0),
            json!(u64::MAX),
            json!(i64::MAX),
            json!(1_u64 << 44),
            json!(1e300),
            json!(""),
            json!("."),
            json!("/"),
            json!("../../../../etc/cron.d/x"),
            json!("/etc/shadow"),
            json!("\u{1b}]0;x\u{7}\r\n\0"),
            json!("x".repeat(5000)),
            json!("9999-12-31T23:59:60.999999999999Z"),
            json!("-106751991167300d24h59m60s"),
            json!([]),
            json!({}),
            json!([[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]),
        ];
        self.rng.choice(&all).cloned().unwrap_or_default()
    }
}
