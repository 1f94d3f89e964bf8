//! A virtio device as a PCI function: identity, capabilities, one window of memory, MSI-X and the interrupt pin
//! (4.1).
//!
//! ```text
//! window  0x0000 common configuration   0x1000 interrupt status   0x2000 device configuration
//!         0x3000 notifications, 4 bytes for each queue            0x4000 MSI-X table   0x5000 pending bits
//! ```

use x86::Gpa;

use crate::layout;
use crate::pci::{ConfigSpace, FunctionState, Identity, PciFunction};
use crate::saved::{Saved, Unfit};
use crate::virtio::device::VirtioDevice;
use crate::virtio::shared::Links;
use crate::virtio::state::VirtioState;
use crate::virtio::transport::Transport;
use crate::virtio::{msix, registers};

/// The window and its parts.
const WINDOW_BYTES: u32 = 0x8000;
const PART_BYTES: u64 = 0x1000;
const COMMON: u32 = 0x0000;
const STATUS: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
const NOTIFY: u32 = 0x3000;
const TABLE: u32 = 0x4000;
const PENDING: u32 = 0x5000;
/// Notifications of neighbouring queues are this far apart.
const NOTIFY_STEP: u32 = 4;
/// Most queues that a device can have: the table has a page, one entry is for configuration changes.
const QUEUES_MAX: usize = (PART_BYTES / msix::ENTRY_BYTES) as usize - 1;

/// Configuration space (PCI 3.0, 6.1).
const COMMAND: usize = 0x04;
const PCI_STATUS: usize = 0x06;
const BAR: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_PIN: usize = 0x3d;
/// Bits of the command register (6.2.2).
const MEMORY_ENABLE: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;
const PIN_DISABLE: u32 = 1 << 10;
/// Bits of the status register (6.2.3).
const PIN_ASSERTED: u32 = 1 << 3;
const HAS_CAPABILITIES: u8 = 1 << 4;

/// Places of the capabilities.
const MSIX: usize = 0x40;
const FIRST: usize = 0x4c;
const CONFIG_ACCESS: usize = 0x90;
/// Capability ids (PCI code and ID assignment).
const MSIX_ID: u8 = 0x11;
const VENDOR_ID: u8 = 0x09;
/// Kinds of virtio capabilities (4.1.4).
const COMMON_CONFIG: u8 = 1;
const NOTIFY_CONFIG: u8 = 2;
const STATUS_CONFIG: u8 = 3;
const DEVICE_CONFIG: u8 = 4;
const PCI_CONFIG: u8 = 5;
/// Lengths of the capabilities.
const PLAIN_BYTES: u8 = 16;
const LONG_BYTES: u8 = 20;

/// A virtio device on the PCI bus.
pub struct VirtioFunction {
    config: ConfigSpace,
    transport: Transport,
}

impl VirtioFunction {
    /// `device` at device number `slot`, its window where firmware would have put it.
    ///
    /// # Panics
    /// If the device has more queues than a function can.
    pub fn new(slot: u8, device: Box<dyn VirtioDevice>, links: Links) -> VirtioFunction {
        let queue_count = device.queue_sizes().len();
        assert!(
            queue_count <= QUEUES_MAX,
            "a device has at most {QUEUES_MAX} queues"
        );
        let kind = device.kind();
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1040 + kind as u16,
            revision: 1,
            class: kind.class(),
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.set(PCI_STATUS, &[HAS_CAPABILITIES]);
        config.set(COMMAND, &[(MEMORY_ENABLE | BUS_MASTER) as u8]);
        config.set(INTERRUPT_PIN, &[1]);
        let window = layout::PCI_WINDOW.0 as u32 + u32::from(slot) * WINDOW_BYTES;
        config.set(BAR, &window.to_le_bytes());
        config.set_writable(BAR, &(!(WINDOW_BYTES - 1)).to_le_bytes());
        add_capabilities(&mut config, queue_count as u16);
        VirtioFunction {
            config,
            transport: Transport::new(device, links),
        }
    }

    fn read_part(&mut self, part: u32, within: u64, size: u8) -> u64 {
        match part {
            COMMON => self.transport.read_common(within, size),
            STATUS if within == 0 => u64::from(self.transport.shared.take_status()),
            DEVICE => self.transport.read_config(within, size),
            TABLE => self
                .transport
                .shared
                .vectors()
                .msix
                .read_table(within, size),
            PENDING => self
                .transport
                .shared
                .vectors()
                .msix
                .read_pending(within, size),
            _ => 0,
        }
    }

    fn write_part(&mut self, part: u32, within: u64, size: u8, value: u64) {
        match part {
            COMMON => self.transport.write_common(within, size, value),
            DEVICE => self.transport.write_config(within, size, value),
            NOTIFY => self.transport.notify(within / u64::from(NOTIFY_STEP)),
            TABLE => {
                let message = self
                    .transport
                    .shared
                    .vectors()
                    .msix
                    .write_table(within, size, value);
                self.transport.shared.send(message);
            }
            _ => {}
        }
    }

    /// The access that the capability for guests without memory access describes (4.1.4.9).
    fn described_access(&self) -> Option<(u64, u8)> {
        let bar = self.config.word(CONFIG_ACCESS + 4) & 0xff;
        let offset = self.config.word(CONFIG_ACCESS + 8);
        let size = self.config.word(CONFIG_ACCESS + 12);
        let fits = matches!(size, 1 | 2 | 4)
            && offset.is_multiple_of(size)
            && offset
                .checked_add(size)
                .is_some_and(|end| end <= WINDOW_BYTES);
        (bar == 0 && fits).then_some((u64::from(offset), size as u8))
    }
}

/// Whether an access to configuration space is to the data of [`VirtioFunction::described_access`].
fn is_access_data(offset: u16) -> bool {
    (CONFIG_ACCESS + 16..CONFIG_ACCESS + 20).contains(&usize::from(offset))
}

/// Fills in the list of capabilities.
fn add_capabilities(config: &mut ConfigSpace, queue_count: u16) {
    config.set(CAPABILITIES, &[MSIX as u8]);
    // The size field is one less than the number of entries, and there is one more than there are queues.
    config.set(MSIX, &[MSIX_ID, FIRST as u8]);
    config.set(MSIX + 2, &queue_count.to_le_bytes());
    config.set_writable(
        MSIX + 2,
        &(msix::ENABLE | msix::FUNCTION_MASK).to_le_bytes(),
    );
    config.set(MSIX + 4, &TABLE.to_le_bytes());
    config.set(MSIX + 8, &PENDING.to_le_bytes());
    let notify_bytes = u32::from(queue_count) * NOTIFY_STEP;
    let parts = [
        (COMMON_CONFIG, COMMON, registers::LEN as u32, PLAIN_BYTES),
        (STATUS_CONFIG, STATUS, 1, PLAIN_BYTES),
        (DEVICE_CONFIG, DEVICE, PART_BYTES as u32, PLAIN_BYTES),
        (NOTIFY_CONFIG, NOTIFY, notify_bytes, LONG_BYTES),
        (PCI_CONFIG, 0, 0, LONG_BYTES),
    ];
    let mut at = FIRST;
    for (n, (kind, offset, len_bytes, own_bytes)) in parts.into_iter().enumerate() {
        let next = if n + 1 < parts.len() {
            at as u8 + own_bytes
        } else {
            0
        };
        config.set(at, &[VENDOR_ID, next, own_bytes, kind]);
        config.set(at + 8, &offset.to_le_bytes());
        config.set(at + 12, &len_bytes.to_le_bytes());
        match kind {
            NOTIFY_CONFIG => config.set(at + 16, &NOTIFY_STEP.to_le_bytes()),
            PCI_CONFIG => {
                config.set_writable(at + 4, &[0xff]);
                config.set_writable(at + 8, &[0xff; 8]);
            }
            _ => {}
        }
        at += usize::from(own_bytes);
    }
    debug_assert_eq!(
        at,
        CONFIG_ACCESS + usize::from(LONG_BYTES),
        "the last one is where it is looked for"
    );
}

impl PciFunction for VirtioFunction {
    fn save(&self) -> FunctionState {
        FunctionState::of(&VirtioState {
            config: Saved::save(&self.config),
            transport: self.transport.save(),
        })
    }

    fn restore(&mut self, state: FunctionState) -> Result<(), Unfit> {
        let state: VirtioState = state.read("virtio device")?;
        Saved::restore(&mut self.config, state.config)?;
        self.transport.restore(state.transport)
    }

    fn read_config(&mut self, offset: u16, size: u8) -> u32 {
        if is_access_data(offset)
            && let Some((at, size)) = self.described_access()
        {
            return self.read_memory(at, size) as u32;
        }
        let value = self.config.read_config(offset, size);
        let status = PCI_STATUS as u16;
        let has_status = (offset..offset + u16::from(size)).contains(&status);
        if has_status && self.transport.shared.has_status() {
            return value | PIN_ASSERTED << (8 * (status - offset));
        }
        value
    }

    fn write_config(&mut self, offset: u16, size: u8, value: u32) {
        if is_access_data(offset)
            && let Some((at, size)) = self.described_access()
        {
            return self.write_memory(at, size, u64::from(value));
        }
        self.config.write_config(offset, size, value);
        let control = (self.config.word(MSIX) >> 16) as u16;
        let messages = self.transport.shared.vectors().msix.set_control(control);
        self.transport.shared.send(messages);
    }

    fn window(&self) -> Option<(Gpa, u64)> {
        let is_on = self.config.word(COMMAND) & MEMORY_ENABLE != 0;
        let start = self.config.word(BAR) & !(WINDOW_BYTES - 1);
        is_on.then_some((Gpa(u64::from(start)), u64::from(WINDOW_BYTES)))
    }

    fn read_memory(&mut self, offset: u64, size: u8) -> u64 {
        let within = offset % PART_BYTES;
        self.read_part((offset - within) as u32, within, size)
    }

    fn write_memory(&mut self, offset: u64, size: u8, value: u64) {
        let within = offset % PART_BYTES;
        self.write_part((offset - within) as u32, within, size, value);
    }

    fn wires(&self) -> Vec<vcpu::Wire> {
        let Some((start, _)) = self.window() else {
            return Vec::new();
        };
        let place = |queue: u16| {
            Gpa(start.0 + u64::from(NOTIFY) + u64::from(queue) * u64::from(NOTIFY_STEP))
        };
        let events = self.transport.events().into_iter();
        events
            .map(|(queue, event)| vcpu::Wire {
                gpa: place(queue),
                event,
            })
            .collect()
    }

    fn has_interrupt(&self) -> bool {
        let is_on = self.config.word(COMMAND) & PIN_DISABLE == 0;
        is_on
            && self.transport.shared.has_status()
            && !self.transport.shared.vectors().msix.is_enabled()
    }
}
