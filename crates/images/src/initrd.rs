//! The default guest's initrd: busybox, our scripts, drivers of our devices, and the programs that show threads and
//! processes (`visitor`) and work with disks (`clerk`).
//!
//! One archive serves every use; the kernel's `rdinit=` picks who starts: `/init` (a shell for a person on the
//! console), `/pipe` (a shell that reads commands from the console to their end), `/program` (a program with streams of its
//! own; what it is stands in a second archive behind this one), `/demo` (introduces the guest and powers off),
//! `/bench` (says that user space was reached and powers off), `/io` (measures the first disk and powers off) or `/net`
//! (sends and receives as much as it can for whoever measures the network).

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType};

use crate::guest_config::GuestCommand;
use crate::toolbox::{NAMES, toolbox};

/// The first line that every `/init` of ours prints.
pub const INIT_MARKER: &str = "mother: /init started";

/// Where the warden finds what it is to start.
pub(crate) const COMMAND: &str = "etc/command";

/// Folders of the guest's root.
const FOLDERS: [&str; 16] = [
    "bin",
    "dev",
    "etc",
    "etc/acpi",
    "etc/acpi/PWRF",
    "etc/program",
    "etc/program/PWRF",
    "mnt",
    "modules",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
];

/// Scripts and other texts.
const SCRIPTS: [(&str, &str); 21] = [
    ("init", include_str!("../guest/init.sh")),
    ("pipe", include_str!("../guest/pipe.sh")),
    ("program", include_str!("../guest/program.sh")),
    ("demo", include_str!("../guest/demo.sh")),
    ("bench", include_str!("../guest/bench.sh")),
    ("io", include_str!("../guest/io.sh")),
    ("net", include_str!("../guest/net.sh")),
    (
        "etc/acpi/PWRF/00000080",
        include_str!("../guest/power_off.sh"),
    ),
    (
        "etc/program/PWRF/00000080",
        include_str!("../guest/end_program.sh"),
    ),
    ("etc/called", include_str!("../guest/called.sh")),
    ("etc/drivers", include_str!("../guest/drivers.sh")),
    ("etc/folders", include_str!("../guest/folders.sh")),
    ("etc/connect", include_str!("../guest/connect.sh")),
    ("etc/network", include_str!("../guest/network.sh")),
    ("etc/inittab", "::once:/etc/session\n"),
    ("etc/session", include_str!("../guest/session.sh")),
    ("etc/mounts", include_str!("../guest/mounts.sh")),
    ("etc/profile", include_str!("../guest/profile.sh")),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/motd", include_str!("../guest/motd")),
];

/// The archive, in the "newc" form that the kernel reads (kernel documentation, early-userspace/buffer-format).
pub fn build(busybox: &[u8], drivers: &[(String, Vec<u8>)]) -> Vec<u8> {
    write(busybox, drivers).expect("writing to memory does not fail")
}

fn write(busybox: &[u8], drivers: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    for folder in FOLDERS {
        add(&mut archive, entry(folder, ModeFileType::Directory), &[])?;
    }
    // The kernel gives /init its console through this node, before anybody can mount devtmpfs.
    add(
        &mut archive,
        entry("dev/console", ModeFileType::Char)
            .rdev_major(5)
            .rdev_minor(1),
        &[],
    )?;
    for (name, text) in SCRIPTS {
        add(
            &mut archive,
            entry(name, ModeFileType::Regular),
            text.as_bytes(),
        )?;
    }
    for (name, bytes) in drivers {
        add(
            &mut archive,
            entry(&format!("modules/{name}"), ModeFileType::Regular),
            bytes,
        )?;
    }
    add(
        &mut archive,
        entry("bin/busybox", ModeFileType::Regular),
        busybox,
    )?;
    add_links(
        &mut archive,
        &NAMES.map(|name| format!("bin/{name}")),
        toolbox(),
    )?;
    cpio::newc::trailer(archive)
}

/// One file under several names, with its contents at the first: the kernel opens that one for all others and takes no bytes as
/// no change (`init/initramfs.c`, `maybe_link` and `do_name`).
fn add_links(archive: &mut Vec<u8>, names: &[String], bytes: &[u8]) -> io::Result<()> {
    let inode = next_inode(archive);
    for (at, name) in names.iter().enumerate() {
        let link = entry(name, ModeFileType::Regular)
            .nlink(names.len() as u32)
            .ino(inode);
        let bytes = if at == 0 { bytes } else { &[] };
        put(archive, link, bytes)?;
    }
    Ok(())
}

/// What is put behind the archive for a guest that is to start `command`.
pub(crate) fn command(command: &GuestCommand) -> Vec<u8> {
    let mut archive = Vec::new();
    let bytes = command.to_bytes();
    let written = add(&mut archive, entry(COMMAND, ModeFileType::Regular), &bytes);
    written
        .and_then(|()| cpio::newc::trailer(archive))
        .expect("writing to memory does not fail")
}

/// Everybody may read and run, root may write: it is the guest's own memory.
fn entry(name: &str, kind: ModeFileType) -> Builder {
    Builder::new(name).mode(0o755).set_mode_file_type(kind)
}

fn add(archive: &mut Vec<u8>, entry: Builder, bytes: &[u8]) -> io::Result<()> {
    let inode = next_inode(archive);
    put(archive, entry.ino(inode), bytes)
}

/// Any number that is different for each file.
fn next_inode(archive: &[u8]) -> u32 {
    u32::try_from(archive.len()).expect("the archive is a few megabytes")
}

fn put(archive: &mut Vec<u8>, entry: Builder, bytes: &[u8]) -> io::Result<()> {
    let mut writer = entry.write(archive, bytes.len() as u32);
    writer.write_all(bytes)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    /// Mode, contents, and inode with the number of its names.
    type Entry = (u32, Vec<u8>, (u32, u32));

    fn names_and_modes() -> BTreeMap<String, Entry> {
        let archive = build(
            b"busybox",
            &[("virtio_blk.ko".to_owned(), b"driver".to_vec())],
        );
        let mut rest = archive.as_slice();
        let mut files = BTreeMap::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return files;
            }
            let name = reader.entry().name().to_owned();
            let mode = reader.entry().mode();
            let inode = (reader.entry().ino(), reader.entry().nlink());
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            files.insert(name, (mode, bytes, inode));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_kernel_finds_an_init_a_console_and_busybox() {
        let files = names_and_modes();
        let check = |name: &str, mode| assert_eq!(files[name].0, mode, "{name}");
        check("init", 0o100_755);
        check("demo", 0o100_755);
        check("dev", 0o040_755);
        check("dev/console", 0o020_755);
        assert_eq!(files["bin/busybox"].1, b"busybox");
        assert_eq!(&files["bin/warden"].1[..4], b"\x7fELF");
        for link in ["bin/visitor", "bin/clerk"] {
            check(link, 0o100_755);
            assert!(files[link].1.is_empty(), "its contents are the first one's");
            assert_eq!(files[link].2, files["bin/warden"].2);
        }
        assert_eq!(files["bin/warden"].2.1, 3, "the kernel counts links");
        assert_eq!(files["modules/virtio_blk.ko"].1, b"driver");
    }

    #[test]
    fn every_init_says_so_first() {
        let files = names_and_modes();
        for name in ["init", "pipe", "program", "demo", "bench", "io", "net"] {
            let script = String::from_utf8(files[name].1.clone()).unwrap();
            let mut lines = script.lines().filter(|line| !line.starts_with('#'));
            let first = lines
                .find(|line| !line.starts_with("/bin/busybox stty"))
                .unwrap();
            assert_eq!(first, format!("echo \"{INIT_MARKER}\""), "{name}");
        }
    }

    #[test]
    fn the_scripts_are_ones_that_a_shell_understands() {
        for (name, text) in SCRIPTS.iter().filter(|(_, text)| text.starts_with('#')) {
            let mut sh = std::process::Command::new("sh");
            let mut child = sh
                .arg("-n")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            assert!(child.wait().unwrap().success(), "{name}");
        }
    }
}
