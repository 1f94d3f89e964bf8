//! From a program's ports to the streams that this process was given and back, byte for byte, at the pace of the slower
//! side.
//!
//! These streams belong to others too: a shell, a pager, a log collector. They are used as they were given, may be
//! slow for as long as they like, may be non-blocking, and may go away; then the program hears of it as it would on a pipe.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::Duration;

use fleet::LogWriter;
use host::lock::{Condition, Lock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Bytes carried at once: what a pipe holds.
const PIECE_BYTES: usize = 64 * 1024;

/// One of the program's outputs.
pub(super) struct Outlet {
    from: File,
    to: Option<File>,
    log: Arc<Lock<LogWriter>>,
}

/// How far an output has come.
#[derive(Default)]
pub(super) struct Carried {
    state: Lock<State>,
    changed: Condition,
}

#[derive(Default)]
struct State {
    /// Bytes that have left us, or that nobody wants any more.
    bytes: u64,
    has_ended: bool,
    failure: Option<io::Error>,
}

impl Carried {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until so many bytes have gone, or no more will come.
    pub(super) fn wait_for(&self, bytes: u64) {
        let waits = |state: &mut State| state.bytes < bytes && !state.has_ended;
        drop(self.changed.wait_while(self.lock(), waits));
    }

    /// Waits until all have gone that will ever come, as long as `goes_on`, which is asked every `pause`.
    pub(super) fn wait_for_end(&self, pause: Duration, goes_on: impl Fn() -> bool) {
        let mut state = self.lock();
        while !state.has_ended && goes_on() {
            state = self.changed.wait_timeout(state, pause).0;
        }
    }

    /// Why our side did not take the bytes, if it is not only that its reader has gone.
    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.lock().failure.take()
    }
}

impl Outlet {
    /// What comes out of `from` goes to `to`, if anybody is there, and into the log.
    pub(super) fn new(from: File, to: Option<File>, log: Arc<Lock<LogWriter>>) -> Outlet {
        Outlet { from, to, log }
    }

    /// Carries on a thread of this name. `tell` is called once when our side takes no more.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub(super) fn start(
        self,
        name: &str,
        tell: impl FnOnce() + Send + 'static,
    ) -> io::Result<Arc<Carried>> {
        let carried = Arc::new(Carried::default());
        let progress = Arc::clone(&carried);
        let carry = move || {
            let to = self.to.as_ref().map(AsFd::as_fd);
            let failure = self.carry(to, &progress, tell);
            progress.change(|state| {
                state.failure = failure;
                state.has_ended = true;
            });
        };
        thread::Builder::new().name(name.to_owned()).spawn(carry)?;
        Ok(carried)
    }

    /// Carries until no more comes; how our side failed.
    fn carry(
        &self,
        mut to: Option<BorrowedFd<'_>>,
        progress: &Carried,
        tell: impl FnOnce(),
    ) -> Option<io::Error> {
        let mut tell = Some(tell);
        let mut failure = None;
        let mut close = |to: &mut Option<BorrowedFd<'_>>, error: Option<Errno>| {
            *to = None;
            failure = error
                .filter(|&error| error != Errno::PIPE)
                .map(io::Error::from);
            if let Some(tell) = tell.take() {
                tell();
            }
        };
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            if let Some(target) = to
                && !comes_before_hang_up(self.from.as_fd(), target)
            {
                close(&mut to, None);
            }
            let count = match (&self.from).read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let piece = &buffer[..count];
            // A log never fails.
            let _ = self.log.lock().write_all(piece);
            if let Some(target) = to
                && let Err(error) = write_all(target, piece)
            {
                close(&mut to, Some(error));
            }
            progress.change(|state| state.bytes += count as u64);
        }
        failure
    }
}

/// Waits until there is something to read; false if the other side's reader goes away first. What is there already is
/// carried before that is asked: writing tells it as well.
fn comes_before_hang_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    loop {
        let mut files = [
            PollFd::from_borrowed_fd(from, PollFlags::IN),
            PollFd::from_borrowed_fd(to, PollFlags::empty()),
        ];
        match poll(&mut files, None) {
            Err(Errno::INTR) => {}
            // A file that cannot be asked tells when it is written to.
            Err(_) => return true,
            Ok(_) if !files[0].revents().is_empty() => return true,
            Ok(_) => {
                return !files[1]
                    .revents()
                    .intersects(PollFlags::ERR | PollFlags::HUP);
            }
        }
    }
}

/// Writes everything, however long that takes, also to a file that somebody has made non-blocking.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => wait_for(to, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for(file: BorrowedFd<'_>, what: PollFlags) -> Result<(), Errno> {
    match poll(&mut [PollFd::from_borrowed_fd(file, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Standard input on its way to the program. It is closed when this is dropped.
#[derive(Debug)]
pub(super) struct Input(Lock<Option<PipeWriter>>);

impl Input {
    /// The program reads no more: nor does this process, and a writer on the other side hears of it.
    pub(super) fn close(&self) {
        // The thread that reads sees the other end of this pipe hang up.
        drop(self.0.lock().take());
    }
}

/// Sends `from` to the program until its end, on a thread of its own; the end at once if there is none. The pipe is what
/// [`Input::close`] closes: made before, since a process that is locked in makes none.
///
/// # Errors
/// If the host gives no thread.
pub(super) fn send_input(
    from: Option<File>,
    to: File,
    (closed, closing): (PipeReader, PipeWriter),
) -> io::Result<Input> {
    let send = move || {
        // The guest may be gone; then nobody misses it.
        let _ = copy_input(from, to, &closed);
    };
    let thread = thread::Builder::new().name("program-input".to_owned());
    thread.spawn(send)?;
    Ok(Input(Lock::new(Some(closing))))
}

/// Sends pieces, each behind its length; one of length 0 is the end.
fn copy_input(from: Option<File>, mut to: File, closed: &PipeReader) -> io::Result<()> {
    let Some(from) = from else {
        return to.write_all(&[0; 4]);
    };
    let mut buffer = vec![0; 4 + PIECE_BYTES];
    while comes_before_hang_up(from.as_fd(), closed.as_fd()) {
        let count = match rustix::io::read(&from, &mut buffer[4..]) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            // What cannot be read any more has ended.
            Err(_) => 0,
        };
        buffer[..4].copy_from_slice(&(count as u32).to_le_bytes());
        to.write_all(&buffer[..4 + count])?;
        if count == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (
            File::from(OwnedFd::from(reader)),
            File::from(OwnedFd::from(writer)),
        )
    }

    #[test]
    fn everything_arrives_at_a_slow_reader_of_a_non_blocking_file() {
        let (mut reader, writer) = pipe();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let sent: Vec<u8> = (0..300_000).map(|n| (n % 251) as u8).collect();
        let got = thread::scope(|scope| {
            let sent = &sent;
            scope.spawn(move || write_all(writer.as_fd(), sent).unwrap());
            thread::sleep(Duration::from_millis(100));
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        assert!(got == sent);
    }

    #[test]
    fn a_reader_that_goes_away_is_noticed_while_nothing_comes() {
        let (from, mut to_from) = pipe();
        let (reader, to) = pipe();
        assert!(thread::scope(|scope| {
            let waits = scope.spawn(|| comes_before_hang_up(from.as_fd(), to.as_fd()));
            to_from.write_all(b"x").unwrap();
            waits.join().unwrap()
        }));
        drop(reader);
        assert!(
            comes_before_hang_up(from.as_fd(), to.as_fd()),
            "first what is there"
        );
        let (from, _to_from) = pipe();
        assert!(!comes_before_hang_up(from.as_fd(), to.as_fd()));
    }

    #[test]
    fn input_is_pieces_and_an_end() {
        let check = |input: &[u8], expected: &[u8]| {
            let (from, mut to_from) = pipe();
            to_from.write_all(input).unwrap();
            drop(to_from);
            let (mut reader, to) = pipe();
            let (closed, _closing) = io::pipe().unwrap();
            copy_input(Some(from), to, &closed).unwrap();
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            assert_eq!(got, expected);
        };
        check(b"", b"\0\0\0\0");
        check(b"abc", b"\x03\0\0\0abc\0\0\0\0");
    }

    #[test]
    fn input_that_is_closed_is_read_no_more() {
        let (from, mut to_from) = pipe();
        let (mut reader, to) = pipe();
        let input = send_input(Some(from), to, io::pipe().unwrap()).unwrap();
        to_from.write_all(b"abc").unwrap();
        let mut got = [0; 7];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"\x03\0\0\0abc");
        input.close();
        // The other side hears of it as on any pipe whose reader has gone.
        while to_from.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
