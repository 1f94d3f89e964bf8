//! House tasks, so that one command does on a laptop what it does in CI.
//!
//! `check` asks whether the code has the agreed shape, `test` whether it is right, `bench` how fast it is, and
//! `report` shows where it grows. CI calls `cargo xtask test` and nothing else.
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "a program has no outside; `pub` marks what other modules use"
)]

mod bench;
mod check;
mod differential;
mod dist;
mod drill;
mod insight;
mod pool;
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
  test-kvm [--quick | NAME,NAME]
           guests on KVM inside of QEMU, beside the same guests on the software CPU: all, those that `test` has
           time for, or these of engines, bare, hostile, linux, again, button, limited, unprivileged, bounded, moving1, moving2,
           looking;
           `boots` alone counts how often Linux comes up, also under QEMU's own KVM
  drill    the walls around a VM's process, tried from inside by who has taken it over
  guest    fetch the default guest, which whole-guest tests run
  debian   make the image debian:12, which a whole-guest test runs
  cloud-init [12 | 13]...
           disks with Debian's cloud-init, made once (mmdebstrap, from the host's mirrors): whether it carries out what
           `--user-data`, `--ssh-key` and `--hostname` say, once for each instance
  bench boot [--runs N]
           start to /init on the software CPU and on QEMU's TCG, and memory
  bench cpu [PROGRAM] [--runs N] [--work NAME]... [--write FILE]
           works of every kind (`guests/cpu`) on the host, on the software CPU of this build and of another one, and on
           QEMU's TCG, with the same values everywhere; a page with the table
  bench programs PROGRAM [--runs N]
           CPU time of the host's own programs: on the host, and as guests of this build of `mother` and another one
  bench against PROGRAM [--runs N]
           this build of `mother` and another one in pairs: a boot to power-off and Debian to its login prompt, time by the
           clock and CPU time of all processes; 15 pairs if not told
  bench jail [--runs N]
           the same of this build with its jail and without
  bench profile [--runs N]
           the same of this build without a profile of its guests and with one
  bench neighbour [--runs N] [--engine ENGINE] [FLOOD...]
           what a guest gets beside a hostile one, against what it gets beside an honest busy one, on one core
  bench io [disk|network|streams|login] [--runs N]
           a guest's disk and network, and Debian to its login prompt, on the software CPU and on QEMU's TCG
  bench exits [--nested]
           what it costs to leave the guest, on this host's engines or on both in QEMU
  bench paging [codec|fault|ahead|sampling|hot|many|swap]
           what it costs that pages of a guest lie somewhere else
  bench snapshot [--runs N]
           Debian put on disk, brought back and forked, until it answers; beside a start of it and QEMU's -loadvm
  bench smp [--runs N]
           what a second vCPU is worth, on 2 cores that nobody else uses
  bench insight
           what it costs to recognise a guest's kernel and to read it
  bench trace
           what it costs a guest that somebody hears of every program that it starts, and how fast a policy acts
  bench serve
           what the daemon costs with 1000 declared VMs, and with 60 guests that run
  test-insight [--all [--again] | --kernels RELEASE,RELEASE]
           what is read of guests against what they print: a few kernels, all that mirrors offer but those that a run
           before found no fault with, or these
  fuzz [--seconds N] [--seed N] [TARGET]
           what reads foreign bytes or a guest's (images, disks, kernels, snapshots, descriptions, control lines, every virtio device, every
           device of the board, frames from the wire, the software CPU), given what was changed at random; 60 seconds for all
  fuzz insight --seconds N
           memory made to mislead: mutated where it is read, and noise
  honest [--small | --kernel RELEASE] --minutes N
           Debian at honest work (packages, compiler, modules, BPF, tracing, containers), watched once a second: no alarm,
           and nothing that the policy `guarded` acts on; or the small guest, in which nothing may look hidden, with
           its own kernel or another of Debian's
  stress [--minutes N | --seconds N] [--cpus N]
           a guest of several CPUs under everything at once, 30 seconds and 4 vCPUs if not told
  soak paging [--minutes N]
           a guest that checks all it has while the limit of its memory moves, 10 minutes if not told
  differential [OPTIONS]
           random instructions on the silicon and on the software CPU
  dist     what users get, in target/releases: the program (static, without debug information, which lies apart), manual
           pages, completions, checksums, and what it is made of (CycloneDX)
  dist --try
           the Debian package of the last `dist` in fresh trees of Debian's releases: installed, used, removed, purged
  dist --boot
           the same package under systemd in a Debian guest: its units, and VMs that go on without the daemon
  report   longest files and functions, unsafe blocks, dependencies
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => steps::run(check::steps()).map(steps::sum_up),
        ["tidy"] => tidy::print_complaints(),
        ["test"] => test::run(),
        ["bench", "smp", options @ ..] => smp::run("bench", options),
        ["bench", "insight"] => insight::bench(),
        ["bench", "trace"] => insight::bench_trace(),
        ["bench", "serve"] => insight::bench_serve(),
        ["test-insight", options @ ..] => insight::test_all(options),
        ["fuzz", "insight", options @ ..] => insight::fuzz(options),
        ["fuzz", options @ ..] => differential::run("fuzz", options),
        ["honest", options @ ..] => insight::honest(options),
        ["stress", options @ ..] => smp::run("stress", options),
        ["differential", options @ ..] => differential::run("differential", options),
        [
            "test-kvm" | "guest" | "debian" | "cloud-init" | "bench" | "soak",
            ..,
        ] => bench::run(&words),
        ["dist"] => dist::run(),
        ["dist", "--try"] => dist::try_out(),
        ["dist", "--boot"] => dist::boot(),
        ["drill"] => drill::run(),
        ["report"] => Workspace::load().map(|workspace| {
            report::print(&workspace);
            true
        }),
        _ => {
            eprint!("{USAGE}");
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
