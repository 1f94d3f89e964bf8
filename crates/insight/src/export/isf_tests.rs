//! An Intermediate Symbol File of type information made by hand, as a reader of JSON sees it.

use serde_json::{Value, json};

use super::*;
use crate::btf::tests::Writer;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const BANNER: &[u8] = b"Linux version 6.1.0 (x)\n\0";
/// Kinds of BTF's records that the writer has no name for.
const FORWARD: u32 = 7;
const TYPEDEF: u32 = 8;
const CONST: u32 = 10;
const FUNCTION_TYPE: u32 = 13;
const VARIABLE: u32 = 14;
const FLOAT: u32 = 16;
const UNION: u32 = 5;

fn written() -> Value {
    let mut to = Writer::new();
    let unsigned = to.int("unsigned int", 4);
    // Encodings: signed, character, truth value.
    let int = to.add("int", 1, false, 0, 4, &[1 << 24 | 32]);
    let char = to.add("char", 1, false, 0, 1, &[1 << 24 | 8]);
    let truth = to.add("_Bool", 1, false, 0, 1, &[4 << 24 | 8]);
    let double = to.add("double", FLOAT, false, 0, 8, &[]);
    let list = to.structure("list_head", 16, &[("next", 9, 0), ("prev", 9, 64)]);
    let void_pointer = to.pointer(0);
    let unknown = to.add("elsewhere", FORWARD, false, 0, 0, &[]);
    let list_pointer = to.pointer(list);
    assert_eq!(list_pointer, 9, "as the list says");
    let unknown_pointer = to.pointer(unknown);
    let call = to.add("", FUNCTION_TYPE, false, 0, int, &[]);
    let call_pointer = to.pointer(call);
    let counter = to.structure("", 4, &[("counter", int, 0)]);
    let atomic = to.alias("atomic_t", TYPEDEF, counter);
    let constant = to.alias("", CONST, atomic);
    let name = to.array(char, unsigned, 16);
    let table = to.array(name, unsigned, 3);
    let parts = to.members(
        "",
        UNION,
        false,
        4,
        &[("whole", int, 0), ("truth", truth, 0)],
    );
    let state = to.enumeration("state", true, &[("ON", 1), ("OFF", u32::MAX)]);
    // 3 bits from the 5th on of the second word, and an enum in the next 2.
    let bits = |size: u32, offset: u32| size << 24 | offset;
    let flags = to.members(
        "flags",
        4,
        true,
        8,
        &[
            ("plain", unsigned, bits(0, 0)),
            ("three", unsigned, bits(3, 36)),
            ("two", state, bits(2, 39)),
        ],
    );
    to.structure(
        "task_struct",
        200,
        &[
            ("tasks", list, 0),
            ("usage", constant, 128),
            ("comm", name, 160),
            ("table", table, 288),
            ("", parts, 704),
            ("stack", void_pointer, 768),
            ("elsewhere", unknown_pointer, 832),
            ("call", call_pointer, 896),
            ("share", double, 960),
            ("flags", flags, 1024),
        ],
    );
    // Another of the same name, and a variable of it; what is behind a typedef keeps its name.
    let twin = to.structure("list_head", 8, &[("only", unsigned, 0)]);
    to.add("runqueues", VARIABLE, false, 0, twin, &[0]);
    to.structure("timekeeper", 8, &[("offs_real", unsigned, 0)]);
    let bytes = to.bytes();
    let types = Types::parse(&bytes).unwrap();
    let linked: Vec<(Gva, &[u8])> = vec![
        (Gva(0x1f000), b"runqueues"),
        (Gva(TEXT), b"_text"),
        (Gva(TEXT + 0x10), b"again"),
        (Gva(TEXT + 0x20), b"again"),
        (Gva(TEXT + 0x100), b"linux_banner"),
        (Gva(TEXT + 0x140), b"init_task"),
        (Gva(TEXT + 0x400), b"modules"),
        (Gva(TEXT + 0x500), b"tk_core"),
        (Gva(TEXT + 0x600), b"registered_fb"),
        (Gva(TEXT + 0x700), b"\xff"),
    ];
    let mut isf = isf(&types, &linked, BANNER);
    isf.describe_clock(&types, 8);
    let mut text = Vec::new();
    isf.write(&mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn structures_have_their_members_as_volatility_reads_them() {
    let isf = written();
    assert_eq!(isf["metadata"]["format"], "6.2.0");
    let of = |field: &str| isf["user_types"]["task_struct"]["fields"][field].clone();
    let check = |field: &str, offset: u32, expected: Value| {
        assert_eq!(
            of(field),
            json!({"offset": offset, "type": expected}),
            "{field}"
        );
    };
    let base = |name: &str| json!({"kind": "base", "name": name});
    let pointer = |to: Value| json!({"kind": "pointer", "subtype": to});
    let structure = |name: &str| json!({"kind": "struct", "name": name});
    let array = |count: u32, of: Value| json!({"kind": "array", "count": count, "subtype": of});
    check("tasks", 0, structure("list_head"));
    check("usage", 16, structure("atomic_t"));
    check("comm", 20, array(16, base("char")));
    check("table", 36, array(3, array(16, base("char"))));
    check("stack", 96, pointer(base("void")));
    check("elsewhere", 104, pointer(structure("elsewhere")));
    check("call", 112, pointer(json!({"kind": "function"})));
    check("share", 120, base("double"));
    let anonymous = of("unnamed_field_4");
    assert_eq!(
        (&anonymous["anonymous"], &anonymous["offset"]),
        (&json!(true), &json!(88))
    );
    let union = anonymous["type"]["name"].as_str().unwrap();
    assert_eq!(isf["user_types"][union]["kind"], "union");
    assert_eq!(
        isf["user_types"][union]["fields"]["truth"]["type"],
        base("_Bool")
    );
    let list = &isf["user_types"]["list_head"];
    assert_eq!(
        (&list["kind"], &list["size"]),
        (&json!("struct"), &json!(16))
    );
    assert_eq!(
        list["fields"]["next"]["type"],
        pointer(structure("list_head"))
    );
    assert_eq!(isf["user_types"]["elsewhere"]["size"], 0);
}

#[test]
fn bits_lie_in_the_number_that_they_are_a_part_of() {
    let isf = written();
    let field = |name: &str| isf["user_types"]["flags"]["fields"][name].clone();
    let unsigned = json!({"kind": "base", "name": "unsigned int"});
    let bits = |position: u32, length: u32, of: Value| {
        let of =
            json!({"kind": "bitfield", "bit_position": position, "bit_length": length, "type": of});
        json!({"offset": 4, "type": of})
    };
    assert_eq!(field("plain"), json!({"offset": 0, "type": unsigned}));
    assert_eq!(field("three"), bits(4, 3, unsigned));
    assert_eq!(
        field("two"),
        bits(7, 2, json!({"kind": "enum", "name": "state"}))
    );
    let state = json!({"size": 4, "base": "int", "constants": {"ON": 1, "OFF": -1}});
    assert_eq!(isf["enums"]["state"], state);
}

#[test]
fn integers_say_what_they_are() {
    let isf = written();
    let check = |name: &str, kind: &str, size: u32, signed: bool| {
        let expected = json!({"kind": kind, "size": size, "signed": signed, "endian": "little"});
        assert_eq!(isf["base_types"][name], expected, "{name}");
    };
    check("unsigned int", "int", 4, false);
    check("int", "int", 4, true);
    check("char", "char", 1, true);
    check("_Bool", "bool", 1, false);
    check("double", "float", 8, true);
    check("pointer", "int", 8, false);
    check("void", "void", 0, false);
}

#[test]
fn symbols_have_the_types_that_are_known_and_the_banner_is_there_to_be_found() {
    let isf = written();
    let symbol = |name: &str| isf["symbols"][name].clone();
    let structure = |name: &str| json!({"kind": "struct", "name": name});
    assert_eq!(symbol("_text")["address"], TEXT);
    assert_eq!(
        symbol("again")["address"],
        TEXT + 0x10,
        "the first of a name"
    );
    assert_eq!(symbol("again").get("type"), None);
    assert_eq!(symbol("init_task")["type"], structure("task_struct"));
    assert_eq!(symbol("modules")["type"], structure("list_head"));
    // This kernel has no such structure.
    assert_eq!(symbol("registered_fb").get("type"), None);
    // Of the other structure of that name, as type information says.
    let twin = symbol("runqueues")["type"]["name"].clone();
    let twin = &isf["user_types"][twin.as_str().unwrap()];
    assert_eq!(
        (&twin["size"], symbol("runqueues")["address"].clone()),
        (&json!(8), json!(0x1f000))
    );
    let banner = symbol("linux_banner");
    assert_eq!(
        banner["constant_data"],
        "TGludXggdmVyc2lvbiA2LjEuMCAoeCkKAA=="
    );
    // As far as to the next symbol.
    assert_eq!(banner["type"]["count"], 0x40);
    assert_eq!(symbol("tk_core")["type"], structure("tk_core"));
    let clock = &isf["user_types"]["tk_core"]["fields"]["timekeeper"];
    assert_eq!(
        *clock,
        json!({"offset": 8, "type": structure("timekeeper")})
    );
    assert_eq!(
        isf["symbols"].as_object().unwrap().len(),
        8,
        "{:#}",
        isf["symbols"]
    );
}

#[test]
fn base64_is_as_the_standard_shows_it() {
    let check = |bytes: &str, expected: &str| assert_eq!(base64(bytes.as_bytes()), expected);
    check("", "");
    check("f", "Zg==");
    check("fo", "Zm8=");
    check("foo", "Zm9v");
    check("foobar", "Zm9vYmFy");
}

#[test]
fn damaged_type_information_is_written_without_a_panic_and_without_end() {
    let mut to = Writer::new();
    let int = to.int("int", 4);
    // A pointer to itself, an array of itself, a typedef of a later one, and types that there are not.
    let own = to.pointer(2);
    let array = to.array(3, int, 2);
    to.alias("loop", TYPEDEF, 4);
    to.structure(
        "s",
        8,
        &[("a", own, 0), ("b", array, 0), ("c", 4, 0), ("d", 99, 0)],
    );
    let whole = to.bytes();
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            if let Some(types) = Types::parse(&bytes) {
                let made = isf(&types, &[(Gva(TEXT), b"init_task")], BANNER);
                made.write(&mut io::sink()).unwrap();
            }
        }
    }
}
