//! The command `mother`.
//!
//! What a person types becomes an `api::VmSpec`; everything about machines is `machine`'s. Here live the terminal,
//! the signals and the words on the screen. Standard output belongs to the guest's console; whatever Mother says
//! herself goes to standard error.
//!
//! Exit statuses are one table (docs/exit-status.md), answers for programs one set of types ([`answers`]).
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "a program has no outside; `pub` marks what other modules use"
)]

mod ago;
mod answers;
mod arguments;
mod attend;
mod booting;
mod build_image;
mod completions;
mod config;
mod daemon;
mod demo;
mod doctor;
mod exit_status;
mod failure;
mod guest;
mod hints;
mod host_memory;
mod image;
mod images_command;
mod input;
mod observed;
mod output;
#[cfg(test)]
mod pages;
mod policy_command;
mod progress;
mod read_policy;
mod room;
mod run;
mod seed;
mod signals;
mod snapshots_command;
mod spec_arguments;
mod standing;
mod terminal;
mod users;
mod vm;
mod whole_file;

use std::panic;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use runner::role::Taken;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;
use crate::observed::Observation;

fn main() -> ExitCode {
    match runner::role::take() {
        // One of a VM's processes has nothing to do with all that comes here.
        Some(Taken::Over(status)) => return status,
        Some(Taken::Observes(observing)) => {
            let status = observed::begin(*observing).map(ExitCode::from);
            let status = status.unwrap_or_else(carry_out);
            runner::tell_refused();
            return status;
        }
        None => {}
    }
    terminal::restore_on_panic();
    let wanted = std::env::var("MOTHER_LOG").ok();
    runner::log_to(
        wanted.as_deref(),
        terminal::log_has_colours(),
        terminal::log_writer,
    );
    carry_out()
}

/// Does what was typed.
fn carry_out() -> ExitCode {
    let (arguments, wants_json, vm) = match typed() {
        Ok(typed) => typed,
        Err(error) => return misspelt(&hints::with_hint(error)),
    };
    // A panic of ours has printed itself; to the caller it is Mother's failure like any other.
    let done =
        panic::catch_unwind(|| perform(arguments, vm.as_deref())).unwrap_or(Ok(failure::OUR_FAULT));
    terminal::restore();
    match done {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.print(wants_json);
            ExitCode::from(failure.status())
        }
    }
}

/// Help, or what is wrong with what was typed; for a program that asked for JSON as that too.
fn misspelt(error: &clap::Error) -> ExitCode {
    // Where that fails there is nobody left to tell.
    let _ = error.print();
    let words = std::env::args_os().skip(1).take_while(|word| word != "--");
    if error.use_stderr() && words.into_iter().any(|word| word == "--json") {
        let _ = output::say(&answers::text(&hints::failed(error)));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit_status::BAD_INPUT))
}

/// What was typed, whether the answer is to be JSON, and the first VM that is named.
fn typed() -> Result<(Arguments, bool, Option<String>), clap::Error> {
    let matches = Arguments::command().try_get_matches_from(observed::words())?;
    let mut innermost = &matches;
    while let Some((_, inner)) = innermost.subcommand() {
        innermost = inner;
    }
    let json = innermost.try_get_one::<bool>("json").ok().flatten();
    let names = innermost.try_get_many::<String>("names").ok().flatten();
    let name = innermost.try_get_one::<String>("name").ok().flatten();
    let vm = names.and_then(|mut names| names.next()).or(name).cloned();
    let arguments = Arguments::from_arg_matches(&matches)?;
    Ok((arguments, json == Some(&true), vm))
}

/// Whether a command starts VMs, reads foreign files, or says what a VM would have here: a daemon that has given up what that
/// takes has it done elsewhere.
fn needs_the_host(command: &Command) -> bool {
    match command {
        Command::Run(arguments) => arguments.detach,
        Command::Start(_)
        | Command::Restart(_)
        | Command::Restore(_)
        | Command::Fork(_)
        | Command::Images(_)
        | Command::Doctor(_) => true,
        _ => false,
    }
}

/// Whether a command starts VMs or is about what lies in its user's folders.
fn is_ones_own(command: &Command) -> bool {
    matches!(
        command,
        Command::Run(_)
            | Command::Demo(_)
            | Command::Start(_)
            | Command::Restart(_)
            | Command::Upgrade(_)
            | Command::Snapshots(_)
            | Command::Snapshot(_)
            | Command::Suspend(_)
            | Command::Restore(_)
            | Command::Fork(_)
    )
}

/// Whether a command makes or fetches what is of no use half done.
fn makes_something(command: &Command) -> bool {
    matches!(
        command,
        Command::Run(_)
            | Command::Demo(_)
            | Command::Restore(_)
            | Command::Fork(_)
            | Command::Images(_)
    )
}

fn perform(arguments: Arguments, vm: Option<&str>) -> Result<u8, Failure> {
    let command = arguments.command;
    // In the jail everything that comes first has been done.
    if observed::about().is_none() {
        if let Some(host) = &arguments.host {
            return daemon::run_elsewhere(host);
        }
        if let Some(status) = prepare(&command, arguments.user.as_deref(), vm)? {
            return Ok(status);
        }
    }
    carry_out_here(command)
}

/// Whose VMs a command is about, and where it is carried out: its exit status if that is not here.
fn prepare(command: &Command, user: Option<&str>, vm: Option<&str>) -> Result<Option<u8>, Failure> {
    if let Some(user) = user {
        if is_ones_own(command) {
            return Err(Failure::NotForOthers);
        }
        users::speak_of(user, vm)?;
    }
    if let Some(socket) = runner::starter().filter(|_| needs_the_host(command)) {
        let done = runner::elsewhere(&socket);
        return done
            .map(Some)
            .map_err(|source| Failure::Elsewhere { socket, source });
    }
    if makes_something(command) {
        signals::leave_nothing().map_err(Failure::Signals)?;
    }
    looks_into(command)?.map(observed::run).transpose()
}

/// What a command looks into, which is done in a jail.
fn looks_into(command: &Command) -> Result<Option<Observation>, Failure> {
    Ok(match command {
        Command::Ps(arguments) => arguments.looks_into()?,
        Command::Truth(arguments) => arguments.looks_into()?,
        Command::Inspect(arguments) => arguments.looks_into()?,
        Command::Dmesg(arguments) => arguments.looks_into()?,
        Command::Hooks(arguments) => arguments.looks_into()?,
        Command::Trace(arguments) => arguments.looks_into(),
        Command::Dump(arguments) => arguments.looks_into()?,
        Command::Profile(arguments) => arguments.looks_into()?,
        Command::Watch(arguments) => Some(arguments.looks_into()?),
        Command::Top(arguments) => Some(arguments.looks_into()?),
        _ => None,
    })
}

fn carry_out_here(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Serve(arguments) => daemon::serve(&arguments),
        Command::Create(arguments) => daemon::create(&arguments),
        Command::Edit(arguments) => daemon::edit(&arguments),
        Command::Delete(arguments) => daemon::delete(&arguments),
        Command::Apply(arguments) => daemon::apply(&arguments),
        Command::Events(arguments) => daemon::events(&arguments),
        Command::Token(arguments) => daemon::token(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Ps(arguments) => vm::ps(&arguments),
        Command::Truth(arguments) => vm::truth(&arguments),
        Command::Inspect(arguments) => vm::inspect(&arguments),
        Command::Dmesg(arguments) => vm::dmesg(&arguments),
        Command::Hooks(arguments) => vm::hooks(&arguments),
        Command::Trace(arguments) => vm::trace(&arguments),
        Command::Watch(arguments) => vm::watch(&arguments),
        Command::Policy(arguments) => policy_command::run(&arguments),
        Command::Profile(arguments) => vm::profile(&arguments),
        Command::Dump(arguments) => vm::dump(&arguments),
        Command::Top(arguments) => vm::top(&arguments),
        Command::Stop(arguments) => vm::stop(&arguments),
        Command::Kill(arguments) => vm::kill(&arguments),
        Command::Start(arguments) => vm::start(&arguments),
        Command::Restart(arguments) => vm::restart(&arguments),
        Command::Rename(arguments) => vm::rename(&arguments),
        Command::Update(arguments) => vm::update(&arguments),
        Command::Switch(arguments) => vm::switch(&arguments),
        Command::Pause(arguments) => vm::pause(&arguments),
        Command::Resume(arguments) => vm::resume(&arguments),
        Command::Nmi(arguments) => vm::nmi(&arguments),
        Command::Upgrade(arguments) => vm::upgrade(&arguments),
        Command::Snapshot(arguments) => vm::snapshot(&arguments),
        Command::Suspend(arguments) => vm::suspend(&arguments),
        Command::Restore(arguments) => vm::restore(&arguments),
        Command::Fork(arguments) => vm::fork(&arguments),
        Command::Balloon(arguments) => vm::balloon(&arguments),
        Command::Limit(arguments) => vm::limit(&arguments),
        Command::Link(arguments) => vm::link(&arguments),
        Command::Console(arguments) => vm::console(&arguments),
        Command::Exec(arguments) => vm::exec(&arguments),
        Command::Cp(arguments) => vm::copy(&arguments),
        Command::Logs(arguments) => vm::logs(&arguments),
        Command::Wait(arguments) => vm::wait(&arguments),
        Command::Rm(arguments) => vm::remove(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Images(arguments) => images_command::run(&arguments),
        Command::Snapshots(arguments) => snapshots_command::run(&arguments),
        Command::Networks(arguments) => vm::networks(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    }
}
