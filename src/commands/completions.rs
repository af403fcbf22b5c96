//! `completions`: a script that teaches a shell the command line.

use clap::CommandFactory;

use super::report::Answer;
use crate::cli::{Cli, CompletionsArgs};

/// Generates the script.
///
/// # Errors
/// When the generator gives something that is no text.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<Answer> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    Ok(Answer::Verbatim(String::from_utf8(script)?))
}
