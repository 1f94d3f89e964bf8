//! The fast console, which every VM has, with a port for what the guest claims of itself. Whether the VM's own console is behind it is the plan's to say; if not,
//! what the guest writes to it is dropped and nothing is ever typed.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use devices::virtio::console::{Console, Port, PortEnd, SharedEnd, Window, share};
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};

use super::{AttachError, Attachment, slot};
use crate::attach::claims::{ClaimReader, Claims};
use crate::attach::counters::DeviceCounters;
use crate::console::output::Output;
use crate::console::{Channel, ConsoleInput};

/// The console and its window.
pub(super) struct ConsoleAttachment {
    end: SharedEnd,
    channels: Vec<Port>,
    claims: Claims,
    window: Window,
    metrics: Arc<DeviceMetrics>,
}

impl ConsoleAttachment {
    /// A console with the VM's own behind it.
    pub(super) fn connected(
        input: &ConsoleInput,
        output: &Output,
        claims: &Claims,
        window: Window,
    ) -> Result<ConsoleAttachment, AttachError> {
        let arrival = input.arrival().map_err(|source| AttachError {
            device: "the console".to_owned(),
            source: Box::new(source),
        })?;
        let end = Connected {
            input: input.clone(),
            output: output.clone(),
            arrival,
        };
        Ok(ConsoleAttachment {
            end: share(end),
            channels: Vec::new(),
            claims: claims.clone(),
            window,
            metrics: Arc::default(),
        })
    }

    /// A console with nothing behind it.
    pub(super) fn loose(claims: &Claims, window: Window) -> ConsoleAttachment {
        ConsoleAttachment {
            end: share(Loose),
            channels: Vec::new(),
            claims: claims.clone(),
            window,
            metrics: Arc::default(),
        }
    }
}

/// What the console's own port is called in the guest.
const CONSOLE_PORT_NAME: &str = "mother.console";

impl ConsoleAttachment {
    /// The same with a port for each channel.
    pub(super) fn with_channels(self, channels: Vec<Channel>) -> ConsoleAttachment {
        let port = |channel: Channel| Port {
            name: channel.name.clone(),
            end: share(channel),
        };
        ConsoleAttachment {
            channels: channels.into_iter().map(port).collect(),
            ..self
        }
    }
}

impl Attachment for ConsoleAttachment {
    fn slot(&self) -> u8 {
        slot::CONSOLE
    }

    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError> {
        let console = Port {
            // Scripts that look for a port by its name find one at each.
            name: CONSOLE_PORT_NAME.to_owned(),
            end: Arc::clone(&self.end),
        };
        // A reader for each life: half a line of the one before is nobody's.
        let reader = ClaimReader::new(self.claims.clone(), "port");
        let claims = Port {
            name: api::CLAIMS_PORT_NAME.to_owned(),
            end: share(ClaimEnd(reader)),
        };
        self.claims.forget();
        let mut ports = vec![console, claims];
        ports.extend(self.channels.iter().cloned());
        Ok(Box::new(Console::new(
            ports,
            self.window.clone(),
            Arc::clone(&self.metrics),
        )))
    }

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: Console::NAME.to_owned(),
            kind: VirtioKind::Console,
            metrics: Arc::clone(&self.metrics),
            balloon: None,
        }
    }
}

/// The VM's console.
struct Connected {
    input: ConsoleInput,
    output: Output,
    arrival: OwnedFd,
}

impl PortEnd for Connected {
    fn write(&mut self, bytes: &[u8]) -> usize {
        if !self.output.has_room() {
            return 0;
        }
        // The queue takes everything; the room is asked for between pieces.
        self.output.write(bytes).unwrap_or(bytes.len())
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.input.take_some(bytes)
    }

    fn arrival(&self) -> Option<BorrowedFd<'_>> {
        Some(self.arrival.as_fd())
    }

    fn quiet(&mut self) {
        let _ = rustix::io::read(&self.arrival, &mut [0_u8; 8]);
    }
}

/// What the guest says of itself.
struct ClaimEnd(ClaimReader);

impl PortEnd for ClaimEnd {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.take(bytes);
        bytes.len()
    }

    fn read(&mut self, _bytes: &mut [u8]) -> usize {
        0
    }

    fn arrival(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn quiet(&mut self) {}
}

/// An end that nothing is connected to.
struct Loose;

impl PortEnd for Loose {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn read(&mut self, _bytes: &mut [u8]) -> usize {
        0
    }

    fn arrival(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn quiet(&mut self) {}
}
