//! Makes a failing case small: fewer instructions, calmer registers, less memory, as long as it still fails.

use std::sync::Arc;

use iced_x86::Instruction;

use crate::arena;
use crate::case::{Case, Image, Outcome, Registers, Runner};
use crate::compare::{Difference, differences};
use crate::flags;

/// What a second look at a mismatch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The engine is wrong on this case alone.
    Wrong,
    /// The silicon gives different answers, so it proves nothing.
    Unstable,
    /// Run alone, both agree.
    Gone,
}

/// Runs a case alone on both sides.
///
/// # Errors
/// When a runner cannot go on.
pub fn ask(
    case: &Case,
    native: &mut dyn Runner,
    engine: &mut dyn Runner,
) -> anyhow::Result<(Outcome, Vec<Difference>)> {
    let cases = std::slice::from_ref(case);
    let truth = native.run(cases)?.remove(0);
    let answer = engine.run(cases)?.remove(0);
    let found = differences(case, &truth, &answer);
    Ok((truth, found))
}

/// Looks at a mismatch again.
///
/// # Errors
/// When a runner cannot go on.
pub fn confirm(
    case: &Case,
    native: &mut dyn Runner,
    engine: &mut dyn Runner,
) -> anyhow::Result<Verdict> {
    let cases = std::slice::from_ref(case);
    let first = native.run(cases)?.remove(0);
    for _ in 0..3 {
        let again = native.run(cases)?.remove(0);
        if !differences(case, &first, &again).is_empty() {
            return Ok(Verdict::Unstable);
        }
    }
    let (_, found) = ask(case, native, engine)?;
    Ok(if found.is_empty() {
        Verdict::Gone
    } else {
        Verdict::Wrong
    })
}

/// The smallest case that still fails which a few hundred tries find. `case` must fail.
///
/// # Errors
/// When a runner cannot go on.
pub fn shrink(
    case: &Case,
    native: &mut dyn Runner,
    engine: &mut dyn Runner,
) -> anyhow::Result<Case> {
    let mut best = case.clone();
    let (_, found) = ask(&best, native, engine)?;
    let kind = kinds(&found);
    // A smaller case counts only if it differs in something the first one differed in.
    let mut still_fails = |case: &Case| -> anyhow::Result<bool> {
        let (_, found) = ask(case, native, engine)?;
        Ok(kinds(&found).iter().any(|name| kind.contains(name)))
    };
    for smaller in fewer_instructions(&best) {
        if smaller.code.len() < best.code.len() && still_fails(&smaller)? {
            best = smaller;
        }
    }
    // State saves write what is not in its initial configuration: calm registers would change what they do.
    let is_state_saved = flags::decode(&best.code, best.start.rip, best.bits)
        .iter()
        .any(|one| {
            one.is_save_restore_instruction() && one.mnemonic() != iced_x86::Mnemonic::Fnstenv
        });
    let registers = best.start.clone();
    for calmer in calmer_registers(&registers, best.bits, is_state_saved) {
        let mut smaller = best.clone();
        calmer(&mut smaller.start);
        smaller.start.settle_x87();
        if smaller.start != best.start && still_fails(&smaller)? {
            best = smaller;
        }
    }
    let mut len = arena::DATA_BYTES;
    while len >= 16 {
        for from in (0..arena::DATA_BYTES).step_by(len) {
            let to = (from + len).min(arena::DATA_BYTES);
            if best.image.data[from..to].iter().all(|&byte| byte == 0) {
                continue;
            }
            let mut smaller = best.clone();
            let mut data = best.image.data.clone();
            data[from..to].fill(0);
            smaller.image = Arc::new(Image { data });
            if still_fails(&smaller)? {
                best = smaller;
            }
        }
        len /= 8;
    }
    Ok(best)
}

/// Names of what differs, without addresses.
fn kinds(found: &[Difference]) -> Vec<String> {
    found
        .iter()
        .map(|one| one.what.split(' ').next().unwrap_or("").to_owned())
        .collect()
}

fn instruction_bytes<'a>(case: &'a Case, one: &Instruction) -> &'a [u8] {
    let at = (one.ip() - case.start.rip) as usize;
    &case.code[at..(at + one.len()).min(case.code.len())]
}

/// The case with one or more instructions left out, boldest first. Branch displacements are left as they are.
fn fewer_instructions(case: &Case) -> Vec<Case> {
    let instructions = flags::decode(&case.code, case.start.rip, case.bits);
    let count = instructions.len();
    let mut ranges: Vec<(usize, usize)> = (0..count).map(|index| (index, index + 1)).collect();
    ranges.extend((1..count).map(|end| (0, end)));
    ranges.extend((1..count).flat_map(|from| (from + 1..=count).map(move |to| (from, to))));
    let mut smaller: Vec<Case> = ranges
        .into_iter()
        .map(|(from, to)| {
            let code = instructions[from..to]
                .iter()
                .flat_map(|one| instruction_bytes(case, one))
                .copied();
            Case {
                code: code.collect(),
                ..case.clone()
            }
        })
        .collect();
    for left_out in 0..count {
        let kept = instructions
            .iter()
            .enumerate()
            .filter(|&(index, _)| index != left_out);
        let code: Vec<u8> = kept
            .flat_map(|(_, one)| instruction_bytes(case, one))
            .copied()
            .collect();
        smaller.push(Case {
            code,
            ..case.clone()
        });
    }
    smaller.retain(|case| !case.code.is_empty());
    smaller.sort_by_key(|case| case.code.len());
    smaller
}

type Calm = Box<dyn Fn(&mut Registers)>;

/// Ways to calm registers down, one at a time.
fn calmer_registers(start: &Registers, bits: u32, is_state_saved: bool) -> Vec<Calm> {
    let calm = Registers::calm(bits);
    let mut ways: Vec<Calm> = Vec::new();
    for (from, to) in [
        (0, 28),
        (24, 28),
        (32, 160),
        (160, 416),
        (576, 832),
        (0, 2),
        (2, 4),
        (4, 6),
    ] {
        let bytes = calm.xsave[from..to].to_vec();
        ways.push(Box::new(move |registers| {
            registers.xsave[from..to].copy_from_slice(&bytes)
        }));
    }
    if is_state_saved {
        ways.clear();
    }
    ways.push(Box::new(|registers| registers.fs_base = 0));
    ways.push(Box::new(|registers| registers.gs_base = 0));
    ways.push(Box::new(|registers| registers.rflags = 0x202));
    for bit in [0, 2, 4, 6, 7, 8, 10, 11] {
        ways.push(Box::new(move |registers| registers.rflags &= !(1 << bit)));
    }
    for index in 0..16 {
        for value in [
            0,
            1,
            start.gprs[index] & 0xff,
            start.gprs[index] & 0xffff_ffff,
        ] {
            if value < start.gprs[index] {
                ways.push(Box::new(move |registers| {
                    if value < registers.gprs[index] {
                        registers.gprs[index] = value;
                    }
                }));
            }
        }
        let low = 160 + index * 16;
        let high = 576 + index * 16;
        ways.push(Box::new(move |registers| {
            registers.xsave[low..low + 16].fill(0)
        }));
        ways.push(Box::new(move |registers| {
            registers.xsave[high..high + 16].fill(0)
        }));
    }
    ways
}
