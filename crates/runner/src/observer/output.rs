//! Where an observer's words go: see the module's head.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use rustix::fs::{OFlags, fcntl_getfl};

/// What copies.
#[derive(Debug, Default)]
pub(super) struct Output(Vec<JoinHandle<()>>);

impl Output {
    /// What is to be copied from now on, and what the observer has for standard output and standard error.
    pub(super) fn prepare() -> io::Result<(Output, [OwnedFd; 2])> {
        let mut output = Output::default();
        let stdout = io::stdout();
        let stderr = io::stderr();
        if stdout.is_terminal() && stderr.is_terminal() {
            // One pipe for both keeps the order of what is said.
            let writer = output.copied(stdout.as_fd().try_clone_to_owned()?)?;
            let other = writer.try_clone()?;
            return Ok((output, [writer.into(), other.into()]));
        }
        let out = output.given(&stdout)?;
        let err = output.given(&stderr)?;
        Ok((output, [out, err]))
    }

    /// The same for one that prints nothing.
    pub(super) fn mute() -> io::Result<(Output, [OwnedFd; 2])> {
        let mut output = Output::default();
        let nothing = host::inherit::nothing()?;
        let err = output.given(&io::stderr())?;
        Ok((output, [nothing, err]))
    }

    /// The stream itself if it can only be written, else a pipe whose contents are copied there.
    fn given(&mut self, stream: &(impl AsFd + IsTerminal)) -> io::Result<OwnedFd> {
        let stream_itself = stream.as_fd().try_clone_to_owned()?;
        let mode = fcntl_getfl(&stream_itself)? & OFlags::RWMODE;
        if mode == OFlags::WRONLY && !stream.is_terminal() {
            return Ok(stream_itself);
        }
        Ok(self.copied(stream_itself)?.into())
    }

    fn copied(&mut self, to: OwnedFd) -> io::Result<PipeWriter> {
        let (reader, writer) = io::pipe()?;
        let copy = thread::Builder::new().name("output".to_owned());
        self.0.push(copy.spawn(move || copy_all(reader, to))?);
        Ok(writer)
    }

    /// Waits until everything has been copied.
    pub(super) fn finish(&mut self) {
        for thread in self.0.drain(..) {
            let _ = thread.join();
        }
    }
}

/// When this ends the pipe is closed, and whoever writes into it hears of that.
fn copy_all(mut from: PipeReader, to: OwnedFd) {
    let _ = io::copy(&mut from, &mut File::from(to));
}
