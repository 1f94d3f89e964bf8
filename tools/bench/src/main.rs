//! Tasks of `cargo xtask` that need the product's own crates: guests for tests, KVM tests in a nested machine, and how
//! fast it all is, beside the program that people would use instead, in one run.
//!
//! `cargo xtask` starts this program with its own words and tells what they are; alone it is of no use.
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "a program has no outside; `pub` marks what other modules use"
)]

mod against;
mod boot;
mod cloud_init;
mod cpu;
mod disk;
mod guests;
mod io;
mod login;
mod memory;
mod neighbour;
mod nest;
mod network;
mod paging;
mod programs;
mod qemu;
mod runs;
mod snapshot;
mod soak;
mod streams;
mod watch;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test-kvm"] => nest::run(nest::Set::All),
        ["test-kvm", "--quick"] => nest::run(nest::Set::Quick),
        ["test-kvm", names] => nest::run(nest::Set::Named(names)),
        ["guest"] => guests::fetch_default(),
        ["debian"] => guests::make_debian(),
        ["bench", "boot", options @ ..] => runs::runs(options).and_then(boot::run),
        ["bench", "cpu", words @ ..] => cpu::run(words),
        ["bench", "against", words @ ..] => against::run(words),
        ["bench", "jail", options @ ..] => against::jail(options),
        ["bench", "profile", options @ ..] => against::profile(options),
        ["bench", "neighbour", words @ ..] => neighbour::run(words),
        ["bench", "io", words @ ..] => io::run(words),
        ["bench", "exits", options @ ..] => nest::bench_exits(options),
        ["bench", "programs", words @ ..] => programs::run(words),
        ["bench", "snapshot", options @ ..] => runs::runs(options).and_then(snapshot::run),
        ["bench", "paging", words @ ..] => paging::run(words),
        ["cloud-init", releases @ ..] => cloud_init::run(releases),
        ["soak", "paging", options @ ..] => soak::paging(options),
        _ => {
            eprintln!("error: no such task; `cargo xtask` alone lists them");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
