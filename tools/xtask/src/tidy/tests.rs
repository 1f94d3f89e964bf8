//! Every rule with a workspace that breaks it and one that does not.

use super::allowances::Allowances;
use super::rules;
use crate::source::Source;
use crate::workspace::{Member, Workspace};

const ROOT: &str = "//! Doc.\n#![forbid(unsafe_code)]\n";

/// A workspace of `low` above `high`, with these files, under this list.
fn check(files: &[(&str, &str)], list: &str, expected: &[&str]) {
    check_members(&[("low", &[]), ("high", &["low"])], files, list, expected);
}

fn check_members(
    members: &[(&str, &[&str])],
    files: &[(&str, &str)],
    list: &str,
    expected: &[&str],
) {
    let member = |&(name, dependencies): &(&str, &[&str])| Member {
        name: name.to_owned(),
        folder: format!("crates/{name}"),
        dependencies: dependencies
            .iter()
            .map(|&dependency| dependency.to_owned())
            .collect(),
    };
    let source = |&(path, text): &(&str, &str)| Source::parse(path, text.to_owned()).unwrap();
    let workspace = Workspace {
        members: members.iter().map(member).collect(),
        sources: files.iter().map(source).collect(),
        ..Workspace::default()
    };
    assert_eq!(
        rules(&workspace, &Allowances::parse(list).unwrap()).concat(),
        expected
    );
}

#[test]
fn a_crate_uses_only_crates_above_it() {
    check_members(&[("low", &["anyhow"]), ("high", &["low"])], &[], "", &[]);
    let down = "`low` depends on `high`, which is below it";
    check_members(&[("low", &["high"]), ("high", &[])], &[], "", &[down]);
}

#[test]
fn every_file_says_what_it_is() {
    check(&[("crates/low/src/a.rs", "//! Doc.\nfn a() {}")], "", &[]);
    let silent = "crates/low/src/a.rs does not open with a `//!` doc";
    check(
        &[("crates/low/src/a.rs", "/// Doc of a.\nfn a() {}")],
        "",
        &[silent],
    );
}

#[test]
fn notes_for_later_have_a_number() {
    let later = concat!("//! Doc.\n// TO", "DO(12): later\n// TO", "DO #13 too");
    check(&[("crates/low/src/a.rs", later)], "", &[]);
    let later = concat!("//! Doc.\n// TO", "DO: later");
    let complaint = concat!("crates/low/src/a.rs:2: TO", "DO without a number");
    check(&[("crates/low/src/a.rs", later)], "", &[complaint]);
}

const UNSAFE: &str = "//! Doc.\nfn a() {\n    unsafe { b() }\n}";

#[test]
fn unsafe_stays_in_its_rooms() {
    let file = [("crates/low/src/a.rs", UNSAFE)];
    let room = "[[unsafe_room]]\npath = 'crates/low/src/a.rs'\nreason = 'mapping'";
    check(
        &file,
        "",
        &["crates/low/src/a.rs:3: unsafe outside its rooms"],
    );
    check(&file, room, &[]);
    check(
        &file,
        "[[unsafe_room]]\npath = 'crates/low/'\nreason = 'mapping'",
        &[],
    );
    check(
        &[],
        room,
        &["tidy.toml: unsafe_room crates/low/src/a.rs has no unsafe code"],
    );
}

#[test]
fn unsafe_in_a_macro_is_seen_and_in_a_comment_is_not() {
    let hidden = "//! Doc.\nmacro_rules! m { () => { unsafe { b() } } }";
    check(
        &[("crates/low/src/a.rs", hidden)],
        "",
        &["crates/low/src/a.rs:2: unsafe outside its rooms"],
    );
    check(
        &[(
            "crates/low/src/a.rs",
            "//! Doc: unsafe { }.\nconst A: &str = \"unsafe\";",
        )],
        "",
        &[],
    );
}

#[test]
fn a_crate_without_a_room_forbids_unsafe() {
    check(&[("crates/low/src/lib.rs", ROOT)], "", &[]);
    let open = "crates/low/src/lib.rs does not say #![forbid(unsafe_code)]";
    check(&[("crates/low/src/lib.rs", "//! Doc.")], "", &[open]);
    let program = "crates/low/src/bin/tool.rs does not say #![forbid(unsafe_code)]";
    check(
        &[("crates/low/src/bin/tool.rs", "//! Doc.")],
        "",
        &[program],
    );
}

#[test]
fn long_files_have_a_reason() {
    let long = format!("//! Doc.\n{}", "// line\n".repeat(800));
    let list = "[[long_file]]\npath = 'crates/low/src/a.rs'\nreason = 'one table'";
    check(
        &[("crates/low/src/a.rs", &long)],
        "",
        &["crates/low/src/a.rs has 801 lines, the limit is 800"],
    );
    check(&[("crates/low/src/a.rs", &long)], list, &[]);
    check(
        &[("crates/low/src/a.rs", "//! Doc.")],
        list,
        &["tidy.toml: long_file crates/low/src/a.rs is not long"],
    );
}

#[test]
fn long_functions_have_a_reason_and_tests_do_not_count() {
    let body = "    b();\n".repeat(69);
    let long = format!("//! Doc.\nimpl A {{\n/// Doc.\npub fn a() {{\n{body}}}\n}}");
    let list = "[[long_function]]\npath = 'crates/low/src/a.rs'\nname = 'a'\nreason = 'one match'";
    let complaint = "crates/low/src/a.rs: fn a has 71 lines, the limit is 70";
    check(&[("crates/low/src/a.rs", &long)], "", &[complaint]);
    check(&[("crates/low/src/a.rs", &long)], list, &[]);
    let stale = "tidy.toml: long_function a in crates/low/src/a.rs is not long";
    check(
        &[("crates/low/src/a.rs", "//! Doc.\nfn a() {}")],
        list,
        &[stale],
    );
    let test = format!("//! Doc.\n#[cfg(test)]\nmod tests {{\n#[test]\nfn a() {{\n{body}}}\n}}");
    check(&[("crates/low/src/a.rs", &test)], "", &[]);
}

#[test]
fn an_entry_without_a_reason_is_refused() {
    assert!(Allowances::parse("[[long_file]]\npath = 'a.rs'\nreason = ' '").is_err());
}

#[test]
fn a_poisoned_lock_is_answered_in_one_place() {
    let answer =
        "//! Doc: PoisonError.\nfn a() {\n    lock().unwrap_or_else(PoisonError::into_inner)\n}";
    let list = "[[poison]]\npath = 'crates/low/src/a.rs'\nreason = 'the lock itself'";
    let complaint = "crates/low/src/a.rs:3: PoisonError; `host::lock::Lock` is the mutex that needs \
                     no such answer";
    check(&[("crates/low/src/a.rs", answer)], "", &[complaint]);
    check(&[("crates/low/src/a.rs", answer)], list, &[]);
    check(
        &[("crates/low/src/a.rs", "//! Doc: PoisonError.")],
        list,
        &["tidy.toml: poison crates/low/src/a.rs answers no poisoned lock"],
    );
}

#[test]
fn a_let_binds_one_thing() {
    let check = |statement: &str, expected: &[&str]| {
        let text = format!("//! Doc.\nfn a() {{\n    {statement}\n}}");
        check(&[("crates/low/src/a.rs", &text)], "", expected);
    };
    let complaint = "crates/low/src/a.rs:3: a tuple made to be taken apart; write a `let` for each";
    check("let (a, b) = (1, 2);", &[complaint]);
    check("let (a, b): (u8, u8) = (1, 2);", &[complaint]);
    check("let c = || { let (mut a, _) = (1, 2); };", &[complaint]);
    check("let (a, b) = pair();", &[]);
    check("let (Some(a), Some(b)) = (x(), y()) else { return };", &[]);
    check("let pair = (1, 2);", &[]);
    check("(a, b) = (b, a);", &[]);
}

#[test]
fn lines_for_tests_are_counted_wherever_they_stand() {
    let check = |path: &str, text: &str, expected| {
        let source = Source::parse(path, text.to_owned()).unwrap();
        assert_eq!(source.test_line_count(), expected, "{path}: {text}");
    };
    let mixed = "//! Doc.\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn b() {}\n}\n";
    check("crates/low/src/a.rs", mixed, 5);
    check("crates/low/src/a_tests.rs", mixed, 8);
    check("crates/low/tests/a.rs", "//! Doc.\n", 1);
    check(
        "crates/low/src/a.rs",
        "#[cfg(test)]\nmod a_tests;\nfn b() {}",
        2,
    );
    let inner = "mod a {\n    #[cfg(test)]\n    fn b() {}\n    fn c() {}\n}";
    check("crates/low/src/a.rs", inner, 2);
}

fn check_imports(files: &[(&str, &str)], expected: &[&str]) {
    let files: Vec<(String, String)> = files
        .iter()
        .map(|(path, text)| (format!("crates/low/src/{path}"), format!("{ROOT}{text}")))
        .collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    check(&files, "", expected);
}

#[test]
fn modules_do_not_import_each_other() {
    let mutual = "`low`: a circle of imports: `a` uses `b::B`, `b` uses `a::A`";
    let to_b = ("a.rs", "use crate::b::B;");
    let to_a = ("b.rs", "use super::a::A;");
    check_imports(&[to_b, ("b.rs", "use std::fs;")], &[]);
    check_imports(&[to_b, ("b.rs", "pub(in crate::a) struct B;")], &[]);
    check_imports(&[to_b, to_a], &[mutual]);
    let in_code = "`low`: a circle of imports: `a` uses `b::B`, `b` uses `a::a`";
    check_imports(&[to_b, ("b.rs", "fn b() { crate::a::a() }")], &[in_code]);
    let whole = "`low`: a circle of imports: `a` uses `b::B`, `b` uses `a`";
    check_imports(
        &[
            ("a/x.rs", "use crate::b::B;"),
            ("a/mod.rs", ""),
            ("b.rs", "use crate::a;"),
        ],
        &[whole],
    );
}

#[test]
fn modules_do_not_import_each_other_round_three_corners_or_more() {
    let a = ("a.rs", "use crate::b::B;");
    let b = ("b.rs", "use crate::c::C;");
    let three = "`low`: a circle of imports: `a` uses `b::B`, `b` uses `c::C`, `c` uses `a::A`";
    check_imports(&[a, b, ("c.rs", "")], &[]);
    check_imports(&[a, b, ("c.rs", "use crate::a::A;")], &[three]);
    let four = "`low`: a circle of imports: `a` uses `b::B`, `b` uses `c::C`, `c` uses `d::x::X`, \
                `d` uses `a::A`";
    check_imports(
        &[
            a,
            b,
            ("c.rs", "fn c() -> crate::d::x::X {}"),
            ("d/mod.rs", ""),
            ("d/x.rs", ""),
            ("d/y.rs", "use crate::a::A;"),
        ],
        &[four],
    );
}

#[test]
fn of_a_knot_a_shortest_circle_is_told_and_every_knot_is() {
    check_imports(
        &[
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a::A;\nuse crate::b::B;"),
            ("d.rs", "use crate::{a::A, e::E};"),
            ("e.rs", "use crate::d::D;"),
        ],
        &[
            "`low`: a circle of imports: `b` uses `c::C`, `c` uses `b::B`",
            "`low`: a circle of imports: `d` uses `e::E`, `e` uses `d::D`",
        ],
    );
}

#[test]
fn an_import_through_a_re_export_is_one_of_the_module_behind_it() {
    let root = |reexports| ("lib.rs", reexports);
    let by_name = root("mod a;\nmod b;\npub use a::A;\npub use b::{B as Bee};");
    let a = ("a.rs", "use crate::Bee;");
    let b = ("b.rs", "use crate::A;");
    let mutual = "`low`: a circle of imports: `a` uses `Bee`, `b` uses `A`";
    check_imports(&[by_name, a, b], &[mutual]);
    check_imports(&[by_name, a, ("b.rs", "")], &[]);
    let all = root("mod a;\nmod b;\npub use a::*;\npub use crate::b::*;");
    let a = ("a.rs", "use crate::B;\npub struct A;");
    let b = ("b.rs", "use crate::A;\npub struct B;");
    let mutual = "`low`: a circle of imports: `a` uses `B`, `b` uses `A`";
    check_imports(&[all, a, b], &[mutual]);
}

#[test]
fn what_the_root_defines_does_not_lead_back_to_it() {
    let a = ("a.rs", "use crate::Progress;");
    let defines = "mod a;\npub enum Progress {}\n";
    check_imports(&[("lib.rs", defines), a], &[]);
    let circle = "`low`: a circle of imports: `crate` uses `a::A`, `a` uses `Progress`";
    for uses in ["use a::A;", "pub use a::A;", "fn root() -> crate::a::A {}"] {
        check_imports(&[("lib.rs", &format!("{defines}{uses}")), a], &[circle]);
    }
    // The root of what a third module imports counts as well.
    let circle =
        "`low`: a circle of imports: `crate` uses `b::B`, `b` uses `a::A`, `a` uses `Progress`";
    let files = [
        (
            "lib.rs",
            "mod a;\nmod b;\npub use b::B;\npub enum Progress {}",
        ),
        ("b.rs", "use crate::a::A;"),
        a,
    ];
    check_imports(&files, &[circle]);
}

#[test]
fn what_the_root_takes_from_another_crate_is_no_definition_of_its_own() {
    let root = "mod a;\npub use a::A;\npub use other::Thing;";
    check_imports(&[("lib.rs", root), ("a.rs", "use crate::Thing;")], &[]);
}

#[test]
fn a_module_inside_a_file_is_part_of_it() {
    let a =
        "use crate::b::B;\npub mod inner {\n    use super::A;\n    pub struct In;\n}\nstruct A;";
    let circle = "`low`: a circle of imports: `a` uses `b::B`, `b` uses `a::inner::In`";
    check_imports(&[("a.rs", a), ("b.rs", "")], &[]);
    check_imports(
        &[("a.rs", a), ("b.rs", "use crate::a::inner::In;")],
        &[circle],
    );
    let a = "pub mod inner {\n    use super::super::b::B;\n}\nstruct A;";
    let circle = "`low`: a circle of imports: `a` uses `b::B`, `b` uses `a::A`";
    check_imports(&[("a.rs", a), ("b.rs", "use crate::a::A;")], &[circle]);
}

#[test]
fn a_parent_and_its_child_may_know_each_other_but_siblings_may_not() {
    let child = ("a/x.rs", "use super::A;\nuse crate::a::y::Y;");
    check_imports(&[("a/mod.rs", "use x::X;"), child, ("a/y.rs", "")], &[]);
    let mutual = "`low`: a circle of imports: `a::x` uses `a::y::Y`, `a::y` uses `a::x::X`";
    check_imports(
        &[
            ("a/mod.rs", "use x::X;"),
            child,
            ("a/y.rs", "use super::x::X;"),
        ],
        &[mutual],
    );
}

#[test]
fn what_only_tests_import_does_not_count() {
    let test = "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}";
    check_imports(&[("a.rs", "use crate::b::B;"), ("b.rs", test)], &[]);
}

#[test]
fn the_glossary_leads_to_what_it_names() {
    let check = |row: &str, expected: &[&str]| {
        let text = format!("{ROOT}/// Doc.\npub struct Board;");
        let workspace = Workspace {
            sources: vec![Source::parse("crates/low/src/a.rs", text).unwrap()],
            glossary: format!("| word | the field's | where |\n|---|---|---|\n{row}\n"),
            ..Workspace::default()
        };
        let list = Allowances::parse("").unwrap();
        assert_eq!(rules(&workspace, &list).concat(), expected);
    };
    check(
        "| board | motherboard | `Board`, `crates/low/src/a.rs` |",
        &[],
    );
    check("| board | `#GP` | `crates/low/src/a.rs` |", &[]);
    check(
        "| board | motherboard | `Bord`, `crates/low/src/a.rs` |",
        &["docs/glossary.md: crates/low/src/a.rs defines no Bord"],
    );
    check(
        "| board | motherboard | `Board`, `crates/low/src/b.rs` |",
        &["docs/glossary.md: there is no file crates/low/src/b.rs"],
    );
}

#[test]
fn an_example_in_documentation_is_a_test_or_text() {
    let root = ("crates/low/src/lib.rs", ROOT);
    let text = "//! Doc.\n//!\n//! ```text\n//! a -> b\n//! ```\n";
    check(&[root, ("crates/low/src/a.rs", text)], "", &[]);
    let rust = "//! Doc.\n//!\n//! ```\n//! f();\n//! ```\n";
    let complaint =
        "crates/low/src/a.rs:3: an example that nobody runs; write a test, or say ```text";
    check(&[root, ("crates/low/src/a.rs", rust)], "", &[complaint]);
}
