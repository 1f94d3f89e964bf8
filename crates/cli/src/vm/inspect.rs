//! `mother inspect`: everything that is known about a VM and its guest.

use api::HostBooks;
use clap::Args;
use fleet::{Inventory, Vm};
use insight::Look;
use insight::amounts::{size, time};
use insight::verdict::standing;
use watch::{Assessment, Snapshot};
use x86::Gva;

use super::described;
use super::foreign::{self, MemoryArguments, Target};
use super::inside::{inside, inside_guest};
use super::observe::{failed, watch};
use super::orders::is_alive;
use super::truth;
use super::verdicts::settled;
use super::words::{find, printable};
use crate::answers::{self, Given, Inspected, InspectedNow, LookingCost};
use crate::failure::Failure;
use crate::observed::Observation;
use crate::output::say;

/// `mother inspect`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  mother inspect web
  mother inspect --json web | jq '.guest.modules.seen.value[].name'
  mother inspect --memory vmcore  a guest's memory in a file, whoever wrote it")]
pub struct InspectArguments {
    /// Which VM
    #[arg(value_name = "NAME", required_unless_present = "memory")]
    name: Option<String>,
    #[command(flatten)]
    memory: MemoryArguments,
    /// As JSON: an object
    #[arg(long)]
    json: bool,
}

impl InspectArguments {
    /// The guest whose memory this reads.
    pub fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        foreign::looks_into(self.name.as_deref(), &self.memory)
    }
}

/// Prints everything; the exit status.
pub fn inspect(arguments: &InspectArguments) -> Result<u8, Failure> {
    if let Some(target) = Target::of(arguments.name.as_deref(), &arguments.memory) {
        return foreign::inspect(&target, arguments.json);
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    let mut vm = find(&Inventory::of_user()?, name)?;
    if !is_alive(&vm) {
        return inspect_ended(&vm, arguments.json);
    }
    described::show_limits_in_force(&mut vm);
    let origin = vm.origin.as_ref();
    let (name, mut watcher) = watch(name)?;
    let assessment = settled(&mut watcher).map_err(failed(&name))?;
    let snapshot = watcher.observer().observe().map_err(failed(&name))?;
    let account = snapshot.kernel.ok().map(insight::Kernel::account);
    let look = account.as_ref().and_then(|account| snapshot.look(account));
    let text = if arguments.json {
        let now = InspectedNow {
            books: &snapshot.books,
            registers: &snapshot.vcpus,
            kernel: &assessment.kernel,
            guest: look.as_ref().map(inside_guest),
            verdicts: &assessment.rows,
            standing: standing(&assessment.rows),
            cost: cost(&assessment, &snapshot, look.as_ref()),
        };
        answers::text(&Inspected {
            name: &name,
            state: vm.state,
            mother: version(&vm),
            end: None,
            running: Some(now),
            given: Given::of(origin, described::address(&vm)),
        })
    } else {
        described::lines(origin, described::address(&vm))
            + &version(&vm).map_or(String::new(), |it| format!("mother   {it}\n"))
            + &text(&assessment, &snapshot, look.as_ref())
            + &truth::table(&name, &assessment)
    };
    say(&text)?;
    Ok(0)
}

/// What is known of a VM that has ended: how it was asked for, and how it ended.
fn inspect_ended(vm: &Vm, is_json: bool) -> Result<u8, Failure> {
    if is_json {
        say(&answers::text(&Inspected {
            name: &vm.name,
            state: vm.state,
            mother: version(vm),
            end: vm.end.as_ref(),
            running: None,
            given: Given::of(vm.origin.as_ref(), None),
        }))?;
        return Ok(0);
    }
    let end = vm.end.as_ref().map_or("it has ended", |end| &end.message);
    let how = printable(end);
    let lines = described::lines(vm.origin.as_ref(), None);
    say(&format!("ended    {how}\n{lines}"))?;
    Ok(0)
}

/// The version of Mother whose process has the guest, or had it last.
fn version(vm: &Vm) -> Option<&str> {
    vm.info.as_ref().map(|info| info.mother.as_str())
}

fn cost(assessment: &Assessment, snapshot: &Snapshot<'_>, look: Option<&Look<'_>>) -> LookingCost {
    LookingCost {
        attach: assessment.cost.attach,
        verdicts: assessment.cost.look,
        everything: look.map(Look::cost),
        memory: snapshot.cost,
    }
}

fn text(assessment: &Assessment, snapshot: &Snapshot<'_>, look: Option<&Look<'_>>) -> String {
    let mut text = host(&snapshot.books);
    for vcpu in &snapshot.vcpus {
        let doing = match (vcpu.waits_for_startup, vcpu.halted) {
            (true, _) => "waits to be started",
            (_, true) => "halted",
            _ => "runs",
        };
        let at = snapshot
            .kernel
            .ok()
            .and_then(|kernel| kernel.describe(Gva(vcpu.rip)));
        let at = at.map_or(String::new(), |(symbol, offset)| {
            format!(" ({}+{offset:#x})", printable(&symbol))
        });
        text.push_str(&format!(
            "vcpu{}    {doing}, rip {:#x}{at}, cpl {}\n",
            vcpu.vcpu_id, vcpu.rip, vcpu.cpl
        ));
    }
    if let Some(look) = look {
        text.push_str(&inside(look));
    }
    let attach = &assessment.cost.attach;
    let verdicts = &assessment.cost.look;
    text.push_str(&format!(
        "\ninsight  kernel found in {} ms ({} read), a look takes {:.1} ms ({}), {} torn\n\n",
        attach.time_us / 1000,
        size(attach.bytes),
        verdicts.time_us as f64 / 1000.0,
        size(verdicts.bytes),
        verdicts.torn + snapshot.cost.torn,
    ));
    text
}

fn host(books: &HostBooks) -> String {
    let memory = &books.memory;
    let balloon = &books.balloon;
    let mut text = format!(
        "engine   {}, up {}, {} reboot(s){}\nmemory   {} configured, {} ever given, {} resident, {} given back, {} paged out\n",
        books.engine,
        time(books.uptime_seconds),
        books.reboots,
        if books.paused { ", paused" } else { "" },
        size(memory.configured_bytes),
        size(memory.given_bytes),
        size(memory.resident_bytes),
        size(memory.given_back_bytes),
        size(memory.paged_out_bytes()),
    );
    text.push_str(&super::given::cost_lines(books.host_cost.as_ref()));
    if let Some(engine) = &books.engine_memory {
        let limit = engine
            .limit_bytes
            .map(|bytes| format!(" of the {} that it may hold", size(bytes)));
        text.push_str(&format!(
            "code     {} beside the guest's pages{}\n",
            size(engine.held_bytes),
            limit.unwrap_or_default()
        ));
    }
    text.push_str(&format!(
        "balloon  {} wanted, {} claimed, {} taken, {} reported free\n",
        size(balloon.target_bytes),
        size(balloon.claimed_bytes),
        size(balloon.inflated_bytes),
        size(balloon.reported_bytes)
    ));
    let estimate = |name: &str, estimate: &Option<api::Estimate>, unit: &str| {
        estimate.map_or(String::new(), |estimate| {
            let bytes = |value: f64| size(value.max(0.0) as u64);
            format!(
                "{name}  {} +- {}{unit}\n",
                bytes(estimate.value),
                bytes(estimate.error)
            )
        })
    };
    text.push_str(&estimate("uses   ", &books.working_set, " working set"));
    text.push_str(&estimate("writes ", &books.dirty_rate, " a second"));
    for vcpu in &books.vcpus {
        let exits: u64 = vcpu.exits.iter().map(|exit| exit.value).sum();
        text.push_str(&format!(
            "vcpu{}    {} run, {} halted, {} waiting for the host, {exits} exits\n",
            vcpu.vcpu_id,
            vcpu.run_seconds.map_or("-".to_owned(), time),
            time(vcpu.halted_seconds),
            vcpu.wait_seconds.map_or("-".to_owned(), time)
        ));
    }
    text
}
