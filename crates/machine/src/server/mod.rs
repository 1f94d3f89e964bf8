//! The control socket of a VM: a thread that accepts, and one for each client.
//!
//! Nothing here runs on a vCPU's thread or holds one of its locks for longer than it takes to copy a number, so a
//! client that is slow, silent or hostile costs the guest nothing: lines have a greatest length, requests a time in
//! which they must come, clients a greatest number of which idle ones go first, and what a client does not read is dropped for it.
//!
//! Who may connect is the folder's matter: only the user whose VM it is can enter it, and root, whose requests the VM
//! writes into its log.

mod clients;
mod connection;
mod console;
#[cfg(test)]
mod limits_tests;
mod lines;
mod observe;
mod paging;
mod probes;

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use api::{Metric, Outcome, VmEnd, VmInfo, VmState, VmStatus};
use host::lock::Lock;
use host::rest::rest;

use crate::attach::handles::Devices;
use crate::build::Machine;
use crate::console::ConsoleInput;
use crate::console::recent::Recent;
use crate::control::door::Came;
use crate::control::{MachineControl, Phase};
use crate::server::clients::Clients;

/// How long consoles may take for the last bytes when the VM has ended.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The control socket's server.
pub struct ControlServer {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

/// Listeners, and the threads that wait at them.
type Listening = Arc<Lock<Vec<(UnixListener, JoinHandle<()>)>>>;

/// Where listeners of a control socket come in: another one when the folder of the last one is gone. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    shared: Arc<Shared>,
    listening: Listening,
}

impl fmt::Debug for ControlServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlServer").finish_non_exhaustive()
    }
}

/// Hears who asks for what.
pub type Audit = dyn Fn(BorrowedFd<'_>, &'static str) + Send + Sync;

/// What all clients' threads share.
struct Shared {
    info: VmInfo,
    audit: Box<Audit>,
    start: Instant,
    control: MachineControl,
    devices: Devices,
    input: ConsoleInput,
    recent: Recent,
    clients: Arc<Clients>,
    consoles: AtomicU64,
    waiters: Lock<Waiters>,
}

/// Clients that want to hear of the end.
#[derive(Default)]
struct Waiters {
    end: Option<VmEnd>,
    next_id: u64,
    streams: Vec<(u64, UnixStream)>,
}

impl Shared {
    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock()
    }

    /// What describes it, as of now.
    fn info(&self) -> VmInfo {
        VmInfo {
            engine: self.control.engine().to_string(),
            ..self.info.clone()
        }
    }

    /// Every number that is known now.
    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.control.metrics();
        metrics.merge(self.devices.metrics(self.recent.printed_bytes()));
        metrics.into_vec()
    }

    fn status(&self) -> VmStatus {
        let state = match self.control.phase() {
            Phase::Built => VmState::Starting,
            Phase::Paused => VmState::Paused,
            Phase::Held => VmState::Waiting,
            Phase::Running if self.control.stalled().is_some() => VmState::Waiting,
            Phase::Running if self.control.is_stopping() => VmState::Stopping,
            Phase::Running => VmState::Running,
            Phase::Ended => VmState::Ended,
        };
        VmStatus {
            info: self.info(),
            state,
            uptime_seconds: self.start.elapsed().as_secs_f64(),
            cpu_seconds: host::cpu::process_cpu_time().as_secs_f64(),
            memory_resident_bytes: self.control.resident_bytes(),
            reboots: self.control.reboots(),
            consoles: self.consoles.load(Ordering::Relaxed),
            devices: self.devices.statuses(self.recent.printed_bytes()),
            limits: Some(self.control.limits_said()),
        }
    }
}

/// Counts one more for as long as it lives.
struct Counted(Arc<Shared>, fn(&Shared) -> &AtomicU64);

impl Counted {
    fn new(shared: &Arc<Shared>, which: fn(&Shared) -> &AtomicU64) -> Counted {
        which(shared).fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(shared), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

impl ControlServer {
    /// Serves `listener` for `machine`, which is described by `info`. What a client asks for is told to `audit`, with the
    /// client's socket.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub fn start(
        listener: UnixListener,
        machine: &Machine,
        info: VmInfo,
        audit: Box<Audit>,
    ) -> io::Result<ControlServer> {
        let (start, input, recent) = machine.ends();
        let shared = Arc::new(Shared {
            info,
            audit,
            start,
            control: machine.control(),
            devices: machine.devices(),
            input,
            recent,
            clients: Arc::default(),
            consoles: AtomicU64::new(0),
            waiters: Lock::default(),
        });
        let acceptor = Acceptor {
            shared: Arc::clone(&shared),
            listening: Arc::default(),
        };
        acceptor.serve(listener)?;
        Ok(ControlServer { shared, acceptor })
    }

    /// For whoever brings another listener.
    pub fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }

    /// The VM has ended like this: tells who waits for that, lets consoles have their last bytes, and serves nobody
    /// any more.
    pub fn finish(mut self, end: &VmEnd) {
        self.stop_accepting();
        let streams = {
            let mut waiters = self.shared.waiters();
            waiters.end = Some(end.clone());
            std::mem::take(&mut waiters.streams)
        };
        for (_, stream) in streams {
            lines::reply(&stream, Outcome::Ended { end: end.clone() });
            let _ = stream.shutdown(Shutdown::Both);
        }
        let deadline = Instant::now() + LAST_BYTES;
        while self.shared.consoles.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            rest(Duration::from_millis(5));
        }
    }

    fn stop_accepting(&mut self) {
        let listening = std::mem::take(&mut *self.acceptor.listening.lock());
        for (listener, thread) in listening {
            // A listening socket that is shut down fails whoever waits in accept(2).
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
            let _ = thread.join();
        }
    }
}

impl Acceptor {
    /// Serves this listener too.
    ///
    /// # Errors
    /// If the host gives no thread or descriptor.
    pub fn serve(&self, listener: UnixListener) -> io::Result<()> {
        // Whoever else has this socket does without blocking too.
        listener.set_nonblocking(true)?;
        let accepted = listener.try_clone()?;
        let shared = Arc::clone(&self.shared);
        let accept = move || accept(&accepted, &shared);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(accept)?;
        self.listening.lock().push((listener, thread));
        Ok(())
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    loop {
        let stream = match shared.control.door().let_in(listener) {
            Came::Client(stream) => stream,
            Came::Nobody => continue,
            Came::Over => return,
            Came::Failed => {
                rest(Duration::from_millis(100));
                continue;
            }
        };
        let place = match Clients::enter(&shared.clients, &stream) {
            Ok(place) => place,
            Err(refused) => {
                lines::reply(&stream, refused);
                continue;
            }
        };
        let shared = Arc::clone(shared);
        let client = thread::Builder::new().name("client".to_owned());
        // Without a thread the connection closes, which is an answer too.
        let _ = client.spawn(move || connection::serve(&shared, stream, &place));
    }
}
