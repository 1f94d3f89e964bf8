//! Which of several ways to lay memory out is the guest's, and which kernel it has: the kernel says both.

use std::sync::Arc;

use insight::vmcoreinfo::VmCoreInfo;
use insight::{
    Account, Extent, Kernel, Limits, Look, Memory, NotRecognised, attach_told, attach_within,
};

/// RAM that firmware keeps at the end of memory is told as reserved: so much may be missing at the end.
const RESERVED_MAX: u64 = 16 << 20;
/// Most different layouts that are tried.
const CANDIDATES_MAX: usize = 16;

/// One way in which memory may be a guest's.
pub struct Candidate {
    /// The memory.
    pub memory: Arc<dyn Memory>,
    /// How it is laid out, in words.
    pub words: String,
}

/// A guest whose kernel is known.
pub struct ForeignGuest {
    /// Its kernel.
    pub kernel: Kernel,
    /// Its memory.
    pub memory: Arc<dyn Memory>,
    /// How that is laid out, in words.
    pub layout: String,
    /// Why the layout is not proven by the kernel, if it is not.
    pub unproven: Option<String>,
}

impl ForeignGuest {
    /// One look; there are no registers.
    pub fn look<'k>(&'k self, account: &'k Account) -> Look<'k> {
        self.kernel.look(account, &[])
    }
}

/// Finds the kernel in whichever candidate has one whose own memory map is the candidate's. `told` is what came beside the
/// memory of what the kernel says of itself.
///
/// # Errors
/// If none has a kernel, or each kernel was told of other memory than there is.
pub fn recognise(
    candidates: &[Candidate],
    told: Option<&VmCoreInfo>,
    limits: Limits,
) -> Result<ForeignGuest, NotRecognised> {
    let mut tried = Vec::new();
    let mut banner = None;
    // A kernel whose map cannot be read may be one that is seen through the wrong layout.
    let mut unsure = None;
    for candidate in candidates.iter().take(CANDIDATES_MAX) {
        let note = |why: String| match candidates.len() {
            1 => why,
            _ => format!("{}: {why}", candidate.words),
        };
        let kernel = match attach(candidate, told, limits) {
            Ok(kernel) => kernel,
            Err(not) => {
                banner = banner.or(not.banner);
                let without_registers = not.tried.into_iter();
                let tells = without_registers.filter(|why| !why.starts_with("by registers"));
                tried.extend(tells.map(note));
                continue;
            }
        };
        let unproven = match differs(&kernel, &*candidate.memory) {
            Fit::Fits => None,
            Fit::Unknown(why) => Some(why),
            // Where the layout is told there is no other.
            Fit::Differs(why) if candidates.len() == 1 => Some(why),
            Fit::Differs(why) => {
                tried.push(note(why));
                continue;
            }
        };
        let is_sure = unproven.is_none() || candidates.len() == 1;
        let guest = ForeignGuest {
            kernel,
            memory: Arc::clone(&candidate.memory),
            layout: candidate.words.clone(),
            unproven,
        };
        if is_sure {
            return Ok(guest);
        }
        unsure = unsure.or(Some(guest));
    }
    if let Some(guest) = unsure {
        return Ok(guest);
    }
    tried.dedup();
    Err(NotRecognised { tried, banner })
}

fn attach(
    candidate: &Candidate,
    told: Option<&VmCoreInfo>,
    limits: Limits,
) -> Result<Kernel, NotRecognised> {
    let by_told = told.and_then(|told| attach_told(&candidate.memory, told, limits).ok());
    match by_told {
        Some(kernel) => Ok(kernel),
        None => attach_within(Arc::clone(&candidate.memory), &[], None, limits),
    }
}

/// What the kernel's memory map says about a layout.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    Fits,
    Differs(String),
    Unknown(String),
}

fn differs(kernel: &Kernel, memory: &dyn Memory) -> Fit {
    let account = kernel.account();
    match kernel.look(&account, &[]).ram_map() {
        Ok(told) => fit(&told, &memory.extents()),
        Err(blind) => Fit::Unknown(format!("the kernel's memory map: {blind}")),
    }
}

/// Compares what the kernel was told with what there is: all that it has must be there, and both must end at the same place.
fn fit(told: &[Extent], there: &[Extent]) -> Fit {
    let end = |extent: &Extent| extent.start.0.saturating_add(extent.len_bytes);
    let is_there = |told: &&Extent| {
        there
            .iter()
            .any(|extent| extent.start <= told.start && end(told) <= end(extent))
    };
    let missing = told.iter().find(|told| !is_there(told));
    if let Some(missing) = missing {
        return Fit::Differs(format!(
            "the kernel was told of RAM from {} to {:#x}, which is not there",
            missing.start,
            end(missing)
        ));
    }
    let last = |all: &[Extent]| all.iter().map(end).max().unwrap_or(0);
    if last(there).saturating_sub(last(told)) > RESERVED_MAX {
        return Fit::Differs(format!(
            "the kernel's RAM ends at {:#x}, and what is there at {:#x}",
            last(told),
            last(there)
        ));
    }
    Fit::Fits
}

#[cfg(test)]
mod tests {
    use x86::Gpa;

    use super::*;

    #[test]
    fn a_layout_is_the_guests_if_its_kernel_was_told_so() {
        const GIB: u64 = 1 << 30;
        let extents = |all: &[(u64, u64)]| -> Vec<Extent> {
            let extent = |&(start, end): &(u64, u64)| Extent {
                start: Gpa(start),
                len_bytes: end - start,
            };
            all.iter().map(extent).collect()
        };
        // As SeaBIOS tells a guest of 5 GiB on i440fx.
        let told = extents(&[(0, 0x9_fc00), (1 << 20, 0xbffe_0000), (4 * GIB, 6 * GIB)]);
        let check = |there: &[(u64, u64)], fits: bool| {
            assert_eq!(fit(&told, &extents(there)) == Fit::Fits, fits, "{there:x?}");
        };
        check(&[(0, 3 * GIB), (4 * GIB, 6 * GIB)], true);
        check(&[(0, 2 * GIB), (4 * GIB, 7 * GIB)], false);
        check(&[(0, 0xe000_0000), (4 * GIB, 4 * GIB + 0x6000_0000)], false);
        check(&[(0, 5 * GIB)], false);
    }
}
