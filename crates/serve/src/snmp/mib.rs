//! VM-MIB (RFC 7666): what there is, as objects of SNMP.
//!
//! The hypervisor, the table of VMs, and which notifications are sent. Tables of vCPUs, disks and cards of each VM are left out:
//! what the standard wants in them is not in the daemon's own table, which never waits for a VM.

use std::collections::BTreeMap;

use api::EndKind;

use super::pdu::{Oid, Range, Value};
use crate::words::{Desired, StateView, VmView};

/// mib-2 236.
pub(super) const ROOT: [u32; 7] = [1, 3, 6, 1, 2, 1, 236];
/// Below it.
const OBJECTS: u32 = 1;
const HYPERVISOR: u32 = 1;
const NUMBER: u32 = 2;
const LAST_CHANGE: u32 = 3;
const TABLE: u32 = 4;
const EACH_NOTIFIED: u32 = 9;
const MANY_NOTIFIED: u32 = 10;
/// Columns of the table.
const NAME: u32 = 2;
const UUID: u32 = 3;
const OPER_STATE: u32 = 6;
const PERSISTENT: u32 = 8;
/// TruthValue (RFC 2579).
const TRUE: i32 = 1;
const FALSE: i32 = 2;
/// No bound.
const NONE: i32 = -1;
/// Memory is counted in MiB.
const UNIT: i32 = 1 << 20;
/// zeroDotZero (RFC 2578): nobody has given Mother a number of its own.
const NOBODYS: [u32; 2] = [0, 0];

/// What a VM is doing (VirtualMachineOperState).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Oper {
    Unknown = 1,
    Other = 2,
    Preparing = 3,
    Running = 4,
    Paused = 8,
    ShuttingDown = 10,
    Shutdown = 11,
    Crashed = 12,
}

impl Oper {
    pub(super) fn of(vm: &VmView) -> Oper {
        match vm.state {
            StateView::Starting => Oper::Preparing,
            StateView::Running => Oper::Running,
            StateView::Paused => Oper::Paused,
            StateView::Waiting => Oper::Other,
            StateView::Stopping => Oper::ShuttingDown,
            StateView::Unresponsive => Oper::Unknown,
            StateView::Declared => Oper::Shutdown,
            StateView::Died => Oper::Crashed,
            StateView::Ended => match vm.end.as_ref().map(|end| end.kind) {
                Some(EndKind::Crashed | EndKind::Failed | EndKind::Died) => Oper::Crashed,
                _ => Oper::Shutdown,
            },
        }
    }

    /// The notification of a VM that is so now.
    fn notification(self) -> Option<u32> {
        Some(match self {
            Oper::Running => 1,
            Oper::ShuttingDown => 2,
            Oper::Shutdown => 3,
            Oper::Paused => 4,
            Oper::Crashed => 9,
            Oper::Unknown | Oper::Other | Oper::Preparing => return None,
        })
    }
}

/// The notification of a VM that is there no more.
const DELETED: u32 = 10;

/// A name below [`ROOT`].
fn below(parts: &[u32]) -> Oid {
    [&ROOT, parts].concat()
}

/// An object of a VM.
fn of_vm(column: u32, index: u32) -> Oid {
    below(&[OBJECTS, TABLE, 1, column, index])
}

/// Numbers of VMs, which stay for as long as the daemon runs.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    all: BTreeMap<String, u32>,
    last: u32,
    /// Which there were when the table was made last, and since when, in hundredths of a second.
    known: Vec<String>,
    changed: u32,
}

impl Numbers {
    pub(super) fn of(&mut self, name: &str) -> u32 {
        if let Some(known) = self.all.get(name) {
            return *known;
        }
        self.last += 1;
        self.all.insert(name.to_owned(), self.last);
        self.last
    }
}

/// Everything there is to read, by its name.
#[derive(Debug)]
pub(super) struct View(BTreeMap<Oid, Value>);

impl View {
    /// Of these VMs; `ticks` is how long the daemon has run.
    pub(super) fn new(vms: &[VmView], numbers: &mut Numbers, version: &str, ticks: u32) -> View {
        let names: Vec<String> = vms.iter().map(|vm| vm.name.clone()).collect();
        if names != numbers.known {
            (numbers.known, numbers.changed) = (names, ticks);
        }
        let single = |parts: &[u32], value| (below(&[&[OBJECTS], parts, &[0]].concat()), value);
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let mut all = BTreeMap::from([
            single(&[HYPERVISOR, 1], text("Mother")),
            single(&[HYPERVISOR, 2], text(version)),
            single(&[HYPERVISOR, 3], Value::Name(NOBODYS.to_vec())),
            single(&[HYPERVISOR, 4], Value::Ticks(ticks)),
            single(&[NUMBER], Value::Integer(bounded(vms.len() as u64))),
            single(&[LAST_CHANGE], Value::Ticks(numbers.changed)),
            single(&[EACH_NOTIFIED], Value::Integer(TRUE)),
            single(&[MANY_NOTIFIED], Value::Integer(FALSE)),
        ]);
        for vm in vms {
            let index = numbers.of(&vm.name);
            let row = row(vm).into_iter();
            all.extend(row.map(|(column, value)| (of_vm(column, index), value)));
        }
        View(all)
    }

    /// The object of this name.
    pub(super) fn get(&self, name: &[u32]) -> Value {
        if let Some(value) = self.0.get(name) {
            return value.clone();
        }
        let is_column = |known: &Oid| known.len() == name.len() && parent(known) == parent(name);
        match self.0.keys().any(is_column) {
            true => Value::NoSuchInstance,
            false => Value::NoSuchObject,
        }
    }

    /// The first object of a range; the end where there is none.
    pub(super) fn next(&self, range: &Range) -> (Oid, Value) {
        let from =
            |name: &Oid| *name > range.start || (range.includes_start && *name == range.start);
        let until = |name: &Oid| range.end.is_empty() || *name < range.end;
        let found = self
            .0
            .range(range.start.clone()..)
            .find(|(name, _)| from(name));
        match found.filter(|(name, _)| until(name)) {
            Some((name, value)) => (name.clone(), value.clone()),
            None => (range.start.clone(), Value::EndOfView),
        }
    }
}

fn parent(name: &[u32]) -> &[u32] {
    name.split_last().map_or(name, |(_, rest)| rest)
}

/// A count, as large as SNMP's integers are.
fn bounded(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Hundredths of a second, which begin anew after 497 days (RFC 2578, 7.1.8).
pub(super) fn ticks(seconds: f64) -> u32 {
    ((seconds.max(0.0) * 100.0) as u64 & u64::from(u32::MAX)) as u32
}

/// The columns of a VM.
fn row(vm: &VmView) -> [(u32, Value); 16] {
    let declared = vm.declared.as_ref();
    let is_alive = vm.state.is_alive();
    let wanted = match declared.map(|declared| declared.desired) {
        _ if vm.state == StateView::Paused => 3,
        Some(Desired::Running) => 1,
        Some(Desired::Stopped) => 4,
        None if is_alive => 1,
        None => 4,
    };
    let boots = declared.is_some_and(|declared| declared.boot);
    let vcpus = bounded(vm.vcpus.unwrap_or(0).into());
    let memory = bounded(vm.memory_given_bytes.unwrap_or(0) / UNIT as u64);
    let kernel = vm
        .insight
        .as_ref()
        .and_then(|it| it.kernel["release"].as_str());
    let system = kernel.map(|release| format!("Linux {release}"));
    let uptime = vm.uptime_seconds.filter(|_| is_alive);
    let microseconds = vm.cpu_seconds.unwrap_or(0.0).max(0.0) * 1e6;
    [
        (NAME, Value::Text(short(&vm.name))),
        (UUID, Value::Text(Vec::new())),
        (4, Value::Text(short(&system.unwrap_or_default()))),
        (5, Value::Integer(wanted)),
        (OPER_STATE, Value::Integer(Oper::of(vm) as i32)),
        (7, Value::Integer(if boots { 2 } else { 3 })),
        (PERSISTENT, persistent(declared.is_some())),
        (9, Value::Integer(if is_alive { vcpus } else { 0 })),
        (10, Value::Integer(NONE)),
        (11, Value::Integer(if vcpus > 0 { vcpus } else { NONE })),
        (12, Value::Integer(UNIT)),
        (13, Value::Integer(if is_alive { memory } else { 0 })),
        (14, Value::Integer(NONE)),
        (15, Value::Integer(if memory > 0 { memory } else { NONE })),
        (16, Value::Ticks(ticks(uptime.unwrap_or(0.0)))),
        (17, Value::Counter(microseconds as u64)),
    ]
}

fn persistent(is_declared: bool) -> Value {
    Value::Integer(if is_declared { 2 } else { 3 })
}

/// SnmpAdminString has at most 255 bytes. A guest's words in it are only printed by who reads it, and hold no control characters.
fn short(text: &str) -> Vec<u8> {
    let mut text: String = text.chars().filter(|it| !it.is_control()).collect();
    while text.len() > 255 {
        text.pop();
    }
    text.into_bytes()
}

/// What is told when a VM is not any more as it was: the notification and its objects.
pub(super) struct Notification {
    pub(super) name: Oid,
    pub(super) objects: Vec<(Oid, Value)>,
}

/// The notification of a VM that was `before` and is `now`; none of it for one that is there no more. Their standard has each say the
/// state before.
pub(super) fn notification(
    index: u32,
    name: &str,
    before: Oper,
    now: Option<Oper>,
    was_declared: bool,
) -> Option<Notification> {
    if now == Some(before) {
        return None;
    }
    let number = now.map_or(Some(DELETED), Oper::notification)?;
    let mut objects = vec![
        (of_vm(NAME, index), Value::Text(short(name))),
        (of_vm(UUID, index), Value::Text(Vec::new())),
        (of_vm(OPER_STATE, index), Value::Integer(before as i32)),
    ];
    if number == DELETED {
        objects.push((of_vm(PERSISTENT, index), persistent(was_declared)));
    }
    Some(Notification {
        name: below(&[0, number]),
        objects,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::tests::vm;

    fn view(numbers: &mut Numbers, states: &[(&str, StateView)]) -> View {
        let vms: Vec<VmView> = states
            .iter()
            .map(|(name, state)| VmView {
                name: (*name).to_owned(),
                memory_given_bytes: Some(96 << 20),
                vcpus: Some(2),
                ..vm(*state)
            })
            .collect();
        View::new(&vms, numbers, "0.1.0", 700)
    }

    #[test]
    fn a_walk_goes_over_everything_once_and_ends() {
        let mut numbers = Numbers::default();
        let view = view(
            &mut numbers,
            &[("a", StateView::Running), ("b", StateView::Ended)],
        );
        let mut range = Range {
            start: ROOT.to_vec(),
            includes_start: false,
            end: vec![1, 3, 6, 1, 2, 1, 237],
        };
        let mut seen = Vec::new();
        loop {
            let (name, value) = view.next(&range);
            if value == Value::EndOfView {
                assert_eq!(name, range.start);
                break;
            }
            assert!(name > range.start);
            assert_eq!(view.get(&name), value);
            range.start.clone_from(&name);
            seen.push(name);
        }
        assert_eq!(seen.len(), 8 + 2 * 16);
        let from = Range {
            start: of_vm(NAME, 1),
            includes_start: true,
            end: of_vm(NAME, 2),
        };
        assert_eq!(view.next(&from).1, Value::Text(b"a".to_vec()));
        let after = Range {
            includes_start: false,
            ..from
        };
        assert_eq!(view.next(&after).1, Value::EndOfView);
        assert_eq!(view.get(&of_vm(OPER_STATE, 2)), Value::Integer(11));
        assert_eq!(view.get(&of_vm(13, 1)), Value::Integer(96));
        assert_eq!(view.get(&of_vm(NAME, 9)), Value::NoSuchInstance);
        assert_eq!(view.get(&below(&[OBJECTS, 99, 0])), Value::NoSuchObject);
    }

    #[test]
    fn a_vm_keeps_its_number_and_none_is_given_twice() {
        let mut numbers = Numbers::default();
        view(&mut numbers, &[("a", StateView::Running)]);
        view(&mut numbers, &[("b", StateView::Running)]);
        let both = [("a", StateView::Ended), ("b", StateView::Running)];
        let view = view(&mut numbers, &both);
        assert_eq!(view.get(&of_vm(NAME, 1)), Value::Text(b"a".to_vec()));
        assert_eq!(view.get(&of_vm(NAME, 2)), Value::Text(b"b".to_vec()));
    }

    #[test]
    fn a_change_of_state_is_told_with_the_state_before() {
        let check = |before, now, expected: Option<(u32, i32)>| {
            let found = notification(3, "web", before, now, true);
            let found = found.map(|it| {
                let Value::Integer(before) = it.objects[2].1 else {
                    panic!("{:?}", it.objects)
                };
                (*it.name.last().unwrap(), before)
            });
            assert_eq!(found, expected, "{before:?} {now:?}");
        };
        check(Oper::Preparing, Some(Oper::Running), Some((1, 3)));
        check(Oper::Running, Some(Oper::ShuttingDown), Some((2, 4)));
        check(Oper::Running, Some(Oper::Shutdown), Some((3, 4)));
        check(Oper::Running, Some(Oper::Paused), Some((4, 4)));
        check(Oper::Paused, Some(Oper::Crashed), Some((9, 8)));
        check(Oper::Shutdown, None, Some((10, 11)));
        check(Oper::Running, Some(Oper::Running), None);
        check(Oper::Shutdown, Some(Oper::Preparing), None);
    }
}
