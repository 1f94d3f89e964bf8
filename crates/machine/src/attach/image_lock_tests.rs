//! Tests of the locks: among ourselves, and against QEMU's tools where they are installed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn image(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, [0; 4096]).unwrap();
    path
}

/// Opens it when nothing excludes that any more. A process that another test starts has our descriptors, and with them
/// our locks, until it is the program that it shall be.
fn open_soon(path: &Path, for_writing: bool) -> File {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match open_locked(path, for_writing) {
            Ok(file) => return file,
            Err(LockError::Busy { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// What an attempt to open it says, with the process left out; nothing if it is opened.
fn told(path: &Path, for_writing: bool) -> String {
    match open_locked(path, for_writing) {
        Ok(_) => String::new(),
        Err(LockError::Busy { conflict, .. }) => format!("{conflict:?}"),
        Err(error) => panic!("{error}"),
    }
}

/// Whether it comes to say that.
fn check_told(path: &Path, for_writing: bool, expected: &str, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let said = told(path, for_writing);
        if said == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {said}, not {expected}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn writers_exclude_everybody_and_readers_share() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "disk");
    let check = |first, second, expected: &str| {
        let held = open_soon(&path, first);
        check_told(&path, second, expected, &format!("{first} {second}"));
        // The lock belongs to the opened file, whichever descriptor is left of it.
        let duplicate = held.try_clone().unwrap();
        drop(held);
        check_told(
            &path,
            second,
            expected,
            &format!("{first} {second}, duplicate"),
        );
        drop(duplicate);
        check_told(&path, second, "", "the lock goes with the disk");
    };
    check(true, true, "TwoWriters");
    check(true, false, "WriterBefore");
    check(false, true, "ReaderBefore");
    check(false, false, "");
}

#[test]
fn a_refusal_names_file_process_and_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let check = |first, second, way_out: &str| {
        let path = image(folder.path(), &format!("disk {first} {second}"));
        let _held = open_soon(&path, first);
        let refused = open_locked(&path, second).unwrap_err().to_string();
        let start = format!(
            "{} is in use by process {} (",
            path.display(),
            std::process::id()
        );
        assert!(refused.starts_with(&start), "{refused}");
        assert!(refused.ends_with(way_out), "{refused}");
    };
    check(
        true,
        true,
        "for writing; end that first, or give the disk read-only to both",
    );
    check(true, false, "for writing; end that first");
    check(
        false,
        true,
        "for reading; end that first, or give the disk read-only to both",
    );
}

#[test]
fn a_descriptors_list_of_locks_is_read() {
    let check = |line: &str, expected| assert_eq!(covers(line, 101), expected, "{line}");
    check(
        "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10018878 100 101",
        true,
    );
    check(
        "lock:\t1: POSIX  ADVISORY  WRITE 7 fe:00:10018878 0 EOF",
        true,
    );
    check(
        "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10018878 102 EOF",
        false,
    );
    check(
        "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10018878 100 100",
        false,
    );
    check(
        "lock:\t1: FLOCK  ADVISORY  WRITE 7 fe:00:10018878 0 EOF",
        false,
    );
    check("flags:\t0100002", false);
    check("lock:", false);
    check("", false);
}

/// `qemu-io` that has an image open, until its input ends.
struct QemuIo(Child);

impl QemuIo {
    fn open(path: &Path, format: &str, flags: &[&str]) -> QemuIo {
        let mut child = Command::new("qemu-io")
            .args(flags)
            .args(["-f", format])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It answers when the image is open.
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"length\n").unwrap();
        let mut answers = BufReader::new(child.stdout.as_mut().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert!(line.contains("MiB"), "{line}");
        QemuIo(child)
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Whether `qemu-io` may do this with an image, or which lock it does not get.
fn qemu_io(path: &Path, format: &str, flags: &[&str], command: &str) -> String {
    let output = Command::new("qemu-io")
        .args(flags)
        .args(["-f", format, "-c", command])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match said.split_once("Failed to get ") {
        Some((_, which)) => which.lines().next().unwrap_or_default().to_owned(),
        None => {
            assert!(output.status.success(), "{said}");
            String::new()
        }
    }
}

#[test]
fn qemu_keeps_out_of_ours_and_we_of_qemus() {
    if Command::new("qemu-io").arg("--version").output().is_err() {
        eprintln!("SKIPPED: qemu-io is not installed, so nothing of QEMU's judges our locks");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for format in ["raw", "qcow2"] {
        let path = folder.path().join(format);
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", format])
            .arg(&path)
            .arg("8M")
            .status();
        assert!(made.unwrap().success());
        {
            let _theirs = QemuIo::open(&path, format, &[]);
            check_told(&path, true, "TwoWriters", format);
            check_told(&path, false, "WriterBefore", format);
            let refused = open_locked(&path, true).unwrap_err().to_string();
            assert!(refused.contains("(qemu-io)"), "{refused}");
        }
        {
            let _theirs = QemuIo::open(&path, format, &["-r"]);
            check_told(&path, false, "", format);
            // QEMU lets a raw file that it only reads be written to, a qcow2 image not.
            let expected = if format == "raw" { "" } else { "ReaderBefore" };
            check_told(&path, true, expected, format);
        }
        {
            let _ours = open_soon(&path, true);
            assert_eq!(
                qemu_io(&path, format, &[], "write 0 512"),
                "\"write\" lock",
                "{format}"
            );
            // The other way round as above.
            let reads = qemu_io(&path, format, &["-r"], "read 0 512");
            let expected = if format == "raw" {
                ""
            } else {
                "shared \"write\" lock"
            };
            assert_eq!(reads, expected, "{format}");
        }
        {
            let _ours = open_soon(&path, false);
            assert_eq!(
                qemu_io(&path, format, &[], "write 0 512"),
                "\"write\" lock",
                "{format}"
            );
            assert_eq!(
                qemu_io(&path, format, &["-r"], "read 0 512"),
                "",
                "{format}"
            );
        }
        drop(open_soon(&path, true));
        assert_eq!(qemu_io(&path, format, &[], "write 0 512"), "", "{format}");
    }
}
