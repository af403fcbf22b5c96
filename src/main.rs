//! Composition: parse, wire, dispatch, print the error chain, exit code.

mod cadence;
mod cli;
mod clock;
mod commands;
mod engine;
mod error;
mod exit;
mod finding;
mod fs;
mod host;
mod http;
mod instance;
mod interrupt;
mod logging;
mod monitoring;
mod output;
mod plan;
mod progress;
mod queue;
mod report;
mod retention;
mod run;
mod schedule;
mod settings;
mod snapshot;
mod store;
mod syscalls;
mod vmm;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser};

use cli::{Cli, Command, EngineKind, OutputFormat};
use commands::{check, completions, failure};
use engine::{EngineError, Ports, hypeman};
use exit::Exit;
use progress::Progress;
use settings::{Settings, Surroundings};
use store::Store;

fn main() -> ExitCode {
    // Ends the process if a shell asks for words.
    clap_complete::CompleteEnv::with_factory(|| {
        completions::with_words(Cli::command(), words_for_a_shell)
    })
    .var(completions::VARIABLE)
    .complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and versions come this way as well. If nobody listens, there is nobody to tell.
            let _ = error.print();
            if !error.use_stderr() {
                return Exit::Done.into();
            }
            return misused(&error).into();
        }
    };
    let progress = progress(&cli);
    logging::start(cli.global.verbose, cli.global.quiet, progress.stderr());
    match carry_out(&cli, &progress) {
        Ok(exit) => exit.into(),
        Err(error) => {
            log::error!("{error:#}");
            if matches!(cli.command, Command::Check(_)) {
                return unchecked(&cli, &error).into();
            }
            let exit = failure::exit_for(&error);
            if matches!(cli.global.format(), OutputFormat::Json) {
                let _ = output::print(&output::failure(&format!("{error:#}"), exit));
            }
            exit.into()
        }
    }
}

/// What is left to say of a command line that is not valid, as far as it can be understood: `check` has exit codes of its
/// own, and who asked for JSON gets some.
fn misused(error: &clap::Error) -> Exit {
    let matches = Cli::command().ignore_errors(true).try_get_matches();
    let command = matches.as_ref().ok().and_then(|it| it.subcommand());
    let exit = if command.is_some_and(|(name, _)| name == "check") {
        Exit::Unknown
    } else {
        Exit::Usage
    };
    let wants_json = command.is_some_and(|(_, matches)| {
        matches.get_flag("json") || matches.get_one("output") == Some(&OutputFormat::Json)
    });
    if wants_json {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let _ = output::print(&output::failure(message, exit));
    }
    exit
}

/// `check` answers even where no other command could: a monitoring system reads stdout.
fn unchecked(cli: &Cli, error: &anyhow::Error) -> Exit {
    let answer = check::failed(error);
    // If stdout can't be written to, the exit code has to do.
    let _ = output::print(&output::render(&answer, &view(cli)));
    answer.exit()
}

fn carry_out(cli: &Cli, progress: &Progress) -> anyhow::Result<Exit> {
    let answer = with_context(cli, progress, |context| {
        commands::run(&cli.command, context)
    })?;
    let text = output::render(&answer, &view(cli));
    output::print(&text).context("can't write to standard output")?;
    Ok(answer.exit())
}

/// Does `work` with what the command line, the environment and the host's settings come to.
fn with_context<T>(
    cli: &Cli,
    progress: &Progress,
    work: impl FnOnce(&commands::Context<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let is_root = rustix::process::geteuid().is_root();
    let around = Surroundings {
        variable: &|name| std::env::var_os(name),
        // Completions say nothing of this host.
        host_file: if is_root && !matches!(cli.command, Command::Completions(_)) {
            settings::host_file(Path::new(settings::HOST_FILE))?
        } else {
            BTreeMap::new()
        },
        is_root,
    };
    let settings = settings::resolve(&cli.global, &cli.command, &around)?;
    let store = Store::new(settings.state_dir.clone());
    work(&commands::Context {
        settings: &settings,
        format: cli.global.format(),
        store: &store,
        ports: &|| open_engine(&settings, &around, &cli.command, progress),
    })
}

/// What a shell offers where an instance or a snapshot can stand; nothing where that can't be told.
fn words_for_a_shell(subject: completions::Subject) -> Vec<completions::Word> {
    // As `list` would see them.
    let Ok(cli) = Cli::try_parse_from(["hypeman-snap", "list"]) else {
        return Vec::new();
    };
    with_context(&cli, &Progress::silent(), |context| {
        Ok(completions::words(context, subject))
    })
    .unwrap_or_default()
}

fn open_engine(
    settings: &Settings,
    around: &Surroundings<'_>,
    command: &Command,
    progress: &Progress,
) -> Result<Ports, EngineError> {
    match settings.engine {
        EngineKind::Local => Ok(Ports::on_this_host(engine::local::Local::new(
            engine::local::LocalSetup {
                data_dir: settings.data_dir.clone(),
                state_dir: settings.state_dir.clone(),
                pause_timeout: settings.limits.pause_timeout,
                instance_timeout: settings.limits.instance_timeout,
                disk_roots: settings.disk_roots.clone(),
                min_free: settings.limits.min_free,
                may_write: command.may_write(),
            },
            hypeman::ServerPresence::new(
                hypeman::Addresses::of_this_host(settings.base_url.clone()),
                settings.ca_file.clone(),
            ),
            progress.clone(),
        ))),
        EngineKind::Hypeman => Ok(Ports::of(hypeman::Hypeman::new(hypeman::HypemanSetup {
            base_url: settings
                .base_url
                .clone()
                .or_else(hypeman::cli_base_url)
                .unwrap_or_else(|| hypeman::DEFAULT_BASE_URL.to_owned()),
            key: hypeman::KeySource::named_by(|name| around.find(name).map(|(_, value)| value)),
            ca_file: settings.ca_file.clone(),
            insecure_http: settings.allows_insecure_http,
            request_timeout: settings
                .limits
                .request_timeout
                .unwrap_or(hypeman::DEFAULT_REQUEST_TIMEOUT),
            create_timeout: settings.limits.create_timeout,
        })?)),
    }
}

fn view(cli: &Cli) -> output::View {
    let is_terminal = io::stdout().is_terminal();
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    output::View {
        format: match cli.global.format() {
            OutputFormat::Table | OutputFormat::Wide => output::Format::Table,
            OutputFormat::Json => output::Format::Json,
        },
        now: clock::now(),
        is_terminal,
        width: (is_terminal && !matches!(cli.global.format(), OutputFormat::Wide))
            .then(|| rustix::termios::tcgetwinsize(io::stdout()).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|width| *width > 0),
        has_colours: is_terminal && !is_set("NO_COLOR") && !is_dumb(),
        is_quiet: cli.global.quiet,
        is_verbose: cli.global.verbose > 0,
    }
}

/// Progress is for a person who looks at the terminal and did not ask for silence or for JSON.
fn progress(cli: &Cli) -> Progress {
    let is_wanted = io::stderr().is_terminal()
        && !is_dumb()
        && !cli.global.quiet
        && !matches!(cli.global.format(), OutputFormat::Json)
        && matches!(
            cli.command,
            Command::RunDue(_)
                | Command::Prune(_)
                | Command::Snapshot(_)
                | Command::DeleteSnapshot(_)
                | Command::Restore(_)
                | Command::Verify(_)
                | Command::Rehearse(_)
        );
    if is_wanted {
        Progress::on_stderr()
    } else {
        Progress::silent()
    }
}

/// Whether the terminal, if there is one, can do nothing but print.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}
