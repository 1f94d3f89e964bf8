//! Memory goes in and comes back; what was changed in the file is told and not used.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use crate::error::SnapshotError;
use crate::format::{CHUNK_BYTES, ENTRY_BYTES, PAGE_BYTES, checksum};
use crate::{MemoryReader, MemorySummary, MemoryWriter, pack, unpack};

/// Pages of the guest that most tests have: two whole chunks and one of three pages.
const PAGES: u64 = 35;

/// A page of text, of noise, or of zeros, by its number.
fn page(number: u64) -> [u8; PAGE_BYTES] {
    let mut noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|at| match number % 3 {
        0 => 0,
        1 => b"all that a guest remembers "[(at + number as usize) % 27],
        _ => {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        }
    })
}

fn pages(range: std::ops::Range<u64>) -> Vec<u8> {
    range.flat_map(page).collect()
}

/// A file with these chunks, of pages as [`page`] makes them from that number on.
fn written(chunks: &[(u64, std::ops::Range<u64>)]) -> (File, MemorySummary) {
    let file = tempfile::tempfile().unwrap();
    let mut writer = MemoryWriter::new(file.try_clone().unwrap(), PAGES).unwrap();
    for (chunk, range) in chunks {
        writer.put(*chunk, &pages(range.clone())).unwrap();
    }
    let summary = writer.finish().unwrap();
    assert_eq!(summary.file_bytes, file.metadata().unwrap().len());
    (file, summary)
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn all(reader: &MemoryReader) -> Result<Vec<u8>, SnapshotError> {
    let mut memory = Vec::new();
    for chunk in 0..reader.chunk_count() {
        let mut bytes = vec![0xa5; reader.chunk_bytes(chunk)];
        reader.read(chunk, &mut bytes)?;
        memory.extend(bytes);
    }
    Ok(memory)
}

/// Opened and read whole.
fn used(bytes: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let reader = MemoryReader::open(file_of(bytes), PAGES)?;
    reader.verify(&mut |_| ControlFlow::Continue(()))?;
    all(&reader)
}

/// What is said of bytes that are refused: the failure and why.
fn refused(bytes: &[u8]) -> String {
    let error = used(bytes).unwrap_err();
    assert!(error.is_bad_input() && error.help().is_some());
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Puts header and index right again after something in them was changed on purpose.
fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
    let sum = checksum(bytes.get(at..).unwrap_or_default());
    bytes[48..56].copy_from_slice(&sum.to_le_bytes());
    let sum = checksum(&bytes[..56]);
    bytes[56..64].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn memory_comes_back_as_it_was_and_zeros_cost_nothing() {
    let check = |chunks: &[(u64, std::ops::Range<u64>)], stored, expected: Vec<u8>| {
        let (file, summary) = written(chunks);
        assert_eq!(summary.stored_pages, stored);
        assert_eq!(summary.zero_pages, PAGES - stored);
        let reader = MemoryReader::open(file, PAGES).unwrap();
        assert_eq!(reader.stored_pages(), stored);
        assert!(all(&reader).unwrap() == expected);
        for number in 0..PAGES {
            let is_there = reader.stored(number / 16) & (1 << (number % 16)) != 0;
            let at = number as usize * PAGE_BYTES;
            let bytes = &expected[at..at + PAGE_BYTES];
            assert_eq!(is_there, bytes.iter().any(|byte| *byte != 0), "{number}");
        }
    };
    let nothing = vec![0; PAGES as usize * PAGE_BYTES];
    check(&[], 0, nothing.clone());
    let in_order = [(0, 0..16), (1, 16..32), (2, 32..35)];
    check(&in_order, 23, pages(0..35));
    let mut backwards = in_order.to_vec();
    backwards.reverse();
    check(&backwards, 23, pages(0..35));
    let mut last_alone = nothing;
    last_alone[32 * PAGE_BYTES..].copy_from_slice(&pages(32..35));
    check(&[(2, 32..35)], 2, last_alone);
    let (file, summary) = written(&[]);
    assert_eq!(summary.file_bytes, (PAGE_BYTES + 3 * ENTRY_BYTES) as u64);
    assert_eq!(MemoryReader::open(file, PAGES).unwrap().stored(99), 0);
}

#[test]
fn a_chunk_that_is_written_again_is_what_it_was_the_second_time() {
    let (file, first) = written(&[(0, 0..16), (1, 16..32)]);
    assert_eq!(first.garbage_bytes, 0);
    let length = file.metadata().unwrap().len();
    let (file, second) = written(&[(1, 0..16), (0, 0..16), (1, 16..32)]);
    assert_eq!(
        second.garbage_bytes,
        file.metadata().unwrap().len() - length
    );
    let reader = MemoryReader::open(file, PAGES).unwrap();
    assert!(all(&reader).unwrap()[..2 * CHUNK_BYTES] == pages(0..32));
    let zeros = tempfile::tempfile().unwrap();
    let mut writer = MemoryWriter::new(zeros.try_clone().unwrap(), PAGES).unwrap();
    writer.put(0, &pages(0..16)).unwrap();
    writer.put(0, &[0; CHUNK_BYTES]).unwrap();
    let summary = writer.finish().unwrap();
    assert_eq!(summary.stored_pages, 0);
    assert!(summary.garbage_bytes > 0);
    assert_eq!(MemoryReader::open(zeros, PAGES).unwrap().stored(0), 0);
}

#[test]
fn a_chunk_that_the_guest_has_not_is_not_written() {
    let file = tempfile::tempfile().unwrap();
    let mut writer = MemoryWriter::new(file, PAGES).unwrap();
    for (chunk, bytes) in [
        (3, CHUNK_BYTES),
        (u64::MAX, CHUNK_BYTES),
        (0, PAGE_BYTES),
        (2, CHUNK_BYTES),
        (0, 1),
    ] {
        let error = writer.put(chunk, &vec![1; bytes]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{chunk} {bytes}");
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    let (file, _) = written(&[(2, 32..35), (0, 0..16)]);
    let whole = bytes_of(&file);
    for length in 0..whole.len() {
        // Every length near an edge, and some between.
        let is_edge = length % PAGE_BYTES < 70 || whole.len() - length < 100;
        if !is_edge && length % 61 != 0 {
            continue;
        }
        let error = used(&whole[..length]).unwrap_err();
        assert!(error.is_bad_input(), "{length}: {error}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert_eq!(
        refused(&longer),
        format!(
            "the part \"memory\" of the snapshot is damaged: it has {} bytes where {} were written",
            whole.len() + 1,
            whole.len()
        )
    );
}

#[test]
fn every_byte_that_is_changed_is_noticed() {
    let (file, _) = written(&[(0, 0..16), (2, 32..35)]);
    let whole = bytes_of(&file);
    assert!(used(&whole).is_ok());
    let copy = file_of(&whole);
    for at in 0..whole.len() {
        for bit in [1 << (at % 8), 0xff] {
            copy.write_all_at(&[whole[at] ^ bit], at as u64).unwrap();
            let opened = MemoryReader::open(copy.try_clone().unwrap(), PAGES);
            let used = opened.and_then(|it| it.verify(&mut |_| ControlFlow::Continue(())));
            assert!(used.is_err_and(|error| error.is_bad_input()), "byte {at}");
        }
        copy.write_all_at(&whole[at..at + 1], at as u64).unwrap();
    }
}

#[test]
fn what_contradicts_itself_is_refused_with_what_it_says() {
    let (file, _) = written(&[(0, 0..16), (1, 16..32), (2, 32..35)]);
    let whole = bytes_of(&file);
    let index = whole.len() - 3 * ENTRY_BYTES;
    let check = |at: usize, bytes: &[u8], expected: &str| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        let said = refused(&mended(changed));
        assert!(said.ends_with(expected), "{said}");
    };
    let lying = "the part \"memory\" of the snapshot is damaged: it does not begin as such a file does: it is another one, \
                 or was never finished";
    check(0, b"QEVM", lying);
    check(
        8,
        &[2, 0, 0, 0],
        "the part \"memory\" of the snapshot has format 2, and this version of Mother reads format 1",
    );
    check(13, &[0x40], "it has pages of 16384 bytes in chunks of 16");
    check(24, &[32], "it has pages of 4096 bytes in chunks of 32");
    check(28, &[4], "it has the flags 0x4, and format 1 knows none");
    check(16, &[36], "it has 36 pages where the guest has 35");
    check(40, &[0], "its index is not where one can be");
    let beyond = (whole.len() as u64 + 10).to_le_bytes();
    check(32, &beyond, "were written");
    check(
        32,
        &u64::MAX.to_le_bytes(),
        "its index is not where one can be",
    );
    check(
        index + 14,
        &[2],
        "chunk 0 has the flags 0x2, and format 1 knows 0x1",
    );
    check(index + 12, &[0, 0], "chunk 0 is empty and lies somewhere");
    check(
        index + 2 * ENTRY_BYTES + 12,
        &[0xff],
        "chunk 2 has pages that the guest has not",
    );
    check(index + 8, &u32::MAX.to_le_bytes(), "bytes for 10 pages");
    check(index + 8, &[0; 4], "chunk 0 has 0 bytes for 10 pages");
    check(
        index,
        &(index as u64 - 3).to_le_bytes(),
        "chunk 0 lies outside",
    );
    check(index, &u64::MAX.to_le_bytes(), "chunk 0 lies outside");
    check(index, &[0; 8], "chunk 0 lies outside");
    let second: [u8; 8] = whole[index + ENTRY_BYTES..][..8].try_into().unwrap();
    check(index, &second, "chunks of it overlap");
}

#[test]
fn a_chunk_that_unpacks_to_something_else_is_refused() {
    let (file, _) = written(&[(2, 32..35)]);
    let mut bytes = bytes_of(&file);
    let index = bytes.len() - ENTRY_BYTES;
    // It lies there as it is, and is called an LZ4 block: of a few literals.
    bytes[PAGE_BYTES] = 0x30;
    bytes[index + 14] = 0;
    bytes[index + 8..index + 12].copy_from_slice(&100_u32.to_le_bytes());
    let sum = checksum(&bytes[PAGE_BYTES..PAGE_BYTES + 100]);
    bytes[index + 16..].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(
        refused(&mended(bytes)),
        "the part \"memory\" of the snapshot is damaged: chunk 2 does not unpack to as many bytes as it should"
    );
}

#[test]
fn a_file_that_changes_while_it_is_used_is_noticed() {
    let (file, _) = written(&[(0, 0..16), (1, 16..32)]);
    let reader = MemoryReader::open(file.try_clone().unwrap(), PAGES).unwrap();
    let reader = reader.named("base");
    file.set_len(PAGE_BYTES as u64 + 100).unwrap();
    let mut bytes = vec![0; CHUNK_BYTES];
    let error = reader.read(1, &mut bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the part \"memory\" of snapshot \"base\" is damaged"
    );
}

#[test]
fn verification_says_how_far_it_is_and_can_be_stopped() {
    let (file, _) = written(&[(0, 0..16)]);
    let reader = MemoryReader::open(file, PAGES).unwrap();
    let mut seen = Vec::new();
    reader
        .verify(&mut |done| {
            seen.push(done);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, [1, 2, 3]);
    let stopped = reader.verify(&mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(SnapshotError::Stopped)));
}

#[test]
fn a_file_that_was_not_finished_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let mut writer = MemoryWriter::new(file.try_clone().unwrap(), PAGES).unwrap();
    writer.put(0, &pages(0..16)).unwrap();
    drop(writer);
    let said = refused(&bytes_of(&file));
    assert!(said.contains("it does not begin as such a file"), "{said}");
    let read_only = File::open("/dev/zero").unwrap();
    assert!(MemoryWriter::new(read_only, PAGES).is_err());
}

#[test]
fn a_packed_part_comes_back_or_is_refused() {
    let bytes = b"{\"vcpus\": [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]}".repeat(40);
    let packed = pack(&bytes);
    assert!(packed.len() < bytes.len() / 4);
    assert_eq!(unpack("state", &packed).unwrap(), bytes);
    assert_eq!(unpack("state", &pack(b"")).unwrap(), b"");
    for length in 0..packed.len() {
        assert!(unpack("state", &packed[..length]).is_err(), "{length}");
    }
    let mut huge = packed.clone();
    huge[8..16].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    let error = unpack("state", &huge).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.ends_with("bytes, which it cannot be"), "{cause}");
}
