//! A server does all that it does within its jail, with no call refused.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::env;
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use folder::{Access, Bounds, HEADER_BYTES, Owners, Server};
use host::jail;

/// Set in the process of its own: the folder.
const WITHIN: &str = "FOLDER_TEST_WITHIN";

const BOUNDS: Bounds = Bounds {
    nodes: 100,
    handles: 10,
};

/// One message: its body in words, then a text.
fn message(opcode: u32, node: u64, words: &[u32], text: &[u8]) -> Vec<u8> {
    let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let len_bytes = (HEADER_BYTES + body.len() + text.len()) as u32;
    let mut message = [len_bytes.to_le_bytes(), opcode.to_le_bytes()].concat();
    message.extend([7_u64.to_le_bytes(), node.to_le_bytes()].concat());
    message.resize(HEADER_BYTES, 0);
    [message, body, text.to_vec()].concat()
}

/// Nodes are numbered from the root's 1 in the order in which they are told, handles from 1.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let mut setting = [0; 22];
    // Mode, size and both times.
    setting[0] = 0b11_1001;
    setting[4] = 9;
    setting[17] = 0o600;
    vec![
        ("mount", message(26, 0, &[7, 31, 0, u32::MAX], &[])),
        ("look up", message(1, 1, &[], b"file\0")),
        ("look at", message(3, 2, &[0; 4], &[])),
        ("open", message(14, 2, &[2, 0], &[])),
        (
            "read",
            message(15, 2, &[1, 0, 0, 0, 4096, 0, 0, 0, 0, 0], &[]),
        ),
        ("list", message(27, 1, &[0, 0], &[])),
        (
            "list more",
            message(44, 1, &[2, 0, 0, 0, 4096, 0, 0, 0, 0, 0], &[]),
        ),
        ("file system", message(17, 1, &[], &[])),
        ("follow", message(5, 3, &[], &[])),
        ("seek", message(46, 2, &[1, 0, 0, 0, 3, 0], &[])),
        ("attributes", message(23, 2, &[100, 0], &[])),
        (
            "write",
            message(16, 2, &[1, 0, 0, 0, 4, 0, 0, 0, 0, 0], b"more"),
        ),
        ("set", message(4, 2, &setting, &[])),
        ("allocate", message(43, 2, &[1, 0, 0, 0, 64, 0, 0, 0], &[])),
        ("sync", message(20, 2, &[1, 0, 0, 0], &[])),
        ("sync data", message(20, 2, &[1, 0, 1, 0], &[])),
        ("create", message(35, 1, &[2, 0o644, 0, 0], b"new\0")),
        (
            "copy",
            message(47, 2, &[1, 0, 0, 0, 4, 0, 3, 0, 0, 0, 4, 0, 0, 0], &[]),
        ),
        ("folder", message(9, 1, &[0o755, 0], b"folder\0")),
        ("link", message(6, 1, &[], b"another\0/etc\0")),
        ("node", message(8, 1, &[0o100_644, 0, 0, 0], b"plain\0")),
        ("second name", message(13, 1, &[4, 0], b"second\0")),
        ("rename", message(12, 1, &[1, 0], b"new\0newer\0")),
        ("remove", message(10, 1, &[], b"newer\0")),
        ("remove folder", message(11, 1, &[], b"folder\0")),
        ("give back", message(18, 2, &[1, 0, 0, 0, 0, 0], &[])),
    ]
}

/// How many of the requests above only read.
const READING: usize = 11;

fn check(access: Access) {
    let shared = PathBuf::from(env::var_os(WITHIN).unwrap());
    let open = fs::File::open(shared).unwrap();
    let within = open.as_fd().try_clone_to_owned().unwrap();
    let mut server = Server::new(within, access, Owners::of_process(), BOUNDS).unwrap();
    let may_write = access == Access::Write;
    jail::lock_in_folder(open.as_fd(), may_write, &mut |_, _| {});
    for (index, (name, mut request)) in requests().into_iter().enumerate() {
        if index >= READING && !may_write {
            break;
        }
        if name == "open" && !may_write {
            request[HEADER_BYTES] = 0;
        }
        let answer = server.answer(&request).unwrap();
        let error = i32::from_le_bytes(answer[4..8].try_into().unwrap());
        // Not every file system has attributes.
        assert!(error == 0 || name == "attributes", "{name}: {error}");
    }
    let refused = jail::refused();
    assert!(
        refused.as_ref().is_none_or(|refused| refused.count == 0),
        "{refused:?}"
    );
}

/// Runs the test again in a process of its own, unless this is it.
fn in_its_own_process(test: &str, access: Access) {
    if env::var_os(WITHIN).is_some() {
        return check(access);
    }
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("file"), "text").unwrap();
    std::os::unix::fs::symlink("/etc", shared.path().join("link")).unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(WITHIN, shared.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "there is no such test: {out}");
}

#[test]
fn all_that_a_guest_asks_for_is_done_within_the_walls() {
    in_its_own_process(
        "all_that_a_guest_asks_for_is_done_within_the_walls",
        Access::Write,
    );
}

#[test]
fn all_that_a_guest_reads_is_read_within_the_walls() {
    in_its_own_process(
        "all_that_a_guest_reads_is_read_within_the_walls",
        Access::Read,
    );
}
