//! One vCPU of the software engine: its whole state and the few ways to look at it.
//!
//! General registers, RIP and status flags are in the vCPU block, where translated code leaves them; system state
//! is here. The other modules add methods: memory access, exceptions, the interpreter, the run loop.

use std::sync::Arc;

use mem::GuestMemory;
use vcpu::{DebugRegisters, EngineError, Exit, Marker, Msrs, VcpuState};
use x86::paging::{Access, Paging};
use x86::{CpuidTable, Cr0, Cr4, DescriptorTable, Efer, Exception, Rflags, Segment};

use crate::bank::{Banks, JumpKey, TlbKey, Tlbs};
use crate::block::{Toggle, VcpuBlock, seg};
use crate::decoded::{Decoded, DecodedCache};
use crate::door::Door;
use crate::features::Features;
use crate::held_anchors::HeldAnchors;
use crate::mode::Mode;
use crate::soft::Soft;
use crate::thunks::Thunks;

/// Why an instruction could not be completed now.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// It faults.
    Exception(Exception),
    /// The machine must answer this first; the instruction starts over then.
    Ask(Exit),
    /// Look at the state again: nothing more to do here.
    Again,
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Stop {
        Stop::Exception(exception)
    }
}

/// What an instruction comes to.
pub(crate) type Step<T = ()> = Result<T, Stop>;

/// #GP(0), the commonest fault.
pub(crate) const GP0: Exception = Exception::GeneralProtection(0);

/// Events that wait to be delivered.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Pending {
    pub(crate) interrupt: Option<u8>,
    /// NMIs that wait: two at most, as on silicon one may be taken while another one is latched.
    pub(crate) nmis: u8,
    pub(crate) nmi_blocked: bool,
    /// STI or MOV SS just ran: nothing is delivered before the next instruction is done.
    pub(crate) shadow: bool,
    pub(crate) halted: bool,
    /// The instruction delivered an event itself, so that it ends without a single-step trap.
    pub(crate) delivered: bool,
    /// IRET loaded RF: it holds instruction breakpoints off until the next instruction is done.
    pub(crate) resumes: bool,
    /// SYSRET loaded TF: unlike after POPF and IRET, the single step traps before the next instruction.
    pub(crate) steps_already: bool,
    /// Data breakpoints hit by the instruction that is being done, as DR6 bits.
    pub(crate) breakpoints: u64,
}

/// How often something happened.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct VcpuCounters {
    pub(crate) tlb_misses: u64,
    pub(crate) bounced: u64,
    pub(crate) beside: u64,
    pub(crate) interpreted: u64,
    pub(crate) lookups: u64,
    pub(crate) chained: u64,
    pub(crate) exceptions: u64,
    pub(crate) interrupts: u64,
    pub(crate) fp_loads: u64,
}

/// A vCPU on the software engine.
pub struct SoftVcpu {
    pub(crate) soft: Arc<Soft>,
    /// Position among the VM's vCPUs.
    pub(crate) index: usize,
    pub(crate) door: Arc<Door>,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) block: Box<VcpuBlock>,
    pub(crate) banks: Banks,
    pub(crate) cpuid: CpuidTable,
    pub(crate) segments: [Segment; 6],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: DescriptorTable,
    pub(crate) idtr: DescriptorTable,
    pub(crate) cr0: Cr0,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: Cr4,
    pub(crate) efer: Efer,
    pub(crate) debug: DebugRegisters,
    pub(crate) msrs: Msrs,
    pub(crate) xcr0: u64,
    /// The guest has switched its local APIC off in IA32_APIC_BASE, which CPUID shows.
    pub(crate) apic_is_off: bool,
    pub(crate) mode: Mode,
    pub(crate) pending: Pending,
    pub(crate) window_wanted: bool,
    /// Answers that the current instruction already got, in the order it asked.
    pub(crate) answers: Vec<u64>,
    pub(crate) answers_used: usize,
    /// The instruction that asked, to start over with the answer.
    pub(crate) asking: Option<Decoded>,
    /// What the interpreter decoded lately.
    pub(crate) decoded: DecodedCache,
    /// Where code lies that bounces an instruction.
    pub(crate) thunks: Thunks,
    /// The last exit wants an answer.
    pub(crate) asked: bool,
    /// Writes to devices that completed instructions left behind, to be reported before anything else.
    pub(crate) posted: Vec<Exit>,
    /// Generation of the code cache that the jump caches, and all code addresses at hand, are of.
    pub(crate) generation: u64,
    pub(crate) in_shutdown: bool,
    /// For the way back into the middle of a block.
    pub(crate) anchors: Option<HeldAnchors>,
    /// Orders were carried out since translated code last ran.
    pub(crate) has_obeyed: bool,
    pub(crate) counters: VcpuCounters,
    /// The change of the engine's limit that was obeyed.
    pub(crate) limit_changes: u64,
    /// Where its thread is, for whoever wants to know.
    pub(crate) spot: Marker,
}

impl Soft {
    /// A new vCPU in the state after RESET. All vCPUs of a VM have the same instruction set, and are made before the
    /// first of them runs.
    ///
    /// # Errors
    /// If the CPUID table offers other instructions than the first vCPU's, or one has run.
    pub fn create_vcpu(self: &Arc<Soft>, cpuid: CpuidTable) -> Result<SoftVcpu, EngineError> {
        let (index, door) = self.take_in(Features::new(&cpuid))?;
        let mut vcpu = SoftVcpu::new(Arc::clone(self), cpuid, index, door);
        vcpu.load_state(&VcpuState::reset());
        Ok(vcpu)
    }
}

impl SoftVcpu {
    pub(crate) fn new(
        soft: Arc<Soft>,
        cpuid: CpuidTable,
        index: usize,
        door: Arc<Door>,
    ) -> SoftVcpu {
        let memory = Arc::clone(&soft.memory);
        let lookup = soft.stubs().lookup;
        let mut block = VcpuBlock::new();
        block.kick = door.address();
        SoftVcpu {
            soft,
            index,
            door,
            memory,
            block,
            banks: Banks::new(lookup),
            cpuid,
            segments: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cr0: Cr0::empty(),
            cr2: 0,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            debug: DebugRegisters {
                address: [0; 4],
                dr6: 0xffff_0ff0,
                dr7: 0x400,
            },
            msrs: Msrs::default(),
            xcr0: 1,
            apic_is_off: false,
            mode: Mode::default(),
            pending: Pending::default(),
            window_wanted: false,
            answers: Vec::new(),
            answers_used: 0,
            asking: None,
            decoded: DecodedCache::new(),
            thunks: Thunks::new(),
            asked: false,
            posted: Vec::new(),
            generation: 0,
            in_shutdown: false,
            anchors: None,
            has_obeyed: false,
            counters: VcpuCounters::default(),
            limit_changes: 0,
            spot: Marker::default(),
        }
    }

    /// Current privilege level.
    pub(crate) fn cpl(&self) -> u8 {
        self.segments[seg::SS].dpl()
    }

    pub(crate) fn is_long_mode(&self) -> bool {
        self.efer.contains(Efer::LMA)
    }

    pub(crate) fn is_64_bit(&self) -> bool {
        self.is_long_mode() && self.segments[seg::CS].is_long()
    }

    pub(crate) fn is_protected(&self) -> bool {
        self.cr0.contains(Cr0::PE)
    }

    /// Virtual-8086 mode.
    pub(crate) fn is_v86(&self) -> bool {
        self.block.system_flags & Rflags::VM.bits() != 0
    }

    /// Selectors mean addresses, not descriptors.
    pub(crate) fn is_real_or_v86(&self) -> bool {
        !self.is_protected() || self.is_v86()
    }

    pub(crate) fn rflags(&self) -> Rflags {
        let host = self.block.rflags & (Rflags::ARITHMETIC | Rflags::DF).bits();
        let interrupts = u64::from(self.block.interrupts) << 9;
        Rflags::from_bits_retain(host | interrupts | self.block.system_flags | 2)
    }

    pub(crate) fn set_rflags(&mut self, flags: Rflags) {
        let host = Rflags::ARITHMETIC | Rflags::DF;
        let defined = Rflags::all().bits();
        self.block.rflags = (flags & host).bits() | 2;
        self.block.interrupts = u32::from(flags.contains(Rflags::IF));
        let system = flags.bits() & defined & !(host | Rflags::IF).bits();
        if system != self.block.system_flags {
            self.block.system_flags = system | 2;
            self.show_context();
        }
    }

    pub(crate) fn paging(&self) -> Paging {
        Paging {
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
        }
    }

    /// The access that the current privilege makes.
    pub(crate) fn access(&self, write: bool) -> Access {
        let smap_override = self.block.system_flags & Rflags::AC.bits() != 0;
        Access {
            write,
            fetch: false,
            user: self.cpl() == 3,
            smap_override,
        }
    }

    pub(crate) fn pcid(&self) -> u16 {
        if self.cr4.contains(Cr4::PCIDE) {
            (self.cr3 & 0xfff) as u16
        } else {
            0
        }
    }

    /// Brings everything derived from control registers, segments and RFLAGS up to date: the code mode, the
    /// bank, the segment tables of the block.
    pub(crate) fn update_context(&mut self) {
        self.shut_passages();
        self.show_context();
    }

    /// As [`SoftVcpu::update_context`], after a change of segments and RFLAGS alone.
    pub(crate) fn show_context(&mut self) {
        self.mode = self.code_mode();
        for index in 0..self.segments.len() {
            self.show_segment(index);
        }
        self.select_tables();
    }

    /// As [`SoftVcpu::update_context`], after a change of CS, SS and RFLAGS alone.
    pub(crate) fn update_privilege(&mut self) {
        let was_64 = self.mode.is_64();
        self.mode = self.code_mode();
        if was_64 != self.mode.is_64() {
            // What the bases of the other segments mean has changed.
            return self.show_context();
        }
        self.show_segment(seg::CS);
        self.show_segment(seg::SS);
        self.select_tables();
    }

    /// Brings what translated code sees of a segment up to date, after the mode.
    fn show_segment(&mut self, index: usize) {
        let segment = &self.segments[index];
        let is_flat_base = self.mode.is_64() && index < seg::FS;
        self.block.selector[index] = u32::from(segment.selector);
        self.block.segment_base[index] = if is_flat_base { 0 } else { segment.base };
        // Translated code wants limit + 1, and 0 for a segment that always needs a closer look.
        let is_simple = segment.is_present()
            && segment.is_code_or_data()
            && (!self.is_protected() || !segment.is_code() && segment.kind() & 6 == 2);
        self.block.segment_limit[index] = if is_simple {
            u64::from(segment.limit) + 1
        } else {
            0
        };
    }

    /// Makes the TLBs and the jump cache current that address space, privilege and mode ask for.
    fn select_tables(&mut self) {
        let user = self.cpl() == 3;
        let pcid = self.pcid();
        let tlb_key = TlbKey {
            pcid,
            user,
            smap: !user && self.cr4.contains(Cr4::SMAP),
        };
        let mode = self.mode;
        let jump_key = mode.may_jump().then_some(JumpKey { pcid, mode });
        if self.banks.select(tlb_key, jump_key) {
            self.banks.count_in(&self.soft);
        }
        if self.banks.have_lost_some() {
            self.shut_passages();
        }
        // A program's code runs, without telling, behind a SYSRET of translated code.
        let may_be_users = user || self.block.sysret.target != 0;
        self.spot.enter_space(self.cr3, may_be_users);
        let ac = Rflags::AC.bits();
        let flags = self.block.system_flags & !Rflags::RF.bits();
        let mut toggle = |is_set, system_flags| {
            let tlbs = self.banks.tlbs(is_set);
            Toggle {
                system_flags,
                read_tlb: tlbs.read.address(),
                write_tlb: tlbs.write.address(),
            }
        };
        self.block.stac = toggle(true, flags | ac);
        self.block.clac = toggle(false, flags & !ac);
        let current = if flags & ac == 0 {
            self.block.clac
        } else {
            self.block.stac
        };
        self.block.read_tlb = current.read_tlb;
        self.block.write_tlb = current.write_tlb;
        self.block.jump_cache = self.banks.jumps().address();
    }

    /// The TLBs that translated code uses.
    pub(crate) fn tlbs(&mut self) -> &mut Tlbs {
        let ac = self.block.system_flags & Rflags::AC.bits() != 0;
        self.banks.tlbs(ac)
    }

    /// The mode that registers and segments ask for.
    pub(crate) fn code_mode(&self) -> Mode {
        let mut bits = 0;
        if !self.is_64_bit() {
            let is_big = self.segments[seg::CS].is_big() && !self.is_real_or_v86();
            bits |= if is_big { Mode::CODE32 } else { Mode::CODE16 };
            let is_flat = |segment: &Segment| {
                segment.base == 0 && segment.limit == u32::MAX && segment.is_present()
            };
            let is_data = |segment: &Segment| !segment.is_code() && segment.kind() & 6 == 2;
            let data_segments = [seg::ES, seg::SS, seg::DS];
            let flat = self.is_protected()
                && !self.is_v86()
                && self.segments[..seg::FS].iter().all(is_flat)
                && data_segments
                    .iter()
                    .all(|&index| is_data(&self.segments[index]))
                && self.segments[seg::SS].is_big();
            if !flat {
                bits |= Mode::SEGMENTED;
            }
        }
        if self.cpl() == 3 {
            bits |= Mode::USER;
            let checks_alignment = self.block.system_flags & Rflags::AC.bits() != 0;
            if checks_alignment && self.cr0.contains(Cr0::AM) {
                bits |= Mode::ALIGNED;
            }
            if self.cr4.contains(Cr4::TSD) {
                bits |= Mode::NO_TSC;
            }
        }
        if matches!(self.cpl(), 1 | 2) {
            bits |= Mode::MIDDLE_RING;
        }
        if !self.cr4.contains(Cr4::OSFXSR) || self.cr0.contains(Cr0::EM) {
            bits |= Mode::NO_SSE;
        }
        if !self.cr4.contains(Cr4::OSXSAVE)
            || self.xcr0 & 6 != 6
            || !self.is_protected()
            || self.is_v86()
        {
            bits |= Mode::NO_AVX;
        }
        let breakpoints = self.debug.dr7 & 0xff != 0;
        if self.block.system_flags & Rflags::TF.bits() != 0 || breakpoints {
            bits |= Mode::CAREFUL;
        }
        Mode(bits)
    }

    /// The machine's answer to `exit`: returned at once if the instruction asked before, otherwise the instruction
    /// stops and starts over when the answer is there.
    pub(crate) fn ask(&mut self, exit: Exit) -> Step<u64> {
        if let Some(&answer) = self.answers.get(self.answers_used) {
            self.answers_used += 1;
            return Ok(answer);
        }
        Err(Stop::Ask(exit))
    }
}

impl Drop for SoftVcpu {
    /// Also when its thread panics: nobody may wait for it for ever.
    fn drop(&mut self) {
        self.door.come_out();
    }
}
