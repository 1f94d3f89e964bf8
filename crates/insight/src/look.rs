//! One look at a guest: reads its state at (about) one moment, within limits, and counts what that cost.
//!
//! The guest runs on meanwhile. A structure is read in one piece, then checked, then used; what changed in between is
//! read again a few times or left out, and counted as torn.

use std::collections::HashSet;

use x86::{Gpa, Gva, PAGE_SIZE};

use crate::account::{Account, Cost, Limits};
use crate::blind::Blind;
use crate::kernel::Kernel;
use crate::layout::{Layouts, Place};
use crate::observed::{Observed, Rung};
use crate::registers::Registers;
use crate::space::Space;

/// Most vCPUs that per-CPU variables are read of.
const MAX_CPUS: u32 = 8192;
/// Most elements of one list.
pub const MAX_LIST: usize = 1 << 18;

/// A look. Make a new one for every moment.
pub struct Look<'k> {
    kernel: &'k Kernel,
    registers: &'k [Registers],
    space: Space<'k>,
}

impl Kernel {
    /// An account for one look.
    pub fn account(&self) -> Account {
        Account::new(Limits::default())
    }

    /// Looks at the guest; `registers` are those of now, and may be none.
    pub fn look<'k>(&'k self, account: &'k Account, registers: &'k [Registers]) -> Look<'k> {
        Look {
            kernel: self,
            registers,
            space: self.space(account),
        }
    }
}

impl<'k> Look<'k> {
    /// The kernel looked at.
    pub fn kernel(&self) -> &'k Kernel {
        self.kernel
    }

    /// The vCPUs' registers, if they were given.
    pub fn registers(&self) -> &'k [Registers] {
        self.registers
    }

    /// The kernel's address space.
    pub(crate) fn space(&self) -> &Space<'k> {
        &self.space
    }

    /// Where a byte of the kernel's address space lies in physical memory.
    ///
    /// # Errors
    /// If nothing is mapped there.
    pub fn physical(&self, gva: Gva) -> Result<Gpa, Blind> {
        self.space.translate(gva)
    }

    /// Spent so far.
    pub fn cost(&self) -> Cost {
        self.space.account().cost()
    }

    /// A reader's result with the evidence that it stands on.
    pub fn observed<T>(&self, result: Result<T, Blind>) -> Observed<T> {
        Observed::new(result, self.rung())
    }

    /// On what values stand that are read through structures.
    pub fn rung(&self) -> Rung {
        self.kernel.rung()
    }

    /// The kernel's structures.
    pub(crate) fn layouts(&self) -> Result<&'k Layouts, Blind> {
        self.kernel.profile.layouts.as_ref().ok_or(Blind::NoLayouts)
    }

    pub(crate) fn symbol(&self, name: &str) -> Result<Gva, Blind> {
        self.kernel.address(name)
    }

    pub(crate) fn place(&self, of: &str, path: &str) -> Result<Place, Blind> {
        self.layouts()?.place(of, path)
    }

    pub(crate) fn offset(&self, of: &str, path: &str) -> Result<u64, Blind> {
        Ok(self.place(of, path)?.offset as u64)
    }

    /// Reads a whole structure.
    pub(crate) fn object(&self, of: &'static str, gva: Gva) -> Result<Object<'k>, Blind> {
        let layouts = self.layouts()?;
        let size = layouts.size(of)?;
        if size > 1 << 20 {
            return Err(Blind::nonsense(format!(
                "type information says that {of} is {size} bytes long"
            )));
        }
        let bytes = self.space.bytes(gva, size)?;
        Ok(Object {
            layouts,
            of,
            gva,
            bytes,
        })
    }

    /// Reads one member.
    pub(crate) fn member(&self, of: &str, gva: Gva, path: &str) -> Result<u64, Blind> {
        let place = self.place(of, path)?;
        let bytes = self.space.bytes(
            Gva(gva.0.wrapping_add(place.offset as u64)),
            place.size.min(8),
        )?;
        Ok(value(&bytes, Place { offset: 0, ..place }).unwrap_or(0))
    }

    /// The elements of a circular list, as addresses of the structures that contain the links. Ends at the head, at the
    /// first link that cannot be read or was seen before, and at the limit.
    pub(crate) fn list(&self, head: Gva, link_offset: u64) -> Result<Vec<Gva>, Blind> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut at = self.space.u64(head)?;
        while at != head.0 {
            if at == 0 {
                return Err(Blind::nonsense(format!("list at {head} ends in nothing")));
            }
            if !seen.insert(at) || found.len() >= MAX_LIST {
                return Err(Blind::nonsense(format!("list at {head} does not end")));
            }
            found.push(Gva(at.wrapping_sub(link_offset)));
            at = self.space.u64(Gva(at))?;
        }
        Ok(found)
    }

    /// [`Look::list`], again if the guest changed it meanwhile.
    pub(crate) fn steady_list(&self, head: Gva, link_offset: u64) -> Result<Vec<Gva>, Blind> {
        let mut last = self.list(head, link_offset);
        for _ in 0..3 {
            if last.is_ok() || matches!(last, Err(Blind::OverBudget(_))) {
                break;
            }
            self.space.torn();
            last = self.list(head, link_offset);
        }
        last
    }

    /// The 64-bit number at a kernel address.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn number_at(&self, gva: Gva) -> Result<u64, Blind> {
        self.space.u64(gva)
    }

    /// Where the kernel has all of physical memory mapped in one piece (kernel documentation, arch/x86/x86_64/mm).
    ///
    /// # Errors
    /// If the kernel does not say; one that is not moved at random has a constant in its code instead.
    pub fn direct_map(&self) -> Result<Gva, Blind> {
        let start = self.space.u64(self.symbol("page_offset_base")?)?;
        let is_upper_half = start >> 47 == 0x1ffff || start >> 56 == 0xff;
        match is_upper_half && start.is_multiple_of(PAGE_SIZE) {
            true => Ok(Gva(start)),
            false => Err(Blind::nonsense("map of all memory lies nowhere")),
        }
    }

    /// The kernel's type information, byte by byte, as it lies in memory.
    ///
    /// # Errors
    /// If the kernel has none.
    pub fn type_information(&self) -> Result<Vec<u8>, Blind> {
        let start = self.symbol("__start_BTF")?;
        let stop = self.symbol("__stop_BTF")?;
        let len = stop.0.saturating_sub(start.0);
        if len == 0 || len > crate::btf::MAX_BYTES as u64 {
            return Err(Blind::NoLayouts);
        }
        self.space.bytes(start, len as usize)
    }

    /// Numbers of the CPUs that the kernel may have.
    pub fn possible_cpus(&self) -> Result<Vec<u32>, Blind> {
        let count = self.space.u32(self.symbol("nr_cpu_ids")?)?.min(MAX_CPUS);
        let mask = self.space.bytes(
            self.symbol("__cpu_possible_mask")?,
            count.div_ceil(64) as usize * 8,
        )?;
        let is_set = |cpu: &u32| {
            mask.get(*cpu as usize / 8)
                .is_some_and(|byte| byte >> (cpu % 8) & 1 != 0)
        };
        Ok((0..count).filter(is_set).collect())
    }

    /// Where a CPU's own copy of a per-CPU variable is. `variable` is the symbol's address or offset, or a pointer that
    /// the kernel keeps to per-CPU memory.
    pub(crate) fn per_cpu(&self, variable: Gva, cpu: u32) -> Result<Gva, Blind> {
        let offsets = self.symbol("__per_cpu_offset")?;
        let offset = self
            .space
            .u64(Gva(offsets.0.wrapping_add(8 * u64::from(cpu))))?;
        Ok(Gva(variable.0.wrapping_add(offset)))
    }
}

/// A structure that was read in one piece.
#[derive(Debug)]
pub(crate) struct Object<'k> {
    layouts: &'k Layouts,
    of: &'static str,
    gva: Gva,
    bytes: Vec<u8>,
}

impl Object<'_> {
    /// Where it is.
    pub(crate) fn gva(&self) -> Gva {
        self.gva
    }

    /// Where a member is in the guest.
    pub(crate) fn at(&self, path: &str) -> Result<Gva, Blind> {
        let place = self.layouts.place(self.of, path)?;
        Ok(Gva(self.gva.0.wrapping_add(place.offset as u64)))
    }

    /// A number, at most 64 bits of it.
    pub(crate) fn number(&self, path: &str) -> Result<u64, Blind> {
        let place = self.layouts.place(self.of, path)?;
        value(&self.bytes, place)
            .ok_or_else(|| Blind::NoType(format!("{}.{path} as a number", self.of)))
    }

    /// A signed 32-bit number.
    pub(crate) fn i32(&self, path: &str) -> Result<i32, Blind> {
        Ok(self.number(path)? as i32)
    }

    /// A pointer.
    pub(crate) fn pointer(&self, path: &str) -> Result<Gva, Blind> {
        self.number(path).map(Gva)
    }

    /// The first of several members that this kernel has: names change.
    pub(crate) fn first(&self, paths: &[&str]) -> Result<u64, Blind> {
        let found = paths.iter().find(|path| self.layouts.has(self.of, path));
        self.number(found.or(paths.first()).copied().unwrap_or_default())
    }

    /// Whether this kernel's structure has the member.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.layouts.has(self.of, path)
    }

    /// The bytes of a member.
    pub(crate) fn bytes(&self, path: &str) -> Result<&[u8], Blind> {
        let place = self.layouts.place(self.of, path)?;
        let end = place.offset.checked_add(place.size);
        end.and_then(|end| self.bytes.get(place.offset..end))
            .ok_or_else(|| Blind::NoType(format!("{}.{path} in its structure", self.of)))
    }

    /// Text in an array of characters.
    pub(crate) fn text(&self, path: &str) -> Result<String, Blind> {
        let bytes = self.bytes(path)?;
        let len = bytes
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }
}

/// The number at a place, a bitfield too.
fn value(bytes: &[u8], place: Place) -> Option<u64> {
    let size = place.size.min(8);
    let bytes = bytes.get(place.offset..place.offset.checked_add(size)?)?;
    let number = bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte));
    Some(match place.bits {
        None => number,
        Some((shift, width)) => number >> shift & (u64::MAX >> (64 - width.clamp(1, 64))),
    })
}
