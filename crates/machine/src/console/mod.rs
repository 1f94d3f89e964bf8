//! The console's two ends: what is typed, and what the guest prints, remembered for those who look on.

mod channel;
mod input;
pub(crate) mod output;
pub(crate) mod recent;

pub use channel::Channel;
pub use input::{Closed, Console, ConsoleInput};
