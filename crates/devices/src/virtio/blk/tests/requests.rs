//! What a driver asks of a raw disk, and what it gets.

use super::*;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const SECTOR: usize = 512;

/// Eight sectors, each filled with its number plus one.
fn numbered() -> File {
    memory_file(
        &(0..8 * SECTOR)
            .map(|at| (at / SECTOR) as u8 + 1)
            .collect::<Vec<u8>>(),
    )
}

#[test]
fn what_is_written_is_read_again() {
    let file = numbered();
    let mut driver = Driver::new(raw(&file), options());
    assert_eq!(driver.read(2, SECTOR), (OK, vec![3; SECTOR]));
    assert_eq!(driver.used(), (1, SECTOR as u32 + 1));
    assert_eq!(driver.write(2, &[0x77; 2 * SECTOR]), OK);
    assert_eq!(driver.used(), (2, 1));
    assert_eq!(
        driver.read(1, 4 * SECTOR).1[SECTOR..3 * SECTOR],
        [0x77; 2 * SECTOR]
    );
    assert_eq!(contents(&file)[2 * SECTOR..4 * SECTOR], [0x77; 2 * SECTOR]);
    assert_eq!(driver.flush(), OK);
    let metrics = driver.device.metrics().read();
    assert_eq!(
        (metrics.requests, metrics.errors, metrics.violations),
        (4, 0, 0)
    );
    assert_eq!(
        (metrics.bytes_to_guest, metrics.bytes_from_guest),
        (5 * 512, 2 * 512)
    );
}

#[test]
fn what_is_not_on_the_disk_is_an_io_error() {
    let mut driver = Driver::new(raw(&numbered()), options());
    let mut check = |sector, len, expected| {
        assert_eq!(driver.read(sector, len).0, expected, "read {sector} {len}");
        assert_eq!(
            driver.write(sector, &vec![9; len]),
            expected,
            "write {sector} {len}"
        );
    };
    check(7, SECTOR, OK);
    check(7, 2 * SECTOR, IO_ERROR);
    check(8, SECTOR, IO_ERROR);
    check(u64::MAX, SECTOR, IO_ERROR);
    check(u64::MAX - 1, 8 * SECTOR, IO_ERROR);
    check(1 << 55, SECTOR, IO_ERROR);
    check(0, SECTOR - 1, IO_ERROR);
    check(0, SECTOR + 1, IO_ERROR);
    check(8, 0, OK);
}

#[test]
fn an_unknown_request_is_unsupported() {
    let mut driver = Driver::new(raw(&numbered()), options());
    let mut check = |kind| {
        assert_eq!(
            driver.request(kind, 0, &mut [0; 512], true),
            UNSUPPORTED,
            "{kind}"
        )
    };
    // Secure erase, lifetime and zones are not offered.
    [2, 3, 5, 6, 7, 9, 10, 12, 14, 24, u32::MAX]
        .into_iter()
        .for_each(&mut check);
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let file = numbered();
    let mut driver = Driver::new(raw(&file), options());
    let at = BUFFERS;
    // A header in three pieces, an empty buffer, data and status in one.
    driver.header(at, 0, 3);
    driver.offer(&[
        (at, 1, false),
        (at + 1, 0, false),
        (at + 1, 14, false),
        (at + 15, 1, false),
        (at + 0x1000, 513, true),
    ]);
    driver.notify().unwrap();
    assert_eq!(driver.used(), (1, 513));
    assert_eq!(
        (
            driver.byte(at + 0x1000),
            driver.byte(at + 0x11ff),
            driver.byte(at + 0x1200)
        ),
        (4, 4, OK)
    );
    // Header and data in one, the status alone and followed by nothing.
    driver.header(at, 1, 5);
    driver.memory.write(Gpa(at + 16), &[0x55; SECTOR]).unwrap();
    driver.offer(&[
        (at, 16 + 512, false),
        (at + 0x1000, 1, true),
        (at + 0x1001, 0, true),
    ]);
    driver.notify().unwrap();
    assert_eq!(driver.byte(at + 0x1000), OK);
    assert_eq!(contents(&file)[5 * SECTOR..6 * SECTOR], [0x55; SECTOR]);
    // A sector in pieces of odd lengths.
    driver.header(at, 0, 5);
    driver.offer(&[
        (at, 16, false),
        (at + 0x2001, 511, true),
        (at + 0x3003, 1, true),
        (at + 0x4000, 1, true),
    ]);
    driver.notify().unwrap();
    assert_eq!(
        (
            driver.byte(at + 0x21ff),
            driver.byte(at + 0x3003),
            driver.byte(at + 0x4000)
        ),
        (0x55, 0x55, OK)
    );
}

#[test]
fn a_request_that_cannot_be_answered_breaks_the_queue() {
    let check = |chain: &[(u64, u32, bool)], expected: &str| {
        let mut driver = Driver::new(raw(&numbered()), options());
        driver.header(BUFFERS, 0, 0);
        driver.offer(chain);
        let broken = driver.notify().unwrap_err();
        assert_eq!(broken.what, expected);
    };
    let at = BUFFERS;
    check(
        &[(at, 15, false), (at, 1, true)],
        "a request has no whole header",
    );
    check(
        &[(at, 512, true), (at, 1, true)],
        "a request has no whole header",
    );
    check(&[(at, 16, false)], "a request has no room for its status");
    check(
        &[(at, 16, false), (at, 0, true)],
        "a request has no room for its status",
    );
    check(
        &[(at, 8, false), (at, 1, true), (at, 8, false)],
        "a request has a readable buffer behind a writable one",
    );
    check(
        &[(MEMORY_BYTES - 8, 16, false), (at, 1, true)],
        "a request's header lies outside memory",
    );
    check(
        &[(at, 16, false), (MEMORY_BYTES, 1, true)],
        "a request's status lies outside memory",
    );
    check(
        &[(at, 16, false), (u64::MAX, 2, true)],
        "a request's status lies outside memory",
    );
}

#[test]
fn data_outside_memory_are_an_io_error() {
    let file = numbered();
    let mut driver = Driver::new(raw(&file), options());
    let mut check = |kind, gpa, is_writable| {
        driver.header(BUFFERS, kind, 0);
        driver.offer(&[
            (BUFFERS, 16, false),
            (gpa, 512, is_writable),
            (BUFFERS + 16, 1, true),
        ]);
        driver.notify().unwrap();
        assert_eq!(driver.byte(BUFFERS + 16), IO_ERROR, "{kind} {gpa:#x}");
    };
    for gpa in [MEMORY_BYTES, MEMORY_BYTES - 511, u64::MAX - 100] {
        check(0, gpa, true);
        check(1, gpa, false);
    }
    check(8, MEMORY_BYTES, true);
    assert_eq!(contents(&file)[..SECTOR], [1; SECTOR]);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let file = numbered();
    let before = contents(&file);
    let mut driver = Driver::new(
        raw(&file),
        DiskOptions {
            is_read_only: true,
            ..options()
        },
    );
    assert_eq!(driver.device.features() & config::F_RO, config::F_RO);
    assert_eq!(driver.write(0, &[9; SECTOR]), IO_ERROR);
    assert_eq!(driver.ranges(11, &[(0, 8, 0)]), UNSUPPORTED);
    assert_eq!(driver.ranges(13, &[(0, 8, 0)]), UNSUPPORTED);
    assert_eq!(driver.read(0, SECTOR).0, OK);
    assert_eq!(contents(&file), before);
}

#[test]
fn a_disk_tells_its_serial_number() {
    let mut driver = Driver::new(raw(&numbered()), options());
    let mut id = [0xff; 20];
    assert_eq!(driver.request(8, 0, &mut id, true), OK);
    assert_eq!(&id, b"mother-0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(driver.used().1, 21);
    let long = DiskOptions {
        serial: "12345678901234567890abc".to_owned(),
        ..options()
    };
    let mut driver = Driver::new(raw(&numbered()), long);
    let mut short = [0xff; 7];
    assert_eq!(driver.request(8, 0, &mut short, true), OK);
    assert_eq!(&short, b"1234567");
    assert_eq!(driver.request(8, 0, &mut id, true), OK);
    assert_eq!(&id, b"12345678901234567890");
}

#[test]
fn zeroes_and_discards_keep_to_their_ranges() {
    let file = numbered();
    let mut driver = Driver::new(raw(&file), options());
    let mut check = |kind, ranges: &[(u64, u32, u32)], expected| {
        assert_eq!(driver.ranges(kind, ranges), expected, "{kind} {ranges:?}");
    };
    check(13, &[(1, 2, 0), (4, 1, 1)], OK);
    check(11, &[(6, 1, 0)], OK);
    check(13, &[(0, 1, 2)], UNSUPPORTED);
    check(11, &[(0, 1, 1)], UNSUPPORTED);
    check(13, &[(7, 2, 0)], IO_ERROR);
    check(11, &[(u64::MAX, 2, 0)], IO_ERROR);
    // Refused as a whole: the good range before the bad one is not done.
    check(13, &[(0, 1, 0), (8, 1, 0)], IO_ERROR);
    check(13, &[(0, 0, 0)], OK);
    check(13, &[], IO_ERROR);
    check(13, &[(0, 1, 0); 17], IO_ERROR);
    assert_eq!(driver.request(13, 0, &mut [0; 15], false), IO_ERROR);
    let firsts: Vec<u8> = contents(&file)
        .chunks(SECTOR)
        .map(|sector| sector[0])
        .collect();
    assert_eq!(firsts, [1, 0, 0, 4, 0, 6, 0, 8]);
}

#[test]
fn a_host_that_fails_is_an_io_error_and_counted() {
    let full = File::options()
        .read(true)
        .write(true)
        .open("/dev/full")
        .unwrap();
    let image = Image::Raw(raw::RawImage::new(full, 4096));
    let mut driver = Driver::new(image, options());
    assert_eq!(driver.write(1, &[1; SECTOR]), IO_ERROR);
    assert_eq!(driver.device.metrics().read().errors, 1);
    let unreadable = File::options().write(true).open("/dev/null").unwrap();
    let image = Image::Raw(raw::RawImage::new(unreadable, 4096));
    let mut driver = Driver::new(image, options());
    assert_eq!(driver.read(1, SECTOR).0, IO_ERROR);
}

/// Counts lines of the log.
struct Lines(Arc<AtomicU64>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}

    fn event(&self, _event: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _span: &tracing::span::Id) {}

    fn exit(&self, _span: &tracing::span::Id) {}
}

#[test]
fn what_a_guest_can_repeat_is_told_once_and_counted() {
    let lines = Arc::new(AtomicU64::new(0));
    let check = |disk: Disk, mut act: Box<dyn FnMut(&mut Driver)>| {
        lines.store(0, Ordering::Relaxed);
        let disk = Arc::new(disk);
        for life in 1..=3 {
            // A reset makes a new front, not a new disk.
            let device = VirtioBlock::new(Arc::clone(&disk), 1);
            let features = device.features();
            let mut driver = Driver::with_features(device, features);
            for _ in 0..100 {
                act(&mut driver);
            }
            assert_eq!(driver.device.metrics().read().errors, life * 100);
        }
        assert_eq!(lines.load(Ordering::Relaxed), 1);
    };
    tracing::subscriber::with_default(Lines(Arc::clone(&lines)), || {
        let guessed = DiskOptions {
            is_guessed_raw: true,
            ..options()
        };
        let mut disguise = vec![0; SECTOR];
        disguise[..4].copy_from_slice(b"QFI\xfb");
        check(
            Disk::new(raw(&numbered()), guessed),
            Box::new(move |driver| assert_eq!(driver.write(0, &disguise), IO_ERROR)),
        );
        let full = File::options()
            .read(true)
            .write(true)
            .open("/dev/full")
            .unwrap();
        let image = Image::Raw(raw::RawImage::new(full, 4096));
        check(
            Disk::new(image, options()),
            Box::new(|driver| assert_eq!(driver.write(1, &[1; SECTOR]), IO_ERROR)),
        );
    });
}

#[test]
fn a_batch_is_told_once() {
    let mut driver = Driver::new(raw(&numbered()), options());
    for n in 0..8 {
        let at = BUFFERS + n * 0x1000;
        driver.header(at, 0, n);
        driver.offer(&[
            (at, 16, false),
            (at + 0x100, 512, true),
            (at + 0x20, 1, true),
        ]);
    }
    driver.notify().unwrap();
    assert_eq!(driver.used().0, 8);
    assert!(
        driver.interrupts.load(Ordering::Relaxed) <= 2,
        "a batch of quick requests"
    );
    // A driver that does not want to hear is not told: VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.7).
    let before = driver.interrupts.load(Ordering::Relaxed);
    driver.memory.write(Gpa(AVAIL), &[1, 0]).unwrap();
    assert_eq!(driver.read(0, SECTOR).0, OK);
    assert_eq!(driver.interrupts.load(Ordering::Relaxed), before);
}

#[test]
fn a_disk_tells_what_it_is() {
    let file = memory_file(&[0; 1 << 20]);
    let disk = Arc::new(Disk::new(raw(&file), options()));
    let mut device = VirtioBlock::new(disk, 4);
    let word = |device: &VirtioBlock, at| {
        let mut bytes = [0; 4];
        device.read_config(at, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    assert_eq!((word(&device, 0), word(&device, 4)), (2048, 0));
    assert_eq!((word(&device, 12), word(&device, 20)), (254, 512));
    assert_eq!(word(&device, 32), 4 << 16 | 1);
    assert_eq!(device.queue_sizes(), [256; 4]);
    assert_eq!(device.features() & config::F_MQ, config::F_MQ);
    // Behind its end there are zeros, wherever the driver looks.
    assert_eq!((word(&device, 60), word(&device, u64::MAX - 2)), (0, 0));
    // Only the cache mode can be written.
    device.write_config(0, &[0xff; 60]);
    assert_eq!((word(&device, 0), word(&device, 32)), (2048, 4 << 16 | 1));
    device.write_config(32, &[0]);
    assert_eq!(word(&device, 32), 4 << 16);
    device.write_config(u64::MAX, &[1]);
    device.reset();
    assert_eq!(word(&device, 32), 4 << 16 | 1);
}

#[test]
fn a_guest_cannot_change_what_a_guessed_disk_looks_like() {
    let magic = |magic: &[u8]| {
        let mut sector = vec![0; SECTOR];
        sector[..magic.len()].copy_from_slice(magic);
        sector
    };
    let file = numbered();
    let guessed = DiskOptions {
        is_guessed_raw: true,
        ..options()
    };
    let mut driver = Driver::new(raw(&file), guessed);
    let mut check = |sector: &[u8], expected| assert_eq!(driver.write(0, sector), expected);
    check(&magic(b"QFI\xfb"), IO_ERROR);
    check(&magic(b"KDMV"), IO_ERROR);
    let mut vdi = vec![0; SECTOR];
    vdi[64..68].copy_from_slice(b"\x7f\x10\xda\xbe");
    check(&vdi, IO_ERROR);
    check(&magic(b"\x1f\x8b\x08"), OK);
    check(&magic(b"QFI"), OK);
    check(&[7; 3 * SECTOR], OK);
    assert_eq!(driver.write(1, &magic(b"QFI\xfb")), OK);
    assert_eq!(contents(&file)[..SECTOR], [7; SECTOR]);
    assert_eq!(contents(&file)[2 * SECTOR..3 * SECTOR], [7; SECTOR]);
    // Where the user said raw, raw it is.
    let mut driver = Driver::new(raw(&file), options());
    assert_eq!(driver.write(0, &magic(b"QFI\xfb")), OK);
}

#[test]
fn without_a_flush_every_write_is_durable() {
    let check = |features: u64, writes_back: bool| {
        let device = VirtioBlock::new(Arc::new(Disk::new(Image::Raw(flush_fails()), options())), 1);
        let mut driver = Driver::with_features(device, features);
        // The pipe's end takes no sync, so a write that is made durable fails.
        assert_eq!(
            driver.ranges(13, &[(0, 0, 0)]),
            if writes_back { OK } else { IO_ERROR },
            "{features:#x}"
        );
    };
    check(config::F_WRITE_ZEROES | config::F_FLUSH, true);
    check(config::F_WRITE_ZEROES, false);
    check(
        config::F_WRITE_ZEROES | config::F_FLUSH | config::F_CONFIG_WCE,
        true,
    );
}

/// A disk whose file cannot be synced.
fn flush_fails() -> raw::RawImage {
    let (_, writer) = std::io::pipe().unwrap();
    raw::RawImage::new(File::from(std::os::fd::OwnedFd::from(writer)), 4096)
}

#[test]
fn a_driver_may_choose_write_through() {
    let device = VirtioBlock::new(Arc::new(Disk::new(Image::Raw(flush_fails()), options())), 1);
    let mut driver = Driver::with_features(device, config::F_WRITE_ZEROES | config::F_CONFIG_WCE);
    assert_eq!(driver.ranges(13, &[(0, 0, 0)]), OK);
    driver.device.write_config(32, &[0]);
    assert_eq!(driver.ranges(13, &[(0, 0, 0)]), IO_ERROR);
    assert_eq!(driver.flush(), IO_ERROR);
}
