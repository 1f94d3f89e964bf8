//! `mother run`: a guest with its console on this terminal or pipe, or one that is left running.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use api::{BootChoice, Complaint, PartialSpec, SpecErrors, VmName, VmOrigin, VmSpec};
use fleet::{ClaimError, Inventory};
use images::{GREETING, INIT_MARKER, PROGRAM_PORTS};
use machine::VmPlan;
use runner::{AfterExit, Guest, Held, OnTerm, Order, Outcome, Program, RunError, Streams};

use crate::answers::{self, Done};
use crate::arguments::RunArguments;
use crate::attend::{Attended, say_ending};
use crate::booting::{UntilFirstWords, Whose};
use crate::failure::Failure;
use crate::guest::{
    Asked, Planned, PlannedApp, User, check, is_program, plan_app, plan_program, plan_run,
};
use crate::image::{PlannedImage, Speaks, plan_boot_disk, plan_image};
use crate::output::{say, standard_output};
use crate::{config, input, observed, seed, standing, terminal, vm};

/// What may be said of a VM that goes on from a snapshot.
const FROM_SNAPSHOT: [&str; 2] = ["name", "engine"];

/// What is to run.
struct Wanted {
    plan: VmPlan,
    /// What the plan is of.
    given: VmSpec,
    guest: Guest,
    held: Held,
    boot: Option<BootChoice>,
}

/// Runs the guest; the exit status.
pub fn run(arguments: &RunArguments) -> Result<u8, Failure> {
    let written = config::written(arguments);
    if let Some(snapshot) = &arguments.from {
        return from_snapshot(arguments, &written, snapshot);
    }
    if arguments.print_config {
        return config::print(&written);
    }
    let as_asked = written.spec.clone();
    let name = as_asked.name.clone();
    check_is_free(name.as_ref())?;
    let user = if arguments.detach {
        absent_user()
    } else {
        user()
    };
    let asked = check(written, arguments, &user)?;
    let Wanted {
        mut plan,
        given,
        guest,
        held,
        boot,
    } = seeded(asked, arguments, &user)?;
    let origin = VmOrigin {
        words: typed(),
        folder: std::env::current_dir().unwrap_or_default(),
        asked: as_asked,
        given,
        boot,
    };
    let has_program = matches!(guest, Guest::Program(_));
    if !has_program {
        eprintln!("mother: engine {} ({})", plan.engine.kind, plan.engine.why);
    }
    // A program gets a terminal only where all of its streams are one: with others, they stay apart.
    let is_raw = if has_program {
        user.terminal_of_program().is_some()
    } else {
        !arguments.detach && terminal::is_interactive()
    };
    let order = Order {
        symbols: observed::symbols_for(&mut plan),
        is_kept: name.is_some() || arguments.detach,
        name,
        is_detached: arguments.detach,
        plan,
        guest: if is_raw && !has_program {
            Guest::Console
        } else {
            guest
        },
        window: if arguments.detach {
            None
        } else {
            terminal::size()
        },
        is_raw,
        report: arguments.report.clone(),
        origin: Some(origin),
        held,
    };
    if arguments.detach {
        leave_running(order, arguments.json)
    } else if is_raw {
        at_a_terminal(order, has_program)
    } else {
        with_streams(order, has_program)
    }
}

/// The words of this command.
fn typed() -> Vec<String> {
    let words = std::env::args_os();
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// Has a VM go on from a snapshot, with its console here or left running.
fn from_snapshot(
    arguments: &RunArguments,
    written: &PartialSpec,
    snapshot: &str,
) -> Result<u8, Failure> {
    let mut complaints = written.complaints.clone();
    let said = written.spec.said();
    let others = said
        .keys()
        .filter(|key| !FROM_SNAPSHOT.contains(&key.as_str()));
    complaints.extend(others.map(|key| Complaint {
        field: key.clone(),
        what: "a VM that goes on from a snapshot has what it had".to_owned(),
        help: "leave this out; `mother limit` and `mother update` change what runs".to_owned(),
    }));
    if !complaints.is_empty() {
        let name = written.spec.shown_name().to_owned();
        return Err(SpecErrors { name, complaints }.into());
    }
    check_is_free(written.spec.name.as_ref())?;
    let mut order = vm::order_from(snapshot, written.spec.name.as_ref(), written.spec.engine)?;
    eprintln!(
        "mother: engine {} ({})",
        order.plan.engine.kind, order.plan.engine.why
    );
    order.report.clone_from(&arguments.report);
    if arguments.detach {
        return leave_running(order, arguments.json);
    }
    order.is_detached = false;
    order.is_kept = written.spec.name.is_some();
    if !terminal::is_interactive() {
        return with_streams(order, false);
    }
    order.guest = Guest::Console;
    order.is_raw = true;
    order.window = terminal::size();
    at_a_terminal(order, false)
}

/// Looks whether `name` can be had, before work is done for nothing. What is no name at all is the plan's to say.
fn check_is_free(name: Option<&VmName>) -> Result<(), Failure> {
    let inventory = Inventory::of_user()?;
    match name {
        Some(name) if inventory.is_running(name)? => {
            let source = ClaimError::Taken(name.clone());
            let name = name.to_string();
            Err(Failure::Run(RunError::Claim { name, source }.into()))
        }
        _ => Ok(()),
    }
}

/// What is to run, with the disk for its cloud-init.
fn seeded(mut asked: Asked, arguments: &RunArguments, user: &User) -> Result<Wanted, Failure> {
    let Some(seed) = asked.seed.take() else {
        return wanted(asked, arguments, user);
    };
    let run = seed::lay(&seed, &mut asked.spec)?;
    let mut wanted = wanted(asked, arguments, user)?;
    wanted.held.join(standing::held(run));
    Ok(wanted)
}

fn wanted(asked: Asked, arguments: &RunArguments, user: &User) -> Result<Wanted, Failure> {
    if let Some(path) = asked.spec.app.clone() {
        return Ok(program(arguments, plan_app(asked, &path, user)?));
    }
    let word = asked.spec.image.clone();
    if word.is_none() && asked.spec.disks.iter().any(|disk| disk.boot) {
        return Ok(imaged(arguments, plan_boot_disk(asked, user)?));
    }
    let Some(word) = word else {
        if is_program(&asked.spec, user, arguments.detach) {
            return Ok(program(arguments, plan_program(asked, user)?));
        }
        let Planned {
            plan,
            given,
            is_default,
        } = plan_run(asked, user)?;
        return Ok(Wanted {
            plan,
            given,
            guest: commands(is_default && *user == User::Pipe),
            held: Held::default(),
            boot: None,
        });
    };
    Ok(imaged(arguments, plan_image(asked, &word, user)?))
}

/// A guest that comes with an image or a disk.
fn imaged(arguments: &RunArguments, image: PlannedImage) -> Wanted {
    let guest = match image.speaks {
        Speaks::Frames => speaking(arguments, !image.is_kept),
        Speaks::Console(is_watched) => commands(is_watched),
    };
    Wanted {
        plan: image.plan,
        given: image.given,
        guest,
        held: image.held,
        boot: image.boot,
    }
}

/// A guest whose console takes commands, from when its init reads if that is watched for.
fn commands(is_watched: bool) -> Guest {
    Guest::Commands {
        after: is_watched.then(|| INIT_MARKER.to_owned()),
    }
}

fn program(arguments: &RunArguments, planned: PlannedApp) -> Wanted {
    let is_transient = planned.plan.disks.is_empty();
    Wanted {
        plan: planned.plan,
        given: planned.given,
        guest: speaking(arguments, is_transient),
        held: planned.held,
        boot: None,
    }
}

/// A guest that is one program; what becomes of it when that has ended.
fn speaking(arguments: &RunArguments, is_transient: bool) -> Guest {
    Guest::Program(Program {
        greeting: GREETING.to_vec(),
        ports: PROGRAM_PORTS.map(str::to_owned),
        after: if is_transient {
            AfterExit::End
        } else {
            AfterExit::PowerOff
        },
        shows_kernel: arguments.kernel_log && !arguments.detach,
    })
}

/// Starts it and returns when its guest runs.
fn leave_running(order: Order, is_json: bool) -> Result<u8, Failure> {
    let mut running = runner::start(order, &Streams::default())?;
    running.wait_until_serving()?;
    let Some(ended) = running.wait_until_started()? else {
        say(&if is_json {
            answers::text(&[Done {
                name: running.name().to_owned(),
                done: true,
                error: None,
            }])
        } else {
            format!("{}\n", running.name())
        })?;
        return Ok(0);
    };
    match ended.outcome {
        Outcome::Ran(ran) => Ok(say_ending(&ran)),
        Outcome::Failed(trouble) => Err(trouble.into()),
    }
}

/// Runs it with every key going to the guest.
fn at_a_terminal(order: Order, has_program: bool) -> Result<u8, Failure> {
    let (keys, typed) = io::pipe().map_err(Failure::Input)?;
    let (shown, console) = io::pipe().map_err(Failure::Input)?;
    let streams = Streams {
        input: Some(keys.into()),
        output: Some(console.into()),
        errors: if has_program {
            Some(own(io::stderr().as_fd()).map_err(Failure::Output)?)
        } else {
            None
        },
    };
    let mut attended = Attended::start(order, streams, OnTerm::PowerButton)?;
    attended.wait_until_serving()?;
    if !has_program {
        eprintln!("mother: every key goes to the guest; Ctrl-A x leaves");
    }
    terminal::make_raw().map_err(|source| Failure::Terminal {
        act: "take",
        source,
    })?;
    let whose = if has_program {
        Whose::Program
    } else {
        Whose::Guest
    };
    let output = UntilFirstWords::new(terminal_output()?, whose).map_err(Failure::Input)?;
    attended.copy(shown, output)?;
    input::send_keys(typed, attended.handle()).map_err(Failure::Input)?;
    let ran = attended.finish()?;
    Ok(say_ending(&ran))
}

/// Runs it on this process's streams. What is no terminal becomes the guest's own: not a byte of it passes here.
fn with_streams(order: Order, has_program: bool) -> Result<u8, Failure> {
    let stdin = io::stdin();
    let (input, typed) = if stdin.is_terminal() {
        // A terminal is read by the process in its foreground, which is this one.
        let (reader, writer) = io::pipe().map_err(Failure::Input)?;
        (OwnedFd::from(reader), Some(writer))
    } else {
        (own(stdin.as_fd()).map_err(Failure::Input)?, None)
    };
    let output = own(io::stdout().as_fd()).map_err(Failure::Output)?;
    let errors = own(io::stderr().as_fd()).map_err(Failure::Output)?;
    let streams = Streams {
        input: Some(input),
        output: Some(output),
        errors: has_program.then_some(errors),
    };
    let attended = Attended::start(order, streams, OnTerm::PowerButton)?;
    match typed {
        Some(typed) => input::send_lines(typed).map_err(Failure::Input)?,
        // It is the guest's alone now: when that closes it, a writer on the other side hears of it.
        None => input::close().map_err(Failure::Input)?,
    }
    let ran = attended.finish()?;
    Ok(say_ending(&ran))
}

fn own(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned()
}

fn terminal_output() -> Result<File, Failure> {
    standard_output().map_err(|source| Failure::Terminal {
        act: "write to",
        source,
    })
}

/// Who will type.
fn user() -> User {
    if io::stdin().is_terminal() {
        User::Person {
            term: std::env::var("TERM").ok(),
            size: terminal::size(),
            is_here: true,
        }
    } else {
        User::Pipe
    }
}

/// Nobody, until somebody attaches: a person then, at a terminal like this one.
fn absent_user() -> User {
    User::Person {
        term: std::env::var("TERM").ok(),
        size: None,
        is_here: false,
    }
}
