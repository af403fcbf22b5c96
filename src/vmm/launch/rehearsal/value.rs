//! The value of one of QEMU's options: fields with commas between them, or JSON.

use serde_json::{Map, Value as Json};

use super::super::qemu::fields;

/// A value in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// `first,key=text,…`: a first field may have no key.
    Fields(Vec<(String, String)>),
    /// An object.
    Json(Map<String, Json>),
}

impl Value {
    /// Parts `text`, whose first field has the key `implied` where it names none.
    pub(super) fn parse(text: &str, implied: &str) -> Self {
        if let Ok(Json::Object(object)) = serde_json::from_str(text) {
            return Self::Json(object);
        }
        let part = |(number, field): (usize, String)| match field.split_once('=') {
            Some((key, text)) => (key.to_owned(), text.to_owned()),
            None if number == 0 => (implied.to_owned(), field),
            // As in `server`, which is `server=on`, and `noserver`.
            None => match field.strip_prefix("no") {
                Some(key) if !key.is_empty() => (key.to_owned(), "off".to_owned()),
                _ => (field, "on".to_owned()),
            },
        };
        Self::Fields(fields(text).into_iter().enumerate().map(part).collect())
    }

    /// What a key has; of an object only what is no list and no object.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        match self {
            Self::Fields(fields) => {
                let field = fields.iter().rev().find(|(name, _)| name == key);
                field.map(|(_, text)| text.clone())
            }
            Self::Json(object) => match object.get(key)? {
                Json::String(text) => Some(text.clone()),
                Json::Bool(true) => Some("on".to_owned()),
                Json::Bool(false) => Some("off".to_owned()),
                Json::Number(number) => Some(number.to_string()),
                Json::Null | Json::Array(_) | Json::Object(_) => None,
            },
        }
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|text| ["on", "yes", "true", "y"].contains(&text.as_str()))
    }

    /// Gives a key this text.
    pub(super) fn set(&mut self, key: &str, text: &str) {
        match self {
            Self::Fields(fields) => {
                let first = fields.iter().position(|(name, _)| name == key);
                fields.retain(|(name, _)| name != key);
                let at = first.unwrap_or(fields.len()).min(fields.len());
                fields.insert(at, (key.to_owned(), text.to_owned()));
            }
            Self::Json(object) => {
                let value = match text {
                    "on" => Json::Bool(true),
                    "off" => Json::Bool(false),
                    number if number.parse::<u32>().is_ok() => {
                        Json::from(number.parse::<u32>().unwrap_or(0))
                    }
                    text => Json::from(text),
                };
                object.insert(key.to_owned(), value);
            }
        }
    }

    /// Drops all keys but these.
    pub(super) fn keep(&mut self, keeps: impl Fn(&str) -> bool) {
        match self {
            Self::Fields(fields) => fields.retain(|(name, _)| keeps(name)),
            Self::Json(object) => object.retain(|name, _| keeps(name)),
        }
    }

    /// As QEMU takes it; the first field stands without its key where that is `implied`.
    pub(super) fn text(&self, implied: &str) -> String {
        let fields = match self {
            Self::Json(object) => return Json::Object(object.clone()).to_string(),
            Self::Fields(fields) => fields,
        };
        let one = |(number, (key, text)): (usize, &(String, String))| {
            let text = text.replace(',', ",,");
            if number == 0 && key == implied {
                text
            } else {
                format!("{key}={text}")
            }
        };
        let all: Vec<String> = fields.iter().enumerate().map(one).collect();
        all.join(",")
    }
}
