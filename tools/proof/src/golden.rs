//! Cases as lines of text: `BITS CODE @ADDRESS ; disassembly ; before => after`.
//!
//! `before` names what differs from the calm state (zeros, FNINIT, default MXCSR), `after` names the end and what
//! the silicon changed. Fields are `name=hex`; vector registers read like numbers, highest byte first; memory is
//! `[address]=bytes` in address order. Lines that start with `#` are comments.

use std::fmt::Write as _;
use std::sync::Arc;

use iced_x86::{Formatter, IntelFormatter};
use thiserror::Error;

use crate::arena;
use crate::case::{Case, End, Image, Outcome, Registers};
use crate::compare::{GPR_NAMES, SELECTOR_NAMES, xsave_fields};
use crate::flags;

/// Why a line is no golden line.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GoldenError {
    /// A part is missing.
    #[error("golden line has no {0}")]
    Missing(&'static str),
    /// A number does not parse.
    #[error("golden line has a bad number `{0}`")]
    Number(String),
    /// A field is not known.
    #[error("golden line has an unknown field `{0}`")]
    Field(String),
}

/// The instructions of a case as text.
pub fn disassembly(case: &Case) -> String {
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    for (index, instruction) in flags::decode(&case.code, case.start.rip, case.bits)
        .iter()
        .enumerate()
    {
        if index > 0 {
            text.push_str("; ");
        }
        formatter.format(instruction, &mut text);
    }
    text.replace(';', ",")
}

/// The line for a case and its true outcome.
pub fn line(case: &Case, truth: &Outcome) -> String {
    let mut text = format!("{} ", case.bits);
    for byte in &case.code {
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, " @{:x} ; {} ;", case.start.rip, disassembly(case));
    let mut calm = Registers::calm(case.bits);
    calm.rip = case.start.rip;
    let mut start = case.start.clone();
    start.normalize();
    write_registers(&mut text, &calm, &start);
    write_memory(&mut text, &[], &case.image.data);
    text.push_str(" =>");
    match truth.end {
        End::Exception {
            vector,
            error_code,
            address,
        } => {
            let _ = write!(text, " end={vector:x}:{error_code:x}:{address:x}");
        }
        End::Hang | End::Lost => text.push_str(" end=none"),
    }
    start.rflags &= !0x200;
    write_registers(&mut text, &start, &truth.registers);
    write_memory(&mut text, &case.image.data, &truth.data);
    text
}

fn write_registers(text: &mut String, from: &Registers, to: &Registers) {
    let mut field = |name: &str, from: u64, to: u64| {
        if from != to {
            let _ = write!(text, " {name}={to:x}");
        }
    };
    for (index, name) in GPR_NAMES.iter().enumerate() {
        field(name, from.gprs[index], to.gprs[index]);
    }
    field("rip", from.rip, to.rip);
    field("rflags", from.rflags, to.rflags);
    field("fs_base", from.fs_base, to.fs_base);
    field("gs_base", from.gs_base, to.gs_base);
    for (index, name) in SELECTOR_NAMES.iter().enumerate() {
        field(
            name,
            u64::from(from.selectors[index]),
            u64::from(to.selectors[index]),
        );
    }
    for (name, at, len) in xsave_fields() {
        let bytes = &to.xsave[at..at + len];
        if from.xsave[at..at + len] != *bytes {
            let _ = write!(text, " {name}=");
            bytes.iter().rev().for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            });
        }
    }
}

/// Stretches of memory that differ from `from` (zeros if it is empty).
fn write_memory(text: &mut String, from: &[u8], to: &[u8]) {
    let differs = |at: usize| to[at] != from.get(at).copied().unwrap_or(0);
    let mut at = 0;
    while at < to.len() {
        if !differs(at) {
            at += 1;
            continue;
        }
        let page_end = (at / 4096 + 1) * 4096;
        let mut end = at + 1;
        // Short stretches of equal bytes do not break a stretch.
        while end < page_end && (end..(end + 8).min(page_end)).any(differs) {
            end += 1;
        }
        let _ = write!(text, " [{:x}]=", arena::data_address(at));
        to[at..end].iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
        at = end;
    }
}

/// The case and the true outcome that a line tells.
///
/// # Errors
/// [`GoldenError`] naming what is wrong with the line.
pub fn parse(line: &str) -> Result<(Case, Outcome), GoldenError> {
    let (head, tail) = line
        .split_once(" ; ")
        .ok_or(GoldenError::Missing("disassembly"))?;
    let (_, states) = tail.split_once(" ;").ok_or(GoldenError::Missing("state"))?;
    let (before, after) = states
        .split_once(" =>")
        .ok_or(GoldenError::Missing("outcome"))?;
    let mut head = head.split(' ');
    let bits = head
        .next()
        .and_then(|bits| bits.parse().ok())
        .ok_or(GoldenError::Missing("bits"))?;
    let code = bytes(head.next().ok_or(GoldenError::Missing("code"))?)?;
    let rip = head
        .next()
        .and_then(|at| at.strip_prefix('@'))
        .ok_or(GoldenError::Missing("address"))?;
    let mut start = Registers::calm(bits);
    start.rip = number(rip)?;
    let mut data = vec![0; arena::DATA_BYTES];
    let mut end = End::Lost;
    for field in before.split_whitespace() {
        read_field(field, &mut start, &mut data, &mut end)?;
    }
    let image = Arc::new(Image { data: data.clone() });
    let case = Case {
        bits,
        code,
        start: start.clone(),
        image,
    };
    let mut registers = start;
    registers.rflags &= !0x200;
    for field in after.split_whitespace() {
        read_field(field, &mut registers, &mut data, &mut end)?;
    }
    registers.normalize();
    Ok((
        case,
        Outcome {
            end,
            registers,
            data,
            note: String::new(),
        },
    ))
}

fn number(text: &str) -> Result<u64, GoldenError> {
    u64::from_str_radix(text, 16).map_err(|_| GoldenError::Number(text.to_owned()))
}

fn bytes(text: &str) -> Result<Vec<u8>, GoldenError> {
    let bad = || GoldenError::Number(text.to_owned());
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(bad());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad()))
        .collect()
}

fn read_field(
    field: &str,
    registers: &mut Registers,
    data: &mut [u8],
    end: &mut End,
) -> Result<(), GoldenError> {
    let (name, value) = field
        .split_once('=')
        .ok_or_else(|| GoldenError::Field(field.to_owned()))?;
    let unknown = || GoldenError::Field(name.to_owned());
    if let Some(address) = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
    {
        let from = arena::data_offset(number(address)?).ok_or_else(unknown)?;
        let bytes = bytes(value)?;
        data.get_mut(from..from + bytes.len())
            .ok_or_else(unknown)?
            .copy_from_slice(&bytes);
    } else if name == "end" {
        let parts: Vec<&str> = value.split(':').collect();
        let [vector, error_code, address] = parts[..] else {
            return Err(unknown());
        };
        let vector = number(vector)? as u8;
        let error_code = number(error_code)? as u32;
        *end = End::Exception {
            vector,
            error_code,
            address: number(address)?,
        };
    } else if let Some(index) = GPR_NAMES.iter().position(|known| *known == name) {
        registers.gprs[index] = number(value)?;
    } else if let Some(index) = SELECTOR_NAMES.iter().position(|known| *known == name) {
        registers.selectors[index] = number(value)? as u16;
    } else if let Some((_, at, len)) = xsave_fields().into_iter().find(|(known, ..)| known == name)
    {
        let mut bytes = bytes(value)?;
        bytes.reverse();
        let field = registers
            .xsave
            .get_mut(at..at + len)
            .filter(|field| field.len() == bytes.len());
        field.ok_or_else(unknown)?.copy_from_slice(&bytes);
    } else {
        let value = number(value)?;
        match name {
            "rip" => registers.rip = value,
            "rflags" => registers.rflags = value,
            "fs_base" => registers.fs_base = value,
            "gs_base" => registers.gs_base = value,
            _ => return Err(unknown()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Runner as _;
    use crate::generate::{Generator, Wish};
    use crate::native::Native;

    #[test]
    fn a_line_tells_the_whole_case() {
        if crate::forms::host_cannot().is_some() {
            return;
        }
        let generator = Generator::new(Wish {
            bits: 64,
            only: None,
            raw_percent: 10,
        })
        .unwrap();
        let cases = generator.batch(3);
        let outcomes = Native::new().unwrap().run(&cases).unwrap();
        for (case, outcome) in cases.iter().zip(&outcomes) {
            if outcome.end == End::Hang || outcome.end == End::Lost {
                continue;
            }
            let mut case = case.clone();
            case.start.normalize();
            let text = line(&case, outcome);
            let (parsed, truth) = parse(&text).unwrap();
            assert_eq!(parsed, case, "{text}");
            assert_eq!(&truth, outcome, "{text}");
        }
    }

    #[test]
    fn a_broken_line_is_refused_with_its_reason() {
        let check = |text, error| assert_eq!(parse(text).unwrap_err(), error, "{text}");
        check("64 90 @10000000", GoldenError::Missing("disassembly"));
        check(
            "64 90 @10000000 ; nop ; rax=x => end=3:0:0",
            GoldenError::Number("x".to_owned()),
        );
        check(
            "64 90 @10000000 ; nop ; raz=1 => end=3:0:0",
            GoldenError::Field("raz".to_owned()),
        );
    }
}
