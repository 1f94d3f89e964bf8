//! From what is seen to what is to be done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use api::VmName;
use insight::trace::Event;
use insight::verdict::{Row, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::file::{Action, Policy, Rule, Trigger};
use crate::pattern::{all_hold, any};

/// Causes that are remembered of one VM. The oldest are forgotten first.
const CAUSES_MAX: usize = 4096;
/// VMs that are remembered. The one that was silent for longest is forgotten first.
const VMS_MAX: usize = 4096;
/// Fields of an event that say when and where it was, not what: two events that differ in nothing else have one cause.
const NOT_WHAT: [&str; 5] = ["at_ns", "vcpu", "sequence", "time_ns", "reach"];

/// What is seen of a VM.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    /// An event.
    Event(&'a Event),
    /// An event as `mother trace --json` writes it.
    Recorded(&'a Value),
    /// All rows of one assessment.
    Rows(&'a [Row]),
    /// All numbers of one moment.
    Facts(&'a [api::Metric]),
}

/// Why nothing is done although a rule matched.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(tag = "held_back", rename_all = "kebab-case")]
pub enum HeldBack {
    /// An exception says so.
    Exception {
        /// Why there is one.
        why: String,
        /// Its last day.
        until: String,
    },
    /// It was acted on already.
    SameCause,
    /// The rule has acted a short while ago.
    CoolDown,
    /// There were as many actions as there may be.
    Budget,
    /// Nothing is done by this policy.
    DryRun,
}

/// What comes of a rule that matched.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Decision {
    /// When, in nanoseconds since 1970-01-01 UTC.
    pub at_ns: u64,
    /// The VM.
    pub vm: String,
    /// The rule.
    pub rule: String,
    /// What to do, in order. Empty if it is held back.
    pub then: Vec<Action>,
    /// Why nothing is done.
    #[serde(flatten)]
    pub held_back: Option<HeldBack>,
    /// What was seen.
    pub evidence: Value,
}

/// Follows one policy. See the crate's head.
pub struct Engine {
    policy: Policy,
    vms: HashMap<String, OfVm>,
}

/// What is remembered of one VM.
#[derive(Default)]
struct OfVm {
    /// When anything was seen of it last.
    seen_ns: u64,
    /// Causes that were decided on, the oldest first, and the same for looking up.
    order: VecDeque<u64>,
    causes: HashSet<u64>,
    /// When actions were decided on.
    actions: VecDeque<u64>,
    /// By rule.
    rules: HashMap<usize, OfRule>,
}

/// What is remembered of a rule and a VM.
#[derive(Default)]
struct OfRule {
    /// When it acted last.
    acted_ns: Option<u64>,
    /// When events came that match.
    events: VecDeque<u64>,
    /// What holds, since when: rows and numbers, by what they are about.
    holding: HashMap<String, Holding>,
}

struct Holding {
    since_ns: u64,
    is_decided: bool,
}

impl OfVm {
    /// Whether a cause is new; it is not any more after this.
    fn is_new(&mut self, cause: u64) -> bool {
        if !self.causes.insert(cause) {
            return false;
        }
        self.order.push_back(cause);
        if self.order.len() > CAUSES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.causes.remove(&oldest);
        }
        true
    }
}

/// A rule that matched.
struct Match {
    rule: usize,
    /// What it is about, for an event; a row or number that holds is a cause of its own.
    cause: Option<u64>,
    evidence: Value,
}

impl Engine {
    /// Follows `policy` from the beginning.
    pub fn new(policy: Policy) -> Engine {
        Engine {
            policy,
            vms: HashMap::new(),
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is to be done about what is seen of `vm` at `now_ns` (nanoseconds since 1970-01-01 UTC).
    pub fn see(&mut self, vm: &VmName, now_ns: u64, seen: &Seen<'_>) -> Vec<Decision> {
        self.make_room(vm);
        let mut own = self.vms.remove(vm.as_str()).unwrap_or_default();
        own.seen_ns = now_ns;
        let matches = match seen {
            Seen::Event(event) => {
                let value = serde_json::to_value(event).unwrap_or_default();
                self.match_event(&mut own, vm, now_ns, &value)
            }
            Seen::Recorded(value) => self.match_event(&mut own, vm, now_ns, value),
            Seen::Rows(rows) => self.match_rows(&mut own, vm, now_ns, rows),
            Seen::Facts(metrics) => self.match_facts(&mut own, vm, now_ns, metrics),
        };
        let decisions = matches
            .into_iter()
            .map(|found| self.decide(&mut own, vm, now_ns, found))
            .collect();
        self.vms.insert(vm.as_str().to_owned(), own);
        decisions
    }

    fn make_room(&mut self, vm: &VmName) {
        if self.vms.len() < VMS_MAX || self.vms.contains_key(vm.as_str()) {
            return;
        }
        let oldest = self.vms.iter().min_by_key(|(_, own)| own.seen_ns);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.vms.remove(&name);
        }
    }

    /// Rules for this VM, with their numbers.
    fn rules(&self, vm: &VmName) -> impl Iterator<Item = (usize, &Rule)> {
        let rules = self.policy.rules.iter().enumerate();
        rules.filter(move |(_, rule)| rule.vms.is_empty() || any(&rule.vms, vm.as_str()))
    }

    fn match_event(&self, own: &mut OfVm, vm: &VmName, now_ns: u64, event: &Value) -> Vec<Match> {
        let kind = event.get("event").and_then(Value::as_str);
        let mut matches = Vec::new();
        for (number, rule) in self.rules(vm) {
            let Trigger::Event(kinds) = &rule.trigger else {
                continue;
            };
            let is_kind = kinds.iter().any(|other| Some(other.word()) == kind);
            if !is_kind || !all_hold(&rule.conditions, event) {
                continue;
            }
            let events = &mut own.rules.entry(number).or_default().events;
            events.push_back(now_ns);
            let begin = now_ns.saturating_sub(rule.within.as_nanos() as u64);
            while events.len() > rule.times as usize
                || rule.times > 1 && events.front().is_some_and(|at| *at < begin)
            {
                events.pop_front();
            }
            if events.len() < rule.times as usize {
                continue;
            }
            if rule.times > 1 {
                events.clear();
            }
            matches.push(Match {
                rule: number,
                // Many that come together are one cause each time.
                cause: (rule.times == 1).then(|| cause(number, event)),
                evidence: event.clone(),
            });
        }
        matches
    }

    fn match_rows(&self, own: &mut OfVm, vm: &VmName, now_ns: u64, rows: &[Row]) -> Vec<Match> {
        let mut matches = Vec::new();
        for (number, rule) in self.rules(vm) {
            let Trigger::Verdict(verdicts) = &rule.trigger else {
                continue;
            };
            let found = rows
                .iter()
                .filter(|row| is_of(row, verdicts))
                .filter_map(|row| Some((row.subject.clone(), serde_json::to_value(row).ok()?)))
                .filter(|(_, row)| all_hold(&rule.conditions, row));
            let own = own.rules.entry(number).or_default();
            matches.extend(own.hold(number, rule.held, now_ns, found));
        }
        matches
    }

    fn match_facts(
        &self,
        own: &mut OfVm,
        vm: &VmName,
        now_ns: u64,
        metrics: &[api::Metric],
    ) -> Vec<Match> {
        let mut matches = Vec::new();
        for (number, rule) in self.rules(vm) {
            let Trigger::Fact(name, range) = &rule.trigger else {
                continue;
            };
            let own = own.rules.entry(number).or_default();
            let samples = metrics
                .iter()
                .filter(|metric| is_named(&metric.name, name))
                .flat_map(|metric| &metric.samples);
            let found = samples
                .filter(|sample| range.has(sample.value))
                .filter(|sample| all_hold(&rule.conditions, &json!(sample.labels)))
                .map(|sample| {
                    let about = json!(sample.labels).to_string();
                    let seen =
                        json!({ "fact": name, "labels": sample.labels, "value": sample.value });
                    (about, seen)
                });
            matches.extend(own.hold(number, rule.held, now_ns, found));
        }
        matches
    }

    fn decide(&self, own: &mut OfVm, vm: &VmName, now_ns: u64, found: Match) -> Decision {
        let rule = &self.policy.rules[found.rule];
        let held_back = self.held_back(own, vm, now_ns, &found);
        let acts = rule.then.iter().any(Action::counts);
        if held_back.is_none() && acts {
            own.actions.push_back(now_ns);
            own.rules.entry(found.rule).or_default().acted_ns = Some(now_ns);
        }
        Decision {
            at_ns: now_ns,
            vm: vm.as_str().to_owned(),
            rule: rule.name.clone(),
            then: match held_back {
                None => rule.then.clone(),
                Some(_) => Vec::new(),
            },
            held_back,
            evidence: found.evidence,
        }
    }

    fn held_back(
        &self,
        own: &mut OfVm,
        vm: &VmName,
        now_ns: u64,
        found: &Match,
    ) -> Option<HeldBack> {
        let rule = &self.policy.rules[found.rule];
        let today = insight::timestamp(now_ns);
        let today = today.get(..10).unwrap_or(&today);
        let exception = self.policy.exceptions.iter().find(|exception| {
            any(std::slice::from_ref(&exception.rule), &rule.name)
                && (exception.vms.is_empty() || any(&exception.vms, vm.as_str()))
                && today <= exception.until.as_str()
                && all_hold(&exception.conditions, &found.evidence)
        });
        if let Some(exception) = exception {
            return Some(HeldBack::Exception {
                why: exception.why.clone(),
                until: exception.until.clone(),
            });
        }
        if found.cause.is_some_and(|cause| !own.is_new(cause)) {
            return Some(HeldBack::SameCause);
        }
        let is_within =
            |at: u64, time: Duration| now_ns.saturating_sub(at) < time.as_nanos() as u64;
        let acted = own
            .rules
            .get(&found.rule)
            .and_then(|of_rule| of_rule.acted_ns);
        if acted.is_some_and(|at| is_within(at, rule.cool_down)) {
            return Some(HeldBack::CoolDown);
        }
        let (most, per) = self.policy.budget;
        own.actions.retain(|at| is_within(*at, per));
        if rule.then.iter().any(Action::counts) && own.actions.len() >= most as usize {
            return Some(HeldBack::Budget);
        }
        self.policy.dry_run.then_some(HeldBack::DryRun)
    }
}

impl OfRule {
    /// What has held for long enough, once each time that it begins to.
    fn hold(
        &mut self,
        rule: usize,
        time: Duration,
        now_ns: u64,
        found: impl Iterator<Item = (String, Value)>,
    ) -> Vec<Match> {
        let mut before = std::mem::take(&mut self.holding);
        let mut matches = Vec::new();
        for (about, evidence) in found {
            let mut holding = before.remove(&about).unwrap_or(Holding {
                since_ns: now_ns,
                is_decided: false,
            });
            let held = now_ns.saturating_sub(holding.since_ns);
            if !holding.is_decided && held >= time.as_nanos() as u64 {
                holding.is_decided = true;
                matches.push(Match {
                    rule,
                    cause: None,
                    evidence,
                });
            }
            self.holding.insert(about, holding);
        }
        matches
    }
}

fn is_of(row: &Row, verdicts: &[Verdict]) -> bool {
    verdicts.contains(&row.verdict)
}

/// Metrics may be named with their prefix or without.
fn is_named(metric: &str, name: &str) -> bool {
    metric == name || metric.strip_prefix("mother_") == Some(name)
}

/// What an event is about, without when and where it was.
fn cause(rule: usize, event: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    rule.hash(&mut hasher);
    if let Value::Object(fields) = event {
        let what = fields.iter();
        for (name, value) in what.filter(|(name, _)| !NOT_WHAT.contains(&name.as_str())) {
            name.hash(&mut hasher);
            value.to_string().hash(&mut hasher);
        }
    }
    hasher.finish()
}
