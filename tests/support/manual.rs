//! The examples of the manual pages, taken out of their source: between `.EX` and `.EE`, with what comments in front of
//! them say that they need.

/// One example. What follows `# ` or `$ ` is typed in a shell, what follows `(qemu) ` at QEMU's prompt.
#[derive(Debug, Default)]
pub struct Example {
    /// Commands of the tool that have to have run, without its name.
    pub after: Vec<String>,
    /// A disk image that has to be there.
    pub disk: Option<String>,
    /// What has to be there besides: `a hypeman server`, `a monitor`, `a snapshot of a running VM`, `another host`,
    /// `libvirt`, or a program.
    pub needs: Option<String>,
    /// Its exit code.
    pub exits: i32,
    /// Why it can't run here.
    pub not_run: Option<String>,
    /// What is typed in a shell.
    pub script: String,
    /// What is printed; empty where the page does not show it. `...` stands for anything.
    pub shown: Vec<String>,
    /// What is typed at QEMU's prompt, each with what QEMU answers.
    pub prompted: Vec<(String, Vec<String>)>,
}

/// The page without what is only there for the formatter.
pub fn plain(roff: &str) -> String {
    roff.replace("\\-", "-")
        .replace("\\(aq", "'")
        .replace("\\(ti", "~")
        .replace("\\e", "\\")
}

/// The examples of a page, in their order.
///
/// # Panics
/// When a comment in front of one has no meaning.
pub fn examples(page: &str) -> Vec<Example> {
    let (mut examples, mut next, mut is_inside) = (Vec::new(), Example::default(), false);
    for line in page.lines() {
        if let Some(directive) = line.strip_prefix(".\\\" example: ") {
            let (word, value) = directive
                .split_once(' ')
                .unwrap_or_else(|| panic!("{directive:?} says nothing"));
            match word {
                "after:" => next.after.push(value.to_owned()),
                "disk:" => next.disk = Some(value.to_owned()),
                "needs:" => next.needs = Some(value.to_owned()),
                "exits" => next.exits = value.parse().expect("an exit code"),
                "not" => next.not_run = value.strip_prefix("run: ").map(str::to_owned),
                other => panic!("no directive {other:?}"),
            }
        } else if line == ".EX" {
            is_inside = true;
        } else if line == ".EE" {
            is_inside = false;
            examples.push(std::mem::take(&mut next));
        } else if is_inside {
            next.add(plain(line));
        }
    }
    examples
}

impl Example {
    fn add(&mut self, line: String) {
        if let Some(typed) = line.strip_prefix("(qemu) ") {
            self.prompted.push((typed.to_owned(), Vec::new()));
        } else if let Some((_, answers)) = self.prompted.last_mut() {
            answers.push(line);
        } else {
            let is_continued = self.script.ends_with("\\\n");
            let typed = line.strip_prefix("# ").or(line.strip_prefix("$ "));
            match typed.or(is_continued.then_some(line.as_str())) {
                Some(typed) => {
                    self.script.push_str(typed);
                    self.script.push('\n');
                }
                None => self.shown.push(line),
            }
        }
    }
}

/// Whether `line` is `shown`, in which `...` stands for anything.
pub fn is_like(line: &str, shown: &str) -> bool {
    match shown.split_once("...") {
        Some((before, behind)) => {
            line.len() > before.len() + behind.len()
                && line.starts_with(before)
                && line.ends_with(behind)
        }
        None => line == shown,
    }
}
