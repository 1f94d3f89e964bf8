//! Disks that bring their own kernel: what their boot entries say is started, and what has none is refused with words.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use images::{Cache, DiscNames, OnDisc, disc_of_files};
use serde_json::{Value, json};

use crate::common::{Mother, with_guest};
use crate::disks::e2fs;

const MIB: u64 = 1 << 20;

/// A disk with these contents in partitions of an MBR, each with its place and size in MiB.
fn disk(path: &Path, parts: &[(&[u8], u64, u64)]) {
    let file = File::create_new(path).unwrap();
    let mut table = [0; 512];
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    for (n, (bytes, start, len)) in parts.iter().enumerate() {
        let entry = &mut table[446 + 16 * n..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&((start * MIB / 512) as u32).to_le_bytes());
        entry[12..].copy_from_slice(&((len * MIB / 512) as u32).to_le_bytes());
        file.set_len((start + len) * MIB).unwrap();
        file.write_all_at(bytes, start * MIB).unwrap();
    }
    file.write_all_at(&table, 0).unwrap();
}

/// The bytes of an ext4 file system of this size with what is in `from`.
fn ext4(mke2fs: &Path, folder: &Path, from: &Path, len_mib: u64) -> Vec<u8> {
    let path = folder.join("ext4");
    File::create(&path).unwrap().set_len(len_mib * MIB).unwrap();
    let made = Command::new(mke2fs)
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .args([from, &path])
        .status();
    assert!(made.unwrap().success());
    fs::read(path).unwrap()
}

/// A disk as vendors make them: `/boot` on a partition of its own, with the kernel and the initrd of the small guest. Its
/// entry has the guest say what it was started with, and end.
fn cloud_image(folder: &Path) -> Option<PathBuf> {
    let mke2fs = e2fs("mke2fs")?;
    let guest = Cache::of_user()
        .unwrap()
        .default_guest(&mut |_| {})
        .unwrap();
    let boot = folder.join("boot");
    fs::create_dir_all(boot.join("grub")).unwrap();
    fs::copy(guest.kernel, boot.join("vmlinuz-1")).unwrap();
    fs::copy(guest.initrd, boot.join("initrd.img-1")).unwrap();
    std::os::unix::fs::symlink("vmlinuz-1", boot.join("vmlinuz")).unwrap();
    let config = r#"
set default="${saved_entry}"
load_env
set default="${saved_entry}"
menuentry 'Wrong' --id wrong { linux /nowhere; }
menuentry 'Test Linux' --id right {
    if [ x$grub_platform = xxen ]; then insmod xzio; fi
    search --no-floppy --fs-uuid --set=root no-such-disk
    linux /vmlinuz console=ttyS0 quiet panic=-1 rdinit=/bin/busybox own.word -- sh -c "B=/bin/busybox; $B mkdir -p /proc; $B mount -t proc proc /proc; $B cat /proc/cmdline; $B poweroff -f"
    initrd /initrd.img-1
}
"#;
    // GRUB takes `$B` in double quotes for a variable of its own.
    let config = config.replace("$B ", "\\$B ");
    fs::write(boot.join("grub/grub.cfg"), config).unwrap();
    let environment = "# GRUB Environment Block\nsaved_entry=right\n####";
    fs::write(boot.join("grub/grubenv"), environment).unwrap();
    let boot = ext4(&mke2fs, folder, &boot, 96);
    let root = folder.join("root");
    fs::create_dir(&root).unwrap();
    let root = ext4(&mke2fs, folder, &root, 16);
    let path = folder.join("cloud.raw");
    disk(&path, &[(&boot, 1, 96), (&root, 97, 16)]);
    Some(path)
}

/// The same disk as qcow2, or a loud word that nothing here makes one.
fn as_qcow2(raw: &Path) -> Option<PathBuf> {
    let path = raw.with_extension("qcow2");
    let made = Command::new("qemu-img")
        .args(["convert", "-c", "-O", "qcow2"])
        .args([raw, &path])
        .status();
    if made.is_err() {
        let mut stderr = io::stderr();
        writeln!(stderr, "skipped: qemu-img is not installed").unwrap();
        return None;
    }
    assert!(made.unwrap().success());
    Some(path)
}

#[test]
fn a_cloud_image_boots_as_its_own_menu_says() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(raw) = cloud_image(folder.path()) else {
        return;
    };
    let images = [Some(raw.clone()), as_qcow2(&raw)];
    for (n, image) in images.into_iter().flatten().enumerate() {
        let name = format!("cloud{n}");
        let image = image.display().to_string();
        let words = [
            image.as_str(),
            "--net",
            "none",
            "--name",
            &name,
            "--timeout",
            "100s",
        ];
        let ran = mother.run(&words);
        assert_eq!(ran.status, Some(0), "{}\n{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains("own.word -- sh -c"), "{}", ran.stdout);
        assert!(!ran.stderr.contains("was refused"), "{}", ran.stderr);
        let shown = mother.call(&["inspect", &name]).stdout;
        let boot = "boot     \"Test Linux\", by /grub/grub.cfg on partition 1\nkernel   /vmlinuz on partition 1\n\
                    initrd   /initrd.img-1 on partition 1\n";
        assert!(shown.contains(boot), "{shown}");
        let shown = mother.call(&["ps", "-a", "--json"]).stdout;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let all = shown.as_array().unwrap();
        let this = all.iter().find(|vm| vm["name"] == json!(name)).unwrap();
        assert_eq!(this["boot"]["title"], "Test Linux");
        // What was asked for still wins.
        let cmdline = "console=ttyS0 quiet panic=-1 rdinit=/bin/busybox -- poweroff -f";
        let ran = mother.run(&[&words[..3], &["--cmdline", cmdline, "--timeout", "100s"]].concat());
        assert_eq!(ran.status, Some(0), "{}\n{}", ran.stdout, ran.stderr);
        assert!(!ran.stdout.contains("own.word"), "{}", ran.stdout);
    }
}

/// A disc with the kernel and the initrd of the small guest, whose menu has the guest end.
pub(crate) fn disc() -> Vec<u8> {
    let guest = Cache::of_user()
        .unwrap()
        .default_guest(&mut |_| {})
        .unwrap();
    let kernel = fs::read(guest.kernel).unwrap();
    let initrd = fs::read(guest.initrd).unwrap();
    let menu = "default own\nlabel own\n kernel /boot/vmlinuz\n append initrd=/boot/initrd.img console=ttyS0 quiet panic=-1 \
                disc.word rdinit=/bin/busybox -- poweroff -f\n";
    disc_of_files(
        "OWN",
        DiscNames::RockRidge,
        &[
            ("isolinux/isolinux.cfg", OnDisc::File(menu.as_bytes())),
            ("boot/vmlinuz", OnDisc::File(&kernel)),
            ("boot/initrd.img", OnDisc::File(&initrd)),
        ],
    )
}

#[test]
fn a_disc_boots_as_its_own_menu_says_by_itself_and_beside_a_disk() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.iso");
    fs::write(&path, disc()).unwrap();
    let target = folder.path().join("target.raw");
    File::create(&target).unwrap().set_len(MIB).unwrap();
    let disc = path.display().to_string();
    let target = target.display().to_string();
    let check = |name: &str, words: &[&str]| {
        let usual = ["--net", "none", "--name", name, "--timeout", "100s"];
        let ran = mother.run(&[words, usual.as_slice()].concat());
        assert_eq!(ran.status, Some(0), "{}\n{}", ran.stdout, ran.stderr);
        let shown = mother.call(&["inspect", name]).stdout;
        let boot = "boot     \"own\", by /isolinux/isolinux.cfg on the whole disk\n";
        assert!(shown.contains(boot), "{shown}");
        let shown = mother.call(&["ps", "-a", "--json"]).stdout;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let this = shown
            .as_array()
            .unwrap()
            .iter()
            .find(|vm| vm["name"] == json!(name));
        assert!(
            this.unwrap()["boot"]["cmdline"]
                .as_str()
                .unwrap()
                .contains("disc.word")
        );
    };
    check("disc", &[&disc]);
    let boot = format!("{disc},readonly,serial=cd,boot");
    check("beside", &["--disk", &target, "--disk", &boot]);
    check("instead", &[&target, "--disk", &boot]);

    let refused = |words: &[&str], expected: &str| {
        let ran = mother.run(&[words, &["--net", "none"]].concat());
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    };
    refused(
        &["--disk", &boot, "--kernel", "/k"],
        "something else is started",
    );
    refused(
        &["--disk", &boot, "--disk", &format!("{target},boot")],
        "several say `boot`",
    );
    refused(
        &["--disk", &format!("{target},boot")],
        "no partitions and no file system",
    );
}

#[test]
fn a_disk_that_cannot_be_started_says_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let check = |name: &str, part: &[u8], expected: &[&str]| {
        let path = folder.path().join(name);
        disk(&path, &[(part, 1, 4)]);
        let ran = mother.run(&[path.to_str().unwrap(), "--net", "none"]);
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        for text in expected {
            assert!(ran.stderr.contains(text), "{text:?} in {}", ran.stderr);
        }
    };
    let xfs = [
        "an xfs file system on partition 1 cannot be read",
        "--kernel FILE",
    ];
    check("xfs.raw", b"XFSB", &xfs);
    check(
        "ntfs.raw",
        b"\xeb\x52\x90NTFS    ",
        &["an NTFS file system on partition 1"],
    );
    let nothing = ["none of its partitions has a file system that is known"];
    check("nothing.raw", b"", &nothing);
    let path = folder.path().join("blank.raw");
    File::create(&path).unwrap().set_len(MIB).unwrap();
    let ran = mother.run(&[path.to_str().unwrap(), "--net", "none"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no partitions and no file system"),
        "{}",
        ran.stderr
    );
}
