//! Where a guest's kernel lies: the facts that everything else hangs on.
//!
//! The interrupt descriptor table is reached through whatever page tables a vCPU has loaded, even those that a process
//! has when the kernel hides from it (page-table isolation). Its page-fault handler is in the kernel image, so one walk
//! tells how far the image's virtual addresses are from its physical ones. SYSCALL's entry does the same independently.
//! The image is mapped linearly, so from there on no vCPU's tables are needed any more.

use std::ops::Range;

use x86::paging::{ADDRESS, P};
use x86::{Gpa, Gva};

use crate::account::Account;
use crate::blind::Blind;
use crate::memory::Memory;
use crate::registers::Registers;
use crate::space::{IMAGE_MAX, IMAGE_VA, Root, Space};
use crate::vmcoreinfo::VmCoreInfo;

/// Which gate of the interrupt descriptor table is looked at: page fault.
const PAGE_FAULT: u64 = 14;
/// Pieces that the image is placed and mapped in.
const PIECE: u64 = 2 << 20;

/// Where the kernel image lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    /// Physical address of where `IMAGE_VA` would be, wrapping.
    pub phys_base: u64,
    /// Virtual addresses in the image that registers lead to: SYSCALL's entry, the page-fault handler.
    pub handlers: Vec<Gva>,
    /// Tables through which the image was seen.
    pub root: Root,
    /// What else was seen and does not agree.
    pub disputes: Vec<String>,
}

/// From registers.
///
/// # Errors
/// If no vCPU leads to a kernel image; the reason names what was tried.
pub(crate) fn from_registers(
    memory: &dyn Memory,
    account: &Account,
    vcpus: &[Registers],
) -> Result<Anchor, Blind> {
    let mut why = Blind::NotGiven("no registers of vCPUs were given");
    let mut anchor: Option<Anchor> = None;
    // One that is parked tells where a kernel was.
    let are_all_parked = vcpus.iter().all(Registers::is_parked);
    for vcpu in vcpus {
        if vcpu.is_parked() && !are_all_parked {
            continue;
        }
        if !vcpu.is_long_mode() {
            why = Blind::NotGiven("no vCPU has 64-bit paging on");
            continue;
        }
        let root = Root {
            gpa: Gpa(vcpu.cr3 & ADDRESS),
            levels: vcpu.levels(),
        };
        let space = Space::new(memory, account, Some(root));
        let routes = [
            ("SYSCALL entry", Ok(Gva(vcpu.lstar))),
            ("page-fault handler", page_fault_handler(&space, vcpu)),
        ];
        for (name, handler) in routes {
            let base = handler.and_then(|handler| Ok((handler, phys_base(&space, handler)?)));
            match (base, &mut anchor) {
                (Ok((handler, phys_base)), None) => {
                    anchor = Some(Anchor {
                        phys_base,
                        handlers: vec![handler],
                        root,
                        disputes: Vec::new(),
                    });
                }
                (Ok((handler, phys_base)), Some(anchor)) => {
                    if anchor.phys_base != phys_base {
                        let id = vcpu.vcpu_id;
                        anchor
                            .disputes
                            .push(format!("the {name} of vCPU {id} lies in another image"));
                    } else if !anchor.handlers.contains(&handler) {
                        anchor.handlers.push(handler);
                    }
                }
                (Err(blind), None) => why = blind,
                // A CPU that is just being started has neither yet.
                (Err(_), Some(_)) => {}
            }
        }
    }
    anchor.ok_or(why)
}

/// The handler that the interrupt descriptor table names for page faults (SDM vol. 3, 7.14.1).
fn page_fault_handler(space: &Space<'_>, vcpu: &Registers) -> Result<Gva, Blind> {
    let gate = space.bytes(Gva(vcpu.idt_base.wrapping_add(PAGE_FAULT * 16)), 16)?;
    gate_target(&gate)
        .ok_or_else(|| Blind::nonsense("interrupt descriptor table has no page-fault handler"))
}

/// Where a gate leads, if it is present.
pub(crate) fn gate_target(gate: &[u8]) -> Option<Gva> {
    let is_present = gate.get(5)? & 0x80 != 0;
    let part = |range: Range<usize>| {
        Some(
            gate.get(range)?
                .iter()
                .rev()
                .fold(0, |number, &byte| number << 8 | u64::from(byte)),
        )
    };
    let target = part(0..2)? | part(6..8)? << 16 | part(8..12)? << 32;
    is_present.then_some(Gva(target))
}

fn phys_base(space: &Space<'_>, handler: Gva) -> Result<u64, Blind> {
    if !(IMAGE_VA..IMAGE_VA + IMAGE_MAX).contains(&handler.0) {
        return Err(Blind::nonsense(format!(
            "handler {handler} lies outside of where a kernel image can be"
        )));
    }
    let gpa = space.walk(handler)?.gpa;
    let base = gpa.0.wrapping_sub(handler.0 - IMAGE_VA);
    if !base.is_multiple_of(PIECE) {
        return Err(Blind::nonsense(
            "kernel image is not where a boot loader can put one",
        ));
    }
    Ok(base)
}

/// From the kernel's description of itself.
pub(crate) fn from_vmcoreinfo(info: &VmCoreInfo) -> Option<Anchor> {
    let phys_base = info.phys_base()?;
    let table = info
        .symbol("init_top_pgt")
        .or_else(|| info.symbol("swapper_pg_dir"))?;
    let root = Root {
        gpa: image_gpa(phys_base, table)?,
        levels: info.levels().unwrap_or(4),
    };
    let text = info.symbol("_stext")?;
    image_gpa(phys_base, text)?;
    Some(Anchor {
        phys_base,
        handlers: vec![text],
        root,
        disputes: Vec::new(),
    })
}

/// Physical address of a place in the image.
pub(crate) fn image_gpa(phys_base: u64, gva: Gva) -> Option<Gpa> {
    (IMAGE_VA..IMAGE_VA + IMAGE_MAX)
        .contains(&gva.0)
        .then(|| Gpa(phys_base.wrapping_add(gva.0 - IMAGE_VA)))
}

/// The stretch of virtual addresses that the image is mapped at, in pieces of 2 MiB, around the handlers.
///
/// # Errors
/// If the tables cannot be read.
pub(crate) fn image_range(space: &Space<'_>, anchor: &Anchor) -> Result<Range<u64>, Blind> {
    let handler = anchor
        .handlers
        .first()
        .ok_or(Blind::NotGiven("no handler is known"))?;
    let mut table = anchor.root.gpa.0 & ADDRESS;
    for level in (2..anchor.root.levels).rev() {
        let index = IMAGE_VA >> (12 + 9 * level) & 511;
        let entry = entry(space, table, index)?;
        if entry & P == 0 {
            return Err(Blind::Unmapped(Gva(IMAGE_VA)));
        }
        table = entry & ADDRESS;
    }
    let mut pieces = vec![0; 4096];
    space.read_physical(Gpa(table), &mut pieces)?;
    let is_present = |piece: u64| {
        pieces
            .get(piece as usize * 8)
            .is_some_and(|low| u64::from(*low) & P != 0)
    };
    let at = (handler.0 - IMAGE_VA) / PIECE;
    if !is_present(at) {
        return Err(Blind::Unmapped(*handler));
    }
    let first = (0..=at)
        .rev()
        .take_while(|&piece| is_present(piece))
        .last()
        .unwrap_or(at);
    let last = (at..512)
        .take_while(|&piece| is_present(piece))
        .last()
        .unwrap_or(at);
    Ok(IMAGE_VA + first * PIECE..IMAGE_VA + (last + 1) * PIECE)
}

fn entry(space: &Space<'_>, table: u64, index: u64) -> Result<u64, Blind> {
    let mut bytes = [0; 8];
    space.read_physical(Gpa(table + index * 8), &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
