//! QEMU's command line for a guest from a snapshot (qemu(1)): the recorded one with the disks where they are now, without
//! what belongs to the process that it was recorded of: descriptors, how it went into the background, and what it loaded
//! itself; for a copy beside it also monitors and pid file.

use std::path::Path;

use serde_json::Value;

use super::{IsSame, Moved, Moves, Unlaunchable};

/// Options that go, with their value.
const WITH_VALUE: [&str; 2] = ["incoming", "loadvm"];
/// Options that name what only one process can have, with their value.
const OF_ONE_PROCESS: [&str; 5] = ["mon", "monitor", "pidfile", "qmp", "qmp-pretty"];
/// Options that go and have none.
const ALONE: [&str; 2] = ["S", "daemonize"];
/// What a key is called whose value is a file.
const FILE_KEYS: [&str; 2] = ["file", "filename"];
/// What a key is called whose value is a descriptor.
const DESCRIPTOR_KEYS: [&str; 4] = ["fd", "fds", "vhostfd", "vhostfds"];

/// What becomes of the monitors and the pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitors<'a> {
    /// They are the VM's own again.
    Kept,
    /// They are another VM's: there is one monitor, at this path.
    Only(&'a Path),
}

/// The command line, without the program's name. `is_same` says whether a path as it was typed means the disk that was at
/// the other one. With `memory`, the guest is loaded from it and waits to be told to go on.
///
/// # Errors
/// When a copy can't be started like this.
pub fn arguments(
    recorded: &[String],
    disks: &[Moved],
    is_same: IsSame<'_>,
    monitors: Monitors<'_>,
    memory: Option<&Path>,
) -> Result<Vec<String>, Unlaunchable> {
    let Some((_, recorded)) = recorded.split_first() else {
        return Err(Unlaunchable::NoCommandLine);
    };
    let is_kept = monitors == Monitors::Kept;
    let chardevs = chardevs_of_monitors(recorded);
    let mut moves = Moves::new(disks, is_same);
    let mut moved = |text: &str| moves.now(text);
    let mut arguments = Vec::new();
    let mut words = recorded.iter().peekable();
    while let Some(word) = words.next() {
        let Some(option) = option(word) else {
            // A disk may stand alone.
            arguments.push(moved(word).unwrap_or_else(|| word.clone()));
            continue;
        };
        let value = words.next_if(|next| self::option(next).is_none());
        if ALONE.contains(&option) {
            // What followed was no value of it.
            arguments.extend(value.map(|value| moved(value).unwrap_or_else(|| value.clone())));
            continue;
        }
        if WITH_VALUE.contains(&option) || (!is_kept && OF_ONE_PROCESS.contains(&option)) {
            continue;
        }
        let Some(value) = value else {
            arguments.push(word.clone());
            continue;
        };
        if option == "add-fd" || has_descriptor(value) {
            return Err(Unlaunchable::Descriptor(format!("{word} {value}")));
        }
        let is_monitors = || id_of(value).is_some_and(|id| chardevs.contains(&id));
        if !is_kept && option == "chardev" && is_monitors() {
            continue;
        }
        arguments.push(word.clone());
        // A disk may be all of it: as -hda has it, or behind an option without a value.
        let whole = moved(value);
        arguments.push(whole.unwrap_or_else(|| with_files_moved(value, &mut moved)));
    }
    moves.finish()?;
    if let Monitors::Only(monitor) = monitors {
        arguments.push("-qmp".to_owned());
        arguments.push(format!(
            "unix:{},server=on,wait=off",
            monitor.display().to_string().replace(',', ",,")
        ));
    }
    if let Some(memory) = memory {
        let memory = memory.display().to_string();
        arguments.push("-S".to_owned());
        arguments.push("-incoming".to_owned());
        // QEMU before 8.2 loads no file by its name; QEMU gives the line to a shell.
        arguments.push(format!("exec:cat {}", shell_words::quote(&memory)));
    }
    Ok(arguments)
}

/// The name of an option, which QEMU takes with one dash or two.
pub(super) fn option(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    (!name.is_empty()).then_some(name)
}

/// The ids of the character devices that monitors use.
pub(super) fn chardevs_of_monitors(words: &[String]) -> Vec<String> {
    let pairs = words.iter().zip(words.iter().skip(1));
    pairs
        .filter(|(word, _)| option(word) == Some("mon"))
        .filter_map(|(_, value)| {
            let fields = fields(value);
            let named = fields
                .iter()
                .find_map(|field| field.strip_prefix("chardev="));
            // The key of the first field may be left out.
            named
                .or_else(|| {
                    fields
                        .first()
                        .map(String::as_str)
                        .filter(|it| !it.contains('='))
                })
                .map(str::to_owned)
        })
        .collect()
}

fn id_of(value: &str) -> Option<String> {
    fields(value)
        .iter()
        .find_map(|field| field.strip_prefix("id=").map(str::to_owned))
}

pub(super) fn has_descriptor(value: &str) -> bool {
    let is_one = |field: &String| {
        let Some((key, text)) = field.split_once('=') else {
            return false;
        };
        let key = key.rsplit('.').next().unwrap_or(key);
        DESCRIPTOR_KEYS.contains(&key) || text.starts_with("/dev/fdset/")
    };
    value.starts_with("fd:") || fields(value).iter().any(is_one)
}

/// The fields of a value: commas part them, and two commas are one in a field.
pub(super) fn fields(value: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            field.push(c);
        }
    }
    fields
}

/// A value with the files that have moved.
fn with_files_moved(value: &str, moved: &mut dyn FnMut(&str) -> Option<String>) -> String {
    if value.starts_with('{') {
        if let Ok(mut json) = serde_json::from_str::<Value>(value) {
            move_in_json(&mut json, moved);
            return json.to_string();
        }
    }
    let fields: Vec<String> = fields(value)
        .into_iter()
        .map(|field| {
            let Some((key, text)) = field.split_once('=') else {
                return field;
            };
            let name = key.rsplit('.').next().unwrap_or(key);
            let path = text.strip_prefix("file:").unwrap_or(text);
            match FILE_KEYS.contains(&name).then(|| moved(path)).flatten() {
                Some(now) => format!("{key}={now}"),
                None => field,
            }
        })
        .map(|field| field.replace(',', ",,"))
        .collect();
    fields.join(",")
}

fn move_in_json(json: &mut Value, moved: &mut dyn FnMut(&str) -> Option<String>) {
    match json {
        Value::Object(object) => {
            for (key, value) in object {
                let is_file = FILE_KEYS.contains(&key.as_str());
                let now = value.as_str().filter(|_| is_file).and_then(&mut *moved);
                match now {
                    Some(now) => *value = Value::String(now),
                    None => move_in_json(value, moved),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|it| move_in_json(it, moved)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved() -> Vec<Moved> {
        ["a.raw", "b,c.qcow2"]
            .map(|name| Moved {
                from: Path::new("/srv").join(name),
                to: Path::new("/restored").join(name),
            })
            .to_vec()
    }

    fn line(words: &str, disks: &[Moved]) -> Result<String, Unlaunchable> {
        let words = shell_words::split(words).unwrap();
        let is_same = |typed: &str, disk: &Path| Path::new("/srv").join(typed) == disk;
        let only = Monitors::Only(Path::new("/r/qmp"));
        arguments(&words, disks, &is_same, only, None).map(|words| words.join(" "))
    }

    const END: &str = " -qmp unix:/r/qmp,server=on,wait=off";

    #[test]
    fn disks_are_named_where_they_are_now_however_they_were_written() {
        let one = &moved()[..1];
        for (recorded, now) in [
            (
                "-drive file=/srv/a.raw,if=virtio",
                "-drive file=/restored/a.raw,if=virtio",
            ),
            (
                "-drive if=none,id=d,file=a.raw",
                "-drive if=none,id=d,file=/restored/a.raw",
            ),
            ("-drive file=file:/srv/a.raw", "-drive file=/restored/a.raw"),
            (
                "-drive driver=raw,file.driver=file,file.filename=/srv/a.raw",
                "-drive driver=raw,file.driver=file,file.filename=/restored/a.raw",
            ),
            (
                "-blockdev driver=file,node-name=f,filename=/srv/a.raw",
                "-blockdev driver=file,node-name=f,filename=/restored/a.raw",
            ),
            ("-hda /srv/a.raw -m 1G", "-hda /restored/a.raw -m 1G"),
            ("--hda /srv/a.raw", "--hda /restored/a.raw"),
            ("/srv/a.raw -m 1G", "/restored/a.raw -m 1G"),
            ("-nographic /srv/a.raw", "-nographic /restored/a.raw"),
        ] {
            let line = line(&format!("qemu {recorded}"), one);
            assert_eq!(
                line.unwrap_or_else(|e| panic!("{recorded}: {e}")),
                format!("{now}{END}")
            );
        }
        let json = r#"qemu -blockdev '{"driver":"qcow2","file":{"driver":"file","filename":"/srv/a.raw"}}'"#;
        let said = line(json, one).unwrap();
        assert!(said.contains(r#""filename":"/restored/a.raw""#), "{said}");
        // Two commas are one in a file's name.
        let both = line(
            "qemu -hda /srv/a.raw -drive file=/srv/b,,c.qcow2,if=virtio",
            &moved(),
        )
        .unwrap();
        assert!(
            both.contains("-drive file=/restored/b,,c.qcow2,if=virtio"),
            "{both}"
        );
    }

    #[test]
    fn what_belonged_to_the_old_process_goes_and_the_rest_stays() {
        let recorded = "qemu -name db -daemonize -S -pidfile /run/db.pid -qmp unix:/run/q,server=on,wait=off -monitor stdio \
                        -chardev socket,id=mon0,path=/run/m,server=on,wait=off -mon chardev=mon0,mode=control \
                        -chardev file,id=serial,path=/tmp/s -incoming defer -loadvm x -m 1G -no-reboot";
        assert_eq!(
            line(recorded, &[]).unwrap(),
            format!("-name db -chardev file,id=serial,path=/tmp/s -m 1G -no-reboot{END}")
        );
        let kept = arguments(
            &shell_words::split(recorded).unwrap(),
            &[],
            &|_, _| false,
            Monitors::Kept,
            None,
        );
        assert_eq!(
            kept.unwrap().join(" "),
            "-name db -pidfile /run/db.pid -qmp unix:/run/q,server=on,wait=off -monitor stdio \
             -chardev socket,id=mon0,path=/run/m,server=on,wait=off -mon chardev=mon0,mode=control \
             -chardev file,id=serial,path=/tmp/s -m 1G -no-reboot"
        );
        let words = shell_words::split("qemu -m 1G").unwrap();
        let with_memory = arguments(
            &words,
            &[],
            &|_, _| false,
            Monitors::Only(Path::new("/r, s/qmp")),
            Some(Path::new("/r/it's/memory")),
        );
        assert_eq!(
            with_memory.unwrap(),
            [
                "-m",
                "1G",
                "-qmp",
                "unix:/r,, s/qmp,server=on,wait=off",
                "-S",
                "-incoming",
                r"exec:cat '/r/it'\''s/memory'"
            ]
        );
    }

    #[test]
    fn what_can_not_be_given_again_is_an_error_that_names_it() {
        let one = &moved()[..1];
        for (recorded, part) in [
            ("qemu -m 1G", "does not name the disk /srv/a.raw"),
            (
                "qemu -hda /srv/a.raw -netdev tap,id=n,fd=23,vhost=on",
                "-netdev tap,id=n,fd=23",
            ),
            ("qemu -hda /srv/a.raw -netdev tap,id=n,fds=3:4", "open file"),
            ("qemu -hda /srv/a.raw -add-fd fd=3,set=1", "-add-fd"),
            ("qemu -drive file=/dev/fdset/1", "/dev/fdset/1"),
            ("qemu -hda /srv/a.raw -chardev socket,id=c,fd=4", "-chardev"),
        ] {
            let error = line(recorded, one).unwrap_err().to_string();
            assert!(error.contains(part), "{recorded}: {error}");
        }
        let none = arguments(&[], &[], &|_, _| false, Monitors::Kept, None);
        assert_eq!(none, Err(Unlaunchable::NoCommandLine));
    }
}
