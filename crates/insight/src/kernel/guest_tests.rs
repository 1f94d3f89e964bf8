//! A guest made by hand: page tables, registers and a small kernel, and what becomes of it when somebody writes over it.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::*;
use crate::image::tests::{BANNER, BASE_AT, BUILD_ID_AT, TEXT, bzimage, linked_with, vmlinux_of};
use crate::memory::{Extent, Unreadable};

const MEMORY: usize = 64 << 20;
/// How far the kernel was moved, and where it lies.
const SLIDE: u64 = 0x1a20_0000;
const KERNEL_AT: u64 = 0x200_0000;
const TABLES_AT: u64 = 0x10_0000;

struct Guest(Mutex<Vec<u8>>);

impl Memory for Guest {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let memory = self.0.lock().unwrap();
        let from = memory.get(gpa.0 as usize..gpa.0 as usize + bytes.len());
        bytes.copy_from_slice(from.ok_or(Unreadable::NoMemory(gpa))?);
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        vec![Extent {
            start: Gpa(0),
            len_bytes: MEMORY as u64,
        }]
    }
}

impl Guest {
    /// Mapped at its place, with tables of 2 MiB pages.
    fn new(kernel: &[u8]) -> Arc<Guest> {
        let guest = Guest(Mutex::new(vec![0; MEMORY]));
        let text = TEXT + SLIDE;
        guest.run(kernel);
        let entry = |table: u64, index: u64, value: u64| {
            guest.write(TABLES_AT + table * 4096 + index * 8, &value.to_le_bytes());
        };
        entry(0, text >> 39 & 511, (TABLES_AT + 4096) | 3);
        entry(1, text >> 30 & 511, (TABLES_AT + 8192) | 3);
        entry(2, text >> 21 & 511, KERNEL_AT | 0x83);
        Arc::new(guest)
    }

    /// Puts a kernel there, moved: the base of its symbols' addresses moves with it.
    fn run(&self, kernel: &[u8]) {
        self.write(KERNEL_AT, kernel);
        self.spoil(BASE_AT, &(TEXT + SLIDE).to_le_bytes());
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.0.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// In the kernel, from `_text` on.
    fn spoil(&self, at: u64, bytes: &[u8]) {
        self.write(KERNEL_AT + at, bytes);
    }
}

/// A vCPU whose SYSCALL leads to `entry`, from `_text` on.
fn vcpu(entry: u64) -> Registers {
    Registers {
        cr0: 1 << 31,
        cr3: TABLES_AT,
        efer: 1 << 10,
        lstar: TEXT + SLIDE + entry,
        rflags: 0x202,
        ..Registers::default()
    }
}

fn loaded(kernel: &[u8]) -> Loaded {
    let mut file = tempfile::tempfile().unwrap();
    let bytes = bzimage(&vmlinux_of(kernel, &[&[], &[], &[]]));
    file.write_all(&bytes).unwrap();
    Loaded::open(&file, Sha256::digest(&bytes).into(), None).unwrap()
}

fn recognised(
    guest: &Arc<Guest>,
    entry: u64,
    by: Option<&Loaded>,
) -> Result<Kernel, NotRecognised> {
    let memory = Arc::<Guest>::clone(guest) as Arc<dyn Memory>;
    attach(memory, &[vcpu(entry)], by)
}

#[test]
fn the_kernel_that_was_loaded_is_found_where_it_was_moved_to() {
    let kernel = linked_with(BANNER);
    let guest = Guest::new(&kernel);
    let file = loaded(&kernel);
    // Also when the entry was led elsewhere, into the middle of something: wherever it lies.
    for entry in [0x40, 0x47, 0x300] {
        let found = recognised(&guest, entry, Some(&file)).unwrap();
        assert_eq!(
            (found.rung(), found.text, found.disputes(), found.replaces()),
            (Rung::Image, Gva(TEXT + SLIDE), &[][..], None),
            "{entry:#x}"
        );
        assert_eq!(found.address("linux_banner"), Ok(Gva(TEXT + SLIDE + 0x100)));
        assert!(found.is_still_there());
    }
    // By its own memory it is the same kernel, on a lower rung.
    let own = recognised(&guest, 0x40, None).unwrap();
    assert_eq!((own.rung(), own.text), (Rung::Symbols, Gva(TEXT + SLIDE)));
    assert!(own.profile() == &**file.profile());
}

#[test]
fn what_a_guest_writes_over_its_own_tables_changes_nothing_about_it() {
    let kernel = linked_with(BANNER);
    let guest = Guest::new(&kernel);
    let file = loaded(&kernel);
    guest.spoil(BASE_AT + 16, &[0xff; 0x400]);
    let found = recognised(&guest, 0x40, Some(&file)).unwrap();
    assert_eq!(found.address("_end"), Ok(Gva(TEXT + SLIDE + 0x4000)));
    let not = recognised(&guest, 0x40, None).err().unwrap();
    assert_eq!(not.release(), Some("6.1.0-test"), "{not}");
    // And nothing about another guest with the same kernel.
    let other = recognised(&Guest::new(&kernel), 0x40, Some(&file)).unwrap();
    assert!(other.profile() == found.profile() && other.disputes().is_empty());
}

#[test]
fn a_kernel_that_says_it_is_another_is_disputed() {
    let kernel = linked_with(BANNER);
    let file = loaded(&kernel);
    let check = |at: u64, bytes: &[u8], expected: &str| {
        let guest = Guest::new(&kernel);
        let before = recognised(&guest, 0x40, Some(&file)).unwrap();
        guest.spoil(at, bytes);
        let found = recognised(&guest, 0x40, Some(&file)).unwrap();
        assert_eq!((found.rung(), found.replaces()), (Rung::Image, None));
        assert!(found.disputes().len() == 1 && found.disputes()[0].contains(expected));
        assert!(before.is_still_there(), "one mark is enough");
    };
    check(0x100, b"Linux version 9.9", "the banner in memory");
    check(BUILD_ID_AT, &[0xee; 4], "the build-id in memory");
}

#[test]
fn another_kernel_than_the_one_that_was_loaded_is_known_by_its_own_memory_and_told() {
    let first = linked_with(BANNER);
    let second = linked_with(b"Linux version 7.0.0-other (gcc) #1\n");
    let file = loaded(&first);
    let guest = Guest::new(&first);
    let before = recognised(&guest, 0x40, Some(&file)).unwrap();
    guest.run(&second);
    guest.spoil(BUILD_ID_AT, &[0xc2; 20]);
    assert!(!before.is_still_there());
    let found = recognised(&guest, 0x40, Some(&file)).unwrap();
    assert_eq!(
        (found.rung(), found.release(), found.replaces()),
        (
            Rung::Symbols,
            "7.0.0-other",
            Some("Linux version 6.1.0-test (gcc) #1")
        )
    );
    assert!(!found.is_from_cache());
}

#[test]
fn a_cpu_that_is_parked_tells_nothing_while_another_runs() {
    let kernel = linked_with(BANNER);
    let guest = Guest::new(&kernel);
    let file = loaded(&kernel);
    let parked = Registers {
        is_halted: true,
        rflags: 2,
        cr3: 0x20_0000,
        ..vcpu(0x40)
    };
    let memory = Arc::<Guest>::clone(&guest) as Arc<dyn Memory>;
    let vcpus = [parked.clone(), vcpu(0x40)];
    let found = attach(Arc::clone(&memory), &vcpus, Some(&file)).unwrap();
    assert_eq!((found.rung(), found.disputes()), (Rung::Image, &[][..]));
    // All that there is.
    assert!(attach(memory, &[parked], Some(&file)).is_err());
}

#[test]
fn what_was_kept_of_a_file_is_that_files() {
    let kernel = linked_with(BANNER);
    let bytes = bzimage(&vmlinux_of(&kernel, &[&[], &[], &[]]));
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vmlinuz");
    let open = |digest| Loaded::open(&File::open(&path).unwrap(), digest, Some(folder.path()));
    std::fs::write(&path, &bytes).unwrap();
    assert!(!open(digest).unwrap().is_from_cache());
    assert!(open(digest).unwrap().is_from_cache());
    // A file that is another by now is not believed to be what was loaded; what is kept of that one still is.
    std::fs::write(
        &path,
        bzimage(&vmlinux_of(&linked_with(b"Linux version 1.2 (x)\n"), &[])),
    )
    .unwrap();
    assert_eq!(open([9; 32]).err(), Some(crate::ImageError::Changed));
    assert_eq!(open(digest).unwrap().profile().release(), "6.1.0-test");
}
