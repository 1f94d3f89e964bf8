//! One life of a guest: from its first instruction to power-off, crash, or reset.
//!
//! A reset builds everything anew, memory, board and vCPUs, through the same assembly as the start. So a guest that
//! starts again finds exactly what it found the first time, and nothing of ours survives that could be stale.
//!
//! Locks, in the order in which they may be taken: the room (board and MSRs; held for one visit, never across guest
//! code or a write to the console), then the console's queues, an alarm or a bell. The end is under its own lock.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::acpi::AcpiPlan;
use devices::{Board, BoardEvent, BoardPlan, IrqSink, Nanos};
use mem::GuestMemory;
use vcpu::{EngineError, Vcpu, VcpuState};
use x86::cpu_model::{self, Topology};
use x86::{CpuidTable, Gpa};

use crate::alarm::Alarm;
use crate::bell::{Bell, Bells};
use crate::boot::{self, Handover, Image, ImageError, Module};
use crate::console::ConsoleInput;
use crate::gate::Gate;
use crate::msr::MachineMsrs;
use crate::output::Output;
use crate::plan::{ImagePlan, VmPlan};
use crate::report::Ending;
use crate::time::GuestTime;

/// Makes the vCPUs of one life on some engine, one for each CPUID table.
pub(crate) type MakeVcpus =
    dyn Fn(&Arc<GuestMemory>, Vec<CpuidTable>) -> Result<Vec<Box<dyn Vcpu>>, EngineError> + Send;

/// Bytes offered to the serial port at once.
const OFFERED_BYTES: usize = 64;
/// MTRR default type: enabled, fixed ranges enabled, write-back (SDM vol. 3, 12.11.2.1), as firmware leaves it.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 1 << 10 | 6;

/// Why a life is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// And the VM with it.
    Ending(Ending),
    /// The guest asked for a reset.
    Reset,
    /// The console's writer failed: nobody would see what the guest says.
    ConsoleLost,
}

/// Why a life could not be assembled.
#[derive(Debug)]
pub(crate) enum AssemblyError {
    Memory(mem::MemoryError),
    Image { path: String, source: ImageError },
    Engine(EngineError),
}

/// Board and MSRs: what vCPUs and the attendant visit one at a time.
pub(crate) struct Room {
    pub(crate) board: Board,
    pub(crate) msrs: MachineMsrs,
    /// Bytes typed that the serial port has no room for yet.
    typed: Vec<u8>,
}

/// What all threads of one life share.
pub(crate) struct Life {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) time: GuestTime,
    pub(crate) bells: Arc<Bells>,
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) output: Output,
    /// What all threads that do something for the guest pass.
    pub(crate) gate: Arc<Gate>,
    input: ConsoleInput,
    room: Mutex<Room>,
    over: AtomicBool,
    end: Mutex<Option<End>>,
}

impl Life {
    /// Assembles everything that `plan` says, ready to run, with its vCPUs.
    pub(crate) fn assemble(
        plan: &VmPlan,
        input: ConsoleInput,
        output: Output,
        make_vcpus: &MakeVcpus,
    ) -> Result<(Life, Vec<Box<dyn Vcpu>>), AssemblyError> {
        let slots = boot::slots(plan.memory_bytes);
        let map = boot::guest_map(&slots);
        let memory = Arc::new(GuestMemory::new(slots).map_err(AssemblyError::Memory)?);
        let rsdp = place_acpi(plan.vcpu_count, &memory);
        let mut state = load_images(plan, &memory, &map, rsdp)?;
        let time = GuestTime::start();
        set_firmware_msrs(&mut state, &time);
        let tables = (0..plan.vcpu_count).map(|vcpu_id| cpuid(plan.vcpu_count, vcpu_id)).collect();
        let mut vcpus = make_vcpus(&memory, tables).map_err(AssemblyError::Engine)?;
        vcpus[0].set_state(&state).map_err(AssemblyError::Engine)?;
        let bells = Arc::new(Bells::default());
        bells.set(vcpus.iter().map(|vcpu| Bell::new(vcpu.kicker())).collect());
        let board_plan =
            BoardPlan { vcpu_count: plan.vcpu_count, clock: time.clock(), has_debug_exit: plan.debug_exit };
        let sink = Arc::clone(&bells) as Arc<dyn IrqSink>;
        let board = Board::new(board_plan, Arc::clone(&memory), Box::new(output.clone()), sink);
        let room = Mutex::new(Room { board, msrs: MachineMsrs::default(), typed: Vec::new() });
        let alarm = Arc::new(Alarm::default());
        let (over, end) = (AtomicBool::new(false), Mutex::new(None));
        let gate = Arc::new(Gate::default());
        Ok((Life { memory, time, bells, alarm, output, gate, input, room, over, end }, vcpus))
    }

    /// Enters the room.
    pub(crate) fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether threads should come to their end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends this life and calls all its threads. The first reason counts.
    pub(crate) fn end(&self, reason: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.call_off();
    }

    /// Calls all threads to their end, also without a reason: one of them failed.
    pub(crate) fn call_off(&self) {
        self.over.store(true, Ordering::Release);
        self.bells.all().iter().for_each(Bell::ring_always);
        self.gate.call();
        vcpu::Kick::kick(&*self.alarm);
    }

    /// Why it ended.
    pub(crate) fn take_end(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Room {
    /// After a visit: offers what was typed, hears what the guest wants of the VM, and sets the alarm.
    pub(crate) fn settle(&mut self, life: &Life, now: Nanos) {
        self.offer_input(&life.input, now);
        if let Some(event) = self.board.take_event() {
            life.end(match event {
                BoardEvent::PowerOff => End::Ending(Ending::PoweredOff),
                BoardEvent::Reset => End::Reset,
                BoardEvent::DebugExit(status) => End::Ending(Ending::DebugExit(status)),
            });
        }
        life.alarm.set(self.board.deadline());
    }

    fn offer_input(&mut self, input: &ConsoleInput, now: Nanos) {
        while self.typed.len() < OFFERED_BYTES {
            let Some(byte) = input.take() else { break };
            self.typed.push(byte);
        }
        if !self.typed.is_empty() {
            let taken = self.board.type_console(now, &self.typed);
            self.typed.drain(..taken);
        }
    }
}

fn cpuid(vcpu_count: u32, vcpu_id: u32) -> CpuidTable {
    let topology = Topology { vcpu_count, vcpu_id };
    cpu_model::table(topology, host::cpu::cpuid, host::cpu::xcr0())
}

/// The MSRs that firmware sets on every processor before it hands over, and the guest's own time.
pub(crate) fn set_firmware_msrs(state: &mut VcpuState, time: &GuestTime) {
    state.msrs.tsc_offset = time.tsc_offset();
    state.msrs.mtrr_def_type = MTRR_WRITE_BACK;
}

/// Puts the tables that describe the board where firmware would have; returns the root pointer's address.
fn place_acpi(vcpu_count: u32, memory: &GuestMemory) -> Gpa {
    let tables = devices::acpi::build(&AcpiPlan { vcpu_count });
    for table in &tables {
        memory.write(table.gpa, &table.bytes).expect("tables lie in the first MiB, which every plan has");
    }
    tables[0].gpa
}

fn load_images(
    plan: &VmPlan,
    memory: &GuestMemory,
    map: &[boot::Range],
    rsdp: Gpa,
) -> Result<VcpuState, AssemblyError> {
    let open =
        |image: &ImagePlan| Image::open(&image.path).map_err(|source| image_error(&image.path, source));
    let kernel = open(&plan.kernel)?;
    let mut modules = Vec::new();
    for module in &plan.modules {
        modules.push(Module { image: open(module)?, string: module.string.clone() });
    }
    let handover = Handover {
        memory,
        map,
        rsdp,
        kernel: &kernel,
        kernel_name: &plan.kernel.path.to_string_lossy(),
        cmdline: &plan.cmdline,
        modules: &modules,
    };
    boot::load(&handover).map_err(|source| image_error(&plan.kernel.path, source))
}

fn image_error(path: &Path, source: ImageError) -> AssemblyError {
    AssemblyError::Image { path: path.display().to_string(), source }
}
