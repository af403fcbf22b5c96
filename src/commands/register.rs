//! `register`: tells the local engine of a VM that hypeman does not run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::Context;
use super::failure::Refused;
use crate::cli::RegisterArgs;
use crate::clock;
use crate::engine::registrar::{Declared, Registered, Registrar, RegistrationError, Request};
use crate::host::libvirt;
use crate::instance::{Hypervisor, InstanceId};
use crate::report::{Answer, Registration, RegistrationChange};

/// Declares the VM to the local engine, under its lock. The same values again change nothing.
///
/// # Errors
/// When the engine is another one, when a value is not valid or the id is taken, when another run holds the lock for
/// too long, and when it can't be written.
pub fn run(context: &Context<'_>, args: &RegisterArgs) -> anyhow::Result<Answer> {
    let registrar = registrar(context, "register")?;
    let vm = named(args)?;
    let id = vm.id;
    let declared = Declared {
        name: args.name.clone().unwrap_or_else(|| id.to_string()),
        id: id.clone(),
        hypervisor: vm.hypervisor,
        socket: absolute(&vm.socket)?,
        disks: all_absolute(&vm.disks)?,
        disk_roots: all_absolute(&args.disk_root)?,
    };
    // A refused request leaves nothing behind, not even a lock file.
    declared.validate().map_err(refusal)?;
    let _lock = context.store.lock(&id, context.settings.lock_timeout)?;
    let request = Request {
        declared,
        is_forced: args.force,
    };
    let (registered, warnings) = registrar.register(request, clock::now()).map_err(refusal)?;
    for warning in warnings {
        log::warn!(instance = id.as_str(); "{warning}");
    }
    Ok(Answer::Registration(Registration {
        instance_id: id,
        change: match registered {
            Registered::Created => RegistrationChange::Created,
            Registered::Updated => RegistrationChange::Updated,
            Registered::Unchanged => RegistrationChange::None,
        },
    }))
}

/// A VM, by whatever named it.
struct Vm {
    id: InstanceId,
    hypervisor: Hypervisor,
    socket: PathBuf,
    disks: Vec<PathBuf>,
}

fn named(args: &RegisterArgs) -> anyhow::Result<Vm> {
    if let Some(domain) = &args.libvirt {
        return of_libvirt(args, domain);
    }
    let missing = |flag: &str| Refused::Usage(format!("{flag} is missing"));
    Ok(Vm {
        id: args.id.clone().ok_or_else(|| missing("ID"))?,
        hypervisor: args.hypervisor.ok_or_else(|| missing("--hypervisor"))?,
        socket: args.socket.clone().ok_or_else(|| missing("--socket"))?,
        disks: args.disk.clone(),
    })
}

fn of_libvirt(args: &RegisterArgs, domain: &str) -> anyhow::Result<Vm> {
    let uri = args.connect.as_deref();
    let is_active = libvirt::is_active(domain, uri)?;
    let found = libvirt::domain(domain, uri, !is_active)?;
    let id = match &args.id {
        Some(id) => id.clone(),
        None => found.name.parse().with_context(|| {
            format!("--libvirt {domain}: its name can't be the id; give one in front of it")
        })?,
    };
    let Some(socket) = found.monitor else {
        let waits = is_active && libvirt::domain(domain, uri, true)?.monitor.is_some();
        if waits {
            anyhow::bail!(
                "domain {domain} has a monitor of its own from its next start on, and runs without it since: shut it down and \
                 start it, and register it then (a reboot inside of the guest is no start)"
            );
        }
        let [attribute, element] = libvirt::addition(&found.name);
        anyhow::bail!(
            "domain {domain} has no monitor but libvirt's own, which is libvirt's alone; with `virsh edit {domain}`, put \
             {attribute} into its <domain> and {element} in front of its </domain>, then shut it down and start it: libvirt \
             calls it tainted (custom-argv) from then on, which changes nothing else (hypeman-snap-libvirt(7))"
        );
    };
    Ok(Vm {
        id,
        hypervisor: Hypervisor::Qemu,
        socket,
        disks: found.disks,
    })
}

/// Who keeps registrations.
///
/// # Errors
/// When `command` can't do anything because a hypeman server knows the instances.
pub fn registrar(context: &Context<'_>, command: &str) -> anyhow::Result<Arc<dyn Registrar>> {
    (context.ports)()?.registrar.ok_or_else(|| {
        Refused::Usage(format!(
            "`{command}` is for the local engine, but the engine is hypeman, whose server knows its own instances; \
             --engine local goes without the server"
        ))
        .into()
    })
}

/// The error with the meaning that it has for the exit code.
pub fn refusal(error: RegistrationError) -> anyhow::Error {
    match error {
        RegistrationError::Invalid(message) => Refused::Usage(message).into(),
        error @ RegistrationError::NotFound(_) => Refused::NotFound(error.to_string()).into(),
        RegistrationError::Engine(error) => error.into(),
    }
}

fn all_absolute(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// The path as others see it, who run in other directories.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("can't make the path {} absolute", path.display()))
}
