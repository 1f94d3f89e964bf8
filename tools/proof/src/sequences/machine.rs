//! The engine's side: a guest whose kernel is a page of code that runs rounds.
//!
//! Between rounds nothing may be given to the engine from outside but memory: setting a vCPU's state would flush what is
//! to be tested. So the guest's kernel does what a real one does: the harness writes page tables and the order for the
//! next round while the guest waits at a port, the kernel invalidates the pages that changed, loads all registers and
//! returns to ring 3; whatever exception comes, it saves all registers and goes to the port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use mem::GuestMemory;
use vcpu::{Exit, Reply, Vcpu, gpr};
use x86::paging;
use x86::{Gpa, Rflags};

use crate::arena;
use crate::case::{End, Outcome, Registers, XSAVE_BYTES, selector};
use crate::engine::{self, MakeVcpu};
use crate::rounds::{Change, PAGES, Round, Sequence, WINDOW};

/// Where the kernel's code and the order lie, in the first pages that ring 0 sees.
const KERNEL_CODE: u64 = 0x7000;
const SAVE_ALL: u64 = KERNEL_CODE + 0x200;
const ORDER: u64 = 0x8000;
/// The port at which the kernel waits.
const READY: u16 = 0xf0;

/// Places in the order: general registers first, then what IRETQ pops.
const FRAME: u64 = 0x80;
const VECTOR: u64 = 0xa8;
const ERROR_CODE: u64 = 0xb0;
/// Number of pages to invalidate, and behind it their addresses.
const INVALIDATE: u64 = 0xb8;
const FAULT_ADDRESS: u64 = 0x108;
const DATA_SELECTOR: u64 = 0x110;
const XSAVE: u64 = 0x400;

/// Runs the order. RBX points to it.
const RUN: &[&[u8]] = &[
    b"\x48\x8d\x1d\xf9\x0f\0\0",   // lea rbx, [rip + ORDER]
    b"\xe6\xf0",                   // 1: out READY, al
    b"\x48\x8b\x8b\xb8\0\0\0",     // mov rcx, [rbx + INVALIDATE]
    b"\xe3\x10",                   // 2: jrcxz 3
    b"\x48\x8b\x84\xcb\xb8\0\0\0", // mov rax, [rbx + rcx * 8 + INVALIDATE]
    b"\x0f\x01\x38",               // invlpg [rax]
    b"\x48\xff\xc9",               // dec rcx
    b"\xeb\xee",                   // jmp 2
    b"\x8b\x83\x10\x01\0\0",       // 3: mov eax, [rbx + DATA_SELECTOR]
    b"\x8e\xd8",                   // mov ds, eax
    b"\x8e\xc0",                   // mov es, eax
    b"\xb8\x07\0\0\0",             // mov eax, 7
    b"\x31\xd2",                   // xor edx, edx
    b"\x48\x0f\xae\xab\0\x04\0\0", // xrstor64 [rbx + XSAVE]
    b"\x48\x8d\xa3\x80\0\0\0",     // lea rsp, [rbx + FRAME]
    b"\x48\x8b\x03",               // mov rax, [rbx]
    b"\x48\x8b\x4b\x08",           // mov rcx, [rbx + 8]
    b"\x48\x8b\x53\x10",           // mov rdx, [rbx + 0x10]
    b"\x48\x8b\x6b\x28",           // mov rbp, [rbx + 0x28]
    b"\x48\x8b\x73\x30",           // mov rsi, [rbx + 0x30]
    b"\x48\x8b\x7b\x38",           // mov rdi, [rbx + 0x38]
    b"\x4c\x8b\x43\x40",           // mov r8, [rbx + 0x40]
    b"\x4c\x8b\x4b\x48",           // mov r9, [rbx + 0x48]
    b"\x4c\x8b\x53\x50",           // mov r10, [rbx + 0x50]
    b"\x4c\x8b\x5b\x58",           // mov r11, [rbx + 0x58]
    b"\x4c\x8b\x63\x60",           // mov r12, [rbx + 0x60]
    b"\x4c\x8b\x6b\x68",           // mov r13, [rbx + 0x68]
    b"\x4c\x8b\x73\x70",           // mov r14, [rbx + 0x70]
    b"\x4c\x8b\x7b\x78",           // mov r15, [rbx + 0x78]
    b"\x48\x8b\x5b\x18",           // mov rbx, [rbx + 0x18]
    b"\x48\xcf",                   // iretq
];

/// Saves what an exception found. On the stack: vector, error code, and what IRETQ pops.
const SAVE: &[&[u8]] = &[
    b"\x48\x89\x1d\x11\x0e\0\0",   // mov [rip + ORDER + 0x18], rbx
    b"\x48\x8d\x1d\xf2\x0d\0\0",   // lea rbx, [rip + ORDER]
    b"\x48\x89\x03",               // mov [rbx], rax
    b"\x48\x89\x4b\x08",           // mov [rbx + 8], rcx
    b"\x48\x89\x53\x10",           // mov [rbx + 0x10], rdx
    b"\x48\x89\x6b\x28",           // mov [rbx + 0x28], rbp
    b"\x48\x89\x73\x30",           // mov [rbx + 0x30], rsi
    b"\x48\x89\x7b\x38",           // mov [rbx + 0x38], rdi
    b"\x4c\x89\x43\x40",           // mov [rbx + 0x40], r8
    b"\x4c\x89\x4b\x48",           // mov [rbx + 0x48], r9
    b"\x4c\x89\x53\x50",           // mov [rbx + 0x50], r10
    b"\x4c\x89\x5b\x58",           // mov [rbx + 0x58], r11
    b"\x4c\x89\x63\x60",           // mov [rbx + 0x60], r12
    b"\x4c\x89\x6b\x68",           // mov [rbx + 0x68], r13
    b"\x4c\x89\x73\x70",           // mov [rbx + 0x70], r14
    b"\x4c\x89\x7b\x78",           // mov [rbx + 0x78], r15
    b"\x8f\x83\xa8\0\0\0",         // pop [rbx + VECTOR]
    b"\x8f\x83\xb0\0\0\0",         // pop [rbx + ERROR_CODE]
    b"\x8f\x83\x80\0\0\0",         // pop [rbx + FRAME]
    b"\x8f\x83\x88\0\0\0",         // pop [rbx + FRAME + 8]
    b"\x8f\x83\x90\0\0\0",         // pop [rbx + FRAME + 0x10]
    b"\x8f\x83\x98\0\0\0",         // pop [rbx + FRAME + 0x18]
    b"\x8f\x83\xa0\0\0\0",         // pop [rbx + FRAME + 0x20]
    b"\x0f\x20\xd0",               // mov rax, cr2
    b"\x48\x89\x83\x08\x01\0\0",   // mov [rbx + FAULT_ADDRESS], rax
    b"\xb8\x07\0\0\0",             // mov eax, 7
    b"\x31\xd2",                   // xor edx, edx
    b"\x48\x0f\xae\xa3\0\x04\0\0", // xsave64 [rbx + XSAVE]
    b"\xe9\x7a\xfd\xff\xff",       // jmp 1
];

/// A guest machine around an engine that runs sequences.
pub struct Machine {
    make: MakeVcpu,
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    progress: Arc<AtomicU64>,
    /// Page-table entries of the window's pages.
    entries: [Gpa; PAGES],
}

impl Machine {
    /// A machine around what `make` makes.
    ///
    /// # Errors
    /// When the engine does not start.
    pub fn new(make: MakeVcpu) -> anyhow::Result<Machine> {
        let memory = Arc::new(GuestMemory::flat(engine::MEMORY_BYTES)?);
        let mut tables = engine::build_tables(&memory)?;
        let mut entries = [Gpa(0); PAGES];
        for (page, entry) in (0..).zip(&mut entries) {
            *entry = tables.leaf(WINDOW + page * arena::PAGE)?;
        }
        memory.write(Gpa(KERNEL_CODE), &RUN.concat())?;
        memory.write(Gpa(SAVE_ALL), &SAVE.concat())?;
        for vector in 0..32_u8 {
            let at = engine::STUBS + u64::from(vector) * engine::STUB_BYTES;
            let has_code = matches!(vector, 8 | 10..=14 | 17);
            // push 0 where the processor pushes no error code; push VECTOR; jmp SAVE_ALL
            let mut stub = if has_code { vec![] } else { vec![0x6a, 0] };
            stub.extend_from_slice(&[0x6a, vector, 0xe9]);
            let next = at + stub.len() as u64 + 4;
            stub.extend_from_slice(&(SAVE_ALL.wrapping_sub(next) as u32).to_le_bytes());
            memory.write(Gpa(at), &stub)?;
        }
        let vcpu = make(Arc::clone(&memory)).context("start the engine")?;
        let progress = Arc::new(AtomicU64::new(0));
        engine::watch(Arc::downgrade(&progress), vcpu.kicker());
        let mut machine = Machine {
            make,
            memory,
            vcpu,
            progress,
            entries,
        };
        machine.boot()?;
        Ok(machine)
    }

    /// Starts the kernel and runs it to its port.
    fn boot(&mut self) -> anyhow::Result<()> {
        let mut state = engine::template();
        state.rip = engine::KERNEL + KERNEL_CODE;
        state.gprs[gpr::RSP] = engine::KERNEL + engine::STACK_TOP;
        self.vcpu.set_state(&state)?;
        match self.vcpu.run(Reply::Done)? {
            Exit::PioWrite { port: READY, .. } => Ok(()),
            exit => bail!("the harness's kernel does not start: {exit:?}"),
        }
    }

    fn put(&self, at: u64, value: u64) -> anyhow::Result<()> {
        Ok(self.memory.write(Gpa(ORDER + at), &value.to_le_bytes())?)
    }

    fn change(&self, change: &Change) -> anyhow::Result<Option<u64>> {
        match *change {
            Change::Map { page, to } => {
                let entry = to.map_or(0, |to| {
                    let write = if to.write { paging::W } else { 0 };
                    let execute = if to.execute { 0 } else { paging::NX };
                    let gpa = engine::DATA + to.frame as u64 * arena::PAGE;
                    gpa | paging::P | paging::U | write | execute
                });
                self.memory
                    .write(self.entries[page], &entry.to_le_bytes())?;
                Ok(Some(WINDOW + page as u64 * arena::PAGE))
            }
            Change::Store { offset, byte } => {
                self.memory
                    .write(Gpa(engine::DATA + offset as u64), &[byte])?;
                Ok(None)
            }
        }
    }

    fn order(&self, sequence: &Sequence, round: &Round) -> anyhow::Result<()> {
        let mut invalidated = 0;
        for change in &round.changes {
            if let Some(address) = self.change(change)? {
                invalidated += 1;
                self.put(INVALIDATE + 8 * invalidated, address)?;
            }
        }
        self.put(INVALIDATE, invalidated)?;
        if round.goes_on {
            return Ok(());
        }
        let start = sequence.start_of(round);
        for (at, value) in (0..).step_by(8).zip(start.gprs) {
            self.put(at, value)?;
        }
        let frame = [
            start.rip,
            u64::from(start.selectors[selector::CS]),
            start.rflags,
            start.gprs[gpr::RSP],
            u64::from(start.selectors[selector::SS]),
        ];
        for (at, value) in (FRAME..).step_by(8).zip(frame) {
            self.put(at, value)?;
        }
        self.put(DATA_SELECTOR, u64::from(start.selectors[selector::DS]))?;
        Ok(self.memory.write(Gpa(ORDER + XSAVE), &start.xsave)?)
    }

    /// What the kernel saved.
    fn outcome(&self) -> anyhow::Result<Outcome> {
        let mut block = vec![0; XSAVE as usize + XSAVE_BYTES];
        self.memory.read(Gpa(ORDER), &mut block)?;
        let word = |at: u64| {
            let at = at as usize;
            u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"))
        };
        let mut registers = Registers::calm(64);
        registers.gprs = std::array::from_fn(|number| word(number as u64 * 8));
        registers.gprs[gpr::RSP] = word(FRAME + 0x18);
        registers.rip = word(FRAME);
        registers.rflags = word(FRAME + 0x10) & !Rflags::IF.bits();
        registers.selectors[selector::CS] = word(FRAME + 8) as u16;
        registers.selectors[selector::SS] = word(FRAME + 0x20) as u16;
        registers
            .xsave
            .copy_from_slice(&block[XSAVE as usize..][..XSAVE_BYTES]);
        registers.normalize();
        let vector = word(VECTOR) as u8;
        let mut data = vec![0; arena::DATA_BYTES];
        self.memory.read(Gpa(engine::DATA), &mut data)?;
        Ok(Outcome {
            end: End::Exception {
                vector,
                error_code: word(ERROR_CODE) as u32,
                address: if vector == 14 { word(FAULT_ADDRESS) } else { 0 },
            },
            registers,
            data,
            note: String::new(),
        })
    }

    /// One outcome for each round, up to one that does not end with an exception of ring 3.
    ///
    /// # Errors
    /// When the engine cannot go on.
    pub fn run(&mut self, sequence: &Sequence) -> anyhow::Result<Vec<Outcome>> {
        self.memory.write(Gpa(engine::DATA), &sequence.image.data)?;
        let mut outcomes = vec![];
        for round in &sequence.rounds {
            self.order(sequence, round)?;
            self.progress.fetch_add(1, Ordering::Release);
            let exit = self.vcpu.run(Reply::Done)?;
            self.progress.fetch_add(1, Ordering::Release);
            let mut outcome = self.outcome()?;
            if !matches!(exit, Exit::PioWrite { port: READY, .. }) {
                outcome.end = match exit {
                    Exit::Kicked => End::Hang,
                    _ => End::Lost,
                };
                outcome.note = format!("{exit:?}");
                outcomes.push(outcome);
                self.restart()?;
                break;
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// A new vCPU, for one that is lost.
    fn restart(&mut self) -> anyhow::Result<()> {
        self.vcpu = (self.make)(Arc::clone(&self.memory))?;
        engine::watch(Arc::downgrade(&self.progress), self.vcpu.kicker());
        self.boot()
    }
}
