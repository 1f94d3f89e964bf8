//! What a guest's console is connected to: its log, and the streams of the process that started it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver};

use fleet::LogWriter;
use machine::{Console, ConsoleInput, MachineControl};

use super::input;
use super::over::IsOver;
use super::program::{self, Connection, Ours};
use super::text_seen::Watch;
use crate::ending::ProgramEnd;
use crate::wire::Guest;

/// What is typed, and what is heard of a program.
pub(super) enum Talk {
    /// A console.
    Console {
        input: ConsoleInput,
        from: Option<File>,
        typing: Typing,
    },
    /// A program's streams.
    Program(Box<Connection>),
}

/// What is typed into a console.
pub(super) enum Typing {
    /// Whatever comes, as it comes.
    AsItComes,
    /// Commands and their end, once the console is ready.
    Commands(Option<Receiver<()>>),
}

/// Connects the console of a guest of this kind.
///
/// # Errors
/// If the host gives no pipes.
pub(super) fn connect(guest: Guest, ours: Ours, log: LogWriter) -> io::Result<(Console, Talk)> {
    let (after, is_commands) = match guest {
        Guest::Program(program) => {
            let (console, connection) = program::connect(program, ours, log)?;
            return Ok((console, Talk::Program(Box::new(connection))));
        }
        Guest::Console => (None, false),
        Guest::Commands { after } => (after, true),
    };
    let output: Box<dyn Write + Send> = match ours.output {
        Some(output) => Box::new(output),
        None => Box::new(io::sink()),
    };
    let (tell, ready) = mpsc::channel();
    let ready = after.is_some().then_some(ready);
    let output: Box<dyn Write + Send> = match after {
        Some(text) => Box::new(Watch::new(output, &text, tell)),
        None => output,
    };
    let console = Console::new(Box::new(Logged { log, output }));
    let talk = Talk::Console {
        input: console.input(),
        from: ours.input,
        typing: if is_commands {
            Typing::Commands(ready)
        } else {
            Typing::AsItComes
        },
    };
    Ok((console, talk))
}

impl Talk {
    /// Types and carries from now on.
    ///
    /// # Errors
    /// If the host gives no threads.
    pub(super) fn begin(&mut self, control: &MachineControl, over: &IsOver) -> io::Result<()> {
        match self {
            Talk::Program(connection) => connection.begin(control, over),
            Talk::Console {
                input,
                from,
                typing,
            } => {
                let Some(from) = from.take() else {
                    return Ok(());
                };
                let input = input.clone();
                match typing {
                    Typing::AsItComes => input::type_all(from, input),
                    Typing::Commands(ready) => input::type_commands(from, input, ready.take()),
                }
            }
        }
    }

    /// How the guest's program ended, if it was one; see [`Connection::end`].
    pub(super) fn end(
        &self,
        goes_on: impl Fn() -> bool,
    ) -> Option<(ProgramEnd, Option<io::Error>)> {
        match self {
            Talk::Program(connection) => Some(connection.end(goes_on)),
            Talk::Console { .. } => None,
        }
    }
}

/// Writes to the log, then to the output.
struct Logged {
    log: LogWriter,
    output: Box<dyn Write + Send>,
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.write_all(bytes)?;
        self.output.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
