//! A VM that is attended to from here, until it has ended: its signals, the pipes that are copied, and its last words.

use std::io::{self, PipeReader, Read, Write};
use std::thread::{self, JoinHandle};

use machine::StopCause;
use runner::{Handle, OnTerm, Order, Outcome, Ran, Running, Streams};

use crate::failure::Failure;
use crate::signals::{self, Received};
use crate::terminal;

/// A VM, and what goes on here for it.
pub struct Attended {
    running: Running,
    received: Received,
    term: OnTerm,
    output: Option<Copy>,
}

/// A thread that copies what comes; how it failed.
type Copy = JoinHandle<io::Result<()>>;

impl Attended {
    /// Starts a VM and hands on signals to it from now on.
    pub fn start(order: Order, streams: Streams, term: OnTerm) -> Result<Attended, Failure> {
        let running = runner::start(order, &streams)?;
        // The other ends of pipes are the VM's alone now, so that their closing is seen here.
        drop(streams);
        let received = signals::listen(running.handle(), term).map_err(Failure::Signals)?;
        Ok(Attended {
            running,
            received,
            term,
            output: None,
        })
    }

    /// To act on it.
    pub fn handle(&self) -> Handle {
        self.running.handle()
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.running.name()
    }

    /// Waits until it can be reached.
    pub fn wait_until_serving(&mut self) -> Result<(), Failure> {
        Ok(self.running.wait_until_serving()?)
    }

    /// Copies what comes from `pipe` to `to`, which the VM hears of when it fails.
    pub fn copy(
        &mut self,
        mut pipe: PipeReader,
        mut to: impl Write + Send + 'static,
    ) -> Result<(), Failure> {
        let copy = move || {
            let mut bytes = vec![0; 64 << 10];
            loop {
                match pipe.read(&mut bytes) {
                    Ok(0) => return Ok(()),
                    Ok(count) => to.write_all(&bytes[..count]).and_then(|()| to.flush())?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let thread = thread::Builder::new().name("console-output".to_owned());
        self.output = Some(thread.spawn(copy).map_err(Failure::Input)?);
        Ok(())
    }

    /// Waits for the end, with the terminal as it was. Dies of the signal that ended the VM, if one did.
    pub fn finish(self) -> Result<Box<Ran>, Failure> {
        let ended = self.running.wait();
        let copied = self.output.map(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        terminal::restore();
        let ended = ended?;
        let ran = match ended.outcome {
            Outcome::Failed(trouble) => return Err(trouble.into()),
            Outcome::Ran(ran) => ran,
        };
        match ran.stopped {
            Some(StopCause::Signal(signal)) => signals::die_of(signal),
            Some(StopCause::GraceOver) => self.received.die_of_it(),
            _ if self.term == OnTerm::End => self.received.die_of_it(),
            _ => {}
        }
        signals::unattended();
        copied.transpose().map_err(Failure::Output)?;
        Ok(ran)
    }
}

/// Says how it ended; the exit status that means the same.
pub fn say_ending(ran: &Ran) -> u8 {
    eprint!("{}", ran.words);
    ran.status
}
