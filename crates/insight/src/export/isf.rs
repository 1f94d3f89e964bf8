//! Volatility 3's Intermediate Symbol File (its documentation, "Intermediate Symbol Format", and `schema-6.2.0.json`).
//!
//! A JSON object: integers as `base_types`, structures and unions as `user_types`, `enums`, and `symbols` with their
//! addresses before the kernel was moved. Structures are known by name there, and BTF knows them by number: the first of a name
//! that has members gets it, others of the same name and those without one get a name with their number in it. An unnamed one
//! that a typedef names is called as the typedef.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use serde::Serialize;
use x86::Gva;

use crate::blind::Blind;
use crate::btf::{Kind, RawMember, Types};
use crate::export::variables::VARIABLES;
use crate::look::Look;

/// Longest chain of pointers, arrays and typedefs that is followed.
const MAX_DEPTH: u32 = 32;
/// Longest banner, with what ends it.
const MAX_BANNER: usize = 513;
/// The format's version.
const FORMAT: &str = "6.2.0";
/// The kernel's clock, and what it is since it has a name.
const CLOCK: &str = "tk_core";
const CLOCK_TYPE: &str = "tk_data";
/// What BTF does not name: what a pointer is, and nothing.
const POINTER: &str = "pointer";
const VOID: &str = "void";

/// A type where it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum TypeRef {
    Base {
        name: String,
    },
    Pointer {
        subtype: Box<TypeRef>,
    },
    Array {
        count: u32,
        subtype: Box<TypeRef>,
    },
    Struct {
        name: String,
    },
    Union {
        name: String,
    },
    Enum {
        name: String,
    },
    Function,
    Bitfield {
        bit_position: u32,
        bit_length: u32,
        #[serde(rename = "type")]
        of: Box<TypeRef>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct BaseType {
    kind: &'static str,
    size: u32,
    signed: bool,
    endian: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Field {
    offset: u32,
    #[serde(rename = "type")]
    of: TypeRef,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anonymous: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct UserType {
    kind: &'static str,
    size: u32,
    fields: BTreeMap<String, Field>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Enumeration {
    size: u32,
    base: String,
    constants: BTreeMap<String, i128>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Symbol {
    address: u64,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    of: Option<TypeRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constant_data: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Producer {
    name: &'static str,
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Metadata {
    format: &'static str,
    producer: Producer,
}

/// A kernel's symbols and types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Isf {
    metadata: Metadata,
    base_types: BTreeMap<String, BaseType>,
    user_types: BTreeMap<String, UserType>,
    enums: BTreeMap<String, Enumeration>,
    symbols: BTreeMap<String, Symbol>,
}

impl Isf {
    /// How many structures, unions and enums it describes.
    pub fn type_count(&self) -> usize {
        self.user_types.len() + self.enums.len()
    }

    /// How many symbols it has, and how many of them with a type.
    pub fn symbol_count(&self) -> (usize, usize) {
        let typed = self.symbols.values().filter(|symbol| symbol.of.is_some());
        (self.symbols.len(), typed.count())
    }

    /// Before 6.13 `tk_core` is of a structure without a name, which BTF does not keep: a lock, and behind it the clock.
    fn describe_clock(&mut self, types: &Types<'_>, offset: u64) {
        let (Some(symbol), Some(keeper)) = (
            self.symbols.get_mut(CLOCK),
            self.user_types.get("timekeeper"),
        ) else {
            return;
        };
        let name = match types.named().contains_key(CLOCK_TYPE) {
            true => CLOCK_TYPE,
            false => CLOCK,
        };
        symbol.of = Some(TypeRef::Struct {
            name: name.to_owned(),
        });
        let offset = u32::try_from(offset).unwrap_or_default();
        let field = Field {
            offset,
            of: TypeRef::Struct {
                name: "timekeeper".to_owned(),
            },
            anonymous: false,
        };
        let of = UserType {
            kind: "struct",
            size: offset.saturating_add(keeper.size),
            fields: BTreeMap::from([("timekeeper".to_owned(), field)]),
        };
        self.user_types.entry(name.to_owned()).or_insert(of);
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// Of `to`.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *to, self).map_err(io::Error::from)?;
        to.write_all(b"\n")
    }
}

impl Look<'_> {
    /// What Volatility needs to know of the kernel.
    ///
    /// # Errors
    /// If the kernel has no type information, or no banner by which Volatility would know it again.
    pub fn isf(&self) -> Result<Isf, Blind> {
        let bytes = self.type_information()?;
        let types = Types::parse(&bytes)
            .ok_or_else(|| Blind::nonsense("type information of the kernel is none"))?;
        let kernel = self.kernel();
        let in_table = kernel.linked_symbols();
        let mut linked: Vec<(Gva, &[u8])> =
            in_table.map(|(address, _, name)| (address, name)).collect();
        let more = kernel.linked_by_vmcoreinfo();
        linked.extend(more.map(|(address, name)| (address, name.as_bytes())));
        linked.sort_by_key(|(address, _)| *address);
        let mut isf = isf(&types, &linked, &self.banner_bytes()?);
        isf.describe_clock(&types, self.timekeeper_offset());
        Ok(isf)
    }

    /// The banner as it lies in memory, with its line's end and its zero: Volatility looks for exactly this.
    fn banner_bytes(&self) -> Result<Vec<u8>, Blind> {
        let banner = self.symbol("linux_banner")?;
        let mut bytes = self.space().bytes(banner, MAX_BANNER)?;
        let end = bytes.iter().position(|&byte| byte == 0);
        let end = end.ok_or_else(|| Blind::nonsense("banner of the kernel does not end"))?;
        bytes.truncate(end + 1);
        Ok(bytes)
    }
}

/// From types, and symbols in the order of addresses.
fn isf(types: &Types<'_>, linked: &[(Gva, &[u8])], banner: &[u8]) -> Isf {
    let names = Names::new(types);
    let mut user_types: BTreeMap<String, UserType> = BTreeMap::new();
    let mut enums = BTreeMap::new();
    let mut base_types = BTreeMap::from([
        (POINTER.to_owned(), base("int", 8, false)),
        (VOID.to_owned(), base("void", 0, false)),
    ]);
    for id in 1..types.len() as u32 {
        match types.kind(id) {
            Some(Kind::Struct | Kind::Union) => {
                let (name, of) = names.aggregate(types, id);
                user_types.insert(name, of);
            }
            Some(Kind::Enum | Kind::Enum64) => {
                let (name, of) = names.enumeration(types, id);
                let signed = types.flag(id);
                base_types
                    .entry(of.base.clone())
                    .or_insert_with(|| base("int", of.size, signed));
                enums.insert(name, of);
            }
            Some(Kind::Int) => {
                if let Some(integer) = types.integer(id) {
                    let kind = match integer {
                        _ if integer.is_bool => "bool",
                        // What is one byte long and no number.
                        _ if integer.is_char || types.name(id) == "char" => "char",
                        _ => "int",
                    };
                    let of = base(kind, integer.size, integer.is_signed);
                    base_types.insert(types.name(id).to_owned(), of);
                }
            }
            Some(Kind::Float) => {
                let size = types.float(id).unwrap_or_default();
                base_types.insert(types.name(id).to_owned(), base("float", size, true));
            }
            _ => {}
        }
    }
    // What is only pointed to and described nowhere is known to be there.
    for id in 1..types.len() as u32 {
        if types.kind(id) == Some(Kind::Forward) {
            let kind = if types.flag(id) { "union" } else { "struct" };
            let nothing = UserType {
                kind,
                size: 0,
                fields: BTreeMap::new(),
            };
            let name = types.name(id).to_owned();
            user_types.entry(name).or_insert(nothing);
        }
    }
    let symbols = symbols(types, &names, linked, banner);
    Isf {
        metadata: Metadata {
            format: FORMAT,
            producer: Producer {
                name: "mother",
                version: env!("CARGO_PKG_VERSION"),
            },
        },
        base_types,
        user_types,
        enums,
        symbols,
    }
}

fn base(kind: &'static str, size: u32, signed: bool) -> BaseType {
    BaseType {
        kind,
        size,
        signed,
        endian: "little",
    }
}

fn symbols(
    types: &Types<'_>,
    names: &Names,
    linked: &[(Gva, &[u8])],
    banner: &[u8],
) -> BTreeMap<String, Symbol> {
    let listed: HashMap<&str, &str> = VARIABLES
        .iter()
        .flat_map(|(of, names)| names.iter().map(move |name| (*name, *of)))
        .collect();
    let variables: HashMap<&str, u32> = (1..types.len() as u32)
        .filter(|id| types.kind(*id) == Some(Kind::Variable))
        .map(|id| (types.name(id), id))
        .collect();
    let ids = types.named();
    let mut symbols = BTreeMap::new();
    for (number, (address, name)) in linked.iter().enumerate() {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        let room = || {
            let next = linked[number..].iter().find(|(next, _)| next > address);
            next.map_or(0, |(next, _)| next.0 - address.0)
        };
        let of = match (variables.get(name), listed.get(name)) {
            (Some(id), _) => Some(names.reference(types, *id, 0)),
            (None, Some(written)) => names.written(types, &ids, written, room),
            (None, None) => None,
        };
        let symbol = Symbol {
            address: address.0,
            of,
            constant_data: (name == "linux_banner").then(|| base64(banner)),
        };
        // Functions of one file may have names of those in another: the first one counts.
        symbols.entry(name.to_owned()).or_insert(symbol);
    }
    symbols
}

/// What each structure, union and enum is called.
struct Names {
    by_id: HashMap<u32, String>,
}

impl Names {
    fn new(types: &Types<'_>) -> Names {
        let ids = || 1..types.len() as u32;
        let is_named_here = |id: &u32| {
            matches!(
                types.kind(*id),
                Some(Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64)
            )
        };
        let bodies = types.named();
        let mut typedefs: HashMap<u32, &str> = HashMap::new();
        for id in ids().filter(|id| types.is_typedef(*id)) {
            if let Some(of) = types.of(id) {
                typedefs.entry(of).or_insert(types.name(id));
            }
        }
        let mut taken: HashMap<(bool, String), u32> = HashMap::new();
        let mut by_id = HashMap::new();
        // Those with a body first, so that the name is theirs.
        let (first, rest): (Vec<u32>, Vec<u32>) = ids()
            .filter(is_named_here)
            .partition(|id| bodies.get(types.name(*id)) == Some(id));
        for id in first.into_iter().chain(rest) {
            let is_enum = matches!(types.kind(id), Some(Kind::Enum | Kind::Enum64));
            let own = types.name(id);
            let wanted = if own.is_empty() {
                typedefs.get(&id).copied().unwrap_or("unnamed")
            } else {
                own
            };
            let key = (is_enum, wanted.to_owned());
            let is_free = wanted != "unnamed" && !taken.contains_key(&key);
            let name = if is_free {
                taken.insert(key, id);
                wanted.to_owned()
            } else {
                format!("{wanted}_{id}")
            };
            by_id.insert(id, name);
        }
        Names { by_id }
    }

    fn name(&self, id: u32) -> String {
        self.by_id.get(&id).cloned().unwrap_or_default()
    }

    /// A type as it is used by others.
    fn reference(&self, types: &Types<'_>, id: u32, depth: u32) -> TypeRef {
        let void = TypeRef::Base {
            name: VOID.to_owned(),
        };
        if depth > MAX_DEPTH {
            return void;
        }
        let boxed = |id| Box::new(self.reference(types, id, depth + 1));
        let own = || types.name(id).to_owned();
        match types.kind(id).unwrap_or(Kind::Other) {
            Kind::Int | Kind::Float => TypeRef::Base { name: own() },
            Kind::Pointer => TypeRef::Pointer {
                subtype: boxed(types.of(id).unwrap_or(0)),
            },
            Kind::Array => match types.array(id) {
                Some((of, count)) => TypeRef::Array {
                    count,
                    subtype: boxed(of),
                },
                None => void,
            },
            Kind::Struct => TypeRef::Struct {
                name: self.name(id),
            },
            Kind::Union => TypeRef::Union {
                name: self.name(id),
            },
            Kind::Enum | Kind::Enum64 => TypeRef::Enum {
                name: self.name(id),
            },
            Kind::Forward if types.flag(id) => TypeRef::Union { name: own() },
            Kind::Forward => TypeRef::Struct { name: own() },
            Kind::Function => TypeRef::Function,
            Kind::Alias | Kind::Variable => *boxed(types.of(id).unwrap_or(0)),
            Kind::Other => void,
        }
    }

    fn aggregate(&self, types: &Types<'_>, id: u32) -> (String, UserType) {
        let mut fields = BTreeMap::new();
        for (number, member) in types.members(id).enumerate() {
            let is_anonymous = member.name.is_empty();
            let name = if is_anonymous {
                format!("unnamed_field_{number}")
            } else {
                member.name.to_owned()
            };
            let mut field = self.field(types, member);
            // Only members of an unnamed structure count as those of what contains it; unnamed bits are padding.
            let is_aggregate = matches!(field.of, TypeRef::Struct { .. } | TypeRef::Union { .. });
            field.anonymous = is_anonymous && is_aggregate;
            fields.insert(name, field);
        }
        let is_union = types.kind(id) == Some(Kind::Union);
        let of = UserType {
            kind: if is_union { "union" } else { "struct" },
            size: types.size(id).unwrap_or(0),
            fields,
        };
        (self.name(id), of)
    }

    fn field(&self, types: &Types<'_>, member: RawMember<'_>) -> Field {
        let of = self.reference(types, member.type_id, 0);
        let bytes = types.size(member.type_id).unwrap_or(1).max(1);
        if member.bit_size == 0 {
            return Field {
                offset: member.bit_offset / 8,
                of,
                anonymous: false,
            };
        }
        // From the beginning of the integer that the bits are a part of.
        let unit = bytes.saturating_mul(8);
        let offset = member.bit_offset / unit * bytes;
        let of = TypeRef::Bitfield {
            bit_position: member.bit_offset.saturating_sub(offset.saturating_mul(8)),
            bit_length: member.bit_size,
            of: Box::new(of),
        };
        Field {
            offset,
            of,
            anonymous: false,
        }
    }

    fn enumeration(&self, types: &Types<'_>, id: u32) -> (String, Enumeration) {
        let size = types.size(id).unwrap_or(4);
        let is_signed = types.flag(id);
        let constants = types.enumerators(id).into_iter().map(|(name, value)| {
            let value = match (is_signed, size) {
                (false, 8) => i128::from(value as u64),
                (false, _) => i128::from(value as u32),
                (true, _) => i128::from(value),
            };
            (name.to_owned(), value)
        });
        let base = match (size, is_signed) {
            (1, false) => "unsigned char",
            (1, true) => "signed char",
            (2, false) => "short unsigned int",
            (2, true) => "short int",
            (8, false) => "long unsigned int",
            (8, true) => "long int",
            (_, false) => "unsigned int",
            (_, true) => "int",
        };
        let of = Enumeration {
            size,
            base: base.to_owned(),
            constants: constants.collect(),
        };
        (self.name(id), of)
    }

    /// A type as `variables` writes it, if this kernel has it.
    fn written(
        &self,
        types: &Types<'_>,
        ids: &HashMap<&str, u32>,
        written: &str,
        room: impl Fn() -> u64,
    ) -> Option<TypeRef> {
        let mut words: Vec<&str> = written.split(' ').collect();
        let count = words.pop_if(|word| word.starts_with('['));
        let mut stars = 0;
        while words.pop_if(|word| *word == "*").is_some() {
            stars += 1;
        }
        let (mut of, mut size) = match words.as_slice() {
            ["struct", name] => {
                let id = *ids.get(name)?;
                (types.kind(id) == Some(Kind::Struct)).then_some(())?;
                (self.reference(types, id, 0), types.size(id)?)
            }
            words => {
                let name = words.join(" ");
                let id = (1..types.len() as u32)
                    .find(|id| types.kind(*id) == Some(Kind::Int) && types.name(*id) == name)?;
                (TypeRef::Base { name }, types.size(id)?)
            }
        };
        for _ in 0..stars {
            of = TypeRef::Pointer {
                subtype: Box::new(of),
            };
            size = 8;
        }
        let Some(count) = count else { return Some(of) };
        let count = match count.trim_matches(['[', ']']) {
            "" => u32::try_from(room() / u64::from(size.max(1))).ok()?,
            number => number.parse().ok()?,
        };
        Some(TypeRef::Array {
            count,
            subtype: Box::new(of),
        })
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, place| {
            bits << 8 | usize::from(group.get(place).copied().unwrap_or(0))
        });
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            text.push(if place > group.len() {
                '='
            } else {
                digit.into()
            });
        }
    }
    text
}

#[cfg(test)]
#[path = "isf_tests.rs"]
mod tests;
