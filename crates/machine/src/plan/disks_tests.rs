//! Tests of planned disks: golden complaints, and what is made of good ones.

use std::path::Path;

use api::DiskSpec;

use super::*;
use crate::plan::Complaints;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("disk", &[0; 4096]);
    write("odd", &[0; 1300]);
    write("empty", b"");
    write("other", b"KDMV, and the rest of a VMDK");
    write("overlay", &qcow2(Some("/etc/shadow"), 0));
    write("clusters", &qcow2(None, 0));
    write("locked", &qcow2(None, 2));
    std::os::unix::fs::symlink("disk", folder.path().join("link")).unwrap();
    folder
}

/// An empty version 3 image of 1 MiB: its header, the table and the block of its reference counts, its L1 table.
fn qcow2(backing: Option<&str>, encryption: u8) -> Vec<u8> {
    const CLUSTER: usize = 0x1_0000;
    let mut bytes = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(32, &[0, 0, 0, encryption]);
    put(36, &1_u32.to_be_bytes());
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    if let Some(name) = backing {
        put(8, &200_u64.to_be_bytes());
        put(16, &(name.len() as u32).to_be_bytes());
        put(200, name.as_bytes());
    }
    bytes
}

#[test]
fn an_image_with_damaged_tables_is_told_before_anything_starts() {
    let folder = folder();
    let path = folder.path();
    let check = |at: usize, value: &[u8], expected: &str| {
        let mut bytes = qcow2(None, 0);
        bytes[at..at + value.len()].copy_from_slice(value);
        std::fs::write(path.join("damaged"), &bytes).unwrap();
        let told = complaints(path, &[spec(path, "damaged")]);
        let help = "\n  look at it with `qemu-img check DIR/damaged`\n";
        assert!(told.starts_with(expected) && told.ends_with(help), "{told}");
    };
    let refused = "cannot use DIR/damaged: cannot open it as qcow2: ";
    check(20, &40_u32.to_be_bytes(), refused);
    check(40, &0x1_0001_u64.to_be_bytes(), refused);
    check(96, &9_u32.to_be_bytes(), refused);
    assert_eq!(complaints(path, &[spec(path, "clusters")]), "");
}

fn spec(folder: &Path, name: &str) -> DiskSpec {
    DiskSpec {
        path: folder.join(name),
        ..DiskSpec::default()
    }
}

/// What a user reads about these disks, with the folder's name taken out.
fn complaints(folder: &Path, specs: &[DiskSpec]) -> String {
    let mut complaints = Complaints::default();
    let plans = disks(specs, &mut complaints);
    assert_eq!(plans.is_none(), !complaints.0.is_empty());
    let told = complaints
        .0
        .iter()
        .map(|complaint| format!("{}\n  {}\n", complaint.what, complaint.help));
    told.collect::<String>()
        .replace(&folder.display().to_string(), "DIR")
}

#[test]
fn everything_that_is_wrong_with_disks_is_told_at_once() {
    let folder = folder();
    let path = folder.path();
    let specs = [
        spec(path, "none"),
        DiskSpec {
            path: path.to_owned(),
            ..DiskSpec::default()
        },
        spec(path, "empty"),
        spec(path, "odd"),
        spec(path, "other"),
        spec(path, "locked"),
        spec(path, "overlay"),
        DiskSpec {
            path: "/dev/null".into(),
            ..DiskSpec::default()
        },
    ];
    let expected = r#"cannot open DIR/none: no such file
  check the path, or make one with `truncate -s 10G DIR/none`
DIR is a folder
  name the file of a disk image
DIR/empty is empty
  give it a size, such as `truncate -s 10G DIR/empty`
DIR/odd has 1300 bytes, and a disk is made of sectors of 512: the last 276 would be half a sector
  fill it up with `truncate -s %512 DIR/odd`, or give it read-only, which shows zeros there
cannot use DIR/other: it is a VMDK image, which Mother cannot open
  make a qcow2 of it: `qemu-img convert -f vmdk -O qcow2 DIR/other NEW.qcow2`
cannot use DIR/locked: it is encrypted (LUKS)
  make one that is not, with its passphrase in a file SECRET: `qemu-img convert --object secret,id=key,file=SECRET --image-opts driver=qcow2,file.filename=DIR/locked,encrypt.key-secret=key -O qcow2 NEW.qcow2`
DIR/overlay is an overlay; its header names "/etc/shadow" as the base
  if you trust that, name it yourself: `--disk DIR/overlay,base=FILE`
/dev/null is neither a file nor a block device
  name the file of a disk image, or a block device
"#;
    assert_eq!(complaints(path, &specs), expected);
}

#[test]
fn a_file_that_is_written_is_used_once() {
    let folder = folder();
    let path = folder.path();
    let read_only = |name| DiskSpec {
        read_only: true,
        ..spec(path, name)
    };
    let twice = "DIR/link is used twice, and the guest would write to it\n  name it once, or give it read-only each \
                 time\n";
    let check = |specs: &[DiskSpec], expected| assert_eq!(complaints(path, specs), expected);
    check(&[spec(path, "disk"), spec(path, "link")], twice);
    check(&[read_only("disk"), spec(path, "link")], twice);
    check(&[spec(path, "disk"), read_only("link")], twice);
    check(&[read_only("disk"), read_only("link")], "");
    let over = |name| DiskSpec {
        base: Some(path.join(name)),
        ..spec(path, "clusters")
    };
    check(&[spec(path, "disk"), over("link")], twice);
    check(&[read_only("disk"), over("link")], "");
}

#[test]
fn overlays_lie_over_what_the_user_named() {
    let folder = folder();
    let path = folder.path();
    let over = |name: &str, base: &str| DiskSpec {
        base: Some(path.join(base)),
        ..spec(path, name)
    };
    let check = |spec: DiskSpec, expected: &str| assert_eq!(complaints(path, &[spec]), expected);
    check(over("overlay", "disk"), "");
    check(over("clusters", "disk"), "");
    check(
        over("clusters", "overlay"),
        "DIR/overlay is an overlay itself, over \"/etc/shadow\"\n  if you trust that, make one image of the two: \
         `qemu-img convert -f qcow2 -O qcow2 DIR/overlay NEW.qcow2`, and give `base=NEW.qcow2`\n",
    );
    check(
        over("disk", "clusters"),
        "DIR/disk is a raw image and cannot lie over a base\n  leave the base out\n",
    );
    check(
        DiskSpec {
            base_format: Some(DiskFormat::Raw),
            ..spec(path, "clusters")
        },
        "a base's format was given, and no base\n  name the base with `base=FILE`\n",
    );
    check(
        over("overlay", "none"),
        "cannot open DIR/none: no such file\n  check the path, or make one with `truncate -s 10G DIR/none`\n",
    );
}

#[test]
fn a_plan_says_how_each_disk_is_opened() {
    let folder = folder();
    let path = folder.path();
    let specs = [
        spec(path, "disk"),
        DiskSpec {
            format: Some(DiskFormat::Raw),
            read_only: true,
            ..spec(path, "overlay")
        },
        DiskSpec {
            base: Some(path.join("link")),
            serial: Some(DiskSerial::root()),
            ..spec(path, "clusters")
        },
        DiskSpec {
            read_only: true,
            ..spec(path, "odd")
        },
    ];
    // The base is also the first disk, which is written: leave that one out here.
    let plans = disks(&specs[1..], &mut Complaints::default()).unwrap();
    let shown = |plan: &DiskPlan| {
        let base = plan
            .base
            .as_ref()
            .map(|base| base.format.to_string())
            .unwrap_or_default();
        format!(
            "{} {} guessed={} ro={} {} [{base}]",
            plan.name, plan.format, plan.is_guessed_raw, plan.is_read_only, plan.serial
        )
    };
    let shown: Vec<String> = plans.iter().map(shown).collect();
    assert_eq!(
        shown,
        [
            "disk0 raw guessed=false ro=true disk0 []",
            "disk1 qcow2 guessed=false ro=false root [raw]",
            "disk2 raw guessed=true ro=true disk2 []"
        ]
    );
    assert!(disks(&specs[..1], &mut Complaints::default()).unwrap()[0].is_guessed_raw);
}

#[test]
fn a_guest_has_only_so_many_disks() {
    let folder = folder();
    let specs = vec![
        DiskSpec {
            read_only: true,
            ..spec(folder.path(), "disk")
        };
        17
    ];
    assert_eq!(complaints(folder.path(), &specs[..16]), "");
    assert_eq!(
        complaints(folder.path(), &specs),
        "17 disks are more than a guest can have\n  name at most 16\n"
    );
}

#[test]
fn serial_numbers_tell_disks_apart() {
    let folder = folder();
    let with = |serial: &str| DiskSpec {
        read_only: true,
        serial: Some(serial.parse().unwrap()),
        ..spec(folder.path(), "disk")
    };
    let check = |serials: &[&str], expected: &str| {
        let specs: Vec<DiskSpec> = serials.iter().map(|serial| with(serial)).collect();
        assert_eq!(complaints(folder.path(), &specs), expected);
    };
    check(&["12345678901234567890", "b"], "");
    check(
        &["a", "a"],
        "the serial number \"a\" is given twice\n  give each disk its own, so that the guest can tell them apart\n",
    );
}
