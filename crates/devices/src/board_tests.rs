//! The board as kernels meet it, and as hostile guests do.

use std::sync::Mutex;

use super::*;

/// Notes who was told.
#[derive(Default)]
struct Told(Mutex<Vec<u32>>);

impl IrqSink for Told {
    fn notify(&self, vcpu_id: u32) {
        self.0.lock().unwrap().push(vcpu_id);
    }
}

const CLOCK: GuestClock = GuestClock {
    tsc_khz: 2_000_000,
    tsc_at_start: 1000,
    wall_at_start_ns: 0,
};

fn board(vcpu_count: u32) -> (Board, Arc<Told>) {
    let plan = BoardPlan {
        vcpu_count,
        clock: CLOCK,
        has_debug_exit: true,
    };
    let told = Arc::new(Told::default());
    let memory = Arc::new(GuestMemory::flat(1 << 20).unwrap());
    let sink: Arc<dyn IrqSink> = Arc::<Told>::clone(&told);
    (
        Board::new(plan, memory, Box::new(std::io::sink()), sink),
        told,
    )
}

const MILLISECOND: u64 = 1_000_000;

/// A guest's view of a board: writes what drivers write.
struct Guest {
    board: Board,
    told: Arc<Told>,
    now: Nanos,
}

impl Guest {
    fn new(vcpu_count: u32) -> Guest {
        let (board, told) = board(vcpu_count);
        Guest {
            board,
            told,
            now: Nanos(0),
        }
    }

    fn out(&mut self, at: u16, values: &[u8]) {
        values
            .iter()
            .for_each(|&value| self.board.pio_write(self.now, at, 1, u32::from(value)));
    }

    fn input(&mut self, at: u16) -> u8 {
        self.board.pio_read(self.now, at, 1) as u8
    }

    /// As Linux initialises them: vectors from 0x30, everything masked but these lines.
    fn set_up_pics(&mut self, unmasked: u16) {
        self.out(0x20, &[0x11]);
        self.out(0x21, &[0x30, 4, 1, !unmasked as u8]);
        self.out(0xa0, &[0x11]);
        self.out(0xa1, &[0x38, 2, 1, (!unmasked >> 8) as u8]);
    }

    fn ioapic_entry(&mut self, pin: u64, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            self.store(0, 0xfec0_0000, 0x10 + 2 * pin + half);
            self.store(0, 0xfec0_0010, value);
        }
    }

    fn store(&mut self, vcpu_id: u32, gpa: u64, value: u64) {
        self.board.mmio_write(vcpu_id, self.now, Gpa(gpa), 4, value);
    }

    fn load(&mut self, vcpu_id: u32, gpa: u64) -> u64 {
        self.board.mmio_read(vcpu_id, self.now, Gpa(gpa), 4)
    }

    fn apic(&mut self, vcpu_id: u32, offset: u64, value: u64) {
        self.store(vcpu_id, 0xfee0_0000 + offset, value);
    }

    fn enable_apics(&mut self, vcpu_count: u32) {
        (0..vcpu_count).for_each(|vcpu_id| self.apic(vcpu_id, 0xf0, 0x1ff));
    }

    /// Lets time pass, somebody watching every deadline.
    fn pass(&mut self, ns: u64) {
        let end = self.now.after(ns);
        while let Some(at) = self.board.deadline().filter(|at| *at <= end) {
            self.board.advance(at);
        }
        self.board.advance(end);
        self.now = end;
    }

    fn told(&self) -> Vec<u32> {
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }
}

#[test]
fn the_timer_interrupts_through_the_8259_pair_as_firmware_left_it() {
    let mut guest = Guest::new(1);
    guest.set_up_pics(1);
    guest.out(0x43, &[0x34]);
    guest.out(0x40, &[0xa9, 0x04]);
    guest.pass(2 * MILLISECOND);
    assert!(guest.told().contains(&0));
    assert!(guest.board.has_interrupt(0));
    assert_eq!(guest.board.acknowledge(0), Some(0x30));
    assert!(!guest.board.has_interrupt(0), "in service");
    guest.out(0x20, &[0x20]);
    guest.pass(2 * MILLISECOND);
    assert_eq!(guest.board.acknowledge(0), Some(0x30));
}

#[test]
fn the_timer_interrupts_through_ioapic_pin_2() {
    let mut guest = Guest::new(1);
    guest.set_up_pics(0);
    guest.enable_apics(1);
    guest.ioapic_entry(2, 0x31);
    guest.out(0x43, &[0x34]);
    guest.out(0x40, &[0xa9, 0x04]);
    guest.pass(2 * MILLISECOND);
    assert_eq!(guest.board.acknowledge(0), Some(0x31));
    guest.apic(0, 0xb0, 0);
    assert_eq!(guest.board.acknowledge(0), None);
    guest.pass(2 * MILLISECOND);
    assert_eq!(guest.board.acknowledge(0), Some(0x31));
}

#[test]
fn a_typed_byte_interrupts_through_pin_4() {
    let mut guest = Guest::new(1);
    guest.ioapic_entry(4, 0x41);
    guest.out(0x3fc, &[0x0b]);
    guest.out(0x3f9, &[0x01]);
    assert_eq!(guest.board.type_console(guest.now, b"x"), 1);
    assert_eq!(guest.told(), [0]);
    assert_eq!(guest.board.acknowledge(0), Some(0x41));
    assert_eq!(guest.input(0x3f8), b'x');
}

#[test]
fn the_power_button_is_a_level_that_stays_until_answered() {
    let mut guest = Guest::new(1);
    guest.ioapic_entry(9, 0x8051);
    guest.out(0x603, &[0x01]);
    guest.board.press_power_button(guest.now);
    for _ in 0..3 {
        assert_eq!(guest.board.acknowledge(0), Some(0x51));
        guest.apic(0, 0xb0, 0);
    }
    guest.out(0x601, &[0x01]);
    assert_eq!(
        guest.board.acknowledge(0),
        Some(0x51),
        "sent at the last end"
    );
    guest.apic(0, 0xb0, 0);
    assert!(!guest.board.has_interrupt(0));
}

#[test]
fn every_way_to_end_the_vm_works() {
    let check = |name, at, size, values: &[u32], expected| {
        let mut guest = Guest::new(1);
        values
            .iter()
            .for_each(|&value| guest.board.pio_write(guest.now, at, size, value));
        assert_eq!(guest.board.take_event(), expected, "{name}");
        assert_eq!(guest.board.take_event(), None, "{name}: taken once");
    };
    check("ACPI", 0x604, 2, &[0x3401], Some(BoardEvent::PowerOff));
    check("0xcf9", 0xcf9, 1, &[0x02, 0x06], Some(BoardEvent::Reset));
    check(
        "keyboard controller",
        0x64,
        1,
        &[0xfe],
        Some(BoardEvent::Reset),
    );
    check("fast reset", 0x92, 1, &[0x01], Some(BoardEvent::Reset));
    check(
        "debug exit",
        0xf4,
        4,
        &[0x10],
        Some(BoardEvent::DebugExit(0x21)),
    );
    check(
        "debug exit, a byte",
        0xf4,
        1,
        &[0],
        Some(BoardEvent::DebugExit(1)),
    );
    check("nothing", 0x80, 1, &[0xfe], None);
}

#[test]
fn two_vcpus_interrupt_each_other() {
    let mut guest = Guest::new(2);
    guest.enable_apics(2);
    guest.apic(0, 0x310, 1 << 24);
    guest.apic(0, 0x300, 0x40fd);
    assert_eq!(guest.told(), [1]);
    assert_eq!(
        (guest.board.acknowledge(0), guest.board.acknowledge(1)),
        (None, Some(0xfd))
    );
    guest.apic(1, 0x300, 0xc_4020);
    assert_eq!(guest.board.acknowledge(0), Some(0x20), "all but self");
    guest.apic(0, 0x300, 0xc_0400);
    assert!(guest.board.take_nmi(1));
    assert!(!guest.board.take_nmi(1) && !guest.board.take_nmi(0));
}

#[test]
fn a_second_vcpu_is_started_as_linux_does() {
    let mut guest = Guest::new(2);
    guest.apic(0, 0x310, 1 << 24);
    for command in [0xc500, 0x8500, 0x0699, 0x0699] {
        guest.apic(0, 0x300, command);
    }
    assert!(guest.told().contains(&1));
    assert_eq!(guest.board.take_startup(1), Some(Startup::Init));
    assert_eq!(guest.board.take_startup(1), Some(Startup::Sipi(0x99)));
    assert_eq!(guest.board.take_startup(1), None);
    assert_eq!(guest.board.take_startup(0), None);
}

#[test]
fn messages_from_devices_arrive() {
    let mut guest = Guest::new(2);
    guest.enable_apics(2);
    guest.board.send_msi(0xfee0_1000, 0x62);
    assert_eq!(guest.board.acknowledge(1), Some(0x62));
    guest.board.send_msi(0x1000, 0x62);
    assert!(!guest.board.has_interrupt(0) && !guest.board.has_interrupt(1));
}

#[test]
fn the_lowest_priority_goes_to_whom_has_least_to_do() {
    let mut guest = Guest::new(2);
    guest.enable_apics(2);
    (0..2).for_each(|vcpu_id| guest.apic(vcpu_id, 0xd0, 1 << (24 + vcpu_id)));
    guest.apic(0, 0x80, 0x20);
    guest.ioapic_entry(4, 0x0300_0000_0000_0941);
    guest.out(0x3fc, &[0x08]);
    guest.out(0x3f9, &[0x02]);
    assert_eq!(
        (guest.board.acknowledge(0), guest.board.acknowledge(1)),
        (None, Some(0x41))
    );
}

#[test]
fn a_deadline_that_has_passed_interrupts_at_once() {
    let mut guest = Guest::new(1);
    guest.enable_apics(1);
    guest.apic(0, 0x320, 0x400ec);
    guest.now = Nanos(MILLISECOND);
    guest
        .board
        .msr_write(0, guest.now, msr::TSC_DEADLINE, 1001)
        .unwrap();
    assert_eq!(guest.board.acknowledge(0), Some(0xec));
}

/// How far a guest moves its TSC, which is 1000 + 2 * time, and when a deadline at 9000 then comes; and whether it is set
/// before or after.
#[test]
fn a_deadline_waits_for_the_tsc_that_the_guest_has_moved() {
    let check = |moved: i64, expected: Option<u64>, is_set_before: bool| {
        let mut guest = Guest::new(1);
        guest.enable_apics(1);
        guest.apic(0, 0x320, 0x400ec);
        guest.now = Nanos(1000);
        let mut writes = [(msr::TSC_ADJUST, moved as u64), (msr::TSC_DEADLINE, 9000)];
        if is_set_before {
            writes.reverse();
        }
        for (number, value) in writes {
            guest.board.msr_write(0, guest.now, number, value).unwrap();
        }
        let name = format!("moved by {moved}, set before: {is_set_before}");
        // Other timers of the board are later than that.
        let deadline = guest.board.deadline().filter(|at| at.0 < 10_000);
        assert_eq!(deadline, expected.map(Nanos), "{name}");
        let has_come = guest.board.acknowledge(0);
        assert_eq!(has_come, expected.is_none().then_some(0xec), "{name}");
        let left = guest.board.msr_read(0, guest.now, msr::TSC_DEADLINE);
        assert_eq!(left, Ok(expected.map_or(0, |_| 9000)), "{name}");
    };
    for is_set_before in [true, false] {
        check(0, Some(4000), is_set_before);
        check(2000, Some(3000), is_set_before);
        check(5999, Some(1001), is_set_before);
        check(6000, None, is_set_before);
        // Back to before the VM was: the TSC is 0 now.
        check(-3000, Some(5500), is_set_before);
    }
}

#[test]
fn the_paravirtual_clock_follows_the_tsc_that_the_guest_has_moved() {
    let mut guest = Guest::new(1);
    guest
        .board
        .msr_write(0, guest.now, msr::KVM_SYSTEM_TIME, 0x5001)
        .unwrap();
    guest.now = Nanos(1000);
    guest
        .board
        .msr_write(0, guest.now, msr::TSC_ADJUST, 500_u64.wrapping_neg())
        .unwrap();
    let word = |at| guest.board.memory.read_value(x86::Gpa(at), 8).unwrap();
    assert_eq!((word(0x5008), word(0x5010)), (2500, 1000));
}

#[test]
fn accesses_across_devices_are_split() {
    let mut guest = Guest::new(1);
    guest.out(0x21, &[0x5a]);
    assert_eq!(guest.board.pio_read(guest.now, 0x21, 2), 0xff5a);
    assert_eq!(guest.board.pio_read(guest.now, 0xcfc, 4), u32::MAX);
    guest.board.pio_write(guest.now, 0xcf8, 4, 0x8000_0000);
    assert_eq!(guest.board.pio_read(guest.now, 0xcfc, 4), 0x0001_4d4f);
    assert_eq!(guest.board.pio_read(guest.now, 0xcfe, 4), 0xffff_0001);
    assert_eq!(guest.load(0, 0xe000_0000), 0x0001_4d4f);
}

/// A deterministic source of numbers (xorshift64*), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() >> 33) as usize % choices.len()]
    }

    /// Mostly small numbers and edges, now and then anything.
    fn value(&mut self) -> u64 {
        match self.next() >> 61 {
            0 => 0,
            1 => u64::MAX,
            2..=4 => (self.next() >> 32) & 0xff,
            5 => 1 << (self.next() >> 58),
            _ => self.next(),
        }
    }
}

/// One thing that a hostile guest can do.
fn act(board: &mut Board, numbers: &mut Numbers, now: Nanos) {
    const PORTS: [u16; 14] = [
        0x20, 0x40, 0x60, 0x70, 0x80, 0x92, 0xa0, 0xf0, 0x3f8, 0x4d0, 0x600, 0x620, 0xcf8, 0xffff,
    ];
    const PAGES: [u64; 5] = [
        0xe000_0000,
        0xfec0_0000,
        0xfee0_0000,
        0xc000_0000,
        u64::MAX - 15,
    ];
    const MSRS: [u32; 6] = [0x1b, 0x6e0, 0x800, 0x830, 0x4b56_4d00, 0x4b56_4d01];
    let vcpu_id = (numbers.next() >> 62) as u32;
    let value = numbers.value();
    let at = numbers
        .of(&PORTS)
        .wrapping_add((numbers.next() >> 59) as u16 & 0xf);
    let gpa = Gpa(numbers
        .of(&PAGES)
        .wrapping_add(numbers.next() >> 52 & 0xfff & numbers.value()));
    let number = numbers
        .of(&MSRS)
        .wrapping_add((numbers.next() >> 58) as u32 & numbers.value() as u32);
    let small = numbers.of(&[1, 2, 4]);
    let any = numbers.of(&[1, 2, 3, 4, 5, 6, 7, 8]);
    match numbers.next() >> 60 {
        0..=3 => board.pio_write(now, at, small, value as u32),
        4 | 5 => drop(board.pio_read(now, at, small)),
        6..=8 => board.mmio_write(vcpu_id, now, gpa, any, value),
        9 => drop(board.mmio_read(vcpu_id, now, gpa, any)),
        10 | 11 => drop(board.msr_write(vcpu_id, now, number, value)),
        12 => drop(board.msr_read(vcpu_id, now, number)),
        13 => drop(
            board
                .has_interrupt(vcpu_id)
                .then(|| board.acknowledge(vcpu_id).expect("announced")),
        ),
        14 => board.advance(now),
        _ => {
            board.take_startup(vcpu_id);
            board.take_nmi(vcpu_id);
            board.type_console(now, &value.to_le_bytes());
        }
    }
}

#[test]
fn a_million_hostile_accesses_do_no_harm() {
    let mut numbers = Numbers(0x6d6f_7468_6572);
    let mut events = 0;
    // Fresh boards, lest all the test be spent in a corner that the first thousand accesses led to.
    for _ in 0..100 {
        let (mut board, _told) = board(3);
        let mut now = Nanos(0);
        for step in 1..=10_000_u64 {
            // Mostly moments pass, sometimes ages; the end of time is reached too.
            now = now.after(if step % 1000 == 0 {
                numbers.next() >> 4
            } else {
                numbers.next() >> 50
            });
            act(&mut board, &mut numbers, now);
            assert!(board.deadline().is_none_or(|at| at.0 > 0));
            events += u64::from(board.take_event().is_some());
        }
    }
    assert!(events > 100, "the test reaches what matters: {events}");
}

#[test]
fn a_hostile_guest_cannot_keep_the_timer_thread_busy() {
    let mut guest = Guest::new(1);
    guest.enable_apics(1);
    guest.out(0x43, &[0x34]);
    guest.out(0x40, &[1, 0]);
    guest.apic(0, 0x3e0, 0xb);
    guest.apic(0, 0x320, 0x200ec);
    guest.apic(0, 0x380, 1);
    guest.out(0x70, &[0x0a]);
    guest.out(0x71, &[0x23]);
    guest.out(0x70, &[0x0b]);
    guest.out(0x71, &[0x72]);
    let mut visits = 0;
    while guest.now < Nanos(100 * MILLISECOND) {
        guest.now = guest.board.deadline().unwrap();
        guest.board.advance(guest.now);
        visits += 1;
    }
    assert!(visits < 100 * 150, "{visits} in 100 ms");
}
