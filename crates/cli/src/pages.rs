//! What pages of `docs` list is what the program has: exit statuses, and answers for programs.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory};
use runner::{CLOSED_PIPE, CRASHED, KILLED, TIMED_OUT};

use crate::arguments::Arguments;
use crate::exit_status::{BAD_INPUT, BLIND, OUR_FAULT};

/// When everything was done.
const DONE: u8 = 0;

/// When the guest's program cannot be started, as shells have it: it may not be, or it is not there.
const NOT_STARTED: [u8; 2] = [126, 127];

/// What signal 0 would be.
const OF_SIGNALS: u8 = 128;

/// A line of the table: the status, the commands that it is of, what it means.
type Line = (String, &'static str, &'static str);

/// The table, in the order of the numbers.
fn table() -> Vec<Line> {
    let mut table = numbers();
    table.extend([
        (
            format!("{OF_SIGNALS} + n"),
            "all",
            "Mother was ended by signal n, or, of `run`, signal n ended the guest's program; of `exec`, signal n \
             ended that program; 143 is SIGTERM when the grace time was over",
        ),
        (
            "(value << 1) \\| 1".to_owned(),
            "`run --debug-exit`",
            "the guest wrote `value` to port 0xf4",
        ),
        (
            "any other".to_owned(),
            "`run`, `wait`, `exec`",
            "that of the guest's program, if the guest is one and it ended",
        ),
    ]);
    table
}

/// The lines that are of one number.
fn numbers() -> Vec<Line> {
    let [not_allowed, not_found] = NOT_STARTED;
    let line = |status: u8, of, meaning| (status.to_string(), of, meaning);
    vec![
        line(
            DONE,
            "all",
            "done, for every VM that was named; of `run`: the guest powered off (ACPI S5, or a reset with `--no-reboot`), \
         or you left it; of `doctor`: an engine works; of `truth`: everything was compared, and nothing contradicts",
        ),
        line(
            OUR_FAULT,
            "all",
            "Mother or this host failed, something is in use or is not there, the guest could not start (a folder that it \
         cannot have, no disk), or the answer is no: one of the VMs that were named could not be had or did not obey, \
         `wait --for` was in vain, `truth` found a contradiction",
        ),
        line(
            BAD_INPUT,
            "all",
            "bad input: nothing was done, started or downloaded",
        ),
        line(
            CRASHED,
            "`run`, `wait`, `console`",
            "the guest crashed with a triple fault; mode, registers and the code bytes around RIP are printed",
        ),
        line(
            BLIND,
            "`truth`",
            "nothing contradicts, and not everything could be seen",
        ),
        line(
            TIMED_OUT,
            "`run`, `wait`, `console`",
            "the time was up (`--timeout`)",
        ),
        line(
            not_allowed,
            "`run`, `wait`, `exec`",
            "the guest's program cannot be started, as shells have it",
        ),
        line(
            not_found,
            "`run`, `wait`, `exec`",
            "the guest's program is not there, as shells have it",
        ),
        line(
            KILLED,
            "`run`, `wait`, `console`",
            "`mother kill` ended the VM, or `mother stop` when its grace time was over",
        ),
        line(
            CLOSED_PIPE,
            "all",
            "who read standard output went away (signal 13)",
        ),
    ]
}

const STATUSES: &str = include_str!("../../../docs/exit-status.md");

/// The lines of the page's table below its head, cells without their spaces.
fn shown() -> Vec<Vec<&'static str>> {
    let lines = STATUSES.lines().filter(|line| line.starts_with('|'));
    let cells = |line: &'static str| {
        // A bar within a cell has a backslash before it.
        let line = line.trim_matches('|');
        let (first, rest) = line.split_once(" | ").unwrap();
        let (second, third) = rest.split_once(" | ").unwrap();
        [first, second, third].map(str::trim).to_vec()
    };
    lines.skip(2).map(cells).collect()
}

#[test]
fn the_page_shows_the_table() {
    let table = table();
    let expected: Vec<Vec<&str>> = table
        .iter()
        .map(|(status, of, meaning)| vec![status.as_str(), of, meaning])
        .collect();
    assert_eq!(shown(), expected);
}

#[test]
fn no_number_means_two_things_by_itself() {
    let numbers: Vec<u8> = table()
        .iter()
        .filter_map(|line| line.0.parse().ok())
        .collect();
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
    assert!(numbers.is_sorted());
}

#[test]
fn help_names_no_status_that_the_table_has_not() {
    let known: BTreeSet<String> = table().into_iter().map(|line| line.0).collect();
    for command in Arguments::command().get_subcommands() {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let Some((_, statuses)) = help.split_once("Exit status:\n") else {
            continue;
        };
        let statuses = statuses.split("\n\n").next().unwrap_or_default();
        let words = statuses.split(|c: char| !c.is_ascii_digit());
        for number in words.filter(|word| !word.is_empty() && *word != "1") {
            assert!(known.contains(number), "{}: {number}", command.get_name());
        }
    }
}

const ANSWERS: &str = include_str!("../../../docs/json.md");

/// Commands that say nothing for programs, and why.
const FOR_PEOPLE: [&str; 7] = [
    // An editor.
    "edit",
    // A daemon; programs ask it.
    "serve",
    // The guest's console itself.
    "console",
    // A program's own streams.
    "exec",
    // A screen.
    "top",
    // A program for a shell.
    "completions",
    // A show; `--report` has its numbers.
    "demo",
];

/// Itself, or what it has below it.
fn has_json(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_long() == Some("json"))
        || command.get_subcommands().any(has_json)
}

#[test]
fn every_command_that_says_something_has_json_and_a_row_of_the_page() {
    for command in Arguments::command().get_subcommands() {
        let name = command.get_name();
        let is_for_people = FOR_PEOPLE.contains(&name);
        assert_eq!(has_json(command), !is_for_people, "{name}");
        let row = ANSWERS
            .lines()
            .any(|line| line.starts_with('|') && line.contains(&format!("`{name}")));
        assert_eq!(row, !is_for_people, "docs/json.md, {name}");
    }
}
