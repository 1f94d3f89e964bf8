//! From a plan to a life that is ready to run.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use api::ConsoleKind;
use devices::acpi::AcpiPlan;
use devices::virtio::{Links, VirtioFunction};
use devices::{Board, BoardPlan, IrqSink};
use host::lock::Lock;
use mem::GuestMemory;
use paging::{Base, StartError};
use vcpu::{Engine, EngineError, Vcpu, VcpuState};
use x86::cpu_model::{self, Topology};
use x86::{CpuidTable, Gpa};

use crate::attach::{AttachError, Attachment};
use crate::boot::{self, Handover, ImageError};
use crate::console::ConsoleInput;
use crate::console::output::Output;
use crate::engine::EngineKind;
use crate::life::Life;
use crate::life::firmware::{fresh_generation, set_firmware_msrs};
use crate::life::held::Held;
use crate::life::msr::MachineMsrs;
use crate::life::restored::Restored;
use crate::life::room::{Room, open_mailbox};
use crate::life::saved::{Begun, GiveError, Ready, SavedError};
use crate::outcome::rest::Rest;
use crate::plan::VmPlan;
use crate::plan::images::guests_name;
use crate::threads::alarm::Alarm;
use crate::threads::bell::{Bell, Bells};
use crate::threads::device_threads::DeviceThreads;
use crate::threads::exchange::Exchange;
use crate::threads::gate::Gate;
use crate::threads::mailbox::{Mailbox, Sender};
use crate::threads::observe::VcpuMonitor;
use crate::threads::patience::Patience;
use crate::threads::probing::Probing;
use crate::threads::time::GuestTime;

/// Makes the vCPUs of one life on an engine, one for each CPUID table.
pub(crate) type MakeVcpus =
    dyn Fn(EngineKind, &Arc<GuestMemory>, Vec<CpuidTable>) -> Result<Engine, EngineError> + Send;

/// How a life gets its vCPUs.
pub(crate) struct VcpuMaker {
    /// On which engine it begins.
    pub(crate) kind: EngineKind,
    pub(crate) make: Box<MakeVcpus>,
    /// What the guest's CPUID is narrowed to.
    pub(crate) limit: Option<CpuidTable>,
}

/// Why a life could not be assembled.
#[derive(Debug)]
pub(crate) enum AssemblyError {
    Memory(mem::MemoryError),
    Image(ImageError),
    Engine(EngineError),
    Attach(AttachError),
    Paging(StartError),
    Saved(SavedError),
}

impl From<GiveError> for AssemblyError {
    fn from(error: GiveError) -> AssemblyError {
        match error {
            GiveError::Saved(error) => AssemblyError::Saved(error),
            GiveError::Engine(error) => AssemblyError::Engine(error),
        }
    }
}

/// How a life begins.
pub(crate) enum Begin {
    /// As a machine that is switched on.
    Boot,
    /// As the one that was saved.
    Saved(Box<Restored>),
}

impl Life {
    /// Assembles everything that `plan` says, ready to run, with its vCPUs.
    pub(crate) fn assemble(
        plan: &VmPlan,
        held: &Held,
        begin: Begin,
        (input, output): (ConsoleInput, Output),
        attachments: &mut [Box<dyn Attachment>],
        maker: &VcpuMaker,
        begin_paging: impl FnOnce(&Arc<GuestMemory>, Option<&Arc<dyn Base>>) -> Result<bool, StartError>,
    ) -> Result<(Life, Vec<Ready>), AssemblyError> {
        let memory = memory(plan, held, &begin, begin_paging)?;
        let time = match &begin {
            Begin::Boot => GuestTime::start(),
            Begin::Saved(restored) => restored.time().map_err(AssemblyError::Saved)?,
        };
        let cpuid = cpuid_tables(plan, maker, &begin)?;
        let mut vcpus = vcpus(held, maker, &memory, cpuid).map_err(AssemblyError::Engine)?;
        let mut board = board(plan, &memory, &time, &output, &vcpus.bells);
        let devices =
            devices(plan, held, &mut board, attachments, &memory).map_err(AssemblyError::Attach)?;
        let begun = match begin {
            Begin::Boot => boot(plan, held, &memory, &mut board, &mut vcpus.engine, &time)?,
            Begin::Saved(restored) => {
                // Devices' threads begin with their devices, and do nothing until the life runs.
                devices.gate.shut();
                restored.give(&mut board, &mut vcpus.engine, &time)?
            }
        };
        for (monitor, earlier) in vcpus.monitors.iter().zip(begun.times) {
            earlier
                .into_iter()
                .for_each(|times| monitor.goes_on_from(times));
        }
        let room = Room {
            board,
            msrs: begun.msrs,
            typed: begun.typed,
            is_slow: false,
            mailbox: Arc::clone(&devices.mailbox),
        };
        let room = Arc::new(Lock::new(room));
        open_mailbox(&devices.mailbox, &room);
        let probing = Probing::new(&memory, &vcpus.bells, &devices.gate, begun.rests.len());
        let life = Life {
            probing: Arc::new(probing),
            memory,
            kernel: Arc::clone(&held.kernel),
            time,
            bells: vcpus.bells,
            monitors: vcpus.monitors,
            cpuid: vcpus.cpuid,
            seats: held.profiler.as_ref().map(|it| Arc::clone(it.seats())),
            exchange: Exchange::default(),
            alarm: devices.alarm,
            output,
            footprint: Arc::clone(&held.footprint),
            gate: devices.gate,
            quota: Arc::clone(&held.limits.cpu),
            engine_limit: Arc::clone(&held.limits.engine),
            threads: devices.threads,
            input: (plan.console == ConsoleKind::Serial).then_some(input),
            room,
            mailbox: devices.mailbox,
            over: AtomicBool::new(false),
            end: Lock::new(None),
        };
        Ok((
            life,
            vcpus.engine.vcpus.into_iter().zip(begun.rests).collect(),
        ))
    }
}

/// Guest memory: empty, or with all that was saved in it, most of it still where it was saved.
fn memory(
    plan: &VmPlan,
    held: &Held,
    begin: &Begin,
    begin_paging: impl FnOnce(&Arc<GuestMemory>, Option<&Arc<dyn Base>>) -> Result<bool, StartError>,
) -> Result<Arc<GuestMemory>, AssemblyError> {
    let slots = boot::slots(plan.memory_bytes);
    let file = Arc::clone(&held.memory);
    let base = match begin {
        Begin::Boot => None,
        Begin::Saved(restored) => restored.base(),
    };
    let is_in_file = matches!(begin, Begin::Saved(_)) && base.is_none();
    let memory = match is_in_file {
        true => GuestMemory::as_it_is(slots, file),
        false => GuestMemory::of_file(slots, file),
    };
    let memory = Arc::new(memory.map_err(AssemblyError::Memory)?);
    // Before the images are loaded: a limit holds from the first byte on.
    let stands_on_it = begin_paging(&memory, base).map_err(AssemblyError::Paging)?;
    if let Begin::Saved(restored) = begin
        && !stands_on_it
    {
        restored.fill(&memory).map_err(AssemblyError::Saved)?;
    }
    Ok(memory)
}

/// As a machine that is switched on: everything in memory that the guest finds there, vCPUs as firmware leaves them.
fn boot(
    plan: &VmPlan,
    held: &Held,
    memory: &Arc<GuestMemory>,
    board: &mut Board,
    engine: &mut Engine,
    time: &GuestTime,
) -> Result<Begun, AssemblyError> {
    let map = boot::guest_map(memory.slots());
    let rsdp = place_acpi(plan.vcpu_count, memory);
    place_smbios(memory);
    fresh_generation().write(memory);
    let mut first = load_images(plan, held, memory, &map, rsdp)?;
    set_first_states(&mut engine.vcpus, &mut first, board, time).map_err(AssemblyError::Engine)?;
    board.set_apics(engine.local_apics.clone());
    board.set_wires(engine.wires.clone());
    // An engine with local APICs knows itself which vCPUs wait.
    let runs = engine.vcpus.iter().enumerate();
    let runs = runs.map(|(vcpu_id, vcpu)| vcpu_id == 0 || vcpu.has_local_apic());
    let rest = |runs| if runs { Rest::None } else { Rest::WaitsForSipi };
    Ok(Begun {
        rests: runs.map(rest).collect(),
        msrs: MachineMsrs::default(),
        typed: Vec::new(),
        times: Vec::new(),
    })
}

/// The vCPUs, and what others know of them.
struct Vcpus {
    engine: Engine,
    cpuid: Vec<CpuidTable>,
    bells: Arc<Bells>,
    monitors: Arc<Vec<VcpuMonitor>>,
}

/// What each vCPU's CPUID shows: what this host has, or what the guest was always shown, if this host has that.
fn cpuid_tables(
    plan: &VmPlan,
    maker: &VcpuMaker,
    begin: &Begin,
) -> Result<Vec<CpuidTable>, AssemblyError> {
    let offered: Vec<CpuidTable> = (0..plan.vcpu_count)
        .map(|id| cpuid(plan.vcpu_count, id, maker.limit.as_ref()))
        .collect();
    match begin {
        Begin::Boot => Ok(offered),
        Begin::Saved(restored) => {
            let cpuid = restored.cpuid(&offered).map_err(AssemblyError::Saved)?;
            Ok(cpuid.to_vec())
        }
    }
}

fn vcpus(
    held: &Held,
    maker: &VcpuMaker,
    memory: &Arc<GuestMemory>,
    cpuid: Vec<CpuidTable>,
) -> Result<Vcpus, EngineError> {
    let engine = (maker.make)(maker.kind, memory, cpuid.clone())?;
    held.limits.engine.serve(engine.memory.as_ref());
    let bells = Arc::new(Bells::default());
    let vcpus = &engine.vcpus;
    bells.set(vcpus.iter().map(|vcpu| Bell::new(vcpu.kicker())).collect());
    let monitors = Arc::new(held.crew.times().map(VcpuMonitor::new).collect());
    Ok(Vcpus {
        engine,
        cpuid,
        bells,
        monitors,
    })
}

/// The board without PCI devices.
fn board(
    plan: &VmPlan,
    memory: &Arc<GuestMemory>,
    time: &GuestTime,
    output: &Output,
    bells: &Arc<Bells>,
) -> Board {
    let board_plan = BoardPlan {
        vcpu_count: plan.vcpu_count,
        clock: time.clock(),
        has_debug_exit: plan.debug_exit,
    };
    let serial: Box<dyn Write + Send> = match plan.console {
        ConsoleKind::Serial => Box::new(output.clone()),
        ConsoleKind::Virtio => Box::new(std::io::sink()),
    };
    let sink = Arc::clone(bells) as Arc<dyn IrqSink>;
    Board::new(board_plan, Arc::clone(memory), serial, sink)
}

/// What devices' threads have to do with the rest of the machine.
struct DeviceSide {
    alarm: Arc<Alarm>,
    gate: Arc<Gate>,
    threads: Arc<DeviceThreads>,
    mailbox: Arc<Mailbox>,
}

/// Puts the devices of all attachments into their slots.
fn devices(
    plan: &VmPlan,
    held: &Held,
    board: &mut Board,
    attachments: &mut [Box<dyn Attachment>],
    memory: &Arc<GuestMemory>,
) -> Result<DeviceSide, AttachError> {
    let alarm = Arc::new(Alarm::default());
    let gate = Arc::new(Gate::default());
    let attendant = Arc::clone(&alarm) as Arc<dyn vcpu::Kick>;
    let patience = Patience::new(plan.vcpu_count, held.core_count);
    let threads = DeviceThreads::new(
        Arc::clone(&gate),
        attendant,
        patience,
        Arc::clone(&held.helper),
    );
    let threads = Arc::new(threads);
    let mailbox = Arc::new(Mailbox::default());
    let links = Links {
        memory: Arc::clone(memory),
        interrupts: Arc::new(Sender(Arc::clone(&mailbox))),
        threads: Arc::<DeviceThreads>::clone(&threads),
    };
    for attachment in attachments {
        let slot = attachment.slot();
        let device = attachment.device()?;
        let function = VirtioFunction::new(slot, device, links.clone());
        board.pci().add(slot, 0, Box::new(function));
    }
    Ok(DeviceSide {
        alarm,
        gate,
        threads,
        mailbox,
    })
}

fn cpuid(vcpu_count: u32, vcpu_id: u32, limit: Option<&CpuidTable>) -> CpuidTable {
    let topology = Topology {
        vcpu_count,
        vcpu_id,
    };
    let mut table = cpu_model::table(topology, host::cpu::cpuid, host::cpu::xcr0());
    if let Some(limit) = limit {
        cpu_model::narrow(&mut table, limit);
    }
    table
}

/// The states in which vCPUs begin: the first in `first`, as the boot protocol wants it, the others waiting for SIPI.
fn set_first_states(
    vcpus: &mut [Box<dyn Vcpu>],
    first: &mut VcpuState,
    board: &Board,
    time: &GuestTime,
) -> Result<(), EngineError> {
    for (vcpu_id, vcpu) in (0..).zip(vcpus) {
        let mut waiting = VcpuState {
            waits_for_sipi: true,
            ..VcpuState::reset()
        };
        let state = if vcpu_id == 0 {
            &mut *first
        } else {
            &mut waiting
        };
        set_firmware_msrs(state, time);
        if vcpu.has_local_apic() {
            state.local_apic = board.apic_state(vcpu_id, time.now());
        } else if vcpu_id != 0 {
            // The machine sets it when it comes to that.
            continue;
        }
        vcpu.set_state(state)?;
    }
    Ok(())
}

/// Puts the tables that describe the board where firmware would have; returns the root pointer's address.
fn place_acpi(vcpu_count: u32, memory: &GuestMemory) -> Gpa {
    let tables = devices::acpi::build(&AcpiPlan { vcpu_count });
    for table in &tables {
        memory
            .write(table.gpa, &table.bytes)
            .expect("tables lie in the first MiB, which every plan has");
    }
    tables[0].gpa
}

/// Puts the tables that say what machine it is where firmware would have; guests search for them.
fn place_smbios(memory: &GuestMemory) {
    for (gpa, bytes) in devices::smbios::build() {
        memory
            .write(gpa, &bytes)
            .expect("tables lie in the first MiB, which every plan has");
    }
}

fn load_images(
    plan: &VmPlan,
    held: &Held,
    memory: &GuestMemory,
    map: &[boot::Range],
    rsdp: Gpa,
) -> Result<VcpuState, AssemblyError> {
    let handover = Handover {
        memory,
        map,
        rsdp,
        kernel: held.kernel.image(),
        kernel_name: &guests_name(&plan.kernel.path),
        cmdline: &plan.cmdline,
        modules: &held.modules,
    };
    boot::load(&handover).map_err(AssemblyError::Image)
}
