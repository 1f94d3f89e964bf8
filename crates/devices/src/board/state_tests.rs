//! A board is used as guests use it, written down, and brought back: the new one must go on as the old one does.

use std::sync::Arc;

use mem::GuestMemory;
use x86::{Gpa, msr};

use super::*;
use crate::clock::{GuestClock, Nanos};
use crate::irq::IrqSink;
use crate::layout::{self, port};
use crate::saved::proof::check_goes_on;
use crate::{Board, BoardPlan};

struct Nobody;

impl IrqSink for Nobody {
    fn notify(&self, _vcpu_id: u32) {}
}

fn board() -> Board {
    let plan = BoardPlan {
        vcpu_count: 2,
        clock: GuestClock {
            tsc_khz: 2_000_000,
            tsc_at_start: 1000,
            wall_at_start_ns: 1_700_000_000_000_000_000,
        },
        has_debug_exit: true,
    };
    let memory = Arc::new(GuestMemory::flat(1 << 20).unwrap());
    Board::new(plan, memory, Box::new(std::io::sink()), Arc::new(Nobody))
}

/// One place of a board that guests access.
#[derive(Clone, Copy)]
enum Place {
    /// Ports from here, so many.
    Ports(u16, u16),
    /// Registers of controllers in memory.
    Memory(Gpa, u64),
    /// Model-specific registers from here, so many.
    Msrs(u32, u32),
}

/// A guest that accesses `places` only, what and when as the words say.
struct Guest<'a> {
    places: &'a [Place],
    now: Nanos,
}

impl Guest<'_> {
    /// Accesses the board and tells all that the guest and the machine see of that.
    fn act(&mut self, board: &mut Board, word: u64) -> (u64, [Option<u64>; 4], Option<Nanos>) {
        let bits = |at: u32, count: u32| word >> at & ((1 << count) - 1);
        // From nothing over the length of a tick to a second.
        let nanos = 1_u64 << [0, 4, 10, 17, 21, 30][bits(0, 8) as usize % 6];
        self.now = self.now.after(nanos);
        let vcpu = bits(8, 1) as u32;
        let is_write = bits(9, 2) != 0;
        let value = if bits(11, 1) == 0 {
            bits(16, 8)
        } else {
            bits(16, 32)
        };
        let size = [1, 1, 2, 4][bits(12, 2) as usize];
        let place = self.places[bits(48, 8) as usize % self.places.len()];
        let offset = bits(56, 8);
        let read = match place {
            Place::Ports(first, count) => {
                let at = first + (offset % u64::from(count)) as u16;
                if is_write {
                    board.pio_write(self.now, at, size, value as u32);
                    0
                } else {
                    u64::from(board.pio_read(self.now, at, size))
                }
            }
            Place::Memory(first, bytes) => {
                let at = Gpa(first.0 + offset * 16 % bytes);
                if is_write {
                    board.mmio_write(vcpu, self.now, at, 4, value);
                    0
                } else {
                    board.mmio_read(vcpu, self.now, at, 4)
                }
            }
            Place::Msrs(first, count) => {
                let number = first + offset as u32 % count;
                if is_write {
                    u64::from(board.msr_write(vcpu, self.now, number, value).is_err())
                } else {
                    board.msr_read(vcpu, self.now, number).unwrap_or(u64::MAX)
                }
            }
        };
        if bits(14, 2) == 0 {
            board.advance(self.now);
        }
        let mut taken = [0, 1]
            .map(|vcpu| board.acknowledge(vcpu).map(u64::from))
            .to_vec();
        taken.push(Some(u64::from(board.take_nmi(vcpu))));
        let event = board
            .take_event()
            .map(|event| format!("{event:?}").len() as u64);
        taken.push(event);
        (read, taken.try_into().unwrap(), board.deadline())
    }
}

/// Repeatable numbers (xorshift64*).
fn words(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

fn check(name: &str, places: &[Place]) {
    for seed in 1..=24 {
        let mut old = board();
        let mut new = board();
        let mut guest = Guest {
            places,
            now: Nanos(0),
        };
        let mut words = words(seed ^ (name.len() as u64) << 32);
        for word in words.by_ref().take(500) {
            guest.act(&mut old, word);
        }
        let now = guest.now;
        let mut first = guest;
        let mut second = Guest { places, now };
        let mut is_old = false;
        check_goes_on(&mut old, &mut new, words.take(1000), |board, word| {
            is_old = !is_old;
            let guest = if is_old { &mut first } else { &mut second };
            guest.act(board, word)
        });
    }
}

#[test]
fn each_device_goes_on_where_it_was() {
    let pics = [
        Place::Ports(port::PIC_PRIMARY, 2),
        Place::Ports(port::PIC_SECONDARY, 2),
    ];
    let serial = Place::Ports(port::COM1, 8);
    let pit = [
        Place::Ports(port::PIT, 4),
        Place::Ports(port::SYSTEM_CONTROL_B, 1),
    ];
    let rtc = Place::Ports(port::RTC, 2);
    let keyboard = [
        Place::Ports(port::I8042_DATA, 1),
        Place::Ports(port::I8042_COMMAND, 1),
    ];
    let power = [
        Place::Ports(port::PM1_EVENT, 4),
        Place::Ports(port::PM1_CONTROL, 2),
        Place::Ports(port::PM_TIMER, 4),
        Place::Ports(port::GPE0, 4),
    ];
    let latches = [
        Place::Ports(port::POST, 16),
        Place::Ports(port::SYSTEM_CONTROL_A, 1),
    ];
    let apic = Place::Memory(layout::LOCAL_APIC, 0x400);
    let ioapic = Place::Memory(layout::IOAPIC, 0x20);
    let x2apic = [
        Place::Msrs(msr::APIC_BASE, 1),
        Place::Msrs(msr::X2APIC_BASE, 0x40),
        Place::Msrs(msr::TSC_DEADLINE, 1),
    ];
    let clock = [
        Place::Msrs(msr::KVM_SYSTEM_TIME, 1),
        Place::Msrs(msr::KVM_WALL_CLOCK, 1),
    ];
    let pci = Place::Ports(port::PCI_ADDRESS, 8);
    check("timer", &pit);
    check("keyboard controller", &keyboard);
    check("clock", &[rtc]);
    check("serial port", &[serial]);
    check("power management", &power);
    check("latches and control A", &latches);
    check("8259 pair under a timer", &[pics[0], pics[1], pit[0]]);
    check("IOAPIC", &[ioapic, rtc]);
    check("local APIC", &[apic]);
    check("local APIC by MSRs", &x2apic);
    check("paravirtual clock", &clock);
    check("PCI", &[pci]);
    let all = [
        &pics[..],
        &pit[..],
        &keyboard[..],
        &power[..],
        &latches[..],
        &x2apic[..],
        &clock[..],
        &[serial, rtc, apic, ioapic, pci],
    ];
    check("all at once", &all.concat());
}

#[test]
fn a_state_that_no_guest_could_make_is_refused() {
    let text = serde_json::to_string(&Saved::save(&board())).unwrap();
    let check = |from: &str, to: &str, expected: &str| {
        assert!(text.contains(from), "{from} in {text}");
        let state = serde_json::from_str(&text.replacen(from, to, 1)).unwrap();
        let refusal = board().restore(state).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{to}: {refusal}");
    };
    check(
        "\"reload\":65536",
        "\"reload\":0",
        "a channel without a count",
    );
    check("\"mode\":3", "\"mode\":9", "a channel without a count");
    check("\"start\":0", "\"start\":77", "in the future");
    check(
        "\"index\":0,\"offset_s\"",
        "\"index\":128,\"offset_s\"",
        "a register that is not there",
    );
    check(
        "\"next\":\"Keyboard\"",
        "\"next\":{\"Memory\":32}",
        "a place that is not there",
    );
    check(
        "\"kind\":\"Mouse\"",
        "\"kind\":\"Keyboard\"",
        "another keyboard or mouse",
    );
    check(
        "\"highest\":0",
        "\"highest\":8",
        "an input that is not there",
    );
    check(
        "\"asserted\":0",
        "\"asserted\":16777216",
        "a pin that is not there",
    );
    check(
        "\"id\":1,\"base\"",
        "\"id\":0,\"base\"",
        "the id of another",
    );
    check(
        "\"rose\":0",
        "\"rose\":16777216",
        "a line that is not there",
    );
    check(
        "\"received\":[]",
        &format!("\"received\":{:?}", [0; 17]),
        "more bytes",
    );
}
