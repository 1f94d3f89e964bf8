//! The console's two ends: what is typed, and what the guest prints, remembered for those who look on.

mod input;
pub(crate) mod output;
pub(crate) mod recent;

pub use input::{Closed, Console, ConsoleInput};
