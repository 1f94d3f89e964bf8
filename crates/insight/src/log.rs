//! The kernel's log, out of its ring buffer. It is there also when nobody in the guest can print it any more.
//!
//! Since 5.10 the ring has two parts: descriptors with their facts, and text. A descriptor says by its number and state
//! whether it is whole, so a reader that disturbs nobody can tell what is being written right now.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Largest ring that is read.
const MAX_TEXT: u64 = 64 << 20;
/// Most records.
const MAX_RECORDS: u64 = 1 << 20;
/// Where the state is in a descriptor's word, and the rest of it, its number.
const STATE_SHIFT: u32 = 62;
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
/// States of records that have been written completely.
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct LogRecord {
    /// Its number.
    pub sequence: u64,
    /// When, in nanoseconds of the guest's uptime.
    pub time_ns: u64,
    /// 0 emergency to 7 debug.
    pub level: u8,
    /// 0 is the kernel.
    pub facility: u8,
    /// The message, without its end of line.
    pub text: String,
}

impl Look<'_> {
    /// Every record that the ring still has, the oldest first.
    pub fn kernel_log(&self) -> Observed<Vec<LogRecord>> {
        self.observed(self.read_log())
    }

    fn read_log(&self) -> Result<Vec<LogRecord>, Blind> {
        let pointer = match self.symbol("prb") {
            // What kernels had before: text with lengths in it, which nothing says how much of to believe.
            Err(Blind::NoSymbol(_)) if self.symbol("log_buf").is_ok() => {
                return Err(Blind::NotGiven(
                    "the log of kernels before 5.10 is not read",
                ));
            }
            pointer => pointer?,
        };
        let ring = self.object("printk_ringbuffer", Gva(self.space().u64(pointer)?))?;
        let count_bits = ring.number("desc_ring.count_bits")?;
        let text_bits = ring.number("text_data_ring.size_bits")?;
        if count_bits > MAX_RECORDS.trailing_zeros().into()
            || text_bits > MAX_TEXT.trailing_zeros().into()
        {
            return Err(Blind::nonsense("log is larger than any can be"));
        }
        let count = 1u64 << count_bits;
        let layouts = self.layouts()?;
        let desc_size = layouts.size("prb_desc")?;
        let info_size = layouts.size("printk_info")?;
        // In this order: the text of what is described may be overwritten afterwards, which its number will tell.
        let descs = self
            .space()
            .bytes(ring.pointer("desc_ring.descs")?, desc_size * count as usize)?;
        let infos = self
            .space()
            .bytes(ring.pointer("desc_ring.infos")?, info_size * count as usize)?;
        let text = self
            .space()
            .bytes(ring.pointer("text_data_ring.data")?, 1 << text_bits)?;
        let head = ring.number("desc_ring.head_id.counter")? & ID_MASK;
        let tail = ring.number("desc_ring.tail_id.counter")? & ID_MASK;
        let places = Places::of(self)?;
        let records = (0..=head.wrapping_sub(tail).min(count)).filter_map(|index| {
            let id = tail.wrapping_add(index) & ID_MASK;
            let slot = (id & (count - 1)) as usize;
            let desc = descs.get(slot * desc_size..(slot + 1) * desc_size)?;
            let info = infos.get(slot * info_size..(slot + 1) * info_size)?;
            places.record(id, desc, info, &text)
        });
        Ok(records.collect())
    }
}

/// Where things are in descriptors and infos.
struct Places {
    state: usize,
    begin: usize,
    next: usize,
    sequence: usize,
    time: usize,
    len: usize,
    facility: usize,
    level: (usize, u32),
}

impl Places {
    fn of(look: &Look<'_>) -> Result<Places, Blind> {
        let at = |of: &str, path: &str| look.place(of, path).map(|place| place.offset);
        let level = look.place("printk_info", "level")?;
        Ok(Places {
            state: at("prb_desc", "state_var.counter")?,
            begin: at("prb_desc", "text_blk_lpos.begin")?,
            next: at("prb_desc", "text_blk_lpos.next")?,
            sequence: at("printk_info", "seq")?,
            time: at("printk_info", "ts_nsec")?,
            len: at("printk_info", "text_len")?,
            facility: at("printk_info", "facility")?,
            level: (level.offset, level.bits.map_or(0, |(shift, _)| shift)),
        })
    }

    fn record(&self, id: u64, desc: &[u8], info: &[u8], ring: &[u8]) -> Option<LogRecord> {
        let word = |bytes: &[u8], at: usize| {
            Some(u64::from_le_bytes(
                bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
            ))
        };
        let state = word(desc, self.state)?;
        if state & ID_MASK != id || ![COMMITTED, FINALIZED].contains(&(state >> STATE_SHIFT)) {
            return None;
        }
        let begin = word(desc, self.begin)?;
        let next = word(desc, self.next)?;
        let len = usize::from(u16::from_le_bytes(
            info.get(self.len..self.len + 2)?.try_into().ok()?,
        ));
        let text = if begin & 1 != 0 {
            &[][..]
        } else {
            text(id, (begin, next), len, ring)?
        };
        Some(LogRecord {
            sequence: word(info, self.sequence)?,
            time_ns: word(info, self.time)?,
            level: info.get(self.level.0)? >> self.level.1 & 7,
            facility: *info.get(self.facility)?,
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }
}

/// The text between two logical positions, which carries the number of its descriptor in front. What does not fit behind
/// its beginning lies at the beginning of the ring.
fn text(id: u64, (begin, next): (u64, u64), len: usize, ring: &[u8]) -> Option<&[u8]> {
    let size = ring.len() as u64;
    let wraps = begin / size != next.checked_sub(1)? / size;
    let start = if wraps { 0 } else { (begin % size) as usize };
    let owner = u64::from_le_bytes(ring.get(start..start.checked_add(8)?)?.try_into().ok()?);
    if owner & ID_MASK != id {
        return None;
    }
    let end = if wraps {
        next % size
    } else {
        (next - 1) % size + 1
    } as usize;
    let data = ring.get(start + 8..end)?;
    Some(&data[..len.min(data.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_also_where_the_ring_begins_again() {
        let mut ring = vec![0; 64];
        ring[16..24].copy_from_slice(&7u64.to_le_bytes());
        ring[24..29].copy_from_slice(b"hello");
        ring[..8].copy_from_slice(&9u64.to_le_bytes());
        ring[8..12].copy_from_slice(b"over");
        let check = |id, lpos, len, expected: Option<&[u8]>| {
            assert_eq!(text(id, lpos, len, &ring), expected)
        };
        check(7, (16, 32), 5, Some(b"hello"));
        check(7, (64 * 5 + 16, 64 * 5 + 32), 5, Some(b"hello"));
        check(8, (16, 32), 5, None);
        check(9, (56, 64 + 16), 4, Some(b"over"));
        check(7, (16, 16), 5, None);
        check(7, (16, 0), 5, None);
    }
}
