//! `restore`: what was looked at, what was done, and how the VM is started.

use super::text::visible;
use super::units::rough;
use super::{View, table};
use crate::report::Restored;
use crate::schedule::hooks::command_line;

pub fn text(restored: &Restored, view: &View) -> String {
    let mut text = table::findings(&restored.findings, view);
    let place = match &restored.to {
        Some(to) => format!(" into {}", visible(&to.display().to_string())),
        None => ", in place".to_owned(),
    };
    let snapshot = visible(&restored.snapshot.name);
    let instance = visible(&restored.instance.to_string());
    if restored.is_stopped {
        text.push_str("nothing was restored: something is in the way, see above\n");
        return text;
    }
    let done = if restored.is_dry_run {
        "would restore"
    } else {
        "restored"
    };
    text.push_str(&format!("{done} {snapshot} of {instance}{place}\n"));
    if let Some(before) = &restored.before {
        text.push_str(&format!(
            "what was there before is snapshot {} ({})\n",
            visible(&before.name),
            before.id
        ));
    }
    match (restored.is_started, &restored.argv) {
        (true, _) => {
            text.push_str(&match restored.pid {
                Some(pid) => format!("started it: process {pid}, its guest runs\n"),
                None => "started it: its guest runs\n".to_owned(),
            });
            if let Some(behind) = restored.behind {
                text.push_str(&format!(
                    "its clock is behind by {}: set it in the guest\n",
                    rough(behind)
                ));
            }
        }
        (false, Some(argv)) => {
            let directory = restored.directory.as_ref();
            let directory = directory.map(|it| command_line(&[it.display().to_string()]));
            let cd = directory.map(|it| format!("cd {} && ", visible(&it)));
            text.push_str(&format!(
                "start it:\n  {}{}\n",
                cd.unwrap_or_default(),
                visible(&command_line(argv))
            ));
            if let Some(monitor) = &restored.monitor {
                text.push_str(&asked(restored, &monitor.display().to_string()));
            }
        }
        (false, None) => {}
    }
    text
}

/// What the monitor is asked, so that the guest runs.
fn asked(restored: &Restored, monitor: &str) -> String {
    if restored.requests.is_empty() {
        if !restored.has_memory {
            return String::new();
        }
        return format!(
            "it loads its memory and waits; let it go on with the command cont on {}\n",
            visible(monitor)
        );
    }
    let when = match restored.requests.len() {
        1 => "once it has loaded its memory, ask it",
        _ => "once it listens, ask it",
    };
    let mut text = format!("{when}:\n");
    for request in &restored.requests {
        let mut words: Vec<String> = ["curl", "--fail-with-body", "--unix-socket", monitor, "-X"]
            .map(str::to_owned)
            .into();
        words.push(request.method.to_owned());
        if let Some(body) = &request.body {
            words.extend(["--json".to_owned(), body.to_string()]);
        }
        words.push(format!("http://localhost{}", request.path));
        text.push_str(&format!("  {}\n", visible(&command_line(&words))));
    }
    text
}
