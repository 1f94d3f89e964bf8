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
use paging::StartError;
use vcpu::{Engine, EngineError, LocalApics, Vcpu, VcpuState, Wires};
use x86::cpu_model::{self, Topology};
use x86::{CpuidTable, Gpa, Segment, Vector};

use crate::attach::{AttachError, Attachment};
use crate::boot::{self, Handover, ImageError};
use crate::console::ConsoleInput;
use crate::console::output::Output;
use crate::engine::EngineKind;
use crate::life::Life;
use crate::life::held::Held;
use crate::life::msr::MachineMsrs;
use crate::life::room::{Room, open_mailbox};
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

/// MTRR default type: enabled, fixed ranges enabled, write-back (SDM vol. 3, 12.11.2.1), as firmware leaves it.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 1 << 10 | 6;

/// Why a life could not be assembled.
#[derive(Debug)]
pub(crate) enum AssemblyError {
    Memory(mem::MemoryError),
    Image(ImageError),
    Engine(EngineError),
    Attach(AttachError),
    Paging(StartError),
}

impl Life {
    /// Assembles everything that `plan` says, ready to run, with its vCPUs.
    pub(crate) fn assemble(
        plan: &VmPlan,
        held: &Held,
        input: ConsoleInput,
        output: Output,
        attachments: &mut [Box<dyn Attachment>],
        maker: &VcpuMaker,
        begin_paging: impl FnOnce(&Arc<GuestMemory>) -> Result<(), StartError>,
    ) -> Result<(Life, Vec<Box<dyn Vcpu>>), AssemblyError> {
        let (memory, mut first) = memory(plan, held, begin_paging)?;
        let time = GuestTime::start();
        let mut vcpus = vcpus(plan, held, maker, &memory).map_err(AssemblyError::Engine)?;
        let mut board = board(plan, &memory, &time, &output, &vcpus.bells);
        set_first_states(&mut vcpus.vcpus, &mut first, &board, &time)
            .map_err(AssemblyError::Engine)?;
        board.set_apics(vcpus.local_apics);
        board.set_wires(vcpus.wires);
        let devices =
            devices(plan, held, &mut board, attachments, &memory).map_err(AssemblyError::Attach)?;
        let room = Room {
            board,
            msrs: MachineMsrs::default(),
            typed: Vec::new(),
            is_slow: false,
            mailbox: Arc::clone(&devices.mailbox),
        };
        let room = Arc::new(Lock::new(room));
        open_mailbox(&devices.mailbox, &room);
        let probing = Probing::new(&memory, &vcpus.bells, &devices.gate, vcpus.vcpus.len());
        let life = Life {
            probing: Arc::new(probing),
            memory,
            kernel: Arc::clone(&held.kernel),
            time,
            bells: vcpus.bells,
            monitors: vcpus.monitors,
            cpuid: vcpus.cpuid,
            exchange: Exchange::default(),
            alarm: devices.alarm,
            output,
            footprint: Arc::clone(&held.footprint),
            gate: devices.gate,
            quota: Arc::clone(&held.limits.cpu),
            threads: devices.threads,
            input: (plan.console == ConsoleKind::Serial).then_some(input),
            room,
            mailbox: devices.mailbox,
            over: AtomicBool::new(false),
            end: Lock::new(None),
        };
        Ok((life, vcpus.vcpus))
    }
}

/// Guest memory with everything in it that the guest finds there, and the state in which its first vCPU begins.
fn memory(
    plan: &VmPlan,
    held: &Held,
    begin_paging: impl FnOnce(&Arc<GuestMemory>) -> Result<(), StartError>,
) -> Result<(Arc<GuestMemory>, VcpuState), AssemblyError> {
    let slots = boot::slots(plan.memory_bytes);
    let map = boot::guest_map(&slots);
    let memory = GuestMemory::of_file(slots, Arc::clone(&held.memory));
    let memory = Arc::new(memory.map_err(AssemblyError::Memory)?);
    // Before the images are loaded: a limit holds from the first byte on.
    begin_paging(&memory).map_err(AssemblyError::Paging)?;
    let rsdp = place_acpi(plan.vcpu_count, &memory);
    let first = load_images(plan, held, &memory, &map, rsdp)?;
    Ok((memory, first))
}

/// The vCPUs, and what others know of them.
struct Vcpus {
    vcpus: Vec<Box<dyn Vcpu>>,
    cpuid: Vec<CpuidTable>,
    bells: Arc<Bells>,
    monitors: Arc<Vec<VcpuMonitor>>,
    local_apics: Option<Arc<dyn LocalApics>>,
    wires: Option<Arc<dyn Wires>>,
}

fn vcpus(
    plan: &VmPlan,
    held: &Held,
    maker: &VcpuMaker,
    memory: &Arc<GuestMemory>,
) -> Result<Vcpus, EngineError> {
    let cpuid: Vec<CpuidTable> = (0..plan.vcpu_count)
        .map(|id| cpuid(plan.vcpu_count, id, maker.limit.as_ref()))
        .collect();
    let Engine {
        vcpus,
        local_apics,
        wires,
    } = (maker.make)(maker.kind, memory, cpuid.clone())?;
    let bells = Arc::new(Bells::default());
    bells.set(vcpus.iter().map(|vcpu| Bell::new(vcpu.kicker())).collect());
    let monitors = Arc::new(held.crew.times().map(VcpuMonitor::new).collect());
    Ok(Vcpus {
        vcpus,
        cpuid,
        bells,
        monitors,
        local_apics,
        wires,
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

/// Where a vCPU starts that got SIPI with this page.
pub(crate) fn sipi_state(page: Vector, time: &GuestTime) -> VcpuState {
    let mut state = VcpuState {
        rip: 0,
        ..VcpuState::reset()
    };
    state.cs = Segment::real(u16::from(page) << 8, 0x9b);
    set_firmware_msrs(&mut state, time);
    state
}

/// The MSRs that firmware sets on every processor before it hands over, and the guest's own time.
fn set_firmware_msrs(state: &mut VcpuState, time: &GuestTime) {
    state.msrs.tsc_offset = time.tsc_offset();
    state.msrs.mtrr_def_type = MTRR_WRITE_BACK;
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
