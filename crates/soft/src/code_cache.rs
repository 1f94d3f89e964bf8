//! The code cache: memory for translated code, its one entrance and its common exits. The engine's unsafe room.
//!
//! It has two arenas. Code is appended to one of them and stays there; when one is full everything in it is dropped at
//! once. It is written through one
//! view and executed through another (W^X). Patching happens to aligned 4- and 8-byte words only, with one atomic
//! store each, so that a vCPU executing there sees the old or the new instruction and nothing between.
//!
//! The trampolines lie at the start. `enter` saves the host's callee-saved registers, sets GS base to the vCPU
//! block, loads the guest's registers and flags and jumps; the common exit does the reverse. The FP and vector
//! registers belong to the guest only while `fp_loaded` is set: translated code asks for them when it meets its
//! first FP instruction, and every exit puts them away, because compiled Rust uses them freely.
#![allow(unsafe_code, reason = "writes machine code and jumps to it")]

use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use host::executable::ExecutableMemory;
use host::fault::{FaultRegion, use_alternate_stack};
use x86::PAGE_SIZE;

use crate::block::{ExitReason, VcpuBlock, gpr_offset};
use crate::emit::{Emitter, Reg};

/// An address in the executable view.
pub(crate) type HostPc = u64;

/// Addresses of the common exits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stubs {
    /// Where the cache lies.
    pub(crate) cache: HostPc,
    /// Where the arena of moved blocks begins, and its end.
    moved: (HostPc, HostPc),
    enter: HostPc,
    /// Saves everything and returns to Rust; the reason is already in the block.
    pub(crate) exit: HostPc,
    /// As `exit`, with reason [`ExitReason::Lookup`]; `rip` is already in the block.
    pub(crate) lookup: HostPc,
    fault: HostPc,
}

impl Stubs {
    /// The arena of moved blocks.
    pub(crate) fn moved(&self) -> Range<HostPc> {
        self.moved.0..self.moved.1
    }
}

#[cfg(test)]
impl Stubs {
    /// Stubs of a cache that is not there: for code that is looked at and never run.
    pub(crate) fn of_tests(cache: HostPc) -> Stubs {
        Stubs {
            cache,
            moved: (cache, cache),
            enter: cache,
            exit: cache + 0x100,
            lookup: cache + 0x200,
            fault: cache + 0x300,
        }
    }
}

/// A part of the code cache that is dropped alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arena {
    /// What was translated.
    Translated,
    /// Copies of that for other guest addresses.
    Moved,
}

/// Offsets in the code cache: where an arena starts, what of it is used, what of it the host holds, and its end.
#[derive(Clone, Copy)]
struct Extent {
    start: usize,
    used: usize,
    highest: usize,
    end: usize,
}

/// One byte of the cache in so many is for moved blocks.
const MOVED_SHARE: usize = 4;

/// See the module's head.
pub(crate) struct CodeCache {
    memory: ExecutableMemory,
    _faults: FaultRegion,
    stubs: Stubs,
    /// By arena.
    extents: [Extent; 2],
}

fn field(offset: usize) -> i32 {
    offset as i32
}

impl CodeCache {
    /// A cache of `len_bytes`; `xsave_mask` are the state components that guests may use.
    pub(crate) fn new(len_bytes: usize, xsave_mask: u64) -> io::Result<CodeCache> {
        let memory = ExecutableMemory::new(len_bytes)?;
        let base = memory.executable_address() as u64;
        let mut emitter = Emitter::default();
        emitter.start(base);
        let mut stubs = emit_stubs(&mut emitter, xsave_mask);
        let middle = (len_bytes - len_bytes / MOVED_SHARE).next_multiple_of(16);
        stubs.moved = (base + middle as u64, base + len_bytes as u64);
        let record = offset_of!(VcpuBlock, fault) as u64;
        // SAFETY: code in the range runs only inside `run`, with GS base at a VcpuBlock; the landing stub saves
        // the registers of whatever instruction faulted.
        let faults =
            unsafe { FaultRegion::new(base, base + len_bytes as u64, stubs.fault, record) }?;
        let extent = |start, end| Extent {
            start,
            used: start,
            highest: start,
            end,
        };
        let mut cache = CodeCache {
            memory,
            _faults: faults,
            stubs,
            extents: [extent(0, middle), extent(middle, len_bytes)],
        };
        cache.append(Arena::Translated, emitter.bytes());
        let [translated, _] = &mut cache.extents;
        translated.start = translated.used;
        Ok(cache)
    }

    pub(crate) fn stubs(&self) -> Stubs {
        self.stubs
    }

    fn extent(&self, arena: Arena) -> Extent {
        self.extents[arena as usize]
    }

    /// Where the next block will lie.
    pub(crate) fn next_pc(&self, arena: Arena) -> HostPc {
        self.memory.executable_address() as u64 + self.extent(arena).used as u64
    }

    /// Bytes that the host holds for the code of an arena; the stubs are the first one's.
    pub(crate) fn held_bytes(&self, arena: Arena) -> usize {
        let Extent { start, highest, .. } = self.extent(arena);
        let start = match arena {
            Arena::Translated => 0,
            Arena::Moved => start,
        };
        (highest - start).next_multiple_of(PAGE_SIZE as usize)
    }

    /// Gives the memory of an arena that was cleared back to the host.
    pub(crate) fn give_back(&mut self, arena: Arena) {
        let page = PAGE_SIZE as usize;
        let Extent {
            start,
            used,
            highest,
            ..
        } = self.extent(arena);
        assert!(used == start, "nothing lies there any more");
        let from = start.next_multiple_of(page);
        // A last page that the next arena begins in stays.
        let to = highest
            .next_multiple_of(page)
            .min(self.extent(arena).end / page * page);
        // Where the host refuses, it is still held, and said to be.
        if from < to && self.memory.give_back(from, to - from).is_ok() {
            self.extents[arena as usize].highest = start;
        }
    }

    /// Size of an arena.
    pub(crate) fn len_bytes(&self, arena: Arena) -> usize {
        self.extent(arena).end - self.extent(arena).start
    }

    /// Whether `len_bytes` more fit.
    pub(crate) fn has_room(&self, arena: Arena, len_bytes: usize) -> bool {
        self.extent(arena).used + len_bytes + 64 <= self.extent(arena).end
    }

    /// Whether a block lies in an arena.
    pub(crate) fn is_in(&self, arena: Arena, pc: HostPc) -> bool {
        let Extent { start, used, .. } = self.extent(arena);
        let offset = pc.wrapping_sub(self.memory.executable_address() as u64);
        (start as u64..used as u64).contains(&offset)
    }

    /// Appends code, which was emitted for [`CodeCache::next_pc`], and aligns the end to 16 bytes.
    ///
    /// # Panics
    /// If there is no room: ask [`CodeCache::has_room`] first.
    pub(crate) fn append(&mut self, arena: Arena, code: &[u8]) {
        assert!(
            self.has_room(arena, code.len()),
            "the caller asked for room"
        );
        let extent = &mut self.extents[arena as usize];
        let at = (self.memory.writable_address() + extent.used) as *mut u8;
        // SAFETY: the destination is inside the writable view (checked above), which only this struct writes;
        // nobody executes bytes at or above `used`.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at, code.len()) };
        extent.used = (extent.used + code.len()).next_multiple_of(16);
        extent.highest = extent.highest.max(extent.used);
    }

    /// Code as it lies there: `len_bytes` from `pc` on, put into `to`. Under the lock of the translations, as all that
    /// changes code.
    pub(crate) fn copy_out(&self, pc: HostPc, len_bytes: usize, to: &mut Vec<u8>) {
        let at = self.writable(pc, len_bytes as u64) as *const u8;
        to.clear();
        to.resize(len_bytes, 0);
        // SAFETY: `writable` checked that the range is inside code; `to` has room for it. Nobody writes meanwhile: patches
        // and code that is appended go through this struct.
        unsafe { std::ptr::copy_nonoverlapping(at, to.as_mut_ptr(), len_bytes) };
    }

    /// Drops all code of an arena.
    pub(crate) fn clear(&mut self, arena: Arena) {
        let extent = &mut self.extents[arena as usize];
        extent.used = extent.start;
    }

    /// Address in the writable view of `len_bytes` of code.
    fn writable(&self, pc: HostPc, len_bytes: u64) -> usize {
        let offset = pc - self.memory.executable_address() as u64;
        let is_inside = self.extents.iter().any(|extent| {
            extent.start as u64 <= offset && offset + len_bytes <= extent.used as u64
        });
        assert!(is_inside, "patch inside code");
        self.memory.writable_address() + offset as usize
    }

    /// The same for a word to be patched.
    fn word(&self, pc: HostPc, len_bytes: u64) -> usize {
        assert!(pc.is_multiple_of(len_bytes), "a word is stored as a whole");
        self.writable(pc, len_bytes)
    }

    /// Aims the jump whose 4-byte displacement lies at `slot` (aligned) at `target`.
    pub(crate) fn patch_jump(&self, slot: HostPc, target: HostPc) {
        let displacement = target.wrapping_sub(slot + 4) as u32;
        let at = self.word(slot, 4) as *mut u32;
        // SAFETY: `word` checked range and alignment; every access to this word is this atomic store or an
        // instruction fetch.
        let word = unsafe { AtomicU32::from_ptr(at) };
        word.store(displacement, Ordering::Release);
    }

    /// Replaces the 8 bytes at `pc` (aligned), which start with a 5-byte no-operation, by `jmp target`.
    pub(crate) fn patch_head(&self, pc: HostPc, target: HostPc) {
        let displacement = target.wrapping_sub(pc + 5) as u32;
        let at = self.word(pc, 8) as *mut u64;
        // SAFETY: as in `patch_jump`.
        let word = unsafe { AtomicU64::from_ptr(at) };
        let rest = word.load(Ordering::Relaxed) & !0xff_ffff_ffff;
        word.store(
            rest | u64::from(displacement) << 8 | 0xe9,
            Ordering::Release,
        );
    }

    /// Runs translated code from `pc` until it exits.
    pub(crate) fn run(stubs: Stubs, block: &mut VcpuBlock, pc: HostPc) -> io::Result<()> {
        use_alternate_stack()?;
        let enter = stubs.enter as *const ();
        // SAFETY: `enter` is the trampoline emitted by `emit_stubs`, which has this signature and follows the
        // System V calling convention.
        let enter = unsafe {
            std::mem::transmute::<*const (), extern "sysv64" fn(*mut VcpuBlock, u64)>(enter)
        };
        enter(block, pc);
        Ok(())
    }
}

/// Callee-saved registers of the System V convention: RBX, RBP, R12 to R15.
const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

fn emit_stubs(e: &mut Emitter, xsave_mask: u64) -> Stubs {
    let enter = e.address();
    for register in CALLEE_SAVED {
        push(e, register);
    }
    // wrgsbase rdi
    e.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xdf]);
    e.store_gs(field(offset_of!(VcpuBlock, host_rsp)), Reg::RSP);
    e.store_gs(field(offset_of!(VcpuBlock, jump_target)), Reg::RSI);
    // Load the guest's FP state if it is wanted: cmp dword gs:[fp_loaded], 0.
    e.op_gs(&[0x83], 7, field(offset_of!(VcpuBlock, fp_loaded)));
    e.raw(&[0]);
    let no_fp = e.jcc(4);
    xsave_op(e, xsave_mask, 5, offset_of!(VcpuBlock, xsave));
    e.bind(no_fp);
    e.push_gs(field(offset_of!(VcpuBlock, rflags)));
    e.raw(&[0x9d]);
    for register in (0..16).filter(|&register| register != 4).chain([4]) {
        e.load_gs(Reg(register), gpr_offset(usize::from(register)));
    }
    e.jump_gs(field(offset_of!(VcpuBlock, jump_target)));

    e.align(16, 0);
    let fault = e.address();
    e.store_gs_imm32(
        field(offset_of!(VcpuBlock, exit_reason)),
        ExitReason::Fault as u32,
    );
    let fault_to_exit = e.jump();
    let lookup = e.address();
    e.store_gs_imm32(
        field(offset_of!(VcpuBlock, exit_reason)),
        ExitReason::Lookup as u32,
    );
    e.bind(fault_to_exit);
    let exit = e.address();
    for register in 0..16 {
        e.store_gs(gpr_offset(register), Reg(register as u8));
    }
    e.load_gs(Reg::RSP, field(offset_of!(VcpuBlock, host_rsp)));
    e.raw(&[0x9c]);
    e.pop_gs(field(offset_of!(VcpuBlock, rflags)));
    e.raw(&[0xfc]);
    e.load_gs32(Reg::RAX, field(offset_of!(VcpuBlock, fp_loaded)));
    // mov gs:[fp_was_loaded], eax; test eax, eax
    e.op_gs(&[0x89], 0, field(offset_of!(VcpuBlock, fp_was_loaded)));
    e.raw(&[0x85, 0xc0]);
    let no_fp = e.jcc(4);
    xsave_op(e, xsave_mask, 4, offset_of!(VcpuBlock, xsave));
    xsave_op(e, xsave_mask, 5, offset_of!(VcpuBlock, xsave_initial));
    e.store_gs_imm32(field(offset_of!(VcpuBlock, fp_loaded)), 0);
    e.bind(no_fp);
    for register in CALLEE_SAVED.into_iter().rev() {
        pop(e, register);
    }
    e.raw(&[0xc3]);
    Stubs {
        cache: enter,
        moved: (enter, enter),
        enter,
        exit,
        lookup,
        fault,
    }
}

/// XSAVE64 (`/4`) or XRSTOR64 (`/5`) of an area in the block.
fn xsave_op(e: &mut Emitter, mask: u64, reg: u8, area: usize) {
    e.mov_imm(Reg::RAX, mask & 0xffff_ffff);
    e.mov_imm(Reg::RDX, mask >> 32);
    e.op_gs(&[0x48, 0x0f, 0xae], reg, field(area));
}

fn push(e: &mut Emitter, register: u8) {
    if register >= 8 {
        e.raw(&[0x41]);
    }
    e.raw(&[0x50 | register & 7]);
}

fn pop(e: &mut Emitter, register: u8) {
    if register >= 8 {
        e.raw(&[0x41]);
    }
    e.raw(&[0x58 | register & 7]);
}
