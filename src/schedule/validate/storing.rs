//! What a snapshot holds and how it is stored, as it was typed.

use super::{Input, InvalidSetting};
use crate::snapshot::storing::{Method, Storing};

/// What was typed about that.
///
/// # Errors
/// The first value that breaks a rule.
pub(super) fn typed(input: &Input) -> Result<Storing, InvalidSetting> {
    let no_memory = input.no_memory.unwrap_or(false);
    let compress = method(input.compress.as_deref())?;
    if let Some(method) = compress.filter(|_| no_memory) {
        return Err(InvalidSetting::new(
            "--compress",
            method.to_string(),
            "compresses memory, and --no-memory leaves that out: leave one of them out",
        ));
    }
    let min_free = input.min_free.as_deref().filter(|text| !text.is_empty());
    let min_free = min_free.map(|text| {
        text.parse()
            .map_err(|rule| InvalidSetting::new("--min-free", text, format!("{rule}")))
    });
    Ok(Storing {
        no_memory,
        compress,
        min_free: min_free.transpose()?,
    })
}

fn method(typed: Option<&str>) -> Result<Option<Method>, InvalidSetting> {
    match typed {
        None | Some("none") => Ok(None),
        Some(text) => {
            text.parse()
                .map(Some)
                .map_err(|rule: crate::snapshot::storing::InvalidMethod| {
                    InvalidSetting::new("--compress", text, rule.to_string())
                })
        }
    }
}
