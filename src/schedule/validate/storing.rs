//! What a snapshot holds and how it is stored, as it was typed.

use super::{Input, InvalidSetting};
use crate::snapshot::storing::{InvalidSaving, Method, Saving, Storing};

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
    let saving = saving(input.method.as_deref())?;
    let against = match (saving, compress) {
        (Some(_), _) if no_memory => {
            Some("saves memory, and --no-memory leaves that out: leave one of them out")
        }
        (Some(Saving::Difference), Some(_)) => Some(
            "shares unchanged memory between snapshots, and --compress can't: leave one of them out",
        ),
        (Some(Saving::Difference | Saving::Migration) | None, _) => None,
    };
    if let Some((saving, why)) = saving.zip(against) {
        return Err(InvalidSetting::new("--method", saving.to_string(), why));
    }
    let min_free = input.min_free.as_deref().filter(|text| !text.is_empty());
    let min_free = min_free.map(|text| {
        text.parse()
            .map_err(|rule| InvalidSetting::new("--min-free", text, format!("{rule}")))
    });
    Ok(Storing {
        no_memory,
        saving,
        compress,
        min_free: min_free.transpose()?,
    })
}

fn saving(typed: Option<&str>) -> Result<Option<Saving>, InvalidSetting> {
    match typed {
        None | Some("full" | "") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|rule: InvalidSaving| InvalidSetting::new("--method", text, rule.to_string())),
    }
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
