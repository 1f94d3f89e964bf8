//! Going on from a snapshot.
//!
//! A VM that goes on where another one was has its identity: machine-id, host keys, and the state of the kernel's random
//! numbers. One that is suspended and brought back is the same machine. A second one beside it is a clone, and two clones
//! would deal the same secrets: none is made unless that is wished for in words.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use api::{DiskFormat, DiskSpec, EngineWish, NetSpec, VmName, VmOrigin, VmSpec};
use clap::Args;
use devices::virtio::blk::{ImageFormat, create_overlay};
use fleet::Inventory;
use images::{Cache, RunFolder};
use machine::{HostFindings, ImagePlan, RestorePlan, ResumeClock, VmPlan, plan};
use runner::{Guest, Held, Order, Outcome, Streams};
use snapshot::{Disk, DiskHow, ImageRole, Kind, Shelf, Snapshot};

use super::disks;
use super::ground::{self, Ground};
use super::identity;
use super::restored::Restored;
use super::take::Taking;
use crate::answers::{self, RestoredVm};
use crate::attend::say_ending;
use crate::failure::Failure;
use crate::observed;
use crate::output::say;
use crate::standing::{bring_passt, held};

/// `mother restore`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest goes on where it was, in the background; `mother console NAME` attaches to it. Its
memory stays in the snapshot until it is used, so the snapshot cannot be removed before the
VM has ended.

What was suspended is the same machine again. Whatever is brought back beside it, or from a
snapshot of a VM that ran on, is a clone. Guests that Mother makes, and kernels with the driver
for VMGenID, have random numbers of their own in each; others take --same-identity. Name, keys
and machine-id are the original's, unless --new-identity has the guest make new ones.

Examples:
  mother restore web
  mother restore before-upgrade --name web2 --new-identity
  mother restore job --count 8")]
pub struct RestoreArguments {
    /// Which snapshot, by its name or folder
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    #[command(flatten)]
    how: HowArguments,
}

/// `mother fork`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The VM stands still while it is written, and runs on; each fork goes on from the same
moment. They are clones of it: see `mother restore --help`.

Examples:
  mother fork job --count 4
  mother fork web --name web2 --new-identity")]
pub struct ForkArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    vm: String,
    /// Copy disks of your own where the file system cannot share them
    #[arg(long)]
    copy_disks: bool,
    #[command(flatten)]
    how: HowArguments,
}

#[derive(Clone, Debug, Args)]
struct HowArguments {
    /// What the VM is called [default: as it was]; several get a number behind it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    count: u32,
    /// Let it have the identity and the random numbers of a VM that may go on too
    #[arg(long)]
    same_identity: bool,
    /// Have its agent make a new hostname (the VM's name), machine-id, host keys and network address
    #[arg(long, conflicts_with = "same_identity")]
    new_identity: bool,
    /// Let the guest's time go on from the moment of the snapshot, and not from now
    #[arg(long)]
    frozen_clock: bool,
    /// What executes it: auto, kvm or soft
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineWish>,
    /// Say what was done as JSON: an array with an object for each VM
    #[arg(long)]
    json: bool,
}

/// Brings VMs back; the exit status.
pub fn restore(arguments: &RestoreArguments) -> Result<u8, Failure> {
    let shelf = Shelf::of_user()?;
    let snapshot = shelf.open(&arguments.snapshot)?;
    // Until this ends nobody else finds that it is the first.
    let mut restored = Restored::of(&shelf).map_err(Failure::SnapshotWrite)?;
    check_clone(&snapshot, &arguments.how, &restored)?;
    let went_on = || restored.add(snapshot.manifest());
    bring_back(&snapshot, &arguments.how, went_on)
}

/// Has VMs go on beside the one that runs; the exit status.
pub fn fork(arguments: &ForkArguments) -> Result<u8, Failure> {
    let taking = Taking {
        act: "fork",
        kind: Kind::Snapshot,
        copies_disks: arguments.copy_disks,
        needs_reseed: !arguments.how.same_identity,
        is_passing: true,
    };
    let id = snapshot::fresh_id().map_err(Failure::SnapshotWrite)?;
    let name = format!("fork-{}", &id[..12]);
    let taken = taking.take(&arguments.vm, Some(&name))?;
    // Who goes on from it has its files open; it goes with this process, however that ends.
    bring_back(taken.snapshot(), &arguments.how, || ())
}

/// Brings back as many VMs as are wanted; `went_on` is called for each that runs.
fn bring_back(
    snapshot: &Snapshot,
    how: &HowArguments,
    mut went_on: impl FnMut(),
) -> Result<u8, Failure> {
    let mut done = Vec::new();
    let mut status = 0;
    for number in 1..=how.count {
        let begun = Instant::now();
        let name = name(snapshot, how, number)?;
        match one(snapshot, how, name)? {
            Brought::Runs(name) => {
                went_on();
                if !how.json {
                    say(&format!("{name}\n"))?;
                }
                done.push(RestoredVm {
                    name,
                    snapshot: snapshot.name().to_owned(),
                    seconds: begun.elapsed().as_secs_f64(),
                });
            }
            Brought::Ended(ended) => {
                status = ended;
                break;
            }
        }
    }
    if how.json {
        say(&answers::text(&done))?;
    }
    Ok(status)
}

/// What the VM is called: as was asked for or as it was, with a number if there are several.
fn name(snapshot: &Snapshot, how: &HowArguments, number: u32) -> Result<VmName, Failure> {
    let base = how.name.as_deref().unwrap_or(&snapshot.manifest().vm);
    let checked = |text: &str| {
        VmName::new(text).map_err(|source| Failure::Name {
            name: text.to_owned(),
            source,
        })
    };
    if how.count > 1 {
        return checked(&format!("{base}-{number}"));
    }
    // A fork runs beside the one whose name it would have.
    let inventory = Inventory::of_user()?;
    let mut name = checked(base)?;
    let mut number = 2;
    while how.name.is_none() && inventory.is_running(&name)? {
        name = checked(&format!("{base}-{number}"))?;
        number += 1;
    }
    Ok(name)
}

/// What came of one.
enum Brought {
    Runs(String),
    /// It never ran, or ended at once; the exit status.
    Ended(u8),
}

fn one(snapshot: &Snapshot, how: &HowArguments, name: VmName) -> Result<Brought, Failure> {
    let order = order(snapshot, how, name.clone())?;
    let address = order.plan.network.as_ref().map(|it| it.mac.to_string());
    let mut running = runner::start(order, &Streams::default())?;
    running.wait_until_serving()?;
    let Some(ended) = running.wait_until_started()? else {
        if how.new_identity {
            identity::renew(&name, address.as_deref())?;
        }
        return Ok(Brought::Runs(running.name().to_owned()));
    };
    match ended.outcome {
        Outcome::Ran(ran) => Ok(Brought::Ended(say_ending(&ran))),
        Outcome::Failed(trouble) => Err(trouble.into()),
    }
}

fn order(snapshot: &Snapshot, how: &HowArguments, name: VmName) -> Result<Order, Failure> {
    let mut planned = planned(snapshot, how, name.clone())?;
    Ok(Order {
        symbols: observed::symbols_for(&mut planned.plan),
        name: Some(name),
        is_kept: true,
        is_detached: true,
        plan: planned.plan,
        guest: Guest::Commands { after: None },
        window: None,
        is_raw: false,
        report: None,
        origin: Some(planned.origin),
        held: planned.held,
    })
}

/// What is to run if a VM goes on from this snapshot; from then on whoever goes on from it is a clone.
pub fn order_from(
    snapshot: &str,
    wanted: Option<&VmName>,
    engine: Option<EngineWish>,
) -> Result<Order, Failure> {
    let how = HowArguments {
        name: wanted.map(ToString::to_string),
        count: 1,
        same_identity: false,
        new_identity: false,
        frozen_clock: false,
        engine,
        json: false,
    };
    let shelf = Shelf::of_user()?;
    let snapshot = shelf.open(snapshot)?;
    let mut restored = Restored::of(&shelf).map_err(Failure::SnapshotWrite)?;
    check_clone(&snapshot, &how, &restored)?;
    let name = name(&snapshot, &how, 1)?;
    let order = order(&snapshot, &how, name)?;
    restored.add(snapshot.manifest());
    Ok(order)
}

/// Refuses a clone whose random numbers would be the original's.
fn check_clone(
    snapshot: &Snapshot,
    how: &HowArguments,
    restored: &Restored,
) -> Result<(), Failure> {
    let is_clone = snapshot.manifest().kind == Kind::Snapshot
        || how.count > 1
        || restored.has(snapshot.manifest());
    if !is_clone || how.same_identity || ground(snapshot)?.reseeds {
        return Ok(());
    }
    Err(Failure::Clone {
        name: snapshot.name().to_owned(),
        why: None,
    })
}

/// What will be built, and what it stands on.
struct Planned {
    plan: VmPlan,
    origin: VmOrigin,
    held: Held,
}

fn planned(snapshot: &Snapshot, how: &HowArguments, name: VmName) -> Result<Planned, Failure> {
    let manifest = snapshot.manifest();
    let ground = ground(snapshot)?;
    let mut spec = ground.given;
    if let Some(NetSpec::Named(network)) = &spec.net
        && name.as_str() != manifest.vm
    {
        let snapshot = snapshot.name().to_owned();
        let network = network.to_string();
        let vm = manifest.vm.clone();
        return Err(Failure::Twin {
            snapshot,
            network,
            vm,
        });
    }
    spec.name = Some(name);
    spec.engine = how.engine.or(spec.engine);
    let run = Cache::of_user()?.run_folder()?;
    spec.kernel = Some(snapshot.path().join(ground::KERNEL));
    stand_on_disks(snapshot, &mut spec, &run)?;
    bring_passt(&mut spec)?;
    // All parts that are read as a whole are as they were written; memory is looked at piece by piece, as it is used.
    snapshot.checked_file("state")?;
    for image in &manifest.images {
        snapshot.checked_file(&image.file)?;
    }
    let host = HostFindings::for_spec(&spec);
    let mut plan = plan(&spec, &host)?;
    plan.modules = modules(snapshot, &ground.strings);
    let is_same =
        plan.memory_bytes == manifest.memory_bytes && plan.vcpu_count == manifest.vcpu_count;
    if !is_same {
        return Err(unusable(
            snapshot,
            "its memory and vCPUs are not those that it was asked for".to_owned(),
        ));
    }
    plan.restore = Some(RestorePlan {
        state: snapshot.path().join("state"),
        memory: snapshot.path().join("memory"),
        clock: if how.frozen_clock {
            ResumeClock::Frozen
        } else {
            ResumeClock::Host
        },
    });
    let mut held = held(run);
    held.locks.push(snapshot.hold()?.into());
    Ok(Planned {
        plan,
        origin: VmOrigin {
            words: ground.words,
            folder: ground.folder,
            asked: ground.asked,
            given: spec,
            boot: ground.boot,
        },
        held,
    })
}

/// What the VM was asked for.
fn ground(snapshot: &Snapshot) -> Result<Ground, Failure> {
    let read = serde_json::from_value(snapshot.manifest().spec.clone());
    read.map_err(|error| unusable(snapshot, format!("what the VM was asked for: {error}")))
}

fn unusable(snapshot: &Snapshot, what: String) -> Failure {
    Failure::Unusable {
        snapshot: snapshot.name().to_owned(),
        what,
    }
}

/// What is loaded beside the kernel, at the next reset.
fn modules(snapshot: &Snapshot, strings: &[String]) -> Vec<ImagePlan> {
    let modules = snapshot.manifest().images.iter();
    let modules = modules.filter(|image| image.role == ImageRole::Module);
    modules
        .zip(strings)
        .map(|(image, string)| ImagePlan {
            path: snapshot.path().join(&image.file),
            len_bytes: image.part.bytes,
            string: string.clone(),
        })
        .collect()
}

/// Gives the VM its disks: the user's own if nobody has written them since, and overlays or copies of those that are the
/// snapshot's, which itself is never written.
fn stand_on_disks(snapshot: &Snapshot, spec: &mut VmSpec, run: &RunFolder) -> Result<(), Failure> {
    if snapshot.manifest().disks.len() != spec.disks.len() {
        let what = "it has another number of disks than the VM was asked for".to_owned();
        return Err(unusable(snapshot, what));
    }
    for disk in &snapshot.manifest().disks {
        let slot = disk.slot as usize;
        let Some(wanted) = spec.disks.get_mut(slot) else {
            return Err(unusable(snapshot, format!("there is no disk {slot}")));
        };
        if let Some(fingerprint) = &disk.fingerprint {
            let stays = (disk.how == DiskHow::Own).then_some(&wanted.path);
            check_unchanged(snapshot, stays.into_iter().chain(&wanted.base), fingerprint)?;
        }
        if disk.how != DiskHow::Own {
            stand_on(snapshot, disk, wanted, run)?;
        }
    }
    Ok(())
}

/// Refuses disks that are not as they were when the guest had them.
fn check_unchanged<'a>(
    snapshot: &Snapshot,
    paths: impl Iterator<Item = &'a PathBuf>,
    fingerprint: &str,
) -> Result<(), Failure> {
    let mut files = Vec::new();
    let mut shown = Vec::new();
    for path in paths {
        let file = File::open(path).map_err(|error| {
            unusable(
                snapshot,
                format!("{}, which it stands on: {error}", path.display()),
            )
        })?;
        files.push(file);
        shown.push(path.display().to_string());
    }
    let found = disks::fingerprint(&files).map_err(Failure::SnapshotWrite)?;
    if found.as_deref() == Some(fingerprint) {
        return Ok(());
    }
    let what = format!(
        "{} has been written or replaced since, and its guest has the old one in mind",
        shown.join(" or ")
    );
    Err(unusable(snapshot, what))
}

/// Gives the VM a disk of its own that begins as the snapshot's.
fn stand_on(
    snapshot: &Snapshot,
    disk: &Disk,
    wanted: &mut DiskSpec,
    run: &RunFolder,
) -> Result<(), Failure> {
    let part = ground::disk(disk.slot as usize);
    let from = snapshot.file(&part)?;
    let own: PathBuf = run.path().join(format!("{part}.qcow2"));
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let file = options.open(&own).map_err(Failure::SnapshotWrite)?;
    if wanted.base.is_some() {
        // An overlay over an overlay is nothing that a VM stands on: what it has written is little, and is copied.
        disks::duplicate(&from, &file).map_err(Failure::SnapshotWrite)?;
        wanted.path = own;
        return Ok(());
    }
    let format = match disk.format.as_str() {
        "qcow2" => ImageFormat::Qcow2,
        _ => ImageFormat::Raw,
    };
    let base = snapshot.path().join(&part);
    create_overlay(file, &from, &base.to_string_lossy(), format, None)
        .map_err(|error| unusable(snapshot, error.to_string()))?;
    wanted.path = own;
    wanted.base = Some(base);
    wanted.format = Some(DiskFormat::Qcow2);
    wanted.base_format = Some(match format {
        ImageFormat::Qcow2 => DiskFormat::Qcow2,
        ImageFormat::Raw => DiskFormat::Raw,
    });
    Ok(())
}
