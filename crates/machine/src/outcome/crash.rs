//! What a guest looked like when it crashed: mode, registers and the bytes around its last instruction.

use std::fmt;

use mem::GuestMemory;
use vcpu::{TripleFault, Unrunnable, VcpuState};
use x86::paging::{Access, Paging, walk};
use x86::{Cr0, Efer, Gva, Rflags, Segment};

/// Code bytes shown before RIP and from RIP on.
const BEFORE_BYTES: u64 = 16;
const BEHIND_BYTES: u64 = 32;
/// General registers in encoding order.
const NAMES: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12",
    "R13", "R14", "R15",
];

/// What a guest cannot survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashCause {
    /// A triple fault.
    TripleFault(TripleFault),
    /// Something that the engine could not carry out.
    Unrunnable(Unrunnable),
}

/// A crash with everything that a person needs to find its cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crash {
    /// What led to it.
    pub cause: CrashCause,
    /// The registers.
    pub state: VcpuState,
    /// Bytes from 16 before RIP on, as the guest's own page tables map them; `None` for a byte that is not mapped.
    pub code: Vec<Option<u8>>,
}

impl Crash {
    /// Takes down what there is to see.
    pub(crate) fn new(cause: CrashCause, state: VcpuState, memory: &GuestMemory) -> Crash {
        let start = linear_rip(&state).wrapping_sub(BEFORE_BYTES);
        let code = (0..BEFORE_BYTES + BEHIND_BYTES)
            .map(|n| byte_at(&state, memory, start.wrapping_add(n)));
        Crash {
            cause,
            code: code.collect(),
            state,
        }
    }

    fn is_as_after_reset(&self) -> bool {
        self.state.cs.base == 0xffff_0000
            && self.state.rip == 0xfff0
            && !self.state.cr0.contains(Cr0::PE)
    }

    fn mode(&self) -> &'static str {
        let state = &self.state;
        if !state.cr0.contains(Cr0::PE) {
            "real mode"
        } else if state.efer.contains(Efer::LMA) {
            if state.cs.is_long() {
                "64-bit long mode"
            } else {
                "long mode, compatibility"
            }
        } else if state.rflags.contains(Rflags::VM) {
            "virtual-8086 mode"
        } else if state.cs.is_big() {
            "32-bit protected mode"
        } else {
            "16-bit protected mode"
        }
    }
}

fn linear_rip(state: &VcpuState) -> u64 {
    if state.efer.contains(Efer::LMA) && state.cs.is_long() {
        return state.rip;
    }
    state.cs.base.wrapping_add(state.rip) & 0xffff_ffff
}

fn byte_at(state: &VcpuState, memory: &GuestMemory, address: u64) -> Option<u8> {
    let paging = Paging {
        cr0: state.cr0,
        cr3: state.cr3,
        cr4: state.cr4,
        efer: state.efer,
    };
    let access = Access {
        write: false,
        fetch: true,
        user: false,
        smap_override: false,
    };
    let read = |gpa, size| memory.read_value(gpa, size).unwrap_or(u64::MAX);
    let found = walk(&paging, Gva(address), access, read).ok()?;
    memory.read_value(found.gpa, 1).ok().map(|byte| byte as u8)
}

fn exception_name(vector: u8) -> &'static str {
    const NAMES: [&str; 20] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "?", "#TS", "#NP", "#SS",
        "#GP", "#PF", "?", "#MF", "#AC", "#MC", "#XM",
    ];
    NAMES
        .get(usize::from(vector))
        .copied()
        .unwrap_or("interrupt")
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_cause(f)?;
        fmt_registers(&self.state, f)?;
        fmt_segments(&self.state, f)?;
        self.fmt_code(f)
    }
}

impl Crash {
    fn fmt_cause(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.mode();
        let cpl = self.state.cpl();
        match self.cause {
            CrashCause::TripleFault(TripleFault {
                first_vector: Some(vector),
                rip,
            }) => {
                let name = exception_name(vector);
                writeln!(
                    f,
                    "triple fault in {mode}, CPL {cpl}, after {name} (vector {vector}) at {rip:#x}"
                )
            }
            // AMD processors do not keep the registers of a shutdown, and KVM resets the vCPU then.
            CrashCause::TripleFault(TripleFault { .. }) if self.is_as_after_reset() => writeln!(
                f,
                "triple fault; the processor did not keep the registers, and shows those after RESET"
            ),
            CrashCause::TripleFault(TripleFault {
                first_vector: None,
                rip,
            }) => writeln!(f, "triple fault in {mode}, CPL {cpl}, at {rip:#x}"),
            CrashCause::Unrunnable(Unrunnable { what, code, rip }) => {
                writeln!(f, "{what} (code {code}), in {mode}, CPL {cpl}, at {rip:#x}")
            }
        }
    }

    fn fmt_code(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  code")?;
        for (at, byte) in self.code.iter().enumerate() {
            let is_here = at as u64 == BEFORE_BYTES;
            let (mark, end) = if is_here { ("<", ">") } else { ("", "") };
            match byte {
                Some(byte) => write!(f, " {mark}{byte:02x}{end}")?,
                None => write!(f, " {mark}--{end}")?,
            }
        }
        Ok(())
    }
}

fn fmt_registers(state: &VcpuState, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let rip = state.rip;
    let rflags = state.rflags.bits();
    writeln!(f, "  RIP {rip:016x}  RFLAGS {rflags:08x}")?;
    for row in 0..4 {
        let four =
            (row * 4..row * 4 + 4).map(|at| format!("{} {:016x}", NAMES[at], state.gprs[at]));
        writeln!(f, "  {}", four.collect::<Vec<_>>().join("  "))?;
    }
    let cr0 = state.cr0.bits();
    let cr4 = state.cr4.bits();
    let efer = state.efer.bits();
    writeln!(
        f,
        "  CR0 {cr0:08x}  CR2 {:016x}  CR3 {:016x}  CR4 {cr4:08x}  EFER {efer:04x}",
        state.cr2, state.cr3
    )
}

fn fmt_segments(state: &VcpuState, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let segments = [
        ("CS ", state.cs),
        ("SS ", state.ss),
        ("DS ", state.ds),
        ("ES ", state.es),
        ("FS ", state.fs),
        ("GS ", state.gs),
        ("TR ", state.tr),
        ("LDT", state.ldtr),
    ];
    for (name, segment) in segments {
        let Segment {
            selector,
            base,
            limit,
            attributes,
        } = segment;
        writeln!(
            f,
            "  {name} {selector:04x}  base {base:016x}  limit {limit:08x}  attributes {attributes:04x}"
        )?;
    }
    for (name, table) in [("GDT", state.gdtr), ("IDT", state.idtr)] {
        writeln!(
            f,
            "  {name}       base {:016x}  limit {:08x}",
            table.base, table.limit
        )?;
    }
    Ok(())
}
