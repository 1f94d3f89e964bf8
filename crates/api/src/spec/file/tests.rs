//! Tests of files: what is right in them, and what is told of what is not.

use super::*;

/// What is said about a file, a line for each complaint.
fn told(text: &str) -> Vec<String> {
    let read = PartialSpec::from_file(text, "f");
    let complaints = read.complaints.iter();
    complaints
        .map(|it| format!("{}: {}; {}", it.field, it.what, it.help))
        .collect()
}

#[test]
fn toml_and_json_say_the_same() {
    let toml = "\
image = \"debian\"
memory = \"2G\"
cpus = 2
no-reboot = true
publish = [\"8080:80\"]
disk = [\"a.raw,readonly\", { path = \"b\" }]
";
    let tables = "\
image = \"debian\"
memory = 2147483648
cpus = \"2\"
no-reboot = true
publish = [\"127.0.0.1:8080:80\"]

[[disk]]
path = \"a.raw\"
readonly = true

[[disk]]
path = \"b\"
";
    let json = r#" { "image": "debian", "memory": "2048M", "cpus": 2, "no-reboot": true,
        "publish": ["8080:80/tcp"], "disk": ["a.raw,readonly", {"path": "b"}], "engine": null }"#;
    let read = |text: &str| {
        let read = PartialSpec::from_file(text, "f");
        assert_eq!(read.complaints, [], "{text}");
        read.spec
    };
    let spec = read(toml);
    assert_eq!(spec.disks.len(), 2);
    assert_eq!(spec.disks[0].to_string(), "a.raw,readonly");
    assert_eq!(read(tables), spec);
    assert_eq!(read(json), spec);
    assert_eq!(read(&spec.to_toml()), spec);
    assert_eq!(read(""), VmSpec::default());
    assert_eq!(read("{}"), VmSpec::default());
}

#[test]
fn everything_that_is_wrong_with_a_file_is_told_with_its_line() {
    let toml = "\
memroy = \"2G\"
cpus = 400

timeout = \"soon\"
no-reboot = \"yes\"
publish = [
    \"8080:80\",
    \"80\",
]
[[disk]]
path = \"a\"
read-only = true
";
    let json = r#"{ "memroy": "2G",
 "cpus": 400,

 "timeout": "soon",
 "no-reboot": "yes",
 "publish": [

    "8080:80", "80"],
 "disk": [
  { "path": "a",

    "read-only": true }
]}"#;
    let expected = [
        "f:1: memroy: there is no key \"memroy\"; did you mean `memory`?",
        "f:2: cpus: 400 vCPUs are more than a guest can have; write a number from 1 to 8",
        "f:4: timeout: \"soon\" is not a time; write seconds, or a number with s, m or h behind it, such as 60s, 5m \
         or 1h",
        "f:5: no-reboot: invalid type: string \"yes\", expected a boolean; `mother run ... --print-config` shows how \
         options look in a file",
        "f:8: publish: \"80\" is not a forward; write [ADDRESS:]HOST:GUEST[/udp], such as 8080:80 (on 127.0.0.1), \
         0.0.0.0:8080:80 or 5353:53/udp",
        "f:12: read-only: there is no key \"read-only\"; did you mean `readonly`?",
    ];
    assert_eq!(told(toml), expected);
    assert_eq!(told(json), expected);
    let read = PartialSpec::from_file(toml, "f");
    assert_eq!(read.spec.forwards.len(), 1, "what is right is taken");
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_the_line() {
    let check = |text: &str, expected: &str| {
        let [told] = &told(text)[..] else {
            panic!("one complaint about {text:?}: {:?}", told(text))
        };
        assert!(told.starts_with(expected), "{told}");
        assert!(told.ends_with(SHOWN), "{told}");
    };
    check("memory = \"1G\"\ncpus 2\n", "f:2: ");
    check("memory = \"1G\"\nmemory = \"2G\"\n", "f:2: duplicate key");
    check(
        "{\n\"memory\": \"1G\"\n",
        "f:3: EOF while parsing an object; ",
    );
    check(
        "{\"cpus\": 1,\n \"cpus\": 2}",
        "f:2: the key \"cpus\" is there twice; ",
    );
    check("{} {}", "f:1: trailing characters; ");
    check(
        "memory = [\"1G\"]",
        "f:1: memory: invalid type: sequence, expected a text such as",
    );
    check(
        "disk = \"a\"",
        "f:1: disk: invalid type: string \"a\", expected a sequence",
    );
    check(
        "[memory]\nsize = 1",
        "f:1: memory: invalid type: map, expected a text such as",
    );
}

#[test]
fn numbers_of_any_shape_are_understood_or_explained() {
    let check = |text: &str, expected: &str| {
        let told = told(text).join("\n");
        assert!(told.starts_with(expected), "{text}: {told}");
        assert_eq!(told.is_empty(), expected.is_empty(), "{text}: {told}");
    };
    check("memory = 0x2000_0000", "");
    check("timeout = 90", "");
    check("memory = -5", "f:1: memory: \"-5\" is not a memory size; ");
    check(
        "cpus = 1.5",
        "f:1: cpus: invalid type: floating point `1.5`",
    );
    check(
        "memory = 99999999999999999999",
        "f:1: memory: \"99999999999999999999\" is not a memory size; ",
    );
    check(
        "timeout = 10:00:00",
        "f:1: timeout: \"10:00:00\" is not a time; ",
    );
}

#[test]
fn a_misspelt_word_has_a_nearest_one() {
    let check = |word: &str, expected: Option<&str>| {
        assert_eq!(
            nearest(word, VmSpec::keys().iter().copied()),
            expected,
            "{word}"
        );
    };
    check("mem", Some("memory"));
    check("vcpus", Some("cpus"));
    check("resident_limit", Some("resident-limit"));
    check("Kernel", Some("kernel"));
    check("xyzzy", None);
    check("", None);
}

#[test]
fn what_stands_above_wins_and_both_complain() {
    let below =
        PartialSpec::from_file("memory = \"1G\"\ncpus = 2\nx = 1\npublish = [\"1:1\"]", "f");
    let above = PartialSpec::from_file("memory = \"2G\"\npublish = [\"2:2\", \"3:3\"]\ny = 1", "g");
    let both = above.over(below);
    assert_eq!(
        both.spec.to_toml(),
        "memory = \"2G\"\ncpus = 2\npublish = [\"2:2\", \"3:3\"]\n"
    );
    let fields: Vec<&str> = both.complaints.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["f:3: x", "g:3: y"]);
}
