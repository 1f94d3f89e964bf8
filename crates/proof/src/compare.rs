//! Names every difference between what the silicon did and what an engine did.

use std::fmt;

use crate::arena;
use crate::case::{Case, End, Outcome, XSAVE_REGISTERS};
use crate::latitude::Latitude;

/// One thing in which two outcomes differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its name: a register, `end`, `memory`.
    pub what: String,
    /// The silicon's side.
    pub native: String,
    /// The engine's side.
    pub engine: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: native {} engine {}",
            self.what, self.native, self.engine
        )
    }
}

/// Names of [`crate::case::Registers::gprs`].
pub const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
/// Names of [`crate::case::Registers::selectors`].
pub const SELECTOR_NAMES: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];

/// The named fields of the XSAVE area: name, first byte, length.
pub fn xsave_fields() -> Vec<(String, usize, usize)> {
    let mut fields: Vec<(String, usize, usize)> = [
        ("fcw", 0, 2),
        ("fsw", 2, 2),
        ("ftw", 4, 2),
        ("fop", 6, 2),
        ("fip", 8, 8),
        ("fdp", 16, 8),
    ]
    .map(|(name, at, len)| (name.to_owned(), at, len))
    .to_vec();
    fields.push(("mxcsr".to_owned(), 24, 4));
    fields.extend((0..8).map(|n| (format!("st{n}"), 32 + n * 16, 10)));
    fields.extend((0..16).map(|n| (format!("xmm{n}"), 160 + n * 16, 16)));
    fields.extend((0..16).map(|n| (format!("ymmh{n}"), 576 + n * 16, 16)));
    fields
}

/// Where the last x87 instruction and operand were. They are not compared: see `not_covered.txt`.
const X87_POINTERS: [&str; 3] = ["fop", "fip", "fdp"];

/// Null selectors are all alike: returning from the kernel makes 1, 2 and 3 to 0.
fn selector_text(selector: u16) -> String {
    format!("{:#x}", if selector < 4 { 0 } else { selector })
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Every difference that counts, or nothing if the engine was right.
pub fn differences(case: &Case, native: &Outcome, engine: &Outcome) -> Vec<Difference> {
    let mut found = Vec::new();
    if Latitude::is_beyond(case, native) {
        return found;
    }
    let mut check = |what: &str, native: String, engine: String| {
        if native != engine {
            found.push(Difference {
                what: what.to_owned(),
                native,
                engine,
            });
        }
    };
    let latitude = Latitude::of(case, native);
    if native.end != engine.end && !latitude.allows(native.end, engine.end) {
        check("end", end_text(native), end_text(engine));
    }
    if latitude.is_other_way(native.end, engine.end) {
        return Vec::new();
    }
    let (ours, theirs) = (&native.registers, &engine.registers);
    if ours != theirs {
        for (index, name) in GPR_NAMES.iter().enumerate() {
            if latitude.any_gprs && *name != "rsp" {
                continue;
            }
            let text = |value: u64| {
                format!(
                    "{:#x}",
                    if latitude.low_gprs {
                        value & 0xffff_ffff
                    } else {
                        value
                    }
                )
            };
            check(name, text(ours.gprs[index]), text(theirs.gprs[index]));
        }
        if !latitude.steps_on_int1 {
            check(
                "rip",
                format!("{:#x}", ours.rip),
                format!("{:#x}", theirs.rip),
            );
        }
        let defined = |rflags: u64| format!("{:#x}", rflags & !latitude.undefined_flags);
        check("rflags", defined(ours.rflags), defined(theirs.rflags));
        check(
            "fs_base",
            format!("{:#x}", ours.fs_base),
            format!("{:#x}", theirs.fs_base),
        );
        check(
            "gs_base",
            format!("{:#x}", ours.gs_base),
            format!("{:#x}", theirs.gs_base),
        );
        for (index, name) in SELECTOR_NAMES.iter().enumerate() {
            check(
                name,
                selector_text(ours.selectors[index]),
                selector_text(theirs.selectors[index]),
            );
        }
        let differs = XSAVE_REGISTERS
            .iter()
            .any(|&(from, to)| ours.xsave[from..to] != theirs.xsave[from..to]);
        for (name, at, len) in if differs { xsave_fields() } else { Vec::new() } {
            if !X87_POINTERS.contains(&name.as_str()) {
                let text = |bytes: &[u8]| hex(&latitude.without_leftovers(at, bytes));
                check(
                    &name,
                    text(&ours.xsave[at..at + len]),
                    text(&theirs.xsave[at..at + len]),
                );
            }
        }
    }
    let pushed = if latitude.pushes_all {
        32
    } else {
        u64::from(latitude.pushes_first) * 8
    };
    let stack = native.registers.gprs[vcpu::gpr::RSP];
    let is_ignored = |at: usize| stack.wrapping_sub(arena::data_address(at) + 1) < pushed;
    let differs = |at: usize| native.data[at] != engine.data[at] && !is_ignored(at);
    let first = if native.data == engine.data {
        None
    } else {
        (0..native.data.len()).find(|&at| differs(at))
    };
    if let Some(first) = first {
        let until = (first + 16).min(native.data.len());
        let what = format!("memory at {:#x}", arena::data_address(first));
        check(
            &what,
            hex(&native.data[first..until]),
            hex(&engine.data[first..until]),
        );
    }
    found
}

/// How an outcome ended, in words.
pub fn end_text(outcome: &Outcome) -> String {
    match outcome.end {
        End::Exception {
            vector,
            error_code,
            address,
        } => {
            format!("vector {vector} code {error_code:#x} address {address:#x}")
        }
        End::Hang => "did not end".to_owned(),
        End::Lost => format!("lost {}", outcome.note),
    }
}
