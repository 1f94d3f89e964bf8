//! Images of both formats: against each other, over a base, and against `qemu-img` where it is installed.

use std::path::Path;
use std::process::Command;

use super::*;

const SECTOR: usize = 512;
const MIB: usize = 1 << 20;

fn qcow2(size_bytes: u64) -> File {
    let file = memory_file(&[]);
    let storage = imago::file::File::try_from(file.try_clone().unwrap()).unwrap();
    let builder: imago::qcow2::Qcow2CreateBuilder<imago::file::File> =
        imago::qcow2::Qcow2::create_builder(storage);
    imago::FormatCreateBuilder::create(imago::FormatCreateBuilder::size(builder, size_bytes))
        .unwrap();
    file
}

fn open(file: &File, base: Option<(&File, ImageFormat)>) -> Result<Image, ImageError> {
    let base = base.map(|(file, format)| (file.try_clone().unwrap(), format));
    Image::open(file.try_clone().unwrap(), ImageFormat::Qcow2, base, true)
}

#[test]
fn a_qcow2_disk_behaves_as_a_raw_one() {
    let plain = memory_file(&vec![0; 4 * MIB]);
    let clusters = qcow2(4 * MIB as u64);
    let mut one = Driver::new(raw(&plain), options());
    let mut two = Driver::new(open(&clusters, None).unwrap(), options());
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for round in 0..400 {
        let sector = random(8200);
        let count = random(300) + 1;
        let fill = random(255) as u8 + 1;
        let statuses = match random(6) {
            0 | 1 => {
                let data = vec![fill; count as usize * SECTOR];
                (one.write(sector, &data), two.write(sector, &data))
            }
            2 => {
                let range = [(sector, count as u32, random(2) as u32)];
                (one.ranges(13, &range), two.ranges(13, &range))
            }
            3 => (one.flush(), two.flush()),
            _ => {
                let got = two.read(sector, count as usize * SECTOR);
                let expected = one.read(sector, count as usize * SECTOR);
                assert!(got == expected, "round {round}: {sector}+{count}");
                continue;
            }
        };
        assert_eq!(statuses.0, statuses.1, "round {round}: {sector}+{count}");
    }
    // What was flushed is there for whoever opens it next.
    assert_eq!(two.flush(), 0);
    let mut again = Driver::new(open(&clusters, None).unwrap(), options());
    for sector in (0..8192).step_by(512) {
        assert!(
            again.read(sector, 512 * SECTOR) == one.read(sector, 512 * SECTOR),
            "{sector}"
        );
    }
}

#[test]
fn an_overlay_leaves_its_base_alone() {
    for base_format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let base = match base_format {
            ImageFormat::Raw => memory_file(&vec![0; 2 * MIB]),
            ImageFormat::Qcow2 => qcow2(2 * MIB as u64),
        };
        let image = Image::open(base.try_clone().unwrap(), base_format, None, true).unwrap();
        let mut driver = Driver::new(image, options());
        assert_eq!((driver.write(0, &vec![1; MIB]), driver.flush()), (0, 0));
        drop(driver);
        let before = contents(&base);
        let overlay = memory_file(&[]);
        create_overlay(
            overlay.try_clone().unwrap(),
            &base,
            "/images/base",
            base_format,
            None,
        )
        .unwrap();
        let image = open(&overlay, Some((&base, base_format))).unwrap();
        assert_eq!(image.size_bytes(), 2 * MIB as u64);
        let mut driver = Driver::new(image, options());
        assert_eq!(driver.read(100, SECTOR).1, [1; SECTOR]);
        assert_eq!((driver.write(100, &[2; SECTOR]), driver.flush()), (0, 0));
        assert_eq!(
            driver.read(99, 3 * SECTOR).1,
            [[1; SECTOR], [2; SECTOR], [1; SECTOR]].concat()
        );
        assert_eq!(driver.ranges(11, &[(0, 512, 0)]), 0);
        assert_eq!(driver.ranges(13, &[(1024, 128, 1)]), 0);
        assert_eq!(driver.read(1024, SECTOR).1, [0; SECTOR]);
        assert!(contents(&base) == before, "{base_format}");
    }
}

#[test]
fn an_image_leads_to_no_file_that_was_not_named() {
    let base = memory_file(&[5; 4096]);
    let overlay = memory_file(&[]);
    let make = |size| {
        overlay.set_len(0).unwrap();
        create_overlay(
            overlay.try_clone().unwrap(),
            &base,
            "/etc/shadow",
            ImageFormat::Raw,
            size,
        )
    };
    make(Some(1 << 20)).unwrap();
    let refused = open(&overlay, None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "it is an overlay over \"/etc/shadow\", and no base was given"
    );
    let deep = memory_file(&[]);
    let refused = create_overlay(deep, &overlay, "overlay", ImageFormat::Qcow2, None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the base is an overlay itself, over \"/etc/shadow\""
    );
    let refused = open(&qcow2(4096), Some((&overlay, ImageFormat::Qcow2))).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "its base is an overlay itself, over \"/etc/shadow\""
    );
    let raw_over_base = Image::open(
        base.try_clone().unwrap(),
        ImageFormat::Raw,
        Some((base.try_clone().unwrap(), ImageFormat::Raw)),
        true,
    );
    assert_eq!(
        raw_over_base.unwrap_err().to_string(),
        "it is a raw image and cannot lie over a base"
    );
    assert_eq!(
        make(Some(512)).unwrap_err().to_string(),
        "a disk of 512 bytes cannot lie over a base of 4096"
    );
    // The larger disk ends in zeros.
    make(Some(1 << 20)).unwrap();
    let mut driver = Driver::new(
        open(&overlay, Some((&base, ImageFormat::Raw))).unwrap(),
        options(),
    );
    assert_eq!(
        driver.read(7, 2 * SECTOR).1,
        [[5; SECTOR], [0; SECTOR]].concat()
    );
    assert_eq!(driver.read(2047, SECTOR).0, 0);
}

#[test]
fn a_raw_file_that_ends_inside_a_sector_ends_in_zeros() {
    let file = memory_file(&[6; 700]);
    let mut driver = Driver::new(
        raw(&file),
        DiskOptions {
            is_read_only: true,
            ..options()
        },
    );
    let (status, data) = driver.read(0, 2 * SECTOR);
    assert_eq!(status, 0);
    assert_eq!((&data[..700], &data[700..]), (&[6; 700][..], &[0; 324][..]));
    assert_eq!(driver.read(2, SECTOR).0, 1);
}

fn qemu_img(words: &[&str]) -> String {
    let output = Command::new("qemu-img").args(words).output().unwrap();
    assert!(
        output.status.success(),
        "qemu-img {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn qemu_img_agrees_about_our_images() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("SKIPPED: qemu-img is not installed, so nobody else judges our qcow2 images");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let file = |name: &str| {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path(name))
            .unwrap()
    };
    // Theirs, read and written by us.
    std::fs::write(path("plain"), vec![0x11; 3 * MIB]).unwrap();
    qemu_img(&[
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        &path("plain"),
        &path("packed"),
    ]);
    let mut driver = Driver::new(open(&file("packed"), None).unwrap(), options());
    assert_eq!(driver.read(4000, 8 * SECTOR).1, [0x11; 8 * SECTOR]);
    assert_eq!(
        (driver.write(4001, &[0x22; SECTOR]), driver.flush()),
        (0, 0)
    );
    drop(driver);
    qemu_img(&["check", &path("packed")]);
    qemu_img(&["convert", "-O", "raw", &path("packed"), &path("unpacked")]);
    let unpacked = std::fs::read(path("unpacked")).unwrap();
    assert_eq!(
        unpacked[4000 * SECTOR..4003 * SECTOR],
        [[0x11; SECTOR], [0x22; SECTOR], [0x11; SECTOR]].concat()
    );
    // An old one, which has no clusters of zeros: they are written out.
    qemu_img(&[
        "convert",
        "-O",
        "qcow2",
        "-o",
        "compat=0.10",
        &path("plain"),
        &path("old"),
    ]);
    let mut driver = Driver::new(open(&file("old"), None).unwrap(), options());
    for may_unmap in [0, 1] {
        assert_eq!(
            driver.ranges(13, &[(500 + 200 * may_unmap, 130, may_unmap as u32)]),
            0
        );
    }
    assert_eq!(driver.ranges(11, &[(1024, 128, 0)]), 0);
    assert_eq!(driver.flush(), 0);
    drop(driver);
    qemu_img(&["check", &path("old")]);
    qemu_img(&["convert", "-O", "raw", &path("old"), &path("unpacked")]);
    let unpacked = std::fs::read(path("unpacked")).unwrap();
    let is_zero = |sector: usize| unpacked[sector * SECTOR..][..SECTOR] == [0; SECTOR];
    let edges = [499, 500, 629, 630, 699, 700, 829, 830];
    assert_eq!(
        edges.map(is_zero),
        [false, true, true, false, false, true, true, false]
    );
    // Ours, read by them.
    let base = file("plain");
    create_overlay(
        file("overlay"),
        &base,
        &path("plain"),
        ImageFormat::Raw,
        Some(8 * MIB as u64),
    )
    .unwrap();
    let image = open(&file("overlay"), Some((&base, ImageFormat::Raw))).unwrap();
    let mut driver = Driver::new(image, options());
    assert_eq!(
        (driver.write(9000, &[0x33; 64 * SECTOR]), driver.flush()),
        (0, 0)
    );
    drop(driver);
    qemu_img(&["check", &path("overlay")]);
    assert!(qemu_img(&["info", &path("overlay")]).contains("backing file format: raw"));
    qemu_img(&["convert", "-O", "raw", &path("overlay"), &path("whole")]);
    let whole = std::fs::read(path("whole")).unwrap();
    assert_eq!(whole.len(), 8 * MIB);
    assert_eq!(
        (whole[0], whole[9000 * SECTOR], whole[3 * MIB]),
        (0x11, 0x33, 0)
    );
    assert!(Path::new(&path("plain")).metadata().unwrap().len() == 3 * MIB as u64);
}
