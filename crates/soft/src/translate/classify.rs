//! Which way an instruction goes: copied, rebuilt from smaller steps, or left to the interpreter.

use iced_x86::{
    Code, CpuidFeature, FlowControl, Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind,
};

use super::memory::{Operand, operand_size};
use super::strings::is_simple_string;
use crate::features::Features;
use crate::mode::Mode;

/// See the module's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Copied; the memory operand, if any, is rewritten.
    Copy(Option<Operand>),
    /// BT and its kin with a register offset into memory.
    BitTest(Operand),
    /// Nothing to do.
    Nothing,
    /// LEA.
    Lea,
    Jump,
    JumpIf,
    /// LOOP, LOOPE, LOOPNE, JCXZ: they test a register.
    JumpCounter,
    JumpIndirect,
    Call,
    CallIndirect,
    Return,
    Push,
    Pop,
    Leave,
    Pushf,
    /// MOVS, STOS and their kin with 64-bit pointers.
    String,
    /// MOV from a segment register to a 32- or 64-bit register.
    MoveFromSegment,
    Cli,
    Sti,
    SwapGs,
    /// SYSCALL of a program, as the interpreter has prepared it.
    Syscall,
    /// The way back.
    Sysret,
    /// STAC and CLAC: whether they set RFLAGS.AC.
    AccessFlag(bool),
    /// PAUSE in a VM of several vCPUs.
    Pause,
    ReadTsc,
    /// For the interpreter, which also raises #UD for what does not exist.
    Interpret,
}

/// Decides for one instruction.
pub(crate) fn classify(
    instruction: &Instruction,
    info: &InstructionInfo,
    mode: Mode,
    features: &Features,
) -> Kind {
    // Without shadow stacks these are hints, and runtime libraries execute them anywhere (APM vol. 3, RDSSP).
    if matches!(instruction.mnemonic(), Mnemonic::Rdsspd | Mnemonic::Rdsspq) {
        return Kind::Nothing;
    }
    if !features.allows(instruction) || is_forbidden(instruction, mode) {
        return Kind::Interpret;
    }
    if let Some(kind) = control_flow(instruction, mode) {
        return kind;
    }
    if let Some(kind) = special(instruction, mode) {
        return kind;
    }
    if is_simple_string(instruction, mode) {
        return Kind::String;
    }
    let moves_from_segment = matches!(
        instruction.code(),
        Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg
    ) && instruction.op0_kind() == OpKind::Register;
    if moves_from_segment && mode.is_64() {
        return Kind::MoveFromSegment;
    }
    if is_for_interpreter(instruction) {
        return Kind::Interpret;
    }
    if !mode.is_64() && uses_segment_register(instruction) {
        return Kind::Interpret;
    }
    memory_copy(instruction, info)
}

fn memory_copy(instruction: &Instruction, info: &InstructionInfo) -> Kind {
    let memory_op =
        (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory);
    let Some(memory_op) = memory_op else {
        let implicit = (0..instruction.op_count()).any(|op| {
            !matches!(
                instruction.op_kind(op),
                OpKind::Register
                    | OpKind::Immediate8
                    | OpKind::Immediate8_2nd
                    | OpKind::Immediate16
                    | OpKind::Immediate32
                    | OpKind::Immediate64
                    | OpKind::Immediate8to16
                    | OpKind::Immediate8to32
                    | OpKind::Immediate8to64
                    | OpKind::Immediate32to64
            )
        });
        return if implicit {
            Kind::Interpret
        } else {
            Kind::Copy(None)
        };
    };
    if instruction.is_vsib() {
        return Kind::Interpret;
    }
    let write = match info.op_access(memory_op) {
        OpAccess::Read | OpAccess::CondRead => false,
        OpAccess::NoMemAccess | OpAccess::None => return Kind::Nothing,
        _ => true,
    };
    let Some(size) = operand_size(instruction) else {
        return Kind::Interpret;
    };
    let operand = Operand { size, write };
    let is_bit_test = matches!(
        instruction.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    );
    if is_bit_test && instruction.op1_kind() == OpKind::Register {
        return Kind::BitTest(operand);
    }
    Kind::Copy(Some(operand))
}

/// AVX and SSE when the mode says they are off.
fn is_forbidden(instruction: &Instruction, mode: Mode) -> bool {
    mode.has(Mode::NO_SSE | Mode::NO_AVX) && {
        let level = fp_level(instruction);
        level == 2 && mode.has(Mode::NO_SSE) || level >= 3 && mode.has(Mode::NO_AVX)
    }
}

/// 0: no FP state; 1: x87 or MMX; 2: SSE; 3: VEX-encoded.
pub(crate) fn fp_level(instruction: &Instruction) -> u8 {
    let features = instruction.cpuid_features();
    if features
        .iter()
        .any(|feature| matches!(feature, CpuidFeature::AVX | CpuidFeature::AVX2))
    {
        return 3;
    }
    let registers = (0..instruction.op_count())
        .filter(|&op| instruction.op_kind(op) == OpKind::Register)
        .map(|op| instruction.op_register(op));
    let mut level = 0;
    for register in registers {
        if register.is_ymm()
            || register.is_xmm() && instruction.encoding() == iced_x86::EncodingKind::VEX
        {
            level = level.max(3);
        } else if register.is_xmm() {
            level = level.max(2);
        } else if register.is_mm() || register.is_st() {
            level = level.max(1);
        }
    }
    // These use MXCSR without naming a vector register, or with one in memory only.
    let uses_mxcsr = matches!(
        instruction.mnemonic(),
        Mnemonic::Ldmxcsr
            | Mnemonic::Stmxcsr
            | Mnemonic::Cvtsd2si
            | Mnemonic::Cvttsd2si
            | Mnemonic::Cvtss2si
            | Mnemonic::Cvttss2si
    );
    if uses_mxcsr {
        level = level.max(2);
    }
    let is_x87 = features.iter().any(|feature| {
        matches!(
            feature,
            CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387
        )
    });
    if is_x87 || matches!(instruction.mnemonic(), Mnemonic::Emms | Mnemonic::Wait) {
        level = level.max(1);
    }
    level
}

fn control_flow(instruction: &Instruction, mode: Mode) -> Option<Kind> {
    let is_near = !matches!(
        instruction.op0_kind(),
        OpKind::FarBranch16 | OpKind::FarBranch32
    );
    let operand_is_full = |size: usize| size == if mode.is_64() { 8 } else { 4 };
    let stack_is_ours = !mode.has(Mode::SEGMENTED | Mode::CODE16 | Mode::ALIGNED);
    let may_cross = mode.is_64() && !mode.has(Mode::CAREFUL | Mode::ALIGNED | Mode::MIDDLE_RING);
    match instruction.code() {
        Code::Syscall if may_cross && mode.has(Mode::USER) => return Some(Kind::Syscall),
        Code::Sysretq if may_cross && !mode.has(Mode::USER) => return Some(Kind::Sysret),
        _ => {}
    }
    let kind = match instruction.flow_control() {
        FlowControl::Next => return None,
        FlowControl::UnconditionalBranch if is_near && !is_16_bit_branch(instruction) => Kind::Jump,
        FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
            if is_16_bit_branch(instruction) {
                Kind::Interpret
            } else {
                Kind::JumpIf
            }
        }
        FlowControl::ConditionalBranch
            if instruction.is_jcx_short() || instruction.is_loop() || instruction.is_loopcc() =>
        {
            let fits = mode.is_64() || counts_in_ecx(instruction);
            if is_16_bit_branch(instruction) || !fits {
                Kind::Interpret
            } else {
                Kind::JumpCounter
            }
        }
        FlowControl::Call
            if is_near
                && stack_is_ours
                && !is_16_bit_branch(instruction)
                && instruction.is_call_near() =>
        {
            Kind::Call
        }
        FlowControl::IndirectBranch
            if instruction.is_jmp_near_indirect()
                && operand_is_full(branch_operand_size(instruction)) =>
        {
            Kind::JumpIndirect
        }
        FlowControl::IndirectCall
            if instruction.is_call_near_indirect()
                && stack_is_ours
                && operand_is_full(branch_operand_size(instruction)) =>
        {
            Kind::CallIndirect
        }
        FlowControl::Return
            if stack_is_ours
                && matches!(
                    instruction.code(),
                    Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16
                ) =>
        {
            Kind::Return
        }
        _ => Kind::Interpret,
    };
    Some(kind)
}

fn is_16_bit_branch(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch16
}

fn branch_operand_size(instruction: &Instruction) -> usize {
    match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    }
}

fn special(instruction: &Instruction, mode: Mode) -> Option<Kind> {
    let stack_is_ours = !mode.has(Mode::SEGMENTED | Mode::CODE16 | Mode::ALIGNED);
    let word = if mode.is_64() { 8 } else { 4 };
    let is_prefetch = matches!(
        instruction.code(),
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    );
    let is_ring_0 = !mode.has(Mode::USER | Mode::MIDDLE_RING);
    let kind = match instruction.mnemonic() {
        // Prefetches have no register form.
        Mnemonic::Reservednop if is_prefetch && instruction.op0_kind() == OpKind::Register => {
            Kind::Interpret
        }
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw
        | Mnemonic::Reservednop => Kind::Nothing,
        Mnemonic::Pause => Kind::Pause,
        Mnemonic::Lea => Kind::Lea,
        Mnemonic::Push if stack_is_ours => push_kind(instruction, word),
        Mnemonic::Pop if stack_is_ours => {
            let is_plain = instruction.op0_kind() == OpKind::Register
                && instruction.op0_register().is_gpr()
                && instruction.op0_register().size() == word;
            if is_plain { Kind::Pop } else { Kind::Interpret }
        }
        Mnemonic::Leave
            if stack_is_ours && matches!(instruction.code(), Code::Leaveq | Code::Leaved) =>
        {
            Kind::Leave
        }
        Mnemonic::Pushfq if stack_is_ours && mode.is_64() => Kind::Pushf,
        Mnemonic::Cli if is_ring_0 && mode.is_64() => Kind::Cli,
        Mnemonic::Sti if is_ring_0 && mode.is_64() => Kind::Sti,
        Mnemonic::Stac if is_ring_0 && mode.is_64() => Kind::AccessFlag(true),
        Mnemonic::Clac if is_ring_0 && mode.is_64() => Kind::AccessFlag(false),
        Mnemonic::Swapgs if is_ring_0 && mode.is_64() => Kind::SwapGs,
        Mnemonic::Rdtsc | Mnemonic::Rdtscp if !mode.has(Mode::NO_TSC) => Kind::ReadTsc,
        _ => return None,
    };
    Some(kind)
}

fn push_kind(instruction: &Instruction, word: usize) -> Kind {
    let is_ours = match instruction.op0_kind() {
        OpKind::Register => {
            instruction.op0_register().is_gpr() && instruction.op0_register().size() == word
        }
        OpKind::Memory => instruction.memory_size().size() == word,
        _ => instruction.stack_pointer_increment().unsigned_abs() as usize == word,
    };
    if is_ours { Kind::Push } else { Kind::Interpret }
}

fn uses_segment_register(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|op| {
        instruction.op_kind(op) == OpKind::Register
            && instruction.op_register(op).is_segment_register()
    })
}

/// Instructions that depend on virtual state, touch memory in their own way, or would show the host.
const FOR_INTERPRETER: &[Mnemonic] = &[
    Mnemonic::INVALID,
    Mnemonic::Cpuid,
    Mnemonic::Rdpmc,
    Mnemonic::Rdpid,
    Mnemonic::Rdtsc,
    Mnemonic::Rdtscp,
    Mnemonic::Sgdt,
    Mnemonic::Sidt,
    Mnemonic::Sldt,
    Mnemonic::Str,
    Mnemonic::Smsw,
    Mnemonic::Lar,
    Mnemonic::Lsl,
    Mnemonic::Verr,
    Mnemonic::Verw,
    Mnemonic::Lds,
    Mnemonic::Les,
    Mnemonic::Lfs,
    Mnemonic::Lgs,
    Mnemonic::Lss,
    Mnemonic::Rdfsbase,
    Mnemonic::Rdgsbase,
    Mnemonic::Wrfsbase,
    Mnemonic::Wrgsbase,
    Mnemonic::Clac,
    Mnemonic::Stac,
    Mnemonic::Cli,
    Mnemonic::Sti,
    Mnemonic::Hlt,
    Mnemonic::Popf,
    Mnemonic::Popfd,
    Mnemonic::Popfq,
    Mnemonic::In,
    Mnemonic::Out,
    Mnemonic::Insb,
    Mnemonic::Insw,
    Mnemonic::Insd,
    Mnemonic::Outsb,
    Mnemonic::Outsw,
    Mnemonic::Outsd,
    Mnemonic::Xgetbv,
    Mnemonic::Xsave,
    Mnemonic::Xsave64,
    Mnemonic::Xsavec,
    Mnemonic::Xsavec64,
    Mnemonic::Xsaveopt,
    Mnemonic::Xsaveopt64,
    Mnemonic::Xrstor,
    Mnemonic::Xrstor64,
    Mnemonic::Fxsave,
    Mnemonic::Fxsave64,
    Mnemonic::Fxrstor,
    Mnemonic::Fxrstor64,
    Mnemonic::Fnsave,
    Mnemonic::Fsave,
    Mnemonic::Frstor,
    Mnemonic::Fnstenv,
    Mnemonic::Fstenv,
    Mnemonic::Fldenv,
    Mnemonic::Maskmovq,
    Mnemonic::Maskmovdqu,
    Mnemonic::Vmaskmovdqu,
    Mnemonic::Vmaskmovps,
    Mnemonic::Vmaskmovpd,
    Mnemonic::Vpmaskmovd,
    Mnemonic::Vpmaskmovq,
    Mnemonic::Xlatb,
    Mnemonic::Daa,
    Mnemonic::Das,
    Mnemonic::Aaa,
    Mnemonic::Aas,
    Mnemonic::Aam,
    Mnemonic::Aad,
    Mnemonic::Salc,
    Mnemonic::Bound,
    Mnemonic::Arpl,
    Mnemonic::Into,
    Mnemonic::Int,
    Mnemonic::Int1,
    Mnemonic::Int3,
    Mnemonic::Ud0,
    Mnemonic::Ud1,
    Mnemonic::Ud2,
    Mnemonic::Syscall,
    Mnemonic::Sysret,
    Mnemonic::Sysretq,
    Mnemonic::Sysenter,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
    Mnemonic::Monitor,
    Mnemonic::Mwait,
    Mnemonic::Enter,
    Mnemonic::Clflush,
    Mnemonic::Clflushopt,
    Mnemonic::Clwb,
    Mnemonic::Wbinvd,
];

/// Everything that a guest must not do itself.
fn is_for_interpreter(instruction: &Instruction) -> bool {
    let system_register = (0..instruction.op_count()).any(|op| {
        let register = instruction.op_register(op);
        instruction.op_kind(op) == OpKind::Register
            && (register.is_cr() || register.is_dr() || register.is_tr())
    });
    system_register
        || instruction.is_privileged()
        || instruction.is_stack_instruction()
        || instruction.is_string_instruction()
        || uses_segment_register(instruction)
        || FOR_INTERPRETER.contains(&instruction.mnemonic())
}

/// Whether LOOP and its kin test ECX.
pub(crate) fn counts_in_ecx(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Loopne_rel8_64_ECX
            | Code::Loope_rel8_64_ECX
            | Code::Loop_rel8_64_ECX
            | Code::Jecxz_rel8_64
            | Code::Loopne_rel8_32_ECX
            | Code::Loope_rel8_32_ECX
            | Code::Loop_rel8_32_ECX
            | Code::Jecxz_rel8_32
    )
}
