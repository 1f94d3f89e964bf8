//! What acts on a VM's devices from outside, and what reads them, over all lives of the guest.

use std::io;
use std::os::unix::net::UnixStream;

use api::{ClaimBook, Counter, DeviceStatus, Metrics};
use devices::virtio::VirtioKind;
use devices::virtio::balloon::{BalloonControl, BalloonReading};
use devices::virtio::console::Window;
use devices::virtio::net::{NetPort, Unfinished};
use devices::virtio::vsock::{Connector, NotConnected};

use crate::attach::claims::Claims;
use crate::attach::counters::DeviceCounters;
use crate::attach::{AttachError, Attachment};
use crate::limits::Limits;
use crate::plan::VmPlan;

/// The claim by which an init of ours says why it does not go on (`images/guest/folders.sh`).
const START_FAILED: &str = "start_failed";

/// By what a device is acted on; it has the other end.
#[derive(Clone)]
pub(crate) struct Handles {
    pub(crate) balloon: BalloonControl,
    pub(crate) window: Window,
    pub(crate) claims: Claims,
    /// The socket device's, if there is one.
    pub(crate) connector: Option<Connector>,
}

impl Handles {
    /// Handles for the devices of `plan`, which are still to be opened.
    pub(crate) fn new(plan: &VmPlan) -> Result<Handles, AttachError> {
        let window = Window::new().map_err(|source| AttachError {
            device: "the console".to_owned(),
            source: Box::new(source),
        })?;
        let connector = plan.has_vsock().then(Connector::new).transpose();
        let connector = connector.map_err(|source| AttachError {
            device: "the socket device".to_owned(),
            source: Box::new(source),
        })?;
        Ok(Handles {
            balloon: BalloonControl::default(),
            window,
            claims: Claims::default(),
            connector,
        })
    }
}

/// The devices of a VM. Cheap to clone; any thread may use it, also before and after the run.
#[derive(Clone)]
pub struct Devices {
    handles: Handles,
    port: Option<NetPort>,
    counters: Vec<DeviceCounters>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

impl Devices {
    /// The guest's devices, bounded by its limits from here on.
    pub(crate) fn new(
        attachments: &[Box<dyn Attachment>],
        handles: Handles,
        limits: &Limits,
    ) -> Devices {
        let counters = attachments.iter().map(|attachment| attachment.counters());
        let counters: Vec<DeviceCounters> = counters.collect();
        for device in &counters {
            limits.bound(device.kind, &device.metrics);
        }
        Devices {
            handles,
            port: attachments.iter().find_map(|attachment| attachment.port()),
            counters,
        }
    }

    /// The window that the console is shown in has this size now. Only the virtio console tells the guest.
    pub fn resize_window(&self, rows: u16, columns: u16) {
        self.handles.window.resize(rows, columns);
    }

    /// Plugs another user-mode network in, in place of one that is gone: for the guest, the link is up again.
    ///
    /// # Errors
    /// What the host says of the socket; `InvalidInput` for a guest without such a network.
    pub fn plug_network(&self, socket: UnixStream) -> io::Result<()> {
        let port = self.port.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        port.plug(socket)
    }

    /// Plugs the cable of the guest's network card in, or pulls it. False if there is none.
    pub fn set_link(&self, is_up: bool) -> bool {
        self.port.as_ref().is_some_and(|port| port.set_link(is_up))
    }

    /// Whether somebody has pulled the cable of the guest's network card.
    pub(crate) fn is_unplugged(&self) -> bool {
        self.port.as_ref().is_some_and(NetPort::is_pulled)
    }

    /// What is in the middle of a frame, while the guest rests and its devices were saved.
    pub(crate) fn unfinished_frames(&self) -> Unfinished {
        let port = self.port.as_ref();
        port.map(NetPort::unfinished).unwrap_or_default()
    }

    /// Goes on from what another process knew.
    pub(crate) fn go_on_from(&self, claims: &ClaimBook, is_unplugged: bool) {
        self.handles.claims.go_on_from(claims);
        if is_unplugged {
            self.set_link(false);
        }
    }

    /// Connects a stream to a port of the guest's socket device: see [`Connector::connect`].
    ///
    /// # Errors
    /// [`NotConnected`]; none for a guest without such a device, whose driver cannot be there.
    pub fn connect(&self, stream: UnixStream, guest_port: u32) -> Result<(), NotConnected> {
        let connector = self.handles.connector.as_ref();
        connector
            .ok_or(NotConnected::NoDriver)?
            .connect(stream, guest_port)
    }

    /// Whether the guest's driver has its socket device.
    pub fn is_vsock_served(&self) -> bool {
        let connector = self.handles.connector.as_ref();
        connector.is_some_and(Connector::is_served)
    }

    /// Whether the guest has a socket device.
    pub fn has_vsock(&self) -> bool {
        self.handles.connector.is_some()
    }

    /// So many more packets of the guest's were refused on their way, outside of this process.
    pub fn count_refused(&self, packets: u64) {
        let cards = self.counters.iter().filter(|it| it.kind == VirtioKind::Net);
        cards.for_each(|card| card.metrics.count_refused(packets));
    }

    /// Asks the guest for so much of its memory: its balloon takes pages until it holds that many bytes, as far as the
    /// guest can spare them. 0 gives all back. False, and nothing is asked, if the guest has no driver for it.
    pub fn set_balloon_target(&self, bytes: u64) -> bool {
        self.handles.balloon.set_target(bytes)
    }

    /// What is known of the balloon.
    pub fn balloon(&self) -> BalloonReading {
        self.handles.balloon.read()
    }

    /// What programs in the guest say of it.
    pub(crate) fn claims(&self) -> ClaimBook {
        self.handles.claims.book()
    }

    /// Why the guest's init did not go on, if that is ours and says so. Whoever else is in the guest can say it too: it is about
    /// nothing but how that guest ended.
    pub(crate) fn start_failed(&self) -> Option<String> {
        let claims = self.claims().claims;
        let claim = claims.into_iter().find(|claim| claim.key == START_FAILED);
        claim.map(|claim| claim.value)
    }

    /// What every virtio device counted.
    pub(crate) fn counters(&self) -> Vec<DeviceStatus> {
        self.counters.iter().map(DeviceCounters::read).collect()
    }

    /// What every device counted; the console printed this much.
    pub(crate) fn statuses(&self, printed_bytes: u64) -> Vec<DeviceStatus> {
        let console = DeviceStatus {
            name: "console".to_owned(),
            counters: vec![Counter {
                name: "bytes_from_guest".to_owned(),
                value: printed_bytes,
            }],
        };
        std::iter::once(console).chain(self.counters()).collect()
    }

    /// The same for the list of numbers.
    pub(crate) fn metrics(&self, printed_bytes: u64) -> Metrics {
        let mut metrics = Metrics::default();
        let help = "Bytes that the guest printed on its console.";
        metrics.count_bytes("console_printed_bytes_total", help, &[], printed_bytes);
        for device in &self.counters {
            device.add_to(&mut metrics);
        }
        metrics
    }
}
