//! The schemas in `docs/schema` are those of the types.

use std::collections::BTreeSet;
use std::path::PathBuf;

use insight::hooks::Hooks;
use policy::{Decision, PolicyFile};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::json;

use super::*;

/// Where the schemas are kept.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema");
/// What renews them.
const RENEW: &str = "RENEW_SCHEMA=1 cargo test -p cli schema";
const PAGE: &str = include_str!("../../../../docs/json.md");

/// What `mother doctor` finds.
#[derive(Serialize, JsonSchema)]
struct Doctor {
    /// The version.
    mother: String,
    /// Each engine, whether it works, and why.
    engines: Vec<Engine>,
    /// What `--engine auto` takes.
    auto: Option<String>,
    /// Whether the TSC can be relied on.
    tsc: Tsc,
    /// Whether a resident limit can be kept.
    paging: Paging,
    /// What would stand around a VM's process.
    jail: Jail,
    /// What a VM's share of a core that others want too is kept by.
    cpu_weight: Weighed,
    /// Whether the default guest can be had.
    default_guest: DefaultGuest,
}

#[derive(Serialize, JsonSchema)]
struct Engine {
    /// `kvm` or `soft`.
    kind: String,
    /// Whether it works.
    usable: bool,
    /// Why, or why not.
    why: String,
    /// What to do.
    help: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(
    dead_code,
    reason = "a shape for the schema; no value of it is ever made"
)]
enum Tsc {
    Stable,
    Promised,
    Unstable,
    Unknown,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(
    dead_code,
    reason = "a shape for the schema; no value of it is ever made"
)]
enum Weighed {
    Cgroup,
    Session,
    Threads,
}

#[derive(Serialize, JsonSchema)]
struct Paging {
    /// Whether it works.
    usable: bool,
    /// Also for guests on KVM.
    usable_on_kvm: bool,
    /// Why, or why not.
    why: String,
    /// What to do.
    help: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct DefaultGuest {
    /// The cache's folder.
    cache: Option<String>,
    /// Its kernel's package, if it is in the cache.
    package: Option<String>,
    /// Whether this host has apt to fetch it.
    has_apt: bool,
}

/// A line of `mother trace --json`.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "a shape for the schema; no value of it is ever made"
)]
enum TraceLine<'a> {
    Traced(Box<Traced<'a>>),
    Begins(TraceBegins<'a>),
    Lost(TraceLost<'a>),
}

fn of<T: JsonSchema>(title: &str) -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), json!(title));
    schema
}

/// Files and what is in them.
fn schemas() -> Vec<(&'static str, Schema)> {
    vec![
        ("balloon", of::<BalloonState<'_>>("mother balloon --json")),
        ("copied", of::<Copied<'_>>("mother cp --json")),
        ("dmesg", of::<Vec<LogRecord>>("mother dmesg --json")),
        ("doctor", of::<Doctor>("mother doctor --json")),
        ("done", of::<Vec<Done>>("What came of orders to VMs")),
        ("dump", of::<DumpedVm<'_>>("mother dump --json")),
        ("ended", of::<Vec<Ended<'_>>>("mother wait --json")),
        ("failed", of::<Failed>("Instead of an answer")),
        (
            "freed",
            of::<FreedImages<'_>>("mother images rm and prune --json"),
        ),
        ("hooks", of::<Hooks>("mother hooks --json")),
        ("images", of::<Vec<ListedImage>>("mother images --json")),
        (
            "pulled",
            of::<Vec<PulledImage>>("mother images pull --json"),
        ),
        ("inspect", of::<Inspected<'_>>("mother inspect --json")),
        ("logs", of::<Log<'_>>("mother logs --json")),
        ("processes", of::<Vec<Process>>("mother ps NAME --json")),
        ("profile", of::<WrittenProfile<'_>>("mother profile --json")),
        (
            "networks",
            of::<Vec<ListedNetwork>>("mother networks --json"),
        ),
        ("ps", of::<Vec<ListedVm<'_>>>("mother ps --json")),
        (
            "reached",
            of::<Vec<Reached<'_>>>("mother wait --for WHAT --json"),
        ),
        (
            "decision",
            of::<Decision>("mother policy test --json, a line"),
        ),
        ("policy", of::<PolicyFile>("A policy")),
        (
            "policy-check",
            of::<CheckedPolicy>("mother policy check --json"),
        ),
        ("trace", of::<TraceLine<'_>>("mother trace --json, a line")),
        (
            "watch",
            of::<JournalEntry<'_>>("mother watch --json, and the journal, a line"),
        ),
        ("upgraded", of::<Vec<UpgradedVm>>("mother upgrade --json")),
        ("truth", of::<Truth<'_>>("mother truth NAME --json")),
        ("truths", of::<Truths<'_>>("mother truth --json")),
        ("sighted", of::<Sighted<'_>>("mother truth --watch --json")),
    ]
}

/// Those about VMs on disk.
fn snapshot_schemas() -> Vec<(&'static str, Schema)> {
    vec![
        (
            "snapshot",
            of::<TakenSnapshot<'_>>("mother snapshot --json"),
        ),
        ("restore", of::<Vec<RestoredVm>>("mother restore --json")),
        (
            "freed-snapshots",
            of::<FreedSnapshots<'_>>("mother snapshots rm and prune --json"),
        ),
        (
            "inspected-snapshot",
            of::<InspectedSnapshot<'_>>("mother snapshots inspect --json"),
        ),
        (
            "snapshots",
            of::<Vec<ListedSnapshot<'_>>>("mother snapshots --json"),
        ),
        (
            "verified",
            of::<Vec<VerifiedSnapshot<'_>>>("mother snapshots verify --json"),
        ),
    ]
}

/// Those about guests that Mother does not run.
fn foreign_schemas() -> Vec<(&'static str, Schema)> {
    vec![
        (
            "inspect-foreign",
            of::<InspectedForeign<'_>>("mother inspect --json of what Mother does not run"),
        ),
        (
            "truth-foreign",
            of::<TruthForeign<'_>>("mother truth --json of a VM that Mother does not run"),
        ),
        (
            "truth-container",
            of::<TruthContainer<'_>>("mother truth container:NAME --json"),
        ),
        (
            "container-processes",
            of::<Vec<ContainerProcess>>("mother ps container:NAME --json"),
        ),
        ("all-kinds", of::<Vec<Foreign>>("mother ps --all --json")),
    ]
}

fn all_schemas() -> impl Iterator<Item = (&'static str, Schema)> {
    let all = schemas().into_iter().chain(snapshot_schemas());
    all.chain(foreign_schemas())
}

#[test]
fn the_schemas_in_docs_are_current() {
    let is_to_renew = std::env::var_os("RENEW_SCHEMA").is_some();
    let mut old = Vec::new();
    for (name, schema) in all_schemas() {
        let path = PathBuf::from(FOLDER).join(format!("{name}.json"));
        let text = format!("{:#}\n", schema.to_value());
        if is_to_renew {
            std::fs::write(&path, &text).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            old.push(name);
        }
    }
    assert!(
        old.is_empty(),
        "not current: {old:?}; renew them with `{RENEW}`"
    );
}

#[test]
fn the_page_names_every_schema_and_no_other_is_kept() {
    let mut known: BTreeSet<String> = all_schemas()
        .map(|(name, _)| format!("{name}.json"))
        .collect();
    for file in &known {
        assert!(
            PAGE.contains(&format!("(schema/{file})")),
            "docs/json.md does not name {file}"
        );
    }
    // What `--config` reads is api's, and what the daemon answers is its own.
    known.insert("openapi.json".to_owned());
    known.insert("vm.json".to_owned());
    let kept = std::fs::read_dir(FOLDER).unwrap();
    let kept: BTreeSet<String> = kept
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept, known);
}
