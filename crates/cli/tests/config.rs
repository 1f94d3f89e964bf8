//! A VM in a file: what is typed and what is written mean the same, and mistakes are told with their lines.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;

use crate::common::Mother;

/// What `mother run` with these words prints as a file.
fn print(mother: &Mother, words: &[&str]) -> String {
    let ran = mother.run(&[&["--print-config"], words].concat());
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (Some(0), ""),
        "{words:?}"
    );
    ran.stdout
}

#[test]
fn what_is_printed_is_the_same_vm_again() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let file = folder.path().join("vm.toml");
    let file = file.to_str().unwrap();
    let check = |words: &[&str], expected: &str| {
        let printed = print(&mother, words);
        assert_eq!(printed, expected, "{words:?}");
        fs::write(file, &printed).unwrap();
        assert_eq!(print(&mother, &["--config", file]), printed);
    };
    check(&[], "");
    check(
        &[
            "debian",
            "--memory",
            "1024M",
            "-p",
            "8080:80",
            "--disk",
            "a,,b,readonly",
        ],
        "image = \"debian\"\nmemory = \"1G\"\npublish = [\"8080:80\"]\n\n[[disk]]\npath = \"a,b\"\nreadonly = true\n",
    );
    check(
        &[
            "--app",
            "/bin/echo",
            "--env",
            "A=b c",
            "--timeout",
            "90",
            "--",
            "-n",
            "\"x\"",
        ],
        "app = \"/bin/echo\"\nenv = [\"A=b c\"]\narguments = [\"-n\", '\"x\"']\ntimeout = \"90s\"\n",
    );
    check(
        &[
            "--kernel",
            "k",
            "--cmdline",
            "a\u{1b}b",
            "--console",
            "virtio",
            "--huge-pages",
            "-d",
        ],
        "kernel = \"k\"\ncmdline = \"a\\u001Bb\"\nhuge-pages = true\nconsole = \"virtio\"\n",
    );
}

#[test]
fn options_override_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let file = folder.path().join("vm.json");
    let json = r#"{"image": "debian", "memory": "1G", "cpus": 2, "publish": ["1:1", "2:2"], "no-reboot": true}"#;
    fs::write(&file, json).unwrap();
    let words = [
        "--config",
        file.to_str().unwrap(),
        "--memory",
        "2G",
        "-p",
        "3:3",
    ];
    assert_eq!(
        print(&mother, &words),
        "image = \"debian\"\nmemory = \"2G\"\ncpus = 2\npublish = [\"3:3\"]\nno-reboot = true\n"
    );
}

#[test]
fn what_is_wrong_with_file_and_options_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let file = folder.path().join("bad.toml");
    fs::write(
        &file,
        "memroy = \"2G\"\n\ntimeout = 90\npublish = [\"80\"]\nkeep = \"x\"\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let of_file = format!(
        "error: cannot start VM \"a b\"
  {file}:1: memroy: there is no key \"memroy\"
  help: did you mean `memory`?
  {file}:4: publish: \"80\" is not a forward
  help: write [ADDRESS:]HOST:GUEST[/udp], such as 8080:80 (on 127.0.0.1), 0.0.0.0:8080:80 or 5353:53/udp
  cpus: a guest needs a vCPU
  help: write a number from 1 to 8
  name: \"a b\" has the character ' '
  help: use 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, the first a letter or digit
"
    );
    let with_the_rest = format!(
        "{of_file}  keep: there is no image that could be kept
  help: name an IMAGE
  kernel: cannot open nowhere: no such file
  help: check the path
"
    );
    let words = [
        "--config", file, "--cpus", "0", "--name", "a b", "--kernel", "nowhere",
    ];
    let check = |words: &[&str], expected: &str| {
        let ran = mother.run(words);
        assert_eq!(ran.stderr, expected, "{words:?}");
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (Some(2), ""),
            "{words:?}"
        );
    };
    check(&words, &with_the_rest);
    check(&[&words[..], &["--print-config"]].concat(), &of_file);
    check(
        &["--config", "nowhere.toml"],
        "error: cannot start VM \"guest\"\n  config: cannot read nowhere.toml: no such file\n  help: check the path\n",
    );
}

#[test]
fn options_that_do_not_go_together_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let check = |words: &[&str], expected: &[&str]| {
        let ran = mother.run(words);
        let told: Vec<&str> = ran
            .stderr
            .lines()
            .filter(|line| !line.starts_with("error: ") && !line.contains("help: "))
            .collect();
        assert_eq!(told, expected, "{words:?}");
        assert_eq!(ran.status, Some(2), "{words:?}");
    };
    let nothing = "there is no program that it could be for";
    check(
        &[
            "--env",
            "A=b",
            "--workdir",
            "/",
            "--kernel",
            "nowhere",
            "--include",
            "/x",
            "--",
            "ls",
        ],
        &[
            &format!("  arguments: {nothing}"),
            &format!("  env: {nothing}"),
            &format!("  workdir: {nothing}"),
            &format!("  include: {nothing}"),
            "  kernel: cannot open nowhere: no such file",
        ],
    );
    let own = "a program of this host brings its own kernel and files";
    check(
        &[
            "debian",
            "--app",
            "/bin/ls",
            "--cmdline",
            "x",
            "--debug-exit",
        ],
        &[
            &format!("  image: {own}"),
            &format!("  cmdline: {own}"),
            &format!("  debug-exit: {own}"),
        ],
    );
    check(
        &["--keep", "web"],
        &["  keep: there is no image that could be kept"],
    );
}
