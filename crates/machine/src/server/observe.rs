//! Answers to observers: the descriptors of guest memory, registers, and the host's books.

use host::at::FileAt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use api::{
    BalloonBook, ClockBook, Counter, HostBooks, LimitsSaid, MemoryBook, MemoryView, Outcome,
    RefusalCode, SlotView,
};
use devices::virtio::balloon::BalloonReading;
use host::MemFd;
use paging::Books;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;

use crate::boot::Image;
use crate::control::Phase;
use crate::life::saved::LifeState;
use crate::plan::VmPlan;
use crate::server::Shared;
use crate::server::lines::{line, refusal, reply, send_rest};
use crate::server::paging::{in_bytes, in_bytes_a_second, paging_book, places};
use crate::threads::observe::Observed;

/// How long vCPUs may take to show their registers: guest code that is being translated comes out within
/// milliseconds, but the host may have much else to do.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How long a guest's threads may take to come to rest and say what they are.
const STATE_TIME: Duration = Duration::from_secs(25);

/// Descriptors that are sent at once: more than a VM has modules.
const FILES_MAX: usize = 128;

/// No life is there to be shown.
fn nothing_to_show() -> Outcome {
    refusal(
        RefusalCode::WrongState,
        "the guest is not there now: it is starting again, or has ended",
    )
}

/// Sends guest memory; whether the client took it.
pub(super) fn view(shared: &Shared, stream: &UnixStream) -> bool {
    let Some(observed) = shared.control.observed() else {
        return reply(stream, nothing_to_show());
    };
    let Some(file) = observed.memory.view() else {
        let why = "this host gives no descriptor of guest memory for reading alone";
        return reply(stream, refusal(RefusalCode::WrongState, why));
    };
    let slot = |slot: &mem::Memslot| SlotView {
        gpa: slot.gpa.0,
        len_bytes: slot.len_bytes,
        file_offset: slot.file_offset,
    };
    let slots = observed
        .memory
        .slots()
        .as_slice()
        .iter()
        .map(slot)
        .collect();
    let residency = shared
        .control
        .paging()
        .pager()
        .map(|pager| pager.residency_map());
    let residency = match residency.transpose() {
        Ok(residency) => residency,
        Err(error) => {
            let why = format!("cannot give the residency map away: {error}");
            return reply(stream, refusal(RefusalCode::WrongState, why));
        }
    };
    let kernel = observed.kernel.file();
    let view = MemoryView {
        life: observed.life,
        slots,
        has_residency: residency.is_some(),
        kernel_sha256: kernel.map(|(_, digest)| hex(&digest)),
    };
    let files: Vec<BorrowedFd<'_>> = [file]
        .into_iter()
        .chain(&residency)
        .chain(kernel.map(|(file, _)| file))
        .map(File::as_fd)
        .collect();
    send_with(stream, Outcome::View { view }, &files).is_ok()
}

/// Sends what the guest is apart from its memory, and what it stands on; whether the client took it. The guest should rest
/// for the client, which alone makes it of one moment with its memory.
pub(super) fn state(shared: &Shared, stream: &UnixStream) -> bool {
    let Some(observed) = shared.control.observed() else {
        return reply(stream, nothing_to_show());
    };
    let state = match shared.control.save(STATE_TIME) {
        Ok(state) => state,
        Err(error) => {
            let why = ::paging::with_causes(&error);
            return reply(stream, refusal(RefusalCode::WrongState, why));
        }
    };
    let ground = shared.control.ground();
    for disk in &ground.disks {
        if let Err(error) = disk.settle() {
            let why = format!("{} cannot be written out: {error}", disk.name());
            return reply(stream, refusal(RefusalCode::WrongState, why));
        }
    }
    let text = serde_json::to_vec(&StateText {
        plan: &ground.plan,
        disks: &ground.disk_ids,
        limits: shared.control.limits_said(),
        state: &state,
    });
    let written = text.map_err(io::Error::from).and_then(|text| sealed(&text));
    let text = match written {
        Ok(text) => text,
        Err(error) => {
            let why = format!("there is no memory for what the guest is: {error}");
            return reply(stream, refusal(RefusalCode::WrongState, why));
        }
    };
    let images = ground.modules.iter().map(|module| &module.image);
    let files: Vec<BorrowedFd<'_>> = [text.file(), observed.kernel.image().file()]
        .into_iter()
        .chain(images.map(Image::file))
        .take(FILES_MAX)
        .map(File::as_fd)
        .collect();
    let life = observed.life;
    send_with(stream, Outcome::State { life }, &files).is_ok()
}

/// What [`state`] sends first.
#[derive(Serialize)]
struct StateText<'a> {
    plan: &'a VmPlan,
    disks: &'a [(u64, u64)],
    limits: LimitsSaid,
    state: &'a LifeState,
}

/// Bytes in a memory file that nobody changes.
fn sealed(bytes: &[u8]) -> io::Result<MemFd> {
    let file = MemFd::sealable(c"mother-state", bytes.len() as u64)?;
    file.file().write_all_at(bytes, 0)?;
    file.seal()?;
    Ok(file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends a reply and descriptors with its first bytes.
fn send_with(
    stream: &UnixStream,
    outcome: Outcome,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let line = line(outcome);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(line.as_bytes())],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    send_rest(stream, &line.as_bytes()[sent..])
}

/// What is in the registers.
pub(super) fn registers(shared: &Shared) -> Outcome {
    match shared.control.observed() {
        Some(observed) => Outcome::Registers {
            life: observed.life,
            vcpus: observed.registers(ANSWER_TIME),
        },
        None => nothing_to_show(),
    }
}

/// The host's books.
pub(super) fn books(shared: &Shared) -> Outcome {
    let control = &shared.control;
    let Some(observed) = control.observed() else {
        return nothing_to_show();
    };
    let paging = control.paging().pager().map(|pager| pager.books());
    let books = HostBooks {
        life: observed.life,
        reboots: control.reboots(),
        engine: shared.control.engine().to_string(),
        paused: control.phase() == Phase::Paused,
        uptime_seconds: shared.start.elapsed().as_secs_f64(),
        cpu_seconds: host::cpu::process_cpu_time().as_secs_f64(),
        clock: clock(&observed),
        memory: memory(&observed, paging.as_ref()),
        host_cost: control.host_cost(),
        engine_memory: control.engine_memory(),
        vcpus: observed.vcpu_books(),
        devices: shared.devices.statuses(shared.recent.printed_bytes()),
        balloon: balloon(shared.devices.balloon()),
        claims: shared.devices.claims(),
        working_set: paging
            .as_ref()
            .and_then(|paging| paging.working_set.as_ref())
            .map(in_bytes),
        dirty_rate: paging
            .as_ref()
            .and_then(|paging| paging.dirty.as_ref())
            .map(in_bytes_a_second),
    };
    Outcome::Books {
        books: Box::new(books),
    }
}

fn clock(observed: &Observed) -> ClockBook {
    let clock = observed.time.clock();
    ClockBook {
        wall_at_start: Duration::from_nanos(clock.wall_at_start_ns).as_secs_f64(),
        guest_seconds: Duration::from_nanos(observed.time.now().0).as_secs_f64(),
        paused_seconds: observed.time.paused().as_secs_f64(),
        tsc_khz: clock.tsc_khz,
    }
}

fn memory(observed: &Observed, paging: Option<&Books>) -> MemoryBook {
    let memory = &observed.memory;
    let resident_bytes = memory.resident_bytes().unwrap_or(0);
    let given_back_bytes = memory.given_back_bytes();
    let paged_out = paging.map(places).unwrap_or_default();
    MemoryBook {
        configured_bytes: memory.slots().len_bytes(),
        given_bytes: resident_bytes
            + given_back_bytes
            + paged_out.iter().map(|place| place.value).sum::<u64>(),
        resident_bytes,
        given_back_bytes,
        paged_out,
        paging: paging.map(paging_book),
    }
}

fn balloon(reading: BalloonReading) -> BalloonBook {
    let claim = |(name, value): (&str, u64)| Counter {
        name: name.replace(' ', "_"),
        value,
    };
    BalloonBook {
        target_bytes: reading.target_bytes,
        claimed_bytes: reading.actual_bytes,
        inflated_bytes: reading.inflated_bytes,
        reported_bytes: reading.reported_bytes,
        claims: reading.statistics.into_iter().map(claim).collect(),
        claims_age_ms: reading.statistics_age.map(|age| age.as_millis() as u64),
    }
}
