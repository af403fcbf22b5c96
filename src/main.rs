//! Composition: parse, wire, dispatch, print the error chain, exit code.

mod cli;
mod clock;
mod commands;
mod engine;
mod exit;
mod finding;
mod fs;
mod host;
mod instance;
mod interrupt;
mod logging;
mod output;
mod retention;
mod run;
mod schedule;
mod settings;
mod snapshot;
mod store;
mod vmm;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use cli::{Cli, EngineKind, OutputFormat};
use commands::failure;
use engine::{Engine, EngineError, hypeman};
use exit::Exit;
use settings::{Settings, Surroundings};
use store::Store;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and versions come this way as well. If nobody listens, there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            };
        }
    };
    logging::start(cli.global.verbose, cli.global.quiet);
    match carry_out(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            log::error!("{error:#}");
            failure::exit_for(&error).into()
        }
    }
}

fn carry_out(cli: &Cli) -> anyhow::Result<Exit> {
    let settings = settings::resolve(
        &cli.global,
        &cli.command,
        &Surroundings {
            variable: &|name| std::env::var_os(name),
            is_root: rustix::process::geteuid().is_root(),
        },
    )?;
    let store = Store::new(settings.state_dir.clone());
    let answer = commands::run(
        &cli.command,
        &commands::Context {
            settings: &settings,
            store: &store,
            engine: &|| open_engine(&settings),
        },
    )?;
    let text = output::render(&answer, &view(cli));
    output::print(&text).context("can't write to standard output")?;
    Ok(answer.exit())
}

fn open_engine(settings: &Settings) -> Result<Box<dyn Engine>, EngineError> {
    match settings.engine {
        EngineKind::Local => Ok(Box::new(engine::local::Local::new(
            engine::local::Settings {
                data_dir: settings.data_dir.clone(),
                state_dir: settings.state_dir.clone(),
                pause_timeout: settings.limits.pause_timeout,
                vmm_timeout: settings.limits.vmm_timeout,
            },
        ))),
        EngineKind::Hypeman => Ok(Box::new(hypeman::Hypeman::new(hypeman::Settings {
            base_url: settings
                .base_url
                .clone()
                .or_else(hypeman::cli_base_url)
                .unwrap_or_else(|| hypeman::DEFAULT_BASE_URL.to_owned()),
            key: hypeman::KeySource::from_environment(),
            ca_file: settings.ca_file.clone(),
            insecure_http: settings.allows_insecure_http,
            request_timeout: hypeman::DEFAULT_REQUEST_TIMEOUT,
            create_timeout: settings.limits.create_timeout,
        })?)),
    }
}

fn view(cli: &Cli) -> output::View {
    let is_terminal = io::stdout().is_terminal();
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    output::View {
        format: match cli.global.output {
            OutputFormat::Table => output::Format::Table,
            OutputFormat::Json => output::Format::Json,
        },
        now: clock::now(),
        is_terminal,
        has_colours: is_terminal && !is_set("NO_COLOR") && !is_dumb,
        is_quiet: cli.global.quiet,
    }
}
