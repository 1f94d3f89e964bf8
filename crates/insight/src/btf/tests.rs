//! Type information made by hand, and what is found in it.

use super::*;
use crate::blind::Blind;
use crate::layout::{Layouts, Place};

/// Writes records and strings (kernel documentation, bpf/btf).
#[derive(Default)]
pub(crate) struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer {
            strings: vec![0],
            ..Writer::default()
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A record; its number.
    pub(crate) fn add(
        &mut self,
        name: &str,
        kind: u32,
        flag: bool,
        count: u32,
        size: u32,
        extra: &[u32],
    ) -> u32 {
        let name = self.string(name);
        let info = u32::from(flag) << 31 | kind << 24 | count;
        let words = [name, info, size].into_iter().chain(extra.iter().copied());
        self.types.extend(words.flat_map(u32::to_le_bytes));
        self.count += 1;
        self.count
    }

    pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(name, 1, false, 0, size, &[size * 8])
    }

    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.add("", 2, false, 0, to, &[])
    }

    pub(crate) fn array(&mut self, of: u32, index: u32, count: u32) -> u32 {
        self.add("", 3, false, 0, 0, &[of, index, count])
    }

    pub(crate) fn alias(&mut self, name: &str, kind: u32, to: u32) -> u32 {
        self.add(name, kind, false, 0, to, &[])
    }

    /// Members: name, type, bits from the beginning.
    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.members(name, 4, false, size, members)
    }

    pub(crate) fn members(
        &mut self,
        name: &str,
        kind: u32,
        has_bits: bool,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let mut extra = Vec::new();
        for (name, of, offset) in members {
            extra.extend([self.string(name), *of, *offset]);
        }
        self.add(name, kind, has_bits, members.len() as u32, size, &extra)
    }

    pub(crate) fn enumeration(
        &mut self,
        name: &str,
        is_signed: bool,
        values: &[(&str, u32)],
    ) -> u32 {
        let mut extra = Vec::new();
        for (name, value) in values {
            extra.extend([self.string(name), *value]);
        }
        self.add(name, 6, is_signed, values.len() as u32, 4, &extra)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let types = self.types.len() as u32;
        let strings = self.strings.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let header = [24, 0, types, types, strings];
        bytes.extend(header.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// Something of everything, under names that readers ask for.
fn kernel() -> Writer {
    let mut to = Writer::new();
    let int = to.int("int", 4);
    let long = to.int("long", 8);
    let byte = to.int("char", 1);
    let signed = to.alias("pid_t", 8, int);
    let constant = to.alias("", 10, signed);
    let name = to.array(byte, int, 16);
    let list = to.structure("list_head", 16, &[("next", 0, 0), ("prev", 0, 64)]);
    let pointer = to.pointer(list);
    let numbers = to.array(int, int, 4);
    let table = to.array(numbers, int, 3);
    // An anonymous union of a structure without a name and a number.
    let parts = to.structure("", 8, &[("low", int, 0), ("high", int, 32)]);
    let union = to.members("", 5, false, 8, &[("", parts, 0), ("whole", long, 0)]);
    let inner = to.structure("", 8, &[("deep", int, 32)]);
    to.structure(
        "task_struct",
        160,
        &[
            ("pid", constant, 0),
            ("tasks", list, 64),
            ("comm", name, 192),
            ("", union, 320),
            ("se", inner, 384),
            ("parent", pointer, 448),
            ("table", table, 512),
        ],
    );
    // Offsets and widths of bits in one word: 3 bits from bit 5 on, 1 from bit 8 on.
    let bits = [
        ("first", int, 3 << 24 | 5),
        ("second", int, 1 << 24 | 8),
        ("plain", int, 32),
    ];
    to.members("module", 4, true, 8, &bits);
    to.enumeration(
        "pid_type",
        false,
        &[("PIDTYPE_PID", 0), ("PIDTYPE_TGID", 1)],
    );
    to.enumeration("module_state", true, &[("MODULE_STATE_GONE", u32::MAX)]);
    to.enumeration("", false, &[("MM_FILEPAGES", 0), ("MM_ANONPAGES", 1)]);
    to
}

fn layouts(to: &Writer) -> Layouts {
    let bytes = to.bytes();
    Layouts::collect(&Types::parse(&bytes).unwrap())
}

#[test]
fn every_kind_of_member_is_found_by_its_path() {
    let layouts = layouts(&kernel());
    let check = |of: &str, path: &str, offset, size, element, bits| {
        let expected = Place {
            offset,
            size,
            element,
            bits,
        };
        assert_eq!(layouts.place(of, path), Ok(expected), "{of}.{path}");
    };
    check("task_struct", "pid", 0, 4, 4, None);
    check("task_struct", "tasks", 8, 16, 16, None);
    check("task_struct", "tasks.prev", 16, 0, 0, None);
    check("task_struct", "comm", 24, 16, 1, None);
    // Members of what has no name count as members of what contains them.
    check("task_struct", "low", 40, 4, 4, None);
    check("task_struct", "high", 44, 4, 4, None);
    check("task_struct", "whole", 40, 8, 8, None);
    check("task_struct", "se.deep", 52, 4, 4, None);
    check("task_struct", "parent", 56, 8, 8, None);
    // All dimensions.
    check("task_struct", "table", 64, 48, 4, None);
    check("module", "first", 0, 1, 1, Some((5, 3)));
    check("module", "second", 1, 1, 1, Some((0, 1)));
    check("module", "plain", 4, 4, 4, None);
    assert_eq!(layouts.size("task_struct"), Ok(160));
    assert_eq!(layouts.size("list_head"), Ok(16));
    for missing in ["nothing", "pid.nothing", "parent.next", "", "se"] {
        let has = layouts.has("task_struct", missing);
        assert_eq!(has, missing == "se", "{missing:?}");
    }
    let missing = layouts.place("vm_struct", "addr");
    assert_eq!(missing, Err(Blind::NoType("vm_struct.addr".to_owned())));
}

#[test]
fn enumerators_are_looked_up_inside_their_enum() {
    let layouts = layouts(&kernel());
    assert_eq!(layouts.enumerator("pid_type", "PIDTYPE_TGID"), Ok(1));
    assert_eq!(
        layouts.enumerator("module_state", "MODULE_STATE_GONE"),
        Ok(-1)
    );
    assert!(layouts.enumerator("module_state", "PIDTYPE_TGID").is_err());
    // An enum without a name is known by one of its enumerators.
    assert_eq!(layouts.enumerator("MM_FILEPAGES", "MM_ANONPAGES"), Ok(1));
}

#[test]
fn types_are_resolved_through_names_and_qualifiers() {
    let mut to = Writer::new();
    let int = to.int("int", 4);
    let named = to.alias("number", 8, int);
    let constant = to.alias("", 10, named);
    let volatile = to.alias("", 9, constant);
    let pointer = to.pointer(volatile);
    let array = to.array(pointer, int, 5);
    let nothing = to.add("f", 12, false, 0, 0, &[]);
    let bytes = to.bytes();
    let types = Types::parse(&bytes).unwrap();
    assert_eq!(types.len(), 8);
    assert_eq!(
        [named, constant, volatile].map(|id| types.resolve(id)),
        [Some(int); 3]
    );
    assert_eq!(
        [int, volatile, pointer, array].map(|id| types.size(id)),
        [Some(4), Some(4), Some(8), Some(40)]
    );
    assert_eq!(
        (types.target(pointer), types.target(int)),
        (Some(int), None)
    );
    assert_eq!(types.element(array), Some(pointer));
    assert_eq!(
        (types.size(nothing), types.size(99), types.name(99)),
        (None, None, "")
    );
}

#[test]
fn types_without_an_end_end() {
    // Each is the other's alias, its own element, its own member.
    let mut to = Writer::new();
    let first = to.alias("a", 8, 2);
    let second = to.alias("b", 8, 1);
    let array = to.array(3, 3, 2);
    let nest = to.structure("task_struct", 8, &[("", 4, 0), ("self", 4, 0)]);
    let bytes = to.bytes();
    let types = Types::parse(&bytes).unwrap();
    for id in [first, second, array] {
        assert_eq!((types.size(id), types.element(id)), (None, None), "{id}");
    }
    assert_eq!(types.size(nest), Some(8));
    let layouts = Layouts::collect(&types);
    assert!(layouts.has("task_struct", "self.self.self"));
    // More elements than a size can count.
    let mut to = Writer::new();
    let int = to.int("int", 4);
    let large = to.array(int, int, u32::MAX);
    assert_eq!(Types::parse(&to.bytes()).unwrap().size(large), None);
}

#[test]
fn of_several_structures_of_one_name_the_first_with_a_body_counts() {
    let mut to = Writer::new();
    let int = to.int("int", 4);
    to.structure("cred", 0, &[]);
    to.structure("cred", 4, &[("uid", int, 0)]);
    to.structure("cred", 8, &[("other", int, 32)]);
    let layouts = layouts(&to);
    assert_eq!(layouts.size("cred"), Ok(4));
    assert!(layouts.has("cred", "uid") && !layouts.has("cred", "other"));
}

#[test]
fn what_is_no_type_information_is_none() {
    let good = kernel().bytes();
    assert!(Types::parse(&good).is_some());
    let check = |name: &str, at: usize, bytes: &[u8]| {
        let mut broken = good.clone();
        broken[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(Types::parse(&broken).is_none(), "{name}");
    };
    check("another magic", 0, &[0]);
    check("the other byte order", 0, &[0xeb, 0x9f]);
    check("a later version", 2, &[2]);
    check("types that begin behind the end", 8, &[0xff; 4]);
    check(
        "types that end behind the end",
        12,
        &[0xff, 0xff, 0xff, 0x7f],
    );
    check(
        "strings that end behind the end",
        20,
        &[0xff, 0xff, 0xff, 0x7f],
    );
    check("a kind that there is not", 24 + 7, &[31]);
    check(
        "more members than there are bytes",
        24 + 4,
        &[0xff, 0xff, 0, 4],
    );
    for len in 0..good.len() {
        assert!(Types::parse(&good[..len]).is_none(), "{len} bytes");
    }
}

#[test]
fn damaged_type_information_is_read_or_refused_and_nothing_else() {
    let good = kernel().bytes();
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if let Some(types) = Types::parse(&bytes) {
                let layouts = Layouts::collect(&types);
                let _ = layouts.place("task_struct", "table");
                assert!(layouts.structs().count() < 64);
            }
        }
    }
}
