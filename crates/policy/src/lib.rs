//! Policies: what is to be done when something is seen of a guest.
//!
//! ```text
//! file ──read──> Policy ──┐
//! event, row, number ─────┴─> Engine ──> Decision: which rule, why, and what to do
//! ```
//!
//! A policy is a list of rules. Each says *when*: an event of a guest's (`mother trace`), a verdict about it (`mother
//! truth`), or a number of the host's (`docs/metrics.md`), with patterns for what is in it, and how often or for how long.
//! And each says what *then* is to be done.
//!
//! Nothing here does anything. An [`Engine`] is asked with a time, and answers with [`Decision`]s; whoever asks writes each
//! one down and then does it. So a policy can be tried on what was recorded, and comes to the same decisions: time is a value
//! like everything else.
//!
//! # Why a rule that matches may do nothing
//!
//! What a policy does can hurt, and a guest can provoke it on purpose. So between a match and an action stand, in this order,
//! each with a word of its own in the decision ([`HeldBack`]): exceptions, which end on a date; *one action for one cause* (the
//! same process doing the same thing, the same row contradicting, is not acted on twice); the rule's cool-down; the budget of
//! actions for each guest; the dry run. What is held back is decided and written down all the same.
//!
//! Everything is bounded: causes, counts and rules have greatest numbers, and what a guest can make longer (a path, an
//! argument) is bounded before it comes here. A guest that fills the memory of causes makes old ones be forgotten, so an action
//! may be done a second time; it never makes one be left out.
#![forbid(unsafe_code)]

mod engine;
mod file;
mod pattern;
mod presets;
#[cfg(test)]
mod tests;

pub use engine::{Decision, Engine, HeldBack, Seen};
pub use file::{
    Action, Budget, Exception, Limits, Policy, PolicyError, PolicyFile, Rule, Trigger, Wrong,
};
pub use pattern::{Condition, Pattern};
pub use presets::{PRESETS, preset};
