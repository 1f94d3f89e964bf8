//! A machine at work: its lives, the threads of each, and what they add up to.

pub(crate) mod accounts;
mod attendant;
pub(crate) mod lives;
pub(crate) mod outside;
pub(crate) mod switch;
mod vcpu_thread;
