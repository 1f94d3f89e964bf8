//! The board with every device of its own, against a guest that somebody has changed: ports, memory and registers of models, PCI
//! configuration both ways, and time that passes. Each target begins with what drivers do to one of them; they end up at all.

use std::sync::Arc;

use devices::virtio::entropy::Entropy;
use devices::virtio::{
    Broken, DeviceMetrics, Links, RunningWorkers, SendMsi, StartWorkers, VirtioFunction, Worker,
};
use devices::{Board, BoardPlan, GuestClock, IrqSink, Nanos};
use mem::GuestMemory;
use x86::Gpa;

use super::Target;
use super::script::{Step, steps, target};

const VCPUS: u32 = 2;
/// No guest lives longer.
const TIME_MAX: u64 = 1 << 61;
const MEMORY_BYTES: u64 = 1 << 20;

/// Kinds of steps. The vCPU is bit 7 of `size`.
mod kind {
    /// `value` to port `small`.
    pub(super) const OUT: u8 = 0;
    pub(super) const IN: u8 = 1;
    /// `value` to `place`, which counts from 0xc0000000 on.
    pub(super) const STORE: u8 = 2;
    pub(super) const LOAD: u8 = 3;
    /// `value` into MSR `place`.
    pub(super) const WRITE_MSR: u8 = 4;
    pub(super) const READ_MSR: u8 = 5;
    /// So many nanoseconds pass.
    pub(super) const PASS: u8 = 6;
    /// The vCPU takes interrupts.
    pub(super) const TAKE: u8 = 7;
    /// Somebody types, presses the button, or reads the console slowly.
    pub(super) const OUTSIDE: u8 = 8;
    /// A message of a device's: to `place`, with `value`.
    pub(super) const MESSAGE: u8 = 9;
    pub(super) const COUNT: u8 = 10;
}

/// Where what a guest can reach beyond its memory begins.
const HIGH: u64 = 0xc000_0000;

struct Nobody;

impl IrqSink for Nobody {
    fn notify(&self, _vcpu_id: u32) {}
}

impl SendMsi for Nobody {
    fn send_msi(&self, _address: u64, _data: u32) {}

    fn pin_changed(&self) {}
}

/// Has the workers of a device gone before they begin: their work is for other targets.
struct Idle;

impl devices::virtio::Doorbell for Idle {
    fn notify(&self, _queue: u16) {}
}

impl RunningWorkers for Idle {
    fn stop(&mut self) {}

    fn have_stopped(&self) -> bool {
        true
    }

    fn take_broken(&mut self) -> Option<Broken> {
        None
    }

    fn save(&self) -> Vec<devices::virtio::WorkerState> {
        Vec::new()
    }
}

impl StartWorkers for Nobody {
    fn start(
        &self,
        _name: &str,
        _workers: Vec<Box<dyn Worker>>,
        _metrics: &Arc<DeviceMetrics>,
        _on_broken: Box<dyn Fn(&Broken) + Send + Sync>,
    ) -> Box<dyn RunningWorkers> {
        Box::new(Idle)
    }
}

/// A board with a function on its bus.
fn board() -> anyhow::Result<Board> {
    let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES)?);
    let plan = BoardPlan {
        vcpu_count: VCPUS,
        clock: GuestClock {
            tsc_khz: 2_000_000,
            tsc_at_start: 1000,
            wall_at_start_ns: 1_700_000_000_000_000_000,
        },
        has_debug_exit: true,
    };
    let links = Links {
        memory: Arc::clone(&memory),
        interrupts: Arc::new(Nobody),
        threads: Arc::new(Nobody),
    };
    let mut board = Board::new(plan, memory, Box::new(std::io::sink()), Arc::new(Nobody));
    let function = VirtioFunction::new(3, Box::new(Entropy::new(Arc::default())), links);
    board.pci().add(3, 0, Box::new(function));
    Ok(board)
}

/// Does all steps; whether a device answered, and time has not gone wrong.
fn play(input: &[u8]) -> bool {
    let Ok(mut board) = board() else { return false };
    let mut now = Nanos(0);
    for step in steps(input) {
        now = now.after(100);
        if step.kind % kind::COUNT == kind::PASS {
            // Up to a century: the clock's own end is in half a thousand years.
            now = Nanos(now.after(step.value >> (step.size & 63)).0.min(TIME_MAX));
        }
        act(&mut board, step, now);
        let _ = board.take_event();
        // Whoever waits for this comes again, and something has to be different then.
        for _ in 0..64 {
            match board.deadline() {
                Some(at) if at <= now => board.advance(now),
                _ => break,
            }
        }
        assert!(
            board.deadline().is_none_or(|at| at > now),
            "a deadline that has passed stays"
        );
    }
    let counters = board.counters();
    let answered =
        counters.pio.reads + counters.pio.writes + counters.mmio.reads + counters.mmio.writes;
    let missed = counters.pio.unmapped_reads
        + counters.pio.unmapped_writes
        + counters.mmio.unmapped_reads
        + counters.mmio.unmapped_writes;
    answered > missed || counters.core_accesses + counters.msr_accesses > counters.msr_faults
}

fn act(board: &mut Board, step: Step, now: Nanos) {
    let vcpu = u32::from(step.size >> 7) % VCPUS;
    let width = step.width();
    let high = Gpa(HIGH.wrapping_add(step.place.into()));
    match step.kind % kind::COUNT {
        kind::OUT => board.pio_write(now, step.small, width.min(4), step.value as u32),
        kind::IN => drop(board.pio_read(now, step.small, width.min(4))),
        kind::STORE => board.mmio_write(vcpu, now, high, width, step.value),
        kind::LOAD => drop(board.mmio_read(vcpu, now, high, width)),
        kind::WRITE_MSR => drop(board.msr_write(vcpu, now, step.place, step.value)),
        kind::READ_MSR => drop(board.msr_read(vcpu, now, step.place)),
        kind::PASS => board.advance(now),
        kind::TAKE => {
            for _ in 0..8 {
                if board.has_interrupt(vcpu)
                    && let Some(vector) = board.acknowledge(vcpu)
                {
                    board.end_of_interrupt(vector);
                }
            }
            board.take_startup(vcpu);
            board.take_nmi(vcpu);
        }
        kind::OUTSIDE => match step.small % 3 {
            0 => drop(board.type_console(now, &step.value.to_le_bytes())),
            1 => board.press_power_button(now),
            _ => board.slow_console(now, step.value & 1 != 0),
        },
        _ => {
            board.send_msi(step.place.into(), step.value as u32);
            board.look_at_pci_lines();
        }
    }
}

/// A guest that does what drivers do.
#[derive(Default)]
struct Guest(Vec<Step>);

impl Guest {
    fn step(&mut self, kind: u8, size: u8, small: u16, place: u32, value: u64) -> &mut Guest {
        self.0.push(Step {
            kind,
            size,
            small,
            place,
            value,
        });
        self
    }

    fn out(&mut self, port: u16, values: &[u8]) -> &mut Guest {
        for value in values {
            self.step(kind::OUT, 0, port, 0, u64::from(*value));
        }
        self
    }

    fn read(&mut self, port: u16, count: usize) -> &mut Guest {
        for _ in 0..count {
            self.step(kind::IN, 0, port, 0, 0);
        }
        self
    }

    fn store(&mut self, at: u32, value: u64) -> &mut Guest {
        self.step(kind::STORE, 2, 0, at.wrapping_sub(HIGH as u32), value);
        self.step(kind::LOAD, 2, 0, at.wrapping_sub(HIGH as u32), 0)
    }

    fn msr(&mut self, number: u32, value: u64) -> &mut Guest {
        self.step(kind::WRITE_MSR, 0, 0, number, value);
        self.step(kind::READ_MSR, 0, 0, number, 0)
    }

    fn pass(&mut self, nanoseconds: u64) -> &mut Guest {
        self.step(kind::PASS, 0, 0, 0, nanoseconds);
        self.step(kind::TAKE, 0, 0, 0, 0)
    }
}

fn of(work: impl Fn(&mut Guest)) -> Vec<Vec<Step>> {
    let mut guest = Guest::default();
    work(&mut guest);
    vec![guest.0]
}

/// All of them.
pub(super) fn targets() -> Vec<Target> {
    vec![
        target("serial", of(serial), play),
        target("pic", of(pics), play),
        target("pit", of(pit), play),
        target("rtc", of(rtc), play),
        target("i8042", of(keyboard), play),
        target("pm", of(power), play),
        target("ioapic", of(ioapic), play),
        target("lapic", of(lapic), play),
        target("pci", of(pci), play),
        target("kvmclock", of(clock), play),
    ]
}

/// As Linux sets a port up: divisor, FIFOs, interrupts, loopback; then bytes both ways.
fn serial(guest: &mut Guest) {
    guest
        .out(0x3fb, &[0x80])
        .out(0x3f8, &[1])
        .out(0x3f9, &[0])
        .out(0x3fb, &[3])
        .out(0x3fa, &[0xc7])
        .out(0x3fc, &[0x1b, 0x0b])
        .out(0x3f9, &[0x0f])
        .out(0x3f8, b"hello");
    guest
        .step(kind::OUTSIDE, 0, 0, 0, u64::from_le_bytes(*b"typed..."))
        .pass(1_000_000);
    guest
        .read(0x3fa, 2)
        .read(0x3f8, 8)
        .read(0x3fd, 1)
        .read(0x3fe, 1);
    guest
        .step(kind::OUTSIDE, 0, 2, 0, 1)
        .out(0x3f8, b"slow")
        .pass(1_000_000);
}

/// Both controllers' initialization, masks, polls, ends of interrupts.
fn pics(guest: &mut Guest) {
    guest
        .out(0x20, &[0x11])
        .out(0xa0, &[0x11])
        .out(0x21, &[0x20, 4, 1, 0])
        .out(0xa1, &[0x28, 2, 1, 0])
        .out(0x4d0, &[0x20])
        .out(0x4d1, &[0x0c])
        .out(0x43, &[0x34])
        .out(0x40, &[0, 4])
        .pass(10_000_000);
    guest
        .out(0x20, &[0x0a, 0x0b, 0x0c, 0x60, 0x20, 0x68, 0x80])
        .out(0xa0, &[0x0b, 0x20]);
    guest.read(0x20, 2).read(0xa0, 1).read(0x21, 1);
}

/// Each counter in each mode, latched and read.
fn pit(guest: &mut Guest) {
    for mode in 0..6 {
        for counter in 0..3 {
            guest.out(0x43, &[counter << 6 | 0x30 | mode << 1]);
            guest
                .out(0x40 + u16::from(counter), &[0x10, 0x27])
                .pass(3_000_000);
        }
    }
    guest.out(0x61, &[1, 3]).out(0x43, &[0x00, 0xe2, 0xce]);
    guest
        .read(0x40, 3)
        .read(0x42, 3)
        .read(0x61, 2)
        .pass(1 << 40);
}

/// All registers, alarms, periodic interrupts, and a date that is none.
fn rtc(guest: &mut Guest) {
    for register in 0..0x40 {
        guest.out(0x70, &[register]).read(0x71, 1);
    }
    for (register, value) in [
        (0x0a, 0x26),
        (0x0b, 0x72),
        (1, 5),
        (3, 0xc0),
        (5, 0xff),
        (0x0b, 0xf2),
        (7, 0x31),
        (8, 2),
        (9, 0xff),
        (0x32, 0x99),
    ] {
        guest
            .out(0x70, &[register])
            .out(0x71, &[value])
            .pass(500_000_000);
    }
    guest
        .out(0x70, &[0x0c])
        .read(0x71, 2)
        .pass(86_400_000_000_000);
}

/// Self-test, ports enabled, a reset by the controller.
fn keyboard(guest: &mut Guest) {
    guest
        .read(0x64, 1)
        .out(0x64, &[0xaa])
        .read(0x60, 1)
        .out(0x64, &[0x60])
        .out(0x60, &[0x47]);
    guest
        .out(0x64, &[0xd4])
        .out(0x60, &[0xf2, 0xff])
        .read(0x60, 4)
        .out(0x60, &[0xf4, 0xed, 2])
        .read(0x60, 3);
    guest
        .out(0x64, &[0xd1])
        .out(0x60, &[3])
        .out(0x64, &[0xfe])
        .out(0x92, &[3]);
}

/// ACPI's registers: events, the timer, the button, sleep.
fn power(guest: &mut Guest) {
    for port in [0x600, 0x602, 0x604, 0x620, 0x622] {
        guest
            .step(kind::IN, 1, port, 0, 0)
            .step(kind::OUT, 1, port, 0, 0x0121);
    }
    guest.step(kind::OUTSIDE, 0, 1, 0, 0).pass(1 << 33);
    guest
        .step(kind::IN, 2, 0x608, 0, 0)
        .step(kind::OUT, 1, 0x604, 0, 0x3400)
        .out(0xf4, &[7]);
}

/// Entries of every kind, and lines that reach them.
fn ioapic(guest: &mut Guest) {
    for entry in 0..24 {
        guest.store(0xfec0_0000, 0x10 + 2 * entry).store(
            0xfec0_0010,
            (0x40 + entry) | (entry & 7) << 8 | (entry & 3) << 13,
        );
        guest
            .store(0xfec0_0000, 0x11 + 2 * entry)
            .store(0xfec0_0010, (entry & 1) << 24);
    }
    guest
        .store(0xfee0_00f0, 0x1ff)
        .out(0x43, &[0x34])
        .out(0x40, &[0, 4])
        .pass(20_000_000);
    guest
        .step(kind::MESSAGE, 0, 0, 0xfee0_1000, 0x4055)
        .store(0xfec0_0040, 0x41)
        .pass(1000);
}

/// Timer in all its modes, interrupts to oneself and to others, by memory and by MSR.
fn lapic(guest: &mut Guest) {
    guest
        .msr(0x1b, 0xfee0_0900)
        .store(0xfee0_00f0, 0x1ff)
        .store(0xfee0_03e0, 0xb);
    for mode in [0, 0x2_0000, 0x4_0000] {
        guest
            .store(0xfee0_0320, mode | 0xec)
            .store(0xfee0_0380, 1000)
            .msr(0x6e0, 5000)
            .pass(1_000_000);
    }
    guest
        .store(0xfee0_0310, 1 << 24)
        .store(0xfee0_0300, 0xc4500)
        .store(0xfee0_0300, 0x4608)
        .store(0xfee0_0080, 0x20);
    guest
        .msr(0x1b, 0xfee0_0d00)
        .msr(0x80f, 0x1ff)
        .msr(0x830, 0x1_0000_0041)
        .msr(0x83f, 0x42)
        .msr(0x80b, 0);
    for register in 0x800..0x840 {
        guest.step(kind::READ_MSR, 0x80, 0, register, 0);
    }
    guest.pass(1_000_000);
}

/// All functions by both mechanisms, a window that is moved and used, messages, a reset.
fn pci(guest: &mut Guest) {
    for device in 0..5_u64 {
        for register in [0, 4, 8, 0x10, 0x2c, 0x34, 0x3c, 0x40] {
            let address = 0x8000_0000 | device << 11 | register;
            guest
                .step(kind::OUT, 2, 0xcf8, 0, address)
                .step(kind::IN, 2, 0xcfc, 0, 0);
            guest.store(0xe000_0000 + (device << 15 | register) as u32, 0xffff_ffff);
        }
    }
    guest
        .store(0xe001_8004, 0x406)
        .store(0xe001_8010, 0xd000_0000)
        .store(0xd000_0014, 1)
        .store(0xd000_4000, 0xfee0_0000);
    guest
        .store(0xe001_8040, 0x8000_0000)
        .store(0xd000_3000, 0)
        .out(0xcf9, &[2, 6]);
}

/// Both clocks' pages, in memory and out of it.
fn clock(guest: &mut Guest) {
    for at in [0x1001, 0xf_fff1, 0xffff_ffff_0000_0001, 0] {
        guest
            .msr(0x4b56_4d01, at)
            .msr(0x4b56_4d00, at & !1)
            .pass(1 << 30);
    }
    guest
        .msr(0x10, 77)
        .msr(0x3b, u64::MAX)
        .msr(0x6e0, u64::MAX)
        .pass(1 << 45);
}
