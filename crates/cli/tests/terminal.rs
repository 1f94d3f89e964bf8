//! Programs at a terminal: theirs is one too, with its size, its keys and its signals; with pipes they have pipes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::thread;
use std::time::Duration;

use crate::common::{Terminal, assert_modes_came_back, with_guest};

/// A shell that this starts sits at a terminal, and gives ours back.
fn sits_at_a_terminal(command: &str) {
    let Some(mother) = with_guest() else { return };
    let line = format!("stty rows 33 cols 101; stty -g; {command}; echo status $?; stty -g");
    let mut terminal = Terminal::new(&mother, &line);
    let mut ask = |typed: &str, answers: &[&str]| {
        terminal.send(typed);
        answers.iter().for_each(|answer| terminal.expect(answer));
    };
    ask(
        "tty; stty size; echo ter''m $TERM\r",
        &["/dev/pts/0", "33 101", "term xterm"],
    );
    ask(
        "test -t 0 && test -t 1 && test -t 2 && echo al''l\r",
        &["all"],
    );
    // Ctrl-C ends what runs in the foreground, and not the shell.
    ask("echo slee''ps; sleep 100; echo sle''pt $?\r", &["sleeps"]);
    thread::sleep(Duration::from_secs(1));
    ask("\x03", &[]);
    ask("echo goes o''n\r", &["goes on"]);
    ask("exit 7\r", &["status 7"]);
    let shown = terminal.finish();
    assert_modes_came_back(&shown);
}

#[test]
fn a_shell_in_the_small_guest_has_a_terminal() {
    sits_at_a_terminal("$MOTHER run -- sh");
}

#[test]
fn a_shell_of_this_host_has_a_terminal() {
    sits_at_a_terminal("$MOTHER run --app /bin/bash -- --norc");
}

#[test]
fn a_window_that_changes_is_told() {
    let Some(mother) = with_guest() else { return };
    let watch = "trap 'stty size; exit 3' WINCH; echo watche''s; while :; do sleep 0.1; done";
    // The window is changed from beside, as a person does with a mouse.
    let line = format!(
        "stty rows 33 cols 101; (sleep 8; stty rows 40 cols 120 < /dev/tty) & $MOTHER run -- sh -c \"{watch}\"; echo status $?"
    );
    let mut terminal = Terminal::new(&mother, &line);
    terminal.expect("watches");
    terminal.expect("40 120");
    terminal.expect("status 3");
    terminal.finish();
}

#[test]
fn a_program_whose_streams_are_not_all_a_terminal_has_pipes() {
    let Some(mother) = with_guest() else { return };
    let ask = "tty; test -t 1 || echo out is a pipe; test -t 2 || echo errors too";
    for line in [
        format!("$MOTHER run -- sh -c '{ask}' | cat; echo over"),
        format!("$MOTHER run -- sh -c '{ask}' 2>/dev/null; echo over"),
        format!("$MOTHER run -- sh -c '{ask}' < /dev/null; echo over"),
    ] {
        let mut terminal = Terminal::new(&mother, &line);
        terminal.expect("not a tty");
        terminal.expect("out is a pipe");
        terminal.expect("errors too");
        terminal.expect("over");
        terminal.finish();
    }
}
