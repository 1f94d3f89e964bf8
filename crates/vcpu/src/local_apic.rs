//! Local APICs that belong to the engine: what the machine says to them, and their state as plain data.
//!
//! An engine either has local APICs of its own, close to the vCPUs (KVM's are in the host's kernel), or none, and then
//! the board has them. Whoever has them, the IOAPIC, the 8259 pair and the devices are the board's, and what they send
//! are messages as MSIs have them (SDM vol. 3, 11.11).

use serde::{Deserialize, Serialize};

/// Registers of a local APIC's page: one in each sixteen bytes (SDM vol. 3, table 11-1).
pub const LOCAL_APIC_REGISTERS: usize = 64;

/// A local APIC at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalApicState {
    /// The APIC_BASE MSR.
    pub base: u64,
    /// The registers by their numbers (offset / 16). The id is in the form of the APIC's mode: bits 24 to 31 in xAPIC
    /// mode, the whole register in x2APIC mode. Register 0x39 is what is left of the timer's count.
    #[serde(with = "registers")]
    pub registers: [u32; LOCAL_APIC_REGISTERS],
    /// The TSC value that the timer waits for in TSC-deadline mode, or 0.
    pub tsc_deadline: u64,
}

/// The registers as a sequence of numbers, all of them.
mod registers {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::LOCAL_APIC_REGISTERS;

    pub(super) fn serialize<S: Serializer>(
        registers: &[u32; LOCAL_APIC_REGISTERS],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        registers.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u32; LOCAL_APIC_REGISTERS], D::Error> {
        Vec::deserialize(deserializer)?
            .try_into()
            .map_err(|registers: Vec<u32>| {
                Error::invalid_length(registers.len(), &"the registers of a local APIC")
            })
    }
}

/// The local APICs of all vCPUs of an engine that has its own. Any thread may speak to them.
pub trait LocalApics: Send + Sync {
    /// Brings a message to whom it is for. What no APIC takes is lost, as on the wire.
    fn send(&self, address: u64, data: u32);

    /// What each pin of the IOAPIC sends, from pin 0 on, `None` where it is masked. Level-triggered ones are why it
    /// matters: their end comes as [`crate::Exit::EndOfInterrupt`].
    fn set_pins(&self, messages: &[Option<(u64, u32)>]);
}
