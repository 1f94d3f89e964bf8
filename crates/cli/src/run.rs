//! `mother run`: a guest with its console on this terminal or pipe.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver};

use machine::{Console, VmPlan, build};

use crate::app::AfterExit;
use crate::arguments::RunArguments;
use crate::ending::{finish, say_ending};
use crate::failure::Failure;
use crate::guest::{Planned, User, check, is_program, plan_app, plan_program, plan_run};
use crate::image::{Speaks, plan_image};
use crate::output::{Watch, standard_output};
use crate::registration::{Place, Registrar, Registration};
use crate::{app, config, detach, input, signals, terminal};

/// Runs the guest, or has another process run it; the exit status.
pub fn run(arguments: &RunArguments) -> Result<u8, Failure> {
    if arguments.detach && !arguments.detached_child && !arguments.print_config {
        return detach::start();
    }
    let written = config::written(arguments);
    if arguments.print_config {
        return config::print(&written);
    }
    let place = Place {
        name: written.spec.name.clone(),
        is_detached: arguments.detach,
        asked: written.spec.clone(),
    };
    let registrar = Registrar::new(place.name.as_ref())?;
    let user = if arguments.detach {
        absent_user()
    } else {
        user()
    };
    let asked = check(written, arguments, &user)?;
    if let Some(program) = asked.spec.app.clone() {
        // Holds files of the guest until the run is over.
        let mut planned = plan_app(asked, &program)?;
        let registration = registrar.register(&mut planned.plan, &planned.given, place)?;
        let after = after_exit(planned.plan.disks.is_empty());
        return app::run(planned.plan.clone(), registration, arguments, after);
    }
    // What a run stands on is held until it has ended.
    let (mut plan, given, is_watched, _image) = match asked.spec.image.clone() {
        Some(word) => {
            let image = plan_image(asked, &word, &user)?;
            let mut plan = image.plan.clone();
            if image.speaks == Speaks::Frames {
                let registration = registrar.register(&mut plan, &image.given, place)?;
                let after = after_exit(!image.is_kept);
                return app::run(plan, registration, arguments, after);
            }
            let given = image.given.clone();
            let is_watched = image.speaks == Speaks::Console(true);
            (plan, given, is_watched, Some(image))
        }
        None if is_program(&asked.spec, &user, arguments.detach) => {
            let mut planned = plan_program(asked)?;
            let registration = registrar.register(&mut planned.plan, &planned.given, place)?;
            let after = after_exit(planned.plan.disks.is_empty());
            return app::run(planned.plan.clone(), registration, arguments, after);
        }
        None => {
            let Planned {
                plan,
                given,
                is_default,
            } = plan_run(asked, &user)?;
            (plan, given, is_default && user == User::Pipe, None)
        }
    };
    eprintln!("mother: engine {} ({})", plan.engine.kind, plan.engine.why);
    let registration = registrar.register(&mut plan, &given, place)?;
    run_console(plan, registration, arguments, is_watched)
}

/// Runs a guest whose console is here; the exit status.
fn run_console(
    plan: VmPlan,
    registration: Registration,
    arguments: &RunArguments,
    is_watched: bool,
) -> Result<u8, Failure> {
    let (output, ready) = output(arguments, is_watched)?;
    let console = Console::new(registration.log_beside(output)?);
    let console_input = console.input();
    let name = plan.name.clone();
    let machine = build(plan, console).map_err(|source| Failure::Build {
        name: name.clone(),
        source,
    })?;
    let received =
        signals::listen(&machine, signals::OnTerm::PowerButton).map_err(Failure::Signals)?;
    let registration = registration.serve(&machine)?;
    let start = detach::let_go_if_asked(arguments, &machine, &registration)?;
    if arguments.detach {
        // Nobody types; a console may be attached.
    } else if terminal::is_interactive() {
        eprintln!("mother: every key goes to the guest; Ctrl-A x leaves");
        terminal::make_raw().map_err(|source| Failure::Terminal {
            act: "take",
            source,
        })?;
        input::send_keys(console_input, machine.control()).map_err(Failure::Input)?;
    } else {
        input::send_pipe(console_input, ready).map_err(Failure::Input)?;
    }
    let ended = finish(machine, &name, arguments.report.as_deref());
    start.wait();
    registration.leave(&ended, None)?;
    received.die_if_ended_by_it(&ended);
    Ok(say_ending(&ended?))
}

/// What becomes of a guest whose program has ended.
fn after_exit(is_transient: bool) -> AfterExit {
    if is_transient {
        AfterExit::End
    } else {
        AfterExit::PowerOff
    }
}

/// Who will type.
fn user() -> User {
    if io::stdin().is_terminal() {
        User::Person {
            term: std::env::var("TERM").ok(),
            size: terminal::size(),
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
    }
}

/// Where the console goes, and who tells when the guest is ready for a pipe.
type Output = (Box<dyn Write + Send>, Option<Receiver<()>>);

fn output(arguments: &RunArguments, is_watched: bool) -> Result<Output, Failure> {
    if arguments.detach {
        // Standard output is for the name; the console is in the log.
        return Ok((Box::new(io::sink()), None));
    }
    let output = standard_output().map_err(|source| Failure::Terminal {
        act: "write to",
        source,
    })?;
    if !is_watched {
        return Ok((Box::new(output), None));
    }
    let (sender, receiver) = mpsc::channel();
    Ok((
        Box::new(Watch::new(output, images::INIT_MARKER, sender)),
        Some(receiver),
    ))
}
