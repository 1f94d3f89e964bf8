//! `mother dump`: a guest's memory and registers in a file that other tools open.
//!
//! The guest stands still meanwhile: the VM's process is asked for that on a connection of its own, and lets the guest go on
//! when this ends, however we end. What needs time and no rest, as finding the kernel, comes before.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::VmName;
use clap::Args;
use fleet::{Client, ClientError, Inventory, Record};
use insight::amounts::size_in_words;
use insight::{Kernel, Look};
use watch::dump::{self, DumpError, DumpFormat, Dumped, DumpedKernel, Guest, HoleFile, Pipe};
use watch::{Observer, Snapshot};

use super::foreign::{self, Target};
use super::observe::cache;
use super::orders::check_alive;
use super::rest::Rest;
use super::words::{find, printable};
use crate::answers::{self, DumpedVm};
use crate::failure::Failure;
use crate::observed::Observation;
use crate::output::{is_shown, say, standard_output};
use crate::progress::Measured;
use crate::whole_file::{Opened, WholeFile};

const ACT: &str = "dump";

/// `mother dump`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest stands still for the time of the dump and goes on as it was, also when this is
killed. FILE has its name when it is complete, and is for its owner's eyes: it has all that
is in the guest's memory. Pages that are paged out are in it, and stay where they are.

Which tool opens what: docs/dump.md. What Volatility needs beside it: `mother profile`.

Examples:
  mother dump web -o web.core
  mother dump web --kdump -o web.kdump
  mother dump web --lime -o - | ssh elsewhere 'cat > web.lime'
  mother dump qemu:db -o db.core  a VM that somebody else runs, and that runs on meanwhile")]
pub struct DumpArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to write it; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    format: FormatArguments,
    /// Let the guest run on: what is read first and what is read last are not of one moment
    #[arg(long)]
    live: bool,
    /// Replace FILE
    #[arg(long)]
    force: bool,
    /// Say what was done as JSON
    #[arg(long)]
    json: bool,
}

impl DumpArguments {
    /// The guest whose memory this reads, and the file that it writes.
    pub fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        let Some(observation) = foreign::looks_into_named(&self.name)? else {
            return Ok(None);
        };
        let file = Some(&self.output).filter(|path| *path != Path::new("-"));
        let file = file.map(|path| Opened::create(path, self.force));
        Ok(Some(Observation {
            output: file.transpose()?,
            ..observation
        }))
    }
}

/// At most one of them.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
struct FormatArguments {
    /// As /proc/vmcore: for crash, drgn, gdb, makedumpfile, Volatility; this one if none is named
    #[arg(long)]
    elf: bool,
    /// As makedumpfile writes, compressed and without pages of zeros: for crash, drgn, makedumpfile
    #[arg(long)]
    kdump: bool,
    /// Memory from address 0 on, without registers
    #[arg(long)]
    raw: bool,
    /// As LiME writes, without registers: for Volatility
    #[arg(long)]
    lime: bool,
}

impl FormatArguments {
    fn format(&self) -> DumpFormat {
        match self {
            FormatArguments { kdump: true, .. } => DumpFormat::Kdump,
            FormatArguments { raw: true, .. } => DumpFormat::Raw,
            FormatArguments { lime: true, .. } => DumpFormat::Lime,
            _ => DumpFormat::Elf,
        }
    }
}

/// Writes the dump; the exit status.
pub fn dump(arguments: &DumpArguments) -> Result<u8, Failure> {
    let format = arguments.format.format();
    let is_pipe = arguments.output == Path::new("-");
    if is_pipe {
        check_pipe(arguments, format)?;
    }
    let taking = taking(arguments)?;
    let target = if is_pipe {
        None
    } else {
        Some(WholeFile::create(&arguments.output, arguments.force)?)
    };
    let about = |failure: Failure| failure.about_file(&arguments.output, is_pipe);
    let taken = match target {
        None => {
            let stdout = standard_output().map_err(Failure::Output)?;
            let mut pipe = Pipe(stdout);
            let taken = taking.take(&mut |guest, progress| {
                dump::write_in_order(guest, format, &mut pipe, progress)
            });
            taken.map_err(about)?
        }
        Some((whole, file)) => {
            let mut holes = HoleFile::new(file);
            let taken = taking
                .take(&mut |guest, progress| dump::write(guest, format, &mut holes, progress));
            let taken = taken.map_err(about)?;
            let finished = holes.finish().map_err(Failure::DumpWrite);
            let file = finished.map_err(about)?;
            whole.keep(&file)?;
            Taken {
                file: file.metadata().ok().map(|it| (it.len(), it.blocks() * 512)),
                ..taken
            }
        }
    };
    tell(arguments, format, &taken)
}

/// Who is to be dumped.
fn taking(arguments: &DumpArguments) -> Result<Whom, Failure> {
    if let Some(target) = Target::named(&arguments.name) {
        return Ok(Whom::Other(target));
    }
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.name)?;
    check_alive(&vm, ACT)?;
    Ok(Whom::Own(Taking {
        record: inventory.record(&vm.name),
        name: vm.name,
        is_torn: arguments.live,
    }))
}

/// A VM of Mother's, or another.
enum Whom {
    Own(Taking),
    Other(Target),
}

impl Whom {
    fn take(&self, write: Write<'_>) -> Result<Taken, Failure> {
        match self {
            Whom::Own(taking) => taking.take(write),
            Whom::Other(target) => take_other(target, write),
        }
    }
}

/// One that Mother does not run goes on while it is dumped, unless its own hypervisor has paused it.
fn take_other(target: &Target, write: Write<'_>) -> Result<Taken, Failure> {
    let begun = Instant::now();
    let (found, is_paused) = foreign::to_dump(target)?;
    let memory = &found.memory;
    let kernel = of_kernel(&found.kernel, &found.look(&found.kernel.account()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let name = target.what();
    let guest = Guest {
        memory: &**memory,
        vcpus: &[],
        kernel: Some(&kernel),
        name: &name,
        taken_at: now.unwrap_or_default(),
        is_torn: !is_paused,
    };
    let extents = memory.extents();
    let bytes = extents.iter().map(|extent| extent.len_bytes).sum();
    let mut shown = Measured::new(&format!("dumping {name}"), bytes);
    let dumped = write(&guest, &mut |done| shown.show(done)).map_err(|error| match error {
        DumpError::Write(source) => Failure::DumpWrite(source),
        DumpError::Read(unreadable) => target.failed(unreadable.to_string(), None, false),
    })?;
    Ok(Taken {
        dumped,
        kernel: Ok(kernel),
        rested: is_paused.then(|| begun.elapsed()),
        vcpu_count: 0,
        took: begun.elapsed(),
        file: None,
    })
}

/// Bytes of a dump have no place among words.
fn check_pipe(arguments: &DumpArguments, format: DumpFormat) -> Result<(), Failure> {
    let why = if !format.is_for_pipes() {
        "this format is not written from front to back; write it to a file"
    } else if arguments.json {
        "standard output is to have the dump, and --json an answer there; take one of them"
    } else if is_shown() {
        "a terminal shows no dump; pipe it, or name a file"
    } else {
        return Ok(());
    };
    Err(Failure::NoPipe(why))
}

/// A dump that is being taken.
struct Taking {
    name: VmName,
    record: Record,
    is_torn: bool,
}

/// One that was.
struct Taken {
    dumped: Dumped,
    kernel: Result<DumpedKernel, String>,
    /// How long the guest stood still.
    rested: Option<Duration>,
    vcpu_count: usize,
    took: Duration,
    /// Bytes of the file, and what it takes of its disk.
    file: Option<(u64, u64)>,
}

type Write<'a> = &'a mut dyn FnMut(&Guest<'_>, &mut dyn FnMut(u64)) -> Result<Dumped, DumpError>;

impl Taking {
    fn failed(&self, source: ClientError) -> Failure {
        Failure::Vm {
            act: ACT,
            name: self.name.clone(),
            source,
        }
    }

    fn take(&self, write: Write<'_>) -> Result<Taken, Failure> {
        let begun = Instant::now();
        let failed = |source| self.failed(source);
        let connected = Observer::connect(self.record.clone(), cache());
        let mut observer = connected.map_err(failed)?;
        // The first look at a kernel takes long; the guest need not wait for it.
        let life = observer.observe().map_err(failed)?.books.life;
        let rest = match self.is_torn {
            true => None,
            false => Some(
                Client::connect(&self.record)
                    .and_then(Rest::begin)
                    .map_err(failed)?,
            ),
        };
        let snapshot = observer.observe().map_err(failed)?;
        let kernel = known(&snapshot);
        let vcpu_count = snapshot.vcpus.len();
        let dumped = self.write(&snapshot, kernel.as_ref().ok(), write)?;
        drop(snapshot);
        let rested = match rest {
            Some(rest) => Some(rest.end().map_err(|source| self.went_on(source))?),
            None => {
                // What was read of a life that is over is of none.
                let now = observer.observe().map_err(failed)?.books.life;
                if now != life {
                    return Err(self.not_now("the guest started again meanwhile"));
                }
                None
            }
        };
        Ok(Taken {
            dumped,
            kernel,
            rested,
            vcpu_count,
            took: begun.elapsed(),
            file: None,
        })
    }

    fn write(
        &self,
        snapshot: &Snapshot<'_>,
        kernel: Option<&DumpedKernel>,
        write: Write<'_>,
    ) -> Result<Dumped, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let guest = Guest {
            memory: snapshot.memory,
            vcpus: &snapshot.vcpus,
            kernel,
            name: self.name.as_str(),
            taken_at: now.unwrap_or_default(),
            is_torn: self.is_torn,
        };
        let mut shown = Measured::new(
            &format!("dumping {}", self.name),
            snapshot.books.memory.configured_bytes,
        );
        write(&guest, &mut |done| shown.show(done)).map_err(|error| match error {
            DumpError::Write(source) => Failure::DumpWrite(source),
            DumpError::Read(unreadable) => self.not_now(&unreadable.to_string()),
        })
    }

    /// The guest did not stand still to the end.
    fn went_on(&self, source: ClientError) -> Failure {
        match source {
            ClientError::Connection(_) => self.not_now("it ended meanwhile"),
            ClientError::Refused { message, .. } => self.not_now(&message),
            ClientError::Strange => self.failed(ClientError::Strange),
        }
    }

    fn not_now(&self, why: &str) -> Failure {
        Failure::NotNow {
            act: ACT,
            name: self.name.clone(),
            why: why.to_owned(),
            help: "nothing of the dump was kept; try again while nobody else stops it or has it go on",
        }
    }
}

/// What a dump says of the kernel, or why it is not known.
fn known(snapshot: &Snapshot<'_>) -> Result<DumpedKernel, String> {
    let kernel: &Kernel = snapshot.kernel.map_err(ToString::to_string)?;
    let account = kernel.account();
    Ok(of_kernel(
        kernel,
        &kernel.look(&account, &snapshot.registers),
    ))
}

fn of_kernel(kernel: &Kernel, look: &Look<'_>) -> DumpedKernel {
    DumpedKernel {
        release: kernel.release().to_owned(),
        version: kernel.version().to_owned(),
        hostname: look.system().hostname.into_value(),
        vmcoreinfo: kernel.vmcoreinfo().map(|info| info.text().to_owned()),
        image: kernel.placement().ok(),
        direct_map: look.direct_map().ok(),
        phys_base: kernel.phys_base(),
    }
}

fn tell(arguments: &DumpArguments, format: DumpFormat, taken: &Taken) -> Result<u8, Failure> {
    let file = arguments.output.display().to_string();
    if arguments.json {
        say(&answers::text(&answer(
            &arguments.name,
            format,
            &file,
            taken,
        )))?;
        return Ok(0);
    }
    let mut text = format!("{file}: {}\n", sentence(taken));
    if let Err(why) = &taken.kernel {
        let why = printable(why);
        text.push_str(&format!(
            "without what its kernel would say of itself: {why}\n"
        ));
    } else if format.has_notes() && !taken.has_vmcoreinfo() {
        text.push_str("without VMCOREINFO: the guest's kernel has none\n");
    }
    if arguments.output == Path::new("-") {
        eprint!("{text}");
    } else {
        say(&text)?;
    }
    Ok(0)
}

fn sentence(taken: &Taken) -> String {
    let Dumped {
        memory_bytes,
        data_bytes,
    } = taken.dumped;
    let memory = size_in_words(memory_bytes);
    let data = size_in_words(data_bytes);
    let disk = taken.file.map_or_else(String::new, |(_, disk)| {
        format!(", {} on disk", size_in_words(disk))
    });
    let rest = match taken.rested {
        Some(rested) => format!("the guest stood still for {:.1} s", rested.as_secs_f64()),
        None => "TORN: the guest ran on, and its parts are not of one moment".to_owned(),
    };
    format!("{memory} of memory, {data} of it not zero{disk}; {rest}")
}

impl Taken {
    fn has_vmcoreinfo(&self) -> bool {
        matches!(&self.kernel, Ok(kernel) if kernel.vmcoreinfo.is_some())
    }
}

fn answer<'a>(name: &'a str, format: DumpFormat, file: &'a str, taken: &'a Taken) -> DumpedVm<'a> {
    let kernel = taken.kernel.as_ref();
    DumpedVm {
        name,
        file,
        format: format.as_str(),
        torn: taken.rested.is_none(),
        rested_seconds: taken.rested.map(|rested| rested.as_secs_f64()),
        seconds: taken.took.as_secs_f64(),
        memory_bytes: taken.dumped.memory_bytes,
        data_bytes: taken.dumped.data_bytes,
        file_bytes: taken.file.map(|(len, _)| len),
        disk_bytes: taken.file.map(|(_, disk)| disk),
        vcpus: taken.vcpu_count,
        release: kernel.ok().map(|kernel| kernel.release.as_str()),
        vmcoreinfo: taken.has_vmcoreinfo(),
        why_not: kernel.err().map(String::as_str),
    }
}
