//! A bare machine for tests: long mode, tables that a test can change, and a handler for every vector that halts.
//!
//! The first GiB is mapped one to one for ring 0, in large pages. From [`WINDOW`] on a test maps what it likes. An
//! exception or interrupt ends in a HLT at a place of its own, so that the test sees which one it was and what it
//! left on the stack.

use std::sync::Arc;

use mem::GuestMemory;
use soft::{Config, Soft, SoftVcpu};
use vcpu::{Exit, Reply, Vcpu, VcpuState, gpr};
use x86::cpu_model::{self, Topology};
use x86::{Cr4, DescriptorTable, Efer, Gpa, Segment};

const ROOT: u64 = 0x1000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const STUBS: u64 = 0x6000;
const TSS: u64 = 0x7000;
/// Top of the stack that ring 0 gets when an exception comes from ring 3.
const RING0_STACK: u64 = 0x9000;
const TABLES: u64 = 0xa000;
const MEMORY_BYTES: u64 = 16 << 20;
const STACK: u64 = 0x20_0000;

/// Where the driving code of a test lies, physically and virtually.
pub(crate) const DRIVER: u64 = 0x10_0000;
/// First address that a test may map as it likes.
pub(crate) const WINDOW: u64 = 0x4000_0000;

/// Page-table bits.
pub(crate) const P: u64 = 1;
pub(crate) const W: u64 = 2;
pub(crate) const U: u64 = 4;
pub(crate) const LARGE: u64 = 0x80;
pub(crate) const G: u64 = 0x100;
pub(crate) const NX: u64 = 1 << 63;

const GDT_ENTRIES: [u64; 7] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// How a stretch of a test's program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Met {
    /// It wrote this to a port.
    Out(u32),
    /// An exception or interrupt: vector, error code (0 if there is none), RIP, and CR2 for page faults (0 otherwise).
    Vector(u8, u32, u64, u64),
    /// A HLT of its own.
    Halt,
}

/// See the module's head.
pub(crate) struct Machine {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) vcpus: Vec<SoftVcpu>,
    pub(crate) engine: Arc<Soft>,
    next_table: u64,
}

impl Machine {
    /// A machine with this many vCPUs.
    pub(crate) fn new(vcpu_count: u32) -> Machine {
        Machine::with(vcpu_count, Config::default())
    }

    /// The same with another configuration of the engine.
    pub(crate) fn with(vcpu_count: u32, config: Config) -> Machine {
        let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES).unwrap());
        let engine = Soft::new(Arc::clone(&memory), config).unwrap();
        let vcpus = (0..vcpu_count).map(|vcpu_id| {
            let topology = Topology {
                vcpu_count,
                vcpu_id,
            };
            let cpuid = cpu_model::table(topology, host::cpu::cpuid, host::cpu::xcr0());
            engine.create_vcpu(cpuid).unwrap()
        });
        let machine = Machine {
            vcpus: vcpus.collect(),
            engine,
            memory,
            next_table: TABLES,
        };
        machine.put(ROOT, 0x2000 | P | W | U);
        machine.put(0x2000, 0x3000 | P | W);
        for page in 0..512 {
            machine.put(0x3000 + page * 8, page << 21 | P | W | LARGE);
        }
        for (index, entry) in (0..).zip(GDT_ENTRIES) {
            machine.put(GDT + index * 8, entry);
        }
        machine.put(TSS + 4, RING0_STACK);
        // The I/O permission map begins behind the limit: there is none.
        machine.write(TSS + 0x66, &0x68_u16.to_le_bytes());
        for vector in 0..256 {
            let stub = STUBS + vector * 16;
            machine.write(stub, b"\xf4");
            machine.put(IDT + vector * 16, stub | 0x10 << 16 | 0xee00_u64 << 32);
        }
        machine
    }

    /// State of a vCPU that starts `code` at [`DRIVER`] in ring 0.
    pub(crate) fn start(&mut self, code: &[u8]) -> VcpuState {
        self.write(DRIVER, code);
        let mut state = VcpuState::long_mode(ROOT);
        state.rip = DRIVER;
        state.gprs[gpr::RSP] = STACK;
        state.cr4 |= Cr4::OSFXSR | Cr4::PGE | Cr4::SMEP;
        state.efer |= Efer::NXE;
        state.gdtr = DescriptorTable {
            base: GDT,
            limit: 0xff,
        };
        state.idtr = DescriptorTable {
            base: IDT,
            limit: 0xfff,
        };
        state.tr = Segment {
            selector: 0x40,
            base: TSS,
            limit: 0x67,
            attributes: 0x8b,
        };
        state
    }

    /// Writes as a device does.
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        self.memory.write(Gpa(gpa), bytes).unwrap();
    }

    pub(crate) fn put(&self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes());
    }

    pub(crate) fn word(&self, gpa: u64) -> u64 {
        self.memory.read_value(Gpa(gpa), 8).unwrap()
    }

    /// Maps a page of 4 KiB, or of 2 MiB if `flags` has [`LARGE`]; `flags` without [`P`] takes it away. Flushes nothing.
    pub(crate) fn map(&mut self, gva: u64, gpa: u64, flags: u64) {
        let leaf = if flags & LARGE == 0 { 12 } else { 21 };
        let mut table = ROOT;
        for level in [39, 30, 21].into_iter().filter(|&level| level > leaf) {
            let at = table + (gva >> level & 0x1ff) * 8;
            if self.word(at) & P == 0 {
                self.put(at, self.next_table | P | W | U);
                self.next_table += 0x1000;
            }
            table = self.word(at) & 0xf_ffff_ffff_f000;
        }
        self.put(table + (gva >> leaf & 0x1ff) * 8, gpa | flags);
    }

    /// Runs a vCPU until the test has to look.
    pub(crate) fn run(&mut self, index: usize) -> Met {
        let vcpu = &mut self.vcpus[index];
        match vcpu.run(Reply::Done).unwrap() {
            Exit::PioWrite { value, .. } => Met::Out(value),
            Exit::Halt => {
                let state = vcpu.state().unwrap();
                let Some(at) = (state.rip - 1)
                    .checked_sub(STUBS)
                    .filter(|at| *at < 256 * 16)
                else {
                    return Met::Halt;
                };
                let vector = (at / 16) as u8;
                let has_code = matches!(vector, 8 | 10..=14 | 17);
                let stack = state.gprs[gpr::RSP];
                let address = if vector == 14 { state.cr2 } else { 0 };
                if has_code {
                    let code = self.word(stack) as u32;
                    Met::Vector(vector, code, self.word(stack + 8), address)
                } else {
                    Met::Vector(vector, 0, self.word(stack), address)
                }
            }
            exit => panic!("unexpected exit {exit:?}"),
        }
    }
}
