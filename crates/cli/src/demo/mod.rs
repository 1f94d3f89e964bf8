//! `mother demo`: a guest introduces itself, and Mother says what she knows about it.
//!
//! What the guest says comes over its console, as `crates/images/guest/demo.sh` prints it; what Mother knows comes
//! from the machine's report. The two meet only in the table at the end, and neither is changed on the way. A second
//! guest then fills memory that it was never given ([`less`]), and is looked into from outside ([`seen`]).

mod account;
mod less;
mod seen;
mod transcript;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use api::{PartialSpec, Timeout, VmName, VmSpec};
use host::lock::Lock;
use indicatif::{ProgressBar, ProgressStyle};
use machine::{HostFindings, VmPlan, plan};
use runner::{Guest, Held, OnTerm, Order, Ran, Streams};

use self::transcript::{Said, Transcript};
use crate::arguments::DemoArguments;
use crate::attend::{Attended, say_ending};
use crate::failure::{ANSWER_IS_NO, Failure};
use crate::output::say;
use crate::progress;

const NAME: &str = "demo";
const COMMAND_LINE: &str = "console=ttyS0 rdinit=/demo panic=-1";
const FIRST_KERNEL_LINE: &str = "Linux version ";
const TIMEOUT: Timeout = Timeout::of_seconds(300);

/// Runs the demo; the exit status.
pub fn run(arguments: &DemoArguments) -> Result<u8, Failure> {
    let spec = VmSpec {
        name: VmName::new(NAME).ok(),
        cmdline: Some(COMMAND_LINE.to_owned()),
        memory: arguments.memory,
        engine: arguments.engine,
        timeout: Some(arguments.timeout.unwrap_or(TIMEOUT)),
        no_reboot: true,
        markers: [FIRST_KERNEL_LINE, images::INIT_MARKER]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        ..VmSpec::default()
    };
    let host = HostFindings::for_spec(&spec);
    let written = PartialSpec {
        spec,
        ..PartialSpec::default()
    };
    machine::check(&written, &host)?;
    let guest = progress::default_guest()?;
    let spec = VmSpec {
        kernel: Some(guest.kernel.clone()),
        initrd: Some(guest.initrd.clone()),
        ..written.spec
    };
    let plan = plan(&spec, &host)?;
    say(&account::introduction(&plan, &guest))?;
    let (ran, said) = boot(plan, arguments)?;
    say(&account::account(&said, &ran.report, &guest))?;
    let status = verdict(&ran, &said);
    if status != 0 {
        return Ok(status);
    }
    let (text, is_right) = less::show(arguments, &guest)?;
    say(&text)?;
    Ok(if is_right { 0 } else { ANSWER_IS_NO })
}

/// Boots the guest and shows its work as it comes; what was measured and what was said.
fn boot(plan: VmPlan, arguments: &DemoArguments) -> Result<(Box<Ran>, Said), Failure> {
    let said = Arc::new(Lock::new(Said::default()));
    let bar = booting_bar();
    let transcript = Transcript::new(Arc::clone(&said), bar.clone(), account::program_line);
    let order = Order {
        report: arguments.report.clone(),
        ..order(plan, Guest::Console)
    };
    let (shown, console) = io::pipe().map_err(Failure::Input)?;
    let streams = Streams {
        output: Some(console.into()),
        ..Streams::default()
    };
    let mut attended = Attended::start(order, streams, OnTerm::End)?;
    attended.copy(shown, transcript)?;
    let ended = attended.finish();
    bar.finish_and_clear();
    let ran = ended?;
    let said = said.lock().clone();
    Ok((ran, said))
}

/// A VM of the demo's: it has whatever name is free, and leaves nothing when it ends well.
fn order(plan: VmPlan, guest: Guest) -> Order {
    Order {
        symbols: None,
        name: None,
        is_kept: false,
        is_detached: false,
        plan,
        guest,
        window: None,
        is_raw: false,
        report: None,
        origin: None,
        held: Held::default(),
    }
}

/// A line that shows the guest's last words while it boots; nothing if nobody watches.
fn booting_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}")
        .expect("the template is constant");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Zero only if the guest did all it should and every answer was right.
fn verdict(ran: &Ran, said: &Said) -> u8 {
    if !ran.report.ending.is_power_off() || !said.is_complete() {
        eprintln!("error: the demo did not go as it should; the guest's last lines:");
        for line in said.last_lines() {
            eprintln!("  {line}");
        }
    }
    match say_ending(ran) {
        0 if !said.is_complete() => ANSWER_IS_NO,
        status => status,
    }
}
