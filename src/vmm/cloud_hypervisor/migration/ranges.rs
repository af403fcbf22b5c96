//! Where a guest has memory, by what its VMM says. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::nonsense;
use crate::vmm::VmmError;

/// Part of the guest's memory, by its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Range {
    pub(super) gpa: u64,
    #[serde(alias = "size")]
    pub(super) length: u64,
}

impl Range {
    pub(super) fn end(self) -> Option<u64> {
        self.gpa.checked_add(self.length)
    }
}

/// A table of ranges, two numbers each.
pub(super) fn ranges(table: &[u8]) -> Result<Vec<Range>, VmmError> {
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
    let parts = table.chunks(16).map(|entry| {
        let (gpa, length) = entry.split_at_checked(8)?;
        Some(Range {
            gpa: number(gpa).ok()?,
            length: number(length).ok()?,
        })
    });
    let all: Option<Vec<Range>> = parts.collect();
    all.ok_or_else(|| nonsense("half a range of memory"))
}

/// Where the guest has memory.
pub(super) fn mappings(config: &Value, most: u64) -> Result<Vec<Range>, VmmError> {
    let told = config["memory_manager_data"]["guest_ram_mappings"].clone();
    let all: Vec<Range> =
        serde_json::from_value(told).map_err(|error| nonsense(error.to_string()))?;
    let sum = all.iter().try_fold(0_u64, |sum, it| {
        it.end()?;
        sum.checked_add(it.length)
    });
    match sum {
        Some(sum) if sum <= most => Ok(all),
        Some(_) | None => Err(nonsense("more memory than its guest has")),
    }
}

/// The order in which memory stands in the file, as the memory manager's state has it.
pub(super) fn layout(state: &Value) -> Option<Vec<Range>> {
    fn find(value: &Value) -> Option<&Value> {
        match value {
            Value::Object(object) => object
                .get("memory-manager")
                .or_else(|| object.values().find_map(find)),
            Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => None,
        }
    }
    let data = &find(state)?["snapshot_data"];
    let data = match data["state"].as_str() {
        Some(text) => serde_json::from_str(text).ok()?,
        None => data.clone(),
    };
    let ranges = &data["memory_ranges"];
    let ranges = ranges.get("data").unwrap_or(ranges);
    serde_json::from_value(ranges.clone()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_comes_is_bounded_by_what_the_guest_has() {
        let config = json!({"memory_manager_data": {"guest_ram_mappings": [
            {"slot": 0, "gpa": 0, "size": 4096, "zone_id": "m"}, {"gpa": 8192, "size": 4096},
        ]}});
        assert_eq!(mappings(&config, 8192).unwrap().len(), 2);
        assert!(mappings(&config, 8191).is_err());
        let endless =
            json!({"memory_manager_data": {"guest_ram_mappings": [{"gpa": u64::MAX, "size": 2}]}});
        assert!(mappings(&endless, u64::MAX).is_err());
        assert!(mappings(&json!({}), 1).is_err());
        let table: Vec<u8> = [1_u64, 2, 3, 4]
            .iter()
            .flat_map(|it| it.to_le_bytes())
            .collect();
        assert_eq!(ranges(&table).unwrap()[1], Range { gpa: 3, length: 4 });
        assert!(ranges(&table[..20]).is_err());
    }

    #[test]
    fn the_order_of_memory_is_found_however_deep_it_stands() {
        let inner = json!({"memory_ranges": {"data": [{"gpa": 0, "length": 7}]}}).to_string();
        let state = json!({"snapshots": {"vm": {"snapshots": {"memory-manager": {"snapshot_data": {"state": inner}}}}}});
        assert_eq!(layout(&state).unwrap(), [Range { gpa: 0, length: 7 }]);
        assert!(layout(&json!({"snapshots": {}})).is_none());
    }
}
