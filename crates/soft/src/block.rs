//! The vCPU block: what translated code reads and writes through GS.
//!
//! The guest's general registers, flags and vector registers live in the host's own registers while translated
//! code runs. Everything else that code touches lies here, at fixed offsets from the GS base. Between runs the
//! block holds the whole register state, and Rust code reads and changes it like any struct.

use std::mem::offset_of;

use host::fault::FaultRecord;
use vcpu::XSAVE_BYTES;

/// Positions in the block's tables of segments, which are also those in the vCPU's own.
pub(crate) mod seg {
    pub(crate) const ES: usize = 0;
    pub(crate) const CS: usize = 1;
    pub(crate) const SS: usize = 2;
    pub(crate) const DS: usize = 3;
    pub(crate) const FS: usize = 4;
    pub(crate) const GS: usize = 5;
}

/// Why translated code came back to Rust.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExitReason {
    /// No translation known for `rip`: find or make one.
    Lookup = 0,
    /// As `Lookup`, and the direct jump with link number `exit_info` can be chained to it.
    Chain = 1,
    /// The instruction at `rip` is for the interpreter; `exit_info` is the exit's offset in the code cache.
    Interpret = 2,
    /// The memory access of site `exit_info` missed the TLB.
    Memory = 3,
    /// The site `exit_info` wants the guest's FP state in the registers.
    FpState = 4,
    /// A kick was seen; `rip` is the next instruction.
    Poll = 5,
    /// A host fault in translated code; see `fault`.
    Fault = 6,
    /// A bounced instruction is done; see `slow`.
    Bounced = 7,
    /// So many PAUSEs were executed that whoever is waited for may need this core.
    Pause = 8,
    /// The instruction at `rip` has a probe, and is next; site `exit_info` says where its code begins.
    Probe = 9,
    /// The bytes that one check would stand for, from the instruction at `rip` on, lie in two pages: go on in a block
    /// without shared checks, to which the jump with link number `exit_info` can be chained.
    OneByOne = 10,
}

impl ExitReason {
    pub(crate) fn from_raw(raw: u32) -> Option<ExitReason> {
        use ExitReason as E;
        [
            E::Lookup,
            E::Chain,
            E::Interpret,
            E::Memory,
            E::FpState,
            E::Poll,
            E::Fault,
            E::Bounced,
            E::Pause,
            E::Probe,
            E::OneByOne,
        ]
        .into_iter()
        .find(|&reason| reason as u32 == raw)
    }
}

/// PAUSEs that a vCPU executes before it gives its core to others: some 10 to 40 microseconds of waiting.
pub(crate) const PAUSES_AT_ONCE: u64 = 512;

/// Largest operand that goes through the bounce buffer.
pub(crate) const BOUNCE_BYTES: usize = 64;

/// See the module's head. Layout matters: translated code uses [`offset_of!`] these fields.
#[repr(C, align(64))]
pub(crate) struct VcpuBlock {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15, valid between runs.
    pub(crate) gprs: [u64; 16],
    pub(crate) rip: u64,
    /// Status flags and DF, valid between runs; everything else of RFLAGS is in `system_flags` and `interrupts`.
    pub(crate) rflags: u64,
    /// True values of guest registers whose host register translated code has borrowed.
    pub(crate) spill: [u64; 16],
    /// LAHF and SETO of status flags that translated code has put away.
    pub(crate) saved_flags: u64,
    pub(crate) exit_reason: u32,
    pub(crate) exit_info: u32,
    /// RFLAGS.IF, 0 or 1.
    pub(crate) interrupts: u32,
    /// The guest's FP state is in the host's registers.
    pub(crate) fp_loaded: u32,
    /// It was, when translated code came back.
    pub(crate) fp_was_loaded: u32,
    /// Something waits for interrupts to be enabled: come back after STI and its like.
    pub(crate) window_wanted: u32,
    /// RFLAGS bits other than status flags, DF and IF.
    pub(crate) system_flags: u64,
    /// Where SYSCALL leads, if that is known.
    pub(crate) syscall: Passage,
    /// Where SYSRET leads.
    pub(crate) sysret: Passage,
    /// A [`Crossed`], or 0.
    pub(crate) crossed: u32,
    /// What STAC puts into `system_flags`, `read_tlb` and `write_tlb` in ring 0.
    pub(crate) stac: Toggle,
    /// The same of CLAC.
    pub(crate) clac: Toggle,
    /// Tables of the current bank.
    pub(crate) read_tlb: u64,
    pub(crate) write_tlb: u64,
    pub(crate) jump_cache: u64,
    /// Where an indirect jump of translated code goes.
    pub(crate) jump_target: u64,
    /// Address of the word that says whether somebody wants something.
    pub(crate) kick: u64,
    /// PAUSEs until [`ExitReason::Pause`].
    pub(crate) pauses_left: u64,
    /// Segment bases and limits: ES, CS, SS, DS, FS, GS.
    pub(crate) segment_base: [u64; 6],
    pub(crate) segment_limit: [u64; 6],
    /// IA32_KERNEL_GS_BASE: what SWAPGS gives to GS.
    pub(crate) kernel_gs_base: u64,
    /// Segment selectors in the same order.
    pub(crate) selector: [u32; 6],
    pub(crate) tsc_offset: u64,
    pub(crate) tsc_aux: u64,
    pub(crate) host_rsp: u64,
    pub(crate) fault: FaultRecord,
    /// A few words of stack for PUSHFQ in translated code.
    pub(crate) stack: [u64; 8],
    /// Address of the end of `stack`.
    pub(crate) stack_top: u64,
    /// A TLB entry as translated code sees it, of a page that is the bounce buffer: a tag that nobody looks at, and where
    /// it lies.
    bounce_entry: [u64; 2],
    pub(crate) bounce: BounceBuffer,
    pub(crate) xsave: XsaveArea,
    /// XRSTOR from here puts every component into its initial state.
    pub(crate) xsave_initial: XsaveArea,
}

/// What RFLAGS.AC decides in ring 0: may a supervisor touch user pages under SMAP? Both answers lie ready, so that changing
/// it is three words to copy.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Toggle {
    /// RFLAGS bits other than status flags, DF and IF, without RF, which no instruction leaves set that has been completed.
    pub(crate) system_flags: u64,
    pub(crate) read_tlb: u64,
    pub(crate) write_tlb: u64,
}

/// Where SYSCALL or SYSRET leads: what translated code copies into the block's fields of these names.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Passage {
    /// The handler of system calls, for SYSRET anything; 0: the interpreter does it.
    pub(crate) target: u64,
    /// Flags that stay as they are.
    pub(crate) keep: u64,
    pub(crate) read_tlb: u64,
    pub(crate) write_tlb: u64,
    pub(crate) stac_read_tlb: u64,
    pub(crate) stac_write_tlb: u64,
    pub(crate) jump_cache: u64,
    /// CS, and SS in the upper half.
    pub(crate) selectors: u64,
}

/// The last passage that translated code took since it was entered.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crossed {
    /// To ring 0.
    Syscall = 1,
    /// To ring 3.
    Sysret = 2,
}

/// Operand of an instruction whose memory cannot be reached directly.
#[repr(C, align(64))]
pub(crate) struct BounceBuffer(pub(crate) [u8; BOUNCE_BYTES]);

/// A standard-format XSAVE area.
#[repr(C, align(64))]
#[derive(Clone)]
pub(crate) struct XsaveArea(pub(crate) [u8; XSAVE_BYTES]);

impl XsaveArea {
    /// Initial state: every XSTATE_BV bit clear, default control words.
    pub(crate) fn initial() -> XsaveArea {
        let mut bytes = [0; XSAVE_BYTES];
        bytes[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        XsaveArea(bytes)
    }
}

/// Offset of general register `number` in the block.
pub(crate) fn gpr_offset(number: usize) -> i32 {
    (offset_of!(VcpuBlock, gprs) + number * 8) as i32
}

/// Offset of the spill slot of general register `number`.
pub(crate) fn spill_offset(number: usize) -> i32 {
    (offset_of!(VcpuBlock, spill) + number * 8) as i32
}

impl VcpuBlock {
    pub(crate) fn new() -> Box<VcpuBlock> {
        let mut block = Box::new(VcpuBlock {
            gprs: [0; 16],
            rip: 0,
            rflags: 2,
            spill: [0; 16],
            saved_flags: 0,
            exit_reason: 0,
            exit_info: 0,
            interrupts: 0,
            fp_loaded: 0,
            fp_was_loaded: 0,
            window_wanted: 0,
            system_flags: 0,
            syscall: Passage::default(),
            sysret: Passage::default(),
            crossed: 0,
            stac: Toggle::default(),
            clac: Toggle::default(),
            read_tlb: 0,
            write_tlb: 0,
            jump_cache: 0,
            jump_target: 0,
            kick: 0,
            pauses_left: PAUSES_AT_ONCE,
            segment_base: [0; 6],
            segment_limit: [0; 6],
            kernel_gs_base: 0,
            selector: [0; 6],
            tsc_offset: 0,
            tsc_aux: 0,
            host_rsp: 0,
            fault: FaultRecord::default(),
            stack: [0; 8],
            stack_top: 0,
            bounce_entry: [0; 2],
            bounce: BounceBuffer([0; BOUNCE_BYTES]),
            xsave: XsaveArea::initial(),
            xsave_initial: XsaveArea::initial(),
        });
        block.stack_top = block.stack.as_ptr_range().end as u64;
        block.bounce_entry[1] = block.bounce.0.as_ptr() as u64;
        block
    }

    /// Where the TLB entry of the bounce buffer lies.
    pub(crate) fn bounce_entry_address(&self) -> u64 {
        self.bounce_entry.as_ptr() as u64
    }
}
