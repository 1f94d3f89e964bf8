//! Bad input gets one clear error, exit status 2, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use crate::common::{Mother, names_in};

/// Runs `mother run` with these words in a folder with test images; the whole of standard error must be this.
fn check(words: &[&str], complaints: &[&str]) {
    check_named("guest", words, complaints);
}

fn check_named(name: &str, words: &[&str], complaints: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    write_images(folder.path());
    let before = names_in(folder.path());
    let ran = Mother::new(folder.path()).run(words);
    let expected = format!(
        "error: cannot start VM \"{name}\"\n  {}\n",
        complaints.join("\n  ")
    );
    assert_eq!(ran.stderr, expected, "{words:?}");
    assert_eq!(ran.stdout, "", "{words:?}");
    assert_eq!(ran.status, Some(2), "{words:?}");
    assert_eq!(
        names_in(folder.path()),
        before,
        "{words:?} left something behind"
    );
}

/// Kernels that look like kernels just long enough to be refused, or to be accepted.
fn write_images(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    let whole = bzimage(1);
    write("bzImage", &whole);
    write("truncated", &whole[..whole.len() - 4096]);
    write("head", &whole[..0x230]);
    write("bzImage32", &bzimage(0));
    write(
        "text",
        b"This is not a kernel, and long enough to be looked at with care.\n",
    );
    write("empty", b"");
    write("initrd", &[0; 5000]);
    fs::File::create(folder.join("large"))
        .unwrap()
        .set_len(600 << 20)
        .unwrap();
}

/// The setup header's fields that matter (Linux Documentation/arch/x86/boot.rst) before 64 KiB of nothing.
fn bzimage(xloadflags: u8) -> Vec<u8> {
    let mut image = vec![0; 1024 + 65536];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(65536_u32 / 16).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[xloadflags, 0]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x200_0000_u32.to_le_bytes());
    image
}

#[test]
fn a_kernel_that_is_not_there() {
    check(
        &["--kernel", "nowhere"],
        &[
            "kernel: cannot open nowhere: no such file",
            "help: check the path",
        ],
    );
    check(
        &["--kernel", "no\u{1b}[31mwhere\n"],
        &[
            "kernel: cannot open no\\u{1b}[31mwhere\\n: no such file",
            "help: check the path",
        ],
    );
    check(
        &["--kernel", "."],
        &[
            "kernel: cannot use .: it is not a regular file",
            "help: name a file",
        ],
    );
}

const KERNELS: &str = "help: name a bzImage, an ELF kernel with a PVH note, or a multiboot kernel";

#[test]
fn a_file_that_is_no_kernel() {
    let why = "it is not a kernel: no bzImage header, no multiboot header, no ELF file";
    check(
        &["--kernel", "text"],
        &[&format!("kernel: cannot use text: {why}"), KERNELS],
    );
    check(
        &["--kernel", "empty"],
        &[&format!("kernel: cannot use empty: {why}"), KERNELS],
    );
}

#[test]
fn a_kernel_that_was_cut() {
    check(
        &["--kernel", "truncated"],
        &[
            "kernel: cannot use truncated: it is truncated: its protected-mode kernel ends at byte 66560, and the file has 62464",
            "help: copy or download the file again",
        ],
    );
    check(
        &["--kernel", "head"],
        &[
            "kernel: cannot use head: it is truncated: its setup header ends at byte 640, and the file has 560",
            "help: copy or download the file again",
        ],
    );
}

#[test]
fn a_kernel_for_another_machine() {
    check(
        &["--kernel", "bzImage32"],
        &[
            "kernel: cannot use bzImage32: it is a 32-bit kernel: its header has no 64-bit entry (XLF_KERNEL_64)",
            "help: use a 64-bit kernel, Linux 3.8 or later",
        ],
    );
}

#[test]
fn an_initrd_that_does_not_fit_or_is_not_there() {
    check(
        &["--kernel", "bzImage", "--initrd", "large"],
        &[
            "initrd: large needs 629145600 bytes of memory; behind the kernel 486539264 are left",
            "help: give the guest more memory with `--memory`, at least 648M",
        ],
    );
    check(
        &["--kernel", "bzImage", "--initrd", "empty"],
        &[
            "initrd: empty is empty",
            "help: name a file with something in it",
        ],
    );
    check(
        &["--kernel", "bzImage", "--initrd", "nowhere"],
        &[
            "initrd: cannot open nowhere: no such file",
            "help: check the path",
        ],
    );
}

#[test]
fn memory_that_no_guest_can_have() {
    let limits = "help: give between 32M and 16G";
    let check_memory = |text: &str, what: &str| {
        check(
            &["--kernel", "bzImage", "--memory", text],
            &[&format!("memory: {what}"), limits],
        );
    };
    check_memory("0", "a guest cannot run without memory");
    check_memory("3M", "3M is too little for a guest to start");
    check_memory("10T", "10T is more than a guest can have");
    let help =
        "help: write a number with K, M or G behind it, such as 512M; give between 32M and 16G";
    check(
        &["--kernel", "bzImage", "--memory", "abc"],
        &["memory: \"abc\" is not a memory size", help],
    );
    check(
        &["--kernel", "bzImage", "--memory", "-5M"],
        &["memory: \"-5M\" is not a memory size", help],
    );
}

#[test]
fn an_engine_that_nobody_knows() {
    check(
        &["--kernel", "bzImage", "--engine", "xen"],
        &[
            "engine: there is no engine \"xen\"",
            "help: write auto, kvm or soft",
        ],
    );
}

#[test]
fn a_command_line_that_is_too_long() {
    check(
        &["--kernel", "bzImage", "--cmdline", &"x".repeat(2048)],
        &[
            "cmdline: the command line has 2048 bytes; this kernel takes 2047",
            "help: shorten it by 1 bytes",
        ],
    );
}

#[test]
fn a_report_that_has_no_place() {
    check(
        &["--kernel", "bzImage", "--report", "nowhere/report.json"],
        &[
            "report: there is no folder nowhere",
            "help: make the folder, or name a file in one that is there",
        ],
    );
    check(
        &["--kernel", "bzImage", "--report", "."],
        &["report: . is a folder", "help: name a file in it"],
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    check_named(
        "x y",
        &[
            "--name",
            "x y",
            "--kernel",
            "nowhere",
            "--cpus",
            "0",
            "--timeout",
            "soon",
        ],
        &[
            "cpus: a guest needs a vCPU",
            "help: write a number from 1 to 8",
            "timeout: \"soon\" is not a time",
            "help: write seconds, or a number with s, m or h behind it, such as 60s, 5m or 1h",
            "name: \"x y\" has the character ' '",
            "help: use 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, the first a letter or digit",
            "kernel: cannot open nowhere: no such file",
            "help: check the path",
        ],
    );
}

#[test]
fn nothing_is_downloaded_for_a_spec_that_is_wrong_anyway() {
    let help =
        "help: write a number with K, M or G behind it, such as 512M; give between 32M and 16G";
    check(
        &["--memory", "abc"],
        &["memory: \"abc\" is not a memory size", help],
    );
    check(
        &["--module", "text"],
        &[
            "module: the default kernel takes no modules",
            "help: name a kernel with `--kernel`",
        ],
    );
}

#[test]
fn words_that_mother_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    for words in [&["frob"][..], &["run", "--frob"], &["run", "--memory"], &[]] {
        let ran = mother.call(words);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (Some(2), ""),
            "{words:?}"
        );
        assert!(ran.stderr.contains("--help"), "{words:?}: {}", ran.stderr);
    }
}
