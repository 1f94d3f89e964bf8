//! Numbers for Prometheus: the text format 0.0.4 and OpenMetrics 1.0, of one list.
//!
//! What a VM counts comes under the names of docs/metrics.md with the label `vm`. What this daemon adds is about the
//! host, and about what guests claim beside what is true: `mother_guest_claims_...`, `mother_guest_kernel_...` and
//! `mother_hypervisor_...` of one subject, so that a contradiction is a query.
//!
//! The two forms differ where a parser would notice: in OpenMetrics a counter's family has no `_total`, units are told,
//! and the text ends with `# EOF`.

use std::collections::BTreeMap;
use std::fmt::Write;

use api::{Metric, MetricKind, MetricUnit, Sample};

use crate::host_view::HostView;
use crate::words::{Insight, StateView, VmView};

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// Prometheus text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    Open,
}

impl Form {
    /// What a client accepts best; the classic form unless it asks for the other one.
    pub(crate) fn of(accept: &str) -> Form {
        let weight = |wanted: &str| {
            let accepted = accept.split(',').filter_map(|one| {
                let mut parts = one.split(';').map(str::trim);
                let kind = parts.next()?;
                let mut weight = 1.0;
                for part in parts {
                    if let Some(text) = part.strip_prefix("q=") {
                        weight = text.parse().ok()?;
                    }
                }
                kind.eq_ignore_ascii_case(wanted).then_some(weight)
            });
            accepted.fold(0.0, f64::max)
        };
        if weight("application/openmetrics-text") > weight("text/plain") {
            Form::Open
        } else {
            Form::Classic
        }
    }

    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Form::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Form::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Families by name.
#[derive(Default)]
struct Families(BTreeMap<String, Family>);

struct Family {
    kind: MetricKind,
    unit: MetricUnit,
    help: String,
    samples: Vec<Sample>,
}

impl Families {
    fn add(
        &mut self,
        name: &str,
        (kind, unit): (MetricKind, MetricUnit),
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let sample = Sample {
            labels: labels.collect(),
            value,
        };
        self.family(name, kind, unit, help).samples.push(sample);
    }

    fn family(
        &mut self,
        name: &str,
        kind: MetricKind,
        unit: MetricUnit,
        help: &str,
    ) -> &mut Family {
        self.0.entry(name.to_owned()).or_insert_with(|| Family {
            kind,
            unit,
            help: help.to_owned(),
            samples: Vec::new(),
        })
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let unit = if name.ends_with("_bytes") {
            MetricUnit::Bytes
        } else if name.ends_with("_seconds") {
            MetricUnit::Seconds
        } else {
            MetricUnit::Count
        };
        self.add(name, (MetricKind::Gauge, unit), help, labels, value);
    }

    fn write(&self, form: Form) -> String {
        let mut text = String::new();
        for (name, family) in &self.0 {
            let is_counter = family.kind == MetricKind::Counter;
            let of_family = match form {
                Form::Open if is_counter => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            let kind = if is_counter { "counter" } else { "gauge" };
            let _ = writeln!(
                text,
                "# HELP {of_family} {}",
                escaped(&family.help, form == Form::Open)
            );
            let _ = writeln!(text, "# TYPE {of_family} {kind}");
            let unit = match family.unit {
                MetricUnit::Bytes => Some("bytes"),
                MetricUnit::Seconds => Some("seconds"),
                MetricUnit::Count => None,
            };
            // A unit that is told must be the end of the family's name.
            if let Some(unit) = unit.filter(|unit| {
                form == Form::Open
                    && of_family
                        .strip_suffix(unit)
                        .is_some_and(|rest| rest.ends_with('_'))
            }) {
                let _ = writeln!(text, "# UNIT {of_family} {unit}");
            }
            for sample in &family.samples {
                let _ = writeln!(
                    text,
                    "{name}{} {}",
                    labels(&sample.labels),
                    number(sample.value)
                );
            }
        }
        if form == Form::Open {
            text.push_str("# EOF\n");
        }
        text
    }
}

/// Backslashes and line ends; quotes where they would end something.
fn escaped(text: &str, quotes_too: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quotes_too => escaped.push_str("\\\""),
            it => escaped.push(it),
        }
    }
    escaped
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{}\"", escaped(value, true)));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return format!("{}", value as i64);
    }
    format!("{value}")
}

/// All numbers.
pub(crate) fn text(
    form: Form,
    vms: &[VmView],
    own: &[(String, Vec<Metric>)],
    host: &HostView,
    has_libvirt: bool,
) -> String {
    let mut families = Families::default();
    for (vm, metrics) in own {
        for metric in metrics {
            let family = families.family(&metric.name, metric.kind, metric.unit, &metric.help);
            for sample in &metric.samples {
                let mut labels = sample.labels.clone();
                labels.insert("vm".to_owned(), vm.clone());
                family.samples.push(Sample {
                    labels,
                    value: sample.value,
                });
            }
        }
    }
    for vm in vms {
        of_vm(&mut families, vm);
        of_insight(&mut families, vm);
    }
    of_host(&mut families, host);
    if has_libvirt {
        as_libvirt(&mut families, vms, own);
    }
    families.write(form)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_form_it_likes_best() {
        let check = |accept: &str, expected| assert_eq!(Form::of(accept), expected, "{accept}");
        check("", Form::Classic);
        check("*/*", Form::Classic);
        check("text/plain", Form::Classic);
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Form::Open,
        );
        check(
            "application/openmetrics-text;q=0.2,text/plain;q=0.5",
            Form::Classic,
        );
    }

    #[test]
    fn both_forms_say_the_same_in_their_own_words() {
        let mut families = Families::default();
        let seconds = (MetricKind::Counter, MetricUnit::Seconds);
        families.add(
            "a_seconds_total",
            seconds,
            "Time.",
            &[("vm", "x\"\\\n")],
            1.5,
        );
        families.gauge("b_bytes", "A \"size\".", &[], 3e9);
        families.gauge("c", "Things.", &[], 1.0);
        assert_eq!(
            families.write(Form::Classic),
            "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\na_seconds_total{vm=\"x\\\"\\\\\\n\"} 1.5\n\
             # HELP b_bytes A \"size\".\n# TYPE b_bytes gauge\nb_bytes 3000000000\n\
             # HELP c Things.\n# TYPE c gauge\nc 1\n"
        );
        assert_eq!(
            families.write(Form::Open),
            "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
             a_seconds_total{vm=\"x\\\"\\\\\\n\"} 1.5\n\
             # HELP b_bytes A \\\"size\\\".\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 3000000000\n\
             # HELP c Things.\n# TYPE c gauge\nc 1\n# EOF\n"
        );
    }
}
