//! Anchors: borrowed registers that hold the host address of bytes which have been checked, see [`super::shared`].

use super::place::{Fate, Place, Reach, Stretch};
use crate::emit::Reg;

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

/// The anchors at one place in a block, and what the current instruction wants of them.
#[derive(Default)]
pub(crate) struct Anchors {
    live: Vec<Anchor>,
    pub(super) reach: Option<Reach>,
    pub(super) stretch: Option<Stretch>,
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

    pub(super) fn add(&mut self, reach: Reach, stretch: Stretch, register: Reg) {
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
