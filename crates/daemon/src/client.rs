//! Talking to a VM over its control socket.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use api::{Command, LINE_BYTES_MAX, Outcome, RefusalCode, Reply, Request, VmStatus};
use thiserror::Error;

use crate::record::Record;

/// How long a VM may take for an answer that needs nothing of its guest.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than a pause is tried for.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// Why a VM gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("cannot reach the VM's process")]
    Connection(#[source] io::Error),
    /// It answered something else.
    #[error("the VM's process answered what this version does not understand")]
    Strange,
    /// It refused.
    #[error("{message}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
}

/// A connection to one VM.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Does `act` with a path to `record`'s socket that fits into an address, however long the folder's is.
fn with_short_path<T>(record: &Record, act: impl FnOnce(String) -> io::Result<T>) -> io::Result<T> {
    let folder = File::open(record.folder())?;
    act(format!("/proc/self/fd/{}/control", folder.as_raw_fd()))
}

/// Makes the socket.
pub(crate) fn bind(record: &Record) -> io::Result<UnixListener> {
    with_short_path(record, UnixListener::bind)
}

impl Client {
    /// Connects to the VM of `record`.
    ///
    /// # Errors
    /// [`ClientError::Connection`].
    pub fn connect(record: &Record) -> Result<Client, ClientError> {
        let stream = with_short_path(record, UnixStream::connect).map_err(ClientError::Connection)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(ClientError::Connection)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(ClientError::Connection)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Asks and waits for the answer; [`Command::Wait`] for as long as it takes.
    ///
    /// # Errors
    /// [`ClientError`], a refusal included.
    pub fn ask(&mut self, command: Command) -> Result<Outcome, ClientError> {
        let patience = match command {
            Command::Wait => None,
            Command::Pause | Command::Resume => Some(LONG_PATIENCE),
            _ => Some(PATIENCE),
        };
        let stream = self.stream.get_ref();
        stream.set_read_timeout(patience).map_err(ClientError::Connection)?;
        let mut line = serde_json::to_string(&Request::new(command)).map_err(|_| ClientError::Strange)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(ClientError::Connection)?;
        let mut answer = Vec::new();
        let mut limited = (&mut self.stream).take(LINE_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut answer).map_err(ClientError::Connection)?;
        if answer.is_empty() {
            return Err(ClientError::Connection(io::ErrorKind::UnexpectedEof.into()));
        }
        let reply: Reply = serde_json::from_slice(&answer).map_err(|_| ClientError::Strange)?;
        match reply.outcome {
            Outcome::Refused { code, message } => Err(ClientError::Refused { code, message }),
            outcome => Ok(outcome),
        }
    }

    /// Asks for something that is done or refused.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn order(&mut self, command: Command) -> Result<(), ClientError> {
        match self.ask(command)? {
            Outcome::Done => Ok(()),
            _ => Err(ClientError::Strange),
        }
    }

    /// What the VM is doing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<VmStatus, ClientError> {
        match self.ask(Command::Status)? {
            Outcome::Status { status } => Ok(*status),
            _ => Err(ClientError::Strange),
        }
    }

    /// The connection itself, after the reply to [`Command::Console`], with what has already been read from it.
    ///
    /// # Errors
    /// [`ClientError::Connection`].
    pub fn into_console(self) -> Result<(Vec<u8>, UnixStream), ClientError> {
        let read = self.stream.buffer().to_vec();
        let stream = self.stream.into_inner();
        stream.set_read_timeout(None).map_err(ClientError::Connection)?;
        stream.set_write_timeout(None).map_err(ClientError::Connection)?;
        Ok((read, stream))
    }
}
