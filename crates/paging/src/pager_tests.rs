//! The pager on the host's own userfaultfd, with threads in the place of a guest.

use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use mem::Buffer;
use x86::Gpa;

use super::*;

const MIB: u64 = 1 << 20;

fn settings(limit_bytes: Option<u64>) -> Settings {
    Settings {
        limit_bytes,
        store_memory_bytes: 256 * MIB,
        file: None,
        ahead_pages: AHEAD_PAGES,
    }
}

fn quiet() -> Box<dyn Fn(Event) + Send + Sync> {
    Box::new(|_| {})
}

/// A pager for so much memory; `None`, said aloud, where the host allows none.
fn start(len_bytes: u64, settings: &Settings) -> Option<(Arc<GuestMemory>, Pager)> {
    let memory = Arc::new(GuestMemory::flat(len_bytes).unwrap());
    match Pager::start(Arc::clone(&memory), settings, quiet()) {
        Ok(pager) => Some((memory, pager)),
        Err(StartError::Faults(error)) => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn wait_until(mut holds: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn word(page: u64, round: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round
}

/// Writes a few words that nobody else writes into each page.
fn write_page(memory: &GuestMemory, page: u64, round: u64) {
    for at in [0, 8, 2048, 4088] {
        memory
            .write(
                Gpa(page * PAGE_BYTES + at),
                &word(page, round).to_le_bytes(),
            )
            .unwrap();
    }
}

fn check_page(memory: &GuestMemory, page: u64, round: u64) {
    for at in [0, 8, 2048, 4088] {
        let got = memory.read_value(Gpa(page * PAGE_BYTES + at), 8).unwrap();
        assert_eq!(got, word(page, round), "page {page} in round {round}");
    }
}

#[test]
fn a_guest_has_all_its_memory_and_the_host_a_tenth_of_it() {
    let Some((memory, pager)) = start(64 * MIB, &settings(Some(6 * MIB))) else {
        return;
    };
    let most = std::sync::atomic::AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(memory.resident_bytes().unwrap(), Ordering::Relaxed);
            }
        });
        for round in 0..3 {
            (0..16384).for_each(|page| write_page(&memory, page, round));
            (0..16384).for_each(|page| check_page(&memory, page, round));
        }
        done.store(true, Ordering::Relaxed);
    });
    let most = most.into_inner();
    assert!(most <= 6 * MIB, "the host held {most} bytes");
    let books = pager.books();
    assert!(
        books.counts.page_ins > 1000 && books.counts.page_outs > 10_000,
        "{books:?}"
    );
    assert!(books.out_bytes > 50 * MIB, "{books:?}");
}

/// The page's words from and to a file, as a disk moves them.
fn move_page(memory: &GuestMemory, page: u64, round: u64, disk: &File) {
    let words: Vec<u8> = (0..512)
        .flat_map(|at| word(page * 512 + at, round).to_le_bytes())
        .collect();
    disk.write_all_at(&words, 0).unwrap();
    let gpa = Gpa(page * PAGE_BYTES);
    let buffers = [
        Buffer {
            gpa,
            len_bytes: 100,
        },
        Buffer {
            gpa: Gpa(gpa.0 + 100),
            len_bytes: PAGE_BYTES - 100,
        },
    ];
    assert_eq!(
        memory.read_from_file(&buffers, disk, 0).unwrap(),
        PAGE_BYTES
    );
}

fn check_moved_page(memory: &GuestMemory, page: u64, round: u64, disk: &File) {
    let buffer = Buffer {
        gpa: Gpa(page * PAGE_BYTES),
        len_bytes: PAGE_BYTES,
    };
    memory.write_to_file(&[buffer], disk, PAGE_BYTES).unwrap();
    let mut got = [0; PAGE_BYTES as usize];
    disk.read_exact_at(&mut got, PAGE_BYTES).unwrap();
    for (at, bytes) in (0..512).zip(got.chunks_exact(8)) {
        let expected = word(page * 512 + at, round).to_le_bytes();
        assert_eq!(bytes, expected, "page {page} in round {round}");
    }
}

/// Four threads write and check their own pages, two of them as a disk does, while the limit goes up and down and pages are
/// given back.
#[test]
fn nothing_is_lost_while_the_limit_moves() {
    for faults in [Faults::open(None), Faults::of_user_mode()] {
        match faults {
            Ok(faults) => nothing_is_lost_with(faults),
            Err(error) => eprintln!("SKIPPED: {error}"),
        }
    }
}

fn nothing_is_lost_with(faults: Faults) {
    let memory = Arc::new(GuestMemory::flat(32 * MIB).unwrap());
    let started = Pager::start_with(
        Arc::new(faults),
        Arc::clone(&memory),
        &settings(None),
        None,
        quiet(),
    );
    let pager = started.unwrap();
    let end = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let memory = &memory;
            scope.spawn(move || {
                let pages = move || (0..8192).filter(move |page| page % 4 == thread);
                let mut round = 0;
                let disk = tempfile::tempfile().unwrap();
                while Instant::now() < end {
                    if thread % 2 == 0 {
                        pages().for_each(|page| write_page(memory, page, round));
                        pages().for_each(|page| check_page(memory, page, round));
                    } else {
                        pages().for_each(|page| move_page(memory, page, round, &disk));
                        pages().for_each(|page| check_moved_page(memory, page, round, &disk));
                    }
                    if thread == 0 {
                        memory.discard(Gpa(0), PAGE_BYTES).unwrap();
                        assert_eq!(memory.read_value(Gpa(2048), 8).unwrap(), 0);
                    }
                    round += 1;
                }
                assert!(round > 0);
            });
        }
        let mut limits = [Some(3), Some(20), None, Some(1), Some(31), Some(8)]
            .into_iter()
            .cycle();
        while Instant::now() < end {
            pager
                .set_limit(limits.next().flatten().map(|limit| limit * MIB))
                .unwrap();
            std::thread::sleep(Duration::from_millis(60));
        }
        pager.set_limit(None).unwrap();
    });
    wait_until(|| pager.books().out_bytes == 0, "everything coming back");
    assert_eq!(pager.broken(), None);
}

#[test]
fn a_look_from_outside_brings_nothing_in() {
    let Some((memory, pager)) = start(16 * MIB, &settings(None)) else {
        return;
    };
    (0..2048).for_each(|page| write_page(&memory, page, 5));
    pager.set_limit(Some(2 * MIB)).unwrap();
    wait_until(|| pager.is_within_limit(), "the limit");
    let before = pager.books();
    let pages: Vec<u64> = (0..2048).collect();
    let map = pager.residency_map().unwrap();
    let mut away = 0;
    for chunk in pages.chunks(7) {
        for (&page, bytes) in chunk.iter().zip(pager.look(chunk).unwrap()) {
            assert_eq!(bytes.unwrap()[2048..2056], word(page, 5).to_le_bytes());
            let mut number = [0; 4];
            std::os::unix::fs::FileExt::read_at(&map, &mut number, page * 4).unwrap();
            away += u64::from(number[0] % 2 == 1);
        }
    }
    assert_eq!(
        pager.look(&[4096]).unwrap(),
        [None],
        "there is no such page"
    );
    assert!(away >= 1500, "{away} pages away");
    assert_eq!(pager.books().counts.page_ins, before.counts.page_ins);
    assert!(memory.resident_bytes().unwrap() <= 2 * MIB);
}

#[test]
fn a_guest_waits_when_the_store_is_full_and_goes_on_when_there_is_room() {
    let (sender, events) = std::sync::mpsc::channel();
    let memory = Arc::new(GuestMemory::flat(16 * MIB).unwrap());
    let settings = Settings {
        store_memory_bytes: MIB,
        ..settings(Some(4 * MIB))
    };
    let listener = Box::new(move |event| sender.send(event).unwrap());
    let Ok(pager) = Pager::start(Arc::clone(&memory), &settings, listener) else {
        return eprintln!("SKIPPED: faults cannot be handled here");
    };
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut noise = 1_u64;
            for page in 0..4096 {
                let mut bytes = [0; PAGE_BYTES as usize];
                for byte in &mut bytes {
                    noise = noise
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    *byte = (noise >> 56) as u8;
                }
                memory.write(Gpa(page * PAGE_BYTES), &bytes).unwrap();
            }
        });
        let event = events.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(event, Event::Stalled("the page store is full".to_owned()));
        assert!(!guest.is_finished());
        assert!(memory.resident_bytes().unwrap() <= 4 * MIB);
        pager.set_store_memory(64 * MIB).unwrap();
        assert_eq!(
            events.recv_timeout(Duration::from_secs(60)).unwrap(),
            Event::Flowing
        );
    });
    assert!(memory.resident_bytes().unwrap() <= 4 * MIB);
}

#[test]
fn the_working_set_is_what_the_guest_uses() {
    let Some((memory, pager)) = start(64 * MIB, &settings(None)) else {
        return;
    };
    (0..16384).for_each(|page| write_page(&memory, page, 1));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                (0..4096).for_each(|page| check_page(&memory, page, 1));
                (0..512).for_each(|page| write_page(&memory, page, 1));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // The first window began with everything being written.
        wait_until(
            || {
                pager
                    .books()
                    .working_set
                    .is_some_and(|estimate| estimate.pages < 8192.0)
            },
            "a window",
        );
        let books = pager.books();
        let begun = Instant::now();
        done.store(true, Ordering::Relaxed);
        let used = books.working_set.unwrap();
        let written = books.dirty.unwrap();
        assert!(
            (used.pages - 4096.0).abs() < 5.0 * used.error_pages,
            "{used:?}"
        );
        assert!(
            (written.pages - 512.0).abs() < 5.0 * written.error_pages,
            "{written:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn a_write_is_noticed_once() {
    let Some((memory, pager)) = start(4 * MIB, &settings(Some(MIB))) else {
        return;
    };
    (0..1024).for_each(|page| write_page(&memory, page, 1));
    assert_eq!(
        pager.written(&[3, 4, 900]).unwrap(),
        [true, true, true],
        "the first time nobody knows"
    );
    assert_eq!(pager.written(&[3, 4, 900]).unwrap(), [false, false, false]);
    // Away and back: not written.
    (0..1024).for_each(|page| check_page(&memory, page, 1));
    assert_eq!(pager.written(&[3, 4, 900]).unwrap(), [false, false, false]);
    write_page(&memory, 4, 2);
    memory.discard(Gpa(900 * PAGE_BYTES), PAGE_BYTES).unwrap();
    assert_eq!(pager.written(&[3, 4, 900]).unwrap(), [false, true, true]);
    assert_eq!(pager.written(&[3, 4, 900]).unwrap(), [false, false, false]);
    assert_eq!(
        pager.written(&[5000]).unwrap(),
        [true],
        "there is no such page"
    );
}

/// A thread is ended from outside while it has the lock, which nobody gets any more.
#[test]
fn a_thread_that_is_gone_is_noticed_also_when_it_takes_the_lock_with_it() {
    let memory = Arc::new(GuestMemory::flat(MIB).unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    let tell = Box::new(move |event| drop(sender.send(event)));
    let pager = match Pager::start(memory, &settings(Some(MIB)), tell) {
        Ok(pager) => pager,
        Err(error) => return eprintln!("SKIPPED: {error}"),
    };
    let held = pager.shared.core.lock().unwrap();
    // No process has so many.
    pager.shared.threads.lock().push(i32::MAX);
    let event = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(
        event,
        Event::Broken("a thread of the pager is gone".to_owned())
    );
    drop(held);
}
