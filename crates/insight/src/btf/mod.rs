//! The kernel's type information (BTF; kernel documentation, bpf/btf), read from its memory.
//!
//! [`Types`] indexes the records, [`collect`](crate::layout) takes out of it the structures that readers ask for. The
//! bytes are the guest's: every offset is checked, every chain of types has an end.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
/// Longest chain of typedefs and qualifiers that is followed.
const MAX_CHAIN: usize = 32;
/// Most bytes that are read as BTF; Debian's 7.x has 5 MiB.
pub const MAX_BYTES: usize = 64 << 20;
/// Most types.
const MAX_TYPES: usize = 2_000_000;

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer, a character or a truth value.
    Int,
    /// A pointer to another type.
    Pointer,
    /// So many of another type.
    Array,
    /// Members behind each other.
    Struct,
    /// Members in the same place.
    Union,
    /// Names for 32-bit values.
    Enum,
    /// With 64-bit values.
    Enum64,
    /// A typedef or a qualifier: another name for another type.
    Alias,
    /// A variable; in a kernel's own BTF, a per-CPU one.
    Variable,
    /// The name of a structure or union that is not described here.
    Forward,
    /// A function, or what pointers to functions point to.
    Function,
    /// A floating-point number.
    Float,
    /// What no reader needs.
    Other,
}

/// One record.
#[derive(Clone, Copy, Debug)]
struct Record {
    kind: Kind,
    name: u32,
    /// The struct bit: members have bitfield sizes; an enum is signed.
    flag: bool,
    count: u32,
    /// Size or type.
    size_or_type: u32,
    /// Where what follows the header begins.
    extra: u32,
}

/// Indexed type information.
pub struct Types<'a> {
    records: Vec<Record>,
    types: &'a [u8],
    strings: &'a [u8],
}

/// A member of a structure.
#[derive(Clone, Copy, Debug)]
pub struct RawMember<'a> {
    /// Empty for an anonymous structure or union.
    pub name: &'a str,
    /// From the beginning of the structure.
    pub bit_offset: u32,
    /// Of a bitfield; otherwise 0.
    pub bit_size: u32,
    /// Its type.
    pub type_id: u32,
}

/// An integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer {
    /// Bytes.
    pub size: u32,
    /// Whether it may be negative.
    pub is_signed: bool,
    /// Whether it is a character.
    pub is_char: bool,
    /// Whether it is a truth value.
    pub is_bool: bool,
}

impl<'a> Types<'a> {
    /// Indexes BTF; `None` if that is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Types<'a>> {
        let u16_at = |at| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        if u16_at(0)? != MAGIC || *bytes.get(2)? != 1 {
            return None;
        }
        let [header, type_off, type_len, str_off, str_len] =
            [4, 8, 12, 16, 20].map(|at| word(bytes, at));
        let header = header? as usize;
        let part = |offset: u32, len: u32| {
            let start = header.checked_add(offset as usize)?;
            bytes.get(start..start.checked_add(len as usize)?)
        };
        let types = part(type_off?, type_len?)?;
        let strings = part(str_off?, str_len?)?;
        // Type 0 is void and has no record.
        let void = Record {
            kind: Kind::Other,
            name: 0,
            flag: false,
            count: 0,
            size_or_type: 0,
            extra: 0,
        };
        let mut records = vec![void];
        let mut at = 0;
        while at < types.len() {
            if records.len() > MAX_TYPES {
                return None;
            }
            let name = word(types, at)?;
            let info = word(types, at + 4)?;
            let count = info & 0xffff;
            let (kind, extra_len) = kind(info >> 24 & 0x1f, count)?;
            let extra = at + 12;
            at = extra.checked_add(extra_len as usize)?;
            if at > types.len() {
                return None;
            }
            records.push(Record {
                kind,
                name,
                flag: info >> 31 != 0,
                count,
                size_or_type: word(types, extra - 4)?,
                extra: extra as u32,
            });
        }
        Some(Types {
            records,
            types,
            strings,
        })
    }

    /// How many types there are, void included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is nothing but void.
    pub fn is_empty(&self) -> bool {
        self.records.len() < 2
    }

    fn record(&self, id: u32) -> Option<&Record> {
        self.records.get(id as usize)
    }

    /// A type's kind.
    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.record(id).map(|record| record.kind)
    }

    /// A type's own name; empty if it has none.
    pub fn name(&self, id: u32) -> &'a str {
        self.record(id)
            .map_or("", |record| self.string(record.name))
    }

    fn string(&self, offset: u32) -> &'a str {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let len = rest
            .iter()
            .take(512)
            .position(|&byte| byte == 0)
            .unwrap_or(0);
        std::str::from_utf8(&rest[..len]).unwrap_or_default()
    }

    /// The type behind typedefs and qualifiers.
    pub fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_CHAIN {
            let record = self.record(id)?;
            match record.kind {
                Kind::Alias | Kind::Variable => id = record.size_or_type,
                _ => return Some(id),
            }
        }
        None
    }

    /// Bytes of a type.
    pub fn size(&self, id: u32) -> Option<u32> {
        let mut id = self.resolve(id)?;
        let mut times = 1u32;
        for _ in 0..MAX_CHAIN {
            let record = self.record(id)?;
            match record.kind {
                Kind::Pointer => return 8u32.checked_mul(times),
                Kind::Array => {
                    times = times.checked_mul(word(self.types, record.extra as usize + 8)?)?;
                    id = self.resolve(word(self.types, record.extra as usize)?)?;
                }
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 => {
                    return record.size_or_type.checked_mul(times);
                }
                _ => return None,
            }
        }
        None
    }

    /// The element type of an array, through all its dimensions; any other type itself.
    pub fn element(&self, id: u32) -> Option<u32> {
        let mut id = self.resolve(id)?;
        for _ in 0..MAX_CHAIN {
            let record = self.record(id)?;
            if record.kind != Kind::Array {
                return Some(id);
            }
            id = self.resolve(word(self.types, record.extra as usize)?)?;
        }
        None
    }

    /// What a pointer points to.
    pub fn target(&self, id: u32) -> Option<u32> {
        let record = self.record(self.resolve(id)?)?;
        (record.kind == Kind::Pointer).then_some(())?;
        self.resolve(record.size_or_type)
    }

    /// What a pointer, a typedef, a qualifier or a variable is of; 0 is void.
    pub fn of(&self, id: u32) -> Option<u32> {
        let record = self.record(id)?;
        matches!(record.kind, Kind::Pointer | Kind::Alias | Kind::Variable)
            .then_some(record.size_or_type)
    }

    /// Whether a typedef, not a qualifier: it has a name.
    pub fn is_typedef(&self, id: u32) -> bool {
        self.kind(id) == Some(Kind::Alias) && !self.name(id).is_empty()
    }

    /// The element type of an array, and how many there are.
    pub fn array(&self, id: u32) -> Option<(u32, u32)> {
        let record = self.record(id)?;
        (record.kind == Kind::Array).then_some(())?;
        let extra = record.extra as usize;
        Some((word(self.types, extra)?, word(self.types, extra + 8)?))
    }

    /// How the bits of an integer are read.
    pub fn integer(&self, id: u32) -> Option<Integer> {
        let record = self.record(id)?;
        (record.kind == Kind::Int).then_some(())?;
        let encoding = word(self.types, record.extra as usize)? >> 24 & 0xf;
        Some(Integer {
            size: record.size_or_type,
            is_signed: encoding & 1 != 0,
            is_char: encoding & 2 != 0,
            is_bool: encoding & 4 != 0,
        })
    }

    /// Bytes of a floating-point number.
    pub fn float(&self, id: u32) -> Option<u32> {
        let record = self.record(id)?;
        (record.kind == Kind::Float).then_some(record.size_or_type)
    }

    /// Whether an undescribed type is a union, or an enum is of signed numbers.
    pub fn flag(&self, id: u32) -> bool {
        self.record(id).is_some_and(|record| record.flag)
    }

    /// Members of a structure or union, in their order.
    pub fn members(&self, id: u32) -> impl Iterator<Item = RawMember<'a>> + '_ {
        let record = self
            .record(id)
            .filter(|record| matches!(record.kind, Kind::Struct | Kind::Union))
            .copied();
        let count = record.map_or(0, |record| record.count);
        (0..count).filter_map(move |index| {
            let record = record?;
            let at = record.extra as usize + 12 * index as usize;
            let offset = word(self.types, at + 8)?;
            let (bit_offset, bit_size) = if record.flag {
                (offset & 0xff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            let name = self.string(word(self.types, at)?);
            Some(RawMember {
                name,
                bit_offset,
                bit_size,
                type_id: word(self.types, at + 4)?,
            })
        })
    }

    /// Names and values of an enum.
    pub fn enumerators(&self, id: u32) -> Vec<(&'a str, i64)> {
        let Some(record) = self.record(id) else {
            return Vec::new();
        };
        let value = |index: u32| {
            let wide = record.kind == Kind::Enum64;
            let at = record.extra as usize + if wide { 12 } else { 8 } * index as usize;
            let name = self.string(word(self.types, at)?);
            let low = word(self.types, at + 4)?;
            let value = match (wide, record.flag) {
                (true, _) => (u64::from(word(self.types, at + 8)?) << 32 | u64::from(low)) as i64,
                (false, true) => i64::from(low as i32),
                (false, false) => i64::from(low),
            };
            Some((name, value))
        };
        match record.kind {
            Kind::Enum | Kind::Enum64 => (0..record.count).filter_map(value).collect(),
            _ => Vec::new(),
        }
    }

    /// Ids of structures, unions, enums and variables by name; of several of one name the first with a body.
    pub fn named(&self) -> HashMap<&'a str, u32> {
        let mut named = HashMap::new();
        for (id, record) in self.records.iter().enumerate() {
            let has_body = matches!(
                record.kind,
                Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64
            ) && record.count > 0
                || record.kind == Kind::Variable;
            if has_body && record.name != 0 {
                named.entry(self.string(record.name)).or_insert(id as u32);
            }
        }
        named
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// The kind with this number and how many bytes follow the header of such a record.
fn kind(number: u32, count: u32) -> Option<(Kind, u32)> {
    Some(match number {
        1 => (Kind::Int, 4),
        2 => (Kind::Pointer, 0),
        3 => (Kind::Array, 12),
        4 => (Kind::Struct, 12 * count),
        5 => (Kind::Union, 12 * count),
        6 => (Kind::Enum, 8 * count),
        // Typedef, volatile, const, restrict, type tag.
        8..=11 | 18 => (Kind::Alias, 0),
        14 => (Kind::Variable, 4),
        19 => (Kind::Enum64, 12 * count),
        7 => (Kind::Forward, 0),
        12 => (Kind::Function, 0),
        13 => (Kind::Function, 8 * count),
        16 => (Kind::Float, 0),
        15 => (Kind::Other, 12 * count),
        17 => (Kind::Other, 4),
        _ => return None,
    })
}
