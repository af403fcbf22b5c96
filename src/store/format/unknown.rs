//! Keys of a schedule file that this version does not know: they survive a rewrite.

use serde_ignored::Path;
use serde_json::{Map, Value};

/// Puts what is not known behind what is.
pub(super) fn add(known: &mut Map<String, Value>, unknown: &Map<String, Value>) {
    for (key, value) in unknown {
        match (known.get_mut(key), value) {
            (Some(Value::Object(known)), Value::Object(unknown)) => add(known, unknown),
            (Some(_), _) => {}
            (None, value) => {
                known.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The keys that lead to a value.
pub(super) fn keys(path: &Path<'_>) -> Vec<String> {
    match path {
        Path::Root => Vec::new(),
        Path::Seq { parent, .. }
        | Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => keys(parent),
        Path::Map { parent, key } => {
            let mut keys = keys(parent);
            keys.push(key.clone());
            keys
        }
    }
}

/// Copies one value, with the objects around it.
pub(super) fn copy(keys: &[String], from: &Value, to: &mut Map<String, Value>) {
    let Some((key, inner)) = keys.split_first() else {
        return;
    };
    let Some(value) = from.get(key) else {
        return;
    };
    if inner.is_empty() {
        to.insert(key.clone(), value.clone());
    } else if let Value::Object(to) = to.entry(key).or_insert_with(|| Map::new().into()) {
        copy(inner, value, to);
    }
}
