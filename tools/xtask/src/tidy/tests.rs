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
        locked_package_count: 0,
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
    let mutual = "`low`: modules `a` and `b` import each other";
    check_imports(
        &[("a.rs", "use crate::b::B;"), ("b.rs", "use std::fs;")],
        &[],
    );
    check_imports(
        &[("a.rs", "use crate::b::B;"), ("b.rs", "use super::a::A;")],
        &[mutual],
    );
    check_imports(
        &[
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "fn b() { crate::a::a() }"),
        ],
        &[mutual],
    );
    check_imports(
        &[
            ("a/x.rs", "use crate::b::B;"),
            ("a/mod.rs", ""),
            ("b.rs", "use crate::a;"),
        ],
        &[mutual],
    );
}

#[test]
fn an_import_through_a_re_export_is_one_of_the_module_behind_it() {
    let mutual = "`low`: modules `a` and `b` import each other";
    let root = (
        "lib.rs",
        "mod a;\nmod b;\npub use a::A;\npub use b::{B as Bee};",
    );
    check_imports(
        &[root, ("a.rs", "use crate::Bee;"), ("b.rs", "use crate::A;")],
        &[mutual],
    );
    check_imports(&[root, ("a.rs", "use crate::Bee;"), ("b.rs", "")], &[]);
}

#[test]
fn a_parent_and_its_child_may_know_each_other_but_siblings_may_not() {
    let child = ("a/x.rs", "use super::A;\nuse crate::a::y::Y;");
    check_imports(&[("a/mod.rs", "use x::X;"), child, ("a/y.rs", "")], &[]);
    let mutual = "`low`: modules `a::x` and `a::y` import each other";
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
