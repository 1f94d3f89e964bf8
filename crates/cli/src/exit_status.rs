//! Exit statuses of commands, beside those of runs, which are `runner`'s; docs/exit-status.md has all of them.

pub use runner::OUR_FAULT;

/// When the question was understood and the answer is no.
pub const ANSWER_IS_NO: u8 = 1;

/// After bad input.
pub const BAD_INPUT: u8 = 2;

/// When nothing contradicts, and not everything could be seen: no other command has this number.
pub const BLIND: u8 = 4;
