//! The door that clients of the control socket come in by. It is shut when the VM is about to be another process's: who knocks then
//! waits at the socket, which both processes have, and is served by whichever of the two has the VM. A process that was killed, and is
//! not gone yet, would let a client in and take it along.

use std::os::unix::net::{UnixListener, UnixStream};

use host::lock::{Condition, Lock};
use rustix::event::{PollFd, PollFlags, poll};

/// See the module.
#[derive(Default)]
pub(crate) struct Door {
    is_shut: Lock<bool>,
    opened: Condition,
}

/// What came of waiting for a client.
pub(crate) enum Came {
    /// A client.
    Client(UnixStream),
    /// Nobody: somebody else was faster, or it went away.
    Nobody,
    /// Nobody ever again: the socket was shut down.
    Over,
    /// Something failed, of which there may be an end: no descriptor left, say.
    Failed,
}

impl Door {
    /// From when this returns nobody is let in.
    pub(crate) fn shut(&self) {
        *self.is_shut.lock() = true;
    }

    /// From now on everybody is.
    pub(crate) fn open(&self) {
        *self.is_shut.lock() = false;
        self.opened.notify_all();
    }

    /// Waits for somebody at `listener`, which does not block, and lets it in.
    pub(crate) fn let_in(&self, listener: &UnixListener) -> Came {
        let mut waits = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut waits, None) {
            // A listening socket that is shut down hangs up.
            Ok(_) if waits[0].revents().contains(PollFlags::HUP) => return Came::Over,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Came::Failed,
        }
        // Held while somebody comes in, so that a door is not shut in its face.
        let is_shut = self.is_shut.lock();
        let open = self.opened.wait_while(is_shut, |is_shut| *is_shut);
        let came = listener.accept();
        drop(open);
        match came {
            Ok((stream, _)) => Came::Client(stream),
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted => Came::Nobody,
                std::io::ErrorKind::InvalidInput => Came::Over,
                _ => Came::Failed,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_knocks_at_a_shut_door_is_served_by_who_opens_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Arc::new(UnixListener::bind(&path).unwrap());
        listener.set_nonblocking(true).unwrap();
        let (sender, came) = mpsc::channel();
        // Two processes with one socket.
        let doors: Vec<Arc<Door>> = (0..2).map(|_| Arc::default()).collect();
        doors.iter().for_each(|door| door.shut());
        std::thread::scope(|scope| {
            for (number, door) in doors.iter().enumerate() {
                let listener = Arc::clone(&listener);
                let sender = sender.clone();
                scope.spawn(move || {
                    loop {
                        match door.let_in(&listener) {
                            Came::Client(stream) => sender.send((number, stream)).unwrap(),
                            Came::Nobody => {}
                            Came::Over => return,
                            Came::Failed => panic!("it failed"),
                        }
                    }
                });
            }
            let _client = UnixStream::connect(&path).unwrap();
            let patience = Duration::from_millis(100);
            assert!(came.recv_timeout(patience).is_err());
            doors[1].open();
            assert_eq!(came.recv().unwrap().0, 1);
            doors[0].open();
            rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both).unwrap();
        });
    }
}
