//! `completions`: what teaches a shell the command line, and the words that it offers for instances and snapshots.

use clap::builder::StyledStr;
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;

use super::Context;
use crate::cli::{CompletionsArgs, EngineKind};
use crate::instance::{Hypervisor, InstanceRef};
use crate::report::Answer;

/// The variable by which the shell's function asks this program for words.
pub const VARIABLE: &str = "HYPEMAN_SNAP_COMPLETE";
/// What the arguments are called whose values are instances.
const INSTANCES: [&str; 2] = ["instance", "what"];
/// The same of snapshots.
const SNAPSHOTS: [&str; 2] = ["snapshot", "what"];

/// A word that can stand on the command line, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub value: String,
    pub help: String,
}

/// Whose words are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Hypervisors,
    Instances,
    Snapshots,
}

/// Prints what has to be put into a shell's start-up file.
///
/// # Errors
/// When there are no completions for that shell.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<Answer> {
    script(args.shell).map(Answer::Verbatim)
}

/// What teaches `shell` to ask this program.
///
/// # Errors
/// When it can't be made.
pub fn script(shell: Shell) -> anyhow::Result<String> {
    const NAME: &str = "hypeman-snap";
    let shell = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&shell)
        .ok_or_else(|| anyhow::anyhow!("there are no completions for {shell}"))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    let mut script = String::from_utf8(script)?.trim().to_owned();
    script.push('\n');
    if shell == "zsh" {
        // The first time, zsh calls what it loads the file for, and not what the file defines.
        script.push_str(
            "if [[ $funcstack[1] == _hypeman-snap ]]; then _clap_dynamic_completer_hypeman_snap; fi\n",
        );
    }
    Ok(script)
}

/// The command line, in which `words` are offered where an instance or a snapshot can stand.
pub fn with_words(command: clap::Command, words: fn(Subject) -> Vec<Word>) -> clap::Command {
    let offers = move |ids: Vec<Subject>| {
        ArgValueCompleter::new(move |current: &std::ffi::OsStr| {
            let current = current.to_string_lossy().into_owned();
            ids.iter()
                .flat_map(|subject| words(*subject))
                .filter(|word| word.value.starts_with(&current))
                .map(|word| {
                    CompletionCandidate::new(word.value).help(Some(StyledStr::from(word.help)))
                })
                .collect()
        })
    };
    let complete = move |argument: clap::Arg| {
        let id = argument.get_id().as_str();
        let mut subjects = Vec::new();
        if id == "hypervisor" {
            subjects.push(Subject::Hypervisors);
        }
        if INSTANCES.contains(&id) {
            subjects.push(Subject::Instances);
        }
        if SNAPSHOTS.contains(&id) {
            subjects.push(Subject::Snapshots);
        }
        if subjects.is_empty() {
            argument
        } else {
            argument.add(offers(subjects))
        }
    };
    command.mut_subcommands(move |subcommand| subcommand.mut_args(complete))
}

/// The words for `subject`. What can't be found out at once is not offered: a server is never asked.
pub fn words(context: &Context<'_>, subject: Subject) -> Vec<Word> {
    if subject == Subject::Hypervisors {
        let word = |it: Hypervisor| Word {
            value: it.as_str().to_owned(),
            help: String::new(),
        };
        return Hypervisor::ALL.map(word).into();
    }
    let is_on_this_host = matches!(context.settings.engine, EngineKind::Local);
    let ports = is_on_this_host.then(|| (context.ports)().ok()).flatten();
    let listed = ports.and_then(|ports| match subject {
        Subject::Hypervisors => None,
        Subject::Instances => {
            let instances = ports.engine.instances().ok()?;
            let of_names = |it: &InstanceRef| Word {
                value: if it.name.is_empty() {
                    it.id.to_string()
                } else {
                    it.name.clone()
                },
                help: it.id.to_string(),
            };
            Some(instances.iter().map(of_names).collect::<Vec<Word>>())
        }
        Subject::Snapshots => {
            let mut snapshots = ports.engine.list().ok()?.snapshots;
            // What is looked for most is the newest.
            snapshots.sort_by_key(|it| std::cmp::Reverse(it.created_at));
            let of = snapshots.into_iter().map(|it| Word {
                value: if it.name.is_empty() {
                    it.id.to_string()
                } else {
                    it.name
                },
                help: format!("{} of {}", it.kind, it.source_instance_name),
            });
            Some(of.collect())
        }
    });
    let mut words = listed.unwrap_or_default();
    if subject == Subject::Instances {
        let scheduled = context.store.ids().map(|(ids, _)| ids).unwrap_or_default();
        for id in scheduled {
            if !words.iter().any(|word| word.help == id.as_str()) {
                words.push(Word {
                    value: id.to_string(),
                    help: "has a schedule".to_owned(),
                });
            }
        }
    }
    words
}
