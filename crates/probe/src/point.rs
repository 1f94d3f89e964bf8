//! Points, operations, values and hits: plain values, and their limits.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bytes::Bytes;

/// Points of one observer, at most.
pub const POINTS_MAX: usize = 64;
/// Operations of one point.
pub const OPERATIONS_MAX: usize = 48;
/// Offsets of one operation.
pub const PATH_MAX: usize = 8;
/// Bytes that one operation takes.
pub const BYTES_MAX: u16 = 4096;
/// Names along one chain.
pub const NAMES_MAX: u8 = 64;
/// Bytes of one name: NAME_MAX of Linux.
pub const NAME_BYTES_MAX: u16 = 255;
/// Bytes of all values of one hit. What comes after them is not taken down.
pub const HIT_BYTES_MAX: usize = 16 * 1024;
/// Values that one operation compares with.
pub const AMONG_MAX: usize = 64;

/// A place in the guest's kernel, and what is taken down when a vCPU passes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Guest virtual address of an instruction, in the kernel's half: it is passed before the instruction is executed.
    pub address: u64,
    /// What to do, in order. Each operation but the conditions leaves one value.
    pub operations: Vec<Operation>,
}

/// Where an operation begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// A general register, numbered as instructions do: RAX 0, RCX 1, RDX 2, RBX 3, RSP 4, RBP 5, RSI 6, RDI 7, R8 to R15.
    Register(u8),
    /// Where GS begins: in Linux's kernel, the CPU's own data.
    Gs,
    /// The number that an earlier operation left, by its position among the values.
    Value(u8),
}

/// How many bytes to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    /// So many.
    Exactly(u16),
    /// As many as an earlier value says.
    Value(u8),
    /// Up to the address that an earlier value is.
    UpTo(u8),
}

/// One thing to do. A *path* is a list of offsets: a number of 8 bytes is read at each but the last, and what the operation
/// takes lies at the last. An empty path takes the beginning itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Leaves a number of 1, 2, 4 or 8 bytes, little-endian.
    Number {
        /// Where to begin.
        from: From,
        /// How to get there.
        path: Vec<i64>,
        /// How long it is.
        bytes: u8,
    },
    /// Leaves bytes up to the first zero, or as many as there may be.
    Text {
        /// Where to begin.
        from: From,
        /// How to get there.
        path: Vec<i64>,
        /// At most so many bytes.
        most: u16,
    },
    /// Leaves bytes.
    Bytes {
        /// Where to begin.
        from: From,
        /// How to get there.
        path: Vec<i64>,
        /// How many.
        length: Length,
        /// At most so many.
        most: u16,
    },
    /// Leaves the names along a chain of structures, the first one's first: until one leads to itself or to nothing. The name
    /// of that last one is not among them.
    Names {
        /// Where to begin.
        from: From,
        /// How to get to the pointer to the first structure; empty: the beginning is it.
        path: Vec<i64>,
        /// Where a structure points to the next one.
        next: i64,
        /// Where it points to its name.
        name: i64,
        /// At most so many.
        most: u8,
    },
    /// Leaves the same stretch of each structure along a chain, the first one's first: until one leads to itself or to
    /// nothing, which is not taken.
    Trail {
        /// Where to begin.
        from: From,
        /// How to get to the pointer to the first structure; empty: the beginning is it.
        path: Vec<i64>,
        /// Where a structure points to the next one.
        next: i64,
        /// Where the stretch lies in it.
        at: i64,
        /// How long the stretch is.
        length: u16,
        /// At most so many.
        most: u8,
    },
    /// Takes nothing down, and goes on only if an earlier number, masked, is one of these.
    Only {
        /// Which value.
        value: u8,
        /// Bits that count.
        mask: u64,
        /// What they may be.
        among: Vec<u64>,
    },
    /// Takes nothing down, and goes on only if the first of some names is one of these.
    OnlyNamed {
        /// Which value.
        value: u8,
        /// What it may be.
        among: Vec<Bytes>,
    },
}

/// What an operation left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Nothing is mapped where it should be, or the list of values is too long.
    Unreadable,
    /// A number.
    Number(u64),
    /// Text or bytes.
    Bytes(Bytes),
    /// Names.
    Names(Vec<Bytes>),
}

/// A vCPU passed a point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hit {
    /// Which point, by its position among the observer's.
    pub point: u16,
    /// Which vCPU.
    pub vcpu_id: u32,
    /// When, in nanoseconds since 1970-01-01 UTC, by the host's clock.
    pub at_ns: u64,
    /// What was taken down: one value for each operation that is no condition.
    pub values: Vec<Value>,
}

/// Why points are not taken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// More than there may be.
    #[error("{count} {what} where there may be {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// An operation asks for what there is not.
    #[error("operation {operation} of point {point}: {what}")]
    Wrong {
        /// Which point.
        point: usize,
        /// Which of its operations.
        operation: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Whether these points may be watched: whether what they cost is bounded, and what they name is there.
///
/// # Errors
/// [`Refused`], with the first thing that is wrong.
pub fn check(points: &[Point]) -> Result<(), Refused> {
    at_most("points", points.len(), POINTS_MAX)?;
    points
        .iter()
        .enumerate()
        .try_for_each(|(number, point)| point.check(number))
}

fn at_most(what: &'static str, count: usize, most: usize) -> Result<(), Refused> {
    if count > most {
        return Err(Refused::TooMany { what, count, most });
    }
    Ok(())
}

impl Point {
    /// See [`check`]; it is point number `point`.
    fn check(&self, point: usize) -> Result<(), Refused> {
        at_most("operations", self.operations.len(), OPERATIONS_MAX)?;
        let mut values = 0;
        for (operation, what) in self.operations.iter().enumerate() {
            what.check(values).map_err(|what| Refused::Wrong {
                point,
                operation,
                what,
            })?;
            values += u8::from(what.leaves_value());
        }
        Ok(())
    }
}

impl Operation {
    /// Whether it leaves a value; conditions do not.
    pub fn leaves_value(&self) -> bool {
        !matches!(self, Operation::Only { .. } | Operation::OnlyNamed { .. })
    }

    fn check(&self, values: u8) -> Result<(), &'static str> {
        let is = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let earlier = |value: u8| is(value < values, "names a value that comes later");
        let start = |from: From, path: &[i64]| {
            is(path.len() <= PATH_MAX, "has too long a path")?;
            match from {
                From::Register(number) => is(number < 16, "names a register that there is not"),
                From::Gs => Ok(()),
                From::Value(value) => earlier(value),
            }
        };
        let sized = |most: u16| is(most <= BYTES_MAX, "takes too many bytes");
        match self {
            Operation::Number { from, path, bytes } => {
                start(*from, path)?;
                is([1, 2, 4, 8].contains(bytes), "takes a number of no size")
            }
            Operation::Text { from, path, most } => {
                start(*from, path)?;
                sized(*most)
            }
            Operation::Bytes {
                from,
                path,
                length,
                most,
            } => {
                start(*from, path)?;
                sized(*most)?;
                match length {
                    Length::Exactly(length) => is(length <= most, "takes more than it may"),
                    Length::Value(value) | Length::UpTo(value) => earlier(*value),
                }
            }
            Operation::Names {
                from, path, most, ..
            } => {
                start(*from, path)?;
                is(*most <= NAMES_MAX, "takes too many names")
            }
            Operation::Trail {
                from,
                path,
                length,
                most,
                ..
            } => {
                start(*from, path)?;
                is(*length <= NAME_BYTES_MAX, "takes too many bytes")?;
                is(*most <= NAMES_MAX, "takes too many names")
            }
            Operation::Only { value, among, .. } => {
                earlier(*value)?;
                is(among.len() <= AMONG_MAX, "compares with too much")
            }
            Operation::OnlyNamed { value, among } => {
                earlier(*value)?;
                let is_short = |name: &Bytes| name.0.len() <= usize::from(NAME_BYTES_MAX);
                is(
                    among.len() <= AMONG_MAX && among.iter().all(is_short),
                    "compares with too much",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(from: From, path: Vec<i64>, bytes: u8) -> Operation {
        Operation::Number { from, path, bytes }
    }

    #[test]
    fn what_costs_too_much_or_is_not_there_is_refused() {
        let check = |operations: Vec<Operation>, expected: Option<&str>| {
            let point = Point {
                address: 1,
                operations,
            };
            let refused = check(&[point]).err().map(|refused| refused.to_string());
            match (refused, expected) {
                (None, None) => {}
                (Some(refused), Some(expected)) => {
                    assert!(refused.contains(expected), "{refused}");
                }
                (refused, expected) => panic!("{refused:?} and not {expected:?}"),
            }
        };
        let own = || number(From::Gs, vec![8], 8);
        check(vec![own(), number(From::Value(0), vec![], 4)], None);
        check(vec![number(From::Value(0), vec![], 8)], Some("comes later"));
        check(
            vec![number(From::Register(16), vec![], 8)],
            Some("a register that there is not"),
        );
        check(vec![number(From::Gs, vec![0; 9], 8)], Some("long a path"));
        check(vec![number(From::Gs, vec![0], 3)], Some("no size"));
        let text = |most| Operation::Text {
            from: From::Gs,
            path: vec![0],
            most,
        };
        check(vec![text(4096)], None);
        check(vec![text(4097)], Some("too many bytes"));
        let only = |value| Operation::Only {
            value,
            mask: 1,
            among: vec![1],
        };
        check(vec![own(), only(0), own(), only(1)], None);
        // A condition leaves no value.
        check(vec![own(), only(0), only(1)], Some("comes later"));
        check(vec![own(); 49], Some("49 operations where there may be 48"));
        let names = Operation::Names {
            from: From::Gs,
            path: vec![],
            next: 0,
            name: 8,
            most: 65,
        };
        check(vec![names], Some("too many names"));
    }

    #[test]
    fn points_and_hits_keep_their_words() {
        let point = Point {
            address: 16,
            operations: vec![
                number(From::Register(7), vec![-8, 0], 4),
                Operation::OnlyNamed {
                    value: 0,
                    among: vec![Bytes(b"\xffa".to_vec())],
                },
            ],
        };
        let words = r#"{"address":16,"operations":[{"number":{"from":{"register":7},"path":[-8,0],"bytes":4}},{"only-named":{"value":0,"among":["ff61"]}}]}"#;
        assert_eq!(serde_json::to_string(&point).unwrap(), words);
        assert_eq!(serde_json::from_str::<Point>(words).unwrap(), point);
        let hit = Hit {
            point: 2,
            vcpu_id: 1,
            at_ns: 7,
            values: vec![
                Value::Number(u64::MAX),
                Value::Unreadable,
                Value::Bytes(Bytes(vec![])),
                Value::Names(vec![Bytes(vec![0x41])]),
            ],
        };
        let words =
            r#"{"point":2,"vcpu_id":1,"at_ns":7,"values":[18446744073709551615,null,"",["41"]]}"#;
        assert_eq!(serde_json::to_string(&hit).unwrap(), words);
        assert_eq!(serde_json::from_str::<Hit>(words).unwrap(), hit);
    }
}
