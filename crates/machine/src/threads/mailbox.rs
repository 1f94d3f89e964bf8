//! How an interrupt from a device's thread reaches the board without waiting for it.
//!
//! A sender leaves a letter and tries to enter the room. If somebody is in there, that one looks into the mailbox
//! after it has left ([`crate::life::Visit`]), so a letter never lies: either its sender got in, or whoever kept the
//! sender out finds it. No thread of a device ever waits for the room, and a halted vCPU is woken by the sender
//! itself.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

use devices::Board;
use devices::virtio::SendMsi;
use host::lock::Lock;

/// What a device has to say to the board.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Letter {
    Message { address: u64, data: u32 },
    PinChanged,
}

/// Tries to enter the room and to deliver; gives up at once if somebody is there.
type TryDeliver = Box<dyn Fn() + Send + Sync>;

/// The mailbox of one life.
#[derive(Default)]
pub(crate) struct Mailbox {
    letters: Lock<Vec<Letter>>,
    has_letters: AtomicBool,
    /// Known only once there is a room.
    try_deliver: OnceLock<TryDeliver>,
}

impl Mailbox {
    /// Says how to get into the room.
    pub(crate) fn set_way(&self, try_deliver: impl Fn() + Send + Sync + 'static) {
        assert!(
            self.try_deliver.set(Box::new(try_deliver)).is_ok(),
            "a life is assembled once"
        );
    }

    /// Whether something lies here. Ask after leaving the room.
    pub(crate) fn has_letters(&self) -> bool {
        // Pairs with the fence in `post`: either this look sees the letter, or its sender sees the room free.
        fence(Ordering::SeqCst);
        self.has_letters.load(Ordering::SeqCst)
    }

    /// Brings everything that lies here to the board.
    pub(crate) fn deliver(&self, board: &mut Board) {
        if !self.has_letters.load(Ordering::Acquire) {
            return;
        }
        let letters = {
            let mut letters = self.letters.lock();
            self.has_letters.store(false, Ordering::SeqCst);
            std::mem::take(&mut *letters)
        };
        for letter in letters {
            match letter {
                Letter::Message { address, data } => board.send_msi(address, data),
                Letter::PinChanged => board.look_at_pci_lines(),
            }
        }
    }

    fn post(&self, letter: Letter) {
        {
            let mut letters = self.letters.lock();
            // A message that waits already says the same: interrupts are bits, not counts. It also bounds the box.
            if !letters.contains(&letter) {
                letters.push(letter);
            }
            self.has_letters.store(true, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        if let Some(try_deliver) = self.try_deliver.get() {
            try_deliver();
        }
    }
}

/// The sender's end, as devices know it.
pub(crate) struct Sender(pub(crate) Arc<Mailbox>);

impl SendMsi for Sender {
    fn send_msi(&self, address: u64, data: u32) {
        self.0.post(Letter::Message { address, data });
    }

    fn pin_changed(&self) {
        self.0.post(Letter::PinChanged);
    }
}
