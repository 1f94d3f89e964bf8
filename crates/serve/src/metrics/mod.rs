//! Numbers, of one list: for Prometheus as text (`families`), for collectors of OpenTelemetry in their words (`otlp`).
//!
//! What a VM counts comes under the names of docs/metrics.md with the label `vm`. What this daemon adds is about the
//! host, and about what guests claim beside what is true: `mother_guest_claims_...`, `mother_guest_kernel_...` and
//! `mother_hypervisor_...` of one subject, so that a contradiction is a query.

mod families;
mod gather;

use api::{Metric, MetricKind, MetricUnit};

pub(crate) use self::families::{Families, Form};
pub(crate) use self::gather::gather;
use crate::host_view::HostView;
use crate::words::{Insight, StateView, VmView};

/// All numbers, of what VMs count themselves and of what is known of them and the host.
fn all(
    vms: &[VmView],
    own: &[(String, Vec<Metric>)],
    host: &HostView,
    has_libvirt: bool,
) -> Families {
    let mut families = Families::default();
    for (vm, metrics) in own {
        families.take(metrics, &[("vm", vm)]);
    }
    for vm in vms {
        of_vm(&mut families, vm);
        of_insight(&mut families, vm);
    }
    of_host(&mut families, host);
    if has_libvirt {
        as_libvirt(&mut families, vms, own);
    }
    families
}

fn of_vm(families: &mut Families, vm: &VmView) {
    let name = ("vm", vm.name.as_str());
    let engine = vm.engine.as_deref().unwrap_or("");
    let help = "What a VM is: always 1, with its state and engine as labels.";
    let about = [name, ("state", vm.state.word()), ("engine", engine)];
    families.gauge("mother_vm_info", help, &about, 1.0);
    let up = matches!(vm.state, StateView::Running | StateView::Paused);
    let help = "Whether a VM's guest is there, running or paused.";
    families.gauge("mother_vm_up", help, &[name], f64::from(u8::from(up)));
    if let Some(declared) = &vm.declared {
        let wanted = declared.desired == crate::words::Desired::Running;
        let help = "Whether a declared VM shall run.";
        families.gauge(
            "mother_vm_wanted",
            help,
            &[name],
            f64::from(u8::from(wanted)),
        );
        let help = "Whether a declared VM is not as it is wanted to be because something failed.";
        let has_trouble = f64::from(u8::from(vm.trouble.is_some()));
        families.gauge("mother_vm_trouble", help, &[name], has_trouble);
    }
    for (value, metric, help) in [
        (
            vm.memory_given_bytes.map(|it| it as f64),
            "mother_vm_memory_given_bytes",
            "Memory that a guest was given.",
        ),
        (
            vm.uptime_seconds,
            "mother_vm_uptime_seconds",
            "Since a VM's start, pauses included.",
        ),
    ] {
        if let Some(value) = value.filter(|_| vm.state.is_alive()) {
            families.gauge(metric, help, &[name], value);
        }
    }
}

fn of_insight(families: &mut Families, vm: &VmView) {
    let name = ("vm", vm.name.as_str());
    let Some(insight) = vm.insight.as_ref().filter(|_| vm.state.is_alive()) else {
        return;
    };
    if let Some(is) = &insight.standing {
        let help = "How a guest stands: 1 for what holds.";
        for standing in ["fine", "contradicts", "blind"] {
            let holds = f64::from(u8::from(is == standing));
            families.gauge(
                "mother_guest_standing",
                help,
                &[name, ("standing", standing)],
                holds,
            );
        }
    }
    let rows = insight
        .rows
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let help = "Whether claim, kernel and truth of a subject contradict each other.";
    for row in rows {
        let subject = row["subject"].as_str().unwrap_or_default();
        let wrong = f64::from(u8::from(row["verdict"] == "contradicts"));
        families.gauge(
            "mother_guest_contradicts",
            help,
            &[name, ("subject", subject)],
            wrong,
        );
    }
    of_memory(families, vm, insight);
    let help = "When the guest was looked at last, in seconds since 1970.";
    families.gauge(
        "mother_guest_seen_timestamp_seconds",
        help,
        &[name],
        insight.at,
    );
}

/// A guest's memory: what it claims, what its kernel has in its books, what the host knows.
fn of_memory(families: &mut Families, vm: &VmView, insight: &Insight) {
    let name = ("vm", vm.name.as_str());
    let book = |key: &str| insight.memory[key].as_u64();
    for (value, metric, help) in [
        (
            insight.claimed_used_bytes,
            "mother_guest_claims_memory_used_bytes",
            "Memory in use, as the guest's balloon driver claims.",
        ),
        (
            insight.kernel_used_bytes,
            "mother_guest_kernel_memory_used_bytes",
            "Memory in use, as the guest's kernel has it in its own books.",
        ),
        (
            book("resident_bytes"),
            "mother_hypervisor_memory_resident_bytes",
            "The guest's memory that the host holds.",
        ),
        (
            book("configured_bytes"),
            "mother_hypervisor_memory_configured_bytes",
            "The guest's memory as it was configured.",
        ),
        (
            insight.working_set["value"]
                .as_f64()
                .map(|value| value as u64),
            "mother_hypervisor_working_set_bytes",
            "An estimate of the memory that the guest works on.",
        ),
    ] {
        if let Some(value) = value {
            families.gauge(metric, help, &[name], value as f64);
        }
    }
}

fn of_host(families: &mut Families, host: &HostView) {
    let about = [
        ("name", host.name.as_str()),
        ("kernel", host.kernel.as_str()),
        ("version", host.mother.as_str()),
    ];
    families.gauge("mother_host_info", "The host: always 1.", &about, 1.0);
    let amounts = [
        (
            "mother_host_cpus",
            "CPUs that are online.",
            Some(host.cpus as f64),
        ),
        (
            "mother_host_memory_bytes",
            "Memory of the host.",
            host.memory_bytes.map(|it| it as f64),
        ),
        (
            "mother_host_memory_available_bytes",
            "Memory of the host that can be had without swapping.",
            host.memory_available_bytes.map(|it| it as f64),
        ),
        (
            "mother_host_guests_believed_bytes",
            "Memory that all guests together believe to have.",
            Some(host.guests.believed_bytes as f64),
        ),
        (
            "mother_host_guests_resident_bytes",
            "What the host holds of all guests' memory.",
            Some(host.guests.resident_bytes as f64),
        ),
        (
            "mother_host_guests",
            "Guests that are there.",
            Some(host.guests.running as f64),
        ),
        (
            "mother_host_guests_vcpus",
            "vCPUs that all guests together believe to have.",
            Some(host.guests.vcpus as f64),
        ),
        (
            "mother_host_room_guests",
            "How many more guests fit.",
            Some(host.room.guests as f64),
        ),
        (
            "mother_host_room_bytes",
            "Memory that more guests could take.",
            Some(host.room.memory_bytes as f64),
        ),
    ];
    for (name, help, value) in amounts {
        if let Some(value) = value {
            families.gauge(name, help, &[], value);
        }
    }
    of_pressure(families, host);
}

fn of_pressure(families: &mut Families, host: &HostView) {
    let help = "How long tasks of the host waited for something (PSI).";
    for pressure in &host.pressure {
        let labels = [
            ("what", pressure.what.as_str()),
            ("who", pressure.who.as_str()),
        ];
        let kind = (MetricKind::Counter, MetricUnit::Seconds);
        families.add(
            "mother_host_pressure_seconds_total",
            kind,
            help,
            &labels,
            pressure.seconds_total,
        );
    }
}

/// The same under the names that dashboards for libvirt know.
fn as_libvirt(families: &mut Families, vms: &[VmView], own: &[(String, Vec<Metric>)]) {
    families.gauge("libvirt_up", "Whether the hypervisor answers.", &[], 1.0);
    for vm in vms.iter().filter(|vm| vm.state.is_alive()) {
        let domain = [("domain", vm.name.as_str())];
        let given = vm.memory_given_bytes.unwrap_or(0) as f64;
        families.gauge(
            "libvirt_domain_info_maximum_memory_bytes",
            "Memory that the domain may have.",
            &domain,
            given,
        );
        let held = vm.memory_resident_bytes.unwrap_or(0) as f64;
        families.gauge(
            "libvirt_domain_info_memory_usage_bytes",
            "Memory that the host holds of the domain.",
            &domain,
            held,
        );
        let vcpus = f64::from(vm.vcpus.unwrap_or(0));
        families.gauge(
            "libvirt_domain_info_virtual_cpus",
            "vCPUs of the domain.",
            &domain,
            vcpus,
        );
        let cpu = vm.cpu_seconds.unwrap_or(0.0);
        let seconds = (MetricKind::Counter, MetricUnit::Seconds);
        families.add(
            "libvirt_domain_info_cpu_time_seconds_total",
            seconds,
            "CPU time of the domain.",
            &domain,
            cpu,
        );
    }
    for (vm, metrics) in own {
        for (of, class, name, help) in LIBVIRT {
            let found = metrics.iter().find(|metric| metric.name == *of);
            for sample in found.map(|metric| &metric.samples[..]).unwrap_or_default() {
                if sample.labels.get("class").map(String::as_str) != Some(class) {
                    continue;
                }
                let device = sample.labels.get("device").map_or("", String::as_str);
                let labels = [("domain", vm.as_str()), ("target_device", device)];
                let bytes = (MetricKind::Counter, MetricUnit::Bytes);
                families.add(name, bytes, help, &labels, sample.value);
            }
        }
    }
}

/// Our number and class of device, and libvirt's number.
const LIBVIRT: &[(&str, &str, &str, &str)] = &[
    (
        "mother_device_to_guest_bytes_total",
        "block",
        "libvirt_domain_block_stats_read_bytes_total",
        "Bytes read from the disk.",
    ),
    (
        "mother_device_from_guest_bytes_total",
        "block",
        "libvirt_domain_block_stats_write_bytes_total",
        "Bytes written to the disk.",
    ),
    (
        "mother_device_to_guest_bytes_total",
        "net",
        "libvirt_domain_interface_stats_receive_bytes_total",
        "Bytes received by the guest.",
    ),
    (
        "mother_device_from_guest_bytes_total",
        "net",
        "libvirt_domain_interface_stats_transmit_bytes_total",
        "Bytes sent by the guest.",
    ),
];
