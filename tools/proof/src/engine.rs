//! A tiny guest machine around any engine: runs a case in ring 3 and ends at a known exit.
//!
//! Page tables map the arena at the addresses of the native process. Every vector of the IDT leads to a stub in
//! ring 0 that writes to the port with the vector's number; the exit of that write ends the case, and what the
//! exception saved is read from the ring-0 stack. Code is written the way a device writes, so an engine must notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use mem::GuestMemory;
use vcpu::{EngineError, Exit, Kick, Reply, Vcpu, VcpuState, gpr};
use x86::{Cr0, Cr4, DescriptorTable, Efer, Gpa, Rflags, Segment};

use crate::arena;
use crate::case::{Case, End, Outcome, Registers, Runner, XSAVE_BYTES, code_pages, selector};

/// Makes a vCPU of some engine on this memory.
pub type MakeVcpu = Box<dyn Fn(Arc<GuestMemory>) -> Result<Box<dyn Vcpu>, EngineError>>;

/// Where ring 0 sees guest physical memory.
const KERNEL: u64 = 0xffff_9000_0000_0000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const STUBS: u64 = 0x4000;
const STUB_BYTES: u64 = 16;
const STACK_TOP: u64 = 0x6000;
const TABLES: u64 = 0x1_0000;
const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const MEMORY_BYTES: u64 = 0x40_0000;

/// Linux's GDT, as far as ring 3 can see a difference: ring-0 and ring-3 segments at the same places.
const GDT_ENTRIES: [u64; 7] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];
const KERNEL_CS: u64 = 0x10;
const TSS_SELECTOR: u16 = 0x40;
/// Highest present GDT byte: Linux has 16 entries.
const GDT_LIMIT: u16 = 16 * 8 - 1;

/// How long a case may run before it is kicked (two ticks).
const TICK: Duration = Duration::from_millis(300);

/// The software CPU, presenting the CPU model.
pub fn soft() -> MakeVcpu {
    Box::new(|memory| {
        let soft = soft::Soft::new(memory, soft::Config::default())?;
        let vcpu = soft.create_vcpu(crate::forms::model())?;
        Ok(Box::new(vcpu))
    })
}

/// An engine as a [`Runner`].
pub struct Engine {
    make: MakeVcpu,
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    template: VcpuState,
    /// Odd while a case runs; moves with every case.
    progress: Arc<AtomicU64>,
}

impl Engine {
    /// A guest machine around what `make` makes.
    ///
    /// # Errors
    /// When the engine does not start.
    pub fn new(make: MakeVcpu) -> anyhow::Result<Engine> {
        let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES)?);
        build_tables(&memory)?;
        let vcpu = make(Arc::clone(&memory)).context("start the engine")?;
        let progress = Arc::new(AtomicU64::new(0));
        watch(Arc::downgrade(&progress), vcpu.kicker());
        Ok(Engine {
            make,
            memory,
            vcpu,
            template: template(),
            progress,
        })
    }

    fn state_for(&self, case: &Case) -> VcpuState {
        let mut state = self.template.clone();
        let start = &case.start;
        state.gprs = start.gprs;
        state.rip = start.rip;
        state.rflags = Rflags::from_bits_retain(start.rflags | 0x202);
        let segment = |place: usize, base: u64| {
            let selector = start.selectors[place];
            let descriptor = GDT_ENTRIES
                .get(usize::from(selector >> 3))
                .copied()
                .unwrap_or(0);
            Segment {
                base,
                ..Segment::from_descriptor(selector, descriptor)
            }
        };
        state.cs = segment(selector::CS, 0);
        state.ss = segment(selector::SS, 0);
        state.ds = segment(selector::DS, 0);
        state.es = segment(selector::ES, 0);
        state.fs = segment(selector::FS, start.fs_base);
        state.gs = segment(selector::GS, start.gs_base);
        state.xsave[..XSAVE_BYTES].copy_from_slice(&start.xsave);
        state
    }

    fn run_one(&mut self, case: &Case) -> anyhow::Result<Outcome> {
        for (index, page) in case
            .image
            .data
            .chunks_exact(arena::PAGE as usize)
            .enumerate()
        {
            self.memory
                .write(Gpa(DATA + index as u64 * arena::PAGE), page)?;
        }
        let state = self.state_for(case);
        self.vcpu.set_state(&state)?;
        self.progress.fetch_add(1, Ordering::Release);
        let exit = catch_unwind(AssertUnwindSafe(|| self.vcpu.run(Reply::Done)));
        self.progress.fetch_add(1, Ordering::Release);
        let mut note = String::new();
        let end = match exit {
            Ok(Ok(Exit::PioWrite { port, size: 1, .. })) if port < 256 => {
                self.exception(port as u8)?
            }
            Ok(Ok(Exit::Kicked)) => End::Hang,
            Ok(other) => {
                note = format!("{other:?}");
                End::Lost
            }
            Err(_) => {
                self.vcpu = (self.make)(Arc::clone(&self.memory))?;
                watch(Arc::downgrade(&self.progress), self.vcpu.kicker());
                note = "the engine panicked".to_owned();
                End::Lost
            }
        };
        let registers = self.registers(matches!(end, End::Exception { .. }))?;
        let mut data = vec![0; arena::DATA_BYTES];
        self.memory.read(Gpa(DATA), &mut data)?;
        Ok(Outcome {
            end,
            registers,
            data,
            note,
        })
    }

    fn exception(&mut self, vector: u8) -> anyhow::Result<End> {
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let error_code = if has_code { self.frame(6)? as u32 } else { 0 };
        let address = if vector == 14 {
            self.vcpu.state()?.cr2
        } else {
            0
        };
        Ok(End::Exception {
            vector,
            error_code,
            address,
        })
    }

    /// The `n`th 8-byte word below the top of the ring-0 stack.
    fn frame(&self, n: u64) -> anyhow::Result<u64> {
        Ok(self.memory.read_value(Gpa(STACK_TOP - 8 * n), 8)?)
    }

    /// Registers as the exception found them: what it saved comes from its frame.
    fn registers(&mut self, has_frame: bool) -> anyhow::Result<Registers> {
        let state = self.vcpu.state()?;
        let mut registers = Registers::calm(64);
        registers.gprs = state.gprs;
        registers.rip = state.rip;
        registers.rflags = state.rflags.bits();
        registers.fs_base = state.fs.base;
        registers.gs_base = state.gs.base;
        let segments = [
            &state.cs, &state.ss, &state.ds, &state.es, &state.fs, &state.gs,
        ];
        for (selector, segment) in registers.selectors.iter_mut().zip(segments) {
            *selector = segment.selector;
        }
        if has_frame {
            registers.rip = self.frame(5)?;
            registers.selectors[selector::CS] = self.frame(4)? as u16;
            registers.rflags = self.frame(3)?;
            registers.gprs[gpr::RSP] = self.frame(2)?;
            registers.selectors[selector::SS] = self.frame(1)? as u16;
        }
        registers.rflags &= !Rflags::IF.bits();
        registers.xsave.copy_from_slice(&state.xsave[..XSAVE_BYTES]);
        registers.normalize();
        Ok(registers)
    }
}

impl Runner for Engine {
    fn run(&mut self, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
        self.memory.write(Gpa(CODE), &code_pages(cases))?;
        cases.iter().map(|case| self.run_one(case)).collect()
    }
}

/// Kicks a case that runs for more than two ticks. Ends with the last owner of `progress`.
fn watch(progress: Weak<AtomicU64>, kicker: Arc<dyn Kick>) {
    std::thread::spawn(move || {
        let mut last = 0;
        while let Some(progress) = progress.upgrade() {
            let now = progress.load(Ordering::Acquire);
            drop(progress);
            if now % 2 == 1 && now == last {
                kicker.kick();
            }
            last = now;
            std::thread::sleep(TICK);
        }
    });
}

fn template() -> VcpuState {
    let mut state = VcpuState::long_mode(TABLES);
    state.cr0 |= Cr0::WP | Cr0::AM;
    state.cr4 |= Cr4::PGE
        | Cr4::DE
        | Cr4::OSFXSR
        | Cr4::OSXMMEXCPT
        | Cr4::OSXSAVE
        | Cr4::FSGSBASE
        | Cr4::UMIP
        | Cr4::SMEP
        | Cr4::SMAP;
    state.efer |= Efer::SCE | Efer::NXE;
    state.xcr0 = 7;
    state.gdtr = DescriptorTable {
        base: KERNEL + GDT,
        limit: GDT_LIMIT,
    };
    state.idtr = DescriptorTable {
        base: KERNEL + IDT,
        limit: 0xfff,
    };
    state.tr = Segment {
        selector: TSS_SELECTOR,
        base: KERNEL + TSS,
        limit: 0x67,
        attributes: 0x8b,
    };
    state
}

fn build_tables(memory: &GuestMemory) -> anyhow::Result<()> {
    let put = |gpa: u64, value: u64| memory.write(Gpa(gpa), &value.to_le_bytes());
    for (index, entry) in GDT_ENTRIES.iter().enumerate() {
        put(GDT + index as u64 * 8, *entry)?;
    }
    let tss = Segment {
        selector: 0,
        base: (KERNEL + TSS) & 0xffff_ffff,
        limit: 0x67,
        attributes: 0x8b,
    };
    put(GDT + u64::from(TSS_SELECTOR), tss.to_descriptor())?;
    put(GDT + u64::from(TSS_SELECTOR) + 8, (KERNEL + TSS) >> 32)?;
    put(TSS + 4, KERNEL + STACK_TOP)?;
    // The I/O permission map begins behind the limit: there is none.
    memory.write(Gpa(TSS + 102), &104_u16.to_le_bytes())?;
    for vector in 0..256 {
        let stub = STUBS + vector * STUB_BYTES;
        // out VECTOR, al; hlt; jmp back to hlt
        memory.write(Gpa(stub), &[0xe6, vector as u8, 0xf4, 0xeb, 0xfd])?;
        // Ring 3 may raise #BP and #OF by instruction.
        let dpl = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let at = KERNEL + stub;
        let low =
            at & 0xffff | KERNEL_CS << 16 | (0x8e00 | dpl << 13) << 32 | (at >> 16 & 0xffff) << 48;
        put(IDT + vector * 16, low)?;
        put(IDT + vector * 16 + 8, at >> 32)?;
    }
    let mut tables = Tables {
        memory,
        next: TABLES + arena::PAGE,
    };
    for page in (0..TABLES).step_by(arena::PAGE as usize) {
        tables.map(KERNEL + page, page, x86::paging::W)?;
    }
    for page in 0..arena::CODE_PAGES {
        let offset = page * arena::PAGE;
        tables.map(arena::CODE + offset, CODE + offset, x86::paging::U)?;
    }
    for (index, page) in arena::DATA_MAP.iter().enumerate() {
        let write = if page.writable { x86::paging::W } else { 0 };
        let flags = x86::paging::U | x86::paging::NX | write;
        tables.map(page.address, DATA + index as u64 * arena::PAGE, flags)?;
    }
    Ok(())
}

/// Page tables under construction, from [`TABLES`] on.
struct Tables<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Tables<'_> {
    fn map(&mut self, gva: u64, gpa: u64, flags: u64) -> anyhow::Result<()> {
        let mut table = TABLES;
        for level in [39, 30, 21] {
            let at = Gpa(table + (gva >> level & 0x1ff) * 8);
            let mut entry = self.memory.read_value(at, 8)?;
            if entry == 0 {
                entry = self.next | x86::paging::P | x86::paging::W | x86::paging::U;
                self.next += arena::PAGE;
                self.memory.write(at, &entry.to_le_bytes())?;
            }
            table = entry & x86::paging::ADDRESS;
        }
        let entry = gpa | flags | x86::paging::P;
        self.memory
            .write(Gpa(table + (gva >> 12 & 0x1ff) * 8), &entry.to_le_bytes())?;
        Ok(())
    }
}
