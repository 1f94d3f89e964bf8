//! Running a point's operations: registers and a reader of memory in, values out.

use crate::bytes::Bytes;
use crate::point::{From, HIT_BYTES_MAX, Length, NAME_BYTES_MAX, Operation, Value};

/// What a vCPU has when it passes.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: &'a [u64; 16],
    /// Where GS begins.
    pub gs_base: u64,
}

/// Reads guest memory by virtual address, as the kernel that passes would.
pub trait Reader {
    /// Whether all of `bytes` could be read at `gva`.
    fn read(&mut self, gva: u64, bytes: &mut [u8]) -> bool;
}

/// Text is read in pieces that end where pages may end.
const PIECE: u64 = 64;

/// Runs `operations`; `None` if a condition does not hold.
pub fn run(
    operations: &[Operation],
    start: Start<'_>,
    reader: &mut dyn Reader,
) -> Option<Vec<Value>> {
    let mut run = Run {
        start,
        reader,
        values: Vec::with_capacity(operations.len()),
        room: HIT_BYTES_MAX,
    };
    for operation in operations {
        if !run.goes_on(operation)? {
            let value = run.take(operation).unwrap_or(Value::Unreadable);
            run.values.push(value);
        }
    }
    Some(run.values)
}

struct Run<'a> {
    start: Start<'a>,
    reader: &'a mut dyn Reader,
    values: Vec<Value>,
    /// Bytes that may still be taken.
    room: usize,
}

impl Run<'_> {
    /// Whether `operation` is a condition that holds; `None` if it is one that does not.
    fn goes_on(&self, operation: &Operation) -> Option<bool> {
        let holds = match operation {
            Operation::Only { value, mask, among } => {
                among.contains(&(self.number(*value)? & mask))
            }
            Operation::OnlyNamed { value, among } => match self.values.get(usize::from(*value))? {
                Value::Names(names) => among.contains(names.first()?),
                _ => false,
            },
            _ => return Some(false),
        };
        holds.then_some(true)
    }

    fn take(&mut self, operation: &Operation) -> Option<Value> {
        match operation {
            Operation::Number { from, path, bytes } => {
                let mask = u64::MAX >> (64 - 8 * u32::from(*bytes).clamp(1, 8));
                if path.is_empty() {
                    return Some(Value::Number(self.beginning(*from)? & mask));
                }
                let at = self.follow(*from, path)?;
                let mut number = [0; 8];
                let len = usize::from(*bytes).min(8);
                self.reader
                    .read(at, &mut number[..len])
                    .then(|| Value::Number(u64::from_le_bytes(number)))
            }
            Operation::Text { from, path, most } => {
                let at = self.follow(*from, path)?;
                let text = self.text(at, *most)?;
                self.keep(text).map(Value::Bytes)
            }
            Operation::Bytes {
                from,
                path,
                length,
                most,
            } => {
                let at = self.follow(*from, path)?;
                let length = match length {
                    Length::Exactly(length) => u64::from(*length),
                    Length::Value(value) => self.number(*value)?,
                    Length::UpTo(value) => self.number(*value)?.checked_sub(at)?,
                };
                let len = length.min(u64::from(*most)) as usize;
                let mut bytes = vec![0; len];
                if !self.reader.read(at, &mut bytes) {
                    return None;
                }
                self.keep(bytes).map(Value::Bytes)
            }
            Operation::Names {
                from,
                path,
                next,
                name,
                most,
            } => self.along(*from, path, *next, *most, |run, at| {
                let named = run.pointer(offset(at, *name))?;
                run.text(named, NAME_BYTES_MAX)
            }),
            Operation::Trail {
                from,
                path,
                next,
                at: stretch,
                length,
                most,
            } => self.along(*from, path, *next, *most, |run, at| {
                let mut bytes = vec![0; usize::from(*length)];
                let is_read = run.reader.read(offset(at, *stretch), &mut bytes);
                is_read.then_some(bytes)
            }),
            Operation::Only { .. } | Operation::OnlyNamed { .. } => None,
        }
    }

    /// What `take` finds at each structure along a chain.
    fn along(
        &mut self,
        from: From,
        path: &[i64],
        next: i64,
        most: u8,
        take: impl Fn(&mut Self, u64) -> Option<Vec<u8>>,
    ) -> Option<Value> {
        let mut at = match path {
            [] => self.beginning(from)?,
            path => {
                let at = self.follow(from, path)?;
                self.pointer(at)?
            }
        };
        let mut taken = Vec::new();
        for _ in 0..most {
            let after = self.pointer(offset(at, next))?;
            if after == at || after == 0 {
                break;
            }
            let bytes = take(self, at)?;
            taken.push(self.keep(bytes)?);
            at = after;
        }
        Some(Value::Names(taken))
    }

    /// Counts bytes that were taken.
    fn keep(&mut self, bytes: Vec<u8>) -> Option<Bytes> {
        self.room = self.room.checked_sub(bytes.len())?;
        Some(Bytes(bytes))
    }

    fn number(&self, value: u8) -> Option<u64> {
        match self.values.get(usize::from(value))? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn beginning(&self, from: From) -> Option<u64> {
        match from {
            From::Register(number) => self.start.gprs.get(usize::from(number)).copied(),
            From::Gs => Some(self.start.gs_base),
            From::Value(value) => self.number(value),
        }
    }

    /// The address at the end of a path.
    fn follow(&mut self, from: From, path: &[i64]) -> Option<u64> {
        let mut at = self.beginning(from)?;
        let (last, pointers) = path.split_last().unwrap_or((&0, &[]));
        for pointer in pointers {
            at = self.pointer(offset(at, *pointer))?;
        }
        Some(offset(at, *last))
    }

    fn pointer(&mut self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.reader
            .read(at, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }

    fn text(&mut self, mut at: u64, most: u16) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() < usize::from(most) {
            let mut piece = [0; PIECE as usize];
            let len = (PIECE - at % PIECE).min(u64::from(most) - text.len() as u64) as usize;
            let piece = &mut piece[..len];
            if !self.reader.read(at, piece) {
                return None;
            }
            if let Some(end) = piece.iter().position(|&byte| byte == 0) {
                text.extend(&piece[..end]);
                break;
            }
            text.extend(&*piece);
            at = at.wrapping_add(len as u64);
        }
        Some(text)
    }
}

fn offset(at: u64, offset: i64) -> u64 {
    at.wrapping_add(offset as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from this address on, and nothing elsewhere.
    const BASE: u64 = 0xffff_8880_0000_0ff0;

    struct Memory(Vec<u8>);

    impl Reader for Memory {
        fn read(&mut self, gva: u64, bytes: &mut [u8]) -> bool {
            let Some(at) = gva.checked_sub(BASE) else {
                return false;
            };
            let part = self
                .0
                .get(at as usize..)
                .and_then(|rest| rest.get(..bytes.len()));
            part.inspect(|part| bytes.copy_from_slice(part)).is_some()
        }
    }

    /// Eight numbers, and text behind them.
    fn memory() -> Memory {
        let numbers = [
            BASE + 16,
            7,
            // Two structures: where the next one is, where the name is.
            BASE + 32,
            BASE + 64,
            BASE + 32,
            BASE + 70,
            0x1122_3344_5566_7788,
            BASE + 67,
        ];
        let mut bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        bytes.extend(b"first\0root\0rest!");
        Memory(bytes)
    }

    fn check(operations: Vec<Operation>, expected: Option<Vec<Value>>) {
        let mut gprs = [0; 16];
        gprs[7] = BASE;
        gprs[6] = 5;
        let start = Start {
            gprs: &gprs,
            gs_base: BASE + 8,
        };
        let found = run(&operations, start, &mut memory());
        assert_eq!(found, expected, "{operations:?}");
    }

    fn bytes(text: &[u8]) -> Value {
        Value::Bytes(Bytes(text.to_vec()))
    }

    const RDI: From = From::Register(7);
    const RSI: From = From::Register(6);

    #[test]
    fn numbers_are_found_along_their_paths() {
        let number = |from, path: &[i64], bytes| Operation::Number {
            from,
            path: path.to_vec(),
            bytes,
        };
        let one = |value| Some(vec![value]);
        check(vec![number(RSI, &[], 8)], one(Value::Number(5)));
        check(vec![number(RDI, &[], 1)], one(Value::Number(0xf0)));
        check(vec![number(RDI, &[48], 4)], one(Value::Number(0x5566_7788)));
        check(vec![number(RDI, &[48], 1)], one(Value::Number(0x88)));
        check(vec![number(RDI, &[0, -8], 8)], one(Value::Number(7)));
        check(vec![number(From::Gs, &[0], 8)], one(Value::Number(7)));
        check(vec![number(RDI, &[48, 0], 8)], one(Value::Unreadable));
        check(
            vec![number(RDI, &[0], 8), number(From::Value(0), &[-8], 8)],
            Some(vec![Value::Number(BASE + 16), Value::Number(7)]),
        );
        // What follows from what could not be read cannot be read.
        check(
            vec![number(RSI, &[0], 8), number(From::Value(0), &[0], 8)],
            Some(vec![Value::Unreadable, Value::Unreadable]),
        );
    }

    #[test]
    fn text_ends_at_its_zero_or_where_it_may_not_be_longer() {
        let text = |path: &[i64], most| Operation::Text {
            from: RDI,
            path: path.to_vec(),
            most,
        };
        check(vec![text(&[64], 9)], Some(vec![bytes(b"first")]));
        check(vec![text(&[64], 3)], Some(vec![bytes(b"fir")]));
        check(vec![text(&[56, 0], 9)], Some(vec![bytes(b"st")]));
        check(vec![text(&[75], 9)], Some(vec![Value::Unreadable]));
        check(vec![text(&[75], 5)], Some(vec![bytes(b"rest!")]));
    }

    #[test]
    fn bytes_are_as_many_as_a_value_says() {
        let take = |length| {
            vec![
                Operation::Number {
                    from: RSI,
                    path: vec![],
                    bytes: 8,
                },
                Operation::Number {
                    from: RDI,
                    path: vec![56],
                    bytes: 8,
                },
                Operation::Bytes {
                    from: RDI,
                    path: vec![64],
                    length,
                    most: 6,
                },
            ]
        };
        let with = |last| Some(vec![Value::Number(5), Value::Number(BASE + 67), last]);
        check(take(Length::Exactly(2)), with(bytes(b"fi")));
        check(take(Length::Value(0)), with(bytes(b"first")));
        check(take(Length::Value(1)), with(bytes(b"first\0")));
        check(take(Length::UpTo(1)), with(bytes(b"fir")));
        check(take(Length::UpTo(0)), with(Value::Unreadable));
    }

    #[test]
    fn names_are_taken_until_the_chain_leads_to_itself() {
        let names = |path: &[i64], most| Operation::Names {
            from: RDI,
            path: path.to_vec(),
            next: 0,
            name: 8,
            most,
        };
        let found = |names: &[&[u8]]| {
            Some(vec![Value::Names(
                names.iter().map(|name| Bytes(name.to_vec())).collect(),
            )])
        };
        check(vec![names(&[0], 9)], found(&[b"first"]));
        check(vec![names(&[16], 9)], found(&[]));
        check(vec![names(&[0], 0)], found(&[]));
        check(vec![names(&[8], 9)], Some(vec![Value::Unreadable]));
        let trail = Operation::Trail {
            from: RDI,
            path: vec![0],
            next: 0,
            at: 8,
            length: 1,
            most: 9,
        };
        check(vec![trail], found(&[&[(BASE + 64) as u8]]));
        let only = |name: &[u8]| {
            vec![
                names(&[0], 9),
                Operation::OnlyNamed {
                    value: 0,
                    among: vec![Bytes(b"other".to_vec()), Bytes(name.to_vec())],
                },
            ]
        };
        check(only(b"first"), found(&[b"first"]));
        check(only(b"second"), None);
    }

    #[test]
    fn conditions_that_do_not_hold_take_nothing_down() {
        let only = |mask, among: &[u64]| {
            vec![
                Operation::Number {
                    from: RSI,
                    path: vec![],
                    bytes: 8,
                },
                Operation::Only {
                    value: 0,
                    mask,
                    among: among.to_vec(),
                },
            ]
        };
        check(only(u64::MAX, &[4, 5]), Some(vec![Value::Number(5)]));
        check(only(1, &[1]), Some(vec![Value::Number(5)]));
        check(only(2, &[2]), None);
        check(only(u64::MAX, &[]), None);
    }

    #[test]
    fn a_hit_never_grows_beyond_its_greatest_size() {
        struct Endless;
        impl Reader for Endless {
            fn read(&mut self, _: u64, bytes: &mut [u8]) -> bool {
                bytes.fill(b'x');
                true
            }
        }
        let text = Operation::Text {
            from: From::Gs,
            path: vec![],
            most: 4096,
        };
        let start = Start {
            gprs: &[0; 16],
            gs_base: 0,
        };
        let values = run(&vec![text; 6], start, &mut Endless).unwrap();
        let taken = values.iter().filter(|value| **value != Value::Unreadable);
        assert_eq!(taken.count(), HIT_BYTES_MAX / 4096);
        assert_eq!(values.len(), 6);
    }

    /// Numbers that look like any (Knuth's MMIX generator).
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 33
        }

        fn below(&mut self, end: u64) -> u64 {
            self.next() % end
        }

        fn from(&mut self) -> From {
            match self.below(3) {
                0 => From::Register(self.below(17) as u8),
                1 => From::Gs,
                _ => From::Value(self.below(8) as u8),
            }
        }

        fn path(&mut self) -> Vec<i64> {
            let len = self.below(10);
            (0..len).map(|_| self.below(128) as i64 - 64).collect()
        }

        fn operation(&mut self) -> Operation {
            let from = self.from();
            let path = self.path();
            let most = self.below(5000) as u16;
            match self.below(7) {
                0 => Operation::Number {
                    from,
                    path,
                    bytes: self.below(10) as u8,
                },
                1 => Operation::Text { from, path, most },
                2 => Operation::Bytes {
                    from,
                    path,
                    length: match self.below(3) {
                        0 => Length::Exactly(self.below(5000) as u16),
                        1 => Length::Value(self.below(8) as u8),
                        _ => Length::UpTo(self.below(8) as u8),
                    },
                    most,
                },
                3 => Operation::Names {
                    from,
                    path,
                    next: self.below(64) as i64,
                    name: self.below(64) as i64,
                    most: self.below(70) as u8,
                },
                4 => Operation::Trail {
                    from,
                    path,
                    next: self.below(64) as i64,
                    at: self.below(64) as i64,
                    length: self.below(300) as u16,
                    most: self.below(70) as u8,
                },
                5 => Operation::Only {
                    value: self.below(8) as u8,
                    mask: 1,
                    among: vec![self.below(2)],
                },
                _ => Operation::OnlyNamed {
                    value: self.below(8) as u8,
                    among: vec![Bytes(vec![])],
                },
            }
        }
    }

    /// Memory of a guest that leads in circles, and counts how much is read of it.
    struct Circles {
        numbers: Numbers,
        reads: u64,
    }

    impl Reader for Circles {
        fn read(&mut self, _: u64, bytes: &mut [u8]) -> bool {
            self.reads += 1;
            let number = self.numbers.next();
            bytes
                .iter_mut()
                .zip(number.to_le_bytes().into_iter().cycle())
                .for_each(|(byte, new)| *byte = new | 1);
            !number.is_multiple_of(16)
        }
    }

    #[test]
    fn whatever_is_asked_for_of_whatever_guest_ends_and_is_bounded() {
        let mut numbers = Numbers(1);
        let mut taken = 0;
        for round in 0..40_000 {
            let operations: Vec<Operation> = (0..numbers.below(12))
                .map(|_| numbers.operation())
                .collect();
            let point = crate::Point {
                address: 0,
                operations,
            };
            if crate::check(std::slice::from_ref(&point)).is_err() {
                continue;
            }
            taken += 1;
            let mut memory = Circles {
                numbers: Numbers(round),
                reads: 0,
            };
            let start = Start {
                gprs: &[round; 16],
                gs_base: u64::MAX,
            };
            let values = run(&point.operations, start, &mut memory).unwrap_or_default();
            // A chain has so many links with a name of so many pieces each; text is the longest of the others.
            let each = 9 + u64::from(crate::NAMES_MAX) * (2 + 255 / PIECE + 2);
            assert!(memory.reads <= each * 12, "{point:?}: {}", memory.reads);
            let bytes = |value: &Value| match value {
                Value::Bytes(bytes) => bytes.0.len(),
                Value::Names(names) => names.iter().map(|name| name.0.len()).sum(),
                _ => 0,
            };
            assert!(values.iter().map(bytes).sum::<usize>() <= HIT_BYTES_MAX);
        }
        assert!(taken > 500, "{taken}");
    }
}
