//! What went wrong, as a person reads it: what failed, on what, why, and what to do.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api::{NameError, VmName};
use devices::virtio::blk::OverlayError;
use fleet::{ClientError, InventoryError};
use images::{
    AppImageError, BootError, CacheError, ContainerError, DebianError, FileError, StoreError,
};
use machine::SpecErrors;
use policy::PolicyError;
use registry::{BadReference, RegistryError};
use runner::{CLOSED_PIPE, Trouble};
use snapshot::SnapshotError;
use thiserror::Error;

use crate::answers::{self, Failed, Problem};
use crate::exit_status::BAD_INPUT;
pub use crate::exit_status::{ANSWER_IS_NO, BLIND, OUR_FAULT};
use crate::{hints, room};

/// Why the command did not do what it should.
#[derive(Debug, Error)]
pub enum Failure {
    /// The spec is wrong.
    #[error(transparent)]
    Spec(#[from] SpecErrors),
    /// What is to change of a VM is wrong.
    #[error("cannot update VM \"{}\"{}", .0.name.escape_debug(), .0.lines())]
    Update(SpecErrors),
    /// There is no default guest.
    #[error("cannot get the default guest")]
    Guest(#[source] CacheError),
    /// There is no place for what is fetched and made.
    #[error("cannot keep images and guests anywhere")]
    NoCache(#[source] CacheError),
    /// A file of the cache.
    #[error("cannot prepare the guest")]
    File(#[from] FileError),
    /// The program cannot be a guest.
    #[error("cannot make a guest of the program")]
    App(#[from] AppImageError),
    /// There is no program for the guest's network.
    #[error("cannot get passt, which carries the guest's network")]
    Passt(#[source] CacheError),
    /// The image cannot be run.
    #[error(transparent)]
    Image(#[from] ImageFailure),
    /// A snapshot, or the place of all of them.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The VM did not run to an end.
    #[error(transparent)]
    Run(#[from] Trouble),
    /// The terminal does not obey.
    #[error("cannot {act} the terminal")]
    Terminal {
        /// The verb.
        act: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// Signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// Standard input cannot be read beside the guest.
    #[error("cannot start the thread that reads standard input")]
    Input(#[source] io::Error),
    /// Standard output does not take what we have to say.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// There is no inventory of VMs, or not such a VM in it.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// What was typed is no name.
    #[error("\"{}\" cannot be the name of a VM", .name.escape_debug())]
    Name {
        /// What was typed.
        name: String,
        /// What is wrong with the name.
        source: NameError,
    },
    /// A VM does not do what it was asked.
    #[error("cannot {act} VM \"{name}\"")]
    Vm {
        /// The verb.
        act: &'static str,
        /// The VM.
        name: VmName,
        /// What the connection came to.
        source: ClientError,
    },
    /// A VM is not in a state for that.
    #[error("cannot {act} VM \"{name}\": {why}")]
    NotNow {
        /// The verb.
        act: &'static str,
        /// The VM.
        name: VmName,
        /// The reason, as a sentence without its end.
        why: String,
        /// What to do.
        help: &'static str,
    },
    /// Words with which a guest cannot be asked for that.
    #[error("cannot {act}: {what}")]
    BadWord {
        /// The verb.
        act: &'static str,
        /// What is wrong.
        what: String,
        /// What to write.
        help: &'static str,
    },
    /// An amount that the VM cannot have.
    #[error("cannot {act} VM \"{name}\": {why}")]
    BadAmount {
        /// The verb.
        act: &'static str,
        /// The VM.
        name: VmName,
        /// The reason, as a sentence without its end.
        why: String,
    },
    /// The process that a VM was to be could not be started.
    #[error("cannot {act} a process for the VM")]
    Detach {
        /// The verb.
        act: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// Who starts commands for a service does not.
    #[error("cannot have the command started by {}", .socket.display())]
    Elsewhere {
        /// Where it was asked.
        socket: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A file of policies, or of what was recorded, cannot be read.
    #[error("cannot read {}", .path.display())]
    PolicyFile {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// What was read is no policy.
    #[error("the policy \"{}\" cannot be followed", .name.escape_debug())]
    Policy {
        /// What was typed.
        name: String,
        /// Everything that is wrong with it.
        source: PolicyError,
    },
    /// What was recorded cannot be understood.
    #[error("line {line} of {} is no event: {why}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Decisions cannot be written down.
    #[error("cannot write decisions to {}, and so nothing more is decided", .path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There is no place for the journal.
    #[error("there is no place to keep decisions: neither XDG_STATE_HOME nor HOME is set")]
    NoState,
    /// There is no such user, or none of whom VMs can be seen.
    #[error("no VMs of a user \"{}\" can be seen", .0.escape_debug())]
    NoUser(String),
    /// A VM would belong to whoever starts it.
    #[error("a VM is started by the user whose it is")]
    NotForOthers,
    /// A file that a command is to write.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A dump cannot be written to wherever it goes.
    #[error("cannot write the dump")]
    DumpWrite(#[source] io::Error),
    /// A file of a snapshot, or a disk of a VM that goes on from one, cannot be written.
    #[error("cannot write what belongs to the snapshot")]
    SnapshotWrite(#[source] io::Error),
    /// A snapshot that nobody goes on from.
    #[error("cannot go on from snapshot \"{snapshot}\": {what}")]
    Unusable {
        /// Which.
        snapshot: String,
        /// What is in the way.
        what: String,
    },
    /// Two machines with one identity, without that being wished for.
    #[error(
        "cannot go on from \"{name}\" a second time: its guest would be a clone, with the same identity and the same random numbers{}",
        .why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
    )]
    Clone {
        /// The snapshot or the VM.
        name: String,
        /// Why its agent did not hold it still, if that is known.
        why: Option<String>,
    },
    /// Two cards with one address on one network.
    #[error(
        "cannot go on from \"{snapshot}\" under another name: its guest has the card and the address of VM \"{vm}\" on the network \"{network}\""
    )]
    Twin {
        /// The snapshot.
        snapshot: String,
        /// The network between VMs.
        network: String,
        /// Whose they are.
        vm: String,
    },
    /// There is something where a file is to be.
    #[error("there is a file {} already", .0.display())]
    Exists(PathBuf),
    /// What is there is not replaced.
    #[error("{} is no plain file, and what is there is not replaced", .0.display())]
    NoPlainFile(PathBuf),
    /// Standard output cannot have what is to be written.
    #[error("cannot write to standard output: {0}")]
    NoPipe(&'static str),
    /// There is no place for what the daemon must not forget.
    #[error(
        "there is no place for what the daemon must not forget: neither XDG_STATE_HOME nor HOME is set"
    )]
    NoServeState,
    /// The daemon cannot begin, or go on.
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    /// Nothing can be sent to the collector that is named.
    #[error("cannot send numbers and events to a collector")]
    Collector(#[source] serve::PostError),
    /// A variable of the environment says nothing that can be used.
    #[error("{name} is \"{}\", which is not {wanted}", .text.escape_debug())]
    BadVariable {
        /// The variable.
        name: &'static str,
        /// What it is.
        text: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// The daemon does not answer, or says no.
    #[error(transparent)]
    Daemon(#[from] serve::ClientError),
    /// A file that is to be applied cannot be read.
    #[error("cannot read {}", .path.display())]
    Applied {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A file that is to be applied says nothing that can be.
    #[error("cannot apply {}", .path.display())]
    BadApplied {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BadApplied,
    },
    /// A declaration was not edited.
    #[error("cannot edit the declaration: {0}")]
    Edit(String),
    /// Nobody is called so.
    #[error("there is no token \"{}\"", .0.escape_debug())]
    NoSuchToken(String),
    /// Another host is not written as one.
    #[error("\"{}\" is no host: {what}", .url.escape_debug())]
    BadHost {
        /// What was written.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// Another host is named, and something that it takes is not.
    #[error("{0} is not set, which another host is asked with")]
    NoHostVariable(&'static str),
    /// A guest that Mother does not run, or a file with a guest's memory.
    #[error("cannot {act} {what}")]
    Foreign {
        /// The verb.
        act: &'static str,
        /// Which.
        what: String,
        /// What is in the way.
        source: ForeignFailure,
    },
    /// The VM's log cannot be read.
    #[error("cannot read the log of VM \"{name}\"")]
    Log {
        /// The VM.
        name: VmName,
        /// What the host said.
        source: io::Error,
    },
}

/// What to do about a collector that nothing can be sent to.
fn collectors_help(error: &serve::PostError) -> &'static str {
    match error {
        serve::PostError::Place(_) => {
            "`mother serve --otlp http://localhost:4318` is where a collector on this host listens"
        }
        _ => "OTEL_EXPORTER_OTLP_CERTIFICATE names a PEM file of the certificates that are trusted",
    }
}

/// What is wrong with a file that is to be applied.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct BadApplied(pub String);

/// What is in the way of looking at a guest that Mother does not run.
#[derive(Debug, Error)]
#[error("{why}")]
pub struct ForeignFailure {
    /// The reason, as a sentence without its end.
    pub why: String,
    /// What to do.
    pub help: Option<String>,
    /// Whether what was named is wrong, and not the host.
    pub is_bad_input: bool,
}

/// Why an image cannot be run, made or removed.
#[derive(Debug, Error)]
pub enum ImageFailure {
    /// The word means nothing.
    #[error("there is no image \"{}\"", .0.escape_debug())]
    Unknown(String),
    /// A Debian was not made.
    #[error("cannot make the Debian image")]
    Debian(#[source] DebianError),
    /// A container image is none, or cannot be unpacked.
    #[error("cannot use the container image {}", .path.display())]
    Container {
        /// The folder or archive.
        path: PathBuf,
        /// What is wrong with the image.
        source: ContainerError,
    },
    /// An image does not come from its registry.
    #[error("cannot pull \"{}\"", .name.escape_debug())]
    Registry {
        /// What was asked for, in full.
        name: String,
        /// Why not.
        source: RegistryError,
    },
    /// What was typed is no name in a registry.
    #[error("cannot pull \"{}\"", .0.name.escape_debug())]
    BadReference(#[source] BadReference),
    /// An image of a registry cannot be unpacked.
    #[error("cannot use the image {name}")]
    Pulled {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: ContainerError,
    },
    /// A disk that says nowhere how it is started.
    #[error("cannot start from the disk {}", .path.display())]
    Boot {
        /// The disk's image.
        path: PathBuf,
        /// What was found, or not found.
        source: BootError,
    },
    /// Names and folders of images.
    #[error(transparent)]
    Store(StoreError),
    /// A file of the user's.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The overlay.
    #[error("cannot make the run's overlay")]
    Overlay(#[source] OverlayError),
    /// Words for a program, and no program.
    #[error("{0} runs no single program that arguments could be for")]
    NoCommand(String),
    /// The container image does not say what to run.
    #[error("{0} does not say what to run")]
    CommandMissing(String),
    /// A disk is to be started, and the image brings a kernel of its own.
    #[error("{0} is started by a kernel of its own, and a disk says `boot`")]
    OwnKernel(String),
    /// A disk has a system and no boot entry, and our initrd would not find it.
    #[error(
        "{} has a system and no boot entry, and is found by the serial number \"root\", which it does not have", .0.display()
    )]
    Unfound(PathBuf),
    /// An own disk is written as it is.
    #[error("what is written to a disk of yours stays there anyway; --keep is for images")]
    KeepDisk,
    /// The image is a kept one, and `--keep` names another.
    #[error("\"{0}\" is kept already, and what it writes stays there")]
    AlreadyKept(String),
    /// The name lies over something else.
    #[error("\"{name}\" is kept over {over}, not over {asked}")]
    OtherBase {
        /// What is kept.
        name: String,
        /// What it lies over.
        over: String,
        /// What was asked for.
        asked: String,
    },
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Failure {
        match error {
            CacheError::NoFolder => Failure::NoCache(error),
            other => Failure::Guest(other),
        }
    }
}

impl ImageFailure {
    /// Whether what was asked for is wrong, and not the host.
    fn is_bad_input(&self) -> bool {
        match self {
            ImageFailure::Debian(_) | ImageFailure::Overlay(_) => false,
            ImageFailure::Boot { source, .. } => source.is_bad_input(),
            ImageFailure::Container { source, .. } | ImageFailure::Pulled { source, .. } => {
                source.is_bad_input()
            }
            ImageFailure::Registry { source, .. } => source.is_bad_input(),
            ImageFailure::Store(error) => {
                matches!(
                    error,
                    StoreError::Unknown(_) | StoreError::BadName(_) | StoreError::BaseGone { .. }
                )
            }
            _ => true,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            ImageFailure::Container { path, source } => {
                return hints::about_container(path, source);
            }
            ImageFailure::Unknown(word) => return Some(hints::about_image(word)),
            ImageFailure::Registry { source, .. } => return source.help().map(str::to_owned),
            ImageFailure::BadReference(_) => {
                "write [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], such as docker.io/library/alpine:3.20"
            }
            ImageFailure::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
                if let Some(told) = hints::about_path(path) {
                    return Some(told);
                }
                "check the path; `mother images` lists what needs none"
            }
            ImageFailure::Debian(DebianError::NoMirror | DebianError::NoRelease(..)) => {
                "add a source with this release to apt's, or name a release that your mirror has"
            }
            ImageFailure::Debian(DebianError::Unreached(..)) => {
                "look at this host's network, its proxy and apt's sources; what was made before needs none of them"
            }
            ImageFailure::Debian(DebianError::Apt(_)) => {
                "Debian images are made with the host's apt and its mirrors"
            }
            ImageFailure::Boot { source, .. } => return hints::about_boot(source),
            ImageFailure::CommandMissing(_) => "say it: mother run IMAGE -- PROGRAM ARGUMENTS",
            ImageFailure::AlreadyKept(_) => "leave `--keep` out",
            ImageFailure::OwnKernel(_) => {
                "leave out the image, or `boot`; an image that is a disk may have other disks started in its place"
            }
            ImageFailure::Unfound(_) => "leave out `serial=`, or write `serial=root`",
            _ => return None,
        };
        Some(help.to_owned())
    }
}

/// What a daemon said beside its first line.
fn refused(problem: &serve::Problem) -> Vec<String> {
    let complaints = problem.complaints.iter();
    let complaints = complaints.map(|one| format!("{}: {} ({})", one.field, one.what, one.help));
    let place = problem.r#where.iter().map(|place| format!("at {place}"));
    problem
        .causes
        .iter()
        .cloned()
        .chain(place)
        .chain(complaints)
        .collect()
}

/// What to do about a snapshot that nobody goes on from.
const UNUSABLE_HELP: &str = "the snapshot is as it was: `mother snapshots inspect` shows what it stands on, and what was asked for";

/// And about one that would have two guests be one on their network.
const TWIN_HELP: &str = "end that VM and restore under its name; a new VM with `--net net:NAME` gets a card and an address of its own";

impl Failure {
    /// The exit status that says so.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Run(trouble) => trouble.status,
            Failure::Spec(_)
            | Failure::Update(_)
            | Failure::Name { .. }
            | Failure::NotForOthers
            | Failure::Policy { .. }
            | Failure::PolicyFile { .. }
            | Failure::Record { .. }
            | Failure::Exists(_)
            | Failure::Unusable { .. }
            | Failure::Clone { .. }
            | Failure::Twin { .. }
            | Failure::NoPlainFile(_)
            | Failure::NoPipe(_)
            | Failure::BadAmount { .. }
            | Failure::BadApplied { .. }
            | Failure::BadHost { .. }
            | Failure::Collector(_)
            | Failure::BadVariable { .. }
            | Failure::BadWord { .. }
            | Failure::NoHostVariable(_) => BAD_INPUT,
            Failure::Daemon(serve::ClientError::Refused(problem))
                if problem.code == "bad-input" =>
            {
                BAD_INPUT
            }
            Failure::Vm { source, .. } if source.is_bad_input() => BAD_INPUT,
            Failure::App(AppImageError::App(error)) if error.is_bad_input() => BAD_INPUT,
            Failure::Image(error) if error.is_bad_input() => BAD_INPUT,
            Failure::Foreign { source, .. } if source.is_bad_input => BAD_INPUT,
            Failure::Snapshot(error) if error.is_bad_input() => BAD_INPUT,
            _ if self.is_closed_pipe() => CLOSED_PIPE,
            _ => OUR_FAULT,
        }
    }

    /// Prints it with its causes and the way on; for a program that asked for JSON, on standard output too. A reader who
    /// closed our output wants to hear no more.
    pub fn print(&self, wants_json: bool) {
        if self.is_closed_pipe() {
            return;
        }
        eprintln!("{}", self.text());
        if wants_json {
            // Where that fails too there is nobody left to tell.
            let failed = Failed {
                error: self.problem(),
            };
            let _ = io::stdout()
                .lock()
                .write_all(answers::text(&failed).as_bytes());
        }
    }

    /// As programs read it.
    pub fn problem(&self) -> Problem {
        let complaints = match self {
            Failure::Spec(errors) | Failure::Update(errors) => &errors.complaints[..],
            Failure::Daemon(serve::ClientError::Refused(problem)) => &problem.complaints[..],
            _ => &[],
        };
        Problem {
            message: self.message(),
            causes: self.causes(),
            help: self.help(),
            complaints: complaints.to_vec(),
            exit_status: self.status(),
        }
    }

    /// What failed, in one line.
    fn message(&self) -> String {
        match self {
            Failure::Spec(errors) => {
                format!("cannot start VM \"{}\"", errors.name.escape_debug())
            }
            Failure::Update(errors) => {
                format!("cannot update VM \"{}\"", errors.name.escape_debug())
            }
            _ => self.to_string(),
        }
    }

    /// Why, a line for each cause.
    fn causes(&self) -> Vec<String> {
        match self {
            Failure::Run(trouble) => trouble.causes.clone(),
            Failure::Spec(_) => Vec::new(),
            Failure::Daemon(serve::ClientError::Refused(problem)) => refused(problem),
            _ => runner::causes(self),
        }
    }

    /// Whether something was to be fetched or made that lies in the cache.
    fn is_about_cache(&self) -> bool {
        match self {
            Failure::Image(
                ImageFailure::Container { source, .. } | ImageFailure::Pulled { source, .. },
            ) => !source.is_bad_input(),
            Failure::Image(ImageFailure::Registry { source, .. }) => source.is_about_cache(),
            Failure::Image(ImageFailure::Debian(_) | ImageFailure::Overlay(_)) => true,
            Failure::Image(ImageFailure::Store(error)) => matches!(error, StoreError::File(_)),
            Failure::App(AppImageError::File(_)) => true,
            Failure::Guest(_) | Failure::File(_) | Failure::Passt(_) => true,
            _ => false,
        }
    }

    fn is_about_debian(&self) -> bool {
        matches!(self, Failure::Image(ImageFailure::Debian(_)))
    }

    /// Whether whoever read our output went away.
    fn is_closed_pipe(&self) -> bool {
        match self {
            Failure::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Failure::Run(trouble) => trouble.is_closed_pipe,
            _ => false,
        }
    }

    /// All of it, `error:` first.
    pub fn text(&self) -> String {
        let mut text = format!("error: {self}");
        for cause in self.causes() {
            text.push_str(&format!("\n  {cause}"));
        }
        if let Some(help) = self.help() {
            text.push_str(&format!("\n  help: {help}"));
        }
        text
    }

    fn help(&self) -> Option<String> {
        if self.is_about_cache()
            && let Some(help) = room::help(self, self.is_about_debian())
        {
            return Some(help);
        }
        let help = match self {
            Failure::Run(trouble) => return trouble.help.clone(),
            Failure::Name { .. } => return Some(NameError::help()),
            Failure::NotNow { help, .. } | Failure::BadWord { help, .. } => help,
            Failure::Foreign { source, .. } => return source.help.clone(),
            Failure::Unusable { .. } => UNUSABLE_HELP,
            Failure::Twin { .. } => TWIN_HELP,
            Failure::Clone { .. } => {
                "with --same-identity it is made; guests with the guest agent, or with the kernel's driver for VMGenID, need none of that. Have the guest make new keys and a new machine-id before it deals with others"
            }
            Failure::Inventory(InventoryError::NoSuchVm(_)) => "`mother ps -a` lists all there are",
            Failure::Inventory(InventoryError::Running(_)) => {
                "`mother stop` ends it, `mother rm --force` does both"
            }
            Failure::Inventory(InventoryError::Place(_)) => {
                "set XDG_RUNTIME_DIR to a folder that is yours alone"
            }
            Failure::Guest(_) => {
                "bring a guest of your own with `--kernel FILE --initrd FILE`: that needs no download"
            }
            Failure::NoUser(_) => {
                "`mother ps --all-users` lists all that can be seen; root sees everybody's"
            }
            Failure::Elsewhere { .. } => {
                "`systemctl status mother-vm.socket` says whether anybody listens there; MOTHER_STARTER names the place"
            }
            Failure::NotForOthers => "become that user first: `runuser -u USER -- mother ...`",
            Failure::PolicyFile { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "name a file, or one of the presets: observe, guarded, locked"
            }
            Failure::Policy { .. } => {
                "docs/policies.md says what may stand in one; `mother policy show guarded` is an example"
            }
            Failure::NoState => "name a file with --journal",
            Failure::NoServeState => "name a folder with --state",
            Failure::Collector(error) => collectors_help(error),
            Failure::Daemon(serve::ClientError::Refused(problem)) => return problem.help.clone(),
            Failure::Daemon(serve::ClientError::Unreached { .. }) => {
                "`mother serve` starts the daemon; what needs none: run, ps, stop and all that look"
            }
            Failure::Daemon(serve::ClientError::OtherCertificate { .. }) => {
                "compare it with what the daemon prints when it starts; MOTHER_FINGERPRINT says which one you trust"
            }
            Failure::NoHostVariable(_) => {
                "`mother token add NAME` on that host makes a token, and `mother serve` says its certificate's SHA-256"
            }
            Failure::NoSuchToken(_) => "`mother token list` lists all there are",
            Failure::BadApplied { .. } => "docs/serve.md says what may stand in one",
            Failure::Serve(serve::ServeError::Taken(_)) => "stop the other one first",
            Failure::NoCache(_) => {
                "set HOME, or XDG_CACHE_HOME to a folder of your own: a service has neither unless it is told"
            }
            Failure::Image(error) => return error.help(),
            Failure::Snapshot(error) => return error.help(),
            Failure::Exists(_) => "name another, or replace it with --force",
            Failure::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "nothing of it was kept; make room there, or name a file elsewhere"
            }
            _ => return None,
        };
        Some(help.to_owned())
    }

    /// A dump that could not be written, with the file that it was for.
    pub fn about_file(self, path: &Path, is_pipe: bool) -> Failure {
        match self {
            Failure::DumpWrite(source) if is_pipe => Failure::Output(source),
            Failure::DumpWrite(source) => Failure::Write {
                path: path.to_owned(),
                source,
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use images::AptError;

    use super::*;

    fn check(failure: Failure, expected: &str) {
        assert_eq!(failure.text(), expected);
    }

    #[test]
    fn programs_find_every_part_of_a_failure() {
        let failure = Failure::from(InventoryError::NoSuchVm(VmName::new("web").unwrap()));
        let expected = Problem {
            message: "there is no VM \"web\"".to_owned(),
            causes: Vec::new(),
            help: Some("`mother ps -a` lists all there are".to_owned()),
            complaints: Vec::new(),
            exit_status: 1,
        };
        assert_eq!(failure.problem(), expected);
        let complaints = vec![api::Complaint {
            field: "cpus".to_owned(),
            what: "a guest needs a vCPU".to_owned(),
            help: "write 1".to_owned(),
        }];
        let failure = Failure::from(SpecErrors {
            name: "guest".to_owned(),
            complaints: complaints.clone(),
        });
        let expected = Problem {
            message: "cannot start VM \"guest\"".to_owned(),
            causes: Vec::new(),
            help: None,
            complaints,
            exit_status: 2,
        };
        assert_eq!(failure.problem(), expected);
    }

    #[test]
    fn a_service_without_a_home_is_told_which_variable_to_set() {
        check(
            CacheError::NoFolder.into(),
            "error: cannot keep images and guests anywhere\n  there is no cache folder: neither XDG_CACHE_HOME nor \
             HOME is set\n  help: set HOME, or XDG_CACHE_HOME to a folder of your own: a service has neither unless it \
             is told",
        );
    }

    #[test]
    fn every_cause_has_its_own_line_and_the_last_says_what_to_do() {
        let help = "help: bring a guest of your own with `--kernel FILE --initrd FILE`: that needs no download";
        check(
            CacheError::Apt(AptError::Missing("apt-get")).into(),
            &format!("error: cannot get the default guest\n  this host has no `apt-get`\n  {help}"),
        );
    }
}
