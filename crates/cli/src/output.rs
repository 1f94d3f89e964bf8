//! To standard output: our own words, or the guest's console, unbuffered.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use api::VmName;

use crate::answers::{self, Done};
use crate::failure::Failure;
use crate::observed;

/// Says something of ours.
pub fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Failure::Output)
}

/// Whether a person sees what is said, which may go through a pipe of ours on its way.
pub fn is_shown() -> bool {
    match observed::about() {
        Some(about) => about.is_shown,
        None => io::stdout().is_terminal(),
    }
}

/// Says that something was done to one VM: its name, or for programs what came of it.
pub fn say_done(name: &VmName, is_json: bool) -> Result<(), Failure> {
    say(&if is_json {
        answers::text(&[Done::well(name)])
    } else {
        format!("{name}\n")
    })
}

/// Standard output without Rust's line buffer: a prompt has no line end.
pub fn standard_output() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}
