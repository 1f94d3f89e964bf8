//! The transport as a driver sees it that goes by the book, and what happens to one that does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bench::*;
use crate::layout;
use crate::pci::PciFunction;
use crate::virtio::DeviceMetrics;
use crate::virtio::entropy::Entropy;

/// Rings of the random number generator's only queue.
const RINGS: [u64; 3] = [0x1000, 0x2000, 0x3000];
const BUFFER: u64 = 0x8000;
const NEEDS_RESET: u64 = 64;

fn bench() -> (Bench, Arc<DeviceMetrics>) {
    let metrics = Arc::<DeviceMetrics>::default();
    (
        Bench::new(Box::new(Entropy::new(Arc::clone(&metrics))), 0x1_0000),
        metrics,
    )
}

/// A driver that has asked for 16 random bytes.
fn asks(bench: &mut Bench) {
    bench.put(RINGS[0], 8, BUFFER);
    bench.put(RINGS[0] + 8, 8, 16 | 2 << 32);
    bench.put(RINGS[1] + 2, 2, 1);
    bench.write(NOTIFY, 2, 0);
    bench.serve(false);
}

fn with_msix(bench: &mut Bench) {
    bench.function.write_config(MSIX_CONTROL, 2, 1 << 15);
    for vector in 0..2 {
        bench.write(TABLE + 16 * vector, 8, 0xfee0_0000);
        bench.write(TABLE + 16 * vector + 8, 8, 0x40 + vector);
    }
}

#[test]
fn a_request_is_served_and_answered_with_a_message() {
    let (mut bench, metrics) = bench();
    with_msix(&mut bench);
    bench.set_up(0, |_| Some(RINGS));
    bench.write(CONFIG_VECTOR, 2, 0);
    bench.write(QUEUE_SELECT, 2, 0);
    bench.write(QUEUE_VECTOR, 2, 1);
    asks(&mut bench);
    let mut bytes = [0; 16];
    bench.memory.read(x86::Gpa(BUFFER), &mut bytes).unwrap();
    assert_ne!(bytes, [0; 16]);
    assert_eq!(
        bench.memory.read_value(x86::Gpa(RINGS[2] + 2), 2).unwrap(),
        1,
        "used index"
    );
    assert_eq!(
        bench.memory.read_value(x86::Gpa(RINGS[2] + 8), 4).unwrap(),
        16,
        "used length"
    );
    assert_eq!(*bench.heard.messages.lock().unwrap(), [(0xfee0_0000, 0x41)]);
    assert!(!bench.function.has_interrupt());
    let reading = metrics.read();
    assert_eq!(
        (reading.requests, reading.bytes_to_guest, reading.violations),
        (1, 16, 0)
    );
}

#[test]
fn without_messages_the_pin_tells_until_the_status_is_read() {
    let (mut bench, _) = bench();
    bench.set_up(0, |_| Some(RINGS));
    asks(&mut bench);
    assert!(bench.function.has_interrupt() && bench.heard.pins.load(Ordering::Relaxed));
    bench.function.write_config(4, 2, 0x406);
    assert!(
        !bench.function.has_interrupt(),
        "disabled by the command register"
    );
    bench.function.write_config(4, 2, 0x006);
    assert_eq!(
        (
            bench.read(INTERRUPT_STATUS, 1),
            bench.read(INTERRUPT_STATUS, 1)
        ),
        (1, 0)
    );
    assert!(!bench.function.has_interrupt());
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let (mut bench, _) = bench();
    // Without event index the flag in the available ring counts.
    bench.set_up(1 << 29, |_| Some(RINGS));
    bench.put(RINGS[1], 2, 1);
    asks(&mut bench);
    assert_eq!(
        bench.memory.read_value(x86::Gpa(RINGS[2] + 2), 2).unwrap(),
        1
    );
    assert!(!bench.function.has_interrupt());
}

#[test]
fn a_driver_that_breaks_the_rules_changes_nothing_and_is_counted() {
    let check = |what: &str, act: fn(&mut Bench), status| {
        let (mut bench, metrics) = bench();
        act(&mut bench);
        assert_eq!(bench.read(STATUS, 1), status, "{what}: status");
        assert!(metrics.read().violations > 0, "{what}: counted");
    };
    check(
        "DRIVER before ACKNOWLEDGE",
        |bench| bench.write(STATUS, 1, 2),
        0,
    );
    check(
        "DRIVER_OK before FEATURES_OK",
        |bench| bench.write(STATUS, 1, 7),
        3,
    );
    let without_version_1 = |bench: &mut Bench| {
        bench.write(STATUS, 1, 1);
        bench.write(STATUS, 1, 3);
        bench.write(STATUS, 1, 0xb);
    };
    check("not VERSION_1", without_version_1, 3);
    let not_offered = |bench: &mut Bench| {
        bench.write(STATUS, 1, 3);
        bench.write(DRIVER_FEATURE_SELECT, 4, 1);
        bench.write(DRIVER_FEATURE, 4, 0xffff_ffff);
        bench.write(STATUS, 1, 0xb);
    };
    check("a feature not offered", not_offered, 3);
    let cleared = |bench: &mut Bench| {
        bench.write(STATUS, 1, 3);
        bench.write(STATUS, 1, 1);
    };
    check("a status bit cleared", cleared, 3);
    let early = |bench: &mut Bench| {
        bench.write(STATUS, 1, 3);
        bench.write(QUEUE_SIZE, 2, 8);
        bench.write(NOTIFY, 2, 0);
    };
    check("queues before features", early, 3);
    let late = |bench: &mut Bench| {
        bench.set_up(0, |_| Some(RINGS));
        bench.write(DESCRIPTORS, 8, 0x4000);
        assert_eq!(
            bench.read(DESCRIPTORS, 8),
            RINGS[0],
            "an enabled queue stays where it is"
        );
        bench.write(DRIVER_FEATURE, 4, 0);
    };
    check("changes while it runs", late, 0xf);
    let width = |bench: &mut Bench| bench.write(STATUS, 4, 1);
    check("a register in another width", width, 0);
}

#[test]
fn rings_that_cannot_be_make_the_device_ask_for_a_reset() {
    let check = |what: &str, rings: [u64; 3]| {
        let (mut bench, metrics) = bench();
        bench.set_up(0, |_| Some(rings));
        assert_eq!(bench.read(STATUS, 1) & NEEDS_RESET, NEEDS_RESET, "{what}");
        assert_eq!(
            bench.read(INTERRUPT_STATUS, 1) & 2,
            2,
            "{what}: the driver is told"
        );
        assert!(metrics.read().violations > 0, "{what}");
        bench.set_up(0, |_| Some(RINGS));
        asks(&mut bench);
        assert_eq!(bench.read(STATUS, 1), 0xf, "{what}: after a reset it works");
    };
    check("behind memory", [0x1000, 0x2000, 0x1_0000]);
    check("half behind memory", [0xfff0, 0x2000, 0x3000]);
    check("at the end of addresses", [!15, 0x2000, 0x3000]);
    check("descriptors not aligned", [0x1008, 0x2000, 0x3000]);
    check("used ring not aligned", [0x1000, 0x2000, 0x3002]);
}

#[test]
fn a_broken_ring_ends_the_worker_and_asks_for_a_reset() {
    let check = |what: &str, break_it: fn(&mut Bench)| {
        let (mut bench, metrics) = bench();
        bench.set_up(0, |_| Some(RINGS));
        break_it(&mut bench);
        bench.write(NOTIFY, 2, 0);
        bench.serve(false);
        assert_eq!(bench.read(STATUS, 1), 0xf | NEEDS_RESET, "{what}");
        assert_eq!(bench.read(INTERRUPT_STATUS, 1), 2, "{what}");
        assert_eq!(metrics.read().violations, 1, "{what}");
        bench.put(RINGS[1], 8, 0);
        bench.set_up(0, |_| Some(RINGS));
        asks(&mut bench);
        assert_eq!(bench.read(STATUS, 1), 0xf, "{what}: after a reset it works");
    };
    check("the index jumps", |bench| {
        bench.put(RINGS[1] + 2, 2, 0x4000)
    });
    check("a loop", |bench| {
        bench.put(RINGS[0], 8, BUFFER);
        bench.put(RINGS[0] + 8, 8, 16 | 3 << 32);
        bench.put(RINGS[1] + 2, 2, 1);
    });
    check("a head outside of the table", |bench| {
        bench.put(RINGS[1] + 4, 2, 0xfff0);
        bench.put(RINGS[1] + 2, 2, 1);
    });
    check("an indirect table in an indirect table", |bench| {
        bench.put(RINGS[0], 8, 0x5000);
        bench.put(RINGS[0] + 8, 8, 16 | 4 << 32);
        bench.put(0x5000, 8, 0x5000);
        bench.put(0x5008, 8, 16 | 4 << 32);
        bench.put(RINGS[1] + 2, 2, 1);
    });
}

#[test]
fn the_status_is_zero_only_when_workers_have_ended() {
    let (mut bench, _) = bench();
    bench.set_up(0, |_| Some(RINGS));
    bench.write(STATUS, 1, 0);
    assert_eq!(bench.read(STATUS, 1), 0xf);
    bench.serve(false);
    assert_eq!(bench.read(STATUS, 1), 0);
}

#[test]
fn a_reset_does_not_wait_for_a_worker_that_takes_its_time() {
    let (mut bench, _) = bench();
    bench.set_up(0, |_| Some(RINGS));
    bench.write(STATUS, 1, 0);
    assert_eq!(bench.asked(), 1, "the write looks once and comes back");
    for read in 2..5 {
        assert_eq!(bench.read(STATUS, 1), 0xf, "the worker is still there");
        assert_eq!(bench.asked(), read, "a read looks once, too");
    }
    bench.serve(false);
    assert_eq!(bench.read(STATUS, 1), 0, "the read that finds it gone");
}

#[test]
fn a_guest_without_memory_access_reaches_registers_through_configuration_space() {
    let (mut bench, _) = bench();
    // Offset 0x14, one byte, is the status (4.1.4.9).
    bench.function.write_config(0x98, 4, STATUS as u32);
    bench.function.write_config(0x9c, 4, 1);
    bench.function.write_config(0xa0, 1, 1);
    assert_eq!(bench.read(STATUS, 1), 1);
    assert_eq!(bench.function.read_config(0xa0, 1), 1);
    // What does not fit into the window reaches nothing.
    bench.function.write_config(0x98, 4, u32::MAX);
    bench.function.write_config(0x9c, 4, 4);
    assert_eq!(bench.function.read_config(0xa0, 4), 0);
}

#[test]
fn a_window_moves_and_can_be_switched_off() {
    let (mut bench, _) = bench();
    let before = bench.function.window().unwrap();
    assert_eq!(before, (x86::Gpa(0xc000_8000), 0x8000));
    bench.function.write_config(0x10, 4, u32::MAX);
    assert_eq!(bench.function.read_config(0x10, 4), 0xffff_8000, "its size");
    bench.function.write_config(0x10, 4, 0xd000_1234);
    assert_eq!(bench.function.window().unwrap().0, x86::Gpa(0xd000_0000));
    bench.function.write_config(4, 2, 0);
    assert_eq!(bench.function.window(), None);
}

#[test]
fn every_queue_has_a_place_and_the_one_behind_the_last_has_none() {
    let (mut bench, _) = bench();
    assert_eq!(bench.read(QUEUE_COUNT, 2), 1);
    bench.write(QUEUE_SELECT, 2, 1);
    assert_eq!(bench.read(QUEUE_SIZE, 2), 0);
    assert_eq!(bench.read(CONFIG, 8), 0);
}

#[test]
fn a_notification_has_a_wire_as_long_as_it_means_something() {
    let (mut bench, _) = bench();
    let check = |bench: &Bench, expected: &[u64], why: &str| {
        let wires = bench.function.wires();
        let places: Vec<u64> = wires
            .iter()
            .map(|wire| wire.gpa.0 - layout::PCI_WINDOW.0)
            .collect();
        assert_eq!(places, expected, "{why}");
    };
    check(&bench, &[], "nobody drives it");
    bench.set_up(0, |_| Some(RINGS));
    check(&bench, &[0x8000 + 0x3000], "it runs");
    bench
        .function
        .write_config(0x10, 4, layout::PCI_WINDOW.0 as u32 + 0x10_0000);
    check(&bench, &[0x10_3000], "it moves with the window");
    bench.function.write_config(4, 2, 0x4);
    check(&bench, &[], "the window is closed");
    bench.function.write_config(4, 2, 0x6);
    check(&bench, &[0x10_3000], "the window is open again");
    bench.reset();
    check(&bench, &[], "the driver has reset it");
}
