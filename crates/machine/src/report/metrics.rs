//! What each part of a VM counts, put into the one list of numbers ([`api::Metric`]).
//!
//! Every function takes the counters of its part apart field by field, without `..`: a new counter does not compile
//! until it is in the list. A test holds the list against docs/metrics.md.

use std::time::Duration;

use api::{HostCostBook, MetricKind, MetricUnit, Metrics};
use devices::serial::SerialCounters;
use devices::virtio::MetricsReading;
use devices::virtio::balloon::BalloonReading;
use devices::{BoardCounters, BusCounters, InterruptCounters};
use paging::{Books, Counts, PAGE_BYTES, StoreTotals};
use vcpu::{EngineStatistics, Unit};

use crate::outcome::exits::ExitCounts;

/// What the board of one life counted.
pub(crate) fn board(counters: &BoardCounters, unknown_msrs: u64) -> Metrics {
    let BoardCounters {
        pio,
        mmio,
        core_accesses,
        msr_accesses,
        msr_faults,
        interrupts,
        serial,
    } = counters;
    let mut metrics = Metrics::default();
    bus(&mut metrics, "pio", pio);
    bus(&mut metrics, "mmio", mmio);
    metrics.count(
        "board_core_accesses_total",
        "Accesses to registers of interrupt controllers and to PCI configuration space.",
        &[],
        *core_accesses,
    );
    metrics.count(
        "board_msr_accesses_total",
        "Accesses to MSRs of local APICs and of the paravirtual clock.",
        &[],
        *msr_accesses,
    );
    metrics.count(
        "board_msr_faults_total",
        "Of those, accesses that got #GP.",
        &[],
        *msr_faults,
    );
    metrics.count(
        "unknown_msr_accesses_total",
        "Accesses to MSRs that nothing has, which got #GP.",
        &[],
        unknown_msrs,
    );
    self::interrupts(&mut metrics, interrupts);
    let SerialCounters { sent, received } = serial;
    let help = "Bytes that the guest sent through its serial port.";
    metrics.count_bytes("serial_sent_bytes_total", help, &[], *sent);
    let help = "Bytes that the guest read from its serial port.";
    metrics.count_bytes("serial_received_bytes_total", help, &[], *received);
    metrics
}

fn bus(metrics: &mut Metrics, name: &str, counters: &BusCounters) {
    let BusCounters {
        reads,
        writes,
        unmapped_reads,
        unmapped_writes,
    } = *counters;
    let rows = [
        ("bus_reads_total", "Reads of the board's bus.", reads),
        ("bus_writes_total", "Writes to the board's bus.", writes),
        (
            "bus_unmapped_reads_total",
            "Of the reads, those where no device is.",
            unmapped_reads,
        ),
        (
            "bus_unmapped_writes_total",
            "Of the writes, those where no device is.",
            unmapped_writes,
        ),
    ];
    for (row, help, value) in rows {
        metrics.count(row, help, &[("bus", name)], value);
    }
}

fn interrupts(metrics: &mut Metrics, counters: &InterruptCounters) {
    let InterruptCounters {
        accepted,
        from_ioapic,
        from_pic,
        from_vcpus,
        from_messages,
    } = *counters;
    let help = "Interrupts that the board's local APICs took in.";
    metrics.count("interrupts_accepted_total", help, &[], accepted);
    let sources = [
        ("ioapic", from_ioapic),
        ("pic", from_pic),
        ("vcpu", from_vcpus),
        ("message", from_messages),
    ];
    let help = "Interrupts that the board sent, by what raised them.";
    for (source, value) in sources {
        metrics.count("interrupts_sent_total", help, &[("source", source)], value);
    }
}

/// What the VM costs its host, of one that has a limit of that.
pub(crate) fn host_cost(metrics: &mut Metrics, cost: &HostCostBook) {
    let help = "How much the VM may cost its host in all, where there is a limit.";
    metrics.bytes("host_limit_bytes", help, &[], cost.limit_bytes);
    let help =
        "The least that the VM costs its host as things are, where what it costs has a limit.";
    metrics.bytes("host_least_bytes", help, &[], cost.least_bytes);
    let help = "What the VM costs its host, by part, where that has a limit.";
    let parts = [
        ("guest", cost.guest_bytes),
        ("store", cost.store_bytes),
        ("engine", cost.engine_bytes),
        ("own", cost.own_bytes),
        ("program", cost.program_bytes),
    ];
    for (part, bytes) in parts {
        metrics.bytes("host_cost_bytes", help, &[("part", part)], bytes);
    }
}

/// System calls that the filter of the VM's process refused.
pub(crate) fn refused(metrics: &mut Metrics, count: u64) {
    let help = "System calls that the VM's process has no use for once its guest runs, and that were refused.";
    metrics.count("refused_system_calls_total", help, &[], count);
}

/// How often guest code of one life stopped.
pub(crate) fn exits(metrics: &mut Metrics, exits: &ExitCounts) {
    let help = "How often guest code stopped, by why.";
    for (kind, value) in exits.by_kind() {
        let kind = kind.replace(' ', "_");
        metrics.count("exits_total", help, &[("kind", &kind)], value);
    }
}

/// What the engine counted.
pub(crate) fn engine(metrics: &mut Metrics, statistics: &EngineStatistics) {
    for &(name, unit, value) in &statistics.0 {
        let name = name.replace(' ', "_");
        match unit {
            Unit::Count | Unit::SharedCount => {
                let help = "What the engine counted of itself, by what happened.";
                metrics.count("engine_events_total", help, &[("event", &name)], value);
            }
            Unit::Bytes | Unit::SharedBytes => {
                let help = "Memory of the engine, by what it is for.";
                metrics.bytes("engine_memory_bytes", help, &[("what", &name)], value);
            }
        }
    }
}

/// What one virtio device counted.
pub(crate) fn device(metrics: &mut Metrics, name: &str, class: &str, reading: &MetricsReading) {
    let MetricsReading {
        requests,
        bytes_to_guest,
        bytes_from_guest,
        errors,
        refused,
        violations,
        notifications,
        interrupts,
        latency: _,
        latency_sum: _,
    } = reading;
    let labels = &[("device", name), ("class", class)];
    let rows = [
        (
            "device_requests_total",
            "Requests finished, well or badly; of a network, packets.",
            requests,
        ),
        (
            "device_errors_total",
            "Requests that failed on the host's side, or that the device refused.",
            errors,
        ),
        (
            "device_refused_total",
            "Packets that the guest may not send: to a destination that is not on its list (`--egress`), or, on a network between VMs, not as itself.",
            refused,
        ),
        (
            "device_violations_total",
            "What the guest's driver did against the specification.",
            violations,
        ),
        (
            "device_notifications_total",
            "How often the guest's driver notified the device.",
            notifications,
        ),
        (
            "device_interrupts_total",
            "Interrupts that the device raised.",
            interrupts,
        ),
    ];
    for (row, help, value) in rows {
        metrics.count(row, help, labels, *value);
    }
    let help = "Bytes that the device gave to the guest.";
    metrics.count_bytes("device_to_guest_bytes_total", help, labels, *bytes_to_guest);
    let help = "Bytes that the guest gave to the device.";
    metrics.count_bytes(
        "device_from_guest_bytes_total",
        help,
        labels,
        *bytes_from_guest,
    );
    durations(metrics, name, class, reading);
}

/// How long its requests took.
fn durations(metrics: &mut Metrics, name: &str, class: &str, reading: &MetricsReading) {
    let labels = &[("device", name), ("class", class)];
    let took = reading.latency_sum.as_secs_f64();
    let help = "Time from taking a request to giving it back, of all requests together.";
    let name_of_sum = "device_request_seconds_total";
    metrics.count_seconds(name_of_sum, help, labels, took);
    let help =
        "Requests that took less than `under_us` microseconds and not less than half of that.";
    for (micros, count) in &reading.latency {
        let under = micros.to_string();
        let labels = &[
            ("device", name),
            ("class", class),
            ("under_us", under.as_str()),
        ];
        metrics.count("device_requests_by_duration_total", help, labels, *count);
    }
}

/// What is known of the balloon.
pub(crate) fn balloon(metrics: &mut Metrics, reading: &BalloonReading) {
    let BalloonReading {
        target_bytes,
        actual_bytes,
        inflated_bytes,
        reported_bytes,
        statistics,
        statistics_age,
    } = reading;
    let help = "What the host wants in the balloon.";
    metrics.bytes("balloon_target_bytes", help, &[], *target_bytes);
    let help = "What the guest says is in the balloon: a claim.";
    metrics.bytes("balloon_claimed_bytes", help, &[], *actual_bytes);
    let help = "What inflating asked the host to take back, counted again each time.";
    metrics.count_bytes("balloon_inflated_bytes_total", help, &[], *inflated_bytes);
    let help = "What reports of free pages asked the host to take back, counted again each time.";
    metrics.count_bytes("balloon_reported_bytes_total", help, &[], *reported_bytes);
    let gauge = (MetricKind::Gauge, MetricUnit::Count);
    let help = "What the guest's driver says of its memory: claims, named and measured as in the \
                specification.";
    for (claim, value) in statistics {
        let claim = claim.replace(' ', "_");
        let labels = &[("claim", claim.as_str())];
        metrics.add("balloon_claims", gauge, help, labels, *value as f64);
    }
    if let Some(age) = statistics_age {
        let gauge = (MetricKind::Gauge, MetricUnit::Seconds);
        let help = "How long ago the guest's driver said so.";
        metrics.add(
            "balloon_claims_age_seconds",
            gauge,
            help,
            &[],
            age.as_secs_f64(),
        );
    }
}

/// What the pager of one life counted.
pub(crate) fn pager(metrics: &mut Metrics, books: &Books) {
    let Books {
        limit_bytes,
        resident_bytes,
        out_bytes,
        base_bytes,
        zero_bytes,
        store,
        store_memory_budget,
        counts,
        // Estimates with their errors are in the observers' books.
        working_set: _,
        dirty: _,
        stalled,
        fault_in_us,
        cpu,
    } = books;
    if let Some(limit) = limit_bytes {
        let help = "How much of the guest's memory the host may hold.";
        metrics.bytes("paging_limit_bytes", help, &[], *limit);
    }
    let help = "What the host holds of the guest's memory, by the pager's account.";
    metrics.bytes("paging_resident_bytes", help, &[], *resident_bytes);
    let help = "Guest memory that is in the store.";
    metrics.bytes("paging_out_bytes", help, &[], *out_bytes);
    let help = "Guest memory that lies in the snapshot that the guest was brought back from, not used since.";
    metrics.bytes("paging_snapshot_bytes", help, &[], *base_bytes);
    let help = "Guest memory that was put away as zeros, for which nothing is stored.";
    metrics.bytes("paging_zero_bytes", help, &[], *zero_bytes);
    let help = "Memory that the store of pages may take.";
    metrics.bytes("paging_store_budget_bytes", help, &[], *store_memory_budget);
    let gauge = (MetricKind::Gauge, MetricUnit::Count);
    let help = "1 while the guest waits for room for its pages, else 0.";
    metrics.add(
        "paging_stalled",
        gauge,
        help,
        &[],
        f64::from(u8::from(stalled.is_some())),
    );
    if let Some((median, p99)) = fault_in_us {
        let gauge = (MetricKind::Gauge, MetricUnit::Seconds);
        let help = "From hearing of a fault to having the page back: what so much of all faults \
                    took no longer than.";
        for (quantile, micros) in [("0.5", median), ("0.99", p99)] {
            let seconds = Duration::from_micros(*micros).as_secs_f64();
            metrics.add(
                "paging_fault_in_seconds",
                gauge,
                help,
                &[("quantile", quantile)],
                seconds,
            );
        }
    }
    let help = "CPU time of the pager's threads.";
    metrics.count_seconds("paging_cpu_seconds_total", help, &[], cpu.as_secs_f64());
    self::store(metrics, store);
    paged(metrics, counts);
}

fn store(metrics: &mut Metrics, totals: &StoreTotals) {
    let StoreTotals {
        repeating_pages,
        memory_pages,
        file_pages,
        shared_pages,
        memory_bytes,
        file_bytes,
        file_held_bytes,
    } = *totals;
    let help = "Guest memory in the store, by how it is kept.";
    let places = [
        ("repeating", repeating_pages),
        ("compressed_in_memory", memory_pages),
        ("in_file", file_pages),
        ("same_as_another", shared_pages),
    ];
    for (place, pages) in places {
        let labels = &[("place", place)];
        metrics.bytes("paging_stored_bytes", help, labels, pages * PAGE_BYTES);
    }
    let help = "Memory that the store holds for pages, gaps included.";
    metrics.bytes("paging_store_memory_bytes", help, &[], memory_bytes);
    let help = "Bytes of pages in the page file.";
    metrics.bytes("paging_file_used_bytes", help, &[], file_bytes);
    let help = "What of the page file is taken, gaps included.";
    metrics.bytes("paging_file_held_bytes", help, &[], file_held_bytes);
}

fn paged(metrics: &mut Metrics, counts: &Counts) {
    let Counts {
        page_ins,
        prefetched,
        page_outs,
        zero_page_outs,
        stayed,
        zero_fills,
        dropped,
        refused,
    } = *counts;
    let events = [
        ("page_in", page_ins),
        ("prefetched", prefetched),
        ("page_out", page_outs),
        ("zero_page_out", zero_page_outs),
        ("stayed", stayed),
        ("zero_fill", zero_fills),
        ("dropped", dropped),
        ("refused", refused),
    ];
    let help = "Pages of the guest, by what happened to them.";
    for (event, pages) in events {
        metrics.count("paging_pages_total", help, &[("event", event)], pages);
    }
}

#[cfg(test)]
mod tests {
    use api::Metric;
    use devices::virtio::VirtioKind;

    use super::*;

    /// One of everything, at its fullest.
    fn everything() -> Vec<Metric> {
        let mut metrics = board(&BoardCounters::default(), 0);
        refused(&mut metrics, 0);
        exits(&mut metrics, &ExitCounts::default());
        let statistics = EngineStatistics(vec![
            ("tlb misses", Unit::Count, 1),
            ("code cache", Unit::SharedBytes, 2),
        ]);
        engine(&mut metrics, &statistics);
        let reading = MetricsReading {
            latency: vec![(2, 1)],
            ..MetricsReading::default()
        };
        device(&mut metrics, "disk0", VirtioKind::Block.as_str(), &reading);
        let reading = BalloonReading {
            statistics: vec![("swap in", 1)],
            statistics_age: Some(Duration::from_secs(1)),
            ..BalloonReading::default()
        };
        balloon(&mut metrics, &reading);
        let books = Books {
            limit_bytes: Some(1),
            resident_bytes: 1,
            out_bytes: 1,
            base_bytes: 0,
            zero_bytes: 0,
            store: StoreTotals::default(),
            store_memory_budget: 1,
            counts: Counts::default(),
            working_set: None,
            dirty: None,
            stalled: None,
            fault_in_us: Some((1, 2)),
            cpu: Duration::ZERO,
        };
        pager(&mut metrics, &books);
        metrics.into_vec()
    }

    #[test]
    fn names_keep_to_the_conventions() {
        for metric in everything() {
            let name = &metric.name;
            let is_plain =
                |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit();
            assert!(
                name.starts_with("mother_") && name.bytes().all(is_plain),
                "{name}"
            );
            let is_counter = metric.kind == MetricKind::Counter;
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            let stem = name.trim_end_matches("_total");
            assert_eq!(
                stem.ends_with("_bytes"),
                metric.unit == MetricUnit::Bytes,
                "{name}"
            );
            assert_eq!(
                stem.ends_with("_seconds"),
                metric.unit == MetricUnit::Seconds,
                "{name}"
            );
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
            for (n, sample) in metric.samples.iter().enumerate() {
                let earlier = &metric.samples[..n];
                assert!(
                    earlier.iter().all(|it| it.labels != sample.labels),
                    "{name} twice"
                );
            }
        }
    }

    #[test]
    fn every_number_stands_in_the_docs() {
        let docs = include_str!("../../../../docs/metrics.md");
        for metric in everything() {
            let name = format!("`{}`", metric.name);
            assert!(docs.contains(&name), "docs/metrics.md lacks {name}");
        }
    }
}
