//! Moving a block: what in its code depends on the guest address that it was translated for, and on where it lies.
//!
//! With address-space randomisation every program that starts has its libraries at other addresses, and the same
//! physical pages hold them. A block for another address is the same code but for a few immediates, so it is copied, and
//! those are changed: a fiftieth of what translating costs. Which they are is noted when they are emitted. Only code of
//! user programs is ever moved; only where every such immediate keeps its width, see [`may_lie_at`].

use crate::code_cache::HostPc;
use crate::jumps::jump_index;

/// Lowest address of a block that is moved, and the first above: every address that a block there names (its own and
/// whatever lies up to 2 GiB from it) takes all 64 bits of an immediate.
const LOWEST: u64 = 1 << 33;
const END: u64 = 1 << 47;

/// Whether a block may be moved from or to this guest address.
pub(crate) fn may_lie_at(rip: u64) -> bool {
    (LOWEST..END - LOWEST).contains(&rip)
}

/// What depends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// A guest address in eight bytes.
    Address,
    /// A guest address in the immediates of two stores, [`HALVES_APART`].
    Halves,
    /// A look at the jump cache for an address that is known: the displacement of its entry, the address negated, and the
    /// displacement of where the entry leads.
    JumpEntry,
    /// Number of a site, in four bytes.
    Site,
    /// Number of a link, in four bytes.
    Link,
    /// An offset in the code cache, in four bytes.
    Place,
    /// The displacement of a jump out of the block.
    Outside,
}

/// From the immediate of the first of two stores to that of the second.
pub(crate) const HALVES_APART: usize = 12;
/// From the displacement of a jump-cache entry to the negated address, and to the second displacement.
const ENTRY_TO_ADDRESS: usize = 6;
pub(crate) const ENTRY_TO_HOST: usize = 55;

/// One of them: `at` bytes behind the head of the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Relocation {
    pub(crate) at: u16,
    pub(crate) part: Part,
}

/// How far a block is moved, in everything that it depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift {
    pub(crate) rip: u64,
    pub(crate) host: HostPc,
    pub(crate) site: u32,
    pub(crate) link: u32,
}

impl Relocation {
    /// Changes the code of a block that is moved.
    pub(crate) fn apply(self, code: &mut [u8], shift: &Shift) {
        let at = usize::from(self.at);
        match self.part {
            Part::Address => change(code, at, |value| u64::wrapping_add(value, shift.rip)),
            Part::Halves => {
                let high = at + HALVES_APART;
                let value = u64::from(get(code, at)) | u64::from(get(code, high)) << 32;
                let value = value.wrapping_add(shift.rip);
                put(code, at, value as u32);
                put(code, high, (value >> 32) as u32);
            }
            Part::JumpEntry => {
                let mut target = 0;
                change(code, at + ENTRY_TO_ADDRESS, |negated| {
                    target = negated.wrapping_neg().wrapping_add(shift.rip);
                    target.wrapping_neg()
                });
                let entry = jump_index(target) as u32 * 16;
                put(code, at, entry);
                put(code, at + ENTRY_TO_HOST, entry + 8);
            }
            Part::Site => put(code, at, get(code, at).wrapping_add(shift.site)),
            Part::Link => put(code, at, get(code, at).wrapping_add(shift.link)),
            Part::Place => put(code, at, get(code, at).wrapping_add(shift.host as u32)),
            Part::Outside => put(code, at, get(code, at).wrapping_sub(shift.host as u32)),
        }
    }
}

fn get(code: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&code[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn put(code: &mut [u8], at: usize, value: u32) {
    code[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn change(code: &mut [u8], at: usize, by: impl FnOnce(u64) -> u64) {
    let value = u64::from(get(code, at)) | u64::from(get(code, at + 4)) << 32;
    code[at..at + 8].copy_from_slice(&by(value).to_le_bytes());
}
