//! `mother inspect` of a guest that Mother does not run.

use insight::amounts::{size, time};
use insight::{Kernel, NotRecognised};
use watch::KernelFacts;
use watch::foreign::{ForeignGuest, ProcessGuestBooks};

use super::open::refused;
use super::{Opened, Target, open};
use crate::answers::{self, InspectedForeign};
use crate::failure::{BLIND, Failure};
use crate::output::say;
use crate::vm::inside::{inside, inside_guest};
use crate::vm::words::printable;

/// Why nothing is compared with a kernel file.
const LOADED: &str = "nobody says which kernel was loaded";

/// Prints everything; the exit status: 4 if the kernel is not known.
pub(in crate::vm) fn inspect(target: &Target, is_json: bool) -> Result<u8, Failure> {
    if target.is_container() {
        return super::container::truth(target, is_json);
    }
    let name = target.what();
    let opened = open(target)?;
    let books = match &opened {
        Opened::Memory { .. } => None,
        Opened::Process(watcher) => Some(watcher.books().map_err(|error| refused(target, &error))?),
    };
    say(&if is_json {
        answers::text(&answer(&name, &opened, books))
    } else {
        text(&name, &opened, books.as_ref())
    })?;
    Ok(if opened.guest().is_ok() { 0 } else { BLIND })
}

fn answer<'a>(
    name: &'a str,
    opened: &'a Opened,
    books: Option<ProcessGuestBooks>,
) -> InspectedForeign<'a> {
    let guest = opened.guest().ok();
    let account = guest.map(|guest| guest.kernel.account());
    let look = guest
        .zip(account.as_ref())
        .map(|(guest, account)| guest.look(account));
    let kernel = opened.guest().map(|guest| &guest.kernel);
    let (format, vm) = match opened {
        Opened::Memory { format, .. } => (Some(*format), None),
        Opened::Process(watcher) => (None, Some(watcher.vm())),
    };
    InspectedForeign {
        name,
        format,
        vm,
        layout: guest.map(|guest| guest.layout.as_str()),
        layout_unproven: guest.and_then(|guest| guest.unproven.as_deref()),
        memory_bytes: memory_bytes(opened, books.as_ref()),
        books,
        kernel: KernelFacts::alone(kernel, LOADED),
        guest: look.as_ref().map(inside_guest),
        attach_cost: kernel.ok().map(Kernel::attach_cost),
        cost: look.as_ref().map(insight::Look::cost),
    }
}

fn memory_bytes(opened: &Opened, books: Option<&ProcessGuestBooks>) -> u64 {
    match opened {
        Opened::Memory { memory_bytes, .. } => *memory_bytes,
        Opened::Process(_) => books.map_or(0, |books| books.configured_bytes),
    }
}

fn text(name: &str, opened: &Opened, books: Option<&ProcessGuestBooks>) -> String {
    let format = match opened {
        Opened::Memory { format, .. } => format.words().to_owned(),
        Opened::Process(watcher) => format!("process {}", watcher.vm().pid),
    };
    let bytes = memory_bytes(opened, books);
    let mut text = format!("{name}: {format}, {} of RAM", size(bytes));
    let guest = opened.guest();
    let layout = guest.map_or(String::new(), |guest| format!(", {}", guest.layout));
    text.push_str(&format!("{layout}\n"));
    if let Some(books) = books {
        text.push_str(&host(books));
    }
    text + &inside_of(guest)
}

fn inside_of(guest: Result<&ForeignGuest, &NotRecognised>) -> String {
    let guest = match guest {
        Ok(guest) => guest,
        Err(not) => return format!("{}\n", printable(&not.to_string())),
    };
    let mut text = String::new();
    if let Some(why) = &guest.unproven {
        text.push_str(&format!("layout NOT PROVEN: {}\n", printable(why)));
    }
    let kernel = &guest.kernel;
    text.push_str(&format!(
        "kernel   Linux {} ({})\n",
        printable(kernel.release()),
        kernel.rung().words()
    ));
    for dispute in kernel.disputes() {
        text.push_str(&format!("DISPUTED {}\n", printable(dispute)));
    }
    let account = kernel.account();
    let look = guest.look(&account);
    text.push_str(&inside(&look));
    let attach = kernel.attach_cost();
    let cost = look.cost();
    text + &format!(
        "\ninsight  kernel found in {} ms ({} read), a look takes {:.1} ms ({})\n",
        attach.time_us / 1000,
        size(attach.bytes),
        cost.time_us as f64 / 1000.0,
        size(cost.bytes)
    )
}

/// The host's books, a line for each part.
pub(super) fn host(books: &ProcessGuestBooks) -> String {
    let mut text = format!(
        "memory   {} configured, {} resident, {} of it shared, {} in huge pages, {} in swap\n",
        size(books.configured_bytes),
        size(books.resident_bytes),
        size(books.shared_bytes),
        size(books.huge_bytes),
        size(books.swapped_bytes)
    );
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), time);
    let bytes = |value: Option<u64>| value.map_or("-".to_owned(), size);
    text.push_str(&format!(
        "process  up {}, {} CPU, {} read from disks, {} written\n",
        seconds(books.uptime_seconds),
        seconds(books.process_cpu_seconds),
        bytes(books.disk_read_bytes),
        bytes(books.disk_written_bytes)
    ));
    for vcpu in &books.vcpus {
        text.push_str(&format!(
            "vcpu{}    {} run, {} waiting for the host\n",
            vcpu.vcpu_id,
            time(vcpu.run_seconds),
            time(vcpu.wait_seconds)
        ));
    }
    if let Some(status) = &books.status {
        text.push_str(&format!("qmp      {}\n", printable(status)));
    }
    for missing in &books.missing {
        text.push_str(&format!("not observable: {}\n", printable(missing)));
    }
    text
}
