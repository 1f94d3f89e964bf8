//! Interrupt messages: what an IOAPIC, an MSI or another local APIC sends, and whom it is for (SDM vol. 3, 11.6, 11.11).

use x86::Vector;

/// What the receiver is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Take the vector.
    Fixed,
    /// One of the receivers, the one with the least to do, takes the vector.
    LowestPriority,
    /// System management interrupt: there is no such mode here.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Startup, with the vector as page number.
    Startup,
    /// Ask the 8259 pair for the vector.
    ExtInt,
}

impl Delivery {
    /// From the three bits that ICR, LVT, redirection entries and MSI data have in common; `None` if reserved.
    pub fn of_bits(bits: u32) -> Option<Delivery> {
        match bits & 7 {
            0 => Some(Delivery::Fixed),
            1 => Some(Delivery::LowestPriority),
            2 => Some(Delivery::Smi),
            4 => Some(Delivery::Nmi),
            5 => Some(Delivery::Init),
            6 => Some(Delivery::Startup),
            7 => Some(Delivery::ExtInt),
            _ => None,
        }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The APIC with this id.
    Physical(u32),
    /// APICs whose logical destination register matches.
    Logical(u32),
    /// The sender itself.
    SelfOnly,
    /// Every local APIC, the sender's too.
    All,
    /// Everybody but the sender.
    AllButSelf,
}

impl Destination {
    /// From the 8-bit field of xAPIC, IOAPIC and MSI.
    pub fn of_byte(id: u8, is_logical: bool) -> Destination {
        match (id, is_logical) {
            (0xff, _) => Destination::All,
            (_, true) => Destination::Logical(u32::from(id)),
            (_, false) => Destination::Physical(u32::from(id)),
        }
    }

    /// From the 32-bit field of x2APIC.
    pub fn of_word(id: u32, is_logical: bool) -> Destination {
        match (id, is_logical) {
            (u32::MAX, _) => Destination::All,
            (_, true) => Destination::Logical(id),
            (_, false) => Destination::Physical(id),
        }
    }
}

/// An interrupt on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// What to do.
    pub delivery: Delivery,
    /// With which vector.
    pub vector: Vector,
    /// The local APICs that it is for.
    pub destination: Destination,
    /// Whether an end-of-interrupt has to be told to the IOAPIC.
    pub is_level: bool,
}

impl Message {
    /// From a message-signalled interrupt's address and data (SDM vol. 3, 11.11); `None` if it is not one.
    pub fn of_msi(address: u64, data: u32) -> Option<Message> {
        if address >> 20 != 0xfee {
            return None;
        }
        Some(Message {
            delivery: Delivery::of_bits(data >> 8)?,
            vector: data as u8,
            destination: Destination::of_byte((address >> 12) as u8, address & 4 != 0),
            is_level: data & 1 << 15 != 0,
        })
    }

    /// As a message-signalled interrupt: what engines with local APICs of their own are told. `None` for what has no such
    /// form: shorthands, and ids of more than eight bits.
    pub fn to_msi(&self) -> Option<(u64, u32)> {
        let (id, logical) = match self.destination {
            Destination::All => (0xff, false),
            Destination::Physical(id) => (id, false),
            Destination::Logical(id) => (id, true),
            Destination::SelfOnly | Destination::AllButSelf => return None,
        };
        let id = u64::from(u8::try_from(id).ok()?);
        let delivery = match self.delivery {
            Delivery::Fixed => 0,
            Delivery::LowestPriority => 1,
            Delivery::Smi => 2,
            Delivery::Nmi => 4,
            Delivery::Init => 5,
            Delivery::Startup => 6,
            Delivery::ExtInt => 7,
        };
        let address = 0xfee0_0000 | id << 12 | u64::from(logical) << 2;
        // A level-triggered message is an assertion.
        let trigger = if self.is_level { 1 << 15 | 1 << 14 } else { 0 };
        Some((address, u32::from(self.vector) | delivery << 8 | trigger))
    }

    /// From an interrupt command register (SDM vol. 3, 11.6.1); `None` for what is nothing to do: INIT level
    /// de-assert, which only old processors know, and reserved modes.
    pub fn of_icr(icr: u64, is_x2apic: bool) -> Option<Message> {
        let low = icr as u32;
        let delivery = Delivery::of_bits(low >> 8)?;
        let is_assert = low & 1 << 14 != 0;
        let is_level = low & 1 << 15 != 0;
        if delivery == Delivery::Init && is_level && !is_assert {
            return None;
        }
        let is_logical = low & 1 << 11 != 0;
        let destination = match low >> 18 & 3 {
            1 => Destination::SelfOnly,
            2 => Destination::All,
            3 => Destination::AllButSelf,
            _ if is_x2apic => Destination::of_word((icr >> 32) as u32, is_logical),
            _ => Destination::of_byte((icr >> 56) as u8, is_logical),
        };
        // Interprocessor interrupts are edges, whatever the trigger bit says (SDM vol. 3, table 11-3).
        Some(Message {
            delivery,
            vector: low as u8,
            destination,
            is_level: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_register_says_who_and_what() {
        let check = |icr, is_x2apic, expected: Option<(Delivery, Vector, Destination)>| {
            let message = Message::of_icr(icr, is_x2apic);
            let seen =
                message.map(|message| (message.delivery, message.vector, message.destination));
            assert_eq!(seen, expected, "{icr:#x}");
        };
        check(
            0x0300_0000_0000_00fd,
            false,
            Some((Delivery::Fixed, 0xfd, Destination::Physical(3))),
        );
        check(
            0x0000_0003_0000_00fd,
            true,
            Some((Delivery::Fixed, 0xfd, Destination::Physical(3))),
        );
        check(
            0xff00_0000_0000_0400,
            false,
            Some((Delivery::Nmi, 0, Destination::All)),
        );
        check(
            0x0000_00ff_0000_0400,
            true,
            Some((Delivery::Nmi, 0, Destination::Physical(255))),
        );
        check(
            0x0500_0000_0000_0830,
            false,
            Some((Delivery::Fixed, 0x30, Destination::Logical(5))),
        );
        check(
            0x000c_4500,
            false,
            Some((Delivery::Init, 0, Destination::AllButSelf)),
        );
        check(0x0000_8500, false, None);
        check(
            0x000c_0699,
            false,
            Some((Delivery::Startup, 0x99, Destination::AllButSelf)),
        );
        check(
            0x0004_0020,
            false,
            Some((Delivery::Fixed, 0x20, Destination::SelfOnly)),
        );
        check(0x0000_0300, false, None);
    }

    #[test]
    fn only_the_interrupt_range_is_a_message_address() {
        let check = |address, data, expected: Option<(Vector, Destination, bool)>| {
            let message = Message::of_msi(address, data);
            let seen =
                message.map(|message| (message.vector, message.destination, message.is_level));
            assert_eq!(seen, expected, "{address:#x} {data:#x}");
        };
        check(
            0xfee0_1000,
            0x41,
            Some((0x41, Destination::Physical(1), false)),
        );
        check(
            0xfee0_3004,
            0x8141,
            Some((0x41, Destination::Logical(3), true)),
        );
        check(0xfed0_1000, 0x41, None);
        check(0x1_fee0_1000, 0x41, None);
    }
}
