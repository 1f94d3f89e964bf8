//! The software CPU, given bytes to run: decoder, translator and what it makes of them, in both modes, as kernel and as user.
//!
//! The differential test (`cargo xtask differential`) gives it instructions that a processor has, and compares; this gives it
//! what is none, cut and exchanged, over tables that the bytes themselves change, and asks only that it comes back: with an exit,
//! or when it is called. What breaks here may break the process, so an input is kept before it is tried.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use mem::GuestMemory;
use vcpu::{Exit, Reply, Vcpu, VcpuState, gpr};
use x86::{Gpa, Segment};

use super::Target;
use crate::bare::GUESTS;
use crate::engine;

const MEMORY_BYTES: u64 = 1 << 22;
/// Where the bytes lie, tables that map all of memory, and what registers point at.
const CODE: u64 = 0x10_0000;
const TABLES: u64 = 0x1000;
const DATA: u64 = 0x20_0000;
/// Exits of one input, and how long it may run.
const EXITS_MAX: usize = 200;
const TIME: Duration = Duration::from_millis(2);
/// Bytes of a seed.
const PIECE_BYTES: usize = 256;

/// The first byte of an input says how its rest is run.
const IS_LONG: u8 = 1;
const IS_USER: u8 = 2;

struct Cpu {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    runs: Arc<AtomicBool>,
}

impl Cpu {
    fn new() -> Result<Cpu> {
        let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES)?);
        let vcpu = engine::soft()(Arc::clone(&memory))?;
        let kicker = vcpu.kicker();
        let runs = Arc::new(AtomicBool::new(false));
        let watched = Arc::downgrade(&runs);
        std::thread::spawn(move || {
            while let Some(runs) = watched.upgrade() {
                if runs.load(Ordering::Acquire) {
                    kicker.kick();
                }
                drop(runs);
                std::thread::sleep(TIME);
            }
        });
        Ok(Cpu { memory, vcpu, runs })
    }

    /// Runs an input until it ends or has had enough. That a processor shuts down is an answer too.
    fn run(&mut self, input: &[u8]) -> Result<()> {
        let (first, code) = input.split_first().unwrap_or((&0, &[]));
        self.memory.write(Gpa(0), &vec![0; CODE as usize])?;
        self.memory
            .write(Gpa(CODE), &code[..code.len().min(0x8000)])?;
        self.memory
            .write(Gpa(CODE + code.len().min(0x8000) as u64), &[0xf4; 16])?;
        self.build_tables()?;
        self.vcpu.set_state(&start(*first))?;
        self.runs.store(true, Ordering::Release);
        let exits = self.exits();
        self.runs.store(false, Ordering::Release);
        exits
    }

    fn exits(&mut self) -> Result<()> {
        let mut reply = Reply::Done;
        for _ in 0..EXITS_MAX {
            reply = match self.vcpu.run(reply)? {
                Exit::PioRead { .. } | Exit::MmioRead { .. } => Reply::Value(u64::MAX),
                Exit::MsrRead { .. } | Exit::MsrWrite { .. } => Reply::Fault,
                Exit::Halt | Exit::Kicked | Exit::TripleFault(_) => return Ok(()),
                _ => Reply::Done,
            };
        }
        Ok(())
    }

    /// The first gigabyte where it is, in pages of 2 MiB, for everybody.
    fn build_tables(&self) -> Result<()> {
        self.memory
            .write(Gpa(TABLES), &(TABLES + 0x1000 + 7).to_le_bytes())?;
        self.memory
            .write(Gpa(TABLES + 0x1000), &(TABLES + 0x2000 + 7).to_le_bytes())?;
        for page in 0..512_u64 {
            let entry = page << 21 | 0x87;
            self.memory
                .write(Gpa(TABLES + 0x2000 + 8 * page), &entry.to_le_bytes())?;
        }
        Ok(())
    }
}

fn start(how: u8) -> VcpuState {
    let mut state = if how & IS_LONG == 0 {
        VcpuState::protected_mode()
    } else {
        VcpuState::long_mode(TABLES)
    };
    if how & IS_USER != 0 {
        let rights = 3 << 5;
        let raise = |segment: Segment| Segment {
            selector: segment.selector | 3,
            attributes: segment.attributes | rights,
            ..segment
        };
        state.cs = raise(state.cs);
        state.ss = raise(state.ss);
    }
    state.rip = CODE;
    for register in &mut state.gprs {
        *register = DATA;
    }
    state.gprs[gpr::RSP] = DATA + 0x8000;
    state
}

thread_local! {
    /// One for all inputs: what one leaves in caches of code meets the next.
    static CPU: RefCell<Option<Cpu>> = const { RefCell::new(None) };
}

fn run(input: &[u8]) -> bool {
    CPU.with_borrow_mut(|place| {
        // Taken out: one that has panicked is not used again.
        let mut cpu = match place.take().map_or_else(Cpu::new, Ok) {
            Ok(cpu) => cpu,
            Err(_) => return false,
        };
        let ran = cpu.run(input);
        assert!(ran.is_ok(), "the engine gives up: {ran:?}");
        *place = Some(cpu);
        true
    })
}

/// Code of guests that try everything, in pieces, in all modes.
pub(super) fn target() -> Result<Target> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for name in ["processor", "hostile", "flood"] {
        let Some(guest) = GUESTS.iter().find(|guest| guest.name == name) else {
            continue;
        };
        let image = std::fs::read(guest.build(&std::env::temp_dir())?)?;
        for (n, piece) in image.chunks(PIECE_BYTES).enumerate().take(60) {
            let how = [IS_LONG, IS_LONG | IS_USER, 0, IS_USER][n % 4];
            seeds.push([&[how], piece].concat());
        }
    }
    Ok(Target {
        may_crash: true,
        ..Target::plain("code", seeds, run)
    })
}
