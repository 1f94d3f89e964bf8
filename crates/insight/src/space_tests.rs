//! Page tables made by hand, honest and not.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use x86::paging::{NX, U, W};

use super::*;
use crate::account::Limits;
use crate::memory::{Extent, Unreadable};

/// Memory with words in it, zero elsewhere, that counts how often it is read.
#[derive(Default)]
struct Words {
    words: HashMap<u64, u64>,
    reads: Mutex<u64>,
}

impl Memory for Words {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        *self.reads.lock().unwrap() += 1;
        for (byte, at) in bytes.iter_mut().zip(gpa.0..) {
            if at >= 1 << 40 {
                return Err(Unreadable::NoMemory(Gpa(at)));
            }
            let word = self.words.get(&(at & !7)).copied().unwrap_or(0);
            *byte = word.to_le_bytes()[(at % 8) as usize];
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        Vec::new()
    }
}

const ROOT: Root = Root {
    gpa: Gpa(0x1000),
    levels: 4,
};

/// Tables that lead to `gva` in pages of `1 << (12 + 9 * leaf)` bytes, with `flags` in the last entry.
fn tables(root: Root, gva: u64, leaf: u32, flags: u64) -> Words {
    let mut words = Words::default();
    let mut table = root.gpa.0;
    for level in (leaf..root.levels).rev() {
        let index = gva >> (12 + 9 * level) & 511;
        let next = table + 0x1000;
        let entry = match level == leaf {
            true => 0x4000_0000 | flags | if level > 0 { PS } else { 0 },
            false => next | P | W | U,
        };
        words.words.insert(table + index * 8, entry);
        table = next;
    }
    words
}

fn with<T>(words: &Words, root: Root, see: impl FnOnce(&Space<'_>) -> T) -> T {
    let account = Account::new(Limits::default());
    see(&Space::new(words, &account, Some(root)))
}

#[test]
fn pages_of_every_size_are_walked() {
    let gva = 0xffff_ffff_8123_4567;
    let five = Root { levels: 5, ..ROOT };
    for root in [ROOT, five] {
        for (leaf, page_size) in [(0, 0x1000), (1, 0x20_0000), (2, 0x4000_0000)] {
            let words = tables(root, gva, leaf, P | W);
            let mapped = with(&words, root, |space| space.walk(Gva(gva))).unwrap();
            let expected = Gpa(0x4000_0000 | gva & (page_size - 1));
            assert_eq!(
                (mapped.gpa, mapped.page_size),
                (expected, page_size),
                "{root:?} {leaf}"
            );
            assert!(mapped.is_writable && mapped.is_executable && !mapped.is_user);
        }
    }
}

#[test]
fn what_any_level_forbids_is_forbidden() {
    let gva = 0x1234_5000;
    let check = |flags: u64, expected: (bool, bool, bool)| {
        let words = tables(ROOT, gva, 0, P | flags);
        let mapped = with(&words, ROOT, |space| space.walk(Gva(gva))).unwrap();
        let seen = (mapped.is_writable, mapped.is_executable, mapped.is_user);
        assert_eq!(seen, expected, "{flags:#x}");
    };
    check(0, (false, true, false));
    check(W, (true, true, false));
    check(W | U, (true, true, true));
    check(NX | U, (false, false, true));
    // By the level above.
    let mut words = tables(ROOT, gva, 0, P | W | U);
    let above = 0x3000 + (gva >> 21 & 511) * 8;
    *words.words.get_mut(&above).unwrap() &= !W;
    *words.words.get_mut(&above).unwrap() |= NX;
    let mapped = with(&words, ROOT, |space| space.walk(Gva(gva))).unwrap();
    assert!(!mapped.is_writable && !mapped.is_executable && mapped.is_user);
}

#[test]
fn tables_that_lead_nowhere_end() {
    let gva = Gva(0x1234_5000);
    let check = |words: &Words, expected: Blind| {
        assert_eq!(with(words, ROOT, |space| space.walk(gva)), Err(expected));
    };
    check(&Words::default(), Blind::Unmapped(gva));
    check(&tables(ROOT, gva.0, 0, W), Blind::Unmapped(gva));
    check(&tables(ROOT, gva.0 ^ 0x1000, 0, P), Blind::Unmapped(gva));
    // A table outside of memory, and one that is its own next.
    let mut words = tables(ROOT, gva.0, 0, P);
    words.words.insert(ROOT.gpa.0, 1 << 40 | P);
    check(
        &words,
        Blind::Unreadable(Unreadable::NoMemory(Gpa(
            (1 << 40) + (gva.0 >> 30 & 511) * 8
        ))),
    );
    let mut words = Words::default();
    for index in 0..512 {
        words.words.insert(ROOT.gpa.0 + index * 8, ROOT.gpa.0 | P);
    }
    let looped = with(&words, ROOT, |space| space.walk(gva)).unwrap();
    assert_eq!(looped.gpa, ROOT.gpa);
    let account = Account::new(Limits::default());
    let none = Space::new(&words, &account, None).walk(gva);
    assert!(matches!(none, Err(Blind::NotGiven(_))));
}

#[test]
fn reads_cross_pages_and_end_where_nothing_is_mapped() {
    let gva = 0x1234_5000;
    let mut words = tables(ROOT, gva, 0, P);
    words
        .words
        .insert(0x4000_0ff8, u64::from_le_bytes(*b"end of i"));
    let text = |len| with(&words, ROOT, |space| space.bytes(Gva(gva + 0xff8), len));
    assert_eq!(text(8).as_deref(), Ok(&b"end of i"[..]));
    assert_eq!(text(9), Err(Blind::Unmapped(Gva(gva + 0x1000))));
    let string = |max| with(&words, ROOT, |space| space.text(Gva(gva + 0xff8), max));
    assert_eq!(string(3).as_deref(), Ok("end"));
    assert!(string(100).is_err(), "no zero before the page's end");
    assert_eq!(
        with(&words, ROOT, |space| space.text(Gva(gva), 100)).as_deref(),
        Ok("")
    );
    assert_eq!(
        text(MAX_PIECE + 1),
        Err(Blind::OverBudget("bytes in one piece"))
    );
}

#[test]
fn the_image_is_read_without_tables() {
    let start = IMAGE_VA + 0x100_0000;
    let mut words = Words::default();
    words.words.insert(0x300_0ff8, 7);
    words.words.insert(0x300_1000, 8);
    let account = Account::new(Limits::default());
    let space = Space::new(&words, &account, None).with_image(0x200_0000, start..start + 0x2000);
    assert_eq!(space.translate(Gva(start + 5)), Ok(Gpa(0x300_0005)));
    let bytes = space.bytes(Gva(start + 0xff8), 16).unwrap();
    assert_eq!((bytes[0], bytes[8]), (7, 8));
    assert_eq!(*words.reads.lock().unwrap(), 1, "in one piece");
    assert!(
        space.bytes(Gva(start + 0x1fff), 2).is_err(),
        "behind it tables are needed"
    );
}

#[test]
fn little_reads_at_once_read_a_page_once() {
    let gva = 0x1234_5000;
    let words = tables(ROOT, gva, 0, P);
    let account = Account::new(Limits::default());
    let space = Space::new(&words, &account, Some(ROOT));
    space.translate(Gva(gva)).unwrap();
    let before = *words.reads.lock().unwrap();
    space.at_once(|| {
        for at in 0..100 {
            assert_eq!(space.u64(Gva(gva + 8 * at)), Ok(0));
        }
    });
    assert_eq!(*words.reads.lock().unwrap() - before, 1);
    // Behind it every read is a new one.
    let _ = (space.u64(Gva(gva)), space.u64(Gva(gva)));
    assert_eq!(*words.reads.lock().unwrap() - before, 3);
}

#[test]
fn limits_hold_whatever_the_tables_say() {
    let gva = 0x1234_5000;
    let words = tables(ROOT, gva, 1, P);
    let check = |limits: Limits, expected: &str| {
        let account = Account::new(limits);
        let space = Space::new(&words, &account, Some(ROOT));
        let end = (0..1_000_000).find_map(|at| space.u32(Gva(gva + at * 4 % 0x1000)).err());
        assert_eq!(
            end,
            Some(Blind::OverBudget(match expected {
                "bytes" => "bytes",
                "reads" => "reads",
                _ => "time",
            }))
        );
    };
    let limits = Limits::default();
    check(
        Limits {
            bytes: 10_000,
            ..limits
        },
        "bytes",
    );
    check(
        Limits {
            reads: 1_000,
            ..limits
        },
        "reads",
    );
    check(
        Limits {
            time: Duration::ZERO,
            ..limits
        },
        "time",
    );
}
