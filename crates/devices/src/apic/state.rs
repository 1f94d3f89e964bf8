//! A local APIC as plain data: what goes with a guest that changes to an engine with local APICs of its own, and what
//! comes back.

use vcpu::{LOCAL_APIC_REGISTERS, LocalApicState};

use super::local::{LVT_MASKED, LocalApic, LvtEntry};
use super::registers;
use super::timer::TimerMode;
use super::vectors::VectorSet;
use crate::clock::Nanos;
use crate::saved::{Saved, Unfit, ensure};

impl LocalApic {
    /// All registers at `now`. Signals that wait (NMI, INIT, SIPI) are not among them: the vCPU takes those first.
    pub fn state(&self, now: Nanos) -> LocalApicState {
        let mut state = LocalApicState {
            base: self.base(),
            registers: [0; LOCAL_APIC_REGISTERS],
            tsc_deadline: self.timer.tsc_deadline(),
        };
        for (number, register) in (0..).zip(&mut state.registers) {
            *register = self.read_register(now, number).unwrap_or(0);
        }
        // In x2APIC mode the high half of the ICR is no register, and DFR is not there: they are kept all the same.
        state.registers[registers::DFR as usize] = self.dfr;
        state.registers[registers::ICR_HIGH as usize] = (self.icr >> 32) as u32;
        state
    }

    /// Becomes what `state` says at `now`. The id, the wires and what was counted stay.
    pub fn set_state(&mut self, state: &LocalApicState, now: Nanos) {
        let register = |number: u32| state.registers[number as usize];
        let words =
            |first: u32| -> [u32; 8] { std::array::from_fn(|n| register(first + n as u32)) };
        self.base = state.base;
        self.tpr = register(registers::TPR) as u8;
        self.ldr = register(registers::LDR);
        self.dfr = register(registers::DFR);
        self.svr = register(registers::SVR) & registers::SVR_MASK;
        self.esr = register(registers::ESR);
        self.errors = 0;
        self.icr =
            u64::from(register(registers::ICR_HIGH)) << 32 | u64::from(register(registers::ICR));
        for (at, entry) in (0..).zip(&mut self.lvt) {
            *entry = register(registers::LVT_FIRST + at)
                & (registers::lvt_mask(registers::lvt_entry(registers::LVT_FIRST + at))
                    | LVT_MASKED);
        }
        self.isr = VectorSet::of_words(words(registers::ISR));
        self.tmr = VectorSet::of_words(words(registers::TMR));
        self.irr = VectorSet::of_words(words(registers::IRR));
        self.update_x2apic_ids();
        let mode = TimerMode::of_lvt(self.lvt[LvtEntry::Timer as usize]);
        let divide = register(registers::DIVIDE);
        let initial = register(registers::INITIAL_COUNT);
        self.timer.restore(
            now,
            mode,
            divide,
            initial,
            register(registers::CURRENT_COUNT),
        );
        self.set_tsc_deadline(now, state.tsc_deadline);
    }
}

/// As it is among the board's own states: everything, also what waits and the phase of the timer. The engine's form
/// above has what the architecture shows.
impl Saved for LocalApic {
    type State = LocalApic;

    fn save(&self) -> LocalApic {
        self.clone()
    }

    fn restore(&mut self, state: LocalApic) -> Result<(), Unfit> {
        ensure(state.id == self.id, "local APIC", "the id of another")?;
        let clock = self.clock;
        *self = state;
        self.clock = clock;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::Message;
    use crate::clock::GuestClock;

    fn apic() -> LocalApic {
        LocalApic::new(
            0,
            GuestClock {
                tsc_khz: 1_000_000,
                tsc_at_start: 0,
                wall_at_start_ns: 0,
            },
        )
    }

    /// Writes registers of a page, takes an interrupt in, carries the state into another APIC.
    fn carried(base: u64, writes: &[(u64, u64)]) -> (LocalApic, LocalApic) {
        let mut from = apic();
        from.set_base(from.base() | base).unwrap();
        for &(number, value) in writes {
            if base & 1 << 10 != 0 {
                from.msr_write(Nanos(1000), 0x800 + number as u32, value)
                    .unwrap();
            } else {
                from.mmio_write(Nanos(1000), number << 4, 4, value);
            }
        }
        for vector in [0x41, 0x95] {
            from.receive(&Message::of_msi(0xfee0_0000, vector | 1 << 15).unwrap());
        }
        from.acknowledge();
        let mut to = apic();
        to.set_state(&from.state(Nanos(2000)), Nanos(2000));
        (from, to)
    }

    #[test]
    fn what_is_carried_is_what_is_read() {
        let check = |base, writes: &[(u64, u64)]| {
            let (from, to) = carried(base, writes);
            assert_eq!(
                to.state(Nanos(2000)),
                from.state(Nanos(2000)),
                "{base:#x} {writes:x?}"
            );
            assert_eq!(
                (to.pending(), to.deadline()),
                (from.pending(), from.deadline())
            );
        };
        check(0, &[(0xf, 0x1ff), (0x8, 0x20), (0xd, 0x0200_0000)]);
        // One-shot and periodic, half a count gone.
        check(
            0,
            &[(0xf, 0x1ff), (0x3e, 0xb), (0x32, 0x2_00ec), (0x38, 50_000)],
        );
        check(0, &[(0xf, 0x1ff), (0x3e, 0xb), (0x32, 0xec), (0x38, 2000)]);
        // By 2, so that no part of a tick is left over.
        check(
            1 << 10,
            &[
                (0xf, 0x1ff),
                (0x8, 0x30),
                (0x3e, 0),
                (0x32, 0x2_00ec),
                (0x38, 77_000),
            ],
        );
        check(1 << 10, &[(0xf, 0x1ff), (0x36, 0x1_0700), (0x33, 0x1_0000)]);
    }

    #[test]
    fn a_deadline_goes_on() {
        let mut from = apic();
        from.mmio_write(Nanos(0), 0xf0, 4, 0x1ff);
        from.mmio_write(Nanos(0), 0x320, 4, 0x4_00ec);
        from.msr_write(Nanos(0), x86::msr::TSC_DEADLINE, 5000)
            .unwrap();
        let mut to = apic();
        to.set_state(&from.state(Nanos(10)), Nanos(10));
        assert_eq!(
            (to.deadline(), to.deadline().is_some()),
            (from.deadline(), true)
        );
        assert!(to.advance(Nanos(5001)));
        assert_eq!(to.pending(), Some(0xec));
    }
}
