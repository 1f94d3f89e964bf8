//! `mother cp`: files into a guest, out of one, and between two.
//!
//! ```text
//! here, a guest, a tar stream ──> entries and bytes ──> Taker: a guest, a folder here, a tar stream
//! ```
//!
//! Every source pours into every taker ([`pour`]). The guest agent has the same at its end. What a guest sends is its word: before the
//! first byte of it is read this process gives up every file but those below the folder that it writes to, and all calls that
//! this does not take ([`host::jail::lock_in_files`]); a tar stream on standard input, which is somebody's too, is read so as well.

mod archive;
mod ends;
mod folder;
mod guest;
mod here;
mod pour;
mod shown;

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use api::{ByteSize, VmName};
use clap::Args;
use fleet::{Agent, AgentError, Inventory, OneVm};
use host::jail;
use runner::Echo;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::archive::{FromTar, ToTar};
use self::ends::{Destination, Ends, Sources};
use self::folder::{Target, ToFolder};
use self::guest::{FromGuest, ToGuest};
use self::here::FromHere;
use self::pour::{Stop, Told};
use self::shown::Shown;
use super::exec::not_done;
use super::orders::check_alive;
use super::words::find;
use crate::answers;
use crate::failure::{ANSWER_IS_NO, Failure};
use crate::output::{say, standard_output};
use crate::signals;

/// How long a guest that may only be starting is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// `mother cp`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
NAME:PATH is a path in a guest, from its root; `-` is a tar stream on standard input or output;
everything else is here (./a:b for a name with a colon). Folders go with all that is below them.

As with cp: into a folder that is there, things go under their own names; a name that is not
there yet becomes the copy; FOLDER/. is what is in it. Several go into a folder. What is there is
replaced, but no folder by a file. Links stay links, and none is followed on the way.
Modes and times are kept, owners with -a or as root. What is no file, folder or link is left out
and told, and of a guest's files set-user-ID bits are taken away.

Works in guests that Mother makes: the small one, debian, container images and --app, unless they
were started with `--agent off`.

Exit status:
  0 all of it was copied, 1 something was left out or the guest was not reached,
  2 bad input: nothing was copied; all of them: docs/exit-status.md

Examples:
  mother cp site/ web:/srv
  mother cp web:/var/log/messages .
  mother cp one two db:/tmp/
  mother cp web:/etc/. db:/etc
  mother cp -a web:/home - | zstd > home.tar.zst")]
pub struct CopyArguments {
    /// Keep owners by their numbers, and into a guest all bits of modes [default for root]
    #[arg(short, long)]
    archive: bool,
    /// Copy what links lead to that are named here, not the links
    #[arg(short = 'L', long)]
    follow: bool,
    /// Most that a guest may send [default: nine tenths of what is free where it goes]
    #[arg(long, value_name = "SIZE")]
    most: Option<ByteSize>,
    /// Say what was copied as JSON
    #[arg(long)]
    json: bool,
    /// FILE, FOLDER, NAME:PATH or `-`, and last where they go
    #[arg(required = true, num_args = 2.., value_name = "FROM... TO")]
    paths: Vec<OsString>,
}

/// Copies; the exit status.
pub fn copy(arguments: &CopyArguments) -> Result<u8, Failure> {
    let ends = Ends::new(&arguments.paths)?;
    if arguments.json && matches!(ends.to, Destination::Pipe) {
        return Err(Failure::BadWord {
            act: "copy",
            what: "standard output has the tar stream, and no JSON beside it".to_owned(),
            help: "leave --json out",
        });
    }
    let signal = heard_signal().map_err(Failure::Signals)?;
    let mut told = Told::new(Shown::new(), Arc::clone(&signal));
    let done = carry(arguments, &ends, &mut told);
    told.shown.clear();
    tell_refused();
    match done {
        Ok(()) => {}
        Err(Stop::Signal) => {
            let number = i32::try_from(signal.load(Ordering::Acquire)).unwrap_or(SIGTERM);
            signals::die_of(number);
        }
        Err(stop) => {
            told.explain();
            return Err(failed(stop));
        }
    }
    told.explain();
    if arguments.json {
        say(&answers::text(&told.answer(&ends)))?;
    }
    Ok(if told.left_out == 0 { 0 } else { ANSWER_IS_NO })
}

/// Connects both ends and has everything go over.
fn carry(arguments: &CopyArguments, ends: &Ends, told: &mut Told) -> Result<(), Stop> {
    let keeps_owners = arguments.archive || rustix::process::geteuid().is_root();
    let follow = arguments.follow;
    let connect = |name: &str| connect(name);
    let to_guest = |name: &str, path: &OsString| {
        let agent = connect(name)?;
        ToGuest::new(agent, path, ends.is_several(), keeps_owners)
    };
    match (&ends.from, &ends.to) {
        (Sources::Here(paths), Destination::Guest { name, path }) => {
            let from = FromHere::new(paths, follow)?;
            told.shown.expect(from.total());
            from.pour(&mut to_guest(name, path)?, told)
        }
        (Sources::Pipe, Destination::Guest { name, path }) => {
            let mut taker = to_guest(name, path)?;
            lock_in(None);
            FromTar::new(io::stdin().lock()).pour(&mut taker, told)
        }
        (Sources::Guest { name, paths }, Destination::Guest { name: other, path }) => {
            let from = FromGuest::new(connect(name)?, paths, follow)?;
            let mut taker = to_guest(other, path)?;
            lock_in(None);
            from.pour(&mut taker, arguments.most.map(|most| most.0), told)
        }
        (Sources::Guest { name, paths }, Destination::Here(path)) => {
            let target = Target::find(path, ends.is_several())?;
            let room = target.room()?;
            let most = arguments.most.map_or(room - room / 10, |most| most.0);
            let from = FromGuest::new(connect(name)?, paths, follow)?;
            lock_in(Some(target.folder()));
            let mut taker = ToFolder::new(target, keeps_owners);
            from.pour(&mut taker, Some(most), told)
        }
        (Sources::Guest { name, paths }, Destination::Pipe) => {
            let (vm, agent) = connect(name)?;
            let most = arguments.most.map(|most| most.0);
            let mut taker = ToTar::new(
                standard_output().map_err(Stop::Output)?,
                most.map(|most| (vm.clone(), most)),
            );
            let from = FromGuest::new((vm, agent), paths, follow)?;
            lock_in(None);
            from.pour(&mut taker, most, told)
        }
        (Sources::Here(_) | Sources::Pipe, _) => unreachable!("one end is a guest"),
    }
}

fn connect(name: &str) -> Result<(VmName, Agent), Stop> {
    let inventory = Inventory::of_user().map_err(Failure::from)?;
    let vm = find(&inventory, name)?;
    check_alive(&vm, "copy files of")?;
    let failed = |source| Failure::Vm {
        act: "copy files of",
        name: vm.name.clone(),
        source,
    };
    let (one, _) = OneVm::connect(inventory.record(&vm.name)).map_err(failed)?;
    let agent = Agent::connect(&one, PATIENCE);
    let agent = agent.map_err(|error| Stop::Agent(vm.name.clone(), error))?;
    Ok((vm.name, agent))
}

/// Gives up what copying does not take from here on.
fn lock_in(folder: Option<BorrowedFd<'_>>) {
    jail::settle_libc();
    let walls = jail::lock_in_files(folder, &mut |wall, error| {
        tracing::info!("what copies a guest's files has not {wall}: {error}");
    });
    tracing::debug!("what copies a guest's files is in a jail: {walls:?}");
}

fn tell_refused() {
    if let Some(refused) = jail::refused().filter(|refused| refused.count > 0) {
        let jail::Refused { count, first } = refused;
        tracing::warn!("what copies a guest's files was refused {count} system calls: {first:?}");
    }
}

/// The number of the signal that wants this to end; 0 while there is none. One more ends it at once.
fn heard_signal() -> io::Result<Arc<AtomicUsize>> {
    let heard = Arc::new(AtomicUsize::new(0));
    let first = Arc::clone(&heard);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let hear = move || {
        let mut echo = Echo::default();
        for signal in &mut signals {
            let number = usize::try_from(signal).unwrap_or_default();
            if echo.is(signal, Instant::now()) {
                continue;
            }
            let heard_before = first.swap(number, Ordering::AcqRel);
            if heard_before != 0 {
                signals::die_of(signal);
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(hear)?;
    Ok(heard)
}

/// As a sentence for a person.
fn failed(stop: Stop) -> Failure {
    match stop {
        Stop::Failure(failure) => *failure,
        Stop::Agent(name, AgentError::Refused { why, .. }) => {
            // An agent that was started by an older version knows of no such request.
            let is_old = why.starts_with("there is no request");
            let why = if is_old {
                "its agent is of a version that copies no files".to_owned()
            } else {
                super::words::printable(&why)
            };
            Failure::NotNow {
                act: "copy files of",
                name,
                why,
                help: if is_old {
                    "start the guest anew, or `tar c FILES | mother exec NAME -- tar x -C FOLDER`"
                } else {
                    "what there is in the guest, `mother exec NAME -- ls -l FOLDER` shows"
                },
            }
        }
        Stop::Agent(name, error) => match not_done(&name, error) {
            Failure::NotNow {
                name, why, help, ..
            } => Failure::NotNow {
                act: "copy files of",
                name,
                why,
                help,
            },
            other => other,
        },
        Stop::Here(path, source) => Failure::Write { path, source },
        Stop::Output(error) => Failure::Output(error),
        Stop::Input(why) => Failure::BadWord {
            act: "copy",
            what: format!("standard input is no tar archive: {why}"),
            help: "`tar c FILES | mother cp - NAME:FOLDER` is one",
        },
        Stop::TooMuch(name, most) => Failure::NotNow {
            act: "copy files of",
            name,
            why: format!(
                "its guest sends more than {}, which is the most it may",
                insight::amounts::size_in_words(most)
            ),
            help: "--most SIZE lets it send more, where there is room for it",
        },
        Stop::TooMany(name) => Failure::NotNow {
            act: "copy files of",
            name,
            why: "its guest sends more files than are taken at once".to_owned(),
            help: "copy it in parts",
        },
        Stop::Signal => Failure::BadWord {
            act: "copy",
            what: "it was interrupted".to_owned(),
            help: "what was copied is there",
        },
    }
}
