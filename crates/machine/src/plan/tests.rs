//! Tests of the plan: golden complaints and limits.

use std::io::Write;

use super::*;
use crate::engine::EngineKind;
use crate::plan::host_findings::PagingFinding;

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
        paging: None,
        file_bytes_max: None,
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

/// What a user reads about a file and what it asks for, with the folder's name and the file's taken out.
fn complaints_about(folder: &Folder, toml: &str) -> String {
    let written = PartialSpec::from_file(toml, "FILE");
    let told = check(&written, &host()).unwrap_err().to_string();
    told.replace(&folder.0.display().to_string(), "DIR")
}

#[test]
fn every_mistake_is_told_at_once() {
    let folder = Folder::new("all");
    let toml = format!(
        r#"
name = "a b"
kernel = "{folder}/none"
initrd = "{folder}"
cmdline = "{cmdline}"
memory = "3M"
cpus = 400
engine = "kvm"
timeout = "soon"
marker = ["a\nb"]
"#,
        folder = folder.0.display(),
        cmdline = "x".repeat(2050)
    );
    let expected = r#"cannot start VM "a b"
  FILE:2: name: "a b" has the character ' '
  help: use 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, the first a letter or digit
  FILE:6: memory: 3M is too little for a guest to start
  help: give between 32M and 16G
  FILE:7: cpus: 400 vCPUs are more than a guest can have
  help: write a number from 1 to 8
  FILE:9: timeout: "soon" is not a time
  help: write seconds, or a number with s, m or h behind it, such as 60s, 5m or 1h
  FILE:10: marker: "a\nb" can never be seen in one line of the console
  help: give a part of a line
  engine: the engine kvm cannot be used: not here
  help: use `--engine auto`
  kernel: cannot open DIR/none: no such file
  help: check the path
  initrd: cannot use DIR: it is not a regular file
  help: name a file
  cmdline: the command line has 2050 bytes; this kernel takes 2048
  help: shorten it by 2 bytes"#;
    assert_eq!(complaints_about(&folder, &toml), expected);
}

#[test]
fn what_depends_on_a_bad_value_is_not_judged() {
    let folder = Folder::new("depends");
    let toml =
        "net = \"bridge\"\npublish = [\"39021:80\"]\nmemory = \"3M\"\nresident-limit = \"1%\"\n";
    let told = complaints_about(&folder, toml);
    let fields: Vec<&str> = told.lines().filter(|line| line.contains("FILE")).collect();
    assert_eq!(
        fields,
        [
            "  FILE:1: net: there is no network \"bridge\"",
            "  FILE:3: memory: 3M is too little for a guest to start"
        ]
    );
    assert_eq!(told.lines().count(), 5, "{told}");
}

#[test]
fn a_kernel_and_passt_may_come_after_the_check() {
    let spec = VmSpec {
        net: Some("user".parse().unwrap()),
        ..VmSpec::default()
    };
    let written = PartialSpec {
        spec: spec.clone(),
        ..PartialSpec::default()
    };
    assert_eq!(check(&written, &host()), Ok(()));
    let told = plan(&spec, &host()).unwrap_err();
    let fields: Vec<&str> = told.complaints.iter().map(Complaint::key).collect();
    assert!(fields.contains(&"kernel"), "{told}");
}

#[test]
fn a_linux_without_a_command_line_gets_its_console() {
    let folder = Folder::new("console");
    let check = |console: Option<ConsoleKind>, cmdline: Option<&str>, expected: &str| {
        let spec = VmSpec {
            kernel: Some(folder.file("vmlinuz", &bzimage())),
            console,
            cmdline: cmdline.map(str::to_owned),
            ..VmSpec::default()
        };
        assert_eq!(plan(&spec, &host()).unwrap().cmdline, expected);
    };
    check(None, None, "console=ttyS0");
    check(Some(ConsoleKind::Virtio), None, "console=hvc0");
    check(None, Some("quiet"), "quiet");
    check(None, Some(""), "");
}

#[test]
fn a_guest_is_told_names_of_files_and_not_where_the_host_has_them() {
    let folder = Folder::new("secret");
    // A multiboot header without flags, and its checksum.
    let magic = 0x1bad_b002_u32;
    let header: Vec<u8> = [magic, 0, magic.wrapping_neg()]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let kernel = crate::boot::test_images::elf32(0x10_0000, &header);
    let spec = VmSpec {
        kernel: Some(folder.file("kernel", &kernel)),
        initrd: Some(folder.file("initrd", b"files")),
        ..VmSpec::default()
    };
    let plan = plan(&spec, &host()).unwrap();
    let strings: Vec<&str> = plan.modules.iter().map(|it| it.string.as_str()).collect();
    assert_eq!(strings, ["initrd"]);
    assert_eq!(images::guests_name(&plan.kernel.path), "kernel");
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
            memory: Some(memory.parse().unwrap()),
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
        timeout: Some("5m".parse().unwrap()),
        disks: vec![api::DiskSpec {
            path: folder.file("disk", &[0; 512]),
            ..api::DiskSpec::default()
        }],
        net: Some("user".parse().unwrap()),
        passt: Some(PathBuf::from("/bin/passt")),
        forwards: vec!["39011:80/udp".parse().unwrap()],
        vsock: Some(folder.0.join("vsock")),
        resident_limit: Some("100M".parse().unwrap()),
        page_file: Some(folder.0.clone()),
        markers: vec!["login:".parse().unwrap()],
        ..VmSpec::default()
    };
    let plan = plan(&spec, &host()).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<VmPlan>(&text).unwrap(), plan);
    let with_more = text.replacen('{', "{\"more\":1,", 1);
    let refused = serde_json::from_str::<VmPlan>(&with_more).unwrap_err();
    assert!(refused.to_string().contains("unknown field `more`"));
}

#[test]
fn a_limit_that_this_host_cannot_keep_is_told_with_the_way_on() {
    let folder = Folder::new("limit");
    let check_host = |host: HostFindings, limit: &str, expected: Option<(&str, &str)>| {
        let spec = VmSpec {
            kernel: Some(folder.file("vmlinuz", &bzimage())),
            resident_limit: Some(limit.parse().unwrap()),
            ..VmSpec::default()
        };
        let told = plan(&spec, &host).err().map(|errors| {
            let [complaint] = &errors.complaints[..] else {
                panic!("{errors}")
            };
            (complaint.what.clone(), complaint.help.clone())
        });
        let told = told
            .as_ref()
            .map(|(what, help)| (what.as_str(), help.as_str()));
        assert_eq!(told, expected, "{limit}");
    };
    let check = |limit: &str, help: Option<&str>, expected| {
        let paging = PagingFinding {
            usable: false,
            usable_on_kvm: false,
            why: "not for you".to_owned(),
            help: help.map(str::to_owned),
        };
        let paging = Some(paging);
        check_host(HostFindings { paging, ..host() }, limit, expected);
    };
    let what = "guest memory cannot be paged here: not for you";
    check("none", None, None);
    check("100M", Some("be root"), Some((what, "be root")));
    check(
        "10%",
        None,
        Some((what, "leave the limit out; `mother doctor` says more")),
    );
    // Whoever is given no faults of the kernel's has a limit on the engine that needs none.
    let what = "guest memory cannot be paged for a guest on KVM here: KVM reaches it from inside the kernel, whose page \
                faults this user is not given";
    let help = "use `--engine soft`; or run as root, give the user access to /dev/userfaultfd, or set \
                vm.unprivileged_userfaultfd to 1";
    for (kvm, kernel_faults, expected) in [
        (false, false, None),
        (true, true, None),
        (true, false, Some((what, help))),
    ] {
        let mut host = host();
        host.engines[0].usable = kvm;
        host.paging = Some(PagingFinding::of_faults(kernel_faults));
        check_host(host, "100M", expected);
    }
}

#[test]
fn only_a_guest_on_the_software_cpu_is_profiled() {
    let folder = Folder::new("profile");
    let check = |kvm: bool, engine: &str, expected: Option<&str>| {
        let mut host = host();
        host.engines[0].usable = kvm;
        let spec = VmSpec {
            engine: Some(engine.parse().unwrap()),
            profile: true,
            kernel: Some(folder.file("vmlinuz", &bzimage())),
            ..VmSpec::default()
        };
        let told = plan(&spec, &host).err().map(|errors| errors.to_string());
        let told = told.as_deref();
        assert_eq!(
            told.is_some(),
            expected.is_some(),
            "{kvm} {engine}: {told:?}"
        );
        if let Some((told, expected)) = told.zip(expected) {
            assert!(told.contains(expected), "{told}");
        }
    };
    let refused = "profile: a profile tells where the software CPU's time goes, and this guest would run on KVM";
    check(true, "soft", None);
    check(false, "auto", None);
    check(true, "auto", Some(refused));
    check(true, "kvm", Some(refused));
}

#[test]
fn a_limit_on_file_sizes_is_told_before_the_kernel_kills() {
    let check = |limit: Option<u64>, expected: Option<&str>| {
        let told = check_file_limit(512 << 20, limit)
            .err()
            .map(|trouble| trouble.what);
        assert_eq!(told.as_deref(), expected);
    };
    check(None, None);
    check(Some(512 << 20), None);
    check(
        Some(512_000),
        Some(
            "guest memory of 512 MiB is a file to the host, and this process may not have files of more than 500 KiB",
        ),
    );
}

/// The blocks of code in the guide to files, with their languages.
fn examples() -> Vec<(String, String)> {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let blocks = guide.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.split_once('\n'));
    let is_file = |(language, _): &(&str, &str)| ["toml", "json"].contains(language);
    let owned = |(language, text): (&str, &str)| (language.to_owned(), text.to_owned());
    blocks.filter(is_file).map(owned).collect()
}

#[test]
fn the_examples_in_the_guide_are_vms() {
    let folder = Folder::new("examples");
    let examples = examples();
    assert_eq!(examples.len(), 2);
    for (language, text) in examples {
        let PartialSpec {
            mut spec,
            complaints,
            ..
        } = PartialSpec::from_file(&text, &language);
        assert_eq!(complaints, [], "{text}");
        // What the example names is put there; what `mother run IMAGE` would bring, too.
        spec.kernel = Some(folder.file("vmlinux", &bzimage()));
        spec.initrd = spec.initrd.map(|_| folder.file("initrd.img", b"x"));
        spec.passt = Some(PathBuf::from("/bin/passt"));
        for disk in &mut spec.disks {
            disk.path = folder.file(&disk.path.display().to_string(), &[0; 512]);
        }
        for forward in &mut spec.forwards {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            forward.host.set_port(free.local_addr().unwrap().port());
        }
        let planned = plan(&spec, &host()).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(planned.disks.len(), 2, "{text}");
        assert_eq!(planned.disks[1].is_read_only, spec.disks[1].read_only);
    }
}
