//! Dumps of small memories, read again by readers written from the layouts and from nothing of ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};

use api::SelectorsView;
use flate2::read::ZlibDecoder;
use insight::{Extent, FileMemory, FileSlot};
use x86::{Gpa, PAGE_SIZE};

use super::*;

const PAGE: usize = PAGE_SIZE as usize;
/// Two stretches with a gap between them, and in which pages what stands; the others are holes.
const SLOTS: [(u64, u64); 2] = [(0, 300), (0x40_0000, 4)];
const WORDS: [(u64, &str); 4] = [(0, "first"), (7, "seven"), (299, "last"), (0x402, "high")];
const TEXT: &str = "OSRELEASE=6.1.0\nPAGESIZE=4096\n";

fn memory() -> FileMemory {
    let file = tempfile::tempfile().unwrap();
    let mut slots = Vec::new();
    let mut offset = 0;
    for (gpa, pages) in SLOTS {
        for (frame, word) in WORDS {
            if let Some(inside) = (frame * PAGE_SIZE).checked_sub(gpa)
                && inside < pages * PAGE_SIZE
            {
                file.write_all_at(word.as_bytes(), offset + inside).unwrap();
            }
        }
        slots.push(FileSlot {
            gpa: Gpa(gpa),
            len_bytes: pages * PAGE_SIZE,
            file_offset: offset,
        });
        offset += pages * PAGE_SIZE;
    }
    // A page that was written and is zero all the same.
    file.write_all_at(&[0; PAGE], 9 * PAGE_SIZE).unwrap();
    // One that gets no smaller by compressing.
    file.write_all_at(&noise(), 20 * PAGE_SIZE).unwrap();
    file.set_len(offset).unwrap();
    FileMemory::new(file, slots)
}

fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..PAGE).map(|_| next()).collect()
}

/// What the memory of [`memory`] has where it is not zero, by frame.
fn expected() -> BTreeMap<u64, Vec<u8>> {
    let page = |word: &str| {
        let mut page = word.as_bytes().to_vec();
        page.resize(PAGE, 0);
        page
    };
    let mut pages: BTreeMap<u64, Vec<u8>> = WORDS
        .iter()
        .map(|(frame, word)| (*frame, page(word)))
        .collect();
    pages.insert(20, noise());
    pages
}

fn vcpus() -> Vec<VcpuView> {
    let vcpu = |vcpu_id: u32| VcpuView {
        vcpu_id,
        gprs: std::array::from_fn(|number| 0x100 + number as u64),
        rip: 0xffff_ffff_8100_0010,
        rflags: 0x246,
        fs_base: 0x7f00,
        gs_base: 0xffff_8880_0000_1000,
        selectors: SelectorsView {
            cs: 0x10,
            ss: 0x18,
            ds: 1,
            es: 2,
            fs: 3,
            gs: 4,
        },
        ..VcpuView::default()
    };
    (0..2).map(vcpu).collect()
}

fn kernel() -> DumpedKernel {
    DumpedKernel {
        release: "6.1.0".to_owned(),
        version: "#1 SMP".to_owned(),
        hostname: Some("inside".to_owned()),
        vmcoreinfo: Some(TEXT.to_owned()),
        image: Some(Placement {
            gva: Gva(0xffff_ffff_8100_0000),
            gpa: Gpa(0x2000),
            len_bytes: 0x3000,
        }),
        direct_map: Some(Gva(0xffff_8880_0000_0000)),
        phys_base: 0x2000_u64.wrapping_sub(0x100_0000),
    }
}

struct Written {
    file: File,
    dumped: Dumped,
    heard: Vec<u64>,
}

fn written(format: DumpFormat, is_torn: bool) -> Written {
    let memory = memory();
    let vcpus = vcpus();
    let kernel = kernel();
    let guest = Guest {
        memory: &memory,
        vcpus: &vcpus,
        kernel: Some(&kernel),
        name: "web",
        taken_at: Duration::from_secs(1_700_000_000),
        is_torn,
    };
    let mut heard = Vec::new();
    let mut to = HoleFile::new(tempfile::tempfile().unwrap());
    let dumped = write(&guest, format, &mut to, &mut |done| heard.push(done)).unwrap();
    if format.is_for_pipes() {
        // A pipe gets the same bytes.
        let mut pipe = Pipe(Vec::new());
        write_in_order(&guest, format, &mut pipe, &mut |_| ()).unwrap();
        let file = to.finish().unwrap();
        assert!(bytes(&file, 0, pipe.0.len()) == pipe.0, "{format}");
        assert_eq!(file.metadata().unwrap().len(), pipe.0.len() as u64);
        return Written {
            file,
            dumped,
            heard,
        };
    }
    Written {
        file: to.finish().unwrap(),
        dumped,
        heard,
    }
}

fn bytes(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn number<const N: usize>(file: &File, at: u64) -> u64 {
    let bytes = bytes(file, at, N);
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Pages at a place of the file that are not zero, by frame from `frame` on.
fn pages_at(file: &File, at: u64, frame: u64, count: u64) -> BTreeMap<u64, Vec<u8>> {
    let page = |number: u64| (frame + number, bytes(file, at + number * PAGE_SIZE, PAGE));
    let pages = (0..count).map(page);
    pages
        .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
        .collect()
}

/// Notes by owner and type.
fn read_notes(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut notes = Vec::new();
    while bytes.len() >= 12 {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let name = word(0) as usize;
        let contents = word(4) as usize;
        let kind = word(8);
        let contents_at = 12 + name.next_multiple_of(4);
        let owner = String::from_utf8(bytes[12..12 + name - 1].to_vec()).unwrap();
        let of = bytes[contents_at..contents_at + contents].to_vec();
        notes.push((owner, kind, of));
        bytes = &bytes[contents_at + contents.next_multiple_of(4)..];
    }
    notes
}

fn check_notes(bytes: &[u8], is_torn: bool) {
    let notes = read_notes(bytes);
    let owners: Vec<&str> = notes.iter().map(|(owner, ..)| owner.as_str()).collect();
    assert_eq!(owners, ["CORE", "CORE", "VMCOREINFO", "MOTHER"]);
    let (_, kind, status) = &notes[1];
    assert_eq!((*kind, status.len()), (1, 336));
    let word = |at: usize| u64::from_le_bytes(status[at..at + 8].try_into().unwrap());
    assert_eq!(word(32) as u32, 2, "the second thread");
    // By the places of `struct user_regs_struct` behind the 112 bytes before it.
    let register = |place: usize| word(112 + 8 * place);
    let by_place = [
        (0, 0x10f, "r15"),
        (4, 0x105, "rbp"),
        (5, 0x103, "rbx"),
        (9, 0x108, "r8"),
        (10, 0x100, "rax"),
        (11, 0x101, "rcx"),
        (12, 0x102, "rdx"),
        (13, 0x106, "rsi"),
        (14, 0x107, "rdi"),
        (15, u64::MAX, "orig_rax"),
        (16, 0xffff_ffff_8100_0010, "rip"),
        (17, 0x10, "cs"),
        (18, 0x246, "eflags"),
        (19, 0x104, "rsp"),
        (20, 0x18, "ss"),
        (21, 0x7f00, "fs base"),
        (22, 0xffff_8880_0000_1000, "gs base"),
        (23, 1, "ds"),
        (26, 4, "gs"),
    ];
    for (place, value, name) in by_place {
        assert_eq!(register(place), value, "{name}");
    }
    assert_eq!(notes[2].2, TEXT.as_bytes());
    let ours = String::from_utf8(notes[3].2.clone()).unwrap();
    let torn = if is_torn { "TORN=yes" } else { "TORN=no" };
    assert!(
        ours.starts_with("VM=web\nTIME=1700000000\n") && ours.contains(torn),
        "{ours}"
    );
}

#[test]
fn an_elf_core_has_registers_vmcoreinfo_and_memory_by_both_addresses() {
    for is_torn in [false, true] {
        let Written { file, .. } = written(DumpFormat::Elf, is_torn);
        assert_eq!(bytes(&file, 0, 7), b"\x7fELF\x02\x01\x01");
        assert_eq!((number::<2>(&file, 16), number::<2>(&file, 18)), (4, 62));
        assert_eq!((number::<8>(&file, 32), number::<2>(&file, 54)), (64, 56));
        let count = number::<2>(&file, 56);
        let headers: Vec<[u64; 6]> = (0..count)
            .map(|index| {
                let at = 64 + 56 * index;
                let field = |place: u64| number::<8>(&file, at + place);
                [
                    number::<4>(&file, at),
                    field(8),
                    field(16),
                    field(24),
                    field(32),
                    field(48),
                ]
            })
            .collect();
        let [note, image, low, high] = headers.as_slice() else {
            panic!("{headers:x?}");
        };
        assert_eq!(note[0], 4);
        check_notes(&bytes(&file, note[1], note[4] as usize), is_torn);
        // Type, place in the file, virtual, physical, length, alignment.
        let expected_of = |at: u64, gva, gpa, pages: u64| [1, at, gva, gpa, pages * PAGE_SIZE, 0];
        assert_eq!(*low, expected_of(low[1], 0xffff_8880_0000_0000, 0, 300));
        let high_at = low[1] + 300 * PAGE_SIZE;
        assert_eq!(
            *high,
            expected_of(high_at, 0xffff_8880_0040_0000, 0x40_0000, 4)
        );
        assert_eq!(
            *image,
            expected_of(low[1] + 0x2000, 0xffff_ffff_8100_0000, 0x2000, 3)
        );
        let mut pages = pages_at(&file, low[1], 0, 300);
        pages.extend(pages_at(&file, high[1], 0x400, 4));
        assert!(pages == expected());
    }
}

#[test]
fn a_core_of_an_unknown_kernel_has_memory_and_registers_alone() {
    let memory = memory();
    let guest = Guest {
        memory: &memory,
        vcpus: &vcpus(),
        kernel: None,
        name: "web",
        taken_at: Duration::ZERO,
        is_torn: false,
    };
    for format in [DumpFormat::Elf, DumpFormat::Kdump] {
        let mut to = HoleFile::new(tempfile::tempfile().unwrap());
        write(&guest, format, &mut to, &mut |_| ()).unwrap();
        let file = to.finish().unwrap();
        if format == DumpFormat::Elf {
            assert_eq!(number::<2>(&file, 56), 3, "no image");
            assert_eq!(number::<8>(&file, 64 + 56 + 16), 0, "no virtual address");
            let len = number::<8>(&file, 64 + 32) as usize;
            let notes = read_notes(&bytes(&file, number::<8>(&file, 72), len));
            assert!(notes.iter().all(|(owner, ..)| owner != "VMCOREINFO"));
        } else {
            assert_eq!(number::<8>(&file, 4096 + 40), 0, "no VMCOREINFO");
        }
    }
}

#[test]
fn a_compressed_dump_has_each_page_by_its_descriptor() {
    let Written { file, .. } = written(DumpFormat::Kdump, false);
    assert_eq!(bytes(&file, 0, 8), b"KDUMP   ");
    assert_eq!(number::<4>(&file, 8), 6);
    let name = |place: u64| {
        let field = bytes(&file, 12 + 65 * place, 65);
        let end = field.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(field[..end].to_vec()).unwrap()
    };
    let names = [0, 1, 2, 3, 4].map(name);
    assert_eq!(names, ["Linux", "inside", "6.1.0", "#1 SMP", "x86_64"]);
    assert_eq!(number::<8>(&file, 408), 1_700_000_000);
    let [status, block, sub_blocks, bitmap_blocks, frames] =
        [424, 428, 432, 436, 440].map(|at| number::<4>(&file, at));
    assert_eq!((status, block, frames), (1, PAGE_SIZE, 0x404));
    assert_eq!(number::<4>(&file, 460), 2, "CPUs");
    let sub = |place: u64| number::<8>(&file, block + place);
    assert_eq!(sub(0), kernel().phys_base);
    assert_eq!((number::<4>(&file, block + 8), sub(96)), (1, 0x404));
    assert_eq!(bytes(&file, sub(32), sub(40) as usize), TEXT.as_bytes());
    check_notes(&bytes(&file, sub(48), sub(56) as usize), false);
    let bitmap_len = bitmap_blocks / 2 * block;
    let bitmaps_at = (1 + sub_blocks) * block;
    let first = bytes(&file, bitmaps_at, bitmap_len as usize);
    let second = bytes(&file, bitmaps_at + bitmap_len, bitmap_len as usize);
    assert!(first == second, "every page of memory is there");
    let is_set = |frame: &u64| second[*frame as usize / 8] >> (frame % 8) & 1 == 1;
    let dumped: Vec<u64> = (0..bitmap_len * 8).filter(is_set).collect();
    assert_eq!(dumped, (0..300).chain(0x400..0x404).collect::<Vec<u64>>());
    let mut pages = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (index, frame) in dumped.iter().enumerate() {
        let at = bitmaps_at + 2 * bitmap_len + 24 * index as u64;
        let place = number::<8>(&file, at);
        let len = number::<4>(&file, at + 8);
        let flags = number::<4>(&file, at + 12);
        let stored = bytes(&file, place, len as usize);
        let mut page = Vec::new();
        match flags {
            0 => page = stored,
            1 => drop(
                ZlibDecoder::new(&stored[..])
                    .read_to_end(&mut page)
                    .unwrap(),
            ),
            other => panic!("frame {frame:#x} is compressed by {other}"),
        }
        assert_eq!(page.len(), PAGE, "frame {frame:#x}");
        places.insert(place, flags);
        pages.insert(*frame, page);
    }
    pages.retain(|_, page| page.iter().any(|byte| *byte != 0));
    assert!(pages == expected());
    assert_eq!(places.len(), expected().len() + 1, "all zeros are one page");
    assert_eq!(
        places.values().filter(|flags| **flags == 0).count(),
        1,
        "noise"
    );
}

#[test]
fn lime_has_a_header_before_each_stretch_and_raw_has_every_byte_at_its_address() {
    let Written { file, .. } = written(DumpFormat::Lime, false);
    let mut at = 0;
    let mut pages = BTreeMap::new();
    while at < file.metadata().unwrap().len() {
        assert_eq!(bytes(&file, at, 4), b"EMiL");
        assert_eq!(number::<4>(&file, at + 4), 1);
        let [start, last, reserved] = [8, 16, 24].map(|place| number::<8>(&file, at + place));
        assert_eq!(
            (reserved, start % PAGE_SIZE, (last + 1) % PAGE_SIZE),
            (0, 0, 0)
        );
        let count = (last + 1 - start) / PAGE_SIZE;
        pages.extend(pages_at(&file, at + 32, start / PAGE_SIZE, count));
        at += 32 + last + 1 - start;
    }
    assert!(pages == expected());
    let Written { file, .. } = written(DumpFormat::Raw, false);
    assert_eq!(file.metadata().unwrap().len(), 0x404 * PAGE_SIZE);
    assert!(pages_at(&file, 0, 0, 0x404) == expected());
}

#[test]
fn zeros_stay_holes_and_who_waits_hears_how_far_it_is() {
    for format in [DumpFormat::Elf, DumpFormat::Lime, DumpFormat::Raw] {
        let Written {
            file,
            dumped,
            heard,
        } = written(format, false);
        let memory_bytes = 304 * PAGE_SIZE;
        let data_bytes = 5 * PAGE_SIZE;
        assert_eq!(
            dumped,
            Dumped {
                memory_bytes,
                data_bytes
            }
        );
        assert!(
            heard.is_sorted() && heard.last() == Some(&memory_bytes),
            "{heard:?}"
        );
        // Of LiME, whose headers move pages, each may lie on two of the disk's.
        let held = file.metadata().unwrap().blocks() * 512;
        assert!(held <= 3 * data_bytes, "{format}: {held} bytes on disk");
    }
}

/// Memory of which a page cannot be read.
struct Broken(FileMemory);

impl Memory for Broken {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let bad = Gpa(7 * PAGE_SIZE);
        let is_in = gpa <= bad && bad.0 < gpa.0 + bytes.len() as u64;
        match is_in {
            true => Err(Unreadable::PagedOut(
                bad,
                "the VM's process is gone".to_owned(),
            )),
            false => self.0.read(gpa, bytes),
        }
    }

    fn extents(&self) -> Vec<Extent> {
        self.0.extents()
    }
}

/// A disk that has room for a page.
struct Full(HoleFile, usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 = self
            .1
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Full {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Output for Full {
    fn zeros(&mut self, len_bytes: u64) -> io::Result<()> {
        self.0.zeros(len_bytes)
    }
}

#[test]
fn what_cannot_be_read_or_written_is_no_dump() {
    let all = [
        DumpFormat::Elf,
        DumpFormat::Kdump,
        DumpFormat::Lime,
        DumpFormat::Raw,
    ];
    for format in all {
        let broken = Broken(memory());
        let whole = memory();
        let guest = |memory| Guest {
            memory,
            vcpus: &[],
            kernel: None,
            name: "web",
            taken_at: Duration::ZERO,
            is_torn: false,
        };
        let mut to = HoleFile::new(tempfile::tempfile().unwrap());
        let unread = write(&guest(&broken), format, &mut to, &mut |_| ());
        assert!(matches!(unread, Err(DumpError::Read(_))), "{format}");
        let mut full = Full(HoleFile::new(tempfile::tempfile().unwrap()), PAGE);
        let unwritten = write(&guest(&whole), format, &mut full, &mut |_| ());
        assert!(matches!(unwritten, Err(DumpError::Write(_))), "{format}");
    }
}
