//! MSI-X: the table of messages, what is masked, and what waits behind a mask (PCI 3.0, 6.8.2).

use serde::{Deserialize, Serialize};

/// Bytes of an entry (6.8.2.6).
pub(super) const ENTRY_BYTES: u64 = 16;
/// Bits of the message control register (6.8.2.3).
pub(super) const ENABLE: u16 = 1 << 15;
pub(super) const FUNCTION_MASK: u16 = 1 << 14;
/// A vector number that means none (VIRTIO 1.2, 4.1.4.3).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// A message: where to, and what.
pub(super) type Message = (u64, u32);

/// The messages and who sends which.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Vectors {
    pub(super) msix: Msix,
    pub(super) config: u16,
    pub(super) queues: Vec<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

/// The table and the control register.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Msix {
    control: u16,
    entries: Vec<Entry>,
}

impl Msix {
    /// Whether it could be what a table of `count` entries has become.
    pub(super) fn fits(&self, count: usize) -> bool {
        self.entries.len() == count && self.control & !(ENABLE | FUNCTION_MASK) == 0
    }

    /// A table of `count` entries, all masked, the whole switched off.
    pub(super) fn new(count: u16) -> Msix {
        let entry = Entry {
            address: 0,
            data: 0,
            masked: true,
            pending: false,
        };
        Msix {
            control: 0,
            entries: vec![entry; usize::from(count)],
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    pub(super) fn has_vector(&self, vector: u16) -> bool {
        usize::from(vector) < self.entries.len()
    }

    /// The device wants to send `vector`: the message, unless it is masked and has to wait.
    pub(super) fn fire(&mut self, vector: u16) -> Option<Message> {
        let is_masked = self.control & FUNCTION_MASK != 0;
        let entry = self.entries.get_mut(usize::from(vector))?;
        entry.pending = true;
        entry.release(is_masked)
    }

    /// The control register was written: messages that waited for it.
    pub(super) fn set_control(&mut self, control: u16) -> Vec<Message> {
        self.control = control & (ENABLE | FUNCTION_MASK);
        if !self.is_enabled() {
            self.entries
                .iter_mut()
                .for_each(|entry| entry.pending = false);
        }
        let is_masked = self.control & FUNCTION_MASK != 0;
        self.entries
            .iter_mut()
            .filter_map(|entry| entry.release(is_masked))
            .collect()
    }

    /// Reads an aligned word or double word of the table.
    pub(super) fn read_table(&self, offset: u64, size: u8) -> u64 {
        let low = self.table_word(offset & !3);
        match size {
            8 => u64::from(low) | u64::from(self.table_word((offset & !3) + 4)) << 32,
            _ => u64::from(low) >> (8 * (offset & 3)),
        }
    }

    fn table_word(&self, offset: u64) -> u32 {
        let Some(entry) = self.entries.get((offset / ENTRY_BYTES) as usize) else {
            return 0;
        };
        match offset % ENTRY_BYTES {
            0 => entry.address as u32,
            4 => (entry.address >> 32) as u32,
            8 => entry.data,
            _ => u32::from(entry.masked),
        }
    }

    /// Writes an aligned word or double word; other accesses are not defined (6.8.2) and do nothing. The message
    /// that waited for it.
    pub(super) fn write_table(&mut self, offset: u64, size: u8, value: u64) -> Option<Message> {
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(u64::from(size)) {
            return None;
        }
        let is_masked = self.control & FUNCTION_MASK != 0;
        let entry = self.entries.get_mut((offset / ENTRY_BYTES) as usize)?;
        for word in 0..u64::from(size / 4) {
            let value = (value >> (32 * word)) as u32;
            match offset % ENTRY_BYTES + 4 * word {
                0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
                4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
                8 => entry.data = value,
                _ => entry.masked = value & 1 != 0,
            }
        }
        entry.release(is_masked)
    }

    /// Reads the pending bits.
    pub(super) fn read_pending(&self, offset: u64, size: u8) -> u64 {
        let first = (8 * offset) as usize;
        let bits = self
            .entries
            .iter()
            .skip(first)
            .take(8 * usize::from(size))
            .enumerate();
        bits.fold(0, |bits, (n, entry)| bits | u64::from(entry.pending) << n)
    }
}

impl Entry {
    /// The message, if one waits and nothing masks it any more.
    fn release(&mut self, function_is_masked: bool) -> Option<Message> {
        if !self.pending || self.masked || function_is_masked {
            return None;
        }
        self.pending = false;
        Some((self.address, self.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Msix {
        let mut msix = Msix::new(2);
        msix.set_control(ENABLE);
        msix.write_table(16, 8, 0xfee0_1000);
        msix.write_table(24, 4, 0x41);
        msix
    }

    #[test]
    fn a_masked_message_waits_and_is_sent_once() {
        let sent = Some((0xfee0_1000, 0x41));
        let mut msix = table();
        assert_eq!(msix.fire(1), None);
        assert_eq!(msix.fire(1), None);
        assert_eq!(msix.read_pending(0, 8), 2);
        assert_eq!(msix.write_table(28, 4, 0), sent);
        assert_eq!(msix.read_pending(0, 8), 0);
        assert_eq!(msix.fire(1), sent);
        assert_eq!(msix.set_control(ENABLE | FUNCTION_MASK), vec![]);
        assert_eq!(msix.fire(1), None);
        assert_eq!(msix.set_control(ENABLE), vec![(0xfee0_1000, 0x41)]);
        assert_eq!(msix.fire(2), None, "there is no such vector");
    }

    #[test]
    fn the_table_reads_back_in_words_and_double_words() {
        let msix = table();
        let check = |offset, size, expected| {
            assert_eq!(msix.read_table(offset, size), expected, "{offset}")
        };
        check(0, 8, 0);
        check(12, 4, 1);
        check(16, 4, 0xfee0_1000);
        check(24, 8, 0x1_0000_0041);
        check(32, 4, 0);
    }
}
