//! Rust's side of SYSCALL and SYSRET in translated code: when the ways over are opened and shut, and what follows when one
//! was taken. What translated code does is told in `translate::crossing`.
//!
//! A passage is a promise that SYSCALL and SYSRET lead where they led when it was opened. It depends on
//!
//! - control registers, EFER, XCR0, debug registers and the limit of tables: [`SoftVcpu::update_context`] shuts it;
//! - STAR, LSTAR and the mask: writing them shuts it;
//! - the tables that it leads to: that one of them is given to somebody else shuts it (`Banks::have_lost_some`).
//!
//! It does not depend on segments, and of RFLAGS on AC and TF alone. A program with AC set that is checked for it, or with
//! TF, runs in code modes whose SYSCALL is the interpreter's, and the mask that is asked for clears both.

use x86::{Rflags, Segment};

use crate::block::{Crossed, Passage, seg};
use crate::cpu::SoftVcpu;
use crate::mode::Mode;

/// Flags that SYSCALL must clear, or its handler is not always in the same code mode and TLBs.
const MUST_BE_CLEARED: Rflags = Rflags::IF
    .union(Rflags::TF)
    .union(Rflags::DF)
    .union(Rflags::AC);

/// One side of a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    mode: Mode,
    tables: Passage,
}

impl SoftVcpu {
    /// The side that the vCPU is on.
    pub(crate) fn side(&self) -> Side {
        let block = &self.block;
        Side {
            mode: self.mode,
            tables: Passage {
                target: 1,
                keep: 0,
                read_tlb: block.clac.read_tlb,
                write_tlb: block.clac.write_tlb,
                stac_read_tlb: block.stac.read_tlb,
                stac_write_tlb: block.stac.write_tlb,
                jump_cache: block.jump_cache,
                selectors: 0,
            },
        }
    }

    /// CS and SS behind SYSCALL.
    pub(crate) fn syscall_segments(&self) -> (Segment, Segment) {
        let selector = (self.msrs.star >> 32) as u16 & !3;
        (
            Segment::flat(selector, Segment::CODE64),
            Segment::flat(selector.wrapping_add(8), Segment::DATA32),
        )
    }

    /// CS and SS behind SYSRET to 64-bit code.
    pub(crate) fn sysret_segments(&self) -> (Segment, Segment) {
        let base = (self.msrs.star >> 48) as u16;
        (
            Segment::flat(base.wrapping_add(16) | 3, 0xa0fb),
            Segment::flat(base.wrapping_add(8) | 3, 0xc0f3),
        )
    }

    /// SYSCALL has just led from `before`, which is 64-bit code, to where the vCPU is now. If that is a program and its kernel, it
    /// does so from now on in translated code.
    pub(crate) fn open_passages(&mut self, before: Side) {
        let mask = Rflags::from_bits_retain(self.msrs.syscall_mask);
        let is_programs = before.mode.has(Mode::USER) && !before.mode.has(Mode::ALIGNED);
        let may_jump = before.mode.may_jump() && self.mode.may_jump();
        if !is_programs || !may_jump || !mask.contains(MUST_BE_CLEARED) {
            return;
        }
        let selectors =
            |(cs, ss): (Segment, Segment)| u64::from(cs.selector) | u64::from(ss.selector) << 32;
        self.block.syscall = Passage {
            target: self.msrs.lstar,
            keep: !(mask | Rflags::RF).bits() | 2,
            selectors: selectors(self.syscall_segments()),
            ..self.side().tables
        };
        self.block.sysret = Passage {
            selectors: selectors(self.sysret_segments()),
            ..before.tables
        };
        // From now on a program's code runs without telling.
        self.spot.enter_space(self.cr3, true);
    }

    /// SYSCALL and SYSRET may lead elsewhere from now on.
    pub(crate) fn shut_passages(&mut self) {
        self.block.syscall.target = 0;
        self.block.sysret.target = 0;
    }

    /// Translated code has come back: is the vCPU on another side?
    pub(crate) fn follow_crossing(&mut self) {
        let crossed = std::mem::take(&mut self.block.crossed);
        let segments = if crossed == Crossed::Syscall as u32 {
            self.syscall_segments()
        } else if crossed == Crossed::Sysret as u32 {
            self.sysret_segments()
        } else {
            return;
        };
        let in_use = (self.block.read_tlb, self.block.jump_cache);
        (self.segments[seg::CS], self.segments[seg::SS]) = segments;
        self.update_privilege();
        debug_assert_eq!(
            in_use,
            (self.block.read_tlb, self.block.jump_cache),
            "the passage led where the interpreter would have led"
        );
    }
}
