//! What is said about VMs, events and work: the shapes of requests and answers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::{Complaint, OnNetwork, VmEnd, VmName, VmSpec, VmState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who may do what.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema,
)]
pub enum Role {
    /// Sees everything but tokens and the audit log, changes nothing.
    ReadOnly,
    /// Does everything with VMs and images.
    Operator,
    /// Says who may come in, too.
    Administrator,
}

/// Whether a declared VM shall run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// It shall run.
    #[default]
    Running,
    /// It shall not.
    Stopped,
}

/// What follows when a VM that shall run has ended by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Nothing.
    #[default]
    Never,
    /// It is started again if its exit status is not 0, or its process vanished.
    OnFailure,
    /// It is started again.
    Always,
}

/// A VM as it is wanted to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Declaration {
    /// What it is called.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"))]
    pub name: VmName,
    /// What it is, as `mother run --config` reads it.
    #[serde(default, deserialize_with = "api::object::one")]
    pub spec: VmSpec,
    /// Whether it shall run.
    #[serde(default)]
    pub desired: Desired,
    /// What follows when it ends by itself.
    #[serde(default)]
    pub restart: Restart,
    /// Whether it is started when the daemon starts for the first time after the host did.
    #[serde(default)]
    pub boot: bool,
    /// Lower ones are started earlier.
    #[serde(default)]
    pub order: i32,
    /// From which folder paths in `spec` are looked for.
    #[serde(default = "root")]
    pub folder: PathBuf,
}

fn root() -> PathBuf {
    "/".into()
}

/// What lies in the drive of a declared VM: a disc or a disk that it has from its next start on, and cannot write to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Medium {
    /// As it was named: an address, or a path of the host.
    pub image: String,
    /// The file: a path, or a name in the daemon's own folder.
    #[schemars(skip)]
    pub file: String,
    /// Whether the file is the daemon's own, which was fetched and goes with the medium.
    #[schemars(skip)]
    pub is_own: bool,
    /// Its size.
    pub len_bytes: u64,
    /// The SHA-256 of what was fetched.
    pub sha256: Option<String>,
    /// As whom it was fetched.
    #[schemars(skip)]
    pub user: Option<String>,
}

/// From where a declared VM starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BootTarget {
    /// As it is declared.
    #[default]
    None,
    /// Its first disk, by the boot entries there.
    Hdd,
    /// What lies in its drive, by the boot entries there.
    Cd,
}

/// How long an override holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Lasting {
    /// It does not.
    #[default]
    Disabled,
    /// For the next start.
    Once,
    /// Until it is changed.
    Continuous,
}

/// From where a declared VM starts instead of as it is declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct BootOverride {
    /// From where.
    pub target: BootTarget,
    /// For how long.
    pub lasting: Lasting,
}

impl BootOverride {
    /// What holds for the next start.
    pub(crate) fn next(self) -> BootTarget {
        match self.lasting {
            Lasting::Disabled => BootTarget::None,
            Lasting::Once | Lasting::Continuous => self.target,
        }
    }

    /// What is left of it when a start has begun.
    pub(crate) fn used(self) -> BootOverride {
        match self.lasting {
            Lasting::Once => BootOverride::default(),
            Lasting::Disabled | Lasting::Continuous => self,
        }
    }
}

/// A declaration as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Declared {
    /// What was declared.
    pub what: Declaration,
    /// Which declaration of this name this is, from 1: the `ETag`.
    pub version: u64,
    /// How often its start was wanted: when it was declared to run, ordered to start, or the host had booted.
    pub wanted: u64,
    /// Which of these starts has happened.
    pub served: u64,
    /// What lies in its drive.
    #[serde(default)]
    pub medium: Option<Medium>,
    /// From where it starts, if not as it is declared.
    #[serde(default)]
    pub boot: BootOverride,
}

/// What a declared VM shows of its declaration.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct DeclaredView {
    /// What it is, keys as in a file.
    pub spec: Value,
    /// Whether it shall run.
    pub desired: Desired,
    /// What follows when it ends by itself.
    pub restart: Restart,
    /// Whether it is started after the host.
    pub boot: bool,
    /// Lower ones are started earlier.
    pub order: i32,
    /// From which folder paths are looked for.
    pub folder: String,
    /// Which declaration of this name this is.
    pub version: u64,
    /// What lies in its drive.
    pub medium: Option<Medium>,
    /// From where it starts, if not as it is declared.
    pub boot_override: BootOverride,
}

impl From<&Declared> for DeclaredView {
    fn from(declared: &Declared) -> DeclaredView {
        let what = &declared.what;
        DeclaredView {
            spec: Value::Object(what.spec.said()),
            desired: what.desired,
            restart: what.restart,
            boot: what.boot,
            order: what.order,
            folder: what.folder.display().to_string(),
            version: declared.version,
            medium: declared.medium.clone(),
            boot_override: declared.boot,
        }
    }
}

/// What a VM is doing, for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StateView {
    /// Its process has not got that far.
    Starting,
    /// Its guest runs.
    Running,
    /// Its guest and its guest's time stand still.
    Paused,
    /// It stands still until there is room for pages of its memory.
    Waiting,
    /// It is about to end.
    Stopping,
    /// Its process lives and does not answer.
    Unresponsive,
    /// It has ended, and said how.
    Ended,
    /// Its process vanished.
    Died,
    /// It was declared and never started.
    Declared,
}

impl From<VmState> for StateView {
    fn from(state: VmState) -> StateView {
        match state {
            VmState::Starting => StateView::Starting,
            VmState::Running => StateView::Running,
            VmState::Paused => StateView::Paused,
            VmState::Waiting => StateView::Waiting,
            VmState::Stopping => StateView::Stopping,
            VmState::Unresponsive => StateView::Unresponsive,
            VmState::Ended => StateView::Ended,
            VmState::Died => StateView::Died,
        }
    }
}

impl StateView {
    /// Whether a process of it lives.
    pub(crate) fn is_alive(self) -> bool {
        !matches!(
            self,
            StateView::Ended | StateView::Died | StateView::Declared
        )
    }

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            StateView::Starting => "starting",
            StateView::Running => "running",
            StateView::Paused => "paused",
            StateView::Waiting => "waiting",
            StateView::Stopping => "stopping",
            StateView::Unresponsive => "unresponsive",
            StateView::Ended => "ended",
            StateView::Died => "died",
            StateView::Declared => "declared",
        }
    }
}

/// What was seen of a guest last.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct Insight {
    /// `fine`, `contradicts` or `blind`; none if it could not be seen.
    pub standing: Option<String>,
    /// The worst of the rows.
    pub worst: Option<String>,
    /// When it was seen, in seconds since 1970-01-01 UTC.
    pub at: f64,
    /// Why nothing is known.
    pub why_not: Option<String>,
    /// Claim, kernel's book and truth of each subject, as `mother truth` has them.
    pub rows: Value,
    /// The guest's kernel, as `mother truth` has it.
    pub kernel: Value,
    /// The host's books of its memory, as `mother truth` has them.
    pub memory: Value,
    /// An estimate of the memory that it works on.
    pub working_set: Value,
    /// Memory in use, as the guest's balloon driver says.
    pub claimed_used_bytes: Option<u64>,
    /// Memory in use, as the guest's kernel has it in its books.
    pub kernel_used_bytes: Option<u64>,
}

/// A VM.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct VmView {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: StateView,
    /// `kvm` or `soft`.
    pub engine: Option<String>,
    /// The process that has the guest.
    pub pid: Option<u32>,
    /// Number of vCPUs.
    pub vcpus: Option<u32>,
    /// When it was started, in seconds since 1970-01-01 UTC.
    pub started_at: Option<f64>,
    /// Since its start, pauses included.
    pub uptime_seconds: Option<f64>,
    /// CPU time of the whole process.
    pub cpu_seconds: Option<f64>,
    /// What the guest believes to have.
    pub memory_given_bytes: Option<u64>,
    /// What the host holds of it.
    pub memory_resident_bytes: Option<u64>,
    /// How often the guest started again.
    pub reboots: Option<u64>,
    /// How many consoles are attached.
    pub consoles: Option<u64>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Ports of the host that lead into the guest.
    pub ports: Vec<String>,
    /// The network between VMs that it is on while it runs, and its guest's address there.
    pub network: Option<OnNetwork>,
    /// How it ended.
    pub end: Option<VmEnd>,
    /// How it is wanted to be, if it is declared.
    pub declared: Option<DeclaredView>,
    /// Why a declared VM is not as it is wanted to be.
    pub trouble: Option<String>,
    /// What was seen of it last.
    pub insight: Option<Insight>,
}

/// How much an event matters.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It is as it should be.
    Info,
    /// Somebody should look at it.
    Warning,
    /// Somebody should look at it now.
    Critical,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number, from 1, without gaps.
    pub id: u64,
    /// When, in seconds since 1970-01-01 UTC.
    pub at: f64,
    /// The VM.
    pub vm: Option<String>,
    /// What, in one word.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// What, in a sentence.
    pub text: String,
}

/// What became of long work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WorkState {
    /// It goes on.
    Running,
    /// It is done.
    Done,
    /// It is not done, see `error`.
    Failed,
    /// Somebody did not want it any more.
    Cancelled,
}

/// Long work.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct Operation {
    /// Its number.
    pub id: u64,
    /// What is done, in one word.
    pub what: String,
    /// To which VM.
    pub vm: Option<String>,
    /// What became of it.
    pub state: WorkState,
    /// What it does just now, in its own words.
    pub progress: Option<String>,
    /// Why it failed.
    pub error: Option<Problem>,
    /// When it began, in seconds since 1970-01-01 UTC.
    pub begun_at: f64,
    /// When it ended.
    pub ended_at: Option<f64>,
}

/// What is wrong, where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// For programs: in one word.
    #[serde(default)]
    pub code: String,
    /// For people: in one line.
    pub message: String,
    /// Which part of what was asked.
    #[serde(default)]
    pub r#where: Option<String>,
    /// Why: a text for each cause, the nearest first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do.
    #[serde(default)]
    pub help: Option<String>,
    /// What is wrong with the description of a VM, all of it.
    #[serde(default)]
    pub complaints: Vec<Complaint>,
}

/// Somebody who may come in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    /// What it is called in the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The SHA-256 of the token; the token itself is nowhere.
    pub sha256: String,
    /// When it was made, in seconds since 1970-01-01 UTC.
    pub made_at: f64,
}

/// Somebody asked for something.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Audited {
    /// Its number, from 1.
    pub id: u64,
    /// When, in seconds since 1970-01-01 UTC.
    pub at: f64,
    /// Who: a token's name, or a user of this host.
    pub who: String,
    /// From where.
    pub from: String,
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// What was answered.
    pub status: u16,
}

/// Seconds since 1970-01-01 UTC.
pub(crate) fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A VM of which nothing else is known.
    pub(crate) fn vm(state: StateView) -> VmView {
        VmView {
            name: "web".to_owned(),
            state,
            engine: None,
            pid: None,
            vcpus: None,
            started_at: None,
            uptime_seconds: None,
            cpu_seconds: None,
            memory_given_bytes: None,
            memory_resident_bytes: None,
            reboots: None,
            consoles: None,
            labels: BTreeMap::new(),
            ports: Vec::new(),
            network: None,
            end: None,
            declared: None,
            trouble: None,
            insight: None,
        }
    }
}
