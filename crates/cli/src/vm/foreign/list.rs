//! `mother ps --all`: every VM and container of the host, whoever runs it.

use api::VmState;
use fleet::foreign::{Foreign, Kind, foreign};
use fleet::{Inventory, Vm};
use insight::amounts::{size, time};

use crate::answers;
use crate::failure::Failure;
use crate::output::say;
use crate::vm::words::{columns, printable};

/// Prints the list; the exit status.
pub(in crate::vm) fn all_kinds(is_json: bool) -> Result<u8, Failure> {
    let mut all: Vec<Foreign> = Inventory::of_user()?
        .list()?
        .iter()
        .filter_map(own)
        .collect();
    all.extend(foreign());
    say(&if is_json {
        answers::text(&all)
    } else {
        table(&all)
    })?;
    Ok(0)
}

/// A VM of Mother's that runs.
fn own(vm: &Vm) -> Option<Foreign> {
    let info = vm.info.as_ref()?;
    let status = vm.status.as_ref()?;
    if matches!(vm.state, VmState::Ended | VmState::Died) {
        return None;
    }
    Some(Foreign {
        kind: Kind::Mother,
        name: vm.name.to_string(),
        runtime: None,
        pid: info.pid,
        uid: rustix::process::getuid().as_raw(),
        engine: Some(if info.engine == "kvm" { "kvm" } else { "soft" }.into()),
        cpus: Some(f64::from(info.vcpus)),
        uptime_seconds: Some(status.uptime_seconds),
        cpu_seconds: Some(status.cpu_seconds),
        memory_believed_bytes: Some(info.memory_given_bytes),
        memory_held_bytes: status.memory_resident_bytes,
        memory_swapped_bytes: None,
        cgroup: None,
        qmp: Vec::new(),
    })
}

const HEADS: [&str; 9] = [
    "KIND", "NAME", "PID", "ENGINE", "CPUS", "UPTIME", "CPU", "BELIEVED", "HELD",
];

fn table(all: &[Foreign]) -> String {
    columns(&HEADS, &all.iter().map(row).collect::<Vec<_>>())
}

fn row(one: &Foreign) -> [String; 9] {
    let unknown = || "-".to_owned();
    let kind = match &one.runtime {
        Some(runtime) => runtime.clone(),
        None => one.kind.as_str().to_owned(),
    };
    let is_id = one.kind == Kind::Container && one.name.len() == 64;
    let name = match is_id {
        true => one.name[..12].to_owned(),
        false => printable(&one.name),
    };
    [
        kind,
        name,
        one.pid.to_string(),
        one.engine.as_deref().map_or_else(unknown, str::to_owned),
        one.cpus.map_or_else(unknown, |cpus| cpus.to_string()),
        one.uptime_seconds.map_or_else(unknown, time),
        one.cpu_seconds.map_or_else(unknown, time),
        one.memory_believed_bytes.map_or_else(unknown, size),
        one.memory_held_bytes.map_or_else(unknown, size),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_line_with_what_it_believes_and_what_is_held() {
        let one = |kind, name: &str, runtime: Option<&str>| Foreign {
            kind,
            name: name.to_owned(),
            runtime: runtime.map(str::to_owned),
            pid: 7,
            uid: 0,
            engine: Some("tcg".into()),
            cpus: Some(2.0),
            uptime_seconds: Some(75.0),
            cpu_seconds: None,
            memory_believed_bytes: Some(1 << 30),
            memory_held_bytes: Some(512 << 20),
            memory_swapped_bytes: None,
            cgroup: None,
            qmp: Vec::new(),
        };
        let id = "0123456789abcdef".repeat(4);
        let text = table(&[
            one(Kind::Qemu, "we\u{1b}b", None),
            one(Kind::Container, &id, Some("docker")),
        ]);
        let expected = "\
KIND    NAME          PID  ENGINE  CPUS  UPTIME  CPU  BELIEVED  HELD
qemu    we\u{fffd}b          7    tcg     2     1m15s   -    1G        512M
docker  0123456789ab  7    tcg     2     1m15s   -    1G        512M
";
        assert_eq!(text, expected);
    }
}
