//! A guest that is one program: its three streams are those of the process that started it, and so is its exit status.
//!
//! The warden in the guest (`guests/toolbox/src/warden`) starts the program and says on a port of its own how it ended and how many
//! bytes of each output came before that. The streams are ports too, so a reader that is slow holds up its own stream and
//! nothing else, and there is no time after which a byte is given up: the program waits as it would for a pipe. What the
//! guest's console says is the kernel's; it is kept in the VM's log, and shown when the guest ends before its program.
//!
//! ```text
//! program ─pipe─ warden ─port─ device ─pipe─ outlet ── standard output, and the log
//! ```

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fleet::LogWriter;
use host::lock::Lock;
use machine::{Channel, Console, MachineControl};

use super::outlet::{Carried, Outlet, send_input};
use super::over::IsOver;
use crate::ending::ProgramEnd;
use crate::wire::{AfterExit, Program};

/// Kinds of messages to the guest.
const OUTPUT_IS_CLOSED: u8 = 1;
const ERRORS_ARE_CLOSED: u8 = 2;
const GOODBYE: u8 = 3;

/// Kinds of messages from the guest.
const EXIT: u8 = 3;
const INPUT_IS_CLOSED: u8 = 4;

/// A message's kind and length.
const HEAD_BYTES: usize = 5;

/// Longest message that we take.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How much of the console is kept, to be shown when something is wrong.
const LOG_BYTES: usize = 16 * 1024;

/// How often a wait looks whether it still makes sense.
const PATIENCE: Duration = Duration::from_millis(20);

/// The streams of the process that started the program, as far as there are any.
#[derive(Default)]
pub(super) struct Ours {
    pub(super) input: Option<File>,
    pub(super) output: Option<File>,
    pub(super) errors: Option<File>,
}

/// A program that is to run.
pub(super) struct Connection {
    program: Program,
    ends: Option<Ends>,
    ours: Ours,
    log: Arc<Lock<LogWriter>>,
    last_words: Arc<Lock<Vec<u8>>>,
    streams: Option<Streams>,
}

/// A console for the machine of a guest that is this program, and what is behind its ports.
///
/// # Errors
/// If the host gives no pipes.
pub(super) fn connect(
    program: Program,
    ours: Ours,
    log: LogWriter,
) -> io::Result<(Console, Connection)> {
    let log = Arc::new(Lock::new(log));
    let shown = if program.shows_kernel {
        ours.errors.as_ref().map(File::try_clone).transpose()?
    } else {
        None
    };
    let kernel = KernelLog {
        log: Arc::clone(&log),
        last: Arc::default(),
        shown,
    };
    let last_words = Arc::clone(&kernel.last);
    let (ports, ends) = ports(&program.ports)?;
    let console = Console::new(Box::new(kernel)).with_channels(ports);
    let connection = Connection {
        program,
        ends: Some(ends),
        ours,
        log,
        last_words,
        streams: None,
    };
    Ok((console, connection))
}

impl Connection {
    /// Carries streams from now on.
    ///
    /// # Errors
    /// If the host gives no threads.
    pub(super) fn begin(&mut self, control: &MachineControl, over: &IsOver) -> io::Result<()> {
        let Some(ends) = self.ends.take() else {
            return Ok(());
        };
        let ours = std::mem::take(&mut self.ours);
        self.streams = Some(ends.connect(&self.program, ours, &self.log, control, over)?);
        Ok(())
    }

    /// What came of the program, once all that came out of the guest is where it should be, or `goes_on` says that it is
    /// not to be waited for. How its standard output failed, if it is not only that its reader has gone.
    pub(super) fn end(&self, goes_on: impl Fn() -> bool) -> (ProgramEnd, Option<io::Error>) {
        let mut end = ProgramEnd {
            status: None,
            unexplained: String::new(),
        };
        let mut failure = None;
        if let Some(streams) = &self.streams {
            streams.wait(goes_on);
            end.status = *streams.status.lock();
            failure = streams.output.take_failure();
        }
        if !self.program.shows_kernel {
            end.unexplained = String::from_utf8_lossy(&self.last_words.lock()).into_owned();
        }
        (end, failure)
    }
}

/// Our ends of the ports.
struct Ends {
    from_control: File,
    to_control: File,
    to_input: File,
    /// What has its reading ended.
    closing: (PipeReader, PipeWriter),
    from_output: File,
    from_errors: File,
}

/// The ports that the warden opens, and our ends.
fn ports(names: &[String; 4]) -> io::Result<(Vec<Channel>, Ends)> {
    let mut channels = names.each_ref().map(|name| Channel::new(name));
    let [control, input, output, errors] = &mut channels;
    let ends = Ends {
        from_control: control.from_guest()?,
        to_control: control.to_guest()?,
        to_input: input.to_guest()?,
        closing: io::pipe()?,
        from_output: output.from_guest()?,
        from_errors: errors.from_guest()?,
    };
    Ok((channels.into(), ends))
}

/// The program's streams at work.
struct Streams {
    status: Arc<Lock<Option<u8>>>,
    output: Arc<Carried>,
    errors: Arc<Carried>,
}

impl Ends {
    /// Connects the streams to ours, or to the log alone where nobody is.
    fn connect(
        self,
        program: &Program,
        ours: Ours,
        log: &Arc<Lock<LogWriter>>,
        control: &MachineControl,
        over: &IsOver,
    ) -> io::Result<Streams> {
        let to_guest = Arc::new(Lock::new(self.to_control));
        let outlet = |name, from, to, closed_kind| -> io::Result<Arc<Carried>> {
            let to_guest = Arc::clone(&to_guest);
            // The guest that does not hear it any more needs not.
            let tell = move || drop(to_guest.lock().write_all(&message(closed_kind, &[])));
            Outlet::new(from, to, Arc::clone(log)).start(name, tell)
        };
        let output = outlet(
            "program-output",
            self.from_output,
            ours.output,
            OUTPUT_IS_CLOSED,
        )?;
        let errors = outlet(
            "program-errors",
            self.from_errors,
            ours.errors,
            ERRORS_ARE_CLOSED,
        )?;
        let streams = Streams {
            status: Arc::default(),
            output,
            errors,
        };
        let listener = Listener {
            greeting: program.greeting.clone(),
            from_guest: self.from_control,
            to_guest,
            control: control.clone(),
            over: over.clone(),
            status: Arc::clone(&streams.status),
            carried: [Arc::clone(&streams.output), Arc::clone(&streams.errors)],
            after: program.after,
        };
        let to_input = self.to_input;
        let closing = self.closing;
        let from = ours.input;
        let listen = move || {
            // A guest that talks nonsense is heard no more; it ends in its own way.
            if let Err(error) = listener.listen(from, to_input, closing) {
                tracing::debug!(%error, "the guest says no more of its program");
            }
        };
        let thread = thread::Builder::new().name("program".to_owned());
        thread.spawn(listen)?;
        Ok(streams)
    }
}

impl Streams {
    /// Waits until all that came out of the guest is where it should be, as long as `goes_on`.
    fn wait(&self, goes_on: impl Fn() -> bool) {
        for carried in [&self.output, &self.errors] {
            carried.wait_for_end(PATIENCE, &goes_on);
        }
    }
}

/// Hears what the warden says.
struct Listener {
    greeting: Vec<u8>,
    from_guest: File,
    to_guest: Arc<Lock<File>>,
    control: MachineControl,
    over: IsOver,
    status: Arc<Lock<Option<u8>>>,
    carried: [Arc<Carried>; 2],
    after: AfterExit,
}

impl Listener {
    fn listen(
        mut self,
        from: Option<File>,
        to_input: File,
        closing: (PipeReader, PipeWriter),
    ) -> io::Result<()> {
        let mut greeting = vec![0; self.greeting.len()];
        self.from_guest.read_exact(&mut greeting)?;
        if greeting != self.greeting {
            return Err(io::Error::other("no greeting"));
        }
        let input = send_input(from, to_input, closing)?;
        loop {
            let (kind, payload) = read_message(&mut self.from_guest)?;
            match kind {
                INPUT_IS_CLOSED => input.close(),
                EXIT => {
                    let exit = Exit::parse(&payload).ok_or_else(|| io::Error::other("no exit"))?;
                    return self.leave(&exit);
                }
                _ => return Err(io::Error::other("a message of no kind")),
            }
        }
    }

    /// The program has ended; when its last byte is where it should be, its status counts.
    fn leave(&self, exit: &Exit) -> io::Result<()> {
        self.over.set();
        for (carried, &bytes) in self.carried.iter().zip(&exit.sent_bytes) {
            carried.wait_for(bytes);
        }
        *self.status.lock() = Some(exit.status);
        match self.after {
            AfterExit::End => {
                self.control.stop();
                Ok(())
            }
            AfterExit::PowerOff => self.to_guest.lock().write_all(&message(GOODBYE, &[])),
        }
    }
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exit {
    status: u8,
    /// Bytes of standard output and standard error before.
    sent_bytes: [u64; 2],
}

impl Exit {
    fn parse(payload: &[u8]) -> Option<Exit> {
        let (status, rest) = payload.split_first_chunk::<4>()?;
        let (output, rest) = rest.split_first_chunk::<8>()?;
        let errors = rest.first_chunk::<8>()?;
        Some(Exit {
            status: (i32::from_le_bytes(*status) & 0xff) as u8,
            sent_bytes: [u64::from_le_bytes(*output), u64::from_le_bytes(*errors)],
        })
    }
}

fn read_message(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; HEAD_BYTES];
    from.read_exact(&mut head)?;
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if len > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("a message that is too long"));
    }
    let mut payload = vec![0; len];
    from.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend((payload.len() as u32).to_le_bytes());
    message.extend(payload);
    message
}

/// Where the guest's console goes: into the log, and its end is kept.
struct KernelLog {
    log: Arc<Lock<LogWriter>>,
    last: Arc<Lock<Vec<u8>>>,
    shown: Option<File>,
}

impl Write for KernelLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.lock().write_all(bytes)?;
        let mut last = self.last.lock();
        last.extend(bytes);
        let excess = last.len().saturating_sub(LOG_BYTES);
        if excess > 0 {
            last.drain(..excess);
            // What is left begins with a line.
            let cut = last.iter().position(|&byte| byte == b'\n');
            last.drain(..cut.map_or(0, |end| end + 1));
        }
        drop(last);
        if let Some(shown) = &mut self.shown {
            // A closed standard error is no reason to end the guest.
            let _ = shown.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_what_the_warden_says_and_nothing_else() {
        let check = |payload: &[u8], expected: Option<(u8, [u64; 2])>| {
            let expected = expected.map(|(status, sent_bytes)| Exit { status, sent_bytes });
            assert_eq!(Exit::parse(payload), expected, "{payload:?}");
        };
        let bytes = |status: i32, output: u64, errors: u64| {
            let mut bytes = status.to_le_bytes().to_vec();
            bytes.extend(output.to_le_bytes());
            bytes.extend(errors.to_le_bytes());
            bytes
        };
        check(&bytes(42, 7, 1 << 40), Some((42, [7, 1 << 40])));
        check(&bytes(256, 0, 0), Some((0, [0, 0])));
        check(&bytes(42, 0, 0)[..19], None);
        check(&[], None);
    }

    #[test]
    fn a_message_is_whole_or_none() {
        let check = |bytes: &[u8], expected: Option<(u8, &[u8])>| {
            let read = read_message(&mut &bytes[..]).ok();
            assert_eq!(
                read.as_ref()
                    .map(|(kind, payload)| (*kind, payload.as_slice())),
                expected,
                "{bytes:?}"
            );
        };
        check(&message(3, b"four"), Some((3, b"four")));
        check(&message(4, b""), Some((4, b"")));
        check(&message(3, b"four")[..8], None);
        check(&[3, 255, 255, 255, 255, 1], None);
    }
}
