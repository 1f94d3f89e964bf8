//! How a guest's connection to a port of the host is made: by whatever may do that, which need not be this process.

use std::fmt::Debug;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Makes connections to ports of the host.
pub trait Dial: Debug + Send + Sync {
    /// A connected stream that does not block, to the listener of `port`. Does not wait for a listener that is busy.
    ///
    /// # Errors
    /// What the host says; the guest is told no.
    fn dial(&self, port: u32) -> io::Result<UnixStream>;
}

/// Connects to the sockets beside the device's own: for port P the path with `_P` behind it, as Firecracker has it.
#[derive(Clone, Debug)]
pub struct SocketsBeside(pub PathBuf);

impl Dial for SocketsBeside {
    fn dial(&self, port: u32) -> io::Result<UnixStream> {
        let mut name = self.0.as_os_str().to_owned();
        name.push(format!("_{port}"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(Path::new(&name))?)?;
        Ok(UnixStream::from(socket))
    }
}
