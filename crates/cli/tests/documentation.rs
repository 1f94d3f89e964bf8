//! The documentation, typed: each command of README and the guides does what its page says.
//!
//! A block of commands is a fenced one marked `console` or `sh`. In `console` a command stands behind `$ `, and the lines
//! below it are what it prints. `sh` is a script as a whole. What is shown has to be what is printed, line by line, but for
//! numbers, widths of columns, the engine that this host has, and `...`, which stands for anything.
//!
//! A line above the fence can take something out, with its reason, which a reader of the page does not see:
//!
//! ```text
//! <!-- not typed: why the whole block cannot be -->
//! <!-- not typed `mother top`: why the commands that begin so cannot be -->
//! ```

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::registry::Registry;
use crate::common::{Mother, Terminal, with_debian};
use tempfile::TempDir;

#[path = "documentation/files.rs"]
mod files;
#[path = "documentation/page.rs"]
mod page;

use page::{Block, Command, Page};

/// Where a person presses keys: how the command begins, what the screen then shows, and the keys.
const KEYS: &[(&str, &str, &str)] = &[
    ("mother top", "NAME", "q"),
    ("mother run --kernel", "guest:~#", "poweroff\r"),
    ("mother console", "Ctrl-A d", "\u{1}d"),
];

/// What a page has left running is ended.
impl Drop for Desk {
    fn drop(&mut self) {
        self.mother.call(&["rm", "--all", "--force"]);
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A folder with everything that pages speak of, and the command in its path.
struct Desk {
    mother: Mother,
    folder: TempDir,
    ports: BTreeMap<&'static str, u16>,
    /// With an image in it, from when a page first speaks of it.
    registry: Option<Registry>,
}

/// What pages call it.
const REGISTRY: &str = "127.0.0.1:5000";

impl Desk {
    fn new() -> Option<Desk> {
        let mother = with_debian()?;
        let folder = tempfile::tempdir().unwrap();
        files::lay(folder.path());
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_mother"), bin.join("mother")).unwrap();
        let mother = mother.in_folder(folder.path());
        Some(Desk {
            mother,
            folder,
            ports: BTreeMap::new(),
            registry: None,
        })
    }

    /// Starts what a command asks; whether it is there.
    fn has_registry(&mut self) -> bool {
        if self.registry.is_none() {
            self.registry = Registry::new(false);
            let pushed = self.registry.as_ref();
            pushed.map(|it| it.push_box("tests/box", "latest", "cat /data"));
        }
        self.registry.is_some()
    }

    /// The line as this host can run it.
    fn line(&mut self, text: &str) -> String {
        format!("export PATH=$PWD/bin:$PATH; {}", self.with_free_ports(text))
    }

    /// With a port that is free for each port of the host that a page names.
    fn with_free_ports(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(registry) = &self.registry {
            text = text.replace(REGISTRY, &registry.host());
        }
        for port in ["8080", "2222", "5353"] {
            if text.contains(port) {
                let free = self.ports.entry(port).or_insert_with(free_port);
                text = text.replace(port, &free.to_string());
            }
        }
        text
    }

    fn type_command(&mut self, place: &str, command: &Command) {
        let line = self.line(&command.text);
        let keys = KEYS
            .iter()
            .find(|(start, ..)| command.text.starts_with(start));
        if let Some(&(_, seen, keys)) = keys.filter(|_| command.conversation().is_none()) {
            let line = format!("stty rows 40 columns 130; {line}");
            let mut terminal = Terminal::new(&self.mother, &line);
            terminal.expect(seen);
            terminal.send(keys);
            terminal.finish();
            return;
        }
        if let Some(conversation) = command.conversation() {
            return self.converse(place, &line, &conversation, command);
        }
        let ran = self.mother.shell(&format!("exec 2>&1; {line}"));
        let status = command.status();
        assert!(
            status.fits(ran.status),
            "{place}: `{}` ended with {:?}:\n{}",
            command.text,
            ran.status,
            ran.stdout
        );
        if !command.shown.is_empty() {
            page::compare(place, &command.shown, &ran.stdout);
        }
    }

    /// Reads and types at a terminal, as the page does behind the guest's prompt.
    fn converse(&self, place: &str, line: &str, conversation: &[page::Said], command: &Command) {
        let mut terminal = Terminal::new(&self.mother, line);
        for said in conversation {
            terminal.expect(&said.shown);
            if let Some(typed) = &said.typed {
                terminal.send(&format!("{typed}\r"));
            }
        }
        let all = terminal.finish();
        assert!(!all.is_empty(), "{place}: `{}`", command.text);
    }

    fn run(&mut self, page: &Page) {
        for block in &page.blocks {
            let place = format!("{}:{}", page.name, block.line);
            for command in block.commands() {
                if block.takes_out(&command) {
                    continue;
                }
                if let Some(missing) = self.missing(&command) {
                    // Written, not printed: the test harness would keep what is printed to itself.
                    let mut stderr = std::io::stderr();
                    writeln!(stderr, "skipped: {place}: this host has no {missing}").unwrap();
                    continue;
                }
                self.type_command(&place, &command);
            }
            self.keep(block);
        }
    }

    /// A file that the page shows lies in the folder from then on.
    fn keep(&mut self, block: &Block) {
        if let Some((name, text)) = block.file() {
            let text = self.with_free_ports(&text);
            fs::write(self.folder.path().join(name), text).unwrap();
        }
    }

    /// What a command needs that not every host has.
    fn missing(&mut self, command: &Command) -> Option<&'static str> {
        if command.text.contains(REGISTRY) && !self.has_registry() {
            return Some("docker-registry");
        }
        let programs = ["/usr/bin/python3", "jq", "gcc"];
        programs.into_iter().find(|program| {
            command.text.contains(program)
                && self.mother.shell(&format!("command -v {program}")).status != Some(0)
        })
    }
}

fn check(name: &str) {
    let page = Page::read(&root(), name);
    let Some(mut desk) = Desk::new() else {
        return;
    };
    desk.run(&page);
}

#[test]
fn the_readme_is_true() {
    check("README.md");
}

#[test]
fn the_page_on_programs_in_a_guest_is_true() {
    check("docs/exec.md");
}

#[test]
fn the_page_on_files_is_true() {
    check("docs/files.md");
}

#[test]
fn the_page_about_shared_folders_is_true() {
    check("docs/folders.md");
}

#[test]
fn the_page_on_vms_of_others_is_true() {
    check("docs/foreign.md");
}

#[test]
fn the_page_on_config_files_is_true() {
    check("docs/config.md");
}

#[test]
fn the_page_on_disks_is_true() {
    check("docs/disks.md");
}

#[test]
fn the_page_on_dumps_is_true() {
    check("docs/dump.md");
}

#[test]
fn the_page_on_engines_is_true() {
    check("docs/engines.md");
}

#[test]
fn the_page_on_images_is_true() {
    check("docs/images.md");
}

#[test]
fn the_page_on_insight_is_true() {
    check("docs/insight.md");
}

#[test]
fn the_page_for_programs_is_true() {
    check("docs/json.md");
}

#[test]
fn the_page_on_lifecycle_is_true() {
    check("docs/lifecycle.md");
}

#[test]
fn the_page_on_limits_is_true() {
    check("docs/limits.md");
}

#[test]
fn the_page_on_metrics_is_true() {
    check("docs/metrics.md");
}

#[test]
fn the_page_on_networks_is_true() {
    check("docs/network.md");
}

#[test]
fn the_page_on_paging_is_true() {
    check("docs/paging.md");
}

#[test]
fn the_page_on_policies_is_true() {
    check("docs/policies.md");
}

#[test]
fn the_page_on_run_is_true() {
    check("docs/run.md");
}

#[test]
fn the_page_on_snapshots_is_true() {
    check("docs/snapshots.md");
}

#[test]
fn the_page_on_traces_is_true() {
    check("docs/tracing.md");
}

/// A page with commands that no test types would be a promise that nobody keeps.
#[test]
fn every_page_with_commands_is_typed() {
    let own = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join(file!().trim_start_matches("crates/cli/")),
    );
    let own = own.unwrap();
    let mut names = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    for name in names {
        let page = Page::read(&root(), &name);
        let commands = page.blocks.iter().any(|block| !block.commands().is_empty());
        assert_eq!(
            commands,
            own.contains(&format!("check(\"{name}\")")),
            "{name}: has commands, is typed"
        );
        assert_eq!(
            page.untold(),
            None,
            "{name}: commands in a block that does not say so"
        );
    }
}
