//! The proof that an engine is right: it runs instructions beside the host's silicon and compares everything.
//!
//! A [`case::Case`] is one instruction or a few, with a whole processor state and a little memory. Two
//! [`case::Runner`]s run it: [`native::Native`], a process of its own that executes the bytes on this very CPU, and
//! [`engine::Engine`], a tiny guest machine around any `dyn vcpu::Vcpu` that executes them in ring 3 at the same
//! addresses. [`compare`] names every difference, [`shrink`] makes the case small, [`golden`] keeps it as one
//! line of text for ever.
//!
//! A tool of the project, never shipped. It is an unsafe room because executing random instructions is its purpose;
//! everything unsafe lives in [`native`] (see `docs/decisions/0004-proof-is-an-unsafe-room.md`).

pub mod arena;
pub mod bare;
pub mod case;
pub mod compare;
pub mod engine;
pub mod flags;
pub mod forms;
pub mod fuzz;
pub mod generate;
pub mod golden;
mod latitude;
pub mod native;
pub mod parallel;
pub mod programs;
pub mod random;
pub mod run;
pub mod shrink;
pub mod smp;
