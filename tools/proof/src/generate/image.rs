//! The data pages before a batch: numbers of every kind, and tables for instructions that need a meaningful operand.

use crate::arena;
use crate::case::{USER_CS, USER_DS, USER32_CS};
use crate::random::Random;

/// Selectors that Linux's descriptor table and the guest's answer alike.
const SELECTORS: [u16; 16] = [
    0,
    1,
    2,
    3,
    USER_DS,
    USER_DS,
    USER_DS & !3,
    USER_CS,
    USER32_CS,
    0x10,
    0x18,
    0x1b,
    0xfff8,
    0xfffb,
    0x104,
    USER_DS,
];

/// One of the selectors that both sides answer alike.
pub(super) fn selector(random: &mut Random) -> u16 {
    *random.pick(&SELECTORS)
}

/// [`arena::DATA_BYTES`] of data.
pub(super) fn build(random: &mut Random) -> Vec<u8> {
    let mut data = Vec::with_capacity(arena::DATA_BYTES);
    while data.len() < arena::DATA_BYTES {
        match random.below(4) {
            0 => (0..2).for_each(|_| data.extend(random.vector())),
            1 => {
                // Ten-byte floats, which do not keep step with anything.
                for _ in 0..4 {
                    data.extend(random.extended());
                }
            }
            2 => data.extend([0; 32]),
            _ => (0..8).for_each(|_| data.extend(random.bits().to_le_bytes())),
        }
    }
    data.truncate(arena::DATA_BYTES);
    let mut put = |address: u64, bytes: &[u8]| {
        let at = arena::data_offset(address).expect("tables lie in mapped pages");
        data[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for index in 0..64 {
        put(arena::TARGETS + index * 8, &landing(random).to_le_bytes());
    }
    for index in 0..12 {
        for (word, value) in frame(random).into_iter().enumerate() {
            put(
                arena::FRAMES + index * 40 + word as u64 * 8,
                &value.to_le_bytes(),
            );
        }
    }
    put(arena::XSAVE_IMAGE, &xsave_image(random));
    for index in 0..16 {
        put(
            arena::MXCSR_VALUES + index * 4,
            &(random.bits() as u32 & 0xffff).to_le_bytes(),
        );
        put(
            arena::SELECTORS + index * 8,
            &u64::from(selector(random)).to_le_bytes(),
        );
    }
    for index in 0..8 {
        let landing = landing(random);
        let [low, high] = code_selector(random).to_le_bytes();
        put(
            arena::FAR_POINTERS + index * 16,
            &(landing as u32).to_le_bytes(),
        );
        put(arena::FAR_POINTERS + index * 16 + 4, &[low, high]);
        put(arena::FAR_POINTERS64 + index * 16, &landing.to_le_bytes());
        put(arena::FAR_POINTERS64 + index * 16 + 8, &[low, high]);
    }
    data
}

/// Somewhere to jump: INT3 behind the cases, rarely a place where nothing can be executed.
pub(super) fn landing(random: &mut Random) -> u64 {
    match random.below(20) {
        0 => arena::DATA + random.below(64),
        1 => arena::DATA - random.below(64) - 1,
        2 => random.bits(),
        _ => arena::LANDING + random.below(0x800),
    }
}

fn code_selector(random: &mut Random) -> u16 {
    match random.below(6) {
        0 => USER32_CS,
        1 => selector(random),
        _ => USER_CS,
    }
}

/// What IRETQ and far returns pop.
fn frame(random: &mut Random) -> [u64; 5] {
    let stack = if random.percent(90) {
        arena::DATA + 4 * arena::PAGE + 0x800
    } else {
        random.bits()
    };
    let selector = if random.percent(85) {
        USER_DS
    } else {
        selector(random)
    };
    let flags = random.bits() & 0xcd5 | 0x202;
    [
        landing(random),
        u64::from(code_selector(random)),
        flags,
        stack + random.below(64),
        u64::from(selector),
    ]
}

/// An area that XRSTOR and FXRSTOR accept, sometimes just not.
fn xsave_image(random: &mut Random) -> Vec<u8> {
    let mut registers = super::start::registers(random, 64);
    let header = &mut registers.xsave[512..576];
    header.fill(0);
    header[0] = random.below(8) as u8;
    match random.below(12) {
        0 => header[4 + random.below(20) as usize] = random.bits() as u8,
        1 => registers.xsave[26] = random.bits() as u8,
        _ => {}
    }
    registers.xsave.to_vec()
}
