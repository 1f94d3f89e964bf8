//! `mother snapshots`: what there is, whether it is whole, and how it goes away.

use std::ops::ControlFlow;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use insight::amounts::{size, size_in_words};
use snapshot::{CHUNK_BYTES, Freed, Kind, Listed, Prune, Shelf, Snapshot, SnapshotError};

use crate::ago::ago;
use crate::answers::{
    self, FreedSnapshots, InspectedSnapshot, ListedSnapshot, SnapshotDisk, VerifiedSnapshot,
};
use crate::exit_status::{BAD_INPUT, OUR_FAULT};
use crate::failure::Failure;
use crate::output::say;
use crate::progress::Measured;

/// `mother snapshots`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
A snapshot is a folder in ~/.local/share/mother/snapshots (XDG_DATA_HOME). It can be copied
and carried elsewhere as it is; one that lies elsewhere is named by its path.

Examples:
  mother snapshots
  mother snapshots inspect web-1
  mother snapshots verify web-1 ./backup/web-1
  mother snapshots prune --older-than 7d --keep 3")]
pub struct SnapshotsArguments {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Only names, a line each
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// What to do; nothing lists them
    #[command(subcommand)]
    command: Option<SnapshotsCommand>,
}

/// What to do with snapshots.
#[derive(Clone, Debug, Subcommand)]
enum SnapshotsCommand {
    /// Say what is in one
    Inspect {
        /// Its name, as listed, or its path, with a / in it
        #[arg(value_name = "NAME|PATH")]
        name: String,
    },
    /// Read all that has a checksum: memory, state, kernels; say whether it is as it was written
    Verify {
        /// Their names, as listed, or their paths, with a / in them
        #[arg(required = true, value_name = "NAME|PATH")]
        names: Vec<String>,
    },
    /// Remove snapshots, damaged ones too
    Rm {
        /// Their names, as listed
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Also those that VMs run on, which go on; their room is free when these end
        #[arg(short, long)]
        force: bool,
    },
    /// Remove old snapshots of VMs that ran on; suspended VMs, and what VMs run on, stay
    Prune(PruneArguments),
}

/// What goes, and what stays.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = true)]
struct PruneArguments {
    /// Those that are older than this: seconds, or with s, m, h, d or w
    #[arg(long, value_name = "TIME", value_parser = age)]
    older_than: Option<Duration>,
    /// All but so many of each VM, the newest
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
}

/// Does what was asked.
pub fn run(arguments: &SnapshotsArguments) -> Result<u8, Failure> {
    let shelf = Shelf::of_user()?;
    let is_json = arguments.json;
    match &arguments.command {
        None if arguments.quiet => {
            let names = shelf.list().into_iter().map(|listed| listed.name + "\n");
            say(&names.collect::<String>())?;
        }
        None => say(&list(&shelf.list(), is_json))?,
        Some(SnapshotsCommand::Inspect { name }) => say(&inspect(&shelf.open(name)?, is_json)?)?,
        Some(SnapshotsCommand::Verify { names }) => return verify(&shelf, names, is_json),
        Some(SnapshotsCommand::Rm { names, force }) => {
            return remove(&shelf, names, *force, is_json);
        }
        Some(SnapshotsCommand::Prune(prune)) => {
            let prune = Prune {
                older_than: prune.older_than.unwrap_or_default(),
                keep: prune.keep.unwrap_or_default(),
            };
            say(&freed(&shelf.prune(prune), is_json))?;
        }
    }
    Ok(0)
}

/// An age, from the command line.
fn age(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        "w" => Some(7 * 86_400),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let all = number
        .zip(seconds)
        .and_then(|(number, unit)| number.checked_mul(unit));
    let help = || "write seconds, or a number with s, m, h, d or w behind it, such as 12h or 7d";
    all.map(Duration::from_secs)
        .ok_or_else(|| help().to_owned())
}

fn list(snapshots: &[Listed], is_json: bool) -> String {
    if is_json {
        let list = snapshots.iter().map(|listed| {
            let error = listed.manifest.as_ref().err();
            ListedSnapshot::new(listed, error.map(problem))
        });
        return answers::text(&list.collect::<Vec<_>>());
    }
    if snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let mut rows =
        vec![["NAME", "VM", "MADE", "MEMORY", "SIZE", "USERS", "WHAT"].map(str::to_owned)];
    rows.extend(snapshots.iter().map(row));
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let [name, vm, made, memory, size, users] = widths;
    let lines = rows.iter().map(|row| {
        let [a, b, c, d, e, f, g] = row;
        format!("{a:<name$}  {b:<vm$}  {c:<made$}  {d:>memory$}  {e:>size$}  {f:>users$}  {g}\n")
    });
    lines.collect()
}

fn row(listed: &Listed) -> [String; 7] {
    let users = users(listed.in_use.then_some(&listed.processes));
    let disk = size(listed.disk_bytes);
    match &listed.manifest {
        Ok(manifest) => [
            listed.name.clone(),
            manifest.vm.clone(),
            made(manifest.made_at),
            size(manifest.memory_bytes),
            disk,
            users,
            manifest.kind.as_str().to_owned(),
        ],
        Err(error) => {
            let nothing = || "-".to_owned();
            let name = listed.name.clone();
            [
                name,
                nothing(),
                nothing(),
                nothing(),
                disk,
                users,
                why(error),
            ]
        }
    }
}

/// How many hold it; `yes` where none of them can be seen.
fn users(processes: Option<&Vec<u32>>) -> String {
    match processes.map(Vec::len) {
        None => "0".to_owned(),
        Some(0) => "yes".to_owned(),
        Some(count) => count.to_string(),
    }
}

/// What is wrong, on one line.
fn why(error: &SnapshotError) -> String {
    let inner = match error {
        SnapshotError::Damaged { part, damage, .. } => format!("{part}: {damage}"),
        other => other.to_string(),
    };
    format!("damaged: {inner}")
}

fn made(at: f64) -> String {
    // What no time can be is before all of them.
    let since = Duration::try_from_secs_f64(at).unwrap_or_default();
    UNIX_EPOCH
        .checked_add(since)
        .map_or_else(|| "just now".to_owned(), ago)
}

fn inspect(snapshot: &Snapshot, is_json: bool) -> Result<String, Failure> {
    let memory = snapshot.memory()?;
    let users = snapshot.users();
    let inspected = InspectedSnapshot::new(snapshot, &memory, users.as_deref());
    if is_json {
        return Ok(answers::text(&inspected));
    }
    let manifest = snapshot.manifest();
    let of = &inspected.of;
    let what = match manifest.kind {
        Kind::Suspended => "suspended: nothing else has what this VM was",
        Kind::Snapshot => "snapshot: the VM ran on",
    };
    let limit = of
        .limit_bytes
        .map_or_else(|| "none".to_owned(), size_in_words);
    let mut lines = vec![
        ("what", what.to_owned()),
        (
            "vm",
            format!("{}, {} vCPU, engine {}", of.vm, of.vcpus, shown(of.engine)),
        ),
        (
            "made",
            format!("{}, by mother {}", made(of.made), shown(of.made_by)),
        ),
        (
            "memory",
            format!(
                "{}, of which {} are not zeros, in {}",
                size_in_words(of.memory_bytes),
                size_in_words(inspected.stored_bytes),
                size_in_words(inspected.memory_file_bytes)
            ),
        ),
        ("resident limit", limit),
    ];
    lines.extend(inspected.disks.iter().map(|it| ("disk", disk(it))));
    lines.extend(inspected.images.iter().map(|image| {
        let bytes = size_in_words(image.bytes);
        (image.role, format!("{}, {bytes}", shown(image.name)))
    }));
    let in_use = match inspected.processes {
        _ if !inspected.in_use => "nobody".to_owned(),
        [] => "processes that cannot be seen".to_owned(),
        processes => {
            let list: Vec<String> = processes.iter().map(u32::to_string).collect();
            format!("process {}", list.join(", "))
        }
    };
    lines.extend([
        ("id", of.id.to_owned()),
        ("used by", in_use),
        ("on the disk", size_in_words(inspected.disk_bytes)),
        ("folder", shown(&inspected.folder)),
    ]);
    let lines = lines
        .iter()
        .map(|(name, text)| format!("{name:<15} {text}\n"));
    Ok(lines.collect())
}

fn disk(disk: &SnapshotDisk<'_>) -> String {
    let whose = match (disk.file, disk.fingerprint) {
        (Some(_), _) if disk.how == "reflink" => {
            "its own, shares what is not written with the original".to_owned()
        }
        (Some(_), _) => "its own, a copy".to_owned(),
        (None, fingerprint) => {
            format!(
                "yours, where it is: {}",
                shown(fingerprint.unwrap_or_default())
            )
        }
    };
    let read_only = if disk.read_only { ", read only" } else { "" };
    let bytes = size_in_words(disk.size_bytes);
    format!(
        "{}, {}, {bytes}{read_only}; {whose}",
        disk.slot,
        shown(disk.format)
    )
}

/// What somebody else wrote, for a terminal.
fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

fn verify(shelf: &Shelf, names: &[String], is_json: bool) -> Result<u8, Failure> {
    each(names, is_json, |name| {
        let snapshot = shelf.open(name)?;
        let bytes = |steps: u64| steps.saturating_mul(CHUNK_BYTES as u64);
        let what = format!("verifying {}", shown(name));
        let mut progress = Measured::new(&what, bytes(snapshot.verify_steps()));
        snapshot.verify(&mut |done| {
            progress.show(bytes(done));
            ControlFlow::Continue(())
        })?;
        drop(progress);
        if !is_json {
            say(&format!("{}: whole\n", shown(name)))?;
        }
        Ok(())
    })
}

/// Does `act` for each name; what failed is said, and with `is_json` an object of each. The exit status is that of the
/// first that failed.
fn each(
    names: &[String],
    is_json: bool,
    mut act: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut status = 0;
    let mut verified = Vec::new();
    for name in names {
        let failure = act(name).err();
        if let Some(failure) = &failure {
            failure.print(false);
            status = if status == 0 {
                failure.status()
            } else {
                status
            };
        }
        verified.push(VerifiedSnapshot {
            name,
            whole: failure.is_none(),
            error: failure.as_ref().map(Failure::problem),
        });
    }
    if is_json {
        say(&answers::text(&verified))?;
    }
    Ok(status)
}

/// Removes each; those that cannot be removed keep nobody else.
fn remove(shelf: &Shelf, names: &[String], force: bool, is_json: bool) -> Result<u8, Failure> {
    let mut all = Freed::default();
    let mut failures = Vec::new();
    for name in names {
        match shelf.remove(name, force) {
            Ok(freed) => {
                all.names.extend(freed.names);
                all.bytes += freed.bytes;
            }
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    // One that was named alone failed as every command does.
    if names.len() == 1
        && let Some(failure) = failures.pop()
    {
        return Err(failure);
    }
    say(&freed(&all, is_json))?;
    for failure in &failures {
        failure.print(false);
    }
    Ok(failures.first().map_or(0, Failure::status))
}

fn freed(freed: &Freed, is_json: bool) -> String {
    if is_json {
        return answers::text(&FreedSnapshots {
            removed: &freed.names,
            freed_bytes: freed.bytes,
        });
    }
    let names = if freed.names.is_empty() {
        "no snapshot".to_owned()
    } else {
        freed.names.join(", ")
    };
    format!("removed {names}; {} freed\n", size_in_words(freed.bytes))
}

/// As programs read it.
fn problem(error: &SnapshotError) -> answers::Problem {
    answers::Problem {
        message: error.to_string(),
        causes: runner::causes(error),
        help: error.help(),
        complaints: Vec::new(),
        exit_status: if error.is_bad_input() {
            BAD_INPUT
        } else {
            OUR_FAULT
        },
    }
}
