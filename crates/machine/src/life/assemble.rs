//! From a plan to a life that is ready to run.

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use api::ConsoleKind;
use devices::acpi::AcpiPlan;
use devices::virtio::{Links, VirtioFunction};
use devices::{Board, BoardPlan, IrqSink};
use mem::GuestMemory;
use paging::StartError;
use vcpu::{Engine, EngineError, Vcpu, VcpuState};
use x86::cpu_model::{self, Topology};
use x86::{CpuidTable, Gpa, Segment, Vector};

use crate::attach::device_status::DeviceCounters;
use crate::attach::{AttachError, Attachment};
use crate::boot::{self, Handover, ImageError};
use crate::console::ConsoleInput;
use crate::console::output::Output;
use crate::engine::EngineKind;
use crate::held::Held;
use crate::life::Life;
use crate::life::msr::MachineMsrs;
use crate::life::room::{Room, open_mailbox};
use crate::plan::VmPlan;
use crate::threads::alarm::Alarm;
use crate::threads::bell::{Bell, Bells};
use crate::threads::device_threads::DeviceThreads;
use crate::threads::exchange::Exchange;
use crate::threads::gate::Gate;
use crate::threads::mailbox::{Mailbox, Sender};
use crate::threads::observe::VcpuMonitor;
use crate::threads::patience::Patience;
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
        let slots = boot::slots(plan.memory_bytes);
        let map = boot::guest_map(&slots);
        let memory = GuestMemory::of_file(slots, Arc::clone(&held.memory));
        let memory = Arc::new(memory.map_err(AssemblyError::Memory)?);
        // Before the images are loaded: a limit holds from the first byte on.
        begin_paging(&memory).map_err(AssemblyError::Paging)?;
        let rsdp = place_acpi(plan.vcpu_count, &memory);
        let mut state = load_images(plan, held, &memory, &map, rsdp)?;
        let time = GuestTime::start();
        let cpuid: Vec<CpuidTable> = (0..plan.vcpu_count)
            .map(|id| cpuid(plan.vcpu_count, id, maker.limit.as_ref()))
            .collect();
        let engine =
            (maker.make)(maker.kind, &memory, cpuid.clone()).map_err(AssemblyError::Engine)?;
        let Engine {
            mut vcpus,
            local_apics,
            wires,
        } = engine;
        let bells = Arc::new(Bells::default());
        bells.set(vcpus.iter().map(|vcpu| Bell::new(vcpu.kicker())).collect());
        let monitors = Arc::new(held.crew.schedules().map(VcpuMonitor::new).collect());
        let board_plan = BoardPlan {
            vcpu_count: plan.vcpu_count,
            clock: time.clock(),
            has_debug_exit: plan.debug_exit,
        };
        let sink = Arc::clone(&bells) as Arc<dyn IrqSink>;
        let is_serial = plan.console == ConsoleKind::Serial;
        let serial: Box<dyn Write + Send> = if is_serial {
            Box::new(output.clone())
        } else {
            Box::new(std::io::sink())
        };
        let mut board = Board::new(board_plan, Arc::clone(&memory), serial, sink);
        set_first_states(&mut vcpus, &mut state, &board, &time).map_err(AssemblyError::Engine)?;
        board.set_apics(local_apics);
        board.set_wires(wires);
        let alarm = Arc::new(Alarm::default());
        let gate = Arc::new(Gate::default());
        let attendant = Arc::clone(&alarm) as Arc<dyn vcpu::Kick>;
        let patience = Patience::new(plan.vcpu_count, held.core_count);
        let threads = Arc::new(DeviceThreads::new(Arc::clone(&gate), attendant, patience));
        let mailbox = Arc::new(Mailbox::default());
        let interrupts = Arc::new(Sender(Arc::clone(&mailbox)));
        let links = Links {
            memory: Arc::clone(&memory),
            interrupts,
            threads: Arc::<DeviceThreads>::clone(&threads),
        };
        let counters =
            add_devices(&mut board, attachments, &links).map_err(AssemblyError::Attach)?;
        let msrs = MachineMsrs::default();
        let room = Room {
            board,
            msrs,
            typed: Vec::new(),
            is_slow: false,
            mailbox: Arc::clone(&mailbox),
        };
        let room = Arc::new(Mutex::new(room));
        open_mailbox(&mailbox, &room);
        let (over, end) = (AtomicBool::new(false), Mutex::new(None));
        let input = is_serial.then_some(input);
        let life = Life {
            memory,
            kernel: Arc::clone(&held.kernel),
            time,
            bells,
            monitors,
            cpuid,
            exchange: Exchange::default(),
            alarm,
            output,
            footprint: Arc::clone(&held.footprint),
            gate,
            threads,
            counters,
            input,
            room,
            mailbox,
            over,
            end,
        };
        Ok((life, vcpus))
    }
}

/// Puts the devices of all attachments into their slots.
fn add_devices(
    board: &mut Board,
    attachments: &mut [Box<dyn Attachment>],
    links: &Links,
) -> Result<Vec<DeviceCounters>, AttachError> {
    let mut counters = Vec::new();
    for attachment in attachments {
        let (slot, device) = (attachment.slot(), attachment.device()?);
        counters.push(DeviceCounters {
            name: device.name().to_owned(),
            metrics: attachment.metrics(),
        });
        board.pci().add(
            slot,
            0,
            Box::new(VirtioFunction::new(slot, device, links.clone())),
        );
    }
    Ok(counters)
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
        kernel_name: &plan.kernel.path.to_string_lossy(),
        cmdline: &plan.cmdline,
        modules: &held.modules,
    };
    boot::load(&handover).map_err(AssemblyError::Image)
}
