//! What a running VM still needs of the host, asked of whatever may do it.
//!
//! A VM's process that is locked in opens and connects nothing. The little that a guest can cause later and that needs a
//! path is a [`Request`], a closed list, each with an answer of one descriptor; a [`Broker`] grants it. In a process that
//! is not locked in that is [`InProcess`]; in one that is, it is the process that started it, asked over a socket.
//!
//! A broker is asked by the thread of a device while a guest waits, so it answers at once, and it believes nothing of what
//! it is asked: numbers are a guest's.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use api::CpuWeight;
use devices::virtio::vsock::{Dial, SocketsBeside};

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A stream that is connected to whatever listens for the guest at this port of the host, and does not block.
    ConnectVsock {
        /// The port.
        port: u32,
    },
}

/// Grants what a running VM asks for.
pub trait Broker: Debug + Send + Sync {
    /// The descriptor that was asked for.
    ///
    /// # Errors
    /// What the host says; the guest is told no.
    fn ask(&self, request: Request) -> io::Result<OwnedFd>;

    /// Has the VM's processes get CPU time by this weight, against others.
    ///
    /// # Errors
    /// What the host says; the weight is what it was.
    fn weigh(&self, weight: CpuWeight) -> io::Result<()>;
}

/// Does it itself.
#[derive(Clone, Debug, Default)]
pub struct InProcess {
    /// The path of the VM's socket device, if it has one.
    pub vsock: Option<PathBuf>,
}

impl Broker for InProcess {
    fn ask(&self, request: Request) -> io::Result<OwnedFd> {
        let Request::ConnectVsock { port } = request;
        let path = self.vsock.clone().ok_or(io::ErrorKind::NotFound)?;
        SocketsBeside(path).dial(port).map(OwnedFd::from)
    }

    /// What else this process does is not the VM's.
    fn weigh(&self, _weight: CpuWeight) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A broker, as the socket device sees it.
#[derive(Debug)]
pub(crate) struct Dialer(pub(crate) Arc<dyn Broker>);

impl Dial for Dialer {
    fn dial(&self, port: u32) -> io::Result<UnixStream> {
        self.0
            .ask(Request::ConnectVsock { port })
            .map(UnixStream::from)
    }
}
