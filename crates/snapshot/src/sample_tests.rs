//! Snapshots as versions before this one wrote them are read: `samples` has one of each format.
//!
//! A format that was released is never written anew here, whatever becomes of the writer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;

use crate::manifest::{Disk, DiskHow, ImageRole, Kind, Manifest, Part};
use crate::{Draft, MemoryWriter, PAGE_BYTES, Shelf, Snapshot};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/samples");

/// What makes the sample of the format that this version writes anew, as long as it was not released.
const RENEW: &str = "RENEW_SAMPLE";

/// Pages of the guest: a whole chunk and one of four pages.
const PAGES: u64 = 20;

const STATE: &[u8] =
    b"{\"vcpus\":[{\"rip\":4096,\"halted\":true}],\"board\":{\"uart\":{\"lcr\":3}}}";

/// A guest with three pages of text, one of noise, and zeros.
fn page(number: u64) -> [u8; PAGE_BYTES] {
    let mut noise = 1_u64;
    std::array::from_fn(|at| match number {
        1 | 2 | 15 => b"what a guest remembers "[(at + number as usize) % 23],
        17 => {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        }
        _ => 0,
    })
}

fn bytes_of(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Files of the sample that are neither state nor memory.
fn files() -> BTreeMap<&'static str, Vec<u8>> {
    BTreeMap::from([
        ("kernel", b"a kernel\n".to_vec()),
        ("module0", b"an initrd\n".to_vec()),
        ("disk0", vec![0xd1; 512]),
    ])
}

fn expected(state: Part, memory: Part, images: Vec<crate::Image>) -> Manifest {
    let disk = |slot, how, file: Option<&str>, fingerprint: Option<&str>| Disk {
        slot,
        how,
        format: "raw".to_owned(),
        virtual_bytes: 512,
        file: file.map(str::to_owned),
        file_bytes: file.map(|_| 512),
        fingerprint: fingerprint.map(str::to_owned),
        read_only: how == DiskHow::Own,
    };
    Manifest {
        format: 1,
        made_by: "0.1.0".to_owned(),
        made_at: 1_780_272_000.25,
        id: "00112233445566778899aabbccddeeff".to_owned(),
        kind: Kind::Suspended,
        vm: "web".to_owned(),
        memory_bytes: PAGES * PAGE_BYTES as u64,
        vcpu_count: 1,
        engine: "soft".to_owned(),
        limit_bytes: Some(65_536),
        spec: json!({ "name": "web", "cpus": 1, "disk": [{ "path": "disk0" }] }),
        state,
        memory,
        images,
        disks: vec![
            disk(0, DiskHow::Copy, Some("disk0"), None),
            disk(1, DiskHow::Own, None, Some("512 bytes, 2026-11-30")),
        ],
    }
}

fn write(draft: &mut Draft) -> Manifest {
    let state = draft.write_part("state", STATE).unwrap();
    let mut writer = MemoryWriter::new(draft.file("memory").unwrap(), PAGES).unwrap();
    for (chunk, range) in [(0, 0..16), (1, 16..20)] {
        let bytes: Vec<u8> = range.flat_map(page).collect();
        writer.put(chunk, &bytes).unwrap();
    }
    let summary = writer.finish().unwrap();
    let memory = summary.part();
    let mut images = Vec::new();
    let roles = [
        (ImageRole::Kernel, "kernel", "vmlinuz"),
        (ImageRole::Module, "module0", "initrd"),
    ];
    for (role, file, name) in roles {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&files()[file]).unwrap();
        images.push(draft.add_image(role, name, &source).unwrap());
    }
    let mut disk = draft.file("disk0").unwrap();
    disk.write_all(&files()["disk0"]).unwrap();
    expected(state, memory, images)
}

fn renew(at: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(folder.path());
    let mut draft = shelf.begin("sample").unwrap();
    let manifest = write(&mut draft);
    let made = draft.commit(manifest).unwrap();
    fs::create_dir_all(at).unwrap();
    for entry in fs::read_dir(made.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, at.join(path.file_name().unwrap())).unwrap();
    }
}

fn check(sample: &Snapshot) {
    let manifest = sample.manifest();
    let parts = (manifest.state.clone(), manifest.memory.clone());
    assert_eq!(
        manifest,
        &expected(parts.0, parts.1, manifest.images.clone())
    );
    let names = manifest.images.iter().map(|it| (it.role, it.name.as_str()));
    let names: Vec<(ImageRole, &str)> = names.collect();
    assert_eq!(
        names,
        [
            (ImageRole::Kernel, "vmlinuz"),
            (ImageRole::Module, "initrd")
        ]
    );
    sample.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(sample.read_part("state").unwrap(), STATE);
    for (name, bytes) in files() {
        assert_eq!(bytes_of(sample.file(name).unwrap()), bytes, "{name}");
    }
    let memory = sample.memory().unwrap();
    assert_eq!([memory.stored(0), memory.stored(1)], [0x8006, 0x0002]);
    for chunk in 0..memory.chunk_count() {
        let mut bytes = vec![0; memory.chunk_bytes(chunk)];
        memory.read(chunk, &mut bytes).unwrap();
        for (at, found) in bytes.as_chunks::<PAGE_BYTES>().0.iter().enumerate() {
            assert!(
                *found == page(chunk * 16 + at as u64),
                "page {at} of {chunk}"
            );
        }
    }
}

#[test]
fn what_format_1_was_is_read() {
    let path = Path::new(SAMPLES).join("format-1");
    if std::env::var_os(RENEW).is_some() {
        renew(&path);
    }
    let sample = Shelf::at(SAMPLES).open(path.to_str().unwrap()).unwrap();
    check(&sample);
}
