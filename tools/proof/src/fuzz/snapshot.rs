//! Files of a snapshot: its manifest, its memory, a packed part.

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use anyhow::Result;
use host::MemFd;
use serde_json::json;
use sha2::{Digest, Sha256};
use snapshot::{
    CHUNK_BYTES, Disk, DiskHow, Image, ImageRole, Kind, MANIFEST_FORMAT, Manifest, MemoryReader,
    MemoryWriter, PAGE_BYTES, Part, pack, unpack,
};
use twox_hash::XxHash3_64;

use super::{Target, filled};

/// Pages of the guest: two chunks and a short one.
const PAGES: u64 = 36;

/// What memory and packed parts begin with.
const MEMORY: &[u8] = b"MOTHRMEM";
const PACKED: &[u8] = b"MOTHRPK1";

/// Where the digest stands in a manifest's file, and where the manifest begins.
const DIGEST: std::ops::Range<usize> = 11..75;
const BEGIN: usize = 88;

/// Bytes of an entry of the index.
const ENTRY_BYTES: usize = 24;

/// The target.
pub(super) fn target() -> Result<Target> {
    let seeds = vec![
        memory()?,
        manifest().to_text().into_bytes(),
        pack(&b"{\"vcpus\":[{\"rip\":1,\"rsp\":2}]}".repeat(30)),
    ];
    Ok(Target {
        mend: |input| mend(input),
        ..Target::plain("snapshot", seeds, read)
    })
}

fn read(input: &[u8]) -> bool {
    if input.starts_with(MEMORY) {
        let opened = filled(input).map(|file| MemoryReader::open(file, PAGES));
        let go_on = &mut |_| ControlFlow::Continue(());
        return opened.is_ok_and(|it| it.is_ok_and(|memory| memory.verify(go_on).is_ok()));
    }
    if input.starts_with(PACKED) {
        return unpack("state", input).is_ok();
    }
    Manifest::read(input).is_ok()
}

fn memory() -> Result<Vec<u8>> {
    let file = MemFd::new(c"memory", 0)?;
    let mut writer = MemoryWriter::new(file.file().try_clone()?, PAGES)?;
    let text: Vec<u8> = b"what a guest remembers "
        .iter()
        .copied()
        .cycle()
        .take(CHUNK_BYTES)
        .collect();
    writer.put(1, &text)?;
    let mut noise = vec![0; 4 * PAGE_BYTES];
    let mut state = 1_u64;
    for byte in &mut noise[PAGE_BYTES..2 * PAGE_BYTES] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    writer.put(2, &noise)?;
    let summary = writer.finish()?;
    let mut bytes = vec![0; summary.file_bytes as usize];
    file.file().read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn manifest() -> Manifest {
    let part = || Part {
        bytes: 4096,
        sha256: Some("0123456789abcdef".repeat(4)),
    };
    Manifest {
        format: MANIFEST_FORMAT,
        made_by: "0.1.0".to_owned(),
        made_at: 1.5,
        id: "0123456789abcdef".repeat(2),
        kind: Kind::Snapshot,
        vm: "web".to_owned(),
        memory_bytes: 1 << 20,
        vcpu_count: 2,
        engine: "soft".to_owned(),
        limit_bytes: Some(1 << 16),
        spec: json!({ "name": "web", "disk": [{ "path": "disk0" }] }),
        state: part(),
        memory: part(),
        images: vec![Image {
            role: ImageRole::Kernel,
            file: "kernel".to_owned(),
            name: "vmlinuz".to_owned(),
            part: part(),
        }],
        disks: vec![Disk {
            slot: 0,
            how: DiskHow::Copy,
            format: "raw".to_owned(),
            virtual_bytes: 1 << 20,
            file: Some("disk0".to_owned()),
            file_bytes: Some(1 << 20),
            fingerprint: None,
            read_only: false,
        }],
    }
}

/// Checksums are those of what is there now.
fn mend(input: &mut [u8]) {
    if input.starts_with(MEMORY) {
        mend_memory(input);
    } else if input.len() > BEGIN && !input.starts_with(PACKED) {
        let end = input.iter().rposition(|byte| *byte == b'}').unwrap_or(0);
        let digest = Sha256::digest(input.get(BEGIN..end).unwrap_or_default());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        input[DIGEST].copy_from_slice(digest.as_bytes());
    }
}

fn mend_memory(input: &mut [u8]) {
    let number = |bytes: &[u8]| {
        let mut number = [0; 8];
        number[..bytes.len()].copy_from_slice(bytes);
        usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX)
    };
    if input.len() < PAGE_BYTES {
        return;
    }
    let index = number(&input[32..40]).min(input.len());
    let (chunks, entries) = input.split_at_mut(index);
    for entry in entries.as_chunks_mut::<ENTRY_BYTES>().0 {
        let from = number(&entry[..8]);
        let to = from.saturating_add(number(&entry[8..12]));
        if let Some(bytes) = chunks.get(from..to) {
            let sum = if from == to {
                0
            } else {
                XxHash3_64::oneshot(bytes)
            };
            entry[16..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let sum = XxHash3_64::oneshot(entries);
    input[48..56].copy_from_slice(&sum.to_le_bytes());
    let sum = XxHash3_64::oneshot(&input[..56]);
    input[56..64].copy_from_slice(&sum.to_le_bytes());
}
