//! Names every difference between what the silicon did and what an engine did.

use std::fmt;

use crate::arena;
use crate::case::{Case, End, Outcome, Registers, XSAVE_REGISTERS};
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
    if Latitude::is_beyond(case, native) {
        return Vec::new();
    }
    let latitude = Latitude::of(case, native);
    if latitude.is_other_way(native.end, engine.end) {
        return Vec::new();
    }
    let mut found = Differences(Vec::new());
    if native.end != engine.end && !latitude.allows(native.end, engine.end) {
        found.check("end", end_text(native), end_text(engine));
    }
    if native.registers != engine.registers {
        found.check_registers(&latitude, &native.registers, &engine.registers);
        found.check_xsave(&latitude, &native.registers.xsave, &engine.registers.xsave);
    }
    if native.data != engine.data {
        found.check_memory(&latitude, native, engine);
    }
    found.0
}

/// What was found so far.
struct Differences(Vec<Difference>);

impl Differences {
    fn check(&mut self, what: &str, native: String, engine: String) {
        if native != engine {
            self.0.push(Difference {
                what: what.to_owned(),
                native,
                engine,
            });
        }
    }

    fn check_number(&mut self, what: &str, native: u64, engine: u64) {
        self.check(what, format!("{native:#x}"), format!("{engine:#x}"));
    }

    fn check_registers(&mut self, latitude: &Latitude, native: &Registers, engine: &Registers) {
        let compared = if latitude.low_gprs {
            0xffff_ffff
        } else {
            u64::MAX
        };
        for (index, name) in GPR_NAMES.iter().enumerate() {
            if !latitude.any_gprs || *name == "rsp" {
                let native = native.gprs[index];
                let engine = engine.gprs[index];
                self.check_number(name, native & compared, engine & compared);
            }
        }
        if !latitude.steps_on_int1 {
            self.check_number("rip", native.rip, engine.rip);
        }
        let defined = !latitude.undefined_flags;
        self.check_number("rflags", native.rflags & defined, engine.rflags & defined);
        self.check_number("fs_base", native.fs_base, engine.fs_base);
        self.check_number("gs_base", native.gs_base, engine.gs_base);
        for (index, name) in SELECTOR_NAMES.iter().enumerate() {
            let native = selector_text(native.selectors[index]);
            self.check(name, native, selector_text(engine.selectors[index]));
        }
    }

    fn check_xsave(&mut self, latitude: &Latitude, native: &[u8], engine: &[u8]) {
        let mut compared = XSAVE_REGISTERS.iter();
        if compared.all(|&(from, to)| native[from..to] == engine[from..to]) {
            return;
        }
        for (name, at, len) in xsave_fields() {
            if !X87_POINTERS.contains(&name.as_str()) {
                let text = |area: &[u8]| hex(&latitude.without_leftovers(at, &area[at..at + len]));
                self.check(&name, text(native), text(engine));
            }
        }
    }

    /// The first bytes that differ and are not what the case left on its stack.
    fn check_memory(&mut self, latitude: &Latitude, native: &Outcome, engine: &Outcome) {
        let pushed = if latitude.pushes_all {
            32
        } else {
            u64::from(latitude.pushes_first) * 8
        };
        let stack = native.registers.gprs[vcpu::gpr::RSP];
        let is_ignored = |at: usize| stack.wrapping_sub(arena::data_address(at) + 1) < pushed;
        let differs = |at: &usize| native.data[*at] != engine.data[*at] && !is_ignored(*at);
        if let Some(first) = (0..native.data.len()).find(differs) {
            let range = first..(first + 16).min(native.data.len());
            let what = format!("memory at {:#x}", arena::data_address(first));
            let native = hex(&native.data[range.clone()]);
            self.check(&what, native, hex(&engine.data[range]));
        }
    }
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
