//! Tests of the plan: golden complaints and limits.

use std::io::Write;

use super::*;
use crate::engine::{EngineFinding, EngineKind};

/// A host on which `soft` works and KVM does not.
fn host() -> HostFindings {
    let finding = |kind, usable, why: &str| EngineFinding {
        kind,
        usable,
        why: why.to_owned(),
        help: None,
    };
    HostFindings {
        engines: vec![
            finding(EngineKind::Kvm, false, "not here"),
            finding(EngineKind::Soft, true, "works"),
        ],
    }
}

/// A folder with files, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("mother-plan-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::File::create(&path)
            .unwrap()
            .write_all(bytes)
            .unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The head of a bzImage that needs 64 MiB to unpack itself.
fn bzimage() -> Vec<u8> {
    let mut bytes = vec![0; 1024 + 0x1000];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x1f1, &[1]);
    put(0x1f4, &0x100_u32.to_le_bytes());
    put(0x201, &[0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &1_u16.to_le_bytes());
    put(0x238, &100_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x300_0000_u32.to_le_bytes());
    bytes
}

/// What a user reads, with the folder's name taken out.
fn complaints(folder: &Folder, spec: &VmSpec) -> String {
    let text = plan(spec, &host()).unwrap_err().to_string();
    text.replace(&folder.0.display().to_string(), "DIR")
}

#[test]
fn every_mistake_is_told_at_once() {
    let folder = Folder::new("all");
    let spec = VmSpec {
        name: Some("a b".to_owned()),
        kernel: Some(folder.0.join("none")),
        initrd: Some(folder.0.clone()),
        cmdline: Some("x".repeat(2050)),
        memory: Some("3M".to_owned()),
        cpus: Some("400".to_owned()),
        engine: Some("kvm".to_owned()),
        timeout: Some("soon".to_owned()),
        markers: vec!["a\nb".to_owned()],
        ..VmSpec::default()
    };
    let expected = r#"cannot start VM "a b"
  name: "a b" has the character ' '
  help: use 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, the first a letter or digit
  memory: 3M is too little for a guest to start
  help: give between 32M and 16G
  cpus: 400 vCPUs are more than a guest can have
  help: write a number from 1 to 8
  engine: the engine kvm cannot be used: not here
  help: use `--engine auto`
  timeout: "soon" is not a time
  help: write seconds, or a number with s, m or h behind it, such as 60s, 5m or 1h
  marker: "a\nb" can never be seen in one line of the console
  help: give a part of a line
  kernel: cannot open DIR/none: no such file
  help: check the path
  initrd: cannot use DIR: it is not a regular file
  help: name a file
  cmdline: the command line has 2050 bytes; this kernel takes 2048
  help: shorten it by 2 bytes"#;
    assert_eq!(complaints(&folder, &spec), expected);
}

#[test]
fn each_bad_kernel_has_its_own_complaint() {
    let folder = Folder::new("kernels");
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let spec = VmSpec {
            kernel: Some(folder.file(name, bytes)),
            ..VmSpec::default()
        };
        let expected =
            format!("cannot start VM \"guest\"\n  kernel: cannot use DIR/{name}: {expected}");
        assert_eq!(complaints(&folder, &spec), expected);
    };
    let with = |at: usize, value: u8| {
        let mut bytes = bzimage();
        bytes[at] = value;
        bytes
    };
    let not_a_kernel =
        "it is not a kernel: no bzImage header, no multiboot header, no ELF file\n  help: ";
    let name_one = "name a bzImage, an ELF kernel with a PVH note, or a multiboot kernel";
    check("text", b"hello", &format!("{not_a_kernel}{name_one}"));
    check("nothing", b"", &format!("{not_a_kernel}{name_one}"));
    check(
        "packed",
        &[0x1f, 0x8b, 8, 0],
        &format!("{not_a_kernel}unpack it first"),
    );
    check(
        "cut",
        &bzimage()[..3000],
        "it is truncated: its protected-mode kernel ends at byte 5120, and the file has 3000\n  \
         help: copy or download the file again",
    );
    check(
        "head",
        &bzimage()[..0x210],
        "it is truncated: its setup header ends at byte 640, and the file has 528\n  \
         help: copy or download the file again",
    );
    let use_64 = "use a 64-bit kernel, Linux 3.8 or later";
    check(
        "narrow",
        &with(0x236, 0),
        &format!(
            "it is a 32-bit kernel: its header has no 64-bit entry (XLF_KERNEL_64)\n  help: {use_64}"
        ),
    );
    check(
        "old",
        &with(0x206, 0x0a),
        &format!(
            "its boot protocol 2.10 is older than 2.12 (Linux 3.8), which has the 64-bit entry\n  help: {use_64}"
        ),
    );
}

#[test]
fn what_does_not_fit_is_told_with_the_numbers() {
    let folder = Folder::new("fit");
    let kernel = folder.file("vmlinuz", &bzimage());
    let initrd = folder.file("initrd", &vec![1; 5 << 20]);
    let check = |memory: &str, cmdline: &str, expected: &str| {
        let spec = VmSpec {
            kernel: Some(kernel.clone()),
            initrd: Some(initrd.clone()),
            memory: Some(memory.to_owned()),
            cmdline: Some(cmdline.to_owned()),
            ..VmSpec::default()
        };
        let got = plan(&spec, &host()).map(|plan| plan.memory_bytes >> 20);
        let told = |error: SpecErrors| {
            format!("{}; {}", error.complaints[0].what, error.complaints[0].help)
        };
        let got = got.map_or_else(told, |mib| format!("{mib} MiB"));
        assert_eq!(
            got.replace(&folder.0.display().to_string(), "DIR"),
            expected,
            "{memory} {cmdline:?}"
        );
    };
    check("70M", "quiet", "70 MiB");
    check("69M", "quiet", "69 MiB");
    check(
        "48M",
        "",
        "this kernel needs the first 64 MiB of memory to unpack itself; the guest has 48 MiB there; give the guest \
         more memory with `--memory`, at least 64M",
    );
    check(
        "68M",
        "",
        "DIR/initrd needs 5242880 bytes of memory; behind the kernel 4194304 are left; give the guest more memory \
         with `--memory`, at least 69M",
    );
    check("16G", &"x".repeat(100), "16384 MiB");
    let too_long = "the command line has 101 bytes; this kernel takes 100; shorten it by 1 bytes";
    check("1G", &"x".repeat(101), too_long);
    check(
        "1G",
        "a\0b",
        "the command line has a NUL byte, where the guest would stop reading; remove it",
    );
}

#[test]
fn names_are_safe_to_print_and_to_use_in_paths() {
    let check = |name: &str, ok| assert_eq!(check_name(name).is_ok(), ok, "{name}");
    check("db1", true);
    check("web-2.test_a", true);
    check("", false);
    check("-x", false);
    check("..", false);
    check("a/b", false);
    check("ä", false);
    check(&"n".repeat(63), true);
    check(&"n".repeat(64), false);
}

#[test]
fn a_plan_has_every_default() {
    let folder = Folder::new("defaults");
    let spec = VmSpec {
        kernel: Some(folder.file("vmlinuz", &bzimage())),
        ..VmSpec::default()
    };
    let plan = plan(&spec, &host()).unwrap();
    assert_eq!(
        (plan.name.as_str(), plan.memory_bytes, plan.vcpu_count),
        ("guest", 512 << 20, 1)
    );
    assert_eq!(
        (plan.engine.kind, plan.timeout, plan.on_reset),
        (EngineKind::Soft, None, OnReset::Reboot)
    );
    assert_eq!(plan.protocol, Protocol::Linux64);
}

#[test]
fn a_plan_can_be_handed_to_another_process() {
    let folder = Folder::new("handed");
    let spec = VmSpec {
        kernel: Some(folder.file("vmlinuz", &bzimage())),
        initrd: Some(folder.file("initrd", b"x")),
        timeout: Some("5m".to_owned()),
        disks: vec![api::DiskSpec {
            path: folder.file("disk", &[0; 512]),
            ..api::DiskSpec::default()
        }],
        net: Some("user".to_owned()),
        passt: Some(PathBuf::from("/bin/passt")),
        forwards: vec!["39011:80/udp".to_owned()],
        vsock: Some(folder.0.join("vsock")),
        resident_limit: Some("100M".to_owned()),
        page_file: Some(folder.0.clone()),
        markers: vec!["login:".to_owned()],
        ..VmSpec::default()
    };
    let plan = plan(&spec, &host()).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<VmPlan>(&text).unwrap(), plan);
    let with_more = text.replacen('{', "{\"more\":1,", 1);
    let refused = serde_json::from_str::<VmPlan>(&with_more).unwrap_err();
    assert!(refused.to_string().contains("unknown field `more`"));
}
