//! Talking to a VM over its control socket.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use api::{
    Command, HostBooks, MemoryView, Metric, Outcome, REPLY_BYTES_MAX, RefusalCode, Reply, Request,
    VcpuView, VmStatus,
};
use probe::{Hit, Point};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use thiserror::Error;

use crate::reach::{name_of, reach};
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

impl ClientError {
    /// Whether what was asked makes no sense, whatever the VM's state.
    pub fn is_bad_input(&self) -> bool {
        let ClientError::Refused { code, .. } = self else {
            return false;
        };
        *code == RefusalCode::BadRequest
    }
}

/// Descriptors that come with one message, at most.
const DESCRIPTORS_MAX: usize = 128;

/// A connection to one VM.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Channel>,
    /// How long an answer is waited for.
    patience: Option<Duration>,
}

/// A stream with the descriptors that came with its bytes.
#[derive(Debug)]
struct Channel {
    stream: UnixStream,
    descriptors: Vec<OwnedFd>,
}

impl Read for Channel {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(bytes)],
            &mut ancillary,
            flags,
        )?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                // What nobody asked for is closed.
                let room = DESCRIPTORS_MAX.saturating_sub(self.descriptors.len());
                self.descriptors.extend(descriptors.take(room));
            }
        }
        Ok(received.bytes)
    }
}

/// Guest memory to be read with `pread`.
#[derive(Debug)]
pub struct MemoryFiles {
    /// Where what lies.
    pub view: MemoryView,
    /// The memory file, open for reading.
    pub memory: File,
    /// The residency map, if there is one.
    pub residency: Option<File>,
    /// The kernel file that was loaded, with the SHA-256 that it had then, if it is still there.
    pub kernel: Option<(File, [u8; 32])>,
}

/// What a guest is and stands on, in files that can only be read.
#[derive(Debug)]
pub struct StateFiles {
    /// Which life of the guest.
    pub life: u64,
    /// JSON: see [`api::Outcome::State`].
    pub text: File,
    /// Its kernel.
    pub kernel: File,
    /// What is loaded with that.
    pub modules: Vec<File>,
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
        if let Some(reach) = reach() {
            let stream = name_of(record).and_then(|name| reach.connect(&name));
            let mut client = Client::over(stream.map_err(ClientError::Connection)?);
            return match client.reply() {
                Ok(Outcome::Done) => Ok(client),
                // A process of an older Mother knows no connections that only look.
                Err(ClientError::Refused {
                    code: RefusalCode::BadRequest,
                    ..
                }) => Ok(client),
                Ok(_) => Err(ClientError::Strange),
                Err(error) => Err(error),
            };
        }
        let stream = with_short_path(record, UnixStream::connect).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        Ok(Client::over(stream.map_err(ClientError::Connection)?))
    }

    /// Over a connection that waits for [`PATIENCE`].
    fn over(stream: UnixStream) -> Client {
        let descriptors = Vec::new();
        Client {
            stream: BufReader::new(Channel {
                stream,
                descriptors,
            }),
            patience: Some(PATIENCE),
        }
    }

    /// Connects to the VM of `record` for somebody who shall only look: the first that the VM is told on this connection is that
    /// it does nothing to its guest for it ([`Command::OnlyLook`]). What it answers is not waited for: whoever gets the
    /// connection reads that ([`Client::connect`]).
    ///
    /// # Errors
    /// What the host says.
    pub fn connect_to_look(record: &Record) -> io::Result<UnixStream> {
        let mut stream = with_short_path(record, UnixStream::connect)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let line = serde_json::to_string(&Request::new(Command::OnlyLook))? + "\n";
        stream.write_all(line.as_bytes())?;
        Ok(stream)
    }

    /// Asks and waits for the answer; [`Command::Wait`] for as long as it takes.
    ///
    /// # Errors
    /// [`ClientError`], a refusal included.
    pub fn ask(&mut self, command: Command) -> Result<Outcome, ClientError> {
        let patience = match command {
            Command::Wait => None,
            Command::Pause | Command::Rest | Command::Resume | Command::Limit { .. } => {
                Some(LONG_PATIENCE)
            }
            // A pause, the change, and going on.
            Command::Switch { .. } => Some(3 * LONG_PATIENCE),
            _ => Some(PATIENCE),
        };
        self.stream.get_mut().descriptors.clear();
        let stream = &mut self.stream.get_mut().stream;
        if patience != self.patience {
            let set = stream.set_read_timeout(patience);
            set.map_err(ClientError::Connection)?;
            self.patience = patience;
        }
        let mut line =
            serde_json::to_string(&Request::new(command)).map_err(|_| ClientError::Strange)?;
        line.push('\n');
        stream
            .write_all(line.as_bytes())
            .map_err(ClientError::Connection)?;
        self.reply()
    }

    /// The next line that comes.
    fn reply(&mut self) -> Result<Outcome, ClientError> {
        let mut answer = Vec::new();
        let mut limited = (&mut self.stream).take(REPLY_BYTES_MAX as u64);
        limited
            .read_until(b'\n', &mut answer)
            .map_err(ClientError::Connection)?;
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

    /// The guest's memory as it is now and goes on to be.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn memory(&mut self) -> Result<MemoryFiles, ClientError> {
        let Outcome::View { view } = self.ask(Command::View)? else {
            return Err(ClientError::Strange);
        };
        let mut files = self.stream.get_mut().descriptors.drain(..).map(File::from);
        let memory = files.next().ok_or(ClientError::Strange)?;
        let residency = if view.has_residency {
            Some(files.next().ok_or(ClientError::Strange)?)
        } else {
            None
        };
        let kernel = match &view.kernel_sha256 {
            Some(digest) => {
                let digest = from_hex(digest).and_then(|bytes| bytes.try_into().ok());
                let file = files.next().ok_or(ClientError::Strange)?;
                Some((file, digest.ok_or(ClientError::Strange)?))
            }
            None => None,
        };
        Ok(MemoryFiles {
            view,
            memory,
            residency,
            kernel,
        })
    }

    /// All that the guest is apart from its memory, and what it stands on. It should rest for the caller.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn state(&mut self) -> Result<StateFiles, ClientError> {
        let Outcome::State { life } = self.ask(Command::State)? else {
            return Err(ClientError::Strange);
        };
        let mut files = self.stream.get_mut().descriptors.drain(..).map(File::from);
        let text = files.next().ok_or(ClientError::Strange)?;
        let kernel = files.next().ok_or(ClientError::Strange)?;
        let modules = files.collect();
        Ok(StateFiles {
            life,
            text,
            kernel,
            modules,
        })
    }

    /// The contents of pages that are with the pager of the guest's life number `life`, by index in the memory file, at
    /// most [`api::STORED_PAGES_MAX`]; nothing is brought in.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stored_pages(
        &mut self,
        life: u64,
        file_pages: &[u64],
    ) -> Result<Vec<Vec<u8>>, ClientError> {
        let asked = Command::StoredPages {
            life,
            file_pages: file_pages.to_vec(),
        };
        let Outcome::StoredPages { pages } = self.ask(asked)? else {
            return Err(ClientError::Strange);
        };
        let page = |text: Option<String>| {
            text.and_then(|text| from_hex(&text))
                .ok_or(ClientError::Strange)
        };
        pages.into_iter().map(page).collect()
    }

    /// Which pages of the memory file were written since they were asked for last, as first page and count.
    ///
    /// # Errors
    /// [`ClientError`]; a host that allows no paging refuses.
    pub fn written_pages(
        &mut self,
        stretches: &[(u64, u64)],
    ) -> Result<Vec<(u64, u64)>, ClientError> {
        match self.ask(Command::WrittenPages {
            stretches: stretches.to_vec(),
        })? {
            Outcome::WrittenPages { stretches } => Ok(stretches),
            _ => Err(ClientError::Strange),
        }
    }

    /// The registers of every vCPU, with the number of the guest's life.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn registers(&mut self) -> Result<(u64, Vec<VcpuView>), ClientError> {
        match self.ask(Command::Registers)? {
            Outcome::Registers { life, vcpus } => Ok((life, vcpus)),
            _ => Err(ClientError::Strange),
        }
    }

    /// The host's own books.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn books(&mut self) -> Result<HostBooks, ClientError> {
        match self.ask(Command::Books)? {
            Outcome::Books { books } => Ok(*books),
            _ => Err(ClientError::Strange),
        }
    }

    /// Has the VM tell when the kernel of the guest's life number `life` passes these points, from when this returns.
    ///
    /// # Errors
    /// [`ClientError`]; with [`RefusalCode::NotHere`] if the guest's engine does not tell.
    pub fn probe(mut self, life: u64, points: Vec<Point>) -> Result<Passes, ClientError> {
        match self.ask(Command::Probe { life, points })? {
            Outcome::Probing => Ok(Passes(self)),
            _ => Err(ClientError::Strange),
        }
    }

    /// Every number of the VM.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn metrics(&mut self) -> Result<Vec<Metric>, ClientError> {
        match self.ask(Command::Metrics)? {
            Outcome::Metrics { metrics } => Ok(metrics),
            _ => Err(ClientError::Strange),
        }
    }

    /// Connects to a port of the guest's socket device, with what has already been read from there: see
    /// [`Command::Connect`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn into_port(mut self, port: u32) -> Result<(Vec<u8>, UnixStream), ClientError> {
        self.order(Command::Connect { port })?;
        self.into_console()
    }

    /// The connection itself, after the reply to [`Command::Console`], with what has already been read from it.
    ///
    /// # Errors
    /// [`ClientError::Connection`].
    pub fn into_console(self) -> Result<(Vec<u8>, UnixStream), ClientError> {
        let read = self.stream.buffer().to_vec();
        let Channel { stream, .. } = self.stream.into_inner();
        stream
            .set_read_timeout(None)
            .map_err(ClientError::Connection)?;
        stream
            .set_write_timeout(None)
            .map_err(ClientError::Connection)?;
        Ok((read, stream))
    }
}

/// Some passes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SomePasses {
    /// In the order in which they came; none now and then.
    pub hits: Vec<Hit>,
    /// How many more there were, which are lost.
    pub lost: u64,
    /// Nothing more will come.
    pub is_over: bool,
}

/// What a guest's kernel passes, as it comes.
#[derive(Debug)]
pub struct Passes(Client);

impl Passes {
    /// Waits for some passes, for not much longer than a second.
    ///
    /// # Errors
    /// [`ClientError`]: the VM has ended, or its process does not answer.
    pub fn wait(&mut self) -> Result<SomePasses, ClientError> {
        match self.0.reply()? {
            Outcome::Hits {
                hits,
                lost,
                is_over,
            } => Ok(SomePasses {
                hits,
                lost,
                is_over,
            }),
            _ => Err(ClientError::Strange),
        }
    }

    /// Whether something comes within so long: then [`Passes::wait`] does not wait for long.
    pub fn comes(&self, patience: Duration) -> bool {
        if self.has_more() {
            return true;
        }
        let stream = &self.0.stream.get_ref().stream;
        let patience = Timespec::try_from(patience).ok();
        let mut places = [PollFd::new(stream, PollFlags::IN)];
        poll(&mut places, patience.as_ref()).is_ok_and(|count| count > 0)
    }

    /// Whether more lines have come already.
    pub fn has_more(&self) -> bool {
        self.0.stream.buffer().contains(&b'\n')
    }
}

/// The bytes of hexadecimal digits.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() {
        pairs.iter().map(byte).collect()
    } else {
        None
    }
}
