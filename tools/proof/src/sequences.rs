//! Makes sequences, runs them on the silicon and on the software CPU, and makes the failing ones small.

mod generate;
mod machine;
mod run;

pub use generate::generate;
pub use machine::Machine;
pub use run::{Limits, Mismatch, Report, describe, run};
