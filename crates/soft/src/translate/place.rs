//! Bytes that are reached through a register, what checks say of them, and where they lie then: plain values.

use crate::emit::Reg;

/// Where an operand lies that has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) register: Reg,
    pub(crate) offset: i32,
}

/// An access through one register: `size` bytes at the register's value plus `from`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reach {
    pub(crate) base: u8,
    pub(crate) from: i32,
    pub(crate) size: u8,
    pub(crate) write: bool,
}

/// What an instruction makes of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Moved(i32),
    Lost,
}

/// A stretch of bytes, relative to a register's value, that a check is to stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stretch {
    pub(crate) from: i32,
    pub(crate) to: i32,
    /// Position in the block of the last instruction that reaches into it.
    pub(crate) last: usize,
    /// General registers that are used meanwhile.
    pub(crate) used: u16,
}

impl Stretch {
    pub(crate) fn len(&self) -> u8 {
        (self.to - self.from) as u8
    }
}
