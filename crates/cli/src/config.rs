//! `mother run --config FILE` and `--print-config`: what is typed and what is in a file are one spec.

use std::io;
use std::path::Path;

use api::{BadText, Complaint, PartialSpec, SpecErrors};

use crate::arguments::RunArguments;
use crate::failure::Failure;
use crate::output::say;

/// What was typed, over what is in the file that was named.
pub fn written(arguments: &RunArguments) -> PartialSpec {
    let typed = arguments.written.0.clone();
    match &arguments.config {
        Some(path) => typed.over(read(path)),
        None => typed,
    }
}

/// What is in the file; where it cannot be read, that is the complaint.
fn read(path: &Path) -> PartialSpec {
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => PartialSpec::from_file(&text, &shown),
        Err(error) => PartialSpec {
            complaints: vec![Complaint::of("config", unreadable(&shown, &error))],
            ..PartialSpec::default()
        },
    }
}

fn unreadable(shown: &str, error: &io::Error) -> BadText {
    let (why, help) = match error.kind() {
        io::ErrorKind::NotFound => ("no such file".to_owned(), "check the path"),
        io::ErrorKind::PermissionDenied => (
            "permission denied".to_owned(),
            "give yourself permission to read it",
        ),
        io::ErrorKind::InvalidData => (
            "it is not UTF-8".to_owned(),
            "name a text file, TOML or JSON",
        ),
        _ => (error.to_string(), "name a text file, TOML or JSON"),
    };
    BadText {
        what: format!("cannot read {shown}: {why}"),
        help: help.to_owned(),
    }
}

/// Prints what was written as a file that means the same; the exit status.
pub fn print(written: &PartialSpec) -> Result<u8, Failure> {
    if !written.complaints.is_empty() {
        return Err(SpecErrors {
            name: written.shown_name().to_owned(),
            complaints: written.complaints.clone(),
        }
        .into());
    }
    say(&written.spec.to_toml())?;
    Ok(0)
}
