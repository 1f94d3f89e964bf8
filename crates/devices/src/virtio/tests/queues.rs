//! A queue against a model of it: whatever a driver that goes by the book offers comes out once, in order, and goes
//! back once, and interrupts come exactly when they are wanted. Long enough for every index to wrap around twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mem::GuestMemory;
use virtio_queue::{Queue, QueueT};
use x86::Gpa;

use super::random::Random;
use crate::virtio::{Interrupt, Virtqueue};

const SIZE: u16 = 16;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Indirect tables, one for each head.
const INDIRECT: u64 = 0x4000;
const ROUNDS: u32 = 60_000;

/// Driver and device, and what each must see.
struct Model {
    memory: GuestMemory,
    queue: Virtqueue,
    raised: Arc<AtomicU32>,
    random: Random,
    has_event_index: bool,
    free: Vec<u16>,
    /// Offered and not taken yet: head, and each buffer's address and length.
    offered: VecDeque<(u16, Vec<(u64, u32)>)>,
    taken: Vec<u16>,
    available_index: u16,
    used_index: u16,
}

impl Model {
    fn new(has_event_index: bool) -> Model {
        let memory = GuestMemory::flat(0x10_0000).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_desc_table_address(Some(TABLE as u32), None);
        queue.set_avail_ring_address(Some(AVAILABLE as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_event_idx(has_event_index);
        queue.set_ready(true);
        let raised = Arc::<AtomicU32>::default();
        let count = Arc::clone(&raised);
        let interrupt = Interrupt::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        Model {
            memory,
            queue: Virtqueue {
                index: 0,
                queue,
                interrupt,
            },
            raised,
            random: Random(0x9e37_79b9),
            has_event_index,
            free: (0..SIZE).collect(),
            offered: VecDeque::new(),
            taken: Vec::new(),
            available_index: 0,
            used_index: 0,
        }
    }

    fn put(&self, at: u64, size: usize, value: u64) {
        self.memory
            .write(Gpa(at), &value.to_le_bytes()[..size])
            .unwrap();
    }

    fn descriptor(&self, at: u64, address: u64, len: u32, flags: u64, next: u64) {
        self.put(at, 8, address);
        self.put(at + 8, 8, u64::from(len) | flags << 32 | next << 48);
    }

    /// The driver offers a chain of one buffer, or of some through an indirect table.
    fn offer(&mut self) {
        let Some(head) = self.free.pop() else { return };
        let count = 1 + self.random.below(4);
        let buffer = |n| (0x8_0000 + 0x100 * n, 1 + self.random.below(256) as u32);
        let buffers: Vec<(u64, u32)> = (0..count).map(buffer).collect();
        let at = TABLE + 16 * u64::from(head);
        if count == 1 {
            self.descriptor(at, buffers[0].0, buffers[0].1, 2, 0);
        } else {
            let table = INDIRECT + 0x100 * u64::from(head);
            for (n, (address, len)) in (0..).zip(&buffers) {
                let flags = if n + 1 < count { 3 } else { 2 };
                self.descriptor(table + 16 * n, *address, *len, flags, n + 1);
            }
            self.descriptor(at, table, 16 * count as u32, 4, 0);
        }
        self.put(
            AVAILABLE + 4 + 2 * u64::from(self.available_index % SIZE),
            2,
            u64::from(head),
        );
        self.available_index = self.available_index.wrapping_add(1);
        self.put(AVAILABLE + 2, 2, u64::from(self.available_index));
        self.offered.push_back((head, buffers));
    }

    /// The device takes a chain.
    fn take(&mut self) {
        let chain = self.queue.pop(&self.memory).unwrap();
        let Some((head, buffers)) = self.offered.pop_front() else {
            return assert!(chain.is_none());
        };
        let chain = chain.expect("one was offered");
        assert_eq!(chain.head_index(), head);
        let seen: Vec<(u64, u32)> = chain
            .writable()
            .map(|part| (part.addr().0, part.len()))
            .collect();
        assert_eq!(seen, buffers);
        self.taken.push(head);
    }

    /// The device gives some back, in any order, and says so; the driver looks.
    fn give_back(&mut self) {
        let count = self.random.below(self.taken.len() as u64 + 1);
        let wanted_at = self.used_index.wrapping_add(self.random.below(4) as u16);
        let is_quiet = self.random.below(2) == 0;
        if self.has_event_index {
            self.put(AVAILABLE + 4 + 2 * u64::from(SIZE), 2, u64::from(wanted_at));
        } else {
            self.put(AVAILABLE, 2, u64::from(is_quiet));
        }
        let before = self.queue.queue.next_used();
        let raised = self.raised.load(Ordering::Relaxed);
        for _ in 0..count {
            let head = self
                .taken
                .swap_remove(self.random.below(self.taken.len() as u64) as usize);
            let written = self.random.below(1000) as u32;
            self.queue.push(&self.memory, head, written).unwrap();
            let at = USED + 4 + 8 * u64::from(self.used_index % SIZE);
            let value = |at| self.memory.read_value(Gpa(at), 4).unwrap();
            assert_eq!(
                (value(at), value(at + 4)),
                (u64::from(head), u64::from(written))
            );
            self.used_index = self.used_index.wrapping_add(1);
            self.free.push(head);
        }
        assert_eq!(
            self.memory.read_value(Gpa(USED + 2), 2).unwrap(),
            u64::from(self.used_index)
        );
        self.queue.signal_since(before, &self.memory).unwrap();
        let is_wanted = if self.has_event_index {
            (0..count as u16).any(|n| before.wrapping_add(n) == wanted_at)
        } else {
            count > 0 && !is_quiet
        };
        let is_raised = self.raised.load(Ordering::Relaxed) != raised;
        assert_eq!(
            is_raised, is_wanted,
            "{count} from {before}, wanted at {wanted_at}"
        );
    }
}

#[test]
fn what_is_offered_comes_out_once_and_goes_back_once() {
    for has_event_index in [false, true] {
        let mut model = Model::new(has_event_index);
        for _ in 0..ROUNDS {
            for _ in 0..model.random.below(8) {
                model.offer();
            }
            for _ in 0..model.random.below(8) {
                model.take();
            }
            model.give_back();
        }
        assert!(model.queue.queue.next_used() == model.used_index);
    }
}
