//! From standard input to the guest's console.

use std::io::{self, PipeWriter, Write};
use std::thread;

use machine::StopCause;
use runner::{Handle, each_chunk};

/// Ctrl-A starts an escape, as in QEMU and screen.
const ESCAPE: u8 = 0x01;

/// What the keys so far mean.
pub struct Keys {
    escaped: bool,
    /// Keys that leave, after Ctrl-A.
    leaving: &'static [u8],
}

impl Keys {
    /// Keys at the terminal that the guest was started from: leaving ends the guest.
    pub fn of_owner() -> Keys {
        Keys {
            escaped: false,
            leaving: b"xX",
        }
    }

    /// Keys at an attached console: leaving detaches, as in screen.
    pub fn of_console() -> Keys {
        Keys {
            escaped: false,
            leaving: b"xXdD",
        }
    }

    /// Bytes for the guest, and whether the person wants to leave.
    pub fn read(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut typed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (self.escaped, byte) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    continue;
                }
                (true, key) if self.leaving.contains(&key) => return (typed, true),
                (true, ESCAPE) => typed.push(ESCAPE),
                (true, other) => typed.extend([ESCAPE, other]),
                (false, other) => typed.push(other),
            }
            self.escaped = false;
        }
        (typed, false)
    }
}

/// Sends keys to the guest; the escape stops it.
pub fn send_keys(mut to: PipeWriter, handle: Handle) -> io::Result<()> {
    on_a_thread(move || {
        let mut keys = Keys::of_owner();
        each_chunk(io::stdin().lock(), |bytes| {
            let (typed, leave) = keys.read(bytes);
            if leave {
                handle.stop(StopCause::Left);
            }
            !leave && to.write_all(&typed).is_ok()
        });
    })
}

/// Sends what is typed as the terminal gives it: line by line, and its end.
pub fn send_lines(mut to: PipeWriter) -> io::Result<()> {
    on_a_thread(move || each_chunk(io::stdin().lock(), |bytes| to.write_all(bytes).is_ok()))
}

/// Closes standard input: nothing of it is read here.
pub fn close() -> io::Result<()> {
    let nothing = host::inherit::nothing()?;
    Ok(rustix::stdio::dup2_stdin(nothing)?)
}

fn on_a_thread(act: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name("console-input".to_owned());
    thread.spawn(act).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_leaves_and_everything_else_reaches_the_guest() {
        let check = |chunks: &[&[u8]], expected: &[u8], leaves: bool| {
            let mut keys = Keys::of_owner();
            let mut typed = Vec::new();
            let mut left = false;
            for chunk in chunks {
                let (bytes, leave) = keys.read(chunk);
                typed.extend(bytes);
                left |= leave;
            }
            assert_eq!((typed.as_slice(), left), (expected, leaves), "{chunks:?}");
        };
        check(&[b"ls\r"], b"ls\r", false);
        check(&[b"\x03\x04\x1a"], b"\x03\x04\x1a", false);
        check(&[b"\x01x"], b"", true);
        check(&[b"a\x01", b"xb"], b"a", true);
        check(&[b"\x01\x01x"], b"\x01x", false);
        check(&[b"\x01k"], b"\x01k", false);
    }
}
