//! `mother snapshots`, as a user and a program see it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::{Mother, Ran};
use serde_json::Value;
use snapshot::{Kind, MemoryWriter, Shelf};

/// A snapshot of a suspended VM, as the first version wrote it.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshot/samples/format-1");

/// The command, and the folder of its user's snapshots.
struct User {
    mother: Mother,
    snapshots: PathBuf,
    _folder: tempfile::TempDir,
}

impl User {
    fn new() -> User {
        let folder = tempfile::tempdir().unwrap();
        let mother = Mother::new(folder.path());
        let data = mother.vms().with_file_name("data");
        User {
            snapshots: data.join("mother/snapshots"),
            mother,
            _folder: folder,
        }
    }

    fn shelf(&self) -> Shelf {
        Shelf::at(&self.snapshots)
    }

    /// Has the sample under this name.
    fn copy_sample(&self, name: &str) -> PathBuf {
        let folder = self.snapshots.join(name);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(SAMPLE).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        folder
    }

    /// Has a snapshot of a VM that ran on, so many hours old.
    fn make(&self, name: &str, hours: u64) {
        let sample = Shelf::at(SAMPLE).open(SAMPLE).unwrap();
        let mut draft = self.shelf().begin(name).unwrap();
        let mut manifest = sample.manifest().clone();
        manifest.state = draft.write_part("state", b"{}").unwrap();
        let writer = MemoryWriter::new(draft.file("memory").unwrap(), 20).unwrap();
        manifest.memory = writer.finish().unwrap().part();
        manifest.images.clear();
        manifest.disks.clear();
        manifest.kind = Kind::Snapshot;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        manifest.made_at = now.as_secs_f64() - (hours * 3600) as f64;
        draft.commit(manifest).unwrap();
    }

    fn call(&self, words: &[&str]) -> Ran {
        self.mother.call(&[&["snapshots"], words].concat())
    }

    fn check(&self, words: &[&str], status: i32, stdout: &str, stderr: &str) {
        let ran = self.call(words);
        assert_eq!(ran.status, Some(status), "{words:?}: {ran:?}");
        assert_eq!(ran.stdout, stdout, "{words:?}");
        assert_eq!(ran.stderr, stderr, "{words:?}");
    }

    /// The answer for programs, which has the shape of this schema.
    fn answer(&self, words: &[&str], status: i32, name: &str) -> Value {
        let ran = self.call(&[words, &["--json"]].concat());
        assert_eq!(ran.status, Some(status), "{words:?}: {ran:?}");
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
        let text = fs::read_to_string(docs.join(format!("{name}.json"))).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
        let complaints = crate::schema::complaints(&schema, &answer);
        assert_eq!(complaints, [""; 0], "{words:?}: {answer:#}");
        answer
    }
}

#[test]
fn snapshots_are_listed_inspected_and_verified() {
    let user = User::new();
    user.check(&[], 0, "no snapshots\n", "");
    user.copy_sample("warm");
    let list = user.call(&[]).stdout;
    let [head, line] = list.lines().collect::<Vec<_>>()[..] else {
        panic!("{list}")
    };
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words(head),
        ["NAME", "VM", "MADE", "MEMORY", "SIZE", "USERS", "WHAT"]
    );
    let line = words(line);
    assert_eq!(line[..2], ["warm", "web"]);
    assert_eq!(line.last().unwrap(), "suspended");
    user.check(&["-q"], 0, "warm\n", "");
    let inspected = user.call(&["inspect", "warm"]).stdout;
    for expected in [
        "what            suspended: nothing else has what this VM was",
        "vm              web, 1 vCPU, engine soft",
        "memory          80 KiB, of which 16 KiB are not zeros, in ",
        "resident limit  64 KiB",
        "disk            0, raw, 512 bytes; its own, a copy",
        "disk            1, raw, 512 bytes, read only; yours, where it is: 512 bytes, 2026-11-30",
        "kernel          vmlinuz, 9 bytes",
        "module          initrd, 10 bytes",
        "used by         nobody",
    ] {
        assert!(inspected.contains(expected), "{expected} in:\n{inspected}");
    }
    user.check(
        &["verify", "warm", SAMPLE],
        0,
        &format!("warm: whole\n{SAMPLE}: whole\n"),
        "",
    );
}

#[test]
fn programs_are_told_the_same() {
    let user = User::new();
    assert_eq!(user.answer(&[], 0, "snapshots"), serde_json::json!([]));
    user.copy_sample("warm");
    let broken = user.copy_sample("broken");
    fs::remove_file(broken.join("kernel")).unwrap();
    let list = user.answer(&[], 0, "snapshots");
    assert_eq!(list[0]["name"], "broken");
    assert_eq!(list[0]["problem"]["causes"][0], "it is missing");
    assert_eq!(list[0]["of"], Value::Null);
    assert_eq!(list[1]["of"]["vm"], "web");
    assert_eq!(list[1]["problem"], Value::Null);
    let one = user.answer(&["inspect", "warm"], 0, "inspected-snapshot");
    assert_eq!(one["stored_bytes"], 16384);
    assert_eq!(one["disks"][1]["how"], "own");
    let verified = user.answer(&["verify", "warm", "broken"], 2, "verified");
    assert_eq!(verified[0]["whole"], true);
    assert_eq!(verified[1]["error"]["exit_status"], 2);
    let failed = user.answer(&["inspect", "nothing"], 2, "failed");
    assert_eq!(
        failed["error"]["message"],
        "there is no snapshot \"nothing\""
    );
    let freed = user.answer(&["rm", "broken"], 0, "freed-snapshots");
    assert_eq!(freed["removed"][0], "broken");
}

#[test]
fn what_is_damaged_is_refused_with_what_is_wrong_and_can_be_removed() {
    let user = User::new();
    let folder = user.copy_sample("warm");
    let memory = fs::File::options()
        .write(true)
        .open(folder.join("memory"))
        .unwrap();
    memory.write_all_at(b"!", 4100).unwrap();
    user.check(
        &["verify", "warm"],
        2,
        "",
        "error: the part \"memory\" of snapshot \"warm\" is damaged\n  chunk 0 is not as it was written: its checksum \
         differs\n  help: nothing of it was used: take another snapshot, or a copy of this one; `mother snapshots rm \
         warm` removes it\n",
    );
    memory.set_len(5000).unwrap();
    let list = user.call(&[]).stdout;
    assert!(
        list.contains("damaged: memory: it has 5000 bytes where"),
        "{list}"
    );
    let ran = user.call(&["rm", "warm"]);
    assert!(ran.stdout.starts_with("removed warm; "), "{ran:?}");
    user.check(
        &["rm", "warm"],
        2,
        "",
        "error: there is no snapshot \"warm\"\n  help: `mother snapshots` lists all there are; a folder elsewhere is \
         named by its path, with a slash in it\n",
    );
}

#[test]
fn what_somebody_runs_on_is_removed_only_by_force() {
    let user = User::new();
    user.make("base", 1);
    user.make("other", 1);
    let held = user.shelf().open("base").unwrap().hold().unwrap();
    let listed = user.answer(&[], 0, "snapshots");
    assert_eq!(listed[0]["in_use"], true);
    assert_eq!(listed[0]["processes"][0], std::process::id());
    let ran = user.call(&["rm", "base", "other"]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stdout.starts_with("removed other; "), "{ran:?}");
    let expected = format!(
        "error: snapshot \"base\" is in use by process {}\n",
        std::process::id()
    );
    assert!(ran.stderr.starts_with(&expected), "{ran:?}");
    assert_eq!(user.call(&["rm", "--force", "base"]).status, Some(0));
    user.check(&[], 0, "no snapshots\n", "");
    drop(held);
}

#[test]
fn old_snapshots_are_pruned_and_suspended_vms_stay() {
    let user = User::new();
    user.copy_sample("suspended");
    for (name, hours) in [("new", 1), ("older", 50), ("oldest", 300)] {
        user.make(name, hours);
    }
    let removes = |words: &[&str], expected: &[&str]| {
        let freed = user.answer(&[&["prune"], words].concat(), 0, "freed-snapshots");
        assert_eq!(freed["removed"], serde_json::json!(expected), "{words:?}");
    };
    removes(&["--older-than", "2w"], &[]);
    removes(&["--older-than", "1h", "--keep", "3"], &[]);
    removes(&["--older-than", "7d", "--keep", "1"], &["oldest"]);
    removes(&["--keep", "1"], &["older"]);
    removes(&["--older-than", "30m"], &["new"]);
    user.check(&["-q"], 0, "suspended\n", "");
    for words in [&["prune"][..], &["prune", "--older-than", "soon"]] {
        let ran = user.call(words);
        assert_eq!(ran.status, Some(2), "{ran:?}");
    }
}
