//! Files into a guest, out of it and between two, as a user has them; and what a guest that lies sends.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

use crate::common::host::Host;

/// A host with default guests that run.
fn guests(names: &[&str]) -> Option<Host> {
    let host = Host::with_guest()?;
    for name in names {
        let ran = host.mother.run(&["-d", "--name", name, "--memory", "128M"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
    Some(host)
}

/// What the guest's shell says to a script.
fn guest(host: &Host, name: &str, script: &str) -> String {
    let ran = host.call(&["exec", "-n", name, "--", "sh", "-c", script]);
    assert_eq!(ran.status, Some(0), "{script}: {}", ran.stderr);
    ran.stdout
}

fn copy(host: &Host, words: &[&str]) {
    let ran = host.call(&[&["cp"], words].concat());
    let got = (ran.status, ran.stderr.as_str());
    assert_eq!(got, (Some(0), ""), "{words:?}");
}

fn refused(host: &Host, words: &[&str], status: i32, expected: &str) {
    let ran = host.call(&[&["cp"], words].concat());
    assert_eq!(ran.status, Some(status), "{words:?}: {}", ran.stderr);
    assert!(ran.stderr.contains(expected), "{words:?}: {}", ran.stderr);
}

/// A folder with whatever a folder may have.
fn lay(folder: &Path) {
    let much: Vec<u8> = (0..400_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::create_dir_all(folder.join("sub/empty")).unwrap();
    fs::write(folder.join("much"), much).unwrap();
    fs::write(folder.join("sub/none"), "").unwrap();
    fs::write(folder.join("sub/na me\u{e9}"), "text\n").unwrap();
    symlink("sub/none", folder.join("link")).unwrap();
    symlink("/nowhere", folder.join("dead")).unwrap();
    let long = "long".repeat(50);
    fs::write(folder.join(long), "long").unwrap();
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(96 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 32 << 20).unwrap();
    let mode = fs::Permissions::from_mode(0o751);
    fs::set_permissions(folder.join("much"), mode).unwrap();
    let readonly = fs::Permissions::from_mode(0o555);
    fs::set_permissions(folder.join("sub"), readonly).unwrap();
}

/// Names, kinds, modes, times, lengths and bytes; of a file with holes only some of these.
fn seen(folder: &Path) -> Vec<String> {
    fn look(at: &Path, below: &str, lines: &mut Vec<String>) {
        let mut entries: Vec<_> = fs::read_dir(at).unwrap().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            let there = fs::symlink_metadata(entry.path()).unwrap();
            let mode = there.mode();
            let time = (there.mtime(), there.mtime_nsec());
            if there.is_symlink() {
                lines.push(format!(
                    "{name} -> {:?}",
                    fs::read_link(entry.path()).unwrap()
                ));
            } else if there.is_dir() {
                lines.push(format!("{name} {mode:o} {time:?}"));
                look(&entry.path(), &format!("{name}/"), lines);
            } else {
                let is_large = there.len() > 32 << 20;
                assert!(!is_large || there.blocks() < 1000, "{name} has no holes");
                let bytes = if is_large {
                    Vec::new()
                } else {
                    fs::read(entry.path()).unwrap()
                };
                let sum: u64 = bytes.iter().fold(7, |sum: u64, &byte| {
                    sum.wrapping_mul(1_000_003).wrapping_add(byte.into())
                });
                lines.push(format!("{name} {mode:o} {time:?} {} {sum}", there.len()));
            }
        }
    }
    let mut lines = Vec::new();
    look(folder, "", &mut lines);
    lines
}

#[test]
fn a_folder_comes_back_as_it_went_through_two_guests() {
    let Some(host) = guests(&["one", "two"]) else {
        return;
    };
    let folder = host.folder().join("all");
    fs::create_dir(&folder).unwrap();
    lay(&folder);
    copy(&host, &["all", "one:/tmp"]);
    copy(&host, &["one:/tmp/all", "two:/other"]);
    fs::create_dir(host.folder().join("back")).unwrap();
    let ran = host.call(&["cp", "--json", "two:/other/.", "back"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("1 of the links lead out"),
        "{}",
        ran.stderr
    );
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&said["from"], &said["to"]), (&"two".into(), &Value::Null));
    // The folder itself is among them; a hole went nowhere.
    let counts = ["files", "folders", "links", "left_out", "leading_out"];
    assert_eq!(
        counts.map(|key| said[key].as_u64().unwrap()),
        [5, 3, 2, 0, 1]
    );
    assert!(said["bytes"].as_u64().unwrap() < 2_000_000, "{said}");
    assert_eq!(seen(&host.folder().join("back")), seen(&folder));
    // By a tar stream out and in again, which other programs read and write.
    let line = "\"$MOTHER\" cp one:/tmp/all - > all.tar && tar tf all.tar | grep -c . && mkdir tar && \
        tar xf all.tar -C tar && diff -r --no-dereference -x sparse tar/all all && \
        tar c --format=gnu -S -C all . | \"$MOTHER\" cp - two:/tmp";
    let ran = host.mother.shell(line);
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (Some(0), "10\n"),
        "{}",
        ran.stderr
    );
    let sums = "cd $0 && find . -type f ! -name sparse | sort | xargs -d '\\n' md5sum 2>/dev/null || \
        find . -type f ! -name sparse | sort | tr '\\n' '\\0' | xargs -0 md5sum";
    let first = guest(&host, "two", &sums.replace("$0", "/tmp"));
    assert_eq!(first, guest(&host, "two", &sums.replace("$0", "/other")));
    let mode = fs::Permissions::from_mode(0o755);
    for made in ["all/sub", "back/sub", "tar/all/sub"] {
        fs::set_permissions(host.folder().join(made), mode.clone()).unwrap();
    }
}

#[test]
fn things_go_where_cp_would_put_them_and_else_it_says_why() {
    let Some(host) = guests(&["web"]) else { return };
    fs::write(host.folder().join("f"), "text\n").unwrap();
    fs::write(host.folder().join("g"), "more\n").unwrap();
    fs::create_dir(host.folder().join("d")).unwrap();
    fs::write(host.folder().join("d/h"), "deep\n").unwrap();
    guest(
        &host,
        "web",
        "mkdir /t /t/there; echo old > /t/old; chmod 711 /t/there",
    );
    copy(&host, &["f", "web:/t/there"]);
    copy(&host, &["f", "web:/t/new"]);
    copy(&host, &["g", "web:/t/old"]);
    copy(&host, &["f", "g", "web:/t/there/"]);
    copy(&host, &["d", "web:/t/d"]);
    copy(&host, &["d", "web:/t/there"]);
    copy(&host, &["d/.", "web:/t/inside"]);
    copy(&host, &["web:/t/new", "web:/t/there/d", "."]);
    let all =
        "cd /t; for f in $(find . -type f | sort); do echo $f $(cat $f); done; stat -c %a there";
    let expected = "./d/h deep\n./inside/h deep\n./new text\n./old more\n./there/d/h deep\n./there/f text\n\
        ./there/g more\n711\n";
    assert_eq!(guest(&host, "web", all), expected);
    assert_eq!(
        fs::read_to_string(host.folder().join("new")).unwrap(),
        "text\n"
    );
    // What the kernel makes up when it is read has no length before.
    copy(&host, &["web:/proc/version", "version"]);
    let version = fs::read_to_string(host.folder().join("version")).unwrap();
    assert!(version.starts_with("Linux version "), "{version:?}");
    refused(&host, &["d", "web:/t/old"], 1, "/t/old is no folder");
    refused(&host, &["f", "g", "web:/t/old"], 1, "/t/old is no folder");
    refused(
        &host,
        &["f", "web:/t/none/"],
        1,
        "there is no folder /t/none/",
    );
    refused(
        &host,
        &["f", "web:/t/none/f"],
        1,
        "No such file or directory",
    );
    refused(
        &host,
        &["web:/t/none", "."],
        1,
        "/t/none: No such file or directory",
    );
    refused(
        &host,
        &["none", "web:/t"],
        2,
        "none: No such file or directory",
    );
    refused(&host, &["web:/t", "f"], 2, "f is no folder");
    refused(&host, &["f", "g"], 2, "neither end is in a guest");
    refused(&host, &["f", "nobody:/t"], 1, "there is no VM \"nobody\"");
    refused(
        &host,
        &["web:/dev/null", "null"],
        1,
        "left out null: it is no file, folder or link",
    );
    refused(
        &host,
        &["f", "web:/dev/null"],
        1,
        "left out f: something of that name is there",
    );
    refused(
        &host,
        &["--most", "1K", "web:/bin", "."],
        1,
        "sends more than 1 KiB",
    );
}

#[test]
fn root_of_a_guest_follows_no_link_of_its_users() {
    let Some(host) = guests(&["web"]) else { return };
    fs::create_dir_all(host.folder().join("d/way")).unwrap();
    fs::write(host.folder().join("d/way/f"), "text").unwrap();
    guest(
        &host,
        "web",
        "mkdir -p /home/d /secret; ln -s /secret /home/d/way",
    );
    refused(&host, &["d/.", "web:/home/d"], 1, "left out way");
    assert_eq!(guest(&host, "web", "ls -A /secret; ls -A /home/d"), "way\n");
}

#[test]
fn a_guest_without_an_agent_and_another_host_are_told_apart() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let ran = host.mother.run(&["-d", "--name", "bare", "--agent", "off"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    refused(
        &host,
        &["bare:/etc", "."],
        1,
        "it was started without the guest agent",
    );
    refused(
        &host,
        &["--json", "bare:/etc", "-"],
        2,
        "standard output has the tar stream",
    );
}
