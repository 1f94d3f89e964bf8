//! The longest answers that a VM can give are ones that a client reads, whatever the guest does to make them longer.

use std::sync::Arc;
use std::time::Duration;

use api::{
    BalloonBook, ClaimBook, ClockBook, Counter, DeviceStatus, HostBooks, MemoryBook, Metrics,
    Outcome, REPLY_BYTES_MAX, VcpuBook, VcpuCount,
};
use devices::BoardCounters;
use devices::virtio::{DeviceMetrics, VirtioKind};

use crate::attach::claims::{ClaimReader, Claims};
use crate::attach::counters::DeviceCounters;
use crate::outcome::exits::{ExitCounts, ExitKind};
use crate::plan::{DISKS_MAX, FOLDERS_MAX};
use crate::report::metrics;
use crate::server::lines::line;

/// Every device that a VM can have, each with requests of every duration.
fn devices() -> Vec<DeviceCounters> {
    let one_each = [
        VirtioKind::Net,
        VirtioKind::Console,
        VirtioKind::Entropy,
        VirtioKind::Balloon,
        VirtioKind::Vsock,
    ];
    let kinds = one_each
        .into_iter()
        .chain([VirtioKind::Block; DISKS_MAX])
        .chain([VirtioKind::FileSystem; FOLDERS_MAX]);
    let device = |(number, kind): (usize, VirtioKind)| {
        let metrics = Arc::<DeviceMetrics>::default();
        for bits in 0..64 {
            metrics.latency.add(Duration::from_micros(1 << bits));
        }
        DeviceCounters {
            name: format!("{}{number}", kind.as_str()),
            kind,
            metrics,
            balloon: None,
        }
    };
    kinds.enumerate().map(device).collect()
}

/// What a guest says that says as much as it can, in characters that take two in JSON.
fn claims() -> ClaimBook {
    let claims = Claims::default();
    let mut reader = ClaimReader::new(claims.clone(), "vsock");
    for number in 0..1000 {
        let key = format!("{number:040}");
        let said = format!("claim {key} {}\n", "\\".repeat(208));
        reader.take(said.as_bytes());
    }
    claims.book()
}

fn most(mut counters: Vec<Counter>) -> Vec<Counter> {
    for counter in &mut counters {
        counter.value = u64::MAX;
    }
    counters
}

fn check(outcome: Outcome) {
    let len = line(outcome).len();
    assert!(len <= REPLY_BYTES_MAX, "{len} bytes");
}

#[test]
fn the_books_of_the_largest_vm_are_read_whatever_its_guest_claims() {
    let claims = claims();
    let longest = claims.claims.iter().map(|claim| claim.value.len()).max();
    assert_eq!(
        (claims.claims.len(), longest),
        (64, Some(208)),
        "as much as is kept"
    );
    let exits = ExitKind::ALL.map(|(_, name)| Counter {
        name: name.to_owned(),
        value: u64::MAX,
    });
    let vcpu = |vcpu_id| VcpuBook {
        vcpu_id,
        run_seconds: Some(f64::MAX),
        wait_seconds: Some(f64::MAX),
        halted_seconds: f64::MAX,
        waiting_for_startup_seconds: f64::MAX,
        exits: exits.to_vec(),
    };
    let status = |device: &DeviceCounters| {
        let DeviceStatus { name, counters } = device.read();
        DeviceStatus {
            name,
            counters: most(counters),
        }
    };
    let books = HostBooks {
        life: u64::MAX,
        reboots: u64::MAX,
        engine: "soft".to_owned(),
        paused: false,
        uptime_seconds: f64::MAX,
        cpu_seconds: f64::MAX,
        clock: ClockBook {
            wall_at_start: f64::MAX,
            guest_seconds: f64::MAX,
            paused_seconds: f64::MAX,
            tsc_khz: u64::MAX,
        },
        memory: MemoryBook::default(),
        host_cost: None,
        engine_memory: None,
        vcpus: (0..VcpuCount::MAX.get()).map(vcpu).collect(),
        devices: devices().iter().map(status).collect(),
        balloon: BalloonBook::default(),
        claims,
        working_set: None,
        dirty_rate: None,
    };
    check(Outcome::Books {
        books: Box::new(books),
    });
}

#[test]
fn the_numbers_of_the_largest_vm_are_read() {
    let mut list = Metrics::default();
    list.merge(metrics::board(&BoardCounters::default(), u64::MAX));
    metrics::exits(&mut list, &ExitCounts::default());
    for device in devices() {
        device.add_to(&mut list);
    }
    let mut metrics = list.into_vec();
    let samples = metrics.iter_mut().flat_map(|metric| &mut metric.samples);
    for sample in samples {
        // The longest that is written digit by digit.
        sample.value = ((1_u64 << 53) - 1) as f64;
    }
    check(Outcome::Metrics { metrics });
}
