//! Commands that look into guests are carried out in a jail; here is what they may ask for.
//!
//! # Problem
//!
//! `truth`, `ps NAME`, `trace` and their likes read what a guest wrote, and print it. What they need besides has names: the VM's
//! control socket, the user's cache, the VM's folder. Each of them could be handed its own way through the jail; then each
//! would be one more thing to get wrong.
//!
//! # Idea
//!
//! There is one way. [`run`] starts this program again, in a jail ([`runner::Observer`]), with the words that were typed; the
//! command is carried out there as it always was. Where the crates below it would use a name (`fleet` for VMs, `insight` for
//! what observers keep) they find somebody to ask ([`within`]), who asks this process, which looks whether it is the command's
//! ([`broker`]) and hands a descriptor over.
//!
//! ```text
//! typed ──> run ──words──────────────────────> the same command, in a jail
//!           Broker <──Asked, by a closed list─── fleet::Reach, insight::Keeper
//!                ──Answered, descriptors─────>
//! ```
//!
//! # Why nothing that is asked for helps who has taken the observer over
//!
//! - A connection to a VM that was typed (of all VMs for a command about all): handed over after the VM has been told that it
//!   [only looks](api::Command::OnlyLook). The guest's limits, its network and its pause are not its observer's to change.
//! - Entries of the VM's own folder by three names: what was seen of this guest before. It can be falsified by who has taken over
//!   the observer of this very guest.
//! - Profiles of kernels, to read. To be written they are made by another process in a jail, which reads one kernel file and no
//!   guest ([`broker`]): nothing that one guest says is used to judge another.

mod broker;
mod clones;
mod foreign;
mod handed;
mod profile;
mod requests;
mod within;

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use api::{JailWish, VmName};
use fleet::{Inventory, Record};
use images::Cache;
use insight::Loaded;
use insight::profile::Profile;
use machine::VmPlan;
use policy::Decision;
use runner::{Observer, ObserverEnd, RunError, Trouble};
use sha2::{Digest, Sha256};

use self::broker::{Broker, Vms};
pub use self::clones::reseeds;
pub use self::foreign::{Theirs, container, process};
use self::requests::{About, Work};
pub use self::within::{about, act, begin, image, keep_output, keys, note, output, words};
use crate::failure::Failure;
use crate::host_memory;

/// Which VMs a command looks into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guests {
    /// Those of these names.
    Named(Vec<VmName>),
    /// Whichever there are.
    All,
}

impl Guests {
    /// The VM of Mother's that a word names, if it does.
    pub fn named(word: &str) -> Option<Guests> {
        let name = VmName::new(word).ok()?;
        Some(Guests::Named(vec![name]))
    }
}

/// A policy that is followed, with the rights that this takes.
pub trait Follow {
    /// Writes a line down. When this returns it is on the disk.
    ///
    /// # Errors
    /// If it is no line, or what the host says.
    fn note(&self, line: &str) -> io::Result<()>;

    /// Does what the rule of this decision has at a place to the VM of `record`, if it is one of the policy's; what came of it is
    /// said in the pipe, and nothing if it was done.
    ///
    /// # Errors
    /// If the policy has no such thing, or does nothing.
    fn act(&self, decision: &Decision, place: usize, record: &Record) -> io::Result<PipeReader>;
}

/// A file that a command writes, which has its name when it is complete.
pub trait Unnamed {
    /// The file.
    ///
    /// # Errors
    /// What the host says.
    fn file(&self) -> io::Result<File>;

    /// Gives it its name.
    ///
    /// # Errors
    /// What the host says.
    fn keep(self: Box<Self>) -> io::Result<()>;
}

/// A terminal that was taken for a command; it is as it was before when this goes.
pub trait Screen {
    /// Columns and rows.
    fn size(&self) -> (u16, u16);

    /// Where what is typed comes out; to be had once.
    fn keys(&mut self) -> Option<PipeReader>;
}

/// What a command looks into, and what it makes of that.
pub struct Observation {
    /// Whom it looks into.
    pub guests: Guests,
    /// The file that it writes.
    pub output: Option<Box<dyn Unnamed>>,
    /// What it follows, and the text of that if it is a file's.
    pub follows: Option<(Box<dyn Follow>, Option<String>)>,
    /// The file of memory that it reads, or the manifest and the memory of a snapshot.
    pub image: Vec<File>,
    /// Whom it looks into that somebody else runs.
    pub theirs: Option<Theirs>,
    /// The terminal, if it has all of it.
    pub screen: Option<Box<dyn Screen>>,
}

impl Observation {
    /// A command that prints what it sees.
    pub fn to_see(guests: Guests) -> Observation {
        Observation {
            guests,
            output: None,
            follows: None,
            image: Vec::new(),
            theirs: None,
            screen: None,
        }
    }
}

/// Has the command that was typed carried out in a jail; its exit status.
pub fn run(wanted: Observation) -> Result<u8, Failure> {
    let vms = match wanted.guests {
        Guests::All => Vms::All,
        Guests::Named(names) => Vms::Named(names.into_iter().collect()),
    };
    let inventory = match &vms {
        // A file of memory has nothing to do with this user's VMs.
        Vms::Named(names) if names.is_empty() => Inventory::at(Path::new("")),
        _ => Inventory::of_user()?,
    };
    let profiles = profiles_of_user();
    let about = About {
        folder: inventory.folder().to_owned(),
        profiles: profiles.clone(),
        is_shown: io::stdout().is_terminal(),
        is_heard: crate::terminal::width_of_errors(),
        host_memory_bytes: host_memory::bytes(),
        ..About::of_work(Work::Look)
    };
    let mut screen = wanted.screen;
    let (follows, policy) = wanted.follows.unzip();
    let about = About {
        policy: policy.flatten(),
        size: screen.as_ref().map_or((0, 0), |screen| screen.size()),
        ..about
    };
    let words = std::env::args_os().map(OsStringExt::into_vec).collect();
    let observer = Observer::start(words, about.to_text(), JailWish::Auto).map_err(failed)?;
    let broker = Broker::new(inventory, vms, profiles);
    let broker = broker.with_output(wanted.output).with_policy(follows);
    let broker = broker.with_image(wanted.image).with_theirs(wanted.theirs);
    let broker = broker.with_keys(screen.as_mut().and_then(|screen| screen.keys()));
    let end = observer.serve(|asked, files| broker.answer(asked, files));
    // What is said of it is said where it can be read.
    drop(screen);
    match end.map_err(failed)? {
        ObserverEnd::Status(status) => Ok(status),
        end => Err(failed(RunError::Observer { how: end.words() })),
    }
}

/// Where what is learned about kernels from their files is kept. What earlier versions kept, in `kernels`, came from guests'
/// memory and is not read any more.
pub fn profiles(cache: &Cache) -> PathBuf {
    cache.folder().join("profiles")
}

/// The same for this user; nowhere where there is no cache.
fn profiles_of_user() -> Option<PathBuf> {
    Cache::of_user().ok().map(|cache| profiles(&cache))
}

/// Where the names of kernels' functions are kept, those of `plan`'s among them if its time is to be profiled; nowhere where there is
/// no cache. A process in a jail reads the kernel file, before a guest has run it; what fails leaves a profile without names, which
/// says so.
pub fn symbols_for(plan: &mut VmPlan) -> Option<PathBuf> {
    let folder = profiles_of_user()?;
    if let Some(profile) = &mut plan.profile
        && let Some(kernel) = learn(&plan.kernel.path, &folder)
    {
        profile.running = kernel.running().unwrap_or_default();
    }
    Some(folder)
}

/// What is kept of a kernel file, by now at the latest.
fn learn(kernel: &Path, folder: &Path) -> Option<Profile> {
    let learn = || {
        let file = File::open(kernel)?;
        let digest = Sha256::digest(handed::contents(&file)?).into();
        if let Some(kept) = Loaded::kept(digest, folder) {
            return Ok(Some(kept));
        }
        profile::make(folder, digest, &file)?;
        io::Result::Ok(Loaded::kept(digest, folder))
    };
    learn().unwrap_or_else(|error| {
        tracing::info!("no names of the kernel's functions: {error}");
        None
    })
}

fn failed(error: RunError) -> Failure {
    Failure::Run(Trouble::from(error))
}
