//! The file: what may stand in it, and what is wrong with one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use api::{ByteRate, CountRate, CpuLimit, CpuWeight, Rates};
use insight::trace::EventKind;
use insight::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::pattern::{Condition, Pattern, Range};

/// The version that this code reads.
const VERSION: u32 = 1;
/// Rules of one policy.
const RULES_MAX: usize = 256;
/// Largest file.
const BYTES_MAX: usize = 1 << 20;

/// A policy as it is written (TOML).
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PolicyFile {
    /// 1.
    pub version: u32,
    /// Decide and write down, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// How many actions there may be for each VM.
    #[serde(default)]
    pub budget: Budget,
    /// What to do when.
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleEntry>,
    /// When not to, for a time.
    #[serde(default, rename = "except")]
    pub exceptions: Vec<ExceptionEntry>,
}

/// How many actions there may be for each VM. What is only noted does not count.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetEntry {
    /// So many.
    pub actions: u32,
    /// In so long: seconds, or with s, m, h or d.
    pub per: String,
}

/// See [`BudgetEntry`].
pub type Budget = Option<BudgetEntry>;

/// A rule as it is written. It has one of `event`, `verdict` and `fact`.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleEntry {
    /// What it is called in decisions and exceptions.
    pub name: String,
    /// Patterns for names of VMs; without it every VM is meant.
    #[serde(default)]
    pub vms: Vec<Pattern>,
    /// Kinds of events, as `mother trace` has them.
    #[serde(default)]
    pub event: OneOrMore,
    /// Verdicts about rows of `mother truth`: `contradicts`, `differs`, `costs`, `not-observable`.
    #[serde(default)]
    pub verdict: OneOrMore,
    /// A metric by its name (`docs/metrics.md`), with `above` or `below`.
    pub fact: Option<String>,
    /// More than this.
    pub above: Option<f64>,
    /// Less than this.
    pub below: Option<f64>,
    /// What fields have to be: names with dots between, as in the JSON of `mother trace` and `mother truth`; labels of a
    /// metric.
    #[serde(default, rename = "where")]
    pub conditions: BTreeMap<String, Condition>,
    /// A verdict or a fact has to hold for so long.
    #[serde(rename = "for")]
    pub held: Option<String>,
    /// So many events have to come ...
    pub times: Option<u32>,
    /// ... in so long.
    pub within: Option<String>,
    /// Nothing more is done by this rule to this VM for so long.
    pub cool_down: Option<String>,
    /// What to do, in order.
    pub then: Vec<Action>,
}

/// One word or a list of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// None.
    #[default]
    None,
    /// One.
    One(String),
    /// Some.
    Some(Vec<String>),
}

impl OneOrMore {
    fn words(&self) -> &[String] {
        match self {
            OneOrMore::None => &[],
            OneOrMore::One(word) => std::slice::from_ref(word),
            OneOrMore::Some(words) => words,
        }
    }
}

/// What can be done.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Write the decision down, which is done anyway.
    Note,
    /// Pause the VM.
    Pause,
    /// Press its power button, and end it after the usual grace time.
    Stop,
    /// End it at once.
    Kill,
    /// Pull the cable of its network card.
    CutNetwork,
    /// Change what it may use.
    Limit(Limits),
    /// Write its memory and registers to a file in this folder, as `mother dump` does; it is named after the VM and the time.
    Dump(String),
    /// Write a snapshot of it, as `mother snapshot` does; it is named after the VM and the time.
    Snapshot,
    /// Send the decision as JSON to a server, by a POST to this address.
    Webhook(String),
    /// Run a program of the host's, with the decision as JSON on its standard input: program and arguments.
    Run(Vec<String>),
}

impl Action {
    /// Whether it changes something for the VM or takes room on the host, and so counts.
    pub fn counts(&self) -> bool {
        !matches!(self, Action::Note | Action::Run(_) | Action::Webhook(_))
    }

    /// Its word.
    pub fn word(&self) -> &'static str {
        match self {
            Action::Note => "note",
            Action::Pause => "pause",
            Action::Stop => "stop",
            Action::Kill => "kill",
            Action::CutNetwork => "cut-network",
            Action::Limit(_) => "limit",
            Action::Dump(_) => "dump",
            Action::Snapshot => "snapshot",
            Action::Webhook(_) => "webhook",
            Action::Run(_) => "run",
        }
    }
}

/// What a VM may use from now on, in the words of `mother limit`; what is not said stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// How much of its memory the host may hold: a size, a share such as `10%`, or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident: Option<String>,
    /// CPU time, as a share of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuLimit>,
    /// Its part of a core that others want too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<CpuWeight>,
    /// Bytes per second of its disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_rate: Option<ByteRate>,
    /// Requests per second of its disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_ops: Option<CountRate>,
    /// Bytes per second of its network card, each way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rate: Option<ByteRate>,
    /// Packets per second of its network card, each way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_packets: Option<CountRate>,
    /// Bytes per second of its consoles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_rate: Option<ByteRate>,
}

impl Limits {
    /// Those that are rates.
    pub fn rates(&self) -> Rates {
        Rates {
            cpu_limit: self.cpu_limit,
            cpu_weight: self.cpu_weight,
            disk_rate: self.disk_rate,
            disk_ops: self.disk_ops,
            net_rate: self.net_rate,
            net_packets: self.net_packets,
            console_rate: self.console_rate,
        }
    }
}

/// An exception as it is written.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExceptionEntry {
    /// From which rule; a pattern.
    pub rule: Pattern,
    /// For which VMs; without it for every one.
    #[serde(default)]
    pub vms: Vec<Pattern>,
    /// Only if fields are so.
    #[serde(default, rename = "where")]
    pub conditions: BTreeMap<String, Condition>,
    /// The last day, in UTC: `2026-12-31`. An exception without an end is a hole.
    pub until: String,
    /// Why.
    pub why: String,
}

/// When a rule applies.
#[derive(Clone, PartialEq, Debug)]
pub enum Trigger {
    /// Events of these kinds.
    Event(Vec<EventKind>),
    /// Rows with these verdicts.
    Verdict(Vec<Verdict>),
    /// A number of this name in this range.
    Fact(String, Range),
}

/// A rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// What it is called.
    pub name: String,
    /// For which VMs.
    pub vms: Vec<Pattern>,
    /// When.
    pub trigger: Trigger,
    /// What fields have to be.
    pub conditions: BTreeMap<String, Condition>,
    /// For how long it has to hold.
    pub held: Duration,
    /// How many events ...
    pub times: u32,
    /// ... have to come in so long.
    pub within: Duration,
    /// For how long nothing more is done.
    pub cool_down: Duration,
    /// What to do.
    pub then: Vec<Action>,
}

/// An exception.
#[derive(Clone, PartialEq, Debug)]
pub struct Exception {
    /// From which rule.
    pub rule: Pattern,
    /// For which VMs.
    pub vms: Vec<Pattern>,
    /// Only if fields are so.
    pub conditions: BTreeMap<String, Condition>,
    /// The last day.
    pub until: String,
    /// Why.
    pub why: String,
}

/// A policy that can be followed.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// Decide, and do nothing.
    pub dry_run: bool,
    /// Actions for each VM in so long.
    pub budget: (u32, Duration),
    /// What to do when.
    pub rules: Vec<Rule>,
    /// When not to.
    pub exceptions: Vec<Exception>,
}

/// Something that is wrong with a policy.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct Wrong {
    /// Where: `rule "module": for`.
    pub place: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Why a file is no policy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// It is no TOML, or has in it what does not belong there.
    #[error("{0}")]
    Unreadable(String),
    /// It says what cannot be followed: all complaints.
    #[error("{}", lines(.0))]
    Wrong(Vec<Wrong>),
}

/// Whether something may be sent there: whoever does it looks closer.
fn is_server(address: &str) -> bool {
    let rest = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"));
    let server = rest.and_then(|rest| rest.split(['/', '?']).next());
    server.is_some_and(|server| !server.is_empty() && !server.contains('@'))
        && address.chars().all(|letter| letter.is_ascii_graphic())
}

fn lines(all: &[Wrong]) -> String {
    let lines: Vec<String> = all.iter().map(Wrong::to_string).collect();
    lines.join("\n")
}

/// What applies where nothing is said: ten actions in an hour.
const BUDGET: (u32, Duration) = (10, Duration::from_secs(3600));
/// Longest time that may be written.
const TIME_MAX: u64 = 366 * 86_400;

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`], with every complaint.
    pub fn read(text: &str) -> Result<Policy, PolicyError> {
        if text.len() > BYTES_MAX {
            let why = format!("the file is larger than {} MiB", BYTES_MAX >> 20);
            return Err(PolicyError::Unreadable(why));
        }
        let file: PolicyFile = toml::from_str(text)
            .map_err(|error| PolicyError::Unreadable(error.to_string().trim_end().to_owned()))?;
        let mut check = Check::default();
        let policy = check.policy(file);
        if check.wrong.is_empty() {
            Ok(policy)
        } else {
            Err(PolicyError::Wrong(check.wrong))
        }
    }

    /// Kinds of events that some rule is about.
    pub fn event_kinds(&self) -> Vec<EventKind> {
        let mut kinds: Vec<EventKind> = self
            .rules
            .iter()
            .flat_map(|rule| match &rule.trigger {
                Trigger::Event(kinds) => kinds.clone(),
                _ => Vec::new(),
            })
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Paths that rules about opened files name: without `*` and `?`, each is one.
    pub fn files(&self) -> Vec<String> {
        let opened = self.rules.iter().filter(
            |rule| matches!(&rule.trigger, Trigger::Event(kinds) if kinds.contains(&EventKind::Open)),
        );
        let patterns = opened.flat_map(|rule| match rule.conditions.get("file.path") {
            Some(Condition::Pattern(pattern)) => vec![pattern.0.clone()],
            Some(Condition::Patterns(patterns)) => {
                patterns.iter().map(|pattern| pattern.0.clone()).collect()
            }
            _ => Vec::new(),
        });
        let mut files: Vec<String> = patterns.filter(|path| path.starts_with('/')).collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// Collects complaints.
#[derive(Default)]
struct Check {
    wrong: Vec<Wrong>,
}

impl Check {
    fn complain(&mut self, place: &str, what: impl Into<String>) {
        self.wrong.push(Wrong {
            place: place.to_owned(),
            what: what.into(),
        });
    }

    fn policy(&mut self, file: PolicyFile) -> Policy {
        if file.version != VERSION {
            let what = format!("{} is not a version that is known: write 1", file.version);
            self.complain("version", what);
        }
        if file.rules.len() > RULES_MAX {
            let what = format!("{} rules where there may be {RULES_MAX}", file.rules.len());
            self.complain("rule", what);
        }
        let budget = file.budget.map_or(BUDGET, |budget| {
            (budget.actions, self.time("budget: per", &budget.per))
        });
        let mut names = BTreeSet::new();
        let rules: Vec<Rule> = file
            .rules
            .into_iter()
            .map(|entry| {
                if !names.insert(entry.name.clone()) {
                    self.complain(&place(&entry.name), "there is another rule of this name");
                }
                self.rule(entry)
            })
            .collect();
        let exceptions = file.exceptions.into_iter();
        let exceptions = exceptions.map(|entry| self.exception(entry, &names));
        let exceptions = exceptions.collect();
        Policy {
            dry_run: file.dry_run,
            budget,
            rules,
            exceptions,
        }
    }

    fn rule(&mut self, entry: RuleEntry) -> Rule {
        let place = place(&entry.name);
        if entry.name.is_empty() || entry.name.len() > 64 {
            self.complain(&place, "a name has 1 to 64 bytes");
        }
        let trigger = self.trigger(&place, &entry);
        let is_event = matches!(trigger, Trigger::Event(_));
        if is_event && entry.held.is_some() {
            let what = "an event does not last: `times` and `within` say how many are too many";
            self.complain(&format!("{place}: for"), what);
        }
        if !is_event && (entry.times.is_some() || entry.within.is_some()) {
            let what = "verdicts and facts are not counted: `for` says how long is too long";
            self.complain(&format!("{place}: times"), what);
        }
        if entry.times.is_some() != entry.within.is_some() {
            let what = "`times` and `within` belong together";
            self.complain(&format!("{place}: times"), what);
        }
        let times = entry.times.unwrap_or(1);
        if !(1..=10_000).contains(&times) {
            self.complain(&format!("{place}: times"), "write 1 to 10000");
        }
        if entry.then.is_empty() {
            self.complain(&format!("{place}: then"), "says nothing to do");
        }
        for action in &entry.then {
            match action {
                Action::Run(words) if words.first().is_none_or(|word| !word.starts_with('/')) => {
                    let what = "a program is named by its whole path, such as [\"/usr/local/bin/page-me\"]";
                    self.complain(&format!("{place}: then: run"), what);
                }
                Action::Dump(folder) if !folder.starts_with('/') => {
                    let what = "a folder is named by its whole path, such as \"/var/tmp/dumps\"";
                    self.complain(&format!("{place}: then: dump"), what);
                }
                Action::Webhook(address) if !is_server(address) => {
                    let what = "a server is named by its whole address, such as \"https://hooks.example/mother\"";
                    self.complain(&format!("{place}: then: webhook"), what);
                }
                Action::Limit(limits) if *limits == Limits::default() => {
                    self.complain(&format!("{place}: then: limit"), "limits nothing");
                }
                _ => {}
            }
        }
        let mut time = |what: &str, written: &Option<String>| match written {
            Some(written) => self.time(&format!("{place}: {what}"), written),
            None => Duration::ZERO,
        };
        Rule {
            held: time("for", &entry.held),
            within: time("within", &entry.within),
            cool_down: time("cool-down", &entry.cool_down),
            name: entry.name,
            vms: entry.vms,
            trigger,
            conditions: entry.conditions,
            times,
            then: entry.then,
        }
    }

    fn trigger(&mut self, place: &str, entry: &RuleEntry) -> Trigger {
        let has = [
            entry.event != OneOrMore::None,
            entry.verdict != OneOrMore::None,
            entry.fact.is_some(),
        ];
        if has.iter().filter(|has| **has).count() != 1 {
            self.complain(place, "write one of `event`, `verdict` and `fact`");
        }
        if (entry.above.is_some() || entry.below.is_some()) != entry.fact.is_some() {
            self.complain(
                place,
                "`above` and `below` belong to a `fact`, and a fact has one of them",
            );
        }
        if let Some(fact) = &entry.fact {
            let range = Range {
                above: entry.above,
                below: entry.below,
            };
            return Trigger::Fact(fact.clone(), range);
        }
        if entry.verdict != OneOrMore::None {
            let verdicts = entry.verdict.words().iter();
            let verdicts = verdicts.filter_map(|word| {
                let verdict = verdict(word);
                if verdict.is_none() {
                    let what = format!(
                        "\"{}\" is none: contradicts, differs, costs, not-observable",
                        word.escape_debug()
                    );
                    self.complain(&format!("{place}: verdict"), what);
                }
                verdict
            });
            return Trigger::Verdict(verdicts.collect());
        }
        let kinds = entry.event.words().iter().filter_map(|word| {
            let kind = EventKind::of(word);
            if kind.is_none() {
                let words = EventKind::ALL.map(EventKind::word).join(", ");
                let what = format!("\"{}\" is none: {words}", word.escape_debug());
                self.complain(&format!("{place}: event"), what);
            }
            kind
        });
        let kinds: Vec<EventKind> = kinds.collect();
        if kinds.contains(&EventKind::Open) {
            self.check_files(place, entry.conditions.get("file.path"));
        }
        Trigger::Event(kinds)
    }

    /// Which files are watched has to be known before one is opened.
    fn check_files(&mut self, place: &str, condition: Option<&Condition>) {
        let patterns = match condition {
            Some(Condition::Pattern(pattern)) => vec![pattern],
            Some(Condition::Patterns(patterns)) => patterns.iter().collect(),
            _ => Vec::new(),
        };
        let is_path =
            |pattern: &&Pattern| pattern.0.starts_with('/') && !pattern.0.contains(['*', '?']);
        if patterns.is_empty() || !patterns.iter().all(is_path) {
            let what = "a rule about opened files names them: \"file.path\" = [\"/etc/shadow\"], without * and ?";
            self.complain(&format!("{place}: where"), what);
        }
    }

    fn exception(&mut self, entry: ExceptionEntry, names: &BTreeSet<String>) -> Exception {
        let place = format!("except \"{}\"", entry.rule.0.escape_debug());
        let rule = std::slice::from_ref(&entry.rule);
        if !names.iter().any(|name| crate::pattern::any(rule, name)) {
            self.complain(&place, "there is no rule of this name");
        }
        if !is_day(&entry.until) {
            let what = "write the last day as 2026-12-31";
            self.complain(&format!("{place}: until"), what);
        }
        if entry.why.trim().is_empty() {
            let what = "says nothing: who meets it wants to know";
            self.complain(&format!("{place}: why"), what);
        }
        Exception {
            rule: entry.rule,
            vms: entry.vms,
            conditions: entry.conditions,
            until: entry.until,
            why: entry.why,
        }
    }

    fn time(&mut self, place: &str, text: &str) -> Duration {
        let digits = text.trim_end_matches(['s', 'm', 'h', 'd']);
        let unit = match &text[digits.len()..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => 0,
        };
        let seconds = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .filter(|seconds| (1..=TIME_MAX).contains(seconds));
        if seconds.is_none() {
            let what = "write seconds, or a number with s, m, h or d behind it, such as 30s";
            self.complain(place, what);
        }
        Duration::from_secs(seconds.unwrap_or(1))
    }
}

fn place(name: &str) -> String {
    format!("rule \"{}\"", name.escape_debug())
}

fn verdict(word: &str) -> Option<Verdict> {
    [
        ("contradicts", Verdict::Contradicts),
        ("differs", Verdict::Differs),
        ("costs", Verdict::Costs),
        ("not-observable", Verdict::NotObservable),
    ]
    .into_iter()
    .find(|(other, _)| *other == word)
    .map(|(_, verdict)| verdict)
}

/// Whether a text is a date as RFC 3339 writes it, as far as its digits go.
fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |text: &str, len: usize, most: u32| {
        let is_number = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number
            && text
                .parse()
                .is_ok_and(|number: u32| (1..=most).contains(&number))
    };
    matches!(parts[..], [year, month, day] if number(year, 4, 9999) && number(month, 2, 12) && number(day, 2, 31))
}
