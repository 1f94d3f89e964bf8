//! Words for what became of a VM and of what was asked of it. They know nothing of the machinery that finds it out.

pub(crate) mod crash;
pub(crate) mod ending;
pub(crate) mod exits;
pub(crate) mod refusal;
pub(crate) mod rest;
