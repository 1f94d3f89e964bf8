//! Windows that a guest puts where something else is: only the window is lost.

use std::sync::Arc;

use mem::GuestMemory;
use x86::Gpa;

use super::bench::{Heard, NoThreads, QUEUE_COUNT};
use crate::virtio::balloon::{Balloon, BalloonControl};
use crate::virtio::entropy::Entropy;
use crate::virtio::{Links, VirtioDevice, VirtioFunction};
use crate::{Board, BoardPlan, GuestClock, IrqSink, Nanos, layout};

struct Nobody;

impl IrqSink for Nobody {
    fn notify(&self, _vcpu_id: u32) {}
}

/// A board with a random number generator in slot 1 (one queue) and a balloon in slot 2 (five).
fn board() -> Board {
    let clock = GuestClock {
        tsc_khz: 2_000_000,
        tsc_at_start: 0,
        wall_at_start_ns: 0,
    };
    let plan = BoardPlan {
        vcpu_count: 1,
        clock,
        has_debug_exit: false,
    };
    let memory = Arc::new(GuestMemory::flat(1 << 20).unwrap());
    let mut board = Board::new(
        plan,
        Arc::clone(&memory),
        Box::new(std::io::sink()),
        Arc::new(Nobody),
    );
    let links = Links {
        memory,
        interrupts: Arc::<Heard>::default(),
        threads: Arc::new(NoThreads),
    };
    let rng: Box<dyn VirtioDevice> = Box::new(Entropy::default());
    let balloon = Box::new(Balloon::new(BalloonControl::default(), Arc::default()));
    for (slot, device) in [(1, rng), (2, balloon)] {
        board.pci().add(
            slot,
            0,
            Box::new(VirtioFunction::new(slot, device, links.clone())),
        );
    }
    board
}

fn load(board: &mut Board, gpa: u64, size: u8) -> u64 {
    board.mmio_read(0, Nanos(0), Gpa(gpa), size)
}

fn move_window(board: &mut Board, slot: u64, to: u64) {
    board.mmio_write(
        0,
        Nanos(0),
        Gpa(layout::ECAM.0 + (slot << 15) + 0x10),
        4,
        to,
    );
}

#[test]
fn what_has_its_place_for_good_answers_there() {
    let check = |place: u64, register: u64| {
        let mut board = board();
        let before = load(&mut board, place + register, 4);
        assert_ne!(before, 0xffff_ffff, "{place:#x}: somebody is there");
        move_window(&mut board, 1, place);
        assert_eq!(load(&mut board, place + register, 4), before, "{place:#x}");
        move_window(&mut board, 1, 0xc100_0000);
        assert_eq!(
            load(&mut board, 0xc100_0000 + QUEUE_COUNT, 2),
            1,
            "{place:#x}: moved away it works"
        );
    };
    check(layout::ECAM.0, 0);
    check(layout::IOAPIC.0, 0x10);
    check(layout::LOCAL_APIC.0, 0x30);
}

#[test]
fn of_two_windows_in_one_place_the_lower_slot_answers() {
    let mut board = board();
    let balloon_at = layout::PCI_WINDOW.0 + 2 * 0x8000;
    assert_eq!(load(&mut board, balloon_at + QUEUE_COUNT, 2), 5);
    move_window(&mut board, 1, balloon_at);
    assert_eq!(load(&mut board, balloon_at + QUEUE_COUNT, 2), 1);
    move_window(&mut board, 1, 0xc100_0000);
    assert_eq!(load(&mut board, balloon_at + QUEUE_COUNT, 2), 5);
}

#[test]
fn an_access_that_leaves_a_window_reaches_nothing() {
    let mut board = board();
    let end = layout::PCI_WINDOW.0 + 3 * 0x8000;
    assert_eq!(load(&mut board, end - 4, 8), u64::MAX);
    assert_eq!(load(&mut board, end, 4), 0xffff_ffff);
}
