//! The devices that every guest has, used by Debian's own drivers.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common::{Ran, with_guest};

/// Types `commands` into the default guest, which has loaded its drivers.
fn run(words: &[&str], commands: &str) -> Option<Ran> {
    with_guest().map(|mother| mother.type_into(words, commands))
}

/// The answers' lines.
fn answers(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().collect()
}

#[test]
fn the_board_is_complete_and_the_kernel_has_nothing_to_complain_about() {
    let commands = include_str!("scripts/board.sh");
    let Some(ran) = run(&[], commands) else {
        return;
    };
    let expected = [
        "0000:00:00.0 0x4d4f 0x0001 0x060000",
        "0000:00:01.0 0x1af4 0x1043 0x078000",
        "0000:00:02.0 0x1af4 0x1044 0x00ff00",
        "0000:00:04.0 0x1af4 0x1045 0x00ff00",
        "0000:00:05.0 0x1af4 0x1053 0x028000",
        "virtio_balloon",
        "virtio_console",
        "virtio_rng",
        "vmw_vsock_virtio_transport",
        "complaints end",
    ];
    let answers = answers(&ran);
    // A network that the user's configuration adds is not this test's affair.
    let relevant: Vec<&str> = answers
        .into_iter()
        .filter(|line| !line.starts_with("0000:00:03.0") && *line != "virtio_net")
        .collect();
    assert_eq!(
        (relevant, ran.status),
        (expected.to_vec(), Some(0)),
        "{}",
        ran.stdout
    );
}

#[test]
fn random_numbers_come_with_messages_and_without() {
    for words in [vec![], vec!["--cmdline", "pci=nomsi"]] {
        let commands = "dd if=/dev/hwrng bs=4k count=16 2>/dev/null | gzip | wc -c\n\
            grep -c virtio /proc/interrupts\n";
        let Some(ran) = run(&words, commands) else {
            return;
        };
        let answers: Vec<u64> = answers(&ran)
            .iter()
            .filter_map(|line| line.parse().ok())
            .collect();
        assert!(
            answers[0] > 64 * 1024,
            "{words:?}: random bytes do not get shorter: {}",
            ran.stdout
        );
        assert!(answers[1] >= 1, "{words:?}: {}", ran.stdout);
    }
}

#[test]
fn several_cpus_share_devices_that_have_pins_only() {
    let folder = tempfile::tempdir().unwrap();
    let disks = ["one", "two"].map(|name| {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![7; 16 << 20]).unwrap();
        format!("{},format=raw", path.display())
    });
    // All at once, each on its own CPU: two disks that share nothing, random numbers, and a pin's line that some share.
    let commands = include_str!("scripts/all_at_once.sh");
    let words = [
        "--cpus",
        "4",
        "--cmdline",
        "pci=nomsi",
        "--disk",
        &disks[0],
        "--disk",
        &disks[1],
    ];
    let Some(ran) = run(&words, commands) else {
        return;
    };
    let mut answers = answers(&ran);
    answers.sort_unstable();
    let sevens = "9e88dfea6f1a4e035a540063cd7b0965  -";
    let mut expected = vec![sevens; 8];
    expected.extend([
        "2c7ab85a893283e98c931e9511add182  -",
        "262144",
        "0",
        "4",
        "complaints end",
    ]);
    expected.sort_unstable();
    assert_eq!((answers, ran.status), (expected, Some(0)), "{}", ran.stdout);
}

#[test]
fn a_device_works_again_after_its_driver_let_it_go() {
    let commands = "cd /sys/bus/virtio/drivers/virtio_rng\nd=$(ls -d virtio*)\n\
        for n in 1 2 3; do echo $d > unbind; echo $d > bind; done\n\
        dd if=/dev/hwrng bs=1k count=4 2>/dev/null | wc -c\n";
    let Some(ran) = run(&[], commands) else {
        return;
    };
    assert_eq!(
        (answers(&ran), ran.status),
        (vec!["4096"], Some(0)),
        "{}",
        ran.stdout
    );
}
