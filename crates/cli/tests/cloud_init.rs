//! What a user says to cloud-init in a guest: told at once where it is wrong, and on a disk that a guest mounts where it is right.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use images::Cache;
use serde_json::{Value, json};

use crate::common::{Mother, with_debian, with_guest};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@home";

/// The middle of a private key, which nobody is shown.
const SECRET: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";

fn lay(folder: &Path) {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("data", "#cloud-config\nruncmd: [true]\n");
    write("bare", "users: []\n");
    write("empty", "");
    write("key.pub", &format!("{KEY}\n"));
    let begin = "-----BEGIN OPENSSH PRIVATE KEY-----";
    write("key", &format!("{begin}\n{SECRET}\n"));
    write("disk", "");
    fs::File::options()
        .write(true)
        .open(folder.join("disk"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
}

#[test]
fn what_cloud_init_would_pass_over_is_told_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    lay(folder.path());
    let mother = Mother::new(folder.path());
    let check = |words: &[&str], complaints: &[&str]| {
        let ran = mother.run(words);
        assert_eq!(ran.status, Some(2), "{words:?}: {}", ran.stderr);
        for complaint in complaints {
            assert!(
                ran.stderr.contains(complaint),
                "{complaint}: {}",
                ran.stderr
            );
        }
        for hidden in [SECRET, "users:", "runcmd"] {
            assert!(!ran.stderr.contains(hidden), "{hidden}: {}", ran.stderr);
        }
    };
    // All at once, and nothing of what is in the files.
    check(
        &[
            "./disk",
            "--user-data",
            "bare",
            "--ssh-key",
            "key",
            "--ssh-key",
            "bare",
            "--hostname",
            "a b",
        ],
        &[
            "hostname: \"a b\" is no name of a host\n",
            "user-data: bare: its first line is none that cloud-init knows\n  help: begin it with #cloud-config",
            "ssh-key: key: it is a private key, which stays where it is: nothing of it was used\n  help: name the public one",
            "ssh-key: bare: line 1 of it is no public key as authorized_keys has them\n",
        ],
    );
    check(
        &["./disk", "--user-data", "nowhere", "--ssh-key", "empty"],
        &[
            "user-data: nowhere: No such file",
            "ssh-key: empty: there is no key in it",
        ],
    );
    check(
        &["./disk", "--user-data", "empty"],
        &["user-data: empty: it is empty"],
    );
    check(
        &["./disk", "--user-data", "."],
        &["user-data: .: Is a directory"],
    );
    // Guests that have none.
    let none = "the guest has no cloud-init that would read it\n  help: name a disk that has it";
    check(&["--hostname", "web"], &[&format!("hostname: {none}")]);
    check(
        &["--app", "/bin/true", "--ssh-key", "key.pub"],
        &[&format!("ssh-key: {none}")],
    );
    check(
        &["debian", "--user-data", "data", "--net", "none"],
        &[
            "user-data: debian has no cloud-init that would read it\n",
            "help: name a disk that has it",
        ],
    );
}

/// A copy of the Debian image, as a disk of the user's own.
fn debian(folder: &Path) -> PathBuf {
    let store = Cache::of_user().unwrap().store();
    let image = store.find("debian:12").unwrap().unwrap();
    let path = folder.join("own.raw");
    let copied = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([&image.disk(), &path])
        .status();
    assert!(copied.unwrap().success());
    path
}

/// Has a guest mount what it finds by the label that cloud-init looks for.
const LOOK: &str = "mount -o ro /dev/disk/by-label/CIDATA /mnt; cd /mnt; blkid -o value -s TYPE /dev/disk/by-label/CIDATA; \
                    ls -1; sha256sum user-data; cat meta-data; echo; touch new || mount -o remount,rw /mnt; poweroff\n";

#[test]
fn a_guest_finds_the_disk_by_its_label_and_reads_it_byte_for_byte() {
    let Some(mother) = with_debian() else { return };
    let folder = tempfile::tempdir().unwrap();
    lay(folder.path());
    let disk = debian(folder.path());
    // More than a cluster, and of every byte.
    let mut data = b"#!/bin/sh\n".to_vec();
    data.extend((0..20_000_u32).map(|n| (n % 256) as u8));
    fs::write(folder.path().join("script"), &data).unwrap();
    let sum = Command::new("sha256sum")
        .arg(folder.path().join("script"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sum = sum.split(' ').next().unwrap();
    let mother = mother.in_folder(folder.path());
    let look = |words: &[&str]| {
        let usual = [
            "--user-data",
            "script",
            "--ssh-key",
            "key.pub",
            "--net",
            "none",
        ];
        let disk = [disk.to_str().unwrap()];
        let ran = mother.type_into(&[&disk[..], &usual, words].concat(), LOOK);
        let said = ran.stdout.replace('\r', "");
        assert!(
            said.contains(&format!("{sum}  user-data\n")),
            "{said}{}",
            ran.stderr
        );
        assert!(said.contains("\nvfat\nmeta-data\nuser-data\n"), "{said}");
        let start = said.find("\n{\n").unwrap();
        let end = start + said[start..].find("\n}\n").unwrap() + 2;
        serde_json::from_str::<Value>(&said[start..end]).unwrap()
    };
    let first = look(&["--name", "web"]);
    assert_eq!(first["public-keys"], json!([KEY]));
    assert_eq!(first["local-hostname"], "web");
    let again = look(&["--name", "other", "--hostname", "web"]);
    assert_eq!(again, first, "the same instance, whatever the VM is called");
}

#[test]
fn the_disk_is_the_users_alone_goes_with_the_vm_and_is_in_its_snapshot() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    lay(folder.path());
    let mother = mother.in_folder(folder.path());
    let guest = Cache::of_user()
        .unwrap()
        .default_guest(&mut |_| {})
        .unwrap();
    let kernel = guest.kernel.display();
    let initrd = guest.initrd.display();
    let shell = |line: &str| {
        let ran = mother.shell(&format!("export XDG_DATA_HOME=$PWD/own; {line}"));
        assert_eq!(ran.status, Some(0), "{line}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    };
    // A file of the disk of a VM that runs.
    let file = |key: &str| {
        let shown = shell("$MOTHER inspect web --json");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let path = shown["disks"][0][key].as_str();
        PathBuf::from(path.unwrap_or_else(|| panic!("{shown:#}")))
    };
    // The launcher removes it, which nobody waits for.
    let goes = |path: &Path| {
        let path = path.display();
        shell(&format!(
            "for n in $(seq 100); do [ -e {path} ] || exit 0; sleep 0.1; done; exit 1"
        ));
    };
    shell(&format!(
        "$MOTHER run -d --name web --kernel {kernel} --initrd {initrd} --user-data data --ssh-key key.pub"
    ));
    let path = file("path");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let bytes = fs::read(&path).unwrap();
    let asked = shell("$MOTHER inspect web --json");
    let asked: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked["asked"]["user-data"], "data");
    shell("$MOTHER suspend web");
    goes(&path);
    // What the guest reads is in the snapshot: the VM's own folder is gone.
    shell("$MOTHER run -d --from web");
    assert_eq!(fs::read(file("base")).unwrap(), bytes);
    shell("$MOTHER kill web");
    // Started anew it is the same instance.
    shell("$MOTHER start web");
    let started = file("path");
    assert_eq!(fs::read(&started).unwrap(), bytes);
    shell("$MOTHER kill web");
    goes(&started);
}
