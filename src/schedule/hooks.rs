//! The commands that a schedule runs around its snapshots: what they are, how they are written, and the rules for
//! them. Pure: who runs them is elsewhere.

use std::time::Duration;

/// How long a hook may run where the schedule says nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a shell would act on and this tool does not.
const SHELL_ONLY: &str = "|&;<>()$`\n";

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the snapshot; if it fails, none is taken.
    Pre,
    /// After the snapshot, whether it was taken or not, and after a failed pre-hook.
    Post,
    /// When the run of the instance failed.
    Failure,
}

impl Stage {
    /// Every stage, in the order in which hooks run.
    pub const ALL: [Self; 3] = [Self::Pre, Self::Post, Self::Failure];

    /// Its name in files and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post => "post",
            Self::Failure => "failure",
        }
    }

    /// The hook in words.
    pub const fn hook(self) -> &'static str {
        match self {
            Self::Pre => "pre-hook",
            Self::Post => "post-hook",
            Self::Failure => "failure-hook",
        }
    }

    /// The flag of `set` that declares it.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Pre => "--pre-hook",
            Self::Post => "--post-hook",
            Self::Failure => "--failure-hook",
        }
    }
}

/// The hooks of one schedule, each a program with its arguments; an empty one is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// See [`Stage::Pre`].
    pub pre: Vec<String>,
    /// See [`Stage::Post`].
    pub post: Vec<String>,
    /// See [`Stage::Failure`].
    pub failure: Vec<String>,
    /// How long each of them may run; `None` means [`DEFAULT_TIMEOUT`].
    pub timeout: Option<Duration>,
}

impl Hooks {
    /// The command of a stage; empty where there is none.
    pub fn command(&self, stage: Stage) -> &[String] {
        match stage {
            Stage::Pre => &self.pre,
            Stage::Post => &self.post,
            Stage::Failure => &self.failure,
        }
    }

    /// Whether no stage has a command.
    pub fn is_empty(&self) -> bool {
        Stage::ALL
            .iter()
            .all(|stage| self.command(*stage).is_empty())
    }

    /// How long each hook may run.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    /// Checks what a file holds.
    ///
    /// # Errors
    /// The first rule that is broken, with the field.
    pub fn check(&self) -> Result<(), InvalidHooks> {
        for stage in Stage::ALL {
            let command = self.command(stage);
            if !command.is_empty() {
                check(command).map_err(|rule| InvalidHooks::Command {
                    stage: stage.as_str(),
                    command: command.to_owned(),
                    rule,
                })?;
            }
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(InvalidHooks::Timeout);
        }
        Ok(())
    }
}

/// Why a command can't be a hook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// A shell would act on this character.
    #[error(
        "has an unquoted {0:?}, which only a shell understands, and none runs a hook; quote it, or write sh -c '…'"
    )]
    Operator(char),
    /// A quote is open at its end.
    #[error("has a quote that is not closed")]
    OpenQuote,
    /// It is empty.
    #[error("must name a program; leave the flag out for no hook")]
    NoProgram,
    /// Where it leads to depends on the working directory.
    #[error(
        "must name its program by an absolute path, or by a plain name that PATH leads to, and {0:?} is neither"
    )]
    RelativeProgram(String),
    /// No process can be given one.
    #[error("must not hold a NUL character")]
    Nul,
}

/// Why a file's hooks are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHooks {
    /// A command.
    #[error("hooks.{stage} {command:?} {rule}")]
    Command {
        /// Its field.
        stage: &'static str,
        /// Its words.
        command: Vec<String>,
        /// What is wrong with it.
        rule: InvalidCommand,
    },
    /// None could ever run.
    #[error("hooks.timeout must be above 0")]
    Timeout,
}

/// A command from what was typed: split into words as a POSIX shell does, but nothing is expanded and no shell runs it.
///
/// # Errors
/// The rule that it breaks.
pub fn parse(text: &str) -> Result<Vec<String>, InvalidCommand> {
    if let Some(c) = unquoted_operator(text.trim()) {
        return Err(InvalidCommand::Operator(c));
    }
    let words = shell_words::split(text).map_err(|_| InvalidCommand::OpenQuote)?;
    check(&words)?;
    Ok(words)
}

/// A command as it can be typed again.
pub fn command_line(command: &[String]) -> String {
    shell_words::join(command)
}

fn check(command: &[String]) -> Result<(), InvalidCommand> {
    let program = command.first().map_or("", String::as_str);
    if program.is_empty() {
        return Err(InvalidCommand::NoProgram);
    }
    if program.contains('/') && !program.starts_with('/') {
        return Err(InvalidCommand::RelativeProgram(program.to_owned()));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(InvalidCommand::Nul);
    }
    Ok(())
}

/// The first character outside of quotes that a shell would act on. `text` has no blanks at its ends.
fn unquoted_operator(text: &str) -> Option<char> {
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => {
                chars.next();
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, _) if SHELL_ONLY.contains(c) => return Some(c),
            (None | Some(_), _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_like_a_shell_does_and_nothing_is_expanded() {
        for (text, words) in [
            ("/usr/local/bin/freeze", &["/usr/local/bin/freeze"][..]),
            (" fsfreeze  -f\t/srv ", &["fsfreeze", "-f", "/srv"]),
            ("fsfreeze -f /srv\n", &["fsfreeze", "-f", "/srv"]),
            (
                r#"sh -c 'a | b; echo "$X"'"#,
                &["sh", "-c", r#"a | b; echo "$X""#],
            ),
            (r#"sh -c "echo $X `id`""#, &["sh", "-c", "echo $X `id`"]),
            (r"echo a\ b \$HOME \;", &["echo", "a b", "$HOME", ";"]),
            ("echo '' *.raw ~", &["echo", "", "*.raw", "~"]),
        ] {
            assert_eq!(parse(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn what_only_a_shell_understands_is_refused_outside_of_quotes() {
        for text in [
            "a | b", "a && b", "a; b", "a >f", "a $HOME", "a `id`", "(a)", "a\nb", "a 'b'; c",
        ] {
            let rule = parse(text).unwrap_err().to_string();
            assert!(rule.contains("sh -c"), "{text}: {rule}");
        }
    }

    #[test]
    fn a_program_is_an_absolute_path_or_a_plain_name() {
        for (text, part) in [
            ("", "must name a program"),
            ("  ", "must name a program"),
            ("''", "must name a program"),
            ("./freeze", "absolute path"),
            ("bin/freeze -x", "absolute path"),
            ("a 'b", "not closed"),
            ("a\0b", "NUL"),
        ] {
            let rule = parse(text).unwrap_err().to_string();
            assert!(rule.contains(part), "{text:?}: {rule}");
        }
    }

    #[test]
    fn a_command_line_reads_back_as_the_same_command() {
        for words in [
            &["sh", "-c", "a | 'b' \"c\" $D"][..],
            &["x", "", " ", "\\", "ä#"],
        ] {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(parse(&command_line(&words)).unwrap(), words);
        }
    }
}
