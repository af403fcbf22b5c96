//! `completions`: a script that teaches a shell the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, CompletionsArgs};
use crate::report::Answer;

/// Generates the script.
///
/// # Errors
/// When the generator gives something that is no text.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<Answer> {
    script(args.shell).map(Answer::Verbatim)
}

/// The script for `shell`.
///
/// # Errors
/// When the generator gives something that is no text.
pub fn script(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let script = String::from_utf8(script)?;
    if shell == Shell::Bash {
        // The generator spells a program's name with a dash in two ways, so that behind a command bash would complete
        // nothing (https://github.com/clap-rs/clap/issues/6421). Without that bug there is nothing to replace.
        return Ok(script.replace("hypeman__subcmd__snap", "hypeman__snap"));
    }
    Ok(script)
}
