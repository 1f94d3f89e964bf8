//! What the host knows of another hypervisor's VM: its memory, its vCPUs' threads, its I/O; and what QMP adds where it is free.

use std::io;

use fleet::foreign::Kind;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::maps::{Mapping, held};
use super::qmp::{Qmp, QmpCommand, QmpError, QmpLink};
use super::reach::{ProcessReach, ProcessText, ThreadText};

/// A vCPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema, Serialize)]
pub struct VcpuThread {
    /// Which vCPU.
    pub vcpu_id: u32,
    /// The number of its thread.
    pub tid: u32,
    /// CPU time that it had.
    pub run_seconds: f64,
    /// How long it was ready and had no CPU: what the guest should know as steal.
    pub wait_seconds: f64,
}

/// The host's books of a VM that Mother does not run. What is null is not observable, and `missing` says why.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize)]
pub struct ProcessGuestBooks {
    /// RAM that its process has for it.
    pub configured_bytes: u64,
    /// Of that, what the host has in memory.
    pub resident_bytes: u64,
    /// Of that, what other processes have mapped too.
    pub shared_bytes: u64,
    /// Of that, what is in huge pages.
    pub huge_bytes: u64,
    /// What is in the host's swap.
    pub swapped_bytes: u64,
    /// Since its process started.
    pub uptime_seconds: Option<f64>,
    /// CPU time of the whole process.
    pub process_cpu_seconds: Option<f64>,
    /// Its vCPUs' threads; none where it is not known which of its threads these are.
    pub vcpus: Vec<VcpuThread>,
    /// Bytes that its process had read from disks.
    pub disk_read_bytes: Option<u64>,
    /// Bytes that its process had written to disks.
    pub disk_written_bytes: Option<u64>,
    /// As QMP says it: `running`, `paused`, …
    pub status: Option<String>,
    /// Whether it has a balloon, as QMP says.
    pub has_balloon: Option<bool>,
    /// Memory that its balloon leaves it, as QMP says.
    pub balloon_left_bytes: Option<u64>,
    /// What is not known, and why, with the way on.
    pub missing: Vec<String>,
}

/// What QMP says.
#[derive(Default)]
struct Told {
    status: Option<String>,
    has_balloon: Option<bool>,
    balloon_left_bytes: Option<u64>,
    /// Numbers of vCPUs and their threads.
    threads: Vec<(u32, u32)>,
    why_not: Option<String>,
}

pub(super) fn books(reach: &dyn ProcessReach, ram: &[Mapping]) -> io::Result<ProcessGuestBooks> {
    let held = held(&reach.text(ProcessText::Smaps)?, ram);
    let process = reach.costs()?;
    let told = told(reach);
    let io = reach.text(ProcessText::Io).unwrap_or_default();
    let number = |key: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    let vcpus = vcpus(&reach.threads()?, &told.threads);
    let mut missing: Vec<String> = told.why_not.into_iter().collect();
    if vcpus.is_empty() {
        missing.push(
            "which of its threads are vCPUs: QEMU names them with `-name NAME,debug-threads=on`, and QMP \
             tells where it is free"
                .to_owned(),
        );
    }
    Ok(ProcessGuestBooks {
        configured_bytes: ram.iter().map(|mapping| mapping.len_bytes).sum(),
        resident_bytes: held.resident,
        shared_bytes: held.shared,
        huge_bytes: held.huge,
        swapped_bytes: held.swapped,
        uptime_seconds: process.uptime_seconds,
        process_cpu_seconds: process.cpu_seconds,
        vcpus,
        disk_read_bytes: number("read_bytes:"),
        disk_written_bytes: number("write_bytes:"),
        status: told.status,
        has_balloon: told.has_balloon,
        balloon_left_bytes: told.balloon_left_bytes,
        missing,
    })
}

/// Asks QMP, if there is a socket and nobody holds it.
fn told(reach: &dyn ProcessReach) -> Told {
    let not = |why: &str| Told {
        why_not: Some(format!("pauses, resets and the balloon: {why}")),
        ..Told::default()
    };
    if reach.vm().kind == Kind::Libvirt {
        return not("libvirt holds its QMP socket; ask `virsh domstats`");
    }
    match reach.qmp() {
        Ok(Some(link)) => ask(link).unwrap_or_else(|error| not(&error.to_string())),
        Ok(None) => not("it has no QMP socket; `-qmp unix:PATH,server=on,wait=off` gives it one"),
        Err(error) => not(&QmpError::Host(error).to_string()),
    }
}

fn ask(link: Box<dyn QmpLink>) -> Result<Told, QmpError> {
    let mut qmp = Qmp::over(link)?;
    let status = qmp.ask(QmpCommand::Status)?;
    let cpus = qmp.ask(QmpCommand::Cpus)?;
    let threads = cpus.as_array().into_iter().flatten().filter_map(|cpu| {
        let number = |key: &str| u32::try_from(cpu.get(key)?.as_u64()?).ok();
        Some((number("cpu-index")?, number("thread-id")?))
    });
    let threads = threads.collect();
    // A VM without a balloon refuses.
    let balloon = match qmp.ask(QmpCommand::Balloon) {
        Ok(balloon) => Some(balloon),
        Err(QmpError::Refused(_)) => None,
        Err(error) => return Err(error),
    };
    Ok(Told {
        status: status
            .get("status")
            .and_then(Value::as_str)
            .map(str::to_owned),
        has_balloon: Some(balloon.is_some()),
        balloon_left_bytes: balloon.and_then(|it| it.get("actual")?.as_u64()),
        threads,
        why_not: None,
    })
}

/// Threads of vCPUs: those that QMP names, else those whose name says so.
fn vcpus(threads: &[ThreadText], told: &[(u32, u32)]) -> Vec<VcpuThread> {
    let mut found: Vec<VcpuThread> = threads
        .iter()
        .filter_map(|thread| vcpu(thread, told))
        .collect();
    found.sort_by_key(|thread| thread.vcpu_id);
    found
}

fn vcpu(thread: &ThreadText, told: &[(u32, u32)]) -> Option<VcpuThread> {
    let by_told = told.iter().find(|(_, tid)| *tid == thread.tid);
    let vcpu_id = match by_told {
        Some((vcpu_id, _)) => *vcpu_id,
        None if told.is_empty() => vcpu_of(thread.comm.trim_end())?,
        None => return None,
    };
    // Run, ready to run, how often (kernel documentation, scheduler/sched-stats).
    let mut numbers = thread.schedstat.split_whitespace().map(str::parse::<u64>);
    let run = numbers.next()?.ok()?;
    let wait = numbers.next()?.ok()?;
    Some(VcpuThread {
        vcpu_id,
        tid: thread.tid,
        run_seconds: run as f64 / 1e9,
        wait_seconds: wait as f64 / 1e9,
    })
}

/// The number in a thread's name: QEMU's `CPU 0/KVM`, Firecracker's `fc_vcpu 0`, Cloud Hypervisor's `vcpu0`, crosvm's
/// `crosvm_vcpu0`.
fn vcpu_of(comm: &str) -> Option<u32> {
    let rest = ["CPU ", "fc_vcpu ", "vcpu", "crosvm_vcpu"]
        .iter()
        .find_map(|prefix| comm.strip_prefix(prefix))?;
    rest.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_name_says_which_vcpu_it_is() {
        let check = |comm: &str, expected| assert_eq!(vcpu_of(comm), expected, "{comm}");
        check("CPU 0/KVM", Some(0));
        check("CPU 11/TCG", Some(11));
        check("fc_vcpu 3", Some(3));
        check("vcpu7", Some(7));
        check("crosvm_vcpu2", Some(2));
        check("qemu-system-x86", None);
        check("CPU x/TCG", None);
    }
}
