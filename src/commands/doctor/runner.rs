//! Who starts `run-due`: what is set up on this host, against what the schedules say has happened.

use std::path::Path;

use super::schedules::{Examined, shown};
use crate::cli::EngineKind;
use crate::commands::Context;
use crate::finding::Finding;
use crate::host::crontab;
use crate::host::sandbox::Sandbox;
use crate::host::systemd::{self, Timer};

const CHECK: &str = "run-due";
const REMEDY: &str = "systemctl enable --now hypeman-snap.timer, or add a line to /etc/cron.d";

/// Who starts `run-due` on this host, whether it can work there, and when it ran last.
pub(super) fn examine(context: &Context<'_>, schedules: &Examined) -> Vec<Finding> {
    let files = crontab::of_this_host();
    let crontabs: Vec<String> = crontab::that_run_due(&files)
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let timer = systemd::timer("systemctl", systemd::TIMER);
    let mut findings = Vec::new();
    if timer.is_some_and(|it| it.is_enabled || it.is_active) {
        if let Some(sandbox) = systemd::sandbox("systemctl", systemd::SERVICE) {
            findings = confined(&sandbox, context, schedules);
        }
    }
    findings.insert(0, started_by(timer, &crontabs, schedules));
    findings.push(last_run(schedules));
    findings
}

/// What the service's sandbox takes from it that it needs.
fn confined(sandbox: &Sandbox, context: &Context<'_>, schedules: &Examined) -> Vec<Finding> {
    const CHECK: &str = "service";
    let settings = context.settings;
    let metrics = settings.monitoring.metrics_file.as_deref();
    let written = [
        Some(settings.state_dir.as_path()),
        matches!(settings.engine, EngineKind::Local).then_some(settings.data_dir.as_path()),
        metrics.and_then(Path::parent),
    ];
    let mut findings: Vec<Finding> = written
        .into_iter()
        .flatten()
        .filter_map(|path| {
            // Symlinks in what it may write are followed, so that either name will do.
            let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            sandbox.forbids_writing(&real)?;
            let setting = sandbox.forbids_writing(path)?;
            Some(Finding::broken(
                CHECK,
                path.display(),
                format!("the service can't write there, by its {setting}"),
                format!(
                    "systemctl edit {}, with [Service] and ReadWritePaths={}",
                    systemd::SERVICE,
                    path.display()
                ),
            ))
        })
        .collect();
    findings.extend(schedules.hooks.iter().filter_map(|program| {
        let setting = sandbox.hides(Path::new(program))?;
        Some(Finding::broken(
            CHECK,
            program,
            format!("the service does not see this hook, by its {setting}"),
            "keep it elsewhere, such as in /usr/local/libexec",
        ))
    }));
    let registrar = (context.ports)().ok().and_then(|ports| ports.registrar);
    let places = registrar.and_then(|it| it.places().ok());
    for vm in places.unwrap_or_default() {
        let socket = ("socket", &vm.socket);
        let needed = vm.disks.iter().map(|disk| ("disk", disk));
        for (what, path) in std::iter::once(socket).chain(needed) {
            if let Some(setting) = sandbox.hides(path) {
                findings.push(Finding::broken(
                    CHECK,
                    path.display(),
                    format!(
                        "the service does not see this {what} of {}, by its {setting}",
                        vm.id
                    ),
                    "move it, such as to /run for a socket and /srv for a disk, or change that setting of the service",
                ));
            }
        }
    }
    findings
}

fn started_by(timer: Option<Timer>, crontabs: &[String], schedules: &Examined) -> Finding {
    if !crontabs.is_empty() {
        // That the timer runs too does no harm: runs keep out of each other's way.
        let subject = crontabs.join(", ");
        return Finding::ok(CHECK, subject, "a crontab starts it");
    }
    match timer {
        Some(Timer {
            is_enabled: true,
            is_active: true,
        }) => Finding::ok(CHECK, systemd::TIMER, "enabled and active"),
        Some(Timer {
            is_active: true, ..
        }) => Finding::warning(
            CHECK,
            systemd::TIMER,
            "active, but not enabled: it is gone after the next boot",
            "systemctl enable hypeman-snap.timer",
        ),
        Some(Timer {
            is_enabled: true, ..
        }) => Finding::broken(
            CHECK,
            systemd::TIMER,
            "enabled, but not active: it starts nothing until the next boot",
            "systemctl start hypeman-snap.timer",
        ),
        Some(Timer { .. }) => nobody("hypeman-snap.timer is there, but disabled", schedules),
        None => nobody(
            "no hypeman-snap.timer and no crontab of the system or of root starts it",
            schedules,
        ),
    }
}

/// Nobody was found. Something else may start it, so that only overdue schedules prove that nobody does.
fn nobody(detail: &str, schedules: &Examined) -> Finding {
    if schedules.overdue > 0 {
        return Finding::broken(CHECK, "this host", detail, REMEDY);
    }
    Finding::warning(
        CHECK,
        "this host",
        format!("{detail}, as far as this user can see"),
        REMEDY,
    )
}

fn last_run(schedules: &Examined) -> Finding {
    const CHECK: &str = "last run";
    let subject = "all schedules";
    match (schedules.last_run_at, schedules.overdue) {
        (Some(at), 0) => Finding::ok(CHECK, subject, shown(at)),
        (None, 0) => Finding::ok(CHECK, subject, "none yet, and none is overdue"),
        (at, overdue) => Finding::broken(
            CHECK,
            subject,
            format!(
                "{}, and {overdue} of {} schedules wait for the next one",
                at.map_or_else(|| "none yet".to_owned(), shown),
                schedules.count
            ),
            "hypeman-snap run-due",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    fn timer(is_enabled: bool, is_active: bool) -> Option<Timer> {
        Some(Timer {
            is_enabled,
            is_active,
        })
    }

    #[test]
    fn a_timer_or_a_crontab_is_enough() {
        let idle = Examined::default();
        let crontabs = ["/etc/cron.d/hypeman-snap".to_owned()];
        let status = |timer, crontabs: &[String]| started_by(timer, crontabs, &idle).status;
        assert_eq!(status(timer(true, true), &[]), Status::Ok);
        assert_eq!(status(timer(false, false), &crontabs), Status::Ok);
        assert_eq!(status(None, &crontabs), Status::Ok);
        assert_eq!(status(timer(false, true), &[]), Status::Warning);
        assert_eq!(status(timer(true, false), &[]), Status::Broken);
    }

    #[test]
    fn nobody_is_broken_only_when_a_schedule_waits() {
        let late = Examined {
            count: 2,
            overdue: 1,
            ..Examined::default()
        };
        for timer in [None, timer(false, false)] {
            let idle = started_by(timer, &[], &Examined::default());
            assert_eq!(idle.status, Status::Warning);
            assert_eq!(started_by(timer, &[], &late).status, Status::Broken);
        }
        assert_eq!(last_run(&Examined::default()).status, Status::Ok);
        assert_eq!(last_run(&late).status, Status::Broken);
    }
}
