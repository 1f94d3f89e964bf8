//! Talking to the guest agent, through the VM's control socket and the guest's socket device.
//!
//! Everything that comes is a guest's: lengths are bounded, kinds that are not known end the connection, and what it says is
//! passed on as the guest's own words.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use api::agent::{GREETING, MESSAGE_BYTES_MAX, PORT, from_agent};
use api::{RefusalCode, VmState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::client::{Client, ClientError};
use crate::one::OneVm;

/// How long the guest may take to accept one connection, before it is tried again.
const ACCEPT_TIME: Duration = Duration::from_secs(5);

/// How often a guest that starts is asked.
const AGAIN: Duration = Duration::from_millis(50);

/// Longest line with which the device says that the connection is there.
const OPEN_LINE_BYTES_MAX: usize = 16;

/// Why the agent cannot be had.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The VM's process is not reached, or refuses.
    #[error(transparent)]
    Vm(#[from] ClientError),
    /// The guest has no socket device: it was made without an agent.
    #[error("it was started without the guest agent")]
    NoDevice,
    /// The guest is paused or ends.
    #[error("it is {0}")]
    NotRunning(&'static str),
    /// Nobody answers: no driver, no agent, or one that is busy.
    #[error("no guest agent answers in it")]
    Silent,
    /// A connection that was there is gone.
    #[error("the connection to its guest agent was cut")]
    Cut,
    /// It says something else than an agent would.
    #[error("what answers in it is no guest agent of this version")]
    Strange,
    /// It does not do what it was asked.
    #[error("{why}")]
    Refused {
        /// What a program's exit status would be.
        status: i32,
        /// Why, in the guest's words.
        why: String,
    },
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

/// A message from the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// One of [`from_agent`].
    pub kind: u8,
    /// What comes with it.
    pub payload: Vec<u8>,
}

impl Agent {
    /// Connects to the agent of `vm`, and tries for so long, as the guest may only be starting.
    ///
    /// # Errors
    /// [`AgentError`]; at once, where waiting is in vain.
    pub fn connect(vm: &OneVm, patience: Duration) -> Result<Agent, AgentError> {
        let begun = Instant::now();
        loop {
            let mut client = vm.again()?;
            match client.status()?.state {
                VmState::Running | VmState::Starting => {}
                VmState::Paused => return Err(AgentError::NotRunning("paused")),
                VmState::Waiting => return Err(AgentError::NotRunning("held by its host")),
                VmState::Stopping => return Err(AgentError::NotRunning("going down")),
                VmState::Unresponsive => return Err(AgentError::Silent),
                VmState::Ended | VmState::Died => return Err(AgentError::NotRunning("at its end")),
            }
            match Agent::through(client) {
                Err(AgentError::Silent) if begun.elapsed() < patience => thread::sleep(AGAIN),
                other => return other,
            }
        }
    }

    fn through(client: Client) -> Result<Agent, AgentError> {
        let (read, stream) = match client.into_port(PORT) {
            Ok(connected) => connected,
            Err(ClientError::Refused { code, .. }) => {
                return Err(match code {
                    RefusalCode::NotHere => AgentError::NoDevice,
                    _ => AgentError::Silent,
                });
            }
            Err(other) => return Err(other.into()),
        };
        let set = stream.set_read_timeout(Some(ACCEPT_TIME));
        set.map_err(ClientError::Connection)?;
        // Nothing but these two comes before we have said something, so nothing else can have been read.
        let mut first = read.as_slice().chain(&stream);
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\n") && line.len() < OPEN_LINE_BYTES_MAX {
            first
                .read_exact(&mut byte)
                .map_err(|_| AgentError::Silent)?;
            line.push(byte[0]);
        }
        let mut greeting = vec![0; GREETING.len()];
        first
            .read_exact(&mut greeting)
            .map_err(|_| AgentError::Silent)?;
        let set = stream.set_read_timeout(None);
        set.map_err(ClientError::Connection)?;
        match line.starts_with(b"OK ") && greeting == GREETING {
            true => Ok(Agent { stream }),
            false => Err(AgentError::Strange),
        }
    }

    /// Another handle to the same connection, for who reads while somebody writes.
    ///
    /// # Errors
    /// What the host says.
    pub fn try_clone(&self) -> io::Result<Agent> {
        Ok(Agent {
            stream: self.stream.try_clone()?,
        })
    }

    /// For how long a message may let wait; none is for ever.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(patience)
    }

    /// Waits until there is something to hear, for so long; whether there is. A signal that comes is an error.
    ///
    /// # Errors
    /// What the host says.
    pub fn wait(&self, patience: Option<Duration>) -> io::Result<bool> {
        let mut watched = [PollFd::new(&self.stream, PollFlags::IN)];
        let patience = patience.map(Timespec::try_from).transpose();
        let patience = patience.map_err(io::Error::other)?;
        Ok(poll(&mut watched, patience.as_ref())? > 0)
    }

    /// Says something of at most [`MESSAGE_BYTES_MAX`].
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn say(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(5 + payload.len());
        message.push(kind);
        message.extend((payload.len() as u32).to_le_bytes());
        message.extend(payload);
        self.stream.write_all(&message)
    }

    /// The next message; a refusal is an error.
    ///
    /// # Errors
    /// [`AgentError::Cut`] if the connection is gone, [`AgentError::Silent`] if the time is over, [`AgentError::Strange`] for what is
    /// too long.
    pub fn hear(&mut self) -> Result<Message, AgentError> {
        let mut head = [0; 5];
        self.read(&mut head)?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if len > MESSAGE_BYTES_MAX {
            return Err(AgentError::Strange);
        }
        let mut payload = vec![0; len];
        self.read(&mut payload)?;
        match (head[0], payload.as_slice()) {
            (from_agent::FAILED, [a, b, c, d, why @ ..]) => Err(AgentError::Refused {
                status: i32::from_le_bytes([*a, *b, *c, *d]),
                why: String::from_utf8_lossy(why).into_owned(),
            }),
            (kind, _) => Ok(Message { kind, payload }),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), AgentError> {
        self.stream
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                // A time that is over is the first of these here, the second elsewhere.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AgentError::Silent,
                _ => AgentError::Cut,
            })
    }
}
