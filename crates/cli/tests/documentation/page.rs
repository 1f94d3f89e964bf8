//! A page of the documentation as blocks of commands, and what is compared of them.

use std::fs;
use std::path::Path;

/// The mark above a fence that takes something out.
const MARK: &str = "<!-- not typed";

/// What stands on the screen before a command that a person types into a guest.
const GUEST_PROMPT: &str = ":~# ";

pub(crate) struct Page {
    pub(crate) name: String,
    pub(crate) blocks: Vec<Block>,
}

/// A fenced block.
pub(crate) struct Block {
    /// Line of the fence.
    pub(crate) line: usize,
    kind: String,
    lines: Vec<String>,
    /// Beginnings of commands that are not typed; an empty one is all of them.
    out: Vec<String>,
}

/// A command, and what the page shows below it.
pub(crate) struct Command {
    pub(crate) text: String,
    pub(crate) shown: Vec<String>,
}

/// A step of a conversation with a guest.
pub(crate) struct Said {
    pub(crate) shown: String,
    pub(crate) typed: Option<String>,
}

/// How a command may end.
#[derive(Debug)]
pub(crate) enum Status {
    Is(i32),
    Failure,
}

impl Status {
    pub(crate) fn fits(&self, status: Option<i32>) -> bool {
        match self {
            Status::Is(expected) => status == Some(*expected),
            Status::Failure => status.is_some_and(|status| status != 0),
        }
    }
}

impl Page {
    pub(crate) fn read(root: &Path, name: &str) -> Page {
        let text = fs::read_to_string(root.join(name)).unwrap();
        Page {
            name: name.to_owned(),
            blocks: blocks(&text),
        }
    }

    /// The line of a block that looks like commands and does not say what it is.
    pub(crate) fn untold(&self) -> Option<usize> {
        let is_command = |line: &String| line.starts_with("$ ") || line.starts_with("mother ");
        let untold = |block: &&Block| block.kind.is_empty() && block.lines.iter().any(is_command);
        self.blocks.iter().find(untold).map(|block| block.line)
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(kind) = line.strip_prefix("```") {
            is_open = !is_open;
            if is_open {
                blocks.push(Block {
                    line: number + 1,
                    kind: kind.to_owned(),
                    lines: Vec::new(),
                    out: std::mem::take(&mut out),
                });
            }
        } else if is_open {
            blocks.last_mut().unwrap().lines.push(line.to_owned());
        } else if let Some(mark) = line.strip_prefix(MARK) {
            out.push(taken_out(number + 1, mark));
        } else if !line.trim().is_empty() {
            assert!(out.is_empty(), "line {}: a mark above no block", number + 1);
        }
    }
    assert!(
        !is_open && out.is_empty(),
        "a block or a mark without its end"
    );
    blocks
}

/// The beginning of the commands that a mark takes out.
fn taken_out(line: usize, mark: &str) -> String {
    let (what, reason) = mark
        .split_once(':')
        .unwrap_or_else(|| panic!("line {line}: no reason"));
    let reason = reason.trim_end_matches("-->").trim();
    assert!(reason.len() > 10, "line {line}: {reason:?} is no reason");
    what.trim().trim_matches('`').to_owned()
}

impl Block {
    /// The commands of a block that is one of commands.
    pub(crate) fn commands(&self) -> Vec<Command> {
        match self.kind.as_str() {
            "console" => self.typed(),
            "sh" => vec![Command {
                text: format!("set -e\n{}", self.lines.join("\n")),
                shown: Vec::new(),
            }],
            _ => Vec::new(),
        }
    }

    fn typed(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        for line in &self.lines {
            if let Some(text) = line.strip_prefix("$ ") {
                commands.push(Command {
                    text: text.to_owned(),
                    shown: Vec::new(),
                });
            } else if let Some(command) = commands.last_mut() {
                if command.text.ends_with('\\') {
                    command.text.push('\n');
                    command.text.push_str(line);
                } else {
                    command.shown.push(line.clone());
                }
            } else {
                panic!("a block begins with what no command printed: {line}");
            }
        }
        commands
    }

    pub(crate) fn takes_out(&self, command: &Command) -> bool {
        self.out
            .iter()
            .any(|start| command.text.starts_with(start.as_str()))
    }

    /// The file that a block shows, with the name in its first line, which is a comment. JSON has none.
    pub(crate) fn file(&self) -> Option<(&str, String)> {
        if self.kind == "json" {
            return Some(("vm.json", self.lines.join("\n")));
        }
        let is_file = matches!(self.kind.as_str(), "toml" | "json" | "sh");
        let name = self.lines.first()?.strip_prefix("# ")?;
        let is_name = name.contains('.') && !name.contains(' ') && !name.ends_with('.');
        (is_file && is_name).then(|| (name, self.lines.join("\n") + "\n"))
    }
}

impl Command {
    /// How it may end, as the page has it: in failure where an error is shown, with the status that a script in it exits
    /// with, and else well.
    pub(crate) fn status(&self) -> Status {
        if self.shown.iter().any(|line| line.starts_with("error:")) {
            return Status::Failure;
        }
        let ends = self.text.rsplit_once("exit ");
        let number = ends.and_then(|(_, rest)| {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        Status::Is(number.unwrap_or(0))
    }

    /// What is said and typed, if a person speaks with a guest here.
    pub(crate) fn conversation(&self) -> Option<Vec<Said>> {
        let has_prompt = self.shown.iter().any(|line| line.contains(GUEST_PROMPT));
        has_prompt.then(|| {
            let said = self
                .shown
                .iter()
                .map(|line| match line.split_once(GUEST_PROMPT) {
                    Some((host, typed)) => Said {
                        shown: format!("{host}{GUEST_PROMPT}"),
                        typed: Some(typed.to_owned()),
                    },
                    None => Said {
                        shown: line.clone(),
                        typed: None,
                    },
                });
            said.collect()
        })
    }
}

/// Compares what a page shows with what was printed.
pub(crate) fn compare(place: &str, shown: &[String], printed: &str) {
    let printed: Vec<&str> = printed.lines().collect();
    let all_of_it = || printed.join("\n");
    let mut rest = printed
        .iter()
        .map(|line| plain(line))
        .filter(|line| !is_of_host(line));
    let mut shown = shown
        .iter()
        .map(|line| plain(line))
        .filter(|line| !is_of_host(line))
        .peekable();
    while let Some(line) = shown.next() {
        if line == "..." {
            let Some(next) = shown.peek() else { return };
            let next = next.clone();
            let skipped = rest.by_ref().find(|printed| fits(&next, printed));
            assert!(
                skipped.is_some(),
                "{place}: {next:?} is not printed:\n{}",
                all_of_it()
            );
            shown.next();
            continue;
        }
        let printed = rest.next();
        assert!(
            printed.as_ref().is_some_and(|printed| fits(&line, printed)),
            "{place}: shown is {line:?}, printed {printed:?}, in:\n{}",
            all_of_it()
        );
    }
    assert_eq!(
        rest.next(),
        None,
        "{place}: printed, not shown, in:\n{}",
        all_of_it()
    );
}

/// A line about the engine that this host has.
fn is_of_host(line: &str) -> bool {
    line.starts_with("mother: engine ")
}

/// A line without what differs from run to run: numbers, widths, the engine.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut is_number = false;
    for c in line.trim_end().chars() {
        let was_number = is_number;
        is_number = c.is_ascii_digit() || was_number && c == '.';
        match c {
            _ if is_number && was_number => {}
            _ if is_number => plain.push('#'),
            ' ' | '\u{a0}' if plain.ends_with(' ') => {}
            c => plain.push(c),
        }
    }
    // A size may have crossed from one unit to the next.
    for unit in ["#K", "#M", "#G"] {
        plain = plain.replace(unit, "#B");
    }
    plain.replace(" kvm ", " soft ")
}

/// Whether a printed line is the shown one, in which `...` stands for anything.
fn fits(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split("...");
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else {
        return false;
    };
    let mut is_exact = true;
    for part in parts {
        is_exact = part.is_empty();
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        if is_exact {
            return true;
        }
        is_exact = true;
    }
    !is_exact || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_widths_may_differ_and_nothing_else() {
        for (shown, printed, same) in [
            ("web   soft  6.1s", "web soft 12.34s", true),
            ("given 512M", "given 1.2G", true),
            ("web ended", "web died", false),
            ("at ... end", "at any time the end", true),
            ("at ... end", "at any time the ends", false),
            ("error: ...", "error: no such file", true),
            ("a ...", "b c", false),
            ("", "more", false),
        ] {
            assert_eq!(
                fits(&plain(shown), &plain(printed)),
                same,
                "{shown:?} {printed:?}"
            );
        }
    }

    #[test]
    fn a_page_is_its_commands_and_what_they_print() {
        let text = "words\n<!-- not typed `mother top`: a screen without an end -->\n```console\n$ one \\\n  more\nout\n\
                    $ mother top\n```\n```sh\n# a.sh\ntrue\n```\n```\n$ untold\n```\n";
        let page = Page {
            name: String::new(),
            blocks: blocks(text),
        };
        let commands = page.blocks[0].commands();
        assert_eq!(commands[0].text, "one \\\n  more");
        assert_eq!(commands[0].shown, ["out"]);
        assert!(!page.blocks[0].takes_out(&commands[0]) && page.blocks[0].takes_out(&commands[1]));
        assert_eq!(
            page.blocks[1].file().unwrap(),
            ("a.sh", "# a.sh\ntrue\n".to_owned())
        );
        assert_eq!(page.untold(), Some(13));
    }

    #[test]
    fn how_a_command_ends_stands_on_the_page() {
        let ended = |text: &str, shown: &[&str]| {
            let command = Command {
                text: text.to_owned(),
                shown: shown.iter().map(|line| (*line).to_owned()).collect(),
            };
            format!("{:?}", command.status())
        };
        assert_eq!(ended("mother run -- sh -c 'id; exit 3'", &[]), "Is(3)");
        assert_eq!(ended("mother ps", &["NAME"]), "Is(0)");
        assert_eq!(ended("mother run --cpus 0", &["error: no"]), "Failure");
    }
}
