//! hypeman's own schedules, `<data-dir>/snapshot-schedules/<id>.json`: whether its server snapshots an instance as well.
//! Only reads them.

use std::path::Path;

use serde::Deserialize;

use super::json;
use crate::engine::EngineError;
use crate::instance::InstanceId;

/// The longest interval that is shown; longer ones are none.
const INTERVAL_MAX_BYTES: usize = 64;

/// What is looked at of a schedule file.
#[derive(Debug, Deserialize)]
struct HypemanSchedule {
    instance_id: String,
    interval: String,
}

/// What to say of hypeman's schedule for the instance; `None` when there is none.
///
/// # Errors
/// When there is a file that can't be read as one.
pub(super) fn of(data_dir: &Path, id: &InstanceId) -> Result<Option<String>, EngineError> {
    let path = data_dir
        .join("snapshot-schedules")
        .join(format!("{id}.json"));
    let shown = path.display();
    let found: HypemanSchedule = match json::read(&path) {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => {
            return Err(EngineError::caused(
                format!(
                    "can't tell whether hypeman has a schedule of its own for instance {id}: {shown}"
                ),
                error,
            ));
        }
    };
    if found.instance_id != id.as_str() {
        return Ok(None);
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let every =
        if found.interval.len() <= INTERVAL_MAX_BYTES && found.interval.chars().all(is_plain) {
            format!(", every {}", found.interval)
        } else {
            String::new()
        };
    Ok(Some(format!(
        "hypeman has a schedule of its own for instance {id}{every} ({shown}): two schedulers snapshot the same VM: \
         remove one of the two"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_a_schedule_of_this_very_instance_is_told() {
        let data = tempfile::tempdir().unwrap();
        let id: InstanceId = "vm1".parse().unwrap();
        assert_eq!(of(data.path(), &id).unwrap(), None);
        let directory = data.path().join("snapshot-schedules");
        fs::create_dir(&directory).unwrap();
        let path = directory.join("vm1.json");
        let write = |instance, interval| {
            let text = serde_json::json!({"instance_id": instance, "interval": interval});
            fs::write(&path, text.to_string()).unwrap();
        };
        write("vm1", "24h0m0s");
        let told = of(data.path(), &id).unwrap().unwrap();
        for part in ["vm1", "every 24h0m0s", "two schedulers", "vm1.json"] {
            assert!(told.contains(part), "{told}");
        }
        write("vm1", "\u{1b}[31m1h");
        let told = of(data.path(), &id).unwrap().unwrap();
        assert!(
            !told.contains('\u{1b}') && !told.contains("every"),
            "{told}"
        );
        write("vm10", "24h0m0s");
        assert_eq!(of(data.path(), &id).unwrap(), None);
        fs::write(&path, "{").unwrap();
        let error = of(data.path(), &id).unwrap_err().to_string();
        assert!(error.contains("vm1.json"), "{error}");
    }
}
