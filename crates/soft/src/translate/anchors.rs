//! Anchors: borrowed registers that hold the host address of bytes which have been checked, see [`super::shared`].

use super::builder::{Builder, SiteAccess};
use super::shared::{Fate, Reach, Stretch};
use crate::emit::{Alu, Reg, cond};
use std::mem::offset_of;

use crate::block::VcpuBlock;

/// Most anchors at a time: the others are for addresses that are computed.
const MOST_ANCHORS: usize = 4;

/// One anchor.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    /// The guest's register, how far it has been moved since, and the bytes from there on that have been checked.
    base: u8,
    moved: i32,
    from: i32,
    to: i32,
    /// Checked for writing.
    write: bool,
    /// Holds the host address of the first byte.
    register: Reg,
    /// Position in the block of the last instruction that wants it.
    last: usize,
}

/// Where an operand lies that has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) register: Reg,
    pub(crate) offset: i32,
}

/// The anchors at one place in a block, and what the current instruction wants of them.
#[derive(Default)]
pub(crate) struct Anchors {
    live: Vec<Anchor>,
    reach: Option<Reach>,
    stretch: Option<Stretch>,
}

impl Anchors {
    pub(super) fn clear(&mut self) {
        *self = Anchors {
            live: std::mem::take(&mut self.live),
            ..Anchors::default()
        };
        self.live.clear();
    }

    /// The registers that hold them.
    pub(super) fn registers(&self) -> u16 {
        self.live
            .iter()
            .fold(0, |mask, anchor| mask | 1 << anchor.register.0)
    }

    /// Those in these registers are no more.
    pub(super) fn drop_in(&mut self, registers: u16) {
        self.live
            .retain(|anchor| registers & 1 << anchor.register.0 == 0);
    }

    /// The next instruction reaches these bytes. `stretch` says what its check is to stand for, should it need one.
    pub(super) fn expect(
        &mut self,
        reach: Option<Reach>,
        stretch: impl FnOnce() -> Option<Stretch>,
    ) {
        self.reach = reach;
        self.stretch = None;
        if reach.is_some() && self.find(0, false).is_none() {
            self.stretch = stretch();
        }
    }

    /// The instruction at `position` is done; `fate` says what it made of a register.
    pub(super) fn follow(&mut self, position: usize, fate: impl Fn(u8) -> Option<Fate>) {
        self.reach = None;
        self.stretch = None;
        self.live.retain_mut(|anchor| {
            match fate(anchor.base) {
                None => {}
                Some(Fate::Moved(by)) => anchor.moved = anchor.moved.saturating_add(by),
                Some(Fate::Lost) => return false,
            }
            anchor.last > position
        });
    }

    /// Where the current instruction's operand lies, if an anchor knows. `used` are registers that the instruction wants
    /// for itself, `low` asks for one that needs no REX prefix.
    pub(super) fn find(&self, used: u16, low: bool) -> Option<Place> {
        let reach = self.reach?;
        self.live.iter().find_map(|anchor| {
            let from = reach.from.checked_add(anchor.moved)?;
            let is_inside =
                from >= anchor.from && from.checked_add(i32::from(reach.size))? <= anchor.to;
            let is_free = used & 1 << anchor.register.0 == 0 && !(low && anchor.register.0 >= 8);
            let may = anchor.write || !reach.write;
            (anchor.base == reach.base && is_inside && may && is_free).then_some(Place {
                register: anchor.register,
                offset: from - anchor.from,
            })
        })
    }

    fn add(&mut self, reach: Reach, stretch: Stretch, register: Reg) {
        self.live.retain(|anchor| anchor.base != reach.base);
        if self.live.len() == MOST_ANCHORS {
            self.live.remove(0);
        }
        self.live.push(Anchor {
            base: reach.base,
            moved: 0,
            from: stretch.from,
            to: stretch.to,
            write: reach.write,
            register,
            last: stretch.last,
        });
    }
}

impl Builder {
    /// Checks the stretch that the current instruction's check is to stand for, and makes an anchor of it. `used` are
    /// registers that keep their guest values; they are all back in their places. `None` if there is no such stretch or
    /// no register for it.
    pub(super) fn check_stretch(&mut self, used: u16, low: bool) -> Option<Place> {
        let reach = self.anchors.reach?;
        let stretch = self.anchors.stretch.take()?;
        let base = 1 << reach.base;
        let taken = used | base | stretch.used | self.anchors.registers();
        self.put_flags_away_from(used);
        let register = self.try_borrow(taken, low)?;
        let entry = self.borrow_free_of_rbp(used | base | 1 << register.0, low);
        self.give_back(base);
        self.e.lea(register, Reg(reach.base), stretch.from);
        let own_offset = (reach.from - stretch.from) as u8;
        self.look_up(register, entry, reach.write, stretch.len());
        let missed = self.e.jcc(cond::A);
        let access = SiteAccess {
            address: register,
            entry,
            write: reach.write,
            size: stretch.len(),
            is_segmented: false,
        };
        self.shared_miss(missed, access, own_offset, reach.size);
        self.add_host(register, entry);
        self.anchors.add(reach, stretch, register);
        Some(Place {
            register,
            offset: i32::from(own_offset),
        })
    }

    /// `entry` = the TLB entry for `address`, which becomes the offset in its page, and is compared: above is a miss.
    pub(super) fn look_up(&mut self, address: Reg, entry: Reg, write: bool, size: u8) {
        let table = if write {
            offset_of!(VcpuBlock, write_tlb)
        } else {
            offset_of!(VcpuBlock, read_tlb)
        };
        self.e.mov(entry, address);
        self.e.shr(entry, 8);
        self.e
            .alu_imm32(Alu::And, entry, ((crate::tlb::TLB_ENTRIES - 1) << 4) as i32);
        self.e.alu_gs(Alu::Add, entry, table as i32);
        self.e.alu_load(Alu::Xor, address, entry, 0);
        self.e
            .alu_imm(Alu::Cmp, address, 4096 - i32::from(size.max(1)));
    }

    /// Turns an offset in a page that has been looked up into a host address.
    pub(super) fn add_host(&mut self, address: Reg, entry: Reg) {
        // Where the check holds this changes nothing. Where the processor only guesses that it holds, it keeps what is
        // read ahead inside the page: without it the sum would be any address that the guest likes.
        self.e.alu_imm32(Alu::And, address, 0xfff);
        self.e.alu_load(Alu::Add, address, entry, 8);
    }
}
