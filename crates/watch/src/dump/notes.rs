//! Notes of a dump: the registers of each vCPU, what the kernel says of itself, and what we say of the dump.
//!
//! A note is three 32-bit numbers (length of the name with its zero, of the contents, type), the name and the contents, each
//! filled up to 4 bytes (System V gABI, "Note Section").

use api::VcpuView;

use crate::dump::Guest;

/// `struct elf_prstatus` of x86-64 (kernel source, include/uapi/linux/elfcore.h and arch/x86/include/asm/elf.h).
const NT_PRSTATUS: u32 = 1;
const PRSTATUS_BYTES: usize = 336;
const PID_AT: usize = 32;
const REGISTERS_AT: usize = 112;
/// Our own note: lines `key=value`. The type is one that no reader takes for registers, whatever it makes of the name.
const OURS: (&str, u32) = ("MOTHER", 0x4d4f_5448);

/// All notes of a dump.
pub(super) fn notes(guest: &Guest<'_>) -> Vec<u8> {
    let mut notes = Vec::new();
    for vcpu in guest.vcpus {
        put(&mut notes, "CORE", NT_PRSTATUS, &prstatus(vcpu));
    }
    if let Some(text) = vmcoreinfo(guest) {
        put(&mut notes, "VMCOREINFO", 0, text.as_bytes());
    }
    let (name, kind) = OURS;
    put(&mut notes, name, kind, ours(guest).as_bytes());
    notes
}

/// The kernel's VMCOREINFO.
pub(super) fn vmcoreinfo<'a>(guest: &Guest<'a>) -> Option<&'a str> {
    guest.kernel?.vmcoreinfo.as_deref()
}

fn put(to: &mut Vec<u8>, name: &str, kind: u32, contents: &[u8]) {
    for number in [name.len() as u32 + 1, contents.len() as u32, kind] {
        to.extend(number.to_le_bytes());
    }
    to.extend(name.as_bytes());
    to.push(0);
    to.resize(to.len().next_multiple_of(4), 0);
    to.extend(contents);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn ours(guest: &Guest<'_>) -> String {
    let Guest { name, taken_at, .. } = guest;
    let torn = if guest.is_torn {
        "yes: the guest ran on while it was read, and the parts of this dump are not of one moment"
    } else {
        "no: the guest stood still"
    };
    let seconds = taken_at.as_secs();
    format!("VM={name}\nTIME={seconds}\nTORN={torn}\n")
}

/// A vCPU as a thread of a core file, numbered from 1: debuggers take 0 for none.
fn prstatus(vcpu: &VcpuView) -> Vec<u8> {
    let [
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = vcpu.gprs;
    let selectors = vcpu.selectors;
    let registers = [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        // What a system call was asked with; there is none at this moment.
        u64::MAX,
        vcpu.rip,
        selectors.cs.into(),
        vcpu.rflags,
        rsp,
        selectors.ss.into(),
        vcpu.fs_base,
        vcpu.gs_base,
        selectors.ds.into(),
        selectors.es.into(),
        selectors.fs.into(),
        selectors.gs.into(),
    ];
    let mut status = vec![0; PRSTATUS_BYTES];
    status[PID_AT..PID_AT + 4].copy_from_slice(&(vcpu.vcpu_id + 1).to_le_bytes());
    for (place, register) in (REGISTERS_AT..).step_by(8).zip(registers) {
        status[place..place + 8].copy_from_slice(&register.to_le_bytes());
    }
    status
}
