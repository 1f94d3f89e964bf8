//! A point whose values have names.

use probe::{Bytes, From, Length, Operation, Point, Value};

/// General registers that hold the first arguments of a function (System V psABI for x86-64, 3.2.3), by `probe`'s numbers.
pub(super) const FIRST: From = From::Register(7);
pub(super) const SECOND: From = From::Register(6);
pub(super) const THIRD: From = From::Register(2);
pub(super) const FOURTH: From = From::Register(1);

/// What is taken down of a mount.
pub(super) struct Level {
    /// Names of its root, in its file system.
    pub(super) part: &'static str,
    /// Names of what it lies on, in the file system of its parent.
    pub(super) point: &'static str,
    /// The mount that this is in.
    pub(super) parent: &'static str,
}

/// A file's mount, the one that this is mounted in, and so on. A folder in a container's own file system is at the second.
pub(super) const LEVELS: [Level; 4] = [
    Level {
        part: "part 0",
        point: "point 0",
        parent: "parent 0",
    },
    Level {
        part: "part 1",
        point: "point 1",
        parent: "parent 1",
    },
    Level {
        part: "part 2",
        point: "point 2",
        parent: "parent 2",
    },
    Level {
        part: "part 3",
        point: "point 3",
        parent: "parent 3",
    },
];

/// What is taken down at one address.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    address: u64,
    operations: Vec<Operation>,
    names: Vec<&'static str>,
}

impl Recipe {
    pub(super) fn new(address: u64) -> Recipe {
        Recipe {
            address,
            operations: Vec::new(),
            names: Vec::new(),
        }
    }

    pub(super) fn point(&self) -> Point {
        Point {
            address: self.address,
            operations: self.operations.clone(),
        }
    }

    /// The value of this name, as a beginning.
    fn index(&self, name: &str) -> u8 {
        let index = self.names.iter().position(|other| *other == name);
        index.expect("a recipe names what it has taken") as u8
    }

    pub(super) fn from(&self, name: &str) -> From {
        From::Value(self.index(name))
    }

    fn push(&mut self, name: &'static str, operation: Operation) {
        self.operations.push(operation);
        self.names.push(name);
    }

    pub(super) fn number(&mut self, name: &'static str, from: From, path: &[u64], bytes: usize) {
        let operation = Operation::Number {
            from,
            path: signed(path),
            bytes: bytes as u8,
        };
        self.push(name, operation);
    }

    pub(super) fn text(&mut self, name: &'static str, from: From, path: &[u64], most: u16) {
        let operation = Operation::Text {
            from,
            path: signed(path),
            most,
        };
        self.push(name, operation);
    }

    /// From the address that is one value up to that which is another.
    pub(super) fn between(&mut self, name: &'static str, start: &str, end: &str, most: u16) {
        let operation = Operation::Bytes {
            from: self.from(start),
            path: vec![],
            length: Length::UpTo(self.index(end)),
            most,
        };
        self.push(name, operation);
    }

    /// As many bytes as a value says.
    pub(super) fn counted(&mut self, name: &'static str, from: From, count: &str, most: u16) {
        let operation = Operation::Bytes {
            from,
            path: vec![],
            length: Length::Value(self.index(count)),
            most,
        };
        self.push(name, operation);
    }

    pub(super) fn bytes(&mut self, name: &'static str, from: From, path: &[u64], count: u16) {
        let operation = Operation::Bytes {
            from,
            path: signed(path),
            length: Length::Exactly(count),
            most: count,
        };
        self.push(name, operation);
    }

    pub(super) fn names(&mut self, name: &'static str, from: From, next: u64, named: u64) {
        self.names_at(name, from, &[], (next, named));
    }

    /// The same where the first structure is pointed to from the end of a path.
    pub(super) fn names_at(
        &mut self,
        name: &'static str,
        from: From,
        path: &[u64],
        (next, named): (u64, u64),
    ) {
        let operation = Operation::Names {
            from,
            path: signed(path),
            next: next as i64,
            name: named as i64,
            most: probe::NAMES_MAX,
        };
        self.push(name, operation);
    }

    pub(super) fn trail(
        &mut self,
        name: &'static str,
        from: From,
        (next, at): (u64, u64),
        length: u16,
    ) {
        /// Ancestors that are named.
        const MOST: u8 = 16;
        let operation = Operation::Trail {
            from,
            path: vec![next as i64],
            next: next as i64,
            at: at as i64,
            length,
            most: MOST,
        };
        self.push(name, operation);
    }

    /// Goes on only if some bits of a value are one of these.
    pub(super) fn only(&mut self, name: &str, mask: u64, among: &[u64]) {
        self.operations.push(Operation::Only {
            value: self.index(name),
            mask,
            among: among.to_vec(),
        });
    }

    /// Goes on only if the first of some names is one of these.
    pub(super) fn only_named(&mut self, name: &str, among: &[String]) {
        let bytes = |name: &String| Bytes(name.as_bytes().to_vec());
        self.operations.push(Operation::OnlyNamed {
            value: self.index(name),
            among: among.iter().map(bytes).collect(),
        });
    }
}

/// Offsets may be addresses of per-CPU variables, which are far beyond what an offset can be, and wrap.
fn signed(path: &[u64]) -> Vec<i64> {
    path.iter().map(|&offset| offset as i64).collect()
}

/// The values of a hit, by name.
pub(super) struct Values<'a> {
    names: &'a [&'static str],
    values: &'a [Value],
}

impl<'a> Values<'a> {
    pub(super) fn new(recipe: &'a Recipe, values: &'a [Value]) -> Values<'a> {
        Values {
            names: &recipe.names,
            values,
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let index = self.names.iter().position(|other| *other == name)?;
        self.values.get(index)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn i32(&self, name: &str) -> Option<i32> {
        self.number(name).map(|number| number as i32)
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        match self.get(name)? {
            Value::Bytes(bytes) => Some(&bytes.0),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.bytes(name).map(text)
    }

    pub(super) fn names(&self, name: &str) -> Option<&'a [Bytes]> {
        match self.get(name)? {
            Value::Names(names) => Some(names),
            _ => None,
        }
    }
}

/// A guest's bytes as text, up to the first zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let len = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..len.unwrap_or(bytes.len())]).into_owned()
}
