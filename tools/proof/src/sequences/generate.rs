//! Makes a sequence: 1 to 20 instructions around the end of a page, and rounds in which the pages change.
//!
//! Most of them run through, so that a round's end says something about all of it: memory operands point into the data
//! (often at its edges), loops end, and only some instructions fault. Many have a *variant*, another instruction of the
//! same length: the other frames of the code's pages hold variants, stores of the sequence and of a device write them.

use std::sync::Arc;

use vcpu::gpr;

use crate::arena;
use crate::case::{Image, Registers};
use crate::random::Random;
use crate::rounds::{Change, DATA_FRAME, DATA_PAGE, MOST_ROUNDS, Mapping, Round, Sequence, WINDOW};

const PAGE: usize = arena::PAGE as usize;
/// Address of the first byte of the second page of code.
const SECOND: u64 = WINDOW + arena::PAGE;
/// Where the window's data starts, and where it ends: nothing is mapped behind.
const DATA: u64 = WINDOW + DATA_PAGE as u64 * arena::PAGE;
const DATA_END: u64 = DATA + 2 * arena::PAGE;
/// The same data, seen through the arena.
const DATA_ALIAS: u64 = arena::DATA + 5 * arena::PAGE;

/// Registers that instructions may write: not RCX, which counts loops, nor those that hold addresses.
const SCRATCH: [u8; 3] = [0, 2, 5];
/// Registers that hold addresses: RBX, RSI, RDI.
const BASES: [u8; 3] = [3, 6, 7];

/// What a piece needs to know of where others lie.
#[derive(Clone, Copy)]
enum Reference {
    /// The 4 bytes at this place are the distance to the piece with this number.
    Near(usize, usize),
    /// The byte at this place is.
    Short(usize, usize),
    /// The 4 bytes at this place are the address of that piece.
    Address(usize, usize),
    /// The 4 bytes at this place are the address of a byte of that piece, in the window or through its alias.
    Byte {
        at: usize,
        piece: usize,
        byte: usize,
        alias: bool,
    },
}

/// One instruction.
struct Piece {
    bytes: Vec<u8>,
    /// Another instruction of the same length.
    variant: Option<Vec<u8>>,
    /// A byte that may have any value.
    soft_byte: Option<usize>,
    reference: Option<Reference>,
}

impl Piece {
    fn plain(bytes: Vec<u8>) -> Piece {
        Piece {
            bytes,
            variant: None,
            soft_byte: None,
            reference: None,
        }
    }

    /// With an immediate in its last `len` bytes.
    fn with_immediate(random: &mut Random, mut bytes: Vec<u8>, len: usize) -> Piece {
        let at = bytes.len();
        let value = random.integer().to_le_bytes();
        bytes.extend_from_slice(&value[..len]);
        let byte = at + random.below(len as u64) as usize;
        let mut variant = bytes.clone();
        variant[byte] = random.bits() as u8;
        Piece {
            bytes,
            variant: Some(variant),
            soft_byte: Some(byte),
            reference: None,
        }
    }

    fn with_variant(bytes: Vec<u8>, at: usize, byte: u8) -> Piece {
        let mut variant = bytes.clone();
        variant[at] = byte;
        Piece {
            variant: Some(variant),
            ..Piece::plain(bytes)
        }
    }

    fn referring(bytes: Vec<u8>, reference: Reference) -> Piece {
        Piece {
            reference: Some(reference),
            ..Piece::plain(bytes)
        }
    }
}

struct Draft<'a> {
    random: &'a mut Random,
    bits: u32,
    /// How many pieces there will be.
    count: usize,
    pieces: Vec<Piece>,
    has_loop: bool,
}

impl Draft<'_> {
    fn scratch(&mut self) -> u8 {
        if self.bits == 64 && self.random.percent(40) {
            return 8 + self.random.below(8) as u8;
        }
        *self.random.pick(&SCRATCH)
    }

    /// REX for a register in ModRM.reg and one in ModRM.rm; W at random, if there is a choice.
    fn rex(&mut self, reg: u8, rm: u8) -> Vec<u8> {
        if self.bits == 32 {
            return vec![];
        }
        let rex = u8::from(self.random.percent(50)) << 3 | reg >> 3 << 2 | rm >> 3;
        if rex == 0 { vec![] } else { vec![0x40 | rex] }
    }

    /// `[base + displacement]` with a register.
    fn memory(&mut self, prefix: &[u8], opcode: &[u8], reg: u8) -> Vec<u8> {
        let base = *self.random.pick(&BASES);
        let rex = self.rex(reg, base);
        let displacement = self.random.below(17) as u8;
        let modrm = 0x40 | (reg & 7) << 3 | base;
        [prefix, &rex, opcode, &[modrm, displacement.wrapping_sub(8)]].concat()
    }

    fn registers(&mut self, opcode: &[u8], reg: u8, rm: u8) -> Vec<u8> {
        let rex = self.rex(reg, rm);
        let modrm = 0xc0 | (reg & 7) << 3 | rm & 7;
        [&rex, opcode, &[modrm]].concat()
    }

    /// Arithmetic between registers, or with an immediate.
    fn arithmetic(&mut self) -> Piece {
        let (a, b) = (self.scratch(), self.scratch());
        match self.random.below(12) {
            0..4 => {
                let opcodes = [0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39];
                let (opcode, other) = (*self.random.pick(&opcodes), *self.random.pick(&opcodes));
                let bytes = self.registers(&[opcode], a, b);
                let at = bytes.len() - 2;
                Piece::with_variant(bytes, at, other)
            }
            4 => {
                let operation = self.random.below(8) as u8;
                let bytes = self.registers(&[0x83], operation, a);
                Piece::with_immediate(self.random, bytes, 1)
            }
            5 | 6 => {
                let rex = if a >= 8 { vec![0x41] } else { vec![] };
                let bytes = [&rex[..], &[0xb8 | a & 7]].concat();
                Piece::with_immediate(self.random, bytes, 4)
            }
            7 => {
                let operation = *self.random.pick(&[0, 1, 2, 3, 4, 5, 7]);
                let bytes = self.registers(&[0xc1], operation, a);
                Piece::with_immediate(self.random, bytes, 1)
            }
            8 => {
                // INC or DEC, NOT or NEG.
                let (opcode, operation) =
                    *self
                        .random
                        .pick(&[(0xff, 0), (0xff, 1), (0xf7, 2), (0xf7, 3)]);
                let bytes = self.registers(&[opcode], operation, a);
                let at = bytes.len() - 1;
                let other = bytes[at] ^ 8;
                Piece::with_variant(bytes, at, other)
            }
            choice => self.wide_arithmetic(choice, a, b),
        }
    }

    /// Arithmetic whose opcode has two bytes, or that names no register.
    fn wide_arithmetic(&mut self, choice: u64, a: u8, b: u8) -> Piece {
        match choice {
            9 => {
                let opcode = *self
                    .random
                    .pick(&[0xaf_u8, 0xb6, 0xbe, 0xb7, 0xbf, 0xbc, 0xbd, 0xa3, 0xab]);
                // A byte register without REX is one of the first four.
                let source = if matches!(opcode, 0xb6 | 0xbe) {
                    b & 2
                } else {
                    b
                };
                Piece::plain(self.registers(&[0x0f, opcode], a, source))
            }
            10 => {
                let condition = self.random.below(16) as u8;
                let bytes = self.registers(&[0x0f, 0x40 | condition], a, b);
                let at = bytes.len() - 2;
                let other = bytes[at] ^ 1;
                Piece::with_variant(bytes, at, other)
            }
            _ => {
                // ADC and MUL, XCHG, and flags alone: CMC, CLC, STC, LAHF, SAHF, CLD.
                let choices: [&[u8]; 8] = [
                    b"\xf7\xe2",
                    b"\x87\xc2",
                    b"\xf5",
                    b"\xf8",
                    b"\xf9",
                    b"\x9f",
                    b"\x9e",
                    b"\xfc",
                ];
                Piece::plain(self.random.pick(&choices).to_vec())
            }
        }
    }

    fn memory_access(&mut self) -> Piece {
        let reg = self.scratch();
        let vector = self.random.below(8) as u8;
        let bytes = match self.random.below(14) {
            0..3 => self.memory(&[], &[0x8b], reg),
            3..5 => self.memory(&[], &[0x89], reg),
            5 => {
                let opcode = *self
                    .random
                    .pick(&[0x01_u8, 0x03, 0x11, 0x1b, 0x21, 0x2b, 0x39, 0x85]);
                self.memory(&[], &[opcode], reg)
            }
            6 => {
                let opcode = *self.random.pick(&[0x8b_u8, 0x89, 0x01]);
                self.memory(&[0x66], &[opcode], reg)
            }
            // A byte: AL or DL.
            7 => {
                let opcode = *self.random.pick(&[0x8a_u8, 0x88, 0x00, 0x02]);
                self.memory(&[], &[opcode], reg & 2)
            }
            8 => {
                let opcode = *self.random.pick(&[0x01_u8, 0x31, 0x87]);
                self.memory(&[0xf0], &[opcode], reg)
            }
            9 => {
                let opcode = *self.random.pick(&[0xb1_u8, 0xc1]);
                self.memory(&[0xf0], &[0x0f, opcode], reg)
            }
            10 => {
                let operation = self.random.below(2) as u8;
                self.memory(&[], &[0xff], operation)
            }
            11 => {
                let opcode = *self.random.pick(&[0x6f_u8, 0x7f]);
                self.memory(&[0xf3], &[0x0f, opcode], vector)
            }
            12 => {
                // XLAT, or MOVS, STOS, LODS of bytes.
                vec![*self.random.pick(&[0xd7_u8, 0xa4, 0xaa, 0xac])]
            }
            _ => {
                let operation = 4 + self.random.below(4) as u8;
                let mut bytes = self.memory(&[], &[0x0f, 0xba], operation);
                bytes.push(self.random.below(32) as u8);
                bytes
            }
        };
        Piece::plain(bytes)
    }

    /// Moves between vector registers, and from and to general ones.
    fn vector(&mut self) -> Piece {
        let (a, b) = (self.random.below(8) as u8, self.random.below(8) as u8);
        let general = *self.random.pick(&SCRATCH);
        let opcode = *self.random.pick(&[0xfe_u8, 0xd4, 0xef, 0xdb, 0xfa]);
        let bytes = match self.random.below(3) {
            0 => [0x66, 0x0f, 0x6e, 0xc0 | a << 3 | general],
            1 => [0x66, 0x0f, 0x7e, 0xc0 | a << 3 | general],
            _ => [0x66, 0x0f, opcode, 0xc0 | a << 3 | b],
        };
        Piece::plain(bytes.to_vec())
    }

    fn push_stack(&mut self) {
        let reg = *self.random.pick(&SCRATCH);
        let next = self.pieces.len() + 1;
        match self.random.below(4) {
            // pushf; pop
            0 => {
                self.pieces.push(Piece::plain(vec![0x9c]));
                self.pieces.push(Piece::plain(vec![0x58 | reg]));
            }
            // call to the next instruction; pop
            1 => {
                let reference = Reference::Near(1, next);
                self.pieces
                    .push(Piece::referring(vec![0xe8, 0, 0, 0, 0], reference));
                self.pieces.push(Piece::plain(vec![0x58 | reg]));
            }
            2 => {
                let bytes = vec![0x6a];
                let piece = Piece::with_immediate(self.random, bytes, 1);
                self.pieces.push(piece);
            }
            _ => {
                let opcode = *self.random.pick(&[0x50_u8, 0x58]);
                self.pieces.push(Piece::plain(vec![opcode | reg]));
            }
        }
    }

    /// A piece behind the one that comes next, or the end.
    fn later(&mut self) -> usize {
        let next = self.pieces.len() + 1;
        next + self
            .random
            .below((self.count + 1).saturating_sub(next).max(1) as u64) as usize
    }

    fn push_branch(&mut self) {
        let condition = self.random.below(16) as u8;
        let number = self.pieces.len();
        match self.random.below(6) {
            0..3 => {
                let target = self.later();
                // Nobody knows yet how long the pieces between will be: eleven bytes at most.
                let piece = if target - number <= 8 && self.random.percent(60) {
                    Piece::referring(vec![0x70 | condition, 0], Reference::Short(1, target))
                } else {
                    let bytes = vec![0x0f, 0x80 | condition, 0, 0, 0, 0];
                    Piece::referring(bytes, Reference::Near(2, target))
                };
                self.pieces.push(piece);
            }
            3 => {
                let reference = Reference::Near(1, self.later());
                self.pieces
                    .push(Piece::referring(vec![0xe9, 0, 0, 0, 0], reference));
            }
            4 => {
                // push target; ret
                let reference = Reference::Address(1, self.later() + 1);
                self.pieces
                    .push(Piece::referring(vec![0x68, 0, 0, 0, 0], reference));
                self.pieces.push(Piece::plain(vec![0xc3]));
            }
            _ => {
                // mov eax, target; jmp rax
                let reference = Reference::Address(1, self.later() + 1);
                self.pieces
                    .push(Piece::referring(vec![0xb8, 0, 0, 0, 0], reference));
                self.pieces.push(Piece::plain(vec![0xff, 0xe0]));
            }
        }
    }

    /// A store to a byte of the code that may have any value.
    fn push_store_to_code(&mut self) {
        let soft: Vec<(usize, usize)> = self
            .pieces
            .iter()
            .enumerate()
            .filter_map(|(piece, one)| Some((piece, one.soft_byte?)))
            .collect();
        let Some(&(piece, byte)) = (!soft.is_empty()).then(|| self.random.pick(&soft)) else {
            return;
        };
        let alias = self.random.percent(50);
        let (mut bytes, at) = if self.bits == 64 {
            (vec![0xc6, 0x04, 0x25, 0, 0, 0, 0], 3)
        } else {
            (vec![0xc6, 0x05, 0, 0, 0, 0], 2)
        };
        bytes.push(self.random.bits() as u8);
        let reference = Reference::Byte {
            at,
            piece,
            byte,
            alias,
        };
        self.pieces.push(Piece::referring(bytes, reference));
    }

    /// Something that faults, always or now and then.
    fn fault(&mut self) -> Piece {
        let hole = (WINDOW + 2 * arena::PAGE) as u32;
        let choices: [&[u8]; 6] = [
            b"\x0f\x0b",
            b"\xf7\xf2",
            b"\xf7\xfd",
            b"\xf4",
            b"\xcc",
            b"\xa1",
        ];
        let mut bytes = self.random.pick(&choices).to_vec();
        if bytes == b"\xa1" {
            bytes.extend_from_slice(&hole.to_le_bytes());
            if self.bits == 64 {
                bytes.extend_from_slice(&[0; 4]);
            }
        }
        Piece::plain(bytes)
    }

    fn push(&mut self) {
        match self.random.below(100) {
            0..38 => {
                let piece = self.arithmetic();
                self.pieces.push(piece);
            }
            38..62 => {
                let piece = self.memory_access();
                self.pieces.push(piece);
            }
            62..68 => {
                let piece = self.vector();
                self.pieces.push(piece);
            }
            68..76 => self.push_stack(),
            76..88 => self.push_branch(),
            88..97 => self.push_store_to_code(),
            _ => {
                let piece = self.fault();
                self.pieces.push(piece);
            }
        }
    }

    /// All pieces: a straight run with jumps forward, a loop around some of it half of the time.
    fn fill(&mut self) {
        let head = if self.has_loop {
            let most = if self.random.percent(20) { 100 } else { 6 };
            let count = 1 + self.random.below(most) as u8;
            self.pieces.push(Piece::plain(vec![0xb9, count, 0, 0, 0]));
            self.pieces.len()
        } else {
            0
        };
        while self.pieces.len() + if self.has_loop { 2 } else { 0 } < self.count {
            self.push();
        }
        if self.has_loop {
            // dec ecx; jnz
            self.pieces.push(Piece::plain(vec![0xff, 0xc9]));
            let bytes = vec![0x0f, 0x85, 0, 0, 0, 0];
            let reference = Reference::Near(2, head);
            self.pieces.push(Piece::referring(bytes, reference));
        }
    }
}

/// Puts addresses in; `variants` are of the same lengths.
fn resolve(pieces: &mut [Piece], start: u64) -> Vec<u64> {
    let mut places = vec![start];
    for piece in pieces.iter() {
        let last = places[places.len() - 1];
        places.push(last + piece.bytes.len() as u64);
    }
    // A target behind the last piece is the breakpoint there.
    let place = |piece: usize| places[piece.min(pieces.len())];
    let resolved: Vec<Option<(usize, Vec<u8>)>> = pieces
        .iter()
        .zip(&places[1..])
        .map(|(piece, &next)| {
            Some(match piece.reference? {
                Reference::Near(at, target) => (
                    at,
                    (place(target).wrapping_sub(next) as u32)
                        .to_le_bytes()
                        .to_vec(),
                ),
                Reference::Short(at, target) => (at, vec![place(target).wrapping_sub(next) as u8]),
                Reference::Address(at, target) => {
                    (at, (place(target) as u32).to_le_bytes().to_vec())
                }
                Reference::Byte {
                    at,
                    piece,
                    byte,
                    alias,
                } => {
                    let address = place(piece) + byte as u64;
                    let address = if alias {
                        arena::data_address(Sequence::code_offset(address))
                    } else {
                        address
                    };
                    (at, (address as u32).to_le_bytes().to_vec())
                }
            })
        })
        .collect();
    for (piece, resolved) in pieces.iter_mut().zip(resolved) {
        if let Some((at, bytes)) = resolved {
            piece.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    places
}

fn start_registers(random: &mut Random, bits: u32, rip: u64) -> Registers {
    let mut start = Registers::calm(bits);
    for value in &mut start.gprs {
        *value = random.integer();
    }
    start.gprs[gpr::RCX] = 1 + random.below(4);
    for base in BASES {
        start.gprs[usize::from(base)] = match random.below(10) {
            0..4 => DATA + 0x100 + random.below(0x300),
            4 | 5 => DATA + arena::PAGE - 12 + random.below(24),
            6 | 7 => DATA_ALIAS + 0x100 + random.below(0x300),
            8 => DATA_END - 16 + random.below(16),
            _ => DATA + random.below(16),
        };
    }
    start.gprs[gpr::RSP] = if random.percent(92) {
        DATA + 0xc00
    } else {
        DATA + random.below(24)
    };
    start.rip = rip;
    start.rflags = 0x202 | random.bits() & 0x8d5;
    if bits == 32 {
        start
            .gprs
            .iter_mut()
            .for_each(|value| *value &= 0xffff_ffff);
        start.gprs[8..].fill(0);
    }
    for at in (0..8).map(|n| 160 + n * 16) {
        start.xsave[at..at + 16].copy_from_slice(&random.vector());
    }
    start
}

/// The frames: the code, variants of it in the others, and data.
fn image(random: &mut Random, pieces: &[Piece], places: &[u64]) -> Vec<u8> {
    let mut data = vec![0xcc; arena::DATA_BYTES];
    for (piece, &place) in pieces.iter().zip(places) {
        let offset = Sequence::code_offset(place);
        data[offset..offset + piece.bytes.len()].copy_from_slice(&piece.bytes);
        let other = piece.variant.as_ref().unwrap_or(&piece.bytes);
        for (at, &byte) in (offset..).zip(other) {
            // Frame 3 stands in for the first page, frame 2 for the second.
            let frame = if at < PAGE { 3 * PAGE + at } else { PAGE + at };
            data[frame] = byte;
        }
    }
    for chunk in data[DATA_FRAME * PAGE..].chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.bits().to_le_bytes());
    }
    data
}

fn mapped(frame: usize, write: bool, execute: bool) -> Option<Mapping> {
    Some(Mapping {
        frame,
        write,
        execute,
    })
}

/// How the window looks before the first round.
fn first_changes(random: &mut Random) -> Vec<Change> {
    let write = random.percent(70);
    let to = [
        mapped(0, write, true),
        mapped(1, write, true),
        None,
        mapped(DATA_FRAME, true, false),
        if random.percent(70) {
            mapped(DATA_FRAME, true, false)
        } else {
            None
        },
        None,
    ];
    (0..)
        .zip(to)
        .map(|(page, to)| Change::Map { page, to })
        .collect()
}

fn change(random: &mut Random, soft: &[usize]) -> Change {
    let (write, execute) = (random.percent(60), random.percent(85));
    let to = |frame| mapped(frame, write, execute);
    match random.below(20) {
        0..7 => Change::Map {
            page: 1,
            to: match random.below(7) {
                0 => None,
                1..4 => to(2),
                _ => to(1),
            },
        },
        7..11 => Change::Map {
            page: 0,
            to: match random.below(7) {
                0 => None,
                1..4 => to(3),
                _ => to(0),
            },
        },
        11..17 if !soft.is_empty() => {
            let offset = *random.pick(soft);
            let byte = random.bits() as u8;
            // The frame of the code, or the one that may stand in for it.
            let other = if offset < PAGE { 3 * PAGE } else { PAGE };
            let offset = offset + if random.percent(30) { other } else { 0 };
            Change::Store { offset, byte }
        }
        17 => Change::Map {
            page: DATA_PAGE,
            to: mapped(DATA_FRAME, random.percent(60), false),
        },
        _ => Change::Map {
            page: DATA_PAGE + 1,
            to: random.percent(60).then_some(Mapping {
                frame: DATA_FRAME,
                write,
                execute: false,
            }),
        },
    }
}

fn rounds(random: &mut Random, soft: &[usize]) -> Vec<Round> {
    let mut rounds = vec![];
    for number in 0..1 + random.below(7) {
        let changes = match number {
            0 => first_changes(random),
            _ => (0..random.below(3)).map(|_| change(random, soft)).collect(),
        };
        let steps = random.percent(12);
        rounds.push(Round {
            changes,
            goes_on: false,
            steps,
        });
        if steps {
            for _ in 0..1 + random.below(8) {
                rounds.push(Round {
                    changes: vec![],
                    goes_on: true,
                    steps: false,
                });
            }
        }
    }
    rounds.truncate(MOST_ROUNDS);
    rounds
}

/// The sequence with this seed.
pub fn generate(bits: u32, seed: u64) -> Sequence {
    let random = &mut Random::new(seed);
    let (count, has_loop) = (1 + random.below(20) as usize, random.percent(40));
    let mut draft = Draft {
        random,
        bits,
        count,
        pieces: vec![],
        has_loop: has_loop && count > 4,
    };
    draft.fill();
    let mut pieces = draft.pieces;
    let len: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
    // Mostly across the page's end, otherwise somewhere in the first page.
    let before = if random.percent(75) {
        1 + random.below(len)
    } else {
        len + 1 + random.below(1000)
    };
    let start = SECOND - before;
    let places = resolve(&mut pieces, start);
    for piece in &mut pieces {
        // What refers to other places does so in its variant too.
        if piece.reference.is_some() {
            piece.variant = None;
        }
    }
    let soft: Vec<usize> = pieces
        .iter()
        .zip(&places)
        .filter_map(|(piece, &place)| Some(Sequence::code_offset(place) + piece.soft_byte?))
        .collect();
    let data = image(random, &pieces, &places);
    let instructions = places
        .iter()
        .zip(&pieces)
        .map(|(&place, piece)| (place, piece.bytes.len()))
        .collect();
    Sequence {
        bits,
        start: start_registers(random, bits, start),
        image: Arc::new(Image { data }),
        rounds: rounds(random, &soft),
        instructions,
    }
}
