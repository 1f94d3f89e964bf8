//! The state of one translation: emitted code, borrowed registers, put-away flags, sites and links.
//!
//! Between guest instructions every guest register is either in its host register or *borrowed*: its value lies
//! in its spill slot and the host register is free for address arithmetic. Status flags are either in the host's
//! RFLAGS or *put away* in the vCPU block. Both states persist from instruction to instruction, so that a run of
//! memory accesses pays once, and both are recorded at every [`Site`], so that a fault in the middle can restore
//! the exact guest state. Before code leaves the block everything is put back.

use std::mem::offset_of;

use iced_x86::{Code, Encoder, Instruction, RflagsBits};

use super::anchors::Anchors;
use super::relocation::{Part, Relocation, Shift};
use super::tail::Tail;
use crate::block::{ExitReason, VcpuBlock};
use crate::code_cache::{HostPc, Stubs};
use crate::emit::{Emitter, Fixup, Reg};
use crate::mode::Mode;

/// Where translated code may fault or miss, and how to get from there to the exact guest state. There are hundreds
/// of thousands of them: 24 bytes each, in the table too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// The guest instruction.
    pub(crate) rip: u64,
    /// Host code of the guest instruction: its start as an offset in the code cache, and its length so far.
    start: u32,
    len: u16,
    /// Guest registers whose true value lies in the spill slot.
    pub(crate) borrowed: u16,
    /// For indirect branches how far the branch has moved RSP, for all others a [`Shared`].
    extra: u32,
    /// The access, for memory sites.
    access: PackedAccess,
    /// Status flags lie in `saved_flags`.
    pub(crate) flags_saved: bool,
}

impl Site {
    /// First byte of host code, in a cache that lies at `cache`.
    pub(crate) fn start(&self, cache: HostPc) -> HostPc {
        cache + u64::from(self.start)
    }

    /// Behind the last byte of host code up to the site.
    pub(crate) fn end(&self, cache: HostPc) -> HostPc {
        self.start(cache) + u64::from(self.len)
    }

    /// The same site of a copy of the block.
    pub(crate) fn moved(self, shift: &Shift) -> Site {
        Site {
            rip: self.rip.wrapping_add(shift.rip),
            start: self.start.wrapping_add(shift.host as u32),
            ..self
        }
    }

    /// As three words, for the table of sites.
    pub(crate) fn pack(&self) -> [u64; 3] {
        let place =
            u64::from(self.start) | u64::from(self.len) << 32 | u64::from(self.borrowed) << 48;
        let PackedAccess {
            registers,
            size,
            flags,
        } = self.access;
        let rest = u32::from_le_bytes([registers, size, flags, u8::from(self.flags_saved)]);
        [
            self.rip,
            place,
            u64::from(self.extra) | u64::from(rest) << 32,
        ]
    }

    /// The reverse of [`Site::pack`].
    pub(crate) fn unpack([rip, place, rest]: [u64; 3]) -> Site {
        let [registers, size, flags, flags_saved] = ((rest >> 32) as u32).to_le_bytes();
        Site {
            rip,
            start: place as u32,
            len: (place >> 32) as u16,
            borrowed: (place >> 48) as u16,
            extra: rest as u32,
            access: PackedAccess {
                registers,
                size,
                flags,
            },
            flags_saved: flags_saved != 0,
        }
    }

    /// The memory access, if the site is one.
    pub(crate) fn access(&self) -> Option<SiteAccess> {
        self.access.unpack()
    }

    /// How far an indirect branch has moved RSP.
    pub(crate) fn stack_change(&self) -> i32 {
        self.extra as i32
    }

    /// What the site, which is no indirect branch's, has to do with shared checks.
    pub(crate) fn shared(&self) -> Shared {
        let [low, high, own_offset, own_size] = self.extra.to_le_bytes();
        Shared {
            anchors: u16::from_le_bytes([low, high]),
            own_offset,
            own_size,
        }
    }
}

/// What a site has to do with shared checks, see [`super::shared`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Shared {
    /// Registers that hold anchors, and must hold them again when the instruction starts over.
    pub(crate) anchors: u16,
    /// Where in the bytes that the check stands for those of the instruction begin, and how many they are: 0 if they are
    /// all of them.
    pub(crate) own_offset: u8,
    pub(crate) own_size: u8,
}

impl Shared {
    fn pack(self) -> u32 {
        let [low, high] = self.anchors.to_le_bytes();
        u32::from_le_bytes([low, high, self.own_offset, self.own_size])
    }
}

/// A memory access of a site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SiteAccess {
    /// Holds `address ^ tag` when the check fails.
    pub(crate) address: Reg,
    /// Points to the TLB entry.
    pub(crate) entry: Reg,
    pub(crate) write: bool,
    /// Bytes that the check stands for.
    pub(crate) size: u8,
    /// The registers above are not to be relied on (a segment limit may have failed first).
    pub(crate) is_segmented: bool,
}

/// A [`SiteAccess`] in three bytes; size 0 stands for none.
#[derive(Clone, Copy, Debug)]
struct PackedAccess {
    registers: u8,
    size: u8,
    flags: u8,
}

impl PackedAccess {
    const NONE: PackedAccess = PackedAccess {
        registers: 0,
        size: 0,
        flags: 0,
    };

    fn new(access: SiteAccess) -> PackedAccess {
        PackedAccess {
            registers: access.address.0 << 4 | access.entry.0,
            size: access.size.max(1),
            flags: u8::from(access.write) | u8::from(access.is_segmented) << 1,
        }
    }

    fn unpack(self) -> Option<SiteAccess> {
        (self.size != 0).then_some(SiteAccess {
            address: Reg(self.registers >> 4),
            entry: Reg(self.registers & 15),
            write: self.flags & 1 != 0,
            size: self.size,
            is_segmented: self.flags & 2 != 0,
        })
    }
}

/// A direct jump that can be chained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Where the 4-byte displacement lies.
    pub(crate) slot: HostPc,
}

/// See the module's head.
pub(crate) struct Builder {
    pub(crate) e: Emitter,
    encoder: Encoder,
    stubs: Option<Stubs>,
    pub(crate) mode: Mode,
    pub(super) borrowed: u16,
    pub(super) flags_saved: bool,
    /// Registers that instructions of the rest of the block use least, best first.
    preference: [u8; 16],
    /// Guest instruction being translated, and where its host code starts.
    rip: u64,
    start: HostPc,
    /// Address of the code cache.
    cache: HostPc,
    first_site: u32,
    pub(super) first_link: u32,
    pub(crate) sites: Vec<Site>,
    pub(crate) links: Vec<Link>,
    /// What is to be changed in a copy of the block for another address.
    pub(crate) relocations: Vec<Relocation>,
    /// There may be such copies.
    pub(crate) is_movable: bool,
    pub(super) tails: Vec<Tail>,
    pub(crate) fp_checked: bool,
    pub(super) anchors: Anchors,
    /// The block does without anchors, where another one could not do with them.
    pub(super) is_one_by_one: bool,
}

/// What an instruction does to status flags, as far as putting them away is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlagUse {
    /// Neither reads nor writes them.
    None,
    /// Writes all six without reading any.
    Replaces,
    /// Reads some, or leaves some as they were.
    Needs,
}

/// The six status flags as iced's bits.
const STATUS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

impl FlagUse {
    pub(crate) fn of(instruction: &Instruction) -> FlagUse {
        let read = instruction.rflags_read() & STATUS;
        let modified = instruction.rflags_modified() & STATUS;
        if read == 0 && modified == 0 {
            FlagUse::None
        } else if read == 0 && modified == STATUS && is_certain(instruction) {
            FlagUse::Replaces
        } else {
            FlagUse::Needs
        }
    }
}

/// Whether every status flag gets a value that does not depend on the old flags. Logic leaves AF undefined on paper
/// and clears it in silicon; where others leave a flag undefined, the silicon may keep it, so it must be there.
fn is_certain(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    let undefined = instruction.rflags_undefined() & STATUS;
    undefined == 0 || matches!(instruction.mnemonic(), M::And | M::Or | M::Xor | M::Test)
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            e: Emitter::default(),
            encoder: Encoder::new(64),
            stubs: None,
            mode: Mode::default(),
            borrowed: 0,
            flags_saved: false,
            preference: [0; 16],
            rip: 0,
            start: 0,
            cache: 0,
            first_site: 0,
            first_link: 0,
            sites: Vec::new(),
            links: Vec::new(),
            relocations: Vec::new(),
            is_movable: false,
            tails: Vec::new(),
            fp_checked: false,
            anchors: Anchors::default(),
            is_one_by_one: false,
        }
    }

    /// Starts a block at host address `base`; its sites and links will get numbers from the given ones on.
    pub(crate) fn begin(
        &mut self,
        base: HostPc,
        stubs: Stubs,
        mode: Mode,
        first_site: u32,
        first_link: u32,
    ) {
        self.e.start(base);
        self.cache = stubs.cache;
        self.stubs = Some(stubs);
        self.is_one_by_one = mode.has(Mode::ONE_BY_ONE);
        self.mode = Mode(mode.0 & !Mode::ONE_BY_ONE);
        self.borrowed = 0;
        self.flags_saved = false;
        self.first_site = first_site;
        self.first_link = first_link;
        self.sites.clear();
        self.links.clear();
        self.relocations.clear();
        self.is_movable = self.mode.is_64() && self.mode.has(Mode::USER);
        self.tails.clear();
        self.fp_checked = false;
        self.anchors.clear();
        // The head: a 5-byte no-operation in an aligned word, to be replaced by a jump when the block goes stale.
        self.e.align(8, 0);
        self.e.raw(&[0x0f, 0x1f, 0x44, 0, 0]);
    }

    pub(crate) fn stubs(&self) -> Stubs {
        self.stubs.expect("begin() came first")
    }

    /// Tells which registers to borrow first: those with the lowest counts.
    pub(crate) fn set_use_counts(&mut self, counts: &[u16; 16]) {
        let mut order: [u8; 16] = std::array::from_fn(|number| number as u8);
        order.sort_by_key(|&number| counts[usize::from(number)]);
        self.preference = order;
    }

    /// The next instruction starts here.
    pub(crate) fn start_instruction(&mut self, rip: u64) {
        self.rip = rip;
        self.start = self.e.address();
    }

    /// The instruction at `rip` starts here, and has a probe: comes back to Rust, which goes on behind this. What it needs
    /// lies before the instruction's own code, so that an instruction that starts over does not pass again.
    pub(crate) fn start_probed_instruction(&mut self, rip: u64) {
        self.put_everything_back();
        let site = self.first_site + self.sites.len() as u32;
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, exit_info) as i32, site);
        let reason = ExitReason::Probe as u32;
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, exit_reason) as i32, reason);
        let exit = self.stubs().exit;
        self.e.jump_to(exit);
        self.start_instruction(rip);
        let own = self.site(None);
        debug_assert_eq!(own, site, "sites are numbered in order");
    }

    /// Borrows a register that is not in `used` (a bit mask). `low` asks for one that needs no REX prefix.
    /// RSP and RAX are never given: RAX serves the flags.
    pub(crate) fn borrow(&mut self, used: u16, low: bool) -> Reg {
        if let Some(register) = self.try_borrow(used | self.anchors.registers(), low) {
            return register;
        }
        let register = self
            .try_borrow(used, low)
            .expect("no instruction uses all registers");
        self.anchors.drop_in(1 << register.0);
        register
    }

    /// As [`Builder::borrow`], if there is one; anchors are registers like others here.
    pub(crate) fn try_borrow(&mut self, used: u16, low: bool) -> Option<Reg> {
        let forbidden = used | 1 << 4 | 1;
        let allowed = |number: u8| forbidden & 1 << number == 0 && !(low && number >= 8);
        let free = (0..16).find(|&number| self.borrowed & 1 << number != 0 && allowed(number));
        let number =
            free.or_else(|| self.preference.into_iter().find(|&number| allowed(number)))?;
        self.borrow_exactly(Reg(number));
        Some(Reg(number))
    }

    fn borrow_exactly(&mut self, register: Reg) {
        if self.borrowed & 1 << register.0 == 0 {
            self.e.spill(register);
            self.borrowed |= 1 << register.0;
        }
    }

    /// Borrows RAX for moving flags.
    pub(crate) fn borrow_for_flags(&mut self) {
        self.borrow_exactly(Reg::RAX);
    }

    /// Takes `from` to the interpreter, for the instruction as a whole.
    pub(crate) fn miss_to_interpreter(&mut self, from: Fixup) {
        let access = SiteAccess {
            address: Reg::RAX,
            entry: Reg::RAX,
            write: false,
            size: 1,
            is_segmented: true,
        };
        self.miss(from, access);
    }

    /// Records sites as if the registers in `spilled` were borrowed: their slots hold the guest's values.
    pub(crate) fn with_spilled(&mut self, spilled: u16, record: impl FnOnce(&mut Builder)) {
        let borrowed = self.borrowed;
        self.borrowed |= spilled;
        record(self);
        self.borrowed = borrowed;
    }

    /// Gives back the borrowed registers in `mask`.
    pub(crate) fn give_back(&mut self, mask: u16) {
        self.anchors.drop_in(mask);
        let back = self.borrowed & mask;
        for number in (0..16).filter(|number| back & 1 << number != 0) {
            self.e.unspill(Reg(number));
        }
        self.borrowed &= !back;
    }

    /// Puts the status flags away so that the code to come may clobber them.
    pub(crate) fn put_flags_away(&mut self) {
        if !self.flags_saved {
            self.borrow_exactly(Reg::RAX);
            self.e.save_flags();
            self.flags_saved = true;
        }
    }

    /// As [`Builder::put_flags_away`]; if RAX is among `used`, it has its guest value afterwards.
    pub(crate) fn put_flags_away_from(&mut self, used: u16) {
        self.put_flags_away();
        self.give_back(used & 1);
    }

    /// Brings the status flags back into RFLAGS. Nothing may clobber them until they are put away again.
    pub(crate) fn bring_flags_back(&mut self) {
        if self.flags_saved {
            let was_borrowed = self.borrowed & 1 != 0;
            self.borrow_exactly(Reg::RAX);
            self.e.restore_flags();
            self.flags_saved = false;
            if !was_borrowed {
                self.give_back(1);
            }
        }
    }

    /// Prepares flags for an instruction that runs as a copy.
    pub(crate) fn flags_for(&mut self, flag_use: FlagUse) {
        match flag_use {
            FlagUse::None => {}
            FlagUse::Replaces => self.flags_saved = false,
            FlagUse::Needs => self.bring_flags_back(),
        }
    }

    /// Puts everything where the guest expects it.
    pub(crate) fn put_everything_back(&mut self) {
        self.bring_flags_back();
        self.give_back(u16::MAX);
    }

    /// Appends `instruction` in its 64-bit encoding. Returns false if it has none.
    pub(crate) fn encode(&mut self, instruction: &Instruction) -> bool {
        let address = self.e.address();
        let mut in_long_mode = *instruction;
        in_long_mode.set_code(long_mode_form(instruction.code()));
        if self.encoder.encode(&in_long_mode, address).is_err() {
            drop(self.encoder.take_buffer());
            return false;
        }
        let bytes = self.encoder.take_buffer();
        self.e.raw(&bytes);
        self.encoder.set_buffer({
            let mut bytes = bytes;
            bytes.clear();
            bytes
        });
        true
    }

    fn site(&mut self, access: Option<SiteAccess>) -> u32 {
        let shared = Shared {
            anchors: self.anchors.registers(),
            ..Shared::default()
        };
        self.sites.push(Site {
            rip: self.rip,
            start: (self.start - self.cache) as u32,
            len: (self.e.address() - self.start) as u16,
            borrowed: self.borrowed,
            extra: shared.pack(),
            access: access.map_or(PackedAccess::NONE, PackedAccess::new),
            flags_saved: self.flags_saved,
        });
        self.first_site + self.sites.len() as u32 - 1
    }

    /// Records that the host code of this instruction up to here may fault by itself.
    pub(crate) fn fault_site(&mut self) {
        self.site(None);
    }

    /// As [`Builder::fault_site`], for an instruction that replaces the status flags: until it is done they are
    /// where they were before.
    pub(crate) fn fault_site_with_flags(&mut self, were_saved: bool) {
        let now = std::mem::replace(&mut self.flags_saved, were_saved);
        self.site(None);
        self.flags_saved = now;
    }

    /// Records an indirect branch, so that a target which is no address can fault there. Returns its number.
    pub(crate) fn branch_site(&mut self, stack_change: i32) -> u32 {
        let number = self.site(None);
        if let Some(site) = self.sites.last_mut() {
            site.extra = stack_change as u32;
        }
        number
    }

    /// Whether the status flags are put away.
    pub(crate) fn flags_are_away(&self) -> bool {
        self.flags_saved
    }

    /// Records a memory access whose check is `from`, a jump taken on a miss.
    pub(crate) fn miss(&mut self, from: Fixup, access: SiteAccess) {
        let site = self.site(Some(access));
        self.tails.push(Tail::Miss { from, site });
    }

    /// Records the check of an access of `own_size` bytes at `own_offset` in the bytes that it stands for.
    pub(super) fn shared_miss(
        &mut self,
        from: Fixup,
        access: SiteAccess,
        own_offset: u8,
        own_size: u8,
    ) {
        debug_assert!(self.flags_saved, "the check needs the flags");
        let site = self.site(Some(access));
        if let Some(recorded) = self.sites.last_mut() {
            let anchors = recorded.shared().anchors;
            let shared = Shared {
                anchors,
                own_offset,
                own_size,
            };
            recorded.extra = shared.pack();
        }
        self.tails.push(Tail::SharedMiss {
            from,
            site,
            address: access.address,
            rip: self.rip,
            borrowed: self.borrowed,
        });
    }

    /// Makes sure that the guest's FP state is in the registers from here on.
    pub(crate) fn want_fp_state(&mut self) {
        if self.fp_checked {
            return;
        }
        self.fp_checked = true;
        let offset = offset_of!(VcpuBlock, fp_loaded) as i32;
        self.put_flags_away();
        // cmp dword gs:[fp_loaded], 0
        self.e.op_gs(&[0x83], 7, offset);
        self.e.raw(&[0]);
        let from = self.e.jcc(4);
        let site = self.site(None);
        self.tails.push(Tail::FpState { from, site });
    }

    /// Leaves the block for `rip` by way of Rust. Everything must have been put back.
    pub(crate) fn leave(&mut self, rip: u64, reason: ExitReason) {
        debug_assert!(
            self.borrowed == 0 && !self.flags_saved,
            "state is canonical between blocks"
        );
        self.store_rip(rip);
        let exit = self.stubs();
        if reason == ExitReason::Lookup {
            self.jump_out(exit.lookup);
        } else {
            if reason == ExitReason::Interpret {
                let place = self.e.address().wrapping_sub(exit.cache) as u32;
                self.store_exit_info(place, Some(Part::Place));
            }
            self.e
                .store_gs_imm32(offset_of!(VcpuBlock, exit_reason) as i32, reason as u32);
            self.jump_out(exit.exit);
        }
    }

    /// Goes to `rip` where `from` jumps, out of the middle of a block: registers are given back there. Flags are in place.
    pub(crate) fn leave_aside(&mut self, from: Fixup, rip: u64, may_chain: bool) {
        debug_assert!(!self.flags_saved, "the jump has tested the flags");
        self.tails.push(Tail::Aside {
            from,
            rip,
            borrowed: self.borrowed,
            may_chain,
        });
    }

    /// A jump to `rip` in the same page, to be chained to its translation.
    pub(crate) fn chain(&mut self, rip: u64) {
        self.e.align(4, 1);
        let from = self.e.jump();
        self.add_chain(from, rip);
    }

    /// A conditional jump to `rip` in the same page, to be chained.
    pub(crate) fn chain_if(&mut self, condition: u8, rip: u64) {
        self.e.align(4, 2);
        let from = self.e.jcc(condition);
        self.add_chain(from, rip);
    }

    fn add_chain(&mut self, from: Fixup, rip: u64) {
        self.links.push(Link {
            slot: self.e.address() - 4,
        });
        let link = self.first_link + self.links.len() as u32 - 1;
        self.tails.push(Tail::Chain { from, rip, link });
    }
}

/// The form of an instruction that 64-bit code has too: some short encodings became prefixes or disappeared.
fn long_mode_form(code: Code) -> Code {
    match code {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Add_rm8_imm8_82 => Code::Add_rm8_imm8,
        Code::Or_rm8_imm8_82 => Code::Or_rm8_imm8,
        Code::Adc_rm8_imm8_82 => Code::Adc_rm8_imm8,
        Code::Sbb_rm8_imm8_82 => Code::Sbb_rm8_imm8,
        Code::And_rm8_imm8_82 => Code::And_rm8_imm8,
        Code::Sub_rm8_imm8_82 => Code::Sub_rm8_imm8,
        Code::Xor_rm8_imm8_82 => Code::Xor_rm8_imm8,
        Code::Cmp_rm8_imm8_82 => Code::Cmp_rm8_imm8,
        code => code,
    }
}
