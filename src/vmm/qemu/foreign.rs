//! Devices that another process than QEMU serves. It writes to the guest's memory past the write protection by which QEMU
//! saves it, and may keep data that QEMU knows nothing of, so that no snapshot is whole.

use serde::Deserialize;
use serde_json::json;

use super::super::VmmError;
use super::qmp::Qmp;

/// Where devices and what they stand on are.
const PLACES: [&str; 3] = [
    "/machine/peripheral",
    "/machine/peripheral-anon",
    "/objects",
];
/// What the types of such devices, objects and network back ends hold.
const SERVED_ELSEWHERE: [&str; 2] = ["vhost-user", "vhost-vdpa"];

/// An entry of `qom-list`.
#[derive(Debug, Deserialize)]
pub(super) struct Property {
    name: String,
    /// QEMU's word for its type: `child<…>` for an object.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Refuses a guest with a device that another process serves.
///
/// # Errors
/// [`VmmError::Unsupported`] with the device.
pub(super) fn refuse(qmp: &mut Qmp) -> Result<(), VmmError> {
    for place in PLACES {
        let properties: Vec<Property> = qmp.query("qom-list", &json!({"path": place}))?;
        let found = properties.iter().find_map(|it| {
            let kind = it.kind.strip_prefix("child<")?.strip_suffix('>')?;
            is_served_elsewhere(kind).then_some((it.name.as_str(), kind))
        });
        if let Some((name, kind)) = found {
            return Err(refusal("device", name, kind));
        }
    }
    // No command of QMP's own tells what a network device is connected to.
    let arguments = json!({"command-line": "info network"});
    let answer: String = match qmp.query("human-monitor-command", &arguments) {
        Ok(answer) => answer,
        // A QEMU without network devices, or built without human monitors.
        Err(VmmError::Refused { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    match network_backend(&answer) {
        Some((name, kind)) => Err(refusal("network back end", name, kind)),
        None => Ok(()),
    }
}

fn is_served_elsewhere(kind: &str) -> bool {
    SERVED_ELSEWHERE.iter().any(|one| kind.contains(one))
}

/// Name and type of the first network back end that another process serves, in lines such as
/// ` \ n0: index=0,type=vhost-user,…`.
fn network_backend(info: &str) -> Option<(&str, &str)> {
    info.lines().find_map(|line| {
        let (name, description) = line.split_once(": index=")?;
        let kind = description
            .split(',')
            .find_map(|part| part.strip_prefix("type="))?;
        let name = name.trim_start_matches([' ', '\\']);
        is_served_elsewhere(kind).then_some((name, kind))
    })
}

fn refusal(what: &str, name: &str, kind: &str) -> VmmError {
    VmmError::Unsupported(format!(
        "{what} {name} ({kind}) can't be part of a snapshot: another process than QEMU serves it and writes to the \
         guest's memory; stop the guest to snapshot its disks, or let QEMU serve the device itself"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_back_end_of_another_process_is_found_by_its_type() {
        // As QEMU 7.2 answers, but for the type of the second one.
        let info = "hub 0\r\n \\ hp\r\nvirtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r\n \\ n0: index=0,type=user,net=10.0.2.0,restrict=off\r\nnet1: index=0,type=nic,model=virtio-net-pci\r\n \\ n1: index=0,type=vhost-user,vhost-user1 to c0\r\n";
        assert_eq!(network_backend(info), Some(("n1", "vhost-user")));
        assert_eq!(network_backend(&info.replace("vhost-user", "tap")), None);
        assert_eq!(network_backend(""), None);
    }
}
