//! What there is: one table of VMs, renewed once a second, from which every list comes.
//!
//! Three sources meet here: the runtime folder and the control sockets (`fleet`), what is declared, and what an
//! observer says, which is a process of its own (`mother truth --watch --json`) that may die of what it reads without
//! anybody here noticing more than a gap.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use api::VmName;
use fleet::Vm;
use host::lock::Lock;
use serde_json::Value;
use tokio::sync::broadcast;

use crate::events::event;
use crate::keeper::{Found, STEADY, Situation};
use crate::words::{Declared, DeclaredView, Event, Insight, Severity, StateView, VmView, now};

/// Changes that a slow listener may be behind.
const BEHIND_MAX: usize = 4096;

/// Something of a VM is not as it was.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// This is how it is now.
    Is(Box<VmView>),
    /// There is nothing of that name any more.
    Gone(String),
}

/// The table and who listens to it.
pub(crate) struct Sight {
    table: Lock<BTreeMap<String, Known>>,
    /// Whether there was a look at the host: what the first one finds has not just begun.
    has_looked: AtomicBool,
    listeners: broadcast::Sender<Change>,
}

/// Everything that is known of one name.
#[derive(Default)]
struct Known {
    vm: Option<Vm>,
    declared: Option<Declared>,
    trouble: Option<String>,
    insight: Option<Insight>,
    tries: Tries,
    /// What listeners know.
    told: Option<VmView>,
}

/// How often it was tried to have it run.
#[derive(Clone, Copy, Default)]
struct Tries {
    failures: u32,
    last: Option<Instant>,
}

impl Sight {
    pub(crate) fn new(declared: Vec<Declared>) -> Sight {
        let known = |declared: Declared| {
            let name = declared.what.name.to_string();
            let known = Known {
                declared: Some(declared),
                ..Known::default()
            };
            (name, known)
        };
        Sight {
            table: Lock::new(declared.into_iter().map(known).collect()),
            has_looked: AtomicBool::new(false),
            listeners: broadcast::Sender::new(BEHIND_MAX),
        }
    }

    /// Every VM as it is now, and every change from then on.
    pub(crate) fn listen(&self) -> (Vec<VmView>, broadcast::Receiver<Change>) {
        let table = self.table.lock();
        let all = table.values().filter_map(|known| known.told.clone());
        (all.collect(), self.listeners.subscribe())
    }

    /// Every VM.
    pub(crate) fn all(&self) -> Vec<VmView> {
        let table = self.table.lock();
        table
            .iter()
            .filter_map(|(name, known)| known.view(name))
            .collect()
    }

    /// One VM.
    pub(crate) fn one(&self, name: &str) -> Option<VmView> {
        self.table.lock().get(name)?.view(name)
    }

    /// What is declared under this name.
    pub(crate) fn declared(&self, name: &str) -> Option<Declared> {
        self.table.lock().get(name)?.declared.clone()
    }

    /// Everything that is declared, in the order in which it is started.
    pub(crate) fn all_declared(&self) -> Vec<Declared> {
        let table = self.table.lock();
        let mut all: Vec<_> = table
            .values()
            .filter_map(|known| known.declared.clone())
            .collect();
        all.sort_by_key(|declared| declared.what.order);
        all
    }

    /// What is declared from now on; it has been kept.
    pub(crate) fn declare(&self, name: &str, declared: Option<Declared>) {
        let mut table = self.table.lock();
        let known = table.entry(name.to_owned()).or_default();
        let is_about = |declared: Option<&Declared>| declared.map(|it| (it.version, it.wanted));
        if is_about(known.declared.as_ref()) != is_about(declared.as_ref()) {
            // A new wish, or another description, starts without the failures of old ones.
            known.tries = Tries::default();
            known.trouble = None;
        }
        known.declared = declared;
        self.tell(&mut table, name);
    }

    /// It is tried to have it run.
    pub(crate) fn note_try(&self, name: &str) {
        if let Some(known) = self.table.lock().get_mut(name) {
            known.tries.last = Some(Instant::now());
        }
    }

    /// What came of the last try.
    pub(crate) fn note_outcome(&self, name: &str, trouble: Option<String>) {
        let mut table = self.table.lock();
        if let Some(known) = table.get_mut(name) {
            if trouble.is_some() {
                known.tries.failures = known.tries.failures.saturating_add(1);
                known.tries.last = Some(Instant::now());
            }
            known.trouble = trouble;
            self.tell(&mut table, name);
        }
    }

    /// How a declared VM stands.
    pub(crate) fn situation(&self, name: &str) -> Option<Situation> {
        let table = self.table.lock();
        let known = table.get(name)?;
        let declared = known.declared.as_ref()?;
        let state = known.state();
        let found = match &known.vm {
            None => Found::Nothing,
            Some(_) if state.is_alive() => Found::Alive,
            Some(vm) => Found::Ended {
                badly: vm.end.as_ref().is_none_or(|end| end.exit_status != 0),
            },
        };
        Some(Situation {
            desired: declared.what.desired,
            restart: declared.what.restart,
            is_wish_open: declared.served < declared.wanted,
            found,
            failures: known.tries.failures,
            since_try: known.tries.last.map(|last| last.elapsed()),
        })
    }

    /// What was found on the host; what happened since the last time.
    pub(crate) fn renew(&self, found: Vec<Vm>) -> Vec<Event> {
        let mut table = self.table.lock();
        let mut events = Vec::new();
        let is_first = !self.has_looked.swap(true, Ordering::Relaxed);
        let mut found: BTreeMap<String, Vm> = found
            .into_iter()
            .map(|vm| (vm.name.to_string(), vm))
            .collect();
        for name in found.keys() {
            table.entry(name.clone()).or_default();
        }
        let names: Vec<String> = table.keys().cloned().collect();
        for name in names {
            let known = table.entry(name.clone()).or_default();
            let was = known.vm.take();
            known.vm = found.remove(&name);
            if !is_first {
                happened(&name, was.as_ref(), known.vm.as_ref(), &mut events);
            }
            known.look_at_tries(was.as_ref());
            if !known.state().is_alive() {
                known.insight = None;
            }
            self.tell(&mut table, &name);
        }
        events
    }

    /// What an observer said of a guest; what is new about it.
    pub(crate) fn observed(&self, name: &str, insight: Insight) -> Option<Event> {
        let mut table = self.table.lock();
        let known = table.get_mut(name)?;
        let was = known.insight.as_ref().and_then(|it| it.standing.clone());
        let is = insight.standing.clone();
        let new = changed_standing(name, was.as_deref(), is.as_deref(), &insight.rows);
        known.insight = Some(insight);
        self.tell(&mut table, name);
        new
    }

    /// Tells listeners of a VM if anything of it is new, and forgets names that nothing is known of.
    fn tell(&self, table: &mut BTreeMap<String, Known>, name: &str) {
        let Some(known) = table.get_mut(name) else {
            return;
        };
        let view = known.view(name);
        if known.told == view {
            return;
        }
        let change = match &view {
            Some(view) => Change::Is(Box::new(view.clone())),
            None => Change::Gone(name.to_owned()),
        };
        known.told = view;
        if known.told.is_none() {
            table.remove(name);
        }
        // Nobody has to listen.
        let _ = self.listeners.send(change);
    }
}

impl Known {
    fn state(&self) -> StateView {
        self.vm
            .as_ref()
            .map_or(StateView::Declared, |vm| vm.state.into())
    }

    /// A VM that has run for long enough has not failed; one that ended early has.
    fn look_at_tries(&mut self, was: Option<&Vm>) {
        let Some(last) = self.tries.last else { return };
        if self.state().is_alive() {
            if last.elapsed() >= STEADY {
                self.tries.failures = 0;
                self.trouble = None;
            }
        } else if was.is_some_and(|was| StateView::from(was.state).is_alive()) {
            self.tries.failures = if last.elapsed() < STEADY {
                self.tries.failures.saturating_add(1)
            } else {
                0
            };
        }
    }

    /// What clients see; none if there is nothing.
    fn view(&self, name: &str) -> Option<VmView> {
        if self.vm.is_none() && self.declared.is_none() {
            return None;
        }
        let vm = self.vm.as_ref();
        let info = vm.and_then(|vm| vm.info.as_ref());
        let status = vm.and_then(|vm| vm.status.as_ref());
        let end = vm.and_then(|vm| vm.end.as_ref());
        let given = vm.and_then(|vm| vm.origin.as_ref());
        let spec = given
            .map(|origin| &origin.given)
            .or(self.declared.as_ref().map(|declared| &declared.what.spec));
        let labels = spec.map(|spec| {
            let pair = |label: &api::Label| (label.key().to_owned(), label.value().to_owned());
            spec.labels.iter().map(pair).collect()
        });
        let ports = spec.map(|spec| spec.forwards.iter().map(ToString::to_string).collect());
        let state = self.state();
        Some(VmView {
            name: name.to_owned(),
            state,
            engine: info.map(|info| info.engine.clone()),
            pid: info.filter(|_| state.is_alive()).map(|info| info.pid),
            vcpus: info.map(|info| info.vcpus),
            started_at: info.map(|info| info.started_at),
            uptime_seconds: status
                .map(|status| status.uptime_seconds)
                .or(end.and_then(|end| end.uptime_seconds)),
            cpu_seconds: status
                .map(|status| status.cpu_seconds)
                .or(end.and_then(|end| end.cpu_seconds)),
            memory_given_bytes: info.map(|info| info.memory_given_bytes),
            memory_resident_bytes: status.and_then(|status| status.memory_resident_bytes),
            reboots: status.map(|status| status.reboots),
            consoles: status.map(|status| status.consoles),
            labels: labels.unwrap_or_default(),
            ports: ports.unwrap_or_default(),
            network: info
                .filter(|_| state.is_alive())
                .and_then(|info| info.network.clone()),
            end: end.cloned(),
            declared: self.declared.as_ref().map(DeclaredView::from),
            trouble: self.trouble.clone(),
            insight: self.insight.clone(),
        })
    }
}

/// What happened to a VM between two looks.
fn happened(name: &str, was: Option<&Vm>, is: Option<&Vm>, events: &mut Vec<Event>) {
    let state = |vm: Option<&Vm>| vm.map(|vm| StateView::from(vm.state));
    let start = |vm: Option<&Vm>| {
        vm.and_then(|vm| vm.info.as_ref())
            .map(|info| info.started_at)
    };
    let is_another = start(was).is_some() && start(is).is_some() && start(was) != start(is);
    let before = state(was);
    let after = state(is);
    if before == after && !is_another {
        return;
    }
    let was_alive = before.is_some_and(StateView::is_alive) && !is_another;
    let mut add = |kind, severity, text| events.push(event(name, kind, severity, text));
    match (after, is) {
        (Some(StateView::Running), _) if before == Some(StateView::Paused) && was_alive => {
            add("resumed", Severity::Info, "the guest goes on".to_owned());
        }
        (Some(StateView::Paused), _) => add(
            "paused",
            Severity::Info,
            "the guest and its time stand still".to_owned(),
        ),
        (Some(StateView::Running), Some(vm))
            if !was_alive || before == Some(StateView::Starting) =>
        {
            let engine = vm.info.as_ref().map_or("?", |info| &info.engine);
            add(
                "started",
                Severity::Info,
                format!("the guest runs (engine {engine})"),
            );
        }
        (Some(StateView::Unresponsive), _) => add(
            "unresponsive",
            Severity::Warning,
            "its process lives and does not answer".to_owned(),
        ),
        (Some(StateView::Ended), Some(vm)) => {
            let end = vm.end.as_ref();
            let severity = match end.map(|end| end.exit_status) {
                Some(0) => Severity::Info,
                _ => Severity::Warning,
            };
            let text = end.map_or("it ended", |end| &end.message).to_owned();
            add("ended", severity, text);
        }
        (Some(StateView::Died), Some(vm)) => {
            let text = vm
                .end
                .as_ref()
                .map_or("its process vanished", |end| &end.message);
            add("died", Severity::Critical, text.to_owned());
        }
        _ => {}
    }
}

/// What is said when a guest stands otherwise than before.
fn changed_standing(
    name: &str,
    was: Option<&str>,
    is: Option<&str>,
    rows: &Value,
) -> Option<Event> {
    if was == is {
        return None;
    }
    let of_rows = || {
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        let wrong = rows.iter().filter(|row| row["verdict"] == "contradicts");
        let subjects: Vec<&str> = wrong.filter_map(|row| row["subject"].as_str()).collect();
        subjects.join(", ")
    };
    let (severity, text) = match (is?, was) {
        ("contradicts", _) => (
            Severity::Critical,
            format!("claims and truth contradict each other: {}", of_rows()),
        ),
        ("blind", Some(_)) => (
            Severity::Warning,
            "something in the guest can no longer be compared".to_owned(),
        ),
        ("fine", Some(_)) => (
            Severity::Info,
            "everything can be compared, and nothing contradicts".to_owned(),
        ),
        _ => return None,
    };
    Some(event(name, is?, severity, text))
}

/// What an observer's line says: a guest's name, and what was seen of it.
pub(crate) fn insight(line: &str) -> Option<(VmName, Insight)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let name = VmName::new(value["name"].as_str()?).ok()?;
    let insight = Insight {
        standing: text("standing"),
        worst: text("worst"),
        at: now(),
        why_not: text("why_not"),
        rows: value["rows"].clone(),
        kernel: value["kernel"].clone(),
        memory: value["memory"].clone(),
        working_set: value["working_set"].clone(),
        claimed_used_bytes: value["claimed_used_bytes"].as_u64(),
        kernel_used_bytes: value["kernel_used_bytes"].as_u64(),
    };
    Some((name, insight))
}

#[cfg(test)]
mod tests {
    use api::{EndKind, VmEnd, VmInfo, VmState};
    use serde_json::json;

    use super::*;

    fn vm(state: VmState, started_at: f64) -> Vm {
        let info = json!({ "name": "web", "pid": 7, "mother": "0.1.0", "engine": "soft", "vcpus": 1,
            "memory_given_bytes": 64 << 20, "started_at": started_at, "detached": true, "program": false });
        let info: VmInfo = serde_json::from_value(info).unwrap();
        let end = (state == VmState::Ended).then(|| VmEnd {
            kind: EndKind::PoweredOff,
            message: "the guest powered off".to_owned(),
            detail: None,
            exit_status: 0,
            ended_at: None,
            uptime_seconds: None,
            cpu_seconds: None,
        });
        Vm {
            name: VmName::new("web").unwrap(),
            state,
            info: Some(info),
            status: None,
            end,
            origin: None,
        }
    }

    #[test]
    fn every_change_of_a_vm_is_an_event_once() {
        let sight = Sight::new(Vec::new());
        // What runs when the daemon begins is no event.
        assert_eq!(sight.renew(vec![vm(VmState::Running, 0.5)]), []);
        assert_eq!(sight.renew(Vec::new()), []);
        let check = |found: Option<Vm>, expected: &[&str]| {
            let events = sight.renew(found.into_iter().collect());
            let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
            assert_eq!(kinds, expected);
        };
        check(Some(vm(VmState::Starting, 1.0)), &[]);
        check(Some(vm(VmState::Running, 1.0)), &["started"]);
        check(Some(vm(VmState::Running, 1.0)), &[]);
        check(Some(vm(VmState::Paused, 1.0)), &["paused"]);
        check(Some(vm(VmState::Running, 1.0)), &["resumed"]);
        // Ended and started again between two looks.
        check(Some(vm(VmState::Running, 2.0)), &["started"]);
        check(Some(vm(VmState::Ended, 2.0)), &["ended"]);
        check(Some(vm(VmState::Running, 3.0)), &["started"]);
        check(Some(vm(VmState::Died, 3.0)), &["died"]);
        check(None, &[]);
        assert_eq!(sight.all(), []);
    }

    #[test]
    fn listeners_hear_of_what_is_new_and_of_what_is_gone() {
        let sight = Sight::new(Vec::new());
        sight.renew(vec![vm(VmState::Running, 1.0)]);
        let (all, mut listener) = sight.listen();
        assert_eq!(all.len(), 1);
        sight.renew(vec![vm(VmState::Running, 1.0)]);
        assert!(listener.try_recv().is_err(), "nothing is new");
        let line = r#"{"name":"web","standing":"contradicts","worst":"contradicts",
            "rows":[{"subject":"processes","verdict":"contradicts"}]}"#;
        let (name, insight) = insight(line).unwrap();
        let event = sight.observed(name.as_str(), insight.clone()).unwrap();
        assert_eq!(
            (event.kind.as_str(), event.text.as_str()),
            (
                "contradicts",
                "claims and truth contradict each other: processes"
            )
        );
        assert!(matches!(listener.try_recv(), Ok(Change::Is(_))));
        assert_eq!(sight.observed("web", insight), None);
        sight.renew(Vec::new());
        let heard = std::iter::from_fn(|| listener.try_recv().ok()).last();
        assert!(matches!(heard, Some(Change::Gone(name)) if name == "web"));
    }
}
