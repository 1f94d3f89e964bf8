//! Taking a snapshot.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::{LimitsSaid, VmName, VmOrigin};
use clap::Args;
use devices::virtio::blk::Head;
use fleet::{Client, ClientError, Inventory, OneVm, StateFiles, Vm};
use images::Cache;
use insight::Memory;
use insight::amounts::size_in_words;
use machine::{DiskPlan, VmPlan};
use serde::Deserialize;
use serde_json::value::RawValue;
use snapshot::{
    CHUNK_BYTES, CHUNK_PAGES, Disk, DiskHow, Draft, ImageRole, Kind, MANIFEST_FORMAT, Manifest,
    MemorySummary, MemoryWriter, PAGE_BYTES, Part, Shelf, Snapshot, Unnamed,
};
use watch::LiveMemory;
use x86::Gpa;

use super::still::Still;
use super::{disks, ground};
use crate::answers::{self, TakenDisk, TakenSnapshot};
use crate::daemon::declared_by_daemon;
use crate::failure::Failure;
use crate::observed;
use crate::output::say;
use crate::progress::Measured;
use crate::vm::orders::{check_alive, kill_one};
use crate::vm::rest::Rest;
use crate::vm::words::find;

/// `mother snapshot`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest stands still while its memory and disks are written, and goes on as it was, also
when this is killed. A snapshot has its name when it is complete.

What becomes of its disks: what a run has written over an image is copied; a disk of your
own is shared with its file where the file system can (btrfs, XFS), else it is copied only
with --copy-disks.

Examples:
  mother snapshot web
  mother snapshot web --to before-upgrade
  mother restore before-upgrade --name web2 --same-identity")]
pub struct SnapshotArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    to: ToArguments,
    /// Copy disks of your own where the file system cannot share them
    #[arg(long)]
    copy_disks: bool,
}

/// `mother suspend`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The VM ends without its guest noticing; `mother restore` has it go on. Disks of your own
stay where they are: nobody may write them meanwhile, and what was made for the run is kept
in the snapshot.

Examples:
  mother suspend web
  mother restore web")]
pub struct SuspendArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    to: ToArguments,
}

#[derive(Clone, Debug, Args)]
struct ToArguments {
    /// What the snapshot is called [default: as the VM, with a number if there is one]
    #[arg(long, value_name = "SNAPSHOT")]
    to: Option<String>,
    /// Say what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Writes a snapshot of a VM that runs on; the exit status.
pub fn snapshot(arguments: &SnapshotArguments) -> Result<u8, Failure> {
    let taking = Taking {
        act: "snapshot",
        kind: Kind::Snapshot,
        copies_disks: arguments.copy_disks,
        needs_reseed: false,
        is_passing: false,
    };
    let taken = taking.take(&arguments.name, arguments.to.to.as_deref())?;
    taken.tell(arguments.to.json)?;
    Ok(0)
}

/// Writes a snapshot of a VM and ends it; the exit status.
pub fn suspend(arguments: &SuspendArguments) -> Result<u8, Failure> {
    let taking = Taking {
        act: "suspend",
        kind: Kind::Suspended,
        copies_disks: false,
        needs_reseed: false,
        is_passing: false,
    };
    let taken = taking.take(&arguments.name, arguments.to.to.as_deref())?;
    taken.tell(arguments.to.json)?;
    Ok(0)
}

/// What is to be taken.
pub(super) struct Taking {
    pub(super) act: &'static str,
    pub(super) kind: Kind,
    pub(super) copies_disks: bool,
    /// What goes on from it are clones of a guest that must make its random numbers anew.
    pub(super) needs_reseed: bool,
    /// It gets no name, and is gone when this command ends.
    pub(super) is_passing: bool,
}

/// Where what was taken stays.
enum Place {
    Named(Snapshot),
    Passing(Unnamed),
}

/// What was taken.
pub(super) struct Taken {
    place: Place,
    vm: VmName,
    memory: MemorySummary,
    /// Each disk, and the bytes that its file takes.
    disks: Vec<(Disk, u64)>,
    rested: Duration,
    took: Duration,
}

/// What a VM's process says of itself; the state is nobody's but a machine's to read.
#[derive(Deserialize)]
struct Said<'a> {
    plan: VmPlan,
    disks: Vec<(u64, u64)>,
    limits: LimitsSaid,
    #[serde(borrow)]
    state: &'a RawValue,
}

/// What is written while the guest stands still.
struct Written {
    files: StateFiles,
    plan: VmPlan,
    state: Part,
    memory: MemorySummary,
    disks: Vec<(Disk, u64)>,
    limits: LimitsSaid,
}

impl Taking {
    /// Takes a snapshot of the VM of this name.
    pub(super) fn take(&self, name: &str, to: Option<&str>) -> Result<Taken, Failure> {
        let begun = Instant::now();
        let inventory = Inventory::of_user()?;
        let vm = find(&inventory, name)?;
        check_alive(&vm, self.act)?;
        let origin = self.origin(&inventory, &vm)?;
        let failed = |source| self.failed(&vm.name, source);
        let (one, mut client) = OneVm::connect(inventory.record(&vm.name)).map_err(failed)?;
        let info = client.status().map_err(failed)?.info;
        if self.kind == Kind::Suspended && declared_by_daemon(&vm.name).is_some() {
            let why = "it is declared to the daemon, which would start it anew".to_owned();
            let help = "`mother snapshot` writes it and lets it run; `mother delete` has the daemon forget it";
            return Err(self.not_now(&vm.name, why, help));
        }
        if info.program {
            let why =
                "its guest is one program, whose input and output belong to whoever started it";
            let help =
                "a VM with a console can be: one that is started with `-d`, or at a terminal";
            return Err(self.not_now(&vm.name, why.to_owned(), help));
        }
        let shelf = Shelf::of_user()?;
        let mut draft = begin(&shelf, to, &vm.name)?;
        let still = Still::hold(&one);
        // The first look at a kernel takes long; a guest that has an agent need not wait for it.
        let reseeds = still.is_ok() || observed::reseeds(&inventory, &vm.name)?;
        if self.needs_reseed && !reseeds {
            return Err(Failure::Clone {
                name: vm.name.to_string(),
                why: still.err().map(|error| error.to_string()),
            });
        }
        let rest = one.again().and_then(Rest::begin).map_err(failed)?;
        let written = self.write((&vm.name, &one), &mut client, &origin, &mut draft)?;
        let rested = match self.kind {
            Kind::Snapshot => {
                let rested = rest.end().map_err(failed)?;
                if let Some(Err(error)) = still.ok().map(Still::let_go) {
                    tracing::warn!("the guest's agent did not say that the guest goes on: {error}");
                }
                rested
            }
            Kind::Suspended => rest.so_far(),
        };
        let manifest = manifest(
            (self.kind, reseeds, &info.engine),
            &vm.name,
            &written,
            &origin,
            &mut draft,
        )?;
        let place = if self.is_passing {
            Place::Passing(draft.complete_unnamed(manifest)?)
        } else {
            Place::Named(draft.commit(manifest)?)
        };
        if self.kind == Kind::Suspended {
            // It still rests: what it was is on disk, and nothing of it has happened since.
            kill_one(&inventory, &vm)?;
        }
        Ok(Taken {
            place,
            vm: vm.name,
            memory: written.memory,
            disks: written.disks,
            rested,
            took: begun.elapsed(),
        })
    }

    fn origin(&self, inventory: &Inventory, vm: &Vm) -> Result<VmOrigin, Failure> {
        let origin = inventory.record(&vm.name).origin();
        origin.ok_or_else(|| {
            let why = "it is not known how it was started".to_owned();
            self.not_now(
                &vm.name,
                why,
                "start it with `mother run`; what that is told is kept",
            )
        })
    }

    fn failed(&self, name: &VmName, source: ClientError) -> Failure {
        Failure::Vm {
            act: self.act,
            name: name.clone(),
            source,
        }
    }

    fn not_now(&self, name: &VmName, why: String, help: &'static str) -> Failure {
        Failure::NotNow {
            act: self.act,
            name: name.clone(),
            why,
            help,
        }
    }

    /// Everything that has to be of one instant, while the guest rests.
    fn write(
        &self,
        (name, vm): (&VmName, &OneVm),
        client: &mut Client,
        origin: &VmOrigin,
        draft: &mut Draft,
    ) -> Result<Written, Failure> {
        let failed = |source| self.failed(name, source);
        let mut files = client.state().map_err(failed)?;
        let mut text = Vec::new();
        files
            .text
            .read_to_end(&mut text)
            .map_err(|error| failed(ClientError::Connection(error)))?;
        let said: Said<'_> =
            serde_json::from_slice(&text).map_err(|_| failed(ClientError::Strange))?;
        let books = client.books().map_err(failed)?;
        let opened = self.open_disks(name, &said)?;
        let runs = Runs::of(origin)?;
        self.check_room(
            name,
            &runs,
            draft,
            (&said.plan, &opened),
            books.memory.given_bytes,
        )?;
        let state = draft.write_part("state", said.state.get().as_bytes())?;
        let memory = self.write_memory(vm, client, name, draft)?;
        let disks = self.write_disks(&runs, draft, &said.plan, &opened)?;
        Ok(Written {
            files,
            plan: said.plan,
            state,
            memory,
            disks,
            limits: said.limits,
        })
    }

    /// The disks' files: those that the VM has, whatever has their names now.
    fn open_disks(&self, name: &VmName, said: &Said<'_>) -> Result<Vec<File>, Failure> {
        let mut opened = Vec::new();
        for (disk, id) in said.plan.disks.iter().zip(&said.disks) {
            let file = File::open(&disk.path);
            let found = file.as_ref().ok().and_then(|file| file.metadata().ok());
            let is_it = found.is_some_and(|found| (found.dev(), found.ino()) == *id);
            match file {
                Ok(file) if is_it => opened.push(file),
                _ => {
                    let path = disk.path.display();
                    let why = format!(
                        "{path} is not the file any more that it has as {}",
                        disk.name
                    );
                    let help = "put the file back in its place, or start the VM anew";
                    return Err(self.not_now(name, why, help));
                }
            }
        }
        Ok(opened)
    }

    /// How the snapshot will have a disk: what outlives a VM stays where it is when that is suspended, and always if nobody writes it.
    fn how(&self, runs: &Runs<'_>, disk: &DiskPlan) -> DiskHow {
        match self.kind {
            _ if disk.is_read_only && !runs.made(disk) => DiskHow::Own,
            Kind::Suspended if !runs.made(disk) => DiskHow::Own,
            Kind::Suspended | Kind::Snapshot => DiskHow::Copy,
        }
    }

    /// Refuses what has no room, and copies that nobody asked for, before anything is written.
    fn check_room(
        &self,
        name: &VmName,
        runs: &Runs<'_>,
        draft: &Draft,
        (plan, opened): (&VmPlan, &[File]),
        memory_bytes: u64,
    ) -> Result<(), Failure> {
        let mut needed = memory_bytes;
        for (disk, file) in plan.disks.iter().zip(opened) {
            if self.how(runs, disk) == DiskHow::Own || disks::is_free(file, draft.path()) {
                continue;
            }
            let bytes = file.metadata().map_or(0, |found| found.blocks() * 512);
            // What a run has written into an overlay is little, as a rule; what is suspended has to be kept.
            let is_runs = disk.base.is_some() || runs.made(disk);
            let is_little = is_runs && bytes <= disks::COPIED_BYTES_MAX;
            if self.kind == Kind::Snapshot && !self.copies_disks && !is_little {
                let why = format!(
                    "{} is a file of {} that this file system cannot share with a copy",
                    disk.path.display(),
                    size_in_words(bytes)
                );
                let help = "--copy-disks copies it while the guest stands still; `mother suspend` leaves it where it is";
                return Err(self.not_now(name, why, help));
            }
            needed += bytes;
        }
        let free = draft.free_bytes().unwrap_or(u64::MAX);
        if free < needed {
            let why = format!(
                "up to {} are needed in {}, where {} are free",
                size_in_words(needed),
                draft.path().parent().unwrap_or(draft.path()).display(),
                size_in_words(free)
            );
            let help = "make room: `mother snapshots` lists what is there; or set XDG_DATA_HOME to a folder that has it";
            return Err(self.not_now(name, why, help));
        }
        Ok(())
    }

    /// Memory, chunk by chunk: what lies with the pager is asked for and stays there.
    fn write_memory(
        &self,
        vm: &OneVm,
        client: &mut Client,
        name: &VmName,
        draft: &mut Draft,
    ) -> Result<MemorySummary, Failure> {
        let files = client
            .memory()
            .map_err(|source| self.failed(name, source))?;
        let slots = files.view.slots.clone();
        let len_bytes: u64 = slots.iter().map(|slot| slot.len_bytes).sum();
        let memory = LiveMemory::new(files, Some(vm.clone()));
        let file = draft.file("memory").map_err(Failure::SnapshotWrite)?;
        let page_count = len_bytes / PAGE_BYTES as u64;
        let mut writer = MemoryWriter::new(file, page_count).map_err(Failure::SnapshotWrite)?;
        let verb = if self.kind == Kind::Suspended {
            "suspending"
        } else {
            "writing"
        };
        let mut shown = Measured::new(&format!("{verb} {name}"), len_bytes);
        let mut bytes = vec![0; CHUNK_BYTES];
        for chunk in 0..page_count.div_ceil(CHUNK_PAGES) {
            let start = chunk * CHUNK_BYTES as u64;
            let len = CHUNK_BYTES.min((len_bytes - start) as usize);
            let read = read_chunk(&memory, &slots, start, &mut bytes[..len]);
            let has_data = read.map_err(|unreadable| {
                let help = "nothing of the snapshot was kept; the guest goes on";
                self.not_now(name, unreadable.to_string(), help)
            })?;
            if has_data {
                writer
                    .put(chunk, &bytes[..len])
                    .map_err(Failure::SnapshotWrite)?;
            }
            shown.show(start);
        }
        writer.finish().map_err(Failure::SnapshotWrite)
    }

    fn write_disks(
        &self,
        runs: &Runs<'_>,
        draft: &mut Draft,
        plan: &VmPlan,
        opened: &[File],
    ) -> Result<Vec<(Disk, u64)>, Failure> {
        let mut written = Vec::new();
        for (n, (disk, from)) in plan.disks.iter().zip(opened).enumerate() {
            let how = self.how(runs, disk);
            let mut entry = Disk {
                slot: n as u32,
                how,
                format: disk.format.to_string(),
                virtual_bytes: Head::read(from, Some(disk.format))
                    .map_or(0, |head| head.size_bytes),
                file: None,
                file_bytes: None,
                fingerprint: None,
                read_only: disk.is_read_only,
            };
            let base = disk.base.as_ref().map(|base| File::open(&base.path));
            let base = base.transpose().map_err(Failure::SnapshotWrite)?;
            let stays = (how == DiskHow::Own).then_some(from);
            let fingerprint = disks::fingerprint(stays.into_iter().chain(&base));
            entry.fingerprint = fingerprint.map_err(Failure::SnapshotWrite)?;
            let mut bytes = 0;
            if how != DiskHow::Own {
                let part = ground::disk(n);
                let to = draft.file(&part).map_err(Failure::SnapshotWrite)?;
                entry.how = disks::duplicate(from, &to).map_err(Failure::SnapshotWrite)?;
                entry.file = Some(part);
                let found = to.metadata().map_err(Failure::SnapshotWrite)?;
                entry.file_bytes = Some(found.len());
                bytes = found.blocks() * 512;
            }
            written.push((entry, bytes));
        }
        Ok(written)
    }
}

/// Which disks were made for the run of a VM and go with it.
struct Runs<'a> {
    cache: Cache,
    origin: &'a VmOrigin,
}

impl Runs<'_> {
    fn of(origin: &VmOrigin) -> Result<Runs<'_>, Failure> {
        Ok(Runs {
            cache: Cache::of_user()?,
            origin,
        })
    }

    fn made(&self, disk: &DiskPlan) -> bool {
        self.cache.is_of_a_run(&self.origin.folder.join(&disk.path))
    }
}

/// A draft under the name that was asked for, or the first one that is free.
fn begin(shelf: &Shelf, to: Option<&str>, vm: &VmName) -> Result<Draft, Failure> {
    if let Some(name) = to {
        return Ok(shelf.begin(name)?);
    }
    let mut number = 1;
    loop {
        let name = match number {
            1 => vm.to_string(),
            number => format!("{vm}-{number}"),
        };
        match shelf.begin(&name) {
            Err(snapshot::SnapshotError::Taken(_)) => number += 1,
            begun => return Ok(begun?),
        }
    }
}

/// Reads a chunk of the memory file; false if the guest was given none of it.
fn read_chunk(
    memory: &LiveMemory,
    slots: &[api::SlotView],
    start: u64,
    bytes: &mut [u8],
) -> Result<bool, insight::Unreadable> {
    let end = start + bytes.len() as u64;
    let mut has_data = false;
    for slot in slots {
        let from = start.max(slot.file_offset);
        let to = end.min(slot.file_offset + slot.len_bytes);
        if from >= to {
            continue;
        }
        let gpa = Gpa(slot.gpa + (from - slot.file_offset));
        let part = &mut bytes[(from - start) as usize..(to - start) as usize];
        let is_there = memory
            .next_data(gpa)
            .is_some_and(|data| data.0 < gpa.0 + (to - from));
        if is_there {
            memory.read(gpa, part)?;
            has_data = true;
        } else {
            part.fill(0);
        }
    }
    Ok(has_data)
}

fn manifest(
    (kind, reseeds, engine): (Kind, bool, &str),
    vm: &VmName,
    written: &Written,
    origin: &VmOrigin,
    draft: &mut Draft,
) -> Result<Manifest, Failure> {
    let plan = &written.plan;
    let mut images = Vec::new();
    let kernel_name = file_name(&plan.kernel.path);
    images.push(draft.add_image(ImageRole::Kernel, &kernel_name, &written.files.kernel)?);
    let mut strings = Vec::new();
    for (module, file) in plan.modules.iter().zip(&written.files.modules) {
        images.push(draft.add_image(ImageRole::Module, &file_name(&module.path), file)?);
        strings.push(module.string.clone());
    }
    let ground = ground::of(
        origin,
        (&written.limits, plan.memory_bytes),
        strings,
        reseeds,
    );
    let made_at = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Manifest {
        format: MANIFEST_FORMAT,
        made_by: env!("MOTHER_VERSION").to_owned(),
        made_at: made_at.unwrap_or_default().as_secs_f64(),
        id: snapshot::fresh_id().map_err(Failure::SnapshotWrite)?,
        kind,
        vm: vm.to_string(),
        memory_bytes: plan.memory_bytes,
        vcpu_count: plan.vcpu_count,
        engine: engine.to_owned(),
        limit_bytes: written.limits.resident_bytes,
        spec: serde_json::to_value(&ground).expect("a description is text"),
        state: written.state.clone(),
        memory: written.memory.part(),
        images,
        disks: written.disks.iter().map(|(disk, _)| disk.clone()).collect(),
    })
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

impl Taken {
    pub(super) fn snapshot(&self) -> &Snapshot {
        match &self.place {
            Place::Named(snapshot) => snapshot,
            Place::Passing(unnamed) => unnamed.snapshot(),
        }
    }

    fn tell(&self, is_json: bool) -> Result<(), Failure> {
        let name = self.snapshot().name();
        let path: PathBuf = self.snapshot().path().to_owned();
        if is_json {
            let disk = |(disk, bytes): &(Disk, u64)| TakenDisk {
                slot: disk.slot,
                how: match disk.how {
                    DiskHow::Reflink => "reflink",
                    DiskHow::Copy => "copy",
                    DiskHow::Own => "own",
                },
                bytes: *bytes,
            };
            return say(&answers::text(&TakenSnapshot {
                snapshot: name,
                vm: &self.vm,
                path: &path.display().to_string(),
                memory_bytes: self.snapshot().manifest().memory_bytes,
                stored_bytes: self.memory.file_bytes,
                rested_seconds: self.rested.as_secs_f64(),
                seconds: self.took.as_secs_f64(),
                disks: self.disks.iter().map(disk).collect(),
            }));
        }
        let mut text = format!(
            "{name}: {} of memory in {}; the guest stood still for {:.2} s\n",
            size_in_words(self.snapshot().manifest().memory_bytes),
            size_in_words(self.memory.file_bytes),
            self.rested.as_secs_f64()
        );
        for (disk, bytes) in &self.disks {
            text.push_str(&format!("{}\n", disks::words(disk, *bytes)));
        }
        say(&text)
    }
}
