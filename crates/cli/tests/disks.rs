//! Disks as a user meets them: what the guest sees, who may have them, and what is on them after a crash.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::with_guest;
use devices::virtio::blk::{ImageFormat, create_overlay};

/// A program of e2fsprogs, or a loud word that it is not there.
pub(crate) fn e2fs(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    let found = folders.into_iter().find(|path| path.is_file());
    if found.is_none() {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: {name} (e2fsprogs) is not installed").unwrap();
    }
    found
}

/// A sparse file.
fn raw_disk(folder: &Path, name: &str, len_bytes: u64) -> String {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(len_bytes).unwrap();
    path.display().to_string()
}

/// A disk with an empty ext4 file system.
fn ext4_disk(folder: &Path, mke2fs: &Path) -> String {
    let disk = raw_disk(folder, "ext4", 96 << 20);
    let made = Command::new(mke2fs)
        .args(["-q", "-t", "ext4", &disk])
        .status()
        .unwrap();
    assert!(made.success());
    disk
}

#[test]
fn a_guest_sees_its_disks_as_they_were_given() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let one = raw_disk(folder.path(), "one", 5 << 20);
    let two = raw_disk(folder.path(), "two", 3 << 20);
    let script = include_str!("scripts/disks.sh");
    let disks = [
        "--disk",
        &format!("{one},serial=first"),
        "--disk",
        &format!("{two},readonly"),
    ];
    let ran = mother.type_into(
        &[&disks[..], &["--cpus", "2", "--timeout", "100s"]].concat(),
        script,
    );
    let shown = ran
        .stdout
        .split("mother: /init started\n")
        .nth(1)
        .unwrap_or(&ran.stdout);
    // Between them stands what the kernel says.
    let shown: Vec<&str> = shown
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('['))
        .collect();
    assert_eq!(
        shown,
        [
            "vda 10240 first 0 4096",
            "vdb 6144 disk1 1 4096",
            "wrote",
            "refused",
            "2"
        ],
        "{}\n{}",
        ran.stdout,
        ran.stderr
    );
    let bytes = std::fs::read(&one).unwrap();
    assert!(bytes[7 * 512..].starts_with(b"written by the guest"));
}

#[test]
fn a_disk_that_is_in_use_is_refused_with_its_holder() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = raw_disk(folder.path(), "disk", 1 << 20);
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    // As QEMU says that it may write to a file.
    host::byte_lock::share(&file, 101).unwrap();
    for options in ["", ",readonly"] {
        let ran = mother.run(&["--disk", &format!("{disk}{options}")]);
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
        let expected = format!("{disk} is in use by process {} (", std::process::id());
        assert!(ran.stderr.contains(&expected), "{}", ran.stderr);
    }
}

#[test]
fn what_was_flushed_survives_the_death_of_the_vm() {
    let (Some(mother), Some(mke2fs), Some(e2fsck)) = (with_guest(), e2fs("mke2fs"), e2fs("e2fsck"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let raw = ext4_disk(folder.path(), &mke2fs);
    let base = folder.path().join("base");
    std::fs::copy(&raw, &base).unwrap();
    let overlay = folder.path().join("overlay");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&overlay)
        .unwrap();
    let base_name = base.display().to_string();
    create_overlay(
        file,
        &File::open(&base).unwrap(),
        &base_name,
        ImageFormat::Raw,
        None,
    )
    .unwrap();
    for disk in [
        format!("{raw},format=raw"),
        format!("{},base={base_name}", overlay.display()),
    ] {
        let durable = killed_while_writing(&disk);
        let script =
            "mount -t ext4 /dev/vda /mnt && clerk verify /mnt && umount /mnt && echo unmounted\n";
        let ran = mother.type_into(&["--disk", &disk, "--timeout", "100s"], script);
        assert!(
            ran.stdout.contains("unmounted"),
            "{disk}: {}{}",
            ran.stdout,
            ran.stderr
        );
        let whole = number_behind(&ran.stdout, "clerk: whole ").unwrap();
        assert!(
            whole > durable,
            "{disk}: {durable} was said to be durable, {whole} are whole"
        );
    }
    // The journal has been played back: a full check finds nothing to say.
    let checked = Command::new(&e2fsck)
        .args(["-f", "-n", &raw])
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
    check_overlay(&overlay);
}

/// What `qemu-img` thinks of the overlay, where it is installed.
fn check_overlay(overlay: &Path) {
    match Command::new("qemu-img").arg("check").arg(overlay).output() {
        Ok(checked) => {
            // 3 is clusters that nobody uses: space lost, nothing else (qemu-img(1)).
            let text = String::from_utf8_lossy(&checked.stdout);
            assert!(matches!(checked.status.code(), Some(0 | 3)), "{text}");
        }
        Err(_) => {
            let mut stderr = std::io::stderr();
            writeln!(stderr, "skipped: qemu-img is not installed").unwrap();
        }
    }
}

/// A guest writes records, and its VM is killed; the last record that the guest said to be durable.
fn killed_while_writing(disk: &str) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mother"));
    command.args(["run", "--disk", disk, "--timeout", "100s"]);
    let mut vm = Killed(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut stdin = vm.0.stdin.take().unwrap();
    stdin
        .write_all(b"mount -t ext4 /dev/vda /mnt && clerk write /mnt\n")
        .unwrap();
    // The shell reads on only when the clerk has ended, which it does not.
    drop(stdin);
    let mut last = None;
    for line in BufReader::new(vm.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap_or_default();
        last = number_behind(&line, "clerk: durable ").or(last);
        if last == Some(60) {
            // SIGKILL; what is in the pipe by then was said before.
            vm.0.kill().unwrap();
        }
    }
    last.unwrap()
}

/// Ends the VM whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number_behind(text: &str, words: &str) -> Option<u64> {
    text.split(words)
        .nth(1)?
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}
