//! The translator: guest code at one physical address into one translation block.
//!
//! A block is a straight run of guest instructions in one page, up to the first that jumps (but for [`MAX_BRANCHES`]
//! conditional ones that go forwards), that the interpreter must see, or [`MAX_INSTRUCTIONS`]. Two passes: decode and count register uses; emit. Most instructions are the
//! guest's own bytes: without memory operand they are copied as they stand, with one the operand is replaced by the
//! host address that the software TLB gave. The silicon executes the semantics; what is written here is only what
//! the guest must not do itself: address memory, use the stack, leave the block.
//!
//! ```text
//! guest:  add rax, [rbx+8]          host:   mov gs:[spill rcx], rcx      borrow two registers
//!                                           mov gs:[spill rdx], rdx
//!                                           lahf; seto al; ...           put flags away if they live in RFLAGS
//!                                           lea rcx, [rbx+8]
//!                                           mov rdx, rcx
//!                                           shr rdx, 8; and edx, 0x3ff0
//!                                           add rdx, gs:[read_tlb]
//!                                           xor rcx, [rdx]               offset in the page, if it hits
//!                                           cmp rcx, 4096-8
//!                                           ja  miss                     also: crosses the page
//!                                           and ecx, 0xfff               the same, also for who only guesses
//!                                           add rcx, [rdx+8]             host address
//!                                           add rax, [rcx]
//! ```

mod anchoring;
mod anchors;
mod builder;
mod classify;
mod control;
mod crossing;
mod memory;
mod place;
mod registers;
mod relocatable;
mod relocation;
mod shared;
mod stack;
mod strings;
mod tail;
mod tails;

#[cfg(test)]
mod classify_tests;
#[cfg(test)]
mod relocation_tests;
#[cfg(test)]
mod tests;

use std::mem::offset_of;
use std::sync::Arc;

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register,
};

use vcpu::Probes;
use x86::PAGE_SIZE;

use crate::block::{ExitReason, Toggle, VcpuBlock};
use crate::code_cache::{HostPc, Stubs};
use crate::emit::{Alu, Reg};
use crate::features::Features;
use crate::mode::Mode;
use builder::FlagUse;
use control::Exits;

pub(crate) use builder::{Builder, Link, Site, SiteAccess};
pub(crate) use classify::{Kind, classify, fp_level};
pub(crate) use memory::{
    Operand, has_16_bit_address, has_32_bit_address, is_locked, segment_index,
};
pub(crate) use relocation::{Relocation, Shift, may_lie_at};

/// Most bytes shown to the translator at once.
pub(crate) const WINDOW_BYTES: usize = 512;

/// The part of `window` that is shown to the translator for a block at `gpa`: it ends with the page.
pub(crate) fn window_of(window: &mut [u8; WINDOW_BYTES], gpa: u64) -> &mut [u8] {
    let left = (PAGE_SIZE - gpa % PAGE_SIZE) as usize;
    &mut window[..left.min(WINDOW_BYTES)]
}

/// Longest block in guest instructions.
const MAX_INSTRUCTIONS: usize = 48;

/// Conditional jumps that a block goes on behind. What follows one that goes forwards is more often run than not, and keeps
/// what has been borrowed and checked.
const MAX_BRANCHES: usize = 3;

/// How guest bytes are read, for the translator and the interpreter alike: as the presented vendor does.
/// All of 0F 18 to 0F 1F are hints, those too that a later processor gives a meaning (APM vol. 3, table A-2).
pub(crate) const DECODER_OPTIONS: u32 = DecoderOptions::AMD | DecoderOptions::FORCE_RESERVED_NOP;

/// What to translate.
pub(crate) struct Request<'a> {
    pub(crate) rip: u64,
    pub(crate) mode: Mode,
    /// Guest bytes from `rip` on: to the end of the page, or a few more if `straddles`.
    pub(crate) bytes: &'a [u8],
    /// The bytes come from two pages: translate one instruction only.
    pub(crate) straddles: bool,
}

/// What came of it; the code, sites and links are in the builder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translated {
    /// Guest bytes covered.
    pub(crate) len_bytes: u16,
    /// Exit for entries that come after the block went stale.
    pub(crate) stale: HostPc,
    /// The way to the block through the jump cache, if it straddles two pages and may be chained to.
    pub(crate) guard: Option<HostPc>,
}

/// One decoded guest instruction of a block.
struct Step {
    instruction: Instruction,
    kind: Kind,
    /// General registers it uses in any way, without implicit stack use.
    used: u16,
    /// Those that it writes, with implicit stack use.
    written: u16,
}

/// Working memory of the translator, kept from block to block.
pub(crate) struct Translator {
    pub(crate) builder: Builder,
    pub(crate) features: Features,
    /// A vCPU that waits in a loop may wait for another one.
    pub(crate) has_company: bool,
    /// Instructions of the kernel that somebody wants to hear of.
    pub(crate) probes: Arc<Probes>,
    info: InstructionInfoFactory,
    steps: Vec<Step>,
    /// The block ends before an instruction that goes on into the next page.
    ends_at_straddling: bool,
}

impl Translator {
    pub(crate) fn new(features: Features) -> Translator {
        Translator {
            builder: Builder::new(),
            features,
            has_company: false,
            probes: Probes::none(),
            info: InstructionInfoFactory::new(),
            steps: Vec::with_capacity(MAX_INSTRUCTIONS),
            ends_at_straddling: false,
        }
    }

    /// Translates for host address `base`. `None` if not even one whole instruction is in the bytes (the rest of
    /// it lies in the next page).
    pub(crate) fn translate(
        &mut self,
        request: &Request<'_>,
        base: HostPc,
        stubs: Stubs,
        first_site: u32,
        first_link: u32,
    ) -> Option<Translated> {
        let len_bytes = self.decode(request)?;
        self.builder
            .begin(base, stubs, request.mode, first_site, first_link);
        self.builder.is_movable &= may_lie_at(request.rip) && !request.straddles;
        let mut counts = [0; 16];
        for step in &self.steps {
            for (number, count) in counts.iter_mut().enumerate() {
                *count += step.used >> number & 1;
            }
        }
        self.builder.set_use_counts(&counts);
        self.emit(request);
        let guard = (request.straddles && request.mode.may_jump()).then(|| {
            let guard = self.builder.e.address();
            self.builder.go_through_jump_cache(request.rip);
            guard
        });
        let stale = self.builder.finish(request.rip);
        Some(Translated {
            len_bytes,
            stale,
            guard,
        })
    }

    fn decode(&mut self, request: &Request<'_>) -> Option<u16> {
        self.steps.clear();
        self.ends_at_straddling = false;
        let bitness = request.mode.bitness();
        let mut decoder = Decoder::with_ip(bitness, request.bytes, request.rip, DECODER_OPTIONS);
        let mut branches = 0;
        let limit = if request.straddles || request.mode.has(Mode::CAREFUL) {
            1
        } else {
            MAX_INSTRUCTIONS
        };
        while self.steps.len() < limit && decoder.can_decode() {
            let at = decoder.position();
            let instruction = decoder.decode();
            let is_cut_off = decoder.last_error() == iced_x86::DecoderError::NoMoreBytes;
            if is_cut_off {
                self.ends_at_straddling = true;
                return (at > 0).then_some(at as u16);
            }
            let info = self.info.info(&instruction);
            let kind = match classify(&instruction, info, request.mode, &self.features) {
                Kind::Pause if !self.has_company => Kind::Copy(None),
                kind => kind,
            };
            let used = if kind == Kind::Interpret {
                0
            } else {
                used_registers(info)
            };
            self.steps.push(Step {
                instruction,
                kind,
                used,
                written: written_registers(info),
            });
            let goes_through = kind == Kind::JumpIf
                && branches < MAX_BRANCHES
                && request.mode.may_jump()
                && self.steps.last().is_some_and(is_forward);
            if goes_through {
                branches += 1;
            } else if ends_block(kind) {
                break;
            }
        }
        Some(decoder.position() as u16)
    }

    fn emit(&mut self, request: &Request<'_>) {
        let page = request.rip & !0xfff;
        let steps = std::mem::take(&mut self.steps);
        for (position, step) in steps.iter().enumerate() {
            let Step {
                ref instruction,
                kind,
                used,
                written,
            } = *step;
            let rip = instruction.ip();
            let is_kernel = request.mode.is_64() && !request.mode.has(Mode::USER);
            if is_kernel && self.probes.has(rip) {
                self.builder.start_probed_instruction(rip);
            } else {
                self.builder.start_instruction(rip);
            }
            let exits = Exits {
                rip,
                page,
                straddles: request.straddles,
            };
            self.builder
                .anchors
                .expect(shared::reach(instruction, kind), || {
                    shared::stretch(&steps, position, request.mode)
                });
            let is_last = position + 1 == steps.len();
            if kind == Kind::JumpIf && !is_last {
                self.builder.jump_aside(instruction, exits);
                self.builder.anchors.follow(position, |_| None);
                continue;
            }
            if ends_block(kind) {
                self.builder.control(kind, instruction, exits);
                self.steps = steps;
                return;
            }
            if !self.step(instruction, kind, used) {
                // No 64-bit form: the interpreter does it. What was emitted for it so far is harmless.
                self.builder.control(Kind::Interpret, instruction, exits);
                self.steps = steps;
                return;
            }
            self.builder.anchors.follow(position, |base| {
                shared::fate(instruction, kind, written, base)
            });
        }
        if let Some(last) = steps.last() {
            let exits = Exits {
                rip: last.instruction.ip(),
                page,
                straddles: request.straddles,
            };
            self.builder.put_everything_back();
            let next = last.instruction.next_ip();
            if self.ends_at_straddling && request.mode.may_jump() {
                self.builder.go_through_jump_cache(next);
            } else {
                self.builder.go(next, exits);
            }
        }
        self.steps = steps;
    }

    /// Emits one instruction that does not end the block. False if that cannot be done.
    fn step(&mut self, instruction: &Instruction, kind: Kind, used: u16) -> bool {
        let flag_use = FlagUse::of(instruction);
        let touches_memory = matches!(kind, Kind::Copy(Some(_)) | Kind::BitTest(_));
        let must_be_aligned = touches_memory && self.builder.mode.has(Mode::ALIGNED);
        if must_be_aligned || writes_code_segment(kind, instruction, self.builder.mode) {
            return false;
        }
        if fp_level(instruction) > 0 {
            self.builder.want_fp_state();
        }
        match kind {
            Kind::Nothing => {}
            Kind::Copy(None) => return self.copy_plain(instruction, used, flag_use),
            Kind::Copy(Some(operand)) => {
                return self
                    .builder
                    .copy_with_memory(instruction, operand, used, flag_use);
            }
            Kind::BitTest(operand) => {
                return self.builder.copy_bit_test(instruction, operand, used);
            }
            Kind::Lea => return self.lea(instruction, used),
            Kind::String => return self.builder.string(instruction, flag_use),
            Kind::MoveFromSegment => self.move_from_segment(instruction),
            Kind::Push => self.builder.push(instruction),
            Kind::Pop => self.builder.pop(instruction),
            Kind::Leave => self.builder.leave_frame(),
            Kind::Pushf => self.builder.push_flags(),
            Kind::Sti => self.builder.set_interrupts(),
            Kind::SwapGs => self.builder.swap_gs(),
            Kind::AccessFlag(is_set) => self.builder.set_access_flag(is_set),
            Kind::Cli => {
                self.builder
                    .e
                    .store_gs_imm32(offset_of!(VcpuBlock, interrupts) as i32, 0);
            }
            Kind::ReadTsc => self.read_tsc(instruction),
            _ => return false,
        }
        true
    }

    fn copy_plain(&mut self, instruction: &Instruction, used: u16, flag_use: FlagUse) -> bool {
        self.builder.give_back(used);
        let were_saved = self.builder.flags_are_away() && flag_use != FlagUse::Needs;
        self.builder.flags_for(flag_use);
        let encoded = self.builder.encode(instruction);
        if may_fault(instruction) {
            self.builder.fault_site_with_flags(were_saved);
        }
        encoded
    }

    fn lea(&mut self, instruction: &Instruction, used: u16) -> bool {
        self.builder.give_back(used);
        if instruction.is_ip_rel_memory_operand()
            || instruction.memory_base() == Register::None
                && instruction.memory_index() == Register::None
        {
            let target = instruction.op0_register();
            let Some(number) = registers::gpr_number(target) else {
                return false;
            };
            let value = instruction.memory_displacement64();
            let is_relative = instruction.is_ip_rel_memory_operand();
            match target.size() {
                8 if is_relative => self.builder.mov_address(Reg(number), value),
                8 => self.builder.e.mov_imm(Reg(number), value),
                4 => self.builder.e.mov_imm(Reg(number), value & 0xffff_ffff),
                _ => return false,
            }
            self.builder.is_movable &= target.size() == 8 || !is_relative;
            return true;
        }
        let uses_16_bit_address =
            instruction.memory_base().size() == 2 || instruction.memory_index().size() == 2;
        if uses_16_bit_address {
            return false;
        }
        let mut copy = *instruction;
        copy.set_segment_prefix(Register::None);
        self.builder.encode(&copy)
    }

    /// MOV from a segment register: selectors are kept in the block.
    fn move_from_segment(&mut self, instruction: &Instruction) {
        let target = instruction.op0_register();
        let Some(number) = registers::gpr_number(target) else {
            return;
        };
        self.builder.give_back(1 << number);
        let index = segment_index(instruction.op1_register());
        let offset = (offset_of!(VcpuBlock, selector) + index * 4) as i32;
        self.builder.e.load_gs32(Reg(number), offset);
    }

    /// RDTSC and RDTSCP: the host's counter plus the guest's offset.
    fn read_tsc(&mut self, instruction: &Instruction) {
        let is_rdtscp = instruction.mnemonic() == iced_x86::Mnemonic::Rdtscp;
        self.builder.put_flags_away();
        self.builder.give_back(1 | 1 << 2 | 1 << 1);
        let e = &mut self.builder.e;
        if is_rdtscp {
            e.raw(&[0x0f, 0x01, 0xf9]);
            e.load_gs32(Reg::RCX, offset_of!(VcpuBlock, tsc_aux) as i32);
        } else {
            e.raw(&[0x0f, 0x31]);
        }
        e.shl(Reg::RDX, 32);
        e.alu(Alu::Or, Reg::RAX, Reg::RDX);
        e.alu_gs(Alu::Add, Reg::RAX, offset_of!(VcpuBlock, tsc_offset) as i32);
        e.mov(Reg::RDX, Reg::RAX);
        e.shr(Reg::RDX, 32);
        e.mov32(Reg::RAX, Reg::RAX);
    }
}

/// A store through a CS override outside 64-bit mode faults, however flat the segment is.
fn writes_code_segment(kind: Kind, instruction: &Instruction, mode: Mode) -> bool {
    let (Kind::Copy(Some(operand)) | Kind::BitTest(operand)) = kind else {
        return false;
    };
    operand.write && !mode.is_64() && instruction.memory_segment() == Register::CS
}

/// General registers that an instruction uses in any way.
fn used_registers(info: &iced_x86::InstructionInfo) -> u16 {
    info.used_registers()
        .iter()
        .filter_map(|used| registers::gpr_number(used.register()))
        .fold(0, |mask, number| mask | 1 << number)
}

/// General registers that an instruction writes, or may write.
fn written_registers(info: &iced_x86::InstructionInfo) -> u16 {
    let is_written = |access| {
        matches!(
            access,
            OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
        )
    };
    info.used_registers()
        .iter()
        .filter(|used| is_written(used.access()))
        .filter_map(|used| registers::gpr_number(used.register()))
        .fold(0, |mask, number| mask | 1 << number)
}

/// Whether the silicon may refuse a copied instruction whose operand is reachable: divisions, everything that has to
/// do with FP state, and the few that are not there on every host.
pub(crate) fn may_fault(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    fp_level(instruction) > 0
        || instruction.has_lock_prefix()
        || matches!(
            instruction.mnemonic(),
            M::Div | M::Idiv | M::Cmpxchg16b | M::Rdrand | M::Rdseed | M::Movnti | M::Xchg
        )
}

fn is_forward(step: &Step) -> bool {
    step.instruction.near_branch_target() > step.instruction.ip()
}

fn ends_block(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Jump
            | Kind::JumpIf
            | Kind::JumpCounter
            | Kind::JumpIndirect
            | Kind::Call
            | Kind::CallIndirect
            | Kind::Return
            | Kind::Syscall
            | Kind::Sysret
            | Kind::Pause
            | Kind::Interpret
    )
}

impl Builder {
    /// STI. If an interrupt waits, the interpreter does it and sees to the shadow; otherwise there is nothing that
    /// could come too early, and whoever comes later is seen at the next poll.
    fn set_interrupts(&mut self) {
        let slot = crate::block::spill_offset(1);
        self.give_back(1 << 1);
        self.e.store_gs(slot, Reg::RCX);
        self.e
            .load_gs32(Reg::RCX, offset_of!(VcpuBlock, window_wanted) as i32);
        let nobody_waits = self.e.jump_if_rcx_zero(false);
        let wanted = self.e.jump();
        self.with_spilled(1 << 1, |builder| builder.miss_to_interpreter(wanted));
        self.e.bind(nobody_waits);
        self.e.load_gs(Reg::RCX, slot);
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, interrupts) as i32, 1);
    }

    /// STAC and CLAC, in ring 0. What has been checked so far was checked with the TLBs of before.
    fn set_access_flag(&mut self, is_set: bool) {
        let from = if is_set {
            offset_of!(VcpuBlock, stac)
        } else {
            offset_of!(VcpuBlock, clac)
        };
        self.anchors.drop_in(u16::MAX);
        let word = self.borrow(0, false);
        for (part, to) in [
            (
                offset_of!(Toggle, system_flags),
                offset_of!(VcpuBlock, system_flags),
            ),
            (
                offset_of!(Toggle, read_tlb),
                offset_of!(VcpuBlock, read_tlb),
            ),
            (
                offset_of!(Toggle, write_tlb),
                offset_of!(VcpuBlock, write_tlb),
            ),
        ] {
            self.e.load_gs(word, (from + part) as i32);
            self.e.store_gs(to as i32, word);
        }
    }

    /// SWAPGS, in ring 0. Rust's copies of both bases follow when translated code comes back.
    fn swap_gs(&mut self) {
        let base = (offset_of!(VcpuBlock, segment_base) + crate::block::seg::GS * 8) as i32;
        let kernel_base = offset_of!(VcpuBlock, kernel_gs_base) as i32;
        let one = self.borrow(0, false);
        let other = self.borrow(1 << one.0, false);
        self.e.load_gs(one, base);
        self.e.load_gs(other, kernel_base);
        self.e.store_gs(kernel_base, one);
        self.e.store_gs(base, other);
    }
}

/// Builds the code that runs one instruction with its memory operand in the bounce buffer.
///
/// Used when the operand cannot be reached directly: it crosses pages, is MMIO, or lies on a page with translated
/// code. The caller fills and empties the buffer. Returns false if the instruction cannot be run so.
pub(crate) fn bounce(
    builder: &mut Builder,
    base: HostPc,
    stubs: Stubs,
    mode: Mode,
    instruction: &Instruction,
    first_site: u32,
) -> bool {
    builder.begin(base, stubs, mode, first_site, 0);
    builder.start_instruction(instruction.ip());
    if fp_level(instruction) > 0 {
        builder.want_fp_state();
        builder.put_everything_back();
    }
    let mut copy = *instruction;
    let has_memory = (0..copy.op_count()).any(|op| copy.op_kind(op) == OpKind::Memory);
    if !has_memory {
        return false;
    }
    if !builder.encode_bounced(&mut copy) {
        return false;
    }
    builder.fault_site();
    builder.leave(instruction.next_ip(), ExitReason::Bounced);
    builder.finish(instruction.ip());
    true
}
