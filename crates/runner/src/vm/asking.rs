//! What this process needs of the host while its guest runs, asked of the launcher.
//!
//! Who asks may be the thread of a device while a guest waits. So no question waits for room in the socket, an answer is
//! waited for only so long, and one that comes later is closed. The launcher answers without asking anything of this
//! process, so neither waits for the other.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use api::CpuWeight;
use host::lock::Lock;
use machine::{Broker, Request};

use crate::wire::{Channel, FromVm, Wish};

/// How long the launcher may take for the next file of the log; then what the guest prints is not kept for a while.
const LOG_TIME: Duration = Duration::from_secs(2);

/// How long it may take for a connection; then the guest is told no. Well below what a pause waits for.
const CONNECTION_TIME: Duration = Duration::from_secs(1);

/// How long it may take to give the VM another weight; a client waits meanwhile.
const WEIGHT_TIME: Duration = Duration::from_secs(5);

/// Gets the next file of a log.
pub(super) type TurnLog = Box<dyn FnMut() -> io::Result<File> + Send>;

/// What was asked and not answered yet, by number.
type Waiting = HashMap<u64, Sender<io::Result<Option<OwnedFd>>>>;

/// Asks, and hears answers.
#[derive(Debug)]
pub(super) struct Asking {
    channel: Arc<Channel>,
    next: AtomicU64,
    waiting: Lock<Waiting>,
}

impl Asking {
    /// Over the channel to the launcher.
    pub(super) fn new(channel: &Arc<Channel>) -> Arc<Asking> {
        Arc::new(Asking {
            channel: Arc::clone(channel),
            next: AtomicU64::new(0),
            waiting: Lock::default(),
        })
    }

    /// Asks for `wish`, and waits at most so long.
    fn ask(&self, wish: Wish, patience: Duration) -> io::Result<OwnedFd> {
        let descriptor = self.ask_for(wish, patience)?;
        descriptor.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The same for what may have no descriptor.
    fn ask_for(&self, wish: Wish, patience: Duration) -> io::Result<Option<OwnedFd>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answers) = mpsc::channel();
        self.waiting.lock().insert(number, answer);
        let said = self.channel.send_now(&FromVm::Ask { number, wish }, &[]);
        let answer = said.and_then(|()| {
            answers
                .recv_timeout(patience)
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        });
        self.waiting.lock().remove(&number);
        answer
    }

    /// The launcher has answered.
    pub(super) fn answer(&self, number: u64, refusal: Option<i32>, descriptor: Option<OwnedFd>) {
        let Some(asker) = self.waiting.lock().remove(&number) else {
            return;
        };
        let refusal = refusal.map(io::Error::from_raw_os_error);
        let answer = refusal.map_or(Ok(descriptor), Err);
        // Who has given up is not told.
        let _ = asker.send(answer);
    }

    /// No answer comes any more.
    pub(super) fn give_up(&self) {
        self.waiting.lock().clear();
    }
}

/// Asks for the next file of the log whenever one is full.
pub(super) fn turn_log(asking: &Arc<Asking>) -> TurnLog {
    let asking = Arc::clone(asking);
    Box::new(move || asking.ask(Wish::NextLog, LOG_TIME).map(File::from))
}

impl Broker for Asking {
    fn ask(&self, request: Request) -> io::Result<OwnedFd> {
        let Request::ConnectVsock { port } = request;
        Asking::ask(self, Wish::VsockPort(port), CONNECTION_TIME)
    }

    fn weigh(&self, weight: CpuWeight) -> io::Result<()> {
        self.ask_for(Wish::CpuWeight(weight), WEIGHT_TIME).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    /// What becomes of a question to a launcher that does this with it.
    fn asked(launcher: impl FnOnce(&Asking, u64) + Send) -> Result<(), io::ErrorKind> {
        let (ours, theirs) = Channel::pair().unwrap();
        let asking = Asking::new(&Arc::new(ours));
        thread::scope(|scope| {
            scope.spawn(|| {
                let (said, _) = theirs.receive::<FromVm>().unwrap().unwrap();
                let FromVm::Ask { number, .. } = said else {
                    panic!("{said:?}");
                };
                launcher(&asking, number);
            });
            let answer = asking.ask(Wish::VsockPort(7), Duration::from_millis(300));
            assert!(asking.waiting.lock().is_empty());
            answer.map(drop).map_err(|error| error.kind())
        })
    }

    #[test]
    fn who_asks_gets_a_descriptor_a_refusal_or_gives_up() {
        use io::ErrorKind::{ConnectionRefused, InvalidData, TimedOut};
        let refused = rustix::io::Errno::CONNREFUSED.raw_os_error();
        assert_eq!(asked(|it, n| it.answer(n, None, Some(null()))), Ok(()));
        let refusal = asked(|it, n| it.answer(n, Some(refused), None));
        assert_eq!(refusal, Err(ConnectionRefused));
        assert_eq!(asked(|it, n| it.answer(n, None, None)), Err(InvalidData));
        // An answer to another question is none.
        assert_eq!(
            asked(|it, n| it.answer(n + 1, None, Some(null()))),
            Err(TimedOut)
        );
        assert_eq!(asked(|_, _| {}), Err(TimedOut));
        assert_eq!(asked(|it, _| it.give_up()), Err(TimedOut));
    }

    #[test]
    fn a_launcher_that_reads_nothing_holds_up_nobody() {
        let (ours, _theirs) = Channel::pair().unwrap();
        let ours = Arc::new(ours);
        let asking = Asking::new(&ours);
        while ours.send_now(&"x".repeat(1000), &[]).is_ok() {}
        let answer = asking.ask(Wish::NextLog, Duration::from_secs(60));
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
