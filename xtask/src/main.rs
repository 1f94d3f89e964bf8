//! House tasks, so that one command does on a laptop what it does in CI.
//!
//! `check` asks whether the code has the agreed shape, `test` whether it is right, `bench` how fast it is, and
//! `report` shows where it grows. CI calls `cargo xtask test` and nothing else.
#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "a program has no outside; `pub` marks what other modules use")]

mod bench;
mod check;
mod differential;
mod report;
mod smp;
mod source;
mod steps;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use crate::workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask TASK

  check    formatting, lints, house rules, documentation
  tidy     the house rules alone
  test     check, then every test; the last line counts them
  guest    fetch the default guest, which whole-guest tests run
  bench boot [--runs N]
           start to /init on the software CPU and on QEMU's TCG, and memory
        ["bench", "smp", options @ ..] => smp::run("bench", options),
        ["stress", options @ ..] => smp::run("stress", options),
