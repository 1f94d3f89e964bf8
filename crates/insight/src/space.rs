//! Reading by virtual address: the guest's page tables, walked here, with what was walked remembered for one look.
//!
//! The tables are the guest's, so nothing about them is believed: the number of steps is fixed by the number of
//! levels, and an entry that points nowhere ends the walk.

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use x86::paging::{ADDRESS, P, PS};
use x86::{Gpa, Gva, PAGE_SIZE};

use crate::account::Account;
use crate::blind::Blind;
use crate::memory::Memory;

/// Where the kernel's image is mapped when it does not move, and the end of the stretch that it may move in.
pub(crate) const IMAGE_VA: u64 = 0xffff_ffff_8000_0000;
/// Longest stretch that the kernel image can be mapped in: where modules begin, at the latest.
pub(crate) const IMAGE_MAX: u64 = 0x4000_0000;
/// Most bytes that are read in one piece.
const MAX_PIECE: usize = 256 << 20;
/// Reads that are no longer than this are little, and pages that are kept for them.
const LITTLE: usize = 512;
const HELD: usize = 4096;
/// Walks remembered in one look; more are walked again.
const REMEMBERED: usize = 1 << 20;

/// Tables of one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Where the top table lies.
    pub gpa: Gpa,
    /// 4 or 5.
    pub levels: u32,
}

/// A page as the tables map it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Physical address of the byte asked for.
    pub gpa: Gpa,
    /// Bytes in the page.
    pub page_size: u64,
    /// No level forbids execution.
    pub is_executable: bool,
    /// All levels allow writing.
    pub is_writable: bool,
    /// All levels allow user access.
    pub is_user: bool,
}

/// One address space of the guest during one look.
pub(crate) struct Space<'a> {
    memory: &'a dyn Memory,
    account: &'a Account,
    root: Option<Root>,
    /// Physical address of `IMAGE_VA`, wrapping, and the stretch that is mapped linearly from there.
    image: Option<(u64, std::ops::Range<u64>)>,
    walked: RefCell<HashMap<u64, u64>>,
    /// Pages read while somebody reads many little things at once.
    held: RefCell<Option<HashMap<u64, Page>>>,
}

type Page = Box<[u8; PAGE_SIZE as usize]>;

impl<'a> Space<'a> {
    /// The space behind `root`. Before a root is known only the image can be read.
    pub(crate) fn new(
        memory: &'a dyn Memory,
        account: &'a Account,
        root: Option<Root>,
    ) -> Space<'a> {
        Space {
            memory,
            account,
            root,
            image: None,
            walked: RefCell::default(),
            held: RefCell::default(),
        }
    }

    /// The kernel image is mapped linearly: `IMAGE_VA` at `phys_base` (which may be negative), in `range`.
    pub(crate) fn with_image(mut self, phys_base: u64, range: std::ops::Range<u64>) -> Space<'a> {
        self.image = Some((phys_base, range));
        self
    }

    /// The same guest through other tables: a process's own.
    pub(crate) fn through(&self, root: Root) -> Space<'a> {
        Space {
            memory: self.memory,
            account: self.account,
            root: Some(root),
            image: None,
            walked: RefCell::default(),
            held: RefCell::default(),
        }
    }

    /// What reading costs is counted here.
    pub(crate) fn account(&self) -> &'a Account {
        self.account
    }

    /// The tables, if known.
    pub(crate) fn root(&self) -> Option<Root> {
        self.root
    }

    /// Reads many little things as they are at one moment, or nearly: a page that a little is read of is read as a whole
    /// and kept until `read` is done. Not for what is read twice to see whether it changed.
    pub(crate) fn at_once<T>(&self, read: impl FnOnce() -> T) -> T {
        let is_held = self.held.borrow().is_some() || self.memory.is_cheap();
        if !is_held {
            *self.held.borrow_mut() = Some(HashMap::new());
        }
        let value = read();
        if !is_held {
            *self.held.borrow_mut() = None;
        }
        value
    }

    /// A structure was seen changing: what is kept is of before.
    pub(crate) fn torn(&self) {
        self.account.torn();
        if let Some(held) = self.held.borrow_mut().as_mut() {
            held.clear();
        }
    }

    /// Fills `bytes` from physical memory.
    ///
    /// # Errors
    /// If there is no memory, or the limit is reached.
    pub(crate) fn read_physical(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Blind> {
        let at = gpa.page_offset() as usize;
        let is_little = bytes.len() <= LITTLE && at + bytes.len() <= PAGE_SIZE as usize;
        if let Some(held) = self.held.borrow_mut().as_mut()
            && is_little
        {
            self.account.step()?;
            if held.len() >= HELD {
                held.clear();
            }
            let page = match held.entry(gpa.0 - at as u64) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(place) => {
                    let mut page: Page = Box::new([0; PAGE_SIZE as usize]);
                    self.account.read(page.len())?;
                    self.memory
                        .read(Gpa(gpa.0 - at as u64), page.as_mut_slice())?;
                    place.insert(page)
                }
            };
            bytes.copy_from_slice(&page[at..at + bytes.len()]);
            return Ok(());
        }
        self.account.read(bytes.len())?;
        Ok(self.memory.read(gpa, bytes)?)
    }

    /// Walks the tables.
    ///
    /// # Errors
    /// If nothing is mapped there or the tables cannot be read.
    pub(crate) fn walk(&self, gva: Gva) -> Result<Mapped, Blind> {
        let root = self
            .root
            .ok_or(Blind::NotGiven("the kernel's page tables are not known"))?;
        self.account.walk();
        let mut table = root.gpa.0 & ADDRESS;
        let mut is_executable = true;
        let mut is_writable = true;
        let mut is_user = true;
        for level in (0..root.levels).rev() {
            let shift = 12 + 9 * level;
            let index = gva.0 >> shift & 511;
            let mut entry = [0; 8];
            self.read_physical(Gpa(table + index * 8), &mut entry)?;
            let entry = u64::from_le_bytes(entry);
            if entry & P == 0 {
                return Err(Blind::Unmapped(gva));
            }
            is_executable &= entry & x86::paging::NX == 0;
            is_writable &= entry & x86::paging::W != 0;
            is_user &= entry & x86::paging::U != 0;
            if level == 0 || level <= 2 && entry & PS != 0 {
                let page_size = 1u64 << shift;
                let gpa = Gpa(entry & ADDRESS & !(page_size - 1) | gva.0 & (page_size - 1));
                return Ok(Mapped {
                    gpa,
                    page_size,
                    is_executable,
                    is_writable,
                    is_user,
                });
            }
            table = entry & ADDRESS;
        }
        Err(Blind::Unmapped(gva))
    }

    /// Where the byte at `gva` lies in physical memory.
    ///
    /// # Errors
    /// If nothing is mapped there.
    pub(crate) fn translate(&self, gva: Gva) -> Result<Gpa, Blind> {
        if let Some((phys_base, range)) = &self.image
            && range.contains(&gva.0)
        {
            return Ok(Gpa(phys_base.wrapping_add(gva.0 - IMAGE_VA)));
        }
        let page = gva.page().0;
        if let Some(frame) = self.walked.borrow().get(&page) {
            return Ok(Gpa(frame | gva.page_offset()));
        }
        let mapped = self.walk(gva)?;
        let mut walked = self.walked.borrow_mut();
        if walked.len() < REMEMBERED {
            walked.insert(page, mapped.gpa.0 & !(PAGE_SIZE - 1));
        }
        Ok(mapped.gpa)
    }

    /// Fills `bytes` from `gva` on, page by page.
    ///
    /// # Errors
    /// If any page is not mapped or cannot be read.
    pub(crate) fn read(&self, gva: Gva, bytes: &mut [u8]) -> Result<(), Blind> {
        let mut at = gva;
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut len = ((PAGE_SIZE - at.page_offset()) as usize).min(rest.len());
            if let Some((_, range)) = &self.image
                && range.contains(&at.0)
            {
                // Linear, so in one piece.
                len = rest.len().min((range.end - at.0) as usize);
            }
            let (now, later) = rest.split_at_mut(len);
            self.read_physical(self.translate(at)?, now)?;
            at = Gva(at.0.wrapping_add(len as u64));
            rest = later;
        }
        Ok(())
    }

    /// `len` bytes from `gva` on.
    ///
    /// # Errors
    /// As [`Space::read`].
    pub(crate) fn bytes(&self, gva: Gva, len: usize) -> Result<Vec<u8>, Blind> {
        // A length may be a hostile guest's: nothing is allocated for more than is ever read in one piece.
        if len > MAX_PIECE {
            return Err(Blind::OverBudget("bytes in one piece"));
        }
        let mut bytes = vec![0; len];
        self.read(gva, &mut bytes)?;
        Ok(bytes)
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// As [`Space::read`].
    pub(crate) fn u64(&self, gva: Gva) -> Result<u64, Blind> {
        let mut bytes = [0; 8];
        self.read(gva, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// As [`Space::read`].
    pub(crate) fn u32(&self, gva: Gva) -> Result<u32, Blind> {
        let mut bytes = [0; 4];
        self.read(gva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Text up to the first zero byte, at most `max_bytes`.
    ///
    /// # Errors
    /// As [`Space::read`].
    pub(crate) fn text(&self, gva: Gva, max_bytes: usize) -> Result<String, Blind> {
        let mut text = Vec::new();
        let mut at = gva;
        while text.len() < max_bytes {
            let len = ((PAGE_SIZE - at.page_offset()) as usize)
                .min(256)
                .min(max_bytes - text.len());
            let bytes = self.bytes(at, len)?;
            if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
                text.extend(&bytes[..end]);
                break;
            }
            text.extend(&bytes);
            at = Gva(at.0.wrapping_add(len as u64));
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
