//! Makes cases: random instructions of the covered forms with operands that mostly mean something, or random bytes.
//!
//! Purely random registers would fault nearly always, so a [`Draft`] knows which start registers are still free to be
//! chosen (not yet overwritten by an earlier instruction, not yet promised to an operand) and sets them so that
//! addresses land in the arena, mostly on mapped pages, often at their edges.

mod compose;
mod draft;
mod image;
mod instruction;
mod memory;
mod pick;
mod prepare;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;

use iced_x86::{Code, CpuidFeature, FlowControl, Instruction, Mnemonic};
use x86::CpuidTable;

use crate::arena;
use crate::case::{Case, Image};
use crate::forms;
use crate::random::Random;
use draft::Draft;

/// Cases that share the code pages.
pub const BATCH: usize = 64;
/// Bytes of code space for one case.
const PLACE_BYTES: u64 = (arena::CODE_PAGES - 1) * arena::PAGE / BATCH as u64;
/// Most instructions in a case.
const MOST_INSTRUCTIONS: u64 = 8;
/// Most bytes of code that they have.
const MOST_CODE_BYTES: u64 = 15 * MOST_INSTRUCTIONS;

/// What to make.
#[derive(Clone, Debug)]
pub struct Wish {
    /// 64, or 32 for compatibility mode.
    pub bits: u32,
    /// Only cases with this mnemonic in them.
    pub only: Option<Mnemonic>,
    /// Percent of cases that are random bytes.
    pub raw_percent: u64,
}

/// Makes cases from a seed.
pub struct Generator {
    wish: Wish,
    table: CpuidTable,
    forms: Vec<Code>,
    mnemonics: Vec<Vec<Code>>,
    basic: Vec<Code>,
    only: Vec<Code>,
}

impl Generator {
    /// A generator for `wish` on the presented CPU.
    ///
    /// # Errors
    /// When no covered form has the wished mnemonic.
    pub fn new(wish: Wish) -> anyhow::Result<Generator> {
        let table = forms::model();
        let forms = forms::covered(wish.bits, &table);
        let mut mnemonics: BTreeMap<u32, Vec<Code>> = BTreeMap::new();
        for &code in &forms {
            mnemonics
                .entry(code.mnemonic() as u32)
                .or_default()
                .push(code);
        }
        let basic = forms
            .iter()
            .copied()
            .filter(|&code| is_basic(code))
            .collect();
        let is_wanted = |code: &Code| wish.only.is_none_or(|only| code.mnemonic() == only);
        let only: Vec<Code> = forms.iter().copied().filter(is_wanted).collect();
        anyhow::ensure!(!only.is_empty(), "no covered form has this mnemonic");
        Ok(Generator {
            wish,
            table,
            forms,
            mnemonics: mnemonics.into_values().collect(),
            basic,
            only,
        })
    }

    /// The forms it draws from.
    pub fn forms(&self) -> &[Code] {
        &self.forms
    }

    fn form(&self, random: &mut Random) -> Code {
        match random.below(10) {
            0..4 => *random.pick(&self.basic),
            4..7 => {
                let codes = random.pick(&self.mnemonics);
                *random.pick(codes)
            }
            _ => *random.pick(&self.forms),
        }
    }

    /// The batch with this seed: up to [`BATCH`] cases that share an image and the code pages.
    pub fn batch(&self, seed: u64) -> Vec<Case> {
        let mut random = Random::new(seed);
        let image = Arc::new(Image {
            data: image::build(&mut random),
        });
        (0..BATCH as u64)
            .map(|index| self.case(&mut random, index, &image))
            .collect()
    }

    fn case(&self, random: &mut Random, index: u64, image: &Arc<Image>) -> Case {
        let place =
            arena::CODE + index * PLACE_BYTES + random.below(PLACE_BYTES - MOST_CODE_BYTES - 8);
        let mut draft = Draft::new(random, self.wish.bits, place);
        if self.wish.only.is_none() && draft.random.percent(self.wish.raw_percent) {
            self.add_bytes(&mut draft);
        } else {
            self.add_forms(&mut draft);
        }
        let (mut code, mut start) = draft.finish();
        if index == BATCH as u64 - 1 && !code.is_empty() {
            // The last case runs off the end of the code pages, often in the middle of an instruction.
            let keep = 1 + random.below(code.len() as u64) as usize;
            code.truncate(keep);
            start.rip = arena::CODE + arena::CODE_BYTES as u64 - keep as u64;
        }
        Case {
            bits: self.wish.bits,
            code,
            start,
            image: Arc::clone(image),
        }
    }

    fn add_forms(&self, draft: &mut Draft) {
        let alone = draft.random.percent(50);
        let count = if alone {
            1
        } else {
            2 + draft.random.below(MOST_INSTRUCTIONS - 1)
        };
        let wanted = draft.random.below(count);
        for index in 0..count {
            for _ in 0..10 {
                let is_wanted = self.wish.only.is_some() && index == wanted;
                let code = if is_wanted {
                    *draft.random.pick(&self.only)
                } else {
                    self.form(draft.random)
                };
                if compose::add(draft, code) {
                    break;
                }
            }
        }
    }

    /// One instruction, or what is none, from random bytes.
    fn add_bytes(&self, draft: &mut Draft) {
        for _ in 0..20 {
            let bytes = random_bytes(draft.random, self.wish.bits);
            let instruction = draft.decode(&bytes);
            if self.may_run(&instruction, &bytes) && !enters_neighbour(&instruction, draft.rip()) {
                compose::add_raw(draft, &instruction, &bytes);
                return;
            }
        }
    }

    /// Whether the silicon and the presented CPU must agree on these bytes.
    fn may_run(&self, instruction: &Instruction, bytes: &[u8]) -> bool {
        let code = instruction.code();
        if code == Code::INVALID {
            // An EVEX prefix, or one of XOP, may mean something to the host that the guest's CPU does not have.
            return !bytes
                .iter()
                .any(|byte| matches!(byte, 0x62 | 0x8f | 0xc4 | 0xc5))
                && !has_host_only(bytes);
        }
        forms::is_presented(code, self.wish.bits, &self.table)
            && forms::reason_not_covered(code, self.wish.bits).is_none()
            && !instruction::is_forbidden(instruction, self.wish.bits)
            && !is_narrow_branch(instruction, bytes)
            && !is_misread(instruction, bytes, self.wish.bits)
    }
}

/// Encodings that iced and silicon read differently: F3 REX.B 90 is XCHG and no PAUSE, and VEX.W with a general
/// register is invalid outside 64-bit mode.
fn is_misread(instruction: &Instruction, bytes: &[u8], bits: u32) -> bool {
    let bytes = &bytes[..instruction.len()];
    let is_long_pause = instruction.mnemonic() == Mnemonic::Pause && bytes.len() > 2;
    let has_vex_w = bytes
        .windows(3)
        .any(|part| part[0] == 0xc4 && part[2] & 0x80 != 0);
    is_long_pause || bits == 32 && has_vex_w
}

/// A branch to another case's code: what flags mean after that is not known from this case alone.
fn enters_neighbour(instruction: &Instruction, rip: u64) -> bool {
    let target = instruction.near_branch_target();
    let is_ours = target > rip + 15 && target < rip + 100;
    (arena::CODE..arena::LANDING).contains(&target) && !is_ours
}

/// A branch under an operand-size prefix or a repeat prefix, on which makers differ.
fn is_narrow_branch(instruction: &Instruction, bytes: &[u8]) -> bool {
    let prefixes = bytes.iter().take_while(
        |byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3),
    );
    instruction.flow_control() != FlowControl::Next
        && prefixes
            .clone()
            .any(|&byte| matches!(byte, 0x66 | 0xf2 | 0xf3))
}

/// Opcodes without a meaning for iced that some host may give one: AMD's 0F 01 group, 3DNow!, and UD-like gaps.
fn has_host_only(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| {
        pair[0] == 0x0f && matches!(pair[1], 0x01 | 0x0e | 0x0f | 0x24..=0x27 | 0xa6 | 0xa7)
    })
}

/// Whether a form is of the integer core, which deserves more cases than its share of the forms.
fn is_basic(code: Code) -> bool {
    use CpuidFeature as F;
    code.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::BMI1
                | F::BMI2
                | F::ADX
        )
    }) && !code.op_code().is_privileged()
}

fn random_bytes(random: &mut Random, bits: u32) -> [u8; 15] {
    const PREFIXES: [u8; 11] = [
        0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x64, 0x65,
    ];
    let mut bytes = [0; 15];
    for byte in &mut bytes {
        *byte = random.bits() as u8;
    }
    let mut at = 0;
    while at < 4 && random.percent(30) {
        bytes[at] = *random.pick(&PREFIXES);
        at += 1;
    }
    if bits == 64 && random.percent(40) {
        bytes[at] = 0x40 | random.below(16) as u8;
        at += 1;
    }
    match random.below(10) {
        0..4 => {}
        4..7 => bytes[at] = 0x0f,
        7 => {
            bytes[at] = 0x0f;
            bytes[at + 1] = if random.percent(50) { 0x38 } else { 0x3a };
        }
        8 => bytes[at] = 0xc5,
        _ => {
            bytes[at] = 0xc4;
            bytes[at + 1] = bytes[at + 1] & 0xe0 | (1 + random.below(3) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::flags;

    fn wish(bits: u32) -> Wish {
        Wish {
            bits,
            only: None,
            raw_percent: 0,
        }
    }

    #[test]
    fn a_seed_always_gives_the_same_cases() {
        let generator = Generator::new(wish(64)).unwrap();
        assert_eq!(generator.batch(5), generator.batch(5));
        assert_ne!(generator.batch(5), generator.batch(6));
    }

    #[test]
    fn every_covered_form_can_be_made() {
        for bits in [64, 32] {
            let generator = Generator::new(wish(bits)).unwrap();
            let mut missing: BTreeSet<u32> =
                generator.forms().iter().map(|&code| code as u32).collect();
            for seed in 0..40 {
                let mut random = Random::new(seed);
                missing.retain(|&code| {
                    let code = Code::try_from(code as usize).unwrap();
                    let mut draft = Draft::new(&mut random, bits, arena::CODE);
                    if !compose::add(&mut draft, code) {
                        return true;
                    }
                    let (bytes, _) = draft.finish();
                    !flags::decode(&bytes, arena::CODE, bits)
                        .iter()
                        .any(|made| is_made_as(made.code(), code))
                });
            }
            let names: Vec<Code> = missing
                .iter()
                .map(|&code| Code::try_from(code as usize).unwrap())
                .collect();
            assert!(names.is_empty(), "{bits} bits: {names:?}");
        }
    }

    /// Forms with a built-in FWAIT decode as two instructions.
    fn is_made_as(decoded: Code, wanted: Code) -> bool {
        decoded == wanted || (wanted.op_code().fwait() && decoded != Code::Wait)
    }
}
