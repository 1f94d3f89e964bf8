//! A guest's agent as the source, and as the taker.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use api::agent::{MESSAGE_BYTES_MAX, copied, from_agent, to_agent};
use api::{Entry, EntryKind, VmName};
use fleet::{Agent, AgentError, Message};

use super::pour::{Stop, Taker, Told};

/// Most entries that a guest may send.
const ENTRIES_MAX: u64 = 1 << 22;

/// How a request says the words of this key.
fn words(request: &mut Vec<u8>, key: &str, value: &[u8]) {
    request.extend(key.as_bytes());
    request.push(b'=');
    request.extend(value);
    request.push(0);
}

/// An agent, with whose it is.
struct Peer {
    name: VmName,
    agent: Agent,
}

impl Peer {
    fn stop(&self, error: AgentError) -> Stop {
        Stop::Agent(self.name.clone(), error)
    }

    /// Says something. If nobody listens any more, what the agent has said last is why.
    fn say(&mut self, kind: u8, payload: &[u8], told: &mut Told) -> Result<(), Stop> {
        if self.agent.say(kind, payload).is_ok() {
            return Ok(());
        }
        told.check_signal()?;
        loop {
            if let Err(error) = self.agent.hear() {
                return Err(self.stop(error));
            }
        }
    }

    /// The next message; what was left out is told on the way, and counted.
    fn hear(&mut self, told: &mut Told, named: &mut u64) -> Result<Message, Stop> {
        loop {
            let waited = self.agent.wait(None);
            if waited.is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
                told.check_signal()?;
                continue;
            }
            // What else is wrong with it is heard of by reading.
            let message = self.agent.hear().map_err(|error| self.stop(error))?;
            if message.kind != from_agent::LEFT_OUT {
                return Ok(message);
            }
            *named += 1;
            tell_left_out(&message.payload, told);
        }
    }
}

/// A path up to a zero byte, and why it was left out.
fn tell_left_out(payload: &[u8], told: &mut Told) {
    let end = payload.iter().position(|&byte| byte == 0);
    let (name, why) = payload.split_at(end.unwrap_or(payload.len()));
    let why = String::from_utf8_lossy(why.get(1..).unwrap_or_default());
    told.leave_out(name, &why);
}

/// Files of a guest.
pub struct FromGuest {
    peer: Peer,
    entries: u64,
}

/// A file whose bytes come.
#[derive(Default)]
struct Coming {
    /// It is not taken, and neither are they.
    is_skipped: bool,
    len: u64,
    /// Up to where it has them.
    at: u64,
}

impl FromGuest {
    /// Asks for these paths.
    pub fn new(
        (name, mut agent): (VmName, Agent),
        paths: &[OsString],
        follow: bool,
    ) -> Result<FromGuest, Stop> {
        let mut request = Vec::new();
        for path in paths {
            words(&mut request, "path", path.as_bytes());
        }
        if follow {
            words(&mut request, "follow", b"");
        }
        let said = agent.say(to_agent::GIVE, &request);
        let peer = Peer { name, agent };
        said.map_err(|_| peer.stop(AgentError::Cut))?;
        Ok(FromGuest { peer, entries: 0 })
    }

    /// Has all of it go to `taker`: everything that the guest says is looked at here, once for all takers.
    pub fn pour(
        mut self,
        taker: &mut dyn Taker,
        most: Option<u64>,
        told: &mut Told,
    ) -> Result<(), Stop> {
        let mut coming = Coming::default();
        let mut named = 0;
        loop {
            let message = self.peer.hear(told, &mut named)?;
            let strange = || self.peer.stop(AgentError::Strange);
            let payload = message.payload.as_slice();
            match (message.kind, payload.split_at_checked(8)) {
                (from_agent::TOTAL, Some((_, bytes))) => {
                    let bytes = bytes.try_into().map_err(|_| strange())?;
                    let total = u64::from_le_bytes(bytes);
                    if let Some(most) = most.filter(|&most| total > most) {
                        return Err(Stop::TooMuch(self.peer.name.clone(), most));
                    }
                    told.shown.expect(total);
                }
                (copied::ENTRY, _) => {
                    let entry = Entry::decode(payload).ok_or_else(strange)?;
                    self.entries += 1;
                    if self.entries > ENTRIES_MAX {
                        return Err(Stop::TooMany(self.peer.name.clone()));
                    }
                    coming = Coming {
                        is_skipped: entry.check().is_err() || entry.kind != EntryKind::File,
                        len: entry.len,
                        at: 0,
                    };
                    if let Err(error) = entry.check() {
                        told.leave_out(&entry.name, &error.to_string());
                        continue;
                    }
                    told.entry(&entry)?;
                    taker.entry(&entry, told)?;
                }
                (copied::DATA, Some((at, bytes))) => {
                    let at = u64::from_le_bytes(at.try_into().map_err(|_| strange())?);
                    if coming.is_skipped {
                        continue;
                    }
                    let end = at.checked_add(bytes.len() as u64);
                    let end = end.filter(|&end| at >= coming.at && end <= coming.len);
                    coming.at = end.ok_or_else(strange)?;
                    told.data(bytes.len())?;
                    if let Some(most) = most.filter(|&most| told.bytes() > most) {
                        return Err(Stop::TooMuch(self.peer.name.clone(), most));
                    }
                    taker.data(at, bytes, told)?;
                }
                (copied::END, _) => return taker.end(told),
                _ => return Err(strange()),
            }
        }
    }
}

/// A place in a guest.
pub struct ToGuest {
    peer: Peer,
    message: Vec<u8>,
    /// How many the agent has left out by name.
    named: u64,
}

impl ToGuest {
    /// Has the agent take what comes.
    pub fn new(
        (name, mut agent): (VmName, Agent),
        path: &OsString,
        is_several: bool,
        keeps_owners: bool,
    ) -> Result<ToGuest, Stop> {
        let mut request = Vec::new();
        words(&mut request, "to", path.as_bytes());
        if is_several {
            words(&mut request, "several", b"");
        }
        if keeps_owners {
            words(&mut request, "owners", b"");
        }
        let said = agent.say(to_agent::TAKE, &request);
        let peer = Peer { name, agent };
        said.map_err(|_| peer.stop(AgentError::Cut))?;
        Ok(ToGuest {
            peer,
            message: Vec::with_capacity(MESSAGE_BYTES_MAX),
            named: 0,
        })
    }

    /// Hears what the agent has to say meanwhile, without waiting for it.
    fn attend(&mut self, told: &mut Told) -> Result<(), Stop> {
        while let Ok(true) = self.peer.agent.wait(Some(Duration::ZERO)) {
            let message = self.peer.agent.hear();
            let message = message.map_err(|error| self.peer.stop(error))?;
            if message.kind != from_agent::LEFT_OUT {
                return Err(self.peer.stop(AgentError::Strange));
            }
            self.named += 1;
            tell_left_out(&message.payload, told);
        }
        Ok(())
    }
}

impl Taker for ToGuest {
    fn entry(&mut self, entry: &Entry, told: &mut Told) -> Result<(), Stop> {
        self.attend(told)?;
        self.peer.say(copied::ENTRY, &entry.encode(), told)
    }

    fn data(&mut self, at: u64, bytes: &[u8], told: &mut Told) -> Result<(), Stop> {
        self.attend(told)?;
        self.message.clear();
        self.message.extend(at.to_le_bytes());
        self.message.extend(bytes);
        self.peer.say(copied::DATA, &self.message, told)
    }

    fn end(&mut self, told: &mut Told) -> Result<(), Stop> {
        self.peer.say(copied::END, &[], told)?;
        let mut named = self.named;
        let message = self.peer.hear(told, &mut named)?;
        match (message.kind, <[u8; 8]>::try_from(message.payload)) {
            (from_agent::DONE, Ok(count)) => {
                told.left_out_there(u64::from_le_bytes(count), named);
                Ok(())
            }
            _ => Err(self.peer.stop(AgentError::Strange)),
        }
    }
}
