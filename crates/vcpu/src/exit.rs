//! Why a vCPU stopped, what the machine answers, and what it can give to a vCPU.

use x86::{Gpa, Vector};

/// Why guest code stopped. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// IN. Wants [`Reply::Value`].
    PioRead {
        /// The port in DX or in the instruction.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
    },
    /// OUT. Wants [`Reply::Done`].
    PioWrite {
        /// The port in DX or in the instruction.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
        /// What is written, zero-extended.
        value: u32,
    },
    /// A load from an address that no memslot backs. Wants [`Reply::Value`]. Never crosses a page.
    MmioRead {
        /// The physical address of the first byte.
        gpa: Gpa,
        /// 1 to 8.
        size: u8,
    },
    /// A store to an address that no memslot backs. Wants [`Reply::Done`]. Never crosses a page.
    MmioWrite {
        /// The physical address of the first byte.
        gpa: Gpa,
        /// 1 to 8.
        size: u8,
        /// What is written, zero-extended.
        value: u64,
    },
    /// RDMSR of a register that is not the engine's (the APIC's, paravirtual ones, unknown ones).
    /// Wants [`Reply::Value`] or [`Reply::Fault`].
    MsrRead {
        /// The number in ECX.
        msr: u32,
    },
    /// WRMSR likewise.
    /// Wants [`Reply::Done`] or [`Reply::Fault`].
    MsrWrite {
        /// The number in ECX.
        msr: u32,
        /// What is written, zero-extended.
        value: u64,
    },
    /// MOV from CR8: the local APIC's task priority class, whatever mode the APIC is in. Wants [`Reply::Value`], 0 to 15.
    TaskPriorityRead,
    /// MOV to CR8. Wants [`Reply::Done`].
    TaskPriorityWrite {
        /// 0 to 15.
        value: u8,
    },
    /// HLT with nothing to do: run again when there is an event to inject. Wants [`Reply::Done`].
    Halt,
    /// The window asked for with `set_interrupt_window` is open. Wants [`Reply::Done`].
    InterruptWindow,
    /// Somebody kicked. Wants [`Reply::Done`].
    Kicked,
    /// A local APIC of the engine's own says that a level-triggered interrupt with this vector has ended.
    /// Wants [`Reply::Done`].
    EndOfInterrupt {
        /// Its vector.
        vector: Vector,
    },
    /// Triple fault: the vCPU is in shutdown and cannot run until its state is replaced.
    TripleFault(TripleFault),
    /// The guest did something that this engine cannot carry out: the vCPU cannot run until its state is replaced.
    Unrunnable(Unrunnable),
}

/// What led to a triple fault; the state beside it has the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TripleFault {
    /// Vector of the first exception of the chain, if the engine saw it.
    pub first_vector: Option<Vector>,
    /// RIP of the instruction that raised it.
    pub rip: u64,
}

/// What an engine could not carry out; the state beside it has the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unrunnable {
    /// What it was, as half a sentence.
    pub what: &'static str,
    /// The engine's own number for it.
    pub code: u64,
    /// RIP at that moment.
    pub rip: u64,
}

/// The machine's answer to an [`Exit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reply {
    /// Done, or nothing was asked.
    #[default]
    Done,
    /// The value read, in the low bytes.
    Value(u64),
    /// There is no such MSR or value: the guest gets #GP(0).
    Fault,
}

/// An event for a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// An external interrupt with its vector.
    Interrupt(Vector),
    /// A non-maskable interrupt.
    Nmi,
}
