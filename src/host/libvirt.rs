//! A domain of libvirt's, read through virsh(1): its disks, and a monitor of its own that libvirt does not use. Changes
//! nothing.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The namespace of QEMU's own arguments in a domain's XML.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// Options of QEMU that say what a monitor listens at.
const MONITORS: [&str; 2] = ["-qmp", "-qmp-pretty"];

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// The files and devices that its guest can write to.
    pub disks: Vec<PathBuf>,
    /// The socket of a QMP monitor that it was given by `qemu:commandline`.
    pub monitor: Option<PathBuf>,
}

/// Why a domain can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LibvirtError {
    /// virsh can't be run.
    #[error("can't run virsh, of the Debian package libvirt-clients: {0}")]
    NoVirsh(io::Error),
    /// virsh refuses.
    #[error("virsh {command}: {said}")]
    Refused {
        /// What was asked.
        command: String,
        /// What it answered.
        said: String,
    },
    /// What it prints is no domain.
    #[error("virsh prints no domain that can be read: {0}")]
    Xml(#[from] roxmltree::Error),
    /// It has no name.
    #[error("virsh prints a domain without a name")]
    Nameless,
}

/// The domain `name` of the libvirt at `uri` (virsh's own default if there is none): as it runs, or as it starts next.
///
/// # Errors
/// When virsh is missing or refuses, or prints something else.
pub fn domain(name: &str, uri: Option<&str>, is_next: bool) -> Result<Domain, LibvirtError> {
    let mut arguments = vec!["dumpxml"];
    if is_next {
        arguments.push("--inactive");
    }
    arguments.extend(["--domain", name]);
    parse(&virsh(uri, &arguments)?)
}

/// Whether the domain `name` has a QEMU at this moment.
///
/// # Errors
/// As [`domain`].
pub fn is_active(name: &str, uri: Option<&str>) -> Result<bool, LibvirtError> {
    let id = virsh(uri, &["domid", "--domain", name])?;
    Ok(id.trim().parse::<u32>().is_ok())
}

fn virsh(uri: Option<&str>, arguments: &[&str]) -> Result<String, LibvirtError> {
    let mut command = Command::new("virsh");
    command.arg("--quiet").stdin(Stdio::null());
    if let Some(uri) = uri {
        command.args(["--connect", uri]);
    }
    let output = command
        .args(arguments)
        .output()
        .map_err(LibvirtError::NoVirsh)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    Err(LibvirtError::Refused {
        command: arguments.join(" "),
        said: said.join(" "),
    })
}

fn parse(xml: &str) -> Result<Domain, LibvirtError> {
    let document = roxmltree::Document::parse(xml)?;
    let root = document.root_element();
    let child = |node: roxmltree::Node<'_, '_>, name: &str| {
        node.children()
            .find(|it| it.has_tag_name(name))
            .and_then(|it| it.text())
            .map(str::to_owned)
    };
    let disks = root
        .descendants()
        .filter(|it| it.has_tag_name("disk"))
        .filter(|it| matches!(it.attribute("device"), None | Some("disk" | "lun")))
        .filter(|it| !it.children().any(|it| it.has_tag_name("readonly")))
        .filter_map(|it| it.children().find(|it| it.has_tag_name("source")))
        .filter_map(|it| it.attribute("file").or(it.attribute("dev")))
        .map(PathBuf::from)
        .collect();
    let arguments: Vec<&str> = root
        .descendants()
        .filter(|it| it.has_tag_name((QEMU, "arg")))
        .filter_map(|it| it.attribute("value"))
        .collect();
    Ok(Domain {
        name: child(root, "name").ok_or(LibvirtError::Nameless)?,
        disks,
        monitor: monitor(&arguments),
    })
}

/// Where a monitor of these arguments listens.
fn monitor(arguments: &[&str]) -> Option<PathBuf> {
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    pairs
        .filter(|(option, _)| MONITORS.contains(option))
        .find_map(|(_, value)| {
            let path = value.strip_prefix("unix:")?;
            // Two commas are one in a path.
            let mut end = path.len();
            let mut chars = path.char_indices().peekable();
            while let Some((at, c)) = chars.next() {
                if c == ',' && chars.next_if(|(_, next)| *next == ',').is_none() {
                    end = at;
                    break;
                }
            }
            Some(PathBuf::from(path.get(..end)?.replace(",,", ",")))
        })
}

/// What gives the domain `name` a monitor: an attribute of its outermost element, and an element in that.
pub fn addition(name: &str) -> [String; 2] {
    [
        format!("xmlns:qemu='{QEMU}'"),
        format!(
            "<qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value='unix:/var/lib/libvirt/qemu/{name}.snap.qmp,\
             server=on,wait=off'/></qemu:commandline>"
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn domain_with(devices: &str, arguments: &str) -> Domain {
        let xml = format!(
            "<domain type='kvm' id='3' xmlns:qemu='{QEMU}'><name>web-1</name><devices>{devices}</devices>\
             <qemu:commandline>{arguments}</qemu:commandline></domain>"
        );
        parse(&xml).unwrap()
    }

    #[test]
    fn writable_disks_are_found_and_nothing_else() {
        let domain = domain_with(
            "<disk type='file' device='disk'><source file='/srv/a.raw' index='1'><backingStore/></source></disk>\
             <disk type='block' device='disk'><source dev='/dev/vg/b'/></disk>\
             <disk type='file' device='disk'><source file='/srv/ro.raw'/><readonly/></disk>\
             <disk type='file' device='cdrom'><source file='/srv/cd.iso'/></disk>\
             <disk type='network' device='disk'><source protocol='rbd' name='x'/></disk>\
             <disk type='file' device='disk'/>",
            "",
        );
        assert_eq!(domain.name, "web-1");
        assert_eq!(
            domain.disks,
            [Path::new("/srv/a.raw"), Path::new("/dev/vg/b")]
        );
        assert_eq!(domain.monitor, None);
    }

    #[test]
    fn a_monitor_of_its_own_is_found() {
        for (value, path) in [
            ("unix:/run/a.qmp,server=on,wait=off", Some("/run/a.qmp")),
            ("unix:/run/a,,b.qmp,server=on", Some("/run/a,b.qmp")),
            ("unix:/run/a.qmp", Some("/run/a.qmp")),
            ("tcp:localhost:4444,server=on", None),
        ] {
            let arguments = format!("<qemu:arg value='-qmp'/><qemu:arg value='{value}'/>");
            let domain = domain_with("", &arguments);
            assert_eq!(domain.monitor.as_deref(), path.map(Path::new), "{value}");
        }
        // What is told to add is what is found.
        let [attribute, element] = addition("web-1");
        let whole = format!("<domain {attribute}><name>web-1</name>{element}</domain>");
        let monitor = parse(&whole).unwrap().monitor.unwrap();
        assert_eq!(monitor, Path::new("/var/lib/libvirt/qemu/web-1.snap.qmp"));
    }

    #[test]
    fn what_is_no_domain_is_an_error() {
        assert!(matches!(parse("<domain/>"), Err(LibvirtError::Nameless)));
        assert!(matches!(parse("no"), Err(LibvirtError::Xml(_))));
    }
}
