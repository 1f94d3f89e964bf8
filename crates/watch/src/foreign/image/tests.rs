//! Files that are what their first bytes say, files that are not, and files that want to mislead.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use insight::{Extent, FileMemory, FileSlot, Memory};
use x86::{Gpa, PAGE_SIZE};

use super::*;
use crate::dump::{self, DumpFormat, HoleFile};

const PAGE: usize = PAGE_SIZE as usize;
/// Two stretches with a gap, as a guest has them.
const SLOTS: [(u64, u64, u64); 2] = [(0, 0x20_0000, 0), (0x1_0000_0000, 0x10_0000, 0x20_0000)];

/// Memory with a byte of its own in some pages and nothing in the others.
fn memory() -> FileMemory {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x30_0000).unwrap();
    for page in [0, 3, 0x1ff, 0x200, 0x2ff] {
        let byte = (page % 251) as u8 + 1;
        file.write_all_at(&[byte; PAGE], page * PAGE_SIZE).unwrap();
    }
    let slot = |(gpa, len_bytes, file_offset)| FileSlot {
        gpa: Gpa(gpa),
        len_bytes,
        file_offset,
    };
    FileMemory::new(file, SLOTS.map(slot).to_vec())
}

fn dumped(format: DumpFormat) -> File {
    let memory = memory();
    let guest = dump::Guest {
        memory: &memory,
        vcpus: &[],
        kernel: None,
        name: "web",
        taken_at: Duration::ZERO,
        is_torn: false,
    };
    let mut to = HoleFile::new(tempfile::tempfile().unwrap());
    dump::write(&guest, format, &mut to, &mut |_| ()).unwrap();
    to.finish().unwrap()
}

fn opened(file: &File) -> Result<MemoryImage, ImageError> {
    let len_bytes = file.metadata().unwrap().len();
    from_file(file.try_clone().unwrap(), len_bytes)
}

fn check_same(image: &MemoryImage) {
    let expected = memory();
    let found = &image.candidates[0].memory;
    assert_eq!(found.extents(), expected.extents(), "{:?}", image.format);
    for Extent { start, len_bytes } in expected.extents() {
        let mut ours = vec![0; len_bytes as usize];
        let mut theirs = ours.clone();
        expected.read(start, &mut ours).unwrap();
        found.read(start, &mut theirs).unwrap();
        assert!(ours == theirs, "{:?} at {start}", image.format);
        // In pieces, over the borders of pages.
        let mut piece = [0; 6];
        found.read(Gpa(start.0 + 0x3ffd), &mut piece).unwrap();
        assert_eq!(piece, ours[0x3ffd..0x4003]);
    }
    let mut byte = [0];
    assert!(found.read(Gpa(0x20_0000), &mut byte).is_err(), "the gap");
}

#[test]
fn what_mother_dumps_is_read_as_it_was() {
    for (format, expected) in [
        (DumpFormat::Elf, ImageFormat::Elf),
        (DumpFormat::Kdump, ImageFormat::Kdump),
        (DumpFormat::Lime, ImageFormat::Lime),
    ] {
        let image = opened(&dumped(format)).unwrap();
        assert_eq!(image.format, expected);
        check_same(&image);
    }
}

/// As makedumpfile writes to a pipe: pieces in any order, and an end.
fn flattened(plain: &File) -> File {
    let len = plain.metadata().unwrap().len() as usize;
    let mut bytes = vec![0; len];
    plain.read_exact_at(&mut bytes, 0).unwrap();
    let mut flat = b"makedumpfile\0\0\0\0".to_vec();
    flat.extend([1_u64, 1].iter().flat_map(|number| number.to_be_bytes()));
    flat.resize(4096, 0);
    let mut pieces: Vec<(usize, &[u8])> = bytes.chunks(10_000).enumerate().collect();
    pieces.reverse();
    for (number, piece) in pieces {
        flat.extend((number as u64 * 10_000).to_be_bytes());
        flat.extend((piece.len() as u64).to_be_bytes());
        flat.extend(piece);
    }
    flat.extend([0xff; 16]);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&flat, 0).unwrap();
    file
}

#[test]
fn a_flattened_dump_is_put_together() {
    let flat = flattened(&dumped(DumpFormat::Kdump));
    check_same(&opened(&flat).unwrap());
    flat.set_len(flat.metadata().unwrap().len() - 16).unwrap();
    assert!(
        matches!(opened(&flat), Err(ImageError::Damaged(_))),
        "no end"
    );
}

#[test]
fn a_file_that_is_cut_off_or_lies_is_refused_and_never_more_than_that() {
    for format in [DumpFormat::Elf, DumpFormat::Kdump, DumpFormat::Lime] {
        let whole = dumped(format);
        let len = whole.metadata().unwrap().len();
        for cut in [1, 20, 63, 100, 4097, 9000, len / 2] {
            let copy = tempfile::tempfile().unwrap();
            let mut bytes = vec![0; cut as usize];
            whole.read_exact_at(&mut bytes, 0).unwrap();
            copy.write_all_at(&bytes, 0).unwrap();
            if let Ok(image) = opened(&copy) {
                let mut page = [0; PAGE];
                let memory = &image.candidates[0].memory;
                // What is behind the cut cannot be read; nothing else may happen.
                let _ = memory.read(Gpa(0x1_000f_f000), &mut page);
            }
        }
        // Every byte of the headers, as somebody might have changed it.
        for at in (0..4096 + 256).step_by(3) {
            let mut byte = [0];
            if whole.read_exact_at(&mut byte, at).is_err() {
                break;
            }
            whole.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
            if let Ok(image) = opened(&whole) {
                let mut page = [0; PAGE];
                let _ = image.candidates[0].memory.read(Gpa(0), &mut page);
                let _ = image.candidates[0].memory.next_data(Gpa(0));
            }
            whole.write_all_at(&byte, at).unwrap();
        }
    }
}

#[test]
fn of_two_stretches_at_one_place_the_longer_is_kept() {
    let slot = |gpa, len_bytes, file_offset| FileSlot {
        gpa: Gpa(gpa),
        len_bytes,
        file_offset,
    };
    let all = vec![
        slot(0x1000, 0x1000, 0x9000),
        slot(0, 0x4000, 0x2000),
        slot(0x3000, 0x3000, 0x8000),
    ];
    assert_eq!(
        apart(all),
        [slot(0, 0x4000, 0x2000), slot(0x4000, 0x2000, 0x9000)]
    );
}

#[test]
fn raw_memory_is_as_many_candidates_as_there_are_layouts() {
    let file = tempfile::tempfile().unwrap();
    let check = |len: u64, expected: usize| {
        file.set_len(len).unwrap();
        let image = opened(&file).unwrap();
        assert_eq!(image.format, ImageFormat::Raw);
        assert_eq!(image.candidates.len(), expected, "{len:#x}");
    };
    check(256 << 20, 1);
    // Firecracker and Cloud Hypervisor write what is below the hole, and behind it what is above.
    check(5 << 30, 6);
    file.set_len(1000).unwrap();
    assert!(opened(&file).is_err());
}
