//! The host: what it has, what all guests believe to have, and what more fits.

use std::fs;

use schemars::JsonSchema;
use serde::Serialize;

use crate::words::VmView;

/// What one more guest is counted with where none runs that could be an example.
const USUAL_BYTES: u64 = 256 << 20;
/// Memory that is left to the host, as a share of all of it.
const LEFT_SHARE: u64 = 10;

/// The host.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct HostView {
    /// Its name.
    pub(crate) name: String,
    /// Its kernel's release.
    pub(crate) kernel: String,
    /// The version of Mother.
    pub(crate) mother: String,
    /// CPUs that are online.
    pub(crate) cpus: usize,
    /// The load of the last 1, 5 and 15 minutes.
    pub(crate) load: Vec<f64>,
    /// Memory (proc_meminfo(5)).
    pub(crate) memory_bytes: Option<u64>,
    /// What can be had without swapping.
    pub(crate) memory_available_bytes: Option<u64>,
    /// Pressure stall information (the kernel's Documentation/accounting/psi.rst).
    pub(crate) pressure: Vec<Pressure>,
    /// All guests together.
    pub(crate) guests: Guests,
    /// What more fits.
    pub(crate) room: Room,
}

/// How much was waited for something.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct Pressure {
    /// `cpu`, `memory` or `io`.
    pub(crate) what: String,
    /// `some` or `full`.
    pub(crate) who: String,
    /// Share of the last 10 seconds, from 0 to 1.
    pub(crate) share_of_10s: f64,
    /// All together.
    pub(crate) seconds_total: f64,
}

/// All guests that run together: what they believe beside what there is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Guests {
    /// How many there are.
    pub(crate) running: usize,
    /// vCPUs that they believe to have.
    pub(crate) vcpus: u64,
    /// Memory that they believe to have.
    pub(crate) believed_bytes: u64,
    /// What the host holds of it.
    pub(crate) resident_bytes: u64,
    /// Memory that they say they use, of those that say it.
    pub(crate) claimed_used_bytes: u64,
}

/// What more fits here.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct Room {
    /// Memory that guests could take now, a tenth of the host's left alone.
    pub(crate) memory_bytes: u64,
    /// What one more guest is counted with: the middle of what the host holds of those that run.
    pub(crate) guest_bytes: u64,
    /// How many of these fit.
    pub(crate) guests: u64,
    /// How far all guests' belief is above all memory of the host: so much must be paged if all of them use it.
    pub(crate) promised_beyond_bytes: u64,
    /// The same in words.
    pub(crate) words: String,
}

/// What the host has now.
pub(crate) fn look(version: &str, vms: &[VmView]) -> HostView {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let meminfo = text("/proc/meminfo");
    let load = text("/proc/loadavg");
    let memory_bytes = meminfo_bytes(&meminfo, "MemTotal");
    let memory_available_bytes = meminfo_bytes(&meminfo, "MemAvailable");
    let guests = guests(vms);
    HostView {
        name: name(),
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        mother: version.to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        load: load
            .split_whitespace()
            .take(3)
            .filter_map(|number| number.parse().ok())
            .collect(),
        memory_bytes,
        memory_available_bytes,
        pressure: ["cpu", "memory", "io"]
            .iter()
            .flat_map(|what| pressure(what, &text(&format!("/proc/pressure/{what}"))))
            .collect(),
        room: room(memory_bytes, memory_available_bytes, vms, &guests),
        guests,
    }
}

fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn pressure(what: &str, text: &str) -> Vec<Pressure> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let who = words.next()?.to_owned();
        let value = |key: &str| {
            let found = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix(key));
            found?.parse::<f64>().ok()
        };
        Some(Pressure {
            what: what.to_owned(),
            who,
            share_of_10s: value("avg10=")? / 100.0,
            seconds_total: value("total=")? / 1e6,
        })
    };
    text.lines().filter_map(line).collect()
}

fn guests(vms: &[VmView]) -> Guests {
    let mut all = Guests::default();
    for vm in vms.iter().filter(|vm| vm.state.is_alive()) {
        all.running += 1;
        all.vcpus += u64::from(vm.vcpus.unwrap_or(0));
        all.believed_bytes += vm.memory_given_bytes.unwrap_or(0);
        all.resident_bytes += vm.memory_resident_bytes.unwrap_or(0);
        let claimed = vm.insight.as_ref().and_then(|it| it.claimed_used_bytes);
        all.claimed_used_bytes += claimed.unwrap_or(0);
    }
    all
}

fn room(total: Option<u64>, available: Option<u64>, vms: &[VmView], guests: &Guests) -> Room {
    let total = total.unwrap_or(0);
    let available = available.unwrap_or(0);
    let memory_bytes = available.saturating_sub(total / LEFT_SHARE);
    let mut held: Vec<u64> = vms
        .iter()
        .filter(|vm| vm.state.is_alive())
        .filter_map(|vm| vm.memory_resident_bytes)
        .collect();
    held.sort_unstable();
    let guest_bytes = held
        .get(held.len() / 2)
        .copied()
        .unwrap_or(USUAL_BYTES)
        .max(1);
    let count = memory_bytes / guest_bytes;
    let promised_beyond_bytes = guests.believed_bytes.saturating_sub(total);
    let mega = |bytes: u64| bytes >> 20;
    let beyond = if promised_beyond_bytes == 0 {
        "all that guests believe to have is there".to_owned()
    } else {
        format!(
            "guests believe in {} MiB more than there are; that much is paged out if all of them use it",
            mega(promised_beyond_bytes)
        )
    };
    Room {
        memory_bytes,
        guest_bytes,
        guests: count,
        promised_beyond_bytes,
        words: format!(
            "{count} more guests of {} MiB each fit; {beyond}",
            mega(guest_bytes)
        ),
    }
}

/// What the host is called.
pub(crate) fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    name.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_books_are_read_as_its_kernel_writes_them() {
        let text = "MemTotal:       2000 kB\nMemAvailable:    500 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(2_048_000));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let found = pressure("io", text);
        assert_eq!(
            (
                found[0].who.as_str(),
                found[0].share_of_10s,
                found[0].seconds_total
            ),
            ("some", 0.015, 2.0)
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_more_fits_leaves_the_host_a_tenth() {
        let found = room(Some(1000 << 20), Some(612 << 20), &[], &Guests::default());
        assert_eq!((found.memory_bytes >> 20, found.guests), (512, 2));
        let promised = Guests {
            believed_bytes: 1500 << 20,
            ..Guests::default()
        };
        let found = room(Some(1000 << 20), Some(0), &[], &promised);
        assert_eq!((found.guests, found.promised_beyond_bytes >> 20), (0, 500));
    }
}
