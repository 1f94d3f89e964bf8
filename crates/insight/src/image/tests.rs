//! Kernels made by hand: small, with everything that is looked for in one.

use std::io::Write;

use super::*;
use crate::profile::Profile;

/// Where it is linked.
pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
pub(crate) const BANNER: &[u8] = b"Linux version 6.1.0-test (gcc) #1\n";
const BUILD_ID: [u8; 20] = [0xb1; 20];
/// Where the build-id, and the base of symbols' addresses, are from the beginning.
pub(crate) const BUILD_ID_AT: u64 = 0x210;
pub(crate) const BASE_AT: u64 = 0x400 + 4 * COUNT as u64;
/// How many symbols there are.
const COUNT: usize = 600;

/// Names and places of symbols, sorted by place.
const SYMBOLS: [(&str, u32); 8] = [
    ("_text", 0),
    ("entry_SYSCALL_64", 0x40),
    ("linux_banner", 0x100),
    ("__start_notes", 0x200),
    ("__stop_notes", 0x240),
    ("sys_call_table", 0x280),
    ("kallsyms", 0x400),
    ("_end", 0x4000),
];

/// The bytes of the kernel as it is linked: code, banner, note, a table of addresses, and `kallsyms` as of 6.1.
pub(crate) fn linked() -> Vec<u8> {
    linked_with(BANNER)
}

/// The same with another banner.
pub(crate) fn linked_with(banner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    // mov rdi, TEXT + 0x100; call a per-CPU distance; an address.
    bytes[0x40..0x47].copy_from_slice(&[0x48, 0xc7, 0xc7, 0x00, 0x01, 0x00, 0x81]);
    bytes[0x50..0x54].copy_from_slice(&0x1000_u32.to_le_bytes());
    bytes[0x100..0x100 + banner.len()].copy_from_slice(banner);
    let note = [b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0".as_slice(), &BUILD_ID].concat();
    bytes[0x200..0x200 + note.len()].copy_from_slice(&note);
    bytes[0x280..0x288].copy_from_slice(&(TEXT + 0x40).to_le_bytes());
    // Offsets below the base, base, count, names, markers, tokens (scripts/kallsyms.c). 512 symbols: two markers at least.
    let count = COUNT;
    let name = |index: usize| match SYMBOLS.get(index) {
        Some((name, _)) => format!("T{name}"),
        None => format!("tfiller_{index}"),
    };
    let place = |index: usize| SYMBOLS.get(index).map_or(0x300, |(_, place)| *place);
    for index in 0..count {
        bytes.extend((-1 - i64::from(place(index)) as i32).to_le_bytes());
    }
    bytes.extend(TEXT.to_le_bytes());
    bytes.extend(u64::from(count as u32).to_le_bytes());
    let start = bytes.len();
    let mut markers = Vec::new();
    for index in 0..count {
        if index % 256 == 0 {
            markers.push((bytes.len() - start) as u32);
        }
        let name = name(index);
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(markers.iter().flat_map(|marker| marker.to_le_bytes()));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(crate::kallsyms::test_tokens());
    bytes.resize(0x4000, 0);
    bytes
}

/// Places of addresses: wide, inverse, narrow.
type Places<'a> = [&'a [u64]; 3];
const PLACES: Places<'static> = [&[TEXT + 0x280], &[TEXT + 0x50], &[TEXT + 0x43]];

/// An ELF file with the kernel in two segments, and behind it its relocations.
pub(crate) fn vmlinux(lists: &[&[u64]]) -> Vec<u8> {
    vmlinux_of(&linked(), lists)
}

/// The same of another kernel.
pub(crate) fn vmlinux_of(kernel: &[u8], lists: &[&[u64]]) -> Vec<u8> {
    let (first, second) = kernel.split_at(0x280);
    let header: [&[u8]; 4] = [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0",
        // e_entry, e_phoff, e_shoff
        &[[0; 8], 64_u64.to_le_bytes(), [0; 8]].concat(),
        // e_flags, e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
        &[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0],
        &[],
    ];
    let mut file = header.concat();
    let offset = 64 + 2 * 56;
    for (at, from, len) in [
        (0, 0, first.len()),
        // As variables of each CPU are: linked at 0, and in the image all the same.
        (0x280, first.len(), second.len()),
    ] {
        let physical = 0x100_0000 + at as u64;
        let len = len as u64;
        file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
        let virtual_address = if at == 0 { TEXT } else { 0 };
        for number in [
            (offset + from) as u64,
            virtual_address,
            physical,
            len,
            len,
            0x1000,
        ] {
            file.extend(number.to_le_bytes());
        }
    }
    file.extend(kernel);
    for list in lists {
        file.extend([0; 4]);
        file.extend(list.iter().flat_map(|place| (*place as u32).to_le_bytes()));
    }
    file
}

/// A bzImage around a packed kernel.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024 + 0x20];
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&0x20_u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}

/// LZ4's old format, with the length behind it.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    for block in bytes.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed.extend((bytes.len() as u32).to_le_bytes());
    packed
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    ruzstd::encoding::compress_to_vec(bytes, level)
}

/// xz with nothing in it but chunks that are not compressed (xz-file-format.txt; LZMA2's control byte 1). The checksum is
/// none.
fn xz(bytes: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    let mut file = b"\xfd7zXZ\0\0\0".to_vec();
    let flags = crc(&[0, 0]);
    file.extend(flags);
    // A block with two filters: x86 code (4), LZMA2 (0x21) with a window of 1 MiB.
    let header = [3, 1, 4, 0, 0x21, 1, 16, 0, 0, 0, 0, 0];
    let block_start = file.len();
    file.extend(header);
    let sum = crc(&header);
    file.extend(sum);
    for (index, chunk) in bytes.chunks(1 << 16).enumerate() {
        file.push(if index == 0 { 1 } else { 2 });
        file.extend(((chunk.len() - 1) as u16).to_be_bytes());
        file.extend(chunk);
    }
    file.push(0);
    let unpadded = file.len() - block_start;
    file.resize(file.len().next_multiple_of(4), 0);
    let index_start = file.len();
    file.extend([0, 1]);
    for mut number in [unpadded, bytes.len()] {
        while number >= 0x80 {
            file.push(number as u8 | 0x80);
            number >>= 7;
        }
        file.push(number as u8);
    }
    file.resize(file.len().next_multiple_of(4), 0);
    let sum = crc(&file[index_start..]);
    file.extend(sum);
    let backward = ((file.len() - index_start) / 4 - 1) as u32;
    let footer = [&backward.to_le_bytes()[..], &[0, 0]].concat();
    let sum = crc(&footer);
    file.extend(sum);
    file.extend(footer);
    file.extend(b"YZ");
    file
}

#[test]
fn every_kind_of_kernel_file_has_the_same_kernel_in_it() {
    let vmlinux = vmlinux(&PLACES);
    let files = [
        ("ELF", vmlinux.clone()),
        ("not compressed", bzimage(&vmlinux)),
        ("lz4", bzimage(&lz4(&vmlinux))),
        ("gzip", bzimage(&gzip(&vmlinux))),
        ("zstd", bzimage(&zstd(&vmlinux))),
        (
            "xz, with no code that its filter changes",
            bzimage(&xz(&vmlinux)),
        ),
    ];
    for (kind, file) in files {
        let image = KernelImage::decode(&file).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(
            (image.start, &image.bytes),
            (Gva(TEXT), &linked()),
            "{kind}"
        );
        let (profile, text) = Profile::decode(image.as_image()).expect(kind);
        assert_eq!(text, Gva(TEXT));
        assert_eq!(profile.release(), "6.1.0-test");
        assert_eq!(profile.build_id, Some((BUILD_ID, 0x210)));
        for (name, place) in SYMBOLS {
            assert_eq!(
                profile.offset(name),
                Some(i64::from(place)),
                "{kind}: {name}"
            );
        }
    }
}

#[test]
fn a_kernel_that_was_moved_has_its_addresses_corrected() {
    let slide = 0x1a20_0000;
    let check = |lists: &[&[u64]], is_inverse: bool| {
        let image = KernelImage::decode(&bzimage(&lz4(&vmlinux(lists)))).unwrap();
        let part = |at: u64, len: u64| image.moved(TEXT + at..TEXT + at + len, slide).unwrap();
        assert_eq!(part(0x40, 7), [0x48, 0xc7, 0xc7, 0x00, 0x01, 0x20, 0x9b]);
        assert_eq!(part(0x280, 8), (TEXT + 0x40 + slide).to_le_bytes());
        let distance = if is_inverse {
            0x1000_u32.wrapping_sub(slide as u32)
        } else {
            0x1000
        };
        assert_eq!(part(0x50, 4), distance.to_le_bytes());
        // What lies partly outside is left.
        assert_eq!(part(0x40, 5), [0x48, 0xc7, 0xc7, 0x00, 0x01]);
        // And without a move nothing changes.
        let whole = image.moved(TEXT..TEXT + 0x4000, 0);
        assert_eq!(whole.as_deref(), Some(&linked()[..]));
        assert_eq!(image.moved(TEXT + 0x3fff..TEXT + 0x4001, 0), None);
        assert_eq!(image.moved(TEXT - 1..TEXT + 1, 0), None);
    };
    check(&PLACES, true);
    // As since 6.15.
    check(&[PLACES[0], PLACES[2]], false);
}

#[test]
fn a_kernel_that_does_not_say_where_its_addresses_are_cannot_be_moved() {
    let check = |lists: &[&[u64]]| {
        let image = KernelImage::decode(&bzimage(&lz4(&vmlinux(lists)))).unwrap();
        assert_eq!(image.moved(TEXT..TEXT + 16, 1 << 21), None);
        assert!(image.moved(TEXT..TEXT + 16, 0).is_some());
    };
    check(&[]);
    check(&[PLACES[0]]);
    check(&[PLACES[0], PLACES[1], PLACES[2], &[TEXT]]);
}

#[test]
fn a_file_that_is_no_kernel_says_what_it_is() {
    let check = |file: &[u8], expected: &str| {
        let error = KernelImage::decode(file).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?}: {error}");
    };
    let good = lz4(&vmlinux(&PLACES));
    check(b"", "neither a bzImage nor an ELF file");
    check(b"#!/bin/sh\n", "neither a bzImage nor an ELF file");
    check(&bzimage(&good)[..2000], "ends before its kernel does");
    check(&bzimage(b"\x89LZO\0"), "LZO");
    check(&bzimage(b"BZh9"), "bzip2");
    check(
        &bzimage(b"\0\0\0\0\0\0"),
        "packed in a way that is not known",
    );
    check(&bzimage(&good[..400]), "lz4");
    check(&bzimage(b"\x1f\x8b\x08\0rubbish"), "gzip");
    check(&bzimage(b"\xfd7zXZ\0rubbish"), "xz");
    check(&bzimage(b"\x28\xb5\x2f\xfdrubbish"), "zstd");
    let mut foreign = vmlinux(&[]);
    foreign[18] = 0x28;
    check(&foreign, "not for x86-64");
    let mut elsewhere = vmlinux(&[]);
    elsewhere[64 + 24 + 4] = 1;
    elsewhere[64 + 56 + 24 + 4] = 1;
    check(&elsewhere, "linked where Linux is");
}

#[test]
fn a_damaged_kernel_file_is_read_or_refused_and_nothing_else() {
    let files = [
        vmlinux(&PLACES),
        bzimage(&vmlinux(&PLACES)),
        bzimage(&lz4(&vmlinux(&PLACES))),
        bzimage(&gzip(&vmlinux(&PLACES))),
        bzimage(&zstd(&vmlinux(&PLACES))),
        bzimage(&xz(&vmlinux(&PLACES))),
    ];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % limit
    };
    let mut read = 0;
    let mut refused = 0;
    for file in &files {
        for _ in 0..400 {
            let mut damaged = file.clone();
            let head = [0x100, 0x500, damaged.len()][random(3)].min(damaged.len());
            for _ in 0..=random(4) {
                damaged[random(head)] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
            }
            if random(10) == 0 {
                damaged.truncate(random(file.len()));
            }
            match KernelImage::decode(&damaged) {
                Ok(image) => {
                    read += 1;
                    let _ = Profile::decode(image.as_image());
                    let _ = image.moved(TEXT..TEXT + 0x300, 0x20_0000);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        read > 300 && refused > 300,
        "{read} read, {refused} refused"
    );
}
