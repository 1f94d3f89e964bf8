//! `mother run IMAGE` and `mother images`, as a user sees them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use common::{Mother, Ran, with_guest};

/// What `docker save` would write of an image with busybox in it, that runs this command.
fn saved(folder: &Path, entrypoint: &[&str], command: &[&str], user: &str) -> PathBuf {
    let cache = images::Cache::of_user().unwrap();
    let busybox = fs::read(cache.folder().join("busybox")).unwrap();
    let mut lower = tar::Builder::new(Vec::new());
    add(&mut lower, "bin/busybox", &busybox);
    add(&mut lower, "gone", b"1");
    add(&mut lower, "etc/passwd", b"app:x:1000:100::/srv:/bin/sh\n");
    let mut upper = tar::Builder::new(Vec::new());
    add(&mut upper, ".wh.gone", b"");
    add(&mut upper, "srv/data", b"data\n");
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "config": { "Entrypoint": entrypoint, "Cmd": command, "Env": ["GREETING=hello"], "WorkingDir": "/srv",
                    "User": user },
    });
    let manifest = serde_json::json!([{ "Config": "config.json", "Layers": ["lower.tar", "upper.tar"] }]);
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "lower.tar", &lower.into_inner().unwrap());
    add(&mut archive, "upper.tar", &upper.into_inner().unwrap());
    add(&mut archive, "config.json", config.to_string().as_bytes());
    add(&mut archive, "manifest.json", manifest.to_string().as_bytes());
    let path = folder.join("box.tar");
    fs::write(&path, archive.into_inner().unwrap()).unwrap();
    path
}

fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, path, bytes).unwrap();
}

/// Removes what a test has put into the user's cache.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let name = self.0.file_stem().unwrap().to_str().unwrap().to_owned();
        Mother::with_guest().call(&["images", "rm", &name]);
    }
}

#[test]
fn a_container_image_runs_its_command_and_returns_its_status() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let line = "id -u; id -g; pwd; cat data; echo $GREETING; ls /gone; exit 9";
    let path = saved(folder.path(), &["/bin/busybox", "sh", "-c"], &[line], "app");
    let _removed = Removed(path.clone());
    let image = path.to_str().unwrap();
    let check = |ran: &Ran, stdout: &str, status: i32| {
        assert_eq!((ran.stdout.as_str(), ran.status), (stdout, Some(status)), "{}", ran.stderr);
    };
    let ran = mother.run(&[image, "--net", "none"]);
    check(&ran, "1000\n100\n/srv\ndata\nhello\n", 9);
    assert!(ran.stderr.contains("/gone: No such file"), "{}", ran.stderr);
    // Words replace the command, not the entrypoint; what is written is gone with the run.
    let again = ["--net", "none", "--env", "GREETING=bye", "--workdir", "/", "--", "echo $GREETING; pwd"];
    check(&mother.run(&[&[image][..], &again].concat()), "bye\n/\n", 0);
}

#[test]
fn what_is_no_image_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let check = |words: &[&str], expected: &str| {
        let ran = mother.run(words);
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{expected:?} in {}", ran.stderr);
    };
    check(&["no-such-image", "--net", "none"], "there is no image \"no-such-image\"");
    check(&["debian:99", "--net", "none"], "there are debian, debian:12 and debian:13");
    check(&["./absent.raw", "--net", "none"], "cannot open ./absent.raw");
    fs::create_dir(folder.path().join("empty")).unwrap();
    check(&["./empty", "--net", "none"], "neither an OCI image layout nor");
    check(&["--", "words"], "there is no program that it could be for");
}

#[test]
fn an_empty_list_says_how_to_begin_and_unknown_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    assert_eq!(mother.call(&["images", "--json", "rm", "nothing"]).status, Some(2));
    assert!(mother.call(&["images", "prune"]).stdout.contains("removed no image"));
}

/// The command, or a loud word that no Debian image has been made here.
fn with_debian() -> Option<Mother> {
    let mother = with_guest()?;
    let is_there = images::Cache::of_user().unwrap().store().find("debian:12").unwrap().is_some();
    if !is_there {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: there is no image debian:12; `mother run debian:12`").unwrap();
    }
    is_there.then_some(mother)
}

#[test]
fn debian_boots_with_systemd_and_forgets_what_is_not_kept() {
    let Some(mother) = with_debian() else { return };
    let line = "systemctl is-system-running --wait; hostname; findmnt -no FSTYPE,SOURCE /; touch /forgotten; \
                ls /lib/modules/$(uname -r)/modules.dep >/dev/null && echo modules";
    let ran = mother.type_into(&["debian:12", "--net", "none", "--name", "web9"], &format!("{line}\n"));
    for text in ["running\n", "web9\n", "ext4   /dev/vda\n", "modules\n"] {
        assert!(ran.stdout.contains(text), "{text:?} in {}\n{}", ran.stdout, ran.stderr);
    }
    assert_eq!(ran.status, Some(0));
    let ran = mother.type_into(&["debian:12", "--net", "none"], "ls /forgotten || echo forgotten\n");
    assert!(ran.stdout.contains("\nforgotten\n"), "{}", ran.stdout);
}
