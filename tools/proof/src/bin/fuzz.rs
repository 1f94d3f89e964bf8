//! `fuzz [--seconds N] [--seed N] [TARGET]`: whatever reads foreign bytes, given what somebody has changed; `N` seconds in all.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use proof::fuzz::targets;

#[derive(Parser)]
struct Arguments {
    /// Time for all targets together
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What the changes are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// This one alone
    target: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut targets = targets()?;
    if let Some(name) = &arguments.target {
        targets.retain(|target| target.name == name);
        ensure!(!targets.is_empty(), "there is no target {name}");
    }
    // A panic is what is looked for: it is told by the one who catches it.
    std::panic::set_hook(Box::new(|_| ()));
    let time = Duration::from_secs(arguments.seconds) / targets.len() as u32;
    let mut failed = 0;
    for target in &targets {
        let outcome = target.run(time, arguments.seed)?;
        let name = target.name;
        println!(
            "{name:<10} {} inputs, {} taken",
            outcome.inputs, outcome.taken
        );
        if let Some(failure) = outcome.failure {
            println!("{name:<10} FAILED: {failure}");
            failed += 1;
        }
    }
    println!("{} passed, {failed} failed", targets.len() - failed);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
