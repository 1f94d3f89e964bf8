//! The terminal in raw mode, and back on every way out.
//!
//! The modes to go back to lie in one place that everybody can reach: the normal end, an error, the panic hook and
//! the signal thread all call [`restore`], in any order and as often as they like.

use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::MutexGuard;

use host::lock::Lock;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

static ORIGINAL: Lock<Option<Termios>> = Lock::new(None);

fn original() -> MutexGuard<'static, Option<Termios>> {
    ORIGINAL.lock()
}

/// Whether a person sits at both ends: keys come in and the console is shown.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Whether the terminal is somebody else's: we run in the background of a shell, or under a program that made a
/// process group of its own for us. Whoever sets the modes of a terminal then is stopped by the kernel, for ever
/// if nobody brings it to the foreground (termios(3), "Background process groups").
fn is_in_background() -> bool {
    rustix::termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group != rustix::process::getpgrp())
}

/// Lets every key through, until [`restore`].
///
/// # Errors
/// Also if the terminal is not ours to set.
pub fn make_raw() -> io::Result<()> {
    if is_in_background() {
        return Err(io::Error::other(
            "this process runs in the background of it (under timeout(1), say `timeout --foreground`, or use the \
             option --timeout; otherwise start it with -d)",
        ));
    }
    let mut original = original();
    let mut modes = tcgetattr(io::stdin())?;
    let before = modes.clone();
    modes.make_raw();
    tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
    original.get_or_insert(before);
    Ok(())
}

/// Whether the terminal is in raw mode through us.
pub fn is_raw() -> bool {
    original().is_some()
}

/// Puts the terminal back as it was. Nothing if it is already.
pub fn restore() {
    if let Some(modes) = original().take() {
        if is_in_background() {
            return;
        }
        // If the terminal has gone away there is nothing left to put back, and nobody to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        // The guest may have left the cursor inside a line.
        let _ = io::stderr().write_all(b"\n");
    }
}

/// Has every panic restore the terminal before it prints itself.
pub fn restore_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}

/// Rows and columns, if there is a terminal that knows them.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// How wide standard error is, if it is a terminal.
pub fn width_of_errors() -> Option<u16> {
    let stderr = io::stderr();
    stderr.is_terminal().then(|| {
        let size = tcgetwinsize(&stderr).ok();
        size.map(|size| size.ws_col)
            .filter(|width| *width > 0)
            .unwrap_or(80)
    })
}

/// Where our own log goes: standard error, with line ends that a raw terminal understands.
pub fn log_writer() -> impl Write {
    LogWriter
}

/// Whether our own log may be coloured: for a person at a terminal who did not ask for none (no-color.org).
pub fn log_has_colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr();
        if is_raw() {
            for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
                stderr.write_all(piece)?;
                if piece.ends_with(b"\n") {
                    stderr.write_all(b"\r")?;
                }
            }
        } else {
            stderr.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
