//! Whole disks, with file systems in partitions.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt;

use super::*;
use crate::ext4::{self, Ext4Options, GROUP_BYTES};
use crate::tree::{Attributes, Content, Kind, Tree};

struct OfFile(File);

impl ReadDisk for OfFile {
    fn len_bytes(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }
}

/// A GPT with the file systems that these write, each at its place.
fn gpt(parts: &[(u64, &[u8])]) -> File {
    let file = tempfile::tempfile().unwrap();
    let mut table = vec![0; 128 * 128];
    let mut end = 1 << 20;
    for (n, (start, bytes)) in parts.iter().enumerate() {
        let entry = &mut table[128 * n..][..128];
        entry[..16].fill(1);
        let last = start + bytes.len() as u64 - 1;
        entry[32..40].copy_from_slice(&(start / 512).to_le_bytes());
        entry[40..48].copy_from_slice(&(last / 512).to_le_bytes());
        file.write_all_at(bytes, *start).unwrap();
        end = end.max(last + 1);
    }
    file.set_len(end + (1 << 20)).unwrap();
    let mut head = [0; 92];
    head[..8].copy_from_slice(b"EFI PART");
    head[72..80].copy_from_slice(&2_u64.to_le_bytes());
    head[80..84].copy_from_slice(&128_u32.to_le_bytes());
    head[84..88].copy_from_slice(&128_u32.to_le_bytes());
    file.write_all_at(&head, 512).unwrap();
    file.write_all_at(&table, 1024).unwrap();
    file
}

/// A vfat with these files.
fn vfat(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut image = tempfile::tempfile().unwrap();
    image.set_len(4 << 20).unwrap();
    let options = fatfs::FormatVolumeOptions::new().volume_id(0xabcd_0123);
    fatfs::format_volume(&mut image, options).unwrap();
    let file = image.try_clone().unwrap();
    let system = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap();
    for (path, content) in files {
        let folders: Vec<&str> = path.split('/').collect();
        for depth in 1..folders.len() {
            system
                .root_dir()
                .create_dir(&folders[..depth].join("/"))
                .unwrap();
        }
        system
            .root_dir()
            .create_file(path)
            .unwrap()
            .write_all(content)
            .unwrap();
    }
    system.unmount().unwrap();
    let mut bytes = Vec::new();
    image.rewind().unwrap();
    image.read_to_end(&mut bytes).unwrap();
    bytes
}

fn ext4(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tree = Tree::new();
    for (path, content) in files {
        let kind = Kind::File(Content::Bytes((*content).into()));
        tree.put(path.as_bytes(), Attributes::of_root(0o644), kind)
            .unwrap();
    }
    let mut file = tempfile::tempfile().unwrap();
    let options = Ext4Options {
        len_bytes: GROUP_BYTES,
        label: "root",
        uuid: *b"0123456789abcdef",
        made: 1_700_000_000,
    };
    ext4::write(&tree, &options, &file).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What a disk starts, and what was copied of it.
fn read(file: File) -> (Result<Bootable, BootError>, Vec<u8>, Vec<u8>) {
    let disk: Rc<dyn ReadDisk> = Rc::new(OfFile(file));
    let mut kernel = tempfile::tempfile().unwrap();
    let mut initrd = tempfile::tempfile().unwrap();
    let onto = BootOnto {
        kernel: kernel.try_clone().unwrap(),
        initrd: initrd.try_clone().unwrap(),
    };
    let said = read_boot_entry(&disk, onto);
    let mut bytes = [Vec::new(), Vec::new()];
    for (file, bytes) in [&mut kernel, &mut initrd].into_iter().zip(&mut bytes) {
        file.rewind().unwrap();
        file.read_to_end(bytes).unwrap();
    }
    let [kernel, initrd] = bytes;
    (said, kernel, initrd)
}

const ENTRY: &[u8] =
    b"title One\nlinux /vmlinuz\ninitrd /a.img\ninitrd /b.img\noptions root=LABEL=root ro\n";

#[test]
fn kernel_and_initrds_are_copied_from_the_partition_that_has_them() {
    let root = ext4(&[
        ("boot/loader/entries/one.conf", ENTRY),
        ("boot/vmlinuz", b"kernel"),
        ("boot/a.img", b"first"),
        ("boot/b.img", b"second"),
    ]);
    let esp = vfat(&[]);
    let (said, kernel, initrd) = read(gpt(&[(1 << 20, &esp), (8 << 20, &root)]));
    let on = |path: &str| format!("{path} on partition 2");
    let expected = BootEntry {
        title: "One".to_owned(),
        source: on("/boot/loader/entries/one.conf"),
        kernel: on("/boot/vmlinuz"),
        initrds: vec![on("/boot/a.img"), on("/boot/b.img")],
        cmdline: "root=LABEL=root ro".to_owned(),
    };
    assert_eq!(said, Ok(Bootable::Entry(expected)));
    assert_eq!(
        (kernel.as_slice(), initrd.as_slice()),
        (&b"kernel"[..], &b"first\0\0\0second\0\0"[..])
    );
}

#[test]
fn what_has_no_entry_says_what_it_has() {
    let check = |parts: &[(u64, &[u8])], expected: Result<Bootable, BootError>| {
        assert_eq!(read(gpt(parts)).0, expected);
    };
    let system = ext4(&[("sbin/init", b"x")]);
    check(&[(1 << 20, &system)], Ok(Bootable::System));
    let broken = ext4(&[("boot/loader/entries/one.conf", ENTRY)]);
    let what = "/vmlinuz on partition 1: file not found".to_owned();
    let title = "One".to_owned();
    check(
        &[(1 << 20, &broken)],
        Err(BootError::BadEntry { title, what }),
    );
    let unified = vfat(&[("EFI/Linux/unified.efi", b"MZ")]);
    let program = "/EFI/Linux/unified.efi on partition 1".to_owned();
    check(&[(1 << 20, &unified)], Err(BootError::UefiOnly(program)));
    let mut btrfs = vec![0; 1 << 20];
    btrfs[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
    let unread = BootError::Unread("a btrfs file system on partition 1".to_owned());
    check(&[(1 << 20, &btrfs)], Err(unread));
}
